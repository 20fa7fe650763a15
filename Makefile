# The commands of this repository. `make demo` and `make test` work on a fresh machine with Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help env demo test e2e lint lock clean

help: ## Show this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

env: .venv/.complete .venv-triton/.complete ## Make both environments: tools (.venv) and server (.venv-triton)

demo: env ## Build a model, serve it with the embedded Triton, ask it, stop
	./demo.sh

test: env ## Unit tests (no server) and integration tests (the embedded Triton)
	$(BIN)/python -m pytest tests/unit tests/integration --numprocesses=2 --dist=loadfile

e2e: env ## A release on the cluster that KUBECONFIG names, as its users do it (kind, minikube, or a disposable one)
	$(BIN)/python -m pytest tests/e2e

lint: .venv/.complete ## ruff, mypy, shellcheck, hadolint, Helm's linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck demo.sh .ci/run
	$(BIN)/hadolint serving/*.Dockerfile loadtest/Dockerfile
	$(BIN)/python charts/lint.py

lock: ## Pin anew what .venv installs (needs uv on the PATH)
	uv pip compile pyproject.toml --group dev --python-version 3.11 --no-emit-package slipway-client --no-header \
	    --no-annotate --quiet --output-file requirements.lock.tmp
	sed 's/+cpu$$//' requirements.lock.tmp > requirements.lock
	rm requirements.lock.tmp

clean: ## Remove both environments and build/
	rm -rf .venv .venv-triton build

# Each environment is complete when its stamp is there: what an interrupted install left is begun anew.
.venv/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	    || { echo "error: Python 3.11 is needed and '$(PYTHON)' is another: pass PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@touch $@

.venv/.complete: .venv/.installed pyproject.toml client/pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e client -e .
	@touch $@

.venv-triton/.complete: serving/requirements.txt serving/requirements-models.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	    || { echo "error: Python 3.11 is needed and '$(PYTHON)' is another: pass PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --clear .venv-triton
	.venv-triton/bin/pip install --quiet --disable-pip-version-check --no-deps -r serving/requirements.txt
	@touch $@

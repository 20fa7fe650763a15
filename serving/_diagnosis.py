"""Why a model or a server did not start, in the user's terms: names it cannot take, absent steps, last errors.

Triton is told of links to the models (`_runtime.py`), so in its own words they become the folders that the user knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving._errors import RepositoryError
from serving._repository import ServedModel, built_by, made_elsewhere

# What a model's name cannot hold here: Triton's Python backend hands it to a shell unquoted, and to an interpreter that
# knows ASCII alone, and Triton's HTTP server takes a ? for the end of the path.
_UNFIT = re.compile(r"""[^!-~]|[$`"'\\|&;<>(){}*?[\]]""")
_STEP = re.compile(r"""\bmodel_name\s*:\s*["']([^"']*)["']""")
_COMMENT = re.compile(r"(?m)^\s*#.*$")

# Lines of Triton's log that say why it ended; a machine without a GPU has some like them in every run.
_ERROR = re.compile(r"^E|what\(\):|Signal \(|[Ee]rror|No space left|Killed")
# Where in a Python model an exception was raised, which Triton adds to its message.
_WHERE = re.compile(r"\s+At:\s+\S+\.py\(\d+\): \w+(\s+\S+\.py\(\d+\): \w+)*\s*")
_HARMLESS = re.compile(r"CudaDriverHelper|DCGM|NVML|CUDA|pinned|^I\d")


def check_names(models: Sequence[ServedModel]) -> None:
    """Refuse a name that the embedded Triton cannot serve.

    Raises:
        RepositoryError: there is one.
    """
    for name in (model.name for model in models):
        if wrong := sorted(set(_UNFIT.findall(name))):
            raise RepositoryError(
                f"model '{name}' has {', '.join(map(repr, wrong))} in its name, which the embedded Triton cannot "
                "serve: rename its folder, and what names it in config.pbtxt and in ensembles, to letters, digits, "
                "'_', '-' and '.'"
            )


def why_not_loaded(
    index: Sequence[Mapping[str, Any]], models: Sequence[ServedModel], config_name: str, links: Path, log: str = ""
) -> str | None:
    """What to say of a model that did not load, by Triton's repository index and its log; None when all did."""
    states = {entry["name"]: entry for entry in index}
    failed = {model.name: model for model in models if states.get(model.name, {}).get("state") != "READY"}
    for name, model in failed.items():
        # Of an ensemble with a step that is not there Triton says nothing in its index.
        if absent := [step for step in _steps(model, config_name) if step not in states]:
            whence = _whence(model.directory.parent / absent[0])
            return f"model '{name}' did not load: it needs {', '.join(absent)}, {whence}"
    # Of one with a step that did not load it says only that: the step's reason is it.
    reasons = {name: str(states.get(name, {}).get("reason", "")) for name in failed}
    for name in sorted(failed, key=lambda one: not reasons[one] or "depends on" in reasons[one]):
        reason = reasons[name] or _logged(name, log) or "Triton gives no reason"
        return f"model '{name}' did not load: {in_users_terms(reason, models, links)}"
    return None


def _logged(name: str, log: str) -> str:
    """What Triton logs of a model that its index does not have: one whose configuration names another, for example."""
    found = [line for line in _errors(log) if re.search(rf"['\" /]{re.escape(name)}['\" /:;,.]", line)]
    return found[-1] if found else ""


def remedy(model: ServedModel, log: Path, answered: bool) -> str:
    """What to do about a model that does not give its golden answer, or gives none."""
    if not answered:
        return f"it was asked what is in {model.golden_request} (all that Triton said: {log})"
    differs = "its files are those of its manifest, and this server computes something else from them"
    if made_elsewhere(model.directory):
        return f"{differs}: correct {model.golden_response}, or the model"
    return f"{differs}: run `slipway build {built_by(model.directory)}` for the server that is here"


def _steps(model: ServedModel, config_name: str) -> list[str]:
    """The models that an ensemble asks."""
    chosen = model.directory / "configs" / f"{config_name}.pbtxt"
    config = chosen if chosen.is_file() else model.directory / "config.pbtxt"
    return _STEP.findall(_COMMENT.sub("", config.read_text(encoding="utf-8")))


def _whence(step: Path) -> str:
    if (step / "config.pbtxt").is_file():
        return f"which is not built here: run `slipway build {built_by(step)}`"
    return f"which is not in {step.parent}: put its folder there too"


def not_loaded(log: Path, models: Sequence[ServedModel], start: int = 0) -> list[str]:
    """Names of the models that Triton does not call loaded in its log, from byte `start` on."""
    loaded = said(log, start)
    return [model.name for model in models if f"successfully loaded '{model.name}'" not in loaded]


def last_error(log: Path, start: int = 0) -> str:
    """The last line of Triton's log, from byte `start` on, that says why it ended."""
    return (_errors(said(log, start)) or ["it wrote no reason"])[-1]


def _errors(log: str) -> list[str]:
    return [line.strip() for line in log.splitlines() if _ERROR.search(line) and not _HARMLESS.search(line)]


def said(log: Path, start: int) -> str:
    """Triton's log from byte `start` on."""
    return log.read_bytes()[start:].decode(errors="replace")


def in_users_terms(text: str, models: Sequence[ServedModel], links: Path) -> str:
    """One line, with the folders of the models instead of the links to them in `links`."""
    for model in sorted(models, key=lambda one: len(one.name), reverse=True):
        text = text.replace(str(links / model.name), str(model.directory))
    text = _WHERE.sub("", text)
    return " ".join(text.split())

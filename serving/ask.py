"""`python -m serving.ask`: every model of a repository gives its golden answer over HTTP, or this says which does not.

What `helm test` and `skaffold verify` run in the cluster. Exit codes: 0 all did, 1 one did not.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from serving._errors import RepositoryError
from serving._golden import GoldenResult, ask_golden
from serving._repository import ServedModel, verified_models


def main() -> int:
    """Ask each model once."""
    parser = argparse.ArgumentParser(prog="python -m serving.ask", description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--http-url",
        default=os.environ.get("SLIPWAY_HTTP_URL", "http://127.0.0.1:8000"),
        help="the server [$SLIPWAY_HTTP_URL]",
    )
    parser.add_argument("--timeout", type=float, default=60, help="seconds that an answer may take")
    parser.add_argument("repository", type=Path, help="model repository with the golden answers")
    arguments = parser.parse_args()
    try:
        models = verified_models(arguments.repository)
    except RepositoryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    url = arguments.http_url.rstrip("/")
    failed = 0
    for model in models:
        result = _ask(url, model, arguments.timeout)
        failed += not result
        good = f"the golden answer, within {result.max_abs_error:.2g}"
        print(f"{model.name}: {good if result else f'failed at {url}: {result.reason}'}", flush=True)
    return 1 if failed else 0


def _ask(url: str, model: ServedModel, timeout: float) -> GoldenResult:
    try:
        return ask_golden(url, model, timeout)
    except RepositoryError as error:
        return GoldenResult(model.name, False, str(error))


if __name__ == "__main__":
    sys.exit(main())

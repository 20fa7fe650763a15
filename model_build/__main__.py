"""`python -m model_build STAGE MODEL`: what `dvc.yaml` calls, from the workspace's folder.

Exit codes: 0 done, 1 the stage failed, 3 the accuracy gate refused the model, 130 interrupted.
"""

from __future__ import annotations

import signal

# Until `main` can answer Ctrl-C with a line, it ends this process without a traceback: imports take seconds.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import gc
import importlib
import sys
import traceback
from pathlib import Path

from model_build import BuildError, GateRefused
from model_build.config import load_config
from model_build.watching import watching

MANY = 100_000  # objects that are new before the collector looks through them: imports make a million that stay
STAGES = ("files", "data", "train", "export", "infer", "variants", "gate", "repository")


def main() -> int:
    """Run one stage; its result or its error is one line."""
    parser = argparse.ArgumentParser(prog="python -m model_build", description="Run one stage of dvc.yaml.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("model")
    parser.add_argument("variant", nargs="?", help="of stage repository: write this variant's folders")
    arguments = parser.parse_args()
    label = f"{arguments.variant or arguments.stage}@{arguments.model}"
    gc.set_threshold(MANY)
    try:
        workspace = Path.cwd()
        config = load_config(workspace, arguments.model)
        stage = importlib.import_module(f"model_build.stages.{arguments.stage}")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        more = (arguments.variant,) if arguments.stage == "repository" else ()
        asks_recipe = arguments.stage not in ("files", "repository")
        with watching(workspace, config, arguments.stage) if asks_recipe else contextlib.nullcontext():
            line = stage.run(workspace, config, *more)
        print(f"{label}: {line}", file=sys.stderr)
    except GateRefused as error:
        print(f"error: {label}: {error}", file=sys.stderr)
        return 3
    except (BuildError, OSError) as error:
        print(f"error: {label}: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001 - nobody should have to read a traceback to use this
        log = Path("build") / arguments.model / f"{arguments.stage}-error.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
        reason = " ".join(str(error).split())[:300]
        print(f"error: {label}: unexpected {type(error).__name__}: {reason} (all of it: {log})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{label}: interrupted; nothing half-written was kept", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    code = main()
    gc.freeze()  # the modules end with the process: taking them apart first would take a second
    sys.exit(code)

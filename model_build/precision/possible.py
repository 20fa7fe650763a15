"""What a model cannot be served in, said before it costs anything, with the command that builds the rest."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_build._errors import ConfigurationError, ExportError

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_RUN = """
import json, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
arrays = numpy.load(sys.argv[2], allow_pickle=True)
session.run(None, {name: arrays[f"a{index}"] for index, name in enumerate(json.loads(sys.argv[3]))})
"""


def refuse_impossible(model: str, variants: Sequence[str], reasons: Mapping[str, str | None]) -> None:
    """Raise a ConfigurationError where a variant that is configured has a reason why it cannot be.

    Args:
        model: its name, for the command.
        variants: `precision.variants`.
        reasons: by variant; None, and no entry, for one that can be.
    """
    impossible = [variant for variant in variants if reasons.get(variant)]
    if impossible:
        why = dict.fromkeys(str(reasons[variant]) for variant in impossible)
        raise ConfigurationError(
            f"{model} cannot be served in {' and '.join(impossible)}: {'; '.join(why)}: "
            f"{building(model, variants, impossible)}"
        )


def building(model: str, variants: Sequence[str], without: Sequence[str]) -> str:
    """The command that builds the model in its other variants."""
    left = ",".join(variant for variant in variants if variant not in without)
    return f"`slipway build {model} precision.variants=[{left}]`"


def keeping(model: str, variant: str, names: Sequence[str]) -> str:
    """The command that keeps these layers of a variant in FP32, and no others."""
    if all(map(_PLAIN.fullmatch, names)):
        return f"`slipway build {model} precision.{variant}.keep_fp32=[{','.join(names)}]`"
    quoted = ",".join("'" + name.replace("'", "\\'") + "'" for name in names)  # Hydra's quotation marks in the shell's
    return f'`slipway build {model} "precision.{variant}.keep_fp32=[{quoted}]"`'


def check_survives(model: str, variants: Sequence[str], variant: str, name: str, content: bytes, feed: Any) -> None:
    """Raise an ExportError where ONNX Runtime's own process ends when it opens and runs a graph.

    It is asked in a process of its own: a signal ends this one without a word. Whatever else goes wrong there goes
    wrong here too, and is said by whoever opens the graph.

    Args:
        model: its name, for messages.
        variants: `precision.variants`.
        variant: which of them it is.
        name: of the graph's file.
        content: the graph.
        feed: inputs by name.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-open-") as folder:
        graph, inputs = Path(folder) / "model.onnx", Path(folder) / "inputs.npz"
        graph.write_bytes(content)
        arrays: dict[str, Any] = {f"a{index}": np.asarray(array) for index, array in enumerate(feed.values())}
        np.savez(inputs, **arrays)
        command = [sys.executable, "-c", _RUN, str(graph), str(inputs), json.dumps([*feed])]
        code = subprocess.run(command, capture_output=True, check=False).returncode
    if code < 0:
        import onnxruntime

        died = f"ONNX Runtime {onnxruntime.__version__} ends with {signal.Signals(-code).name}"
        raise ExportError(
            f"{died} when it opens or runs {name} of {model} in {variant} on this CPU, which is a fault of its own: "
            f"{building(model, variants, [variant])}"
        )

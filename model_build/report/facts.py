"""What the build left of a model, read for its report."""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from slipway_client import DTYPES

from model_build._errors import ConfigurationError, DataError
from model_build.config import ServedConfig, load_config
from model_build.engine import EngineError
from model_build.engine.tools import find_gpu
from model_build.roofline.analysis import cpu_name
from model_build.stages.layout import BuildFiles
from serving._tensors import values_of


@dataclass(frozen=True)
class Facts:
    """Of one built model.

    Attributes:
        manifest: of the folder that is served under the model's own name.
        training: what the training found; without `curves` where nothing was trained here.
        predictions: header and first rows of predictions.csv.
        images: held-out examples as PNG, by file name.
    """

    files: BuildFiles
    manifest: Mapping[str, Any]
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]
    predictions: list[list[str]]
    images: Mapping[str, bytes]

    def curves(self) -> dict[str, dict[str, list[float]]]:
        """Values by epoch: by what they measure, then by the part that they were measured on."""
        rows = self.training.get("curves", [])
        found: dict[str, dict[str, list[float]]] = {}
        for name in rows[0] if rows else ():
            part, _, measure = name.partition("_")
            if part in ("train", "validation"):
                found.setdefault(measure, {})[part] = [float(row[name]) for row in rows]
        return found


def read_facts(workspace: Path, model: str, rows: int = 12) -> Facts:
    """Read them.

    Raises:
        ConfigurationError: there is no such model.
        DataError: it is not built, or what was built is damaged.
    """
    load_config(workspace, model)
    files = BuildFiles(workspace, model)
    with (
        files.predictions.open(newline="", encoding="utf-8") if files.predictions.is_file() else _absent(files) as table
    ):
        lines = [line for line, _ in zip(csv.reader(table), range(rows + 1), strict=False)]
    return Facts(
        files,
        _json(files.repository / model / "manifest.json", model),
        _json(files.training, model),
        _json(files.metrics, model),
        lines,
        {path.name: path.read_bytes() for path in sorted(files.samples.glob("*.png"))},
    )


def served_folders(workspace: Path, model: str) -> list[Path]:
    """The folders of model_repository/ that are this model's.

    Raises:
        ConfigurationError: there is no such model, or it is never served.
        DataError: there is none.
    """
    _require_served(workspace, model)
    manifests = sorted((workspace / "model_repository").glob("*/manifest.json"))
    found = [path.parent for path in manifests if _json(path, model).get("model") == model]
    if workspace / "model_repository" / model not in found:
        raise DataError(f"model '{model}' is not in {workspace / 'model_repository'}: run `slipway build {model}`")
    return found


def golden_inputs(workspace: Path, model: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of the model's golden request, by input.

    Raises:
        ConfigurationError: there is no such model, or it is never served.
        DataError: there is none.
    """
    _require_served(workspace, model)
    request = _json(workspace / "model_repository" / model / "golden" / "request.json", model)
    found = {}
    for tensor in request["inputs"]:
        dtype = DTYPES.get(tensor["datatype"], np.dtype(np.float32))  # BF16 is sent from FP32
        found[tensor["name"]] = np.array(values_of(tensor), dtype).reshape(tensor["shape"])
    return found


def _require_served(workspace: Path, model: str) -> None:
    if not isinstance(load_config(workspace, model), ServedConfig):
        raise ConfigurationError(
            f"model '{model}' is exported to be analysed and never served: "
            f"`slipway roofline {model} --device cpu --html`"
        )


def machine(model: str) -> list[tuple[str, str]]:
    """Where this was measured."""
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    memory = next(
        (int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line),
        0,
    )
    return [
        ("system", f"{system}, Linux {platform.release()}, {platform.machine()}"),
        ("processor", f"{cpu_name()}, {len(_processors())} processors"),
        ("memory", f"{memory / 2**30:.1f} GiB"),
        ("GPU", _gpu(model)),
    ]


def _processors() -> set[int]:
    return os.sched_getaffinity(0)


def _gpu(model: str) -> str:
    if shutil.which("nvidia-smi") is None:
        return "none"
    try:
        gpu = find_gpu(model)
    except EngineError:
        return "unknown (`slipway doctor` says why)"
    return f"{gpu.name}, compute capability {gpu.capability}, driver {gpu.driver}"


def _absent(files: BuildFiles) -> Any:
    raise DataError(f"model '{files.model}' has no {files.predictions}: run `slipway build {files.model}`")


def _json(path: Path, model: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"model '{model}' has no {path}: run `slipway build {model}`") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}): run `slipway build {model}`") from error
    return content

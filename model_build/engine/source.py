"""What a plan is built of: the file that Triton serves on a GPU, in model_repository/."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from model_build._errors import ConfigurationError, DataError
from model_build.config import ModelConfig, ServedConfig, load_config
from model_build.files import sha256
from model_build.precision.variants import FP32, GPU, VARIANTS, served_name, tensorrt_name

REPOSITORY = "model_repository"
GRAPH = "1/model.onnx"


@dataclass(frozen=True)
class Source:
    """One typed graph.

    Attributes:
        config: of its model.
        variant: fp32, fp16 or int8.
        served: name of its folder in model_repository/.
        path: the ONNX file, the form for TensorRT where there is one.
        sha256: of the file, and of the files that hold its weights where they are outside of it.
        kept: layers that the variant keeps in FP32.
    """

    config: ModelConfig
    variant: str
    served: str
    path: Path
    sha256: str
    kept: frozenset[str]

    def load(self) -> onnx.ModelProto:
        """The graph, without weights that are outside of the file."""
        return onnx.load(self.path, load_external_data=False)


def find_sources(workspace: Path, model: str, variant: str | None = None) -> list[Source]:
    """The graphs that `model` runs on a GPU.

    Args:
        workspace: the folder with dvc.yaml.
        model: name of a configuration.
        variant: None takes what the gate has routed the public name to on a GPU.

    Raises:
        ConfigurationError: there is no such model or variant, or nothing of it could be a plan.
        DataError: it is not built, or a file is not the one that was built.
    """
    config = load_config(workspace, model)
    if not isinstance(config, ServedConfig):
        raise ConfigurationError(f"model '{model}' is exported to be analysed and never served: there is no engine")
    if variant not in (None, FP32, *VARIANTS):
        raise ConfigurationError(f"there is no variant '{variant}': expected one of {[FP32, *VARIANTS]}")
    repository = workspace / REPOSITORY
    folders = dict(_folders(repository, model))
    if not folders:
        raise DataError(f"model '{model}' is not in {repository}: run `slipway build {model}`")
    graphs = [name for name in folders if _backend(repository / name) == "onnxruntime"]
    if not graphs:
        raise ConfigurationError(
            f"model '{model}' is served by Python models ({', '.join(folders)}), which run their graphs themselves "
            "with ONNX Runtime, a step at a time: Triton would have no use for a plan, so there is no engine"
        )
    found: Mapping[str, Any] = folders.get(model, {}).get("variants", {})
    wanted = variant or found.get("chosen", {}).get(GPU, FP32)
    names = [name for name in graphs if name.endswith(served_name("", wanted))]
    if not names:
        there = [one for one in (FP32, *VARIANTS) if any(name.endswith(f"_{one}") for name in graphs)]
        raise DataError(
            f"variant {wanted} of '{model}' is not in {repository} ({', '.join(there) or 'no variant'} is): run "
            f"`slipway build {model}`, with {wanted} in precision.variants"
        )
    kept = frozenset(found.get("found", {}).get(wanted, {}).get(GPU, {}).get("kept_fp32", ()))
    return [_source(config, wanted, repository / name, folders[name], kept) for name in names]


def _folders(repository: Path, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and manifest of each folder that belongs to the model."""
    for path in sorted(repository.glob("*/manifest.json")):
        try:
            manifest = json.loads(path.read_text())
            if manifest["model"] == model:
                yield path.parent.name, manifest
        except (ValueError, KeyError, TypeError) as error:
            if path.parent.name.startswith(model):
                raise DataError(
                    f"{path} is not what a build writes ({error!r}): run `slipway build {model}`"
                ) from error


def _backend(folder: Path) -> str:
    path = folder / "config.pbtxt"
    try:
        return str(text_format.Parse(path.read_text(), pb.ModelConfig()).backend)
    except (OSError, text_format.ParseError) as error:
        raise DataError(f"{path} cannot be read ({error}): build the model again") from error


def _source(
    config: ModelConfig, variant: str, folder: Path, manifest: Mapping[str, Any], kept: frozenset[str]
) -> Source:
    name = tensorrt_name(GRAPH) if tensorrt_name(GRAPH) in manifest["files"] else GRAPH
    path = folder / name
    try:
        same = sha256(path) == manifest["files"][name]["sha256"]
    except (OSError, KeyError) as error:
        raise DataError(
            f"{path} is not there ({error!r}): run `slipway build {config.name}`, or `dvc pull` its stage"
        ) from error
    if not same:
        raise DataError(f"{path} is not the file that was built: run `slipway build {config.name}`")
    return Source(config, variant, folder.name, path, _hash(path), kept)


def _hash(path: Path) -> str:
    """Of the file alone, or of it and each file that holds weights of it."""
    graph = onnx.load(path, load_external_data=False).graph
    outside = {
        entry.value
        for tensor in graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if not outside:
        return sha256(path)
    try:
        lines = [f"{name} {sha256(path.parent / name)}\n" for name in (path.name, *sorted(outside))]
    except OSError as error:
        raise DataError(
            f"{path} keeps weights in a file that cannot be read ({error}): build the model again"
        ) from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()

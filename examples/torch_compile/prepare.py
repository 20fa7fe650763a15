"""digits as a program that torch.compile takes, in a model repository of its own: build/torch_compile/repository.

    python examples/torch_compile/prepare.py [--workspace .]

`slipway build digits` comes first: the weights are its. Beside what lies in `digits_compiled/` the folder gets
`1/digits.pt2` (torch.export; Triton needs no code of Slipway to load it), the names of the classes, a golden request
with the answer of PyTorch without any compiler, and a manifest, as every model has them that `slipway serve` takes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import torch
from google.protobuf import text_format
from safetensors.torch import load_file
from tritonclient.grpc import model_config_pb2 as pb

from model_build import BuildError
from model_build.config import SingleGraphConfig, load_config
from model_build.dataset import Dataset
from model_build.files import write_files
from model_build.models.digits import Digits
from model_build.recipe import ServedModel
from model_build.stages.layout import BuildFiles
from model_build.stages.staging import golden
from model_build.triton_config import LABELS_FILE

WORKSPACE = Path(__file__).resolve().parent.parent.parent
SOURCE = Path(__file__).parent / "digits_compiled"


def main() -> int:
    """Write the repository; one line says where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=WORKSPACE, help="where digits was built")
    try:
        folder = prepare(parser.parse_args().workspace)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{folder} is written: slipway serve --repository {folder.parent}")
    return 0


def prepare(workspace: Path) -> Path:
    """Write `build/torch_compile/repository/digits_compiled` of the workspace; return it.

    Raises:
        BuildError: digits was not built, or its configuration is none.
    """
    config = load_config(workspace, "digits")
    assert isinstance(config, SingleGraphConfig)
    files = BuildFiles(workspace, "digits")
    if missing := [path for path in (files.weights, files.data) if not path.is_file()]:
        raise BuildError(f"{missing[0]} does not exist: run `slipway build digits` first")
    recipe = Digits(config)
    network = recipe.network()
    network.load_state_dict(load_file(files.weights))
    serving = recipe.serving_network(network).eval()
    inputs = Dataset.from_file(files.data).test_inputs
    contents = {str(path.relative_to(SOURCE)): path.read_bytes() for path in SOURCE.rglob("*") if _is_served(path)}
    contents["1/digits.pt2"] = export(serving, torch.from_numpy(inputs[:2]))
    contents[LABELS_FILE] = "".join(f"{label}\n" for label in recipe.labels).encode()
    with torch.inference_mode():
        answer = serving(torch.from_numpy(inputs[:1])).numpy()
    message = text_format.Parse(contents["configs/cpu.pbtxt"].decode(), pb.ModelConfig())
    model = ServedModel(
        SOURCE.name, message, message, {}, {recipe.input_name: inputs[:1]}, {recipe.output_name: answer}
    )
    contents["golden/request.json"], contents["golden/response.json"] = golden(model, config.gate.golden_atol)
    listed = {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in contents.items()}
    contents["manifest.json"] = json.dumps({"files": listed}, indent=2).encode() + b"\n"
    folder = workspace / "build" / "torch_compile" / "repository" / SOURCE.name
    shutil.rmtree(folder, ignore_errors=True)
    write_files({folder / name: content for name, content in contents.items()})
    return folder


def export(network: torch.nn.Module, example: torch.Tensor) -> bytes:
    """`network` as a program of torch.export, for batches of any size."""
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _is_served(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


if __name__ == "__main__":
    sys.exit(main())

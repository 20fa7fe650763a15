"""digits_compiled against digits_fp32, one behind torch.compile, one behind ONNX Runtime, in one embedded Triton.

    python examples/torch_compile/compare.py [--rounds 9] [--seconds 1] [--workspace .]

`prepare.py` and the environment come first (README.md). Prints the largest difference of their answers to the held-out
images, then for requests of 1, 8 and 32 images how many times as many requests a second digits_compiled answers, one
request at a time over gRPC. Rounds alternate; a figure is the median of the rounds' own ratios (smallest to largest).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from slipway_client import Client, Model

from model_build.dataset import Dataset, Floats
from model_build.stages.layout import BuildFiles
from serving import EmbeddedTriton, ServerOptions, ServingError, find_interpreter

WORKSPACE = Path(__file__).resolve().parent.parent.parent
SIZES = (1, 8, 32)
COMPILED, REFERENCE = "digits_compiled", "digits_fp32"


def main() -> int:
    """Serve both, compare and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement")
    parser.add_argument("--workspace", type=Path, default=WORKSPACE, help="where digits was built and prepared")
    arguments = parser.parse_args()
    workspace = arguments.workspace.resolve()
    images = Dataset.from_file(BuildFiles(workspace, "digits").data).test_inputs
    os.chdir(workspace)  # configs/cpu.pbtxt names the environment from there
    with tempfile.TemporaryDirectory() as folder:
        prepared = workspace / "build" / "torch_compile"
        for source in (prepared / "repository" / COMPILED, workspace / "model_repository" / REFERENCE):
            (Path(folder) / source.name).symlink_to(source)
        options = ServerOptions.on_free_ports(Path(folder))
        try:
            with EmbeddedTriton(find_interpreter(workspace), options, prepared / "triton.log") as server:
                server.wait_ready(300)
                with Client(options.grpc_url) as client:
                    report(client, images, arguments.rounds, arguments.seconds)
        except ServingError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def report(client: Client, images: Floats, rounds: int, seconds: float) -> None:
    """Print what is found."""
    models = [client.model(name) for name in (COMPILED, REFERENCE)]
    parts = np.split(images, range(max(SIZES), len(images), max(SIZES)))
    answers = [np.concatenate([model(image=part)["probabilities"] for part in parts]) for model in models]
    print(f"largest difference of {len(images)} answers: {np.abs(answers[0] - answers[1]).max():.1e}")
    for size in SIZES:
        ratios = []
        for number in range(rounds):
            order = models if number % 2 else models[::-1]
            rates = {model.name: rate(model, images[:size], seconds) for model in order}
            ratios.append(rates[COMPILED] / rates[REFERENCE])
        print(f"{size:2} images: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def rate(model: Model, images: Floats, seconds: float) -> float:
    """Requests a second, one at a time."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        model(image=images)
        count += 1
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())

"""digits as torch.compile runs it: `image` FP32 `[n, 1, 28, 28]` to `probabilities` FP32 `[n, 10]`.

Needs torch and numpy alone: the network is the program that `prepare.py` exported beside this file. It is compiled
where it is loaded, for that machine's GPU or CPU, and for every batch that config.pbtxt allows: no request waits for
the compiler. Of config.pbtxt: the parameter `intra_op_thread_count` (of a CPU).
"""

from __future__ import annotations

import json
import locale
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from torch._inductor import config as inductor
from torch.export.passes import move_to_device_pass

SHAPE = (1, 28, 28)


class TritonPythonModel:
    """One instance: a process with a compiled program of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile, and fail here where that is not possible."""
        # Triton's stub begins in the C locale, in which torch cannot read the UTF-8 files of its own compiler.
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        config = json.loads(args["model_config"])
        gpu = args["model_instance_kind"] == "GPU"
        self._device = f"cuda:{args['model_instance_device_id']}" if gpu else "cpu"
        threads = config["parameters"].get("intra_op_thread_count", {}).get("string_value")
        if threads:
            torch.set_num_threads(int(threads))
        file = Path(args["model_repository"]) / args["model_version"] / "digits.pt2"
        program = move_to_device_pass(torch.export.load(file), self._device)
        try:
            self._network = compiled(program.module())
            for size in range(1, config["max_batch_size"] + 1):
                self._run(torch.zeros(size, *SHAPE))
        except Exception as error:  # what a compiler lacks has many types
            reason = (str(error).strip().splitlines() or [""])[0]
            raise pb_utils.TritonModelException(
                f"torch.compile cannot run here ({type(error).__name__}: {reason}): it needs a C++ compiler and "
                "Python's headers where Triton runs (Debian, Ubuntu: g++ and python3-dev)"
            ) from error

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of a batch with one run."""
        images = [
            torch.from_numpy(pb_utils.get_input_tensor_by_name(request, "image").as_numpy()) for request in requests
        ]
        parts = torch.split(self._run(torch.cat(images)), [len(one) for one in images])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", one.numpy())]) for one in parts]

    def _run(self, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            answer: torch.Tensor = self._network(images.to(self._device)).cpu()
        return answer


def compiled(network: Callable[..., Any]) -> Callable[..., Any]:
    """`network` with one program for batches of one and one for all others."""
    inductor.compile_threads = 1  # else compiler processes stay beside the server's stub
    result: Callable[..., Any] = torch.compile(network, dynamic=True)
    return result

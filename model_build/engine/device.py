"""Memory and clock of the GPU through CUDA's driver library, which is wherever a GPU is: no package is needed for it.

API: https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from model_build.engine._errors import EngineFailed


class Device:
    """The first visible GPU, in the context that TensorRT uses too (the primary one).

    Raises:
        EngineFailed: CUDA's driver answers with an error.
    """

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise EngineFailed(f"CUDA's driver library cannot be opened ({error})") from error
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._stream, self._start, self._stop = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), 0)
        for event in (self._start, self._stop):
            self._call("cuEventCreate", ctypes.byref(event), 0)

    def zeros(self, size: int) -> int:
        """Address of `size` bytes of the GPU's memory, all zero; freed when the process ends."""
        address, bytes_ = ctypes.c_uint64(), ctypes.c_size_t(max(size, 1))
        self._call("cuMemAlloc_v2", ctypes.byref(address), bytes_)
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), bytes_)
        return address.value

    def time(self, run: Callable[[int], bool]) -> float:
        """Milliseconds on the GPU that `run(stream)` takes.

        Raises:
            EngineFailed: it says that it failed, or CUDA does.
        """
        milliseconds = ctypes.c_float()
        self._call("cuEventRecord", self._start, self._stream)
        if not run(self._stream.value or 0):
            raise EngineFailed("TensorRT cannot run the plan that it has just built")
        self._call("cuEventRecord", self._stop, self._stream)
        self._call("cuStreamSynchronize", self._stream)
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), self._start, self._stop)
        return milliseconds.value

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._cuda, function)(*arguments)
        if code != 0:
            raise EngineFailed(f"CUDA: {function} failed with error {code}")

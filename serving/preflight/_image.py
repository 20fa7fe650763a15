"""What the pinned GPU image needs of a machine: one table, each row with its source.

Documented, for release 26.08:
- CUDA 13.4.1 and "compute capability 7.5 and later": the release notes,
  https://docs.nvidia.com/deeplearning/triton-inference-server/release-notes/rel-26-08.html
- ONNX Runtime 1.28.0, and driver 615.61 as the one that CUDA 13.4.1 came with (the row of the vLLM flavour, the only
  one of 26.08 with a driver): docs/introduction/compatibility.md of triton-inference-server/server.
- Drivers from R580 on run every CUDA 13.x: "Minor Version Compatibility" of
  https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
- Older drivers only with the forward-compatibility package, and that only on data centre GPUs, Jetson boards and
  "select NGC Server Ready SKUs of RTX cards": https://docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html

Inferred, because the release notes leave it out ("which requires the NVIDIA Driver release", without a number):
- The minimum driver, from CUDA's own page above; nobody here has started the image on a GPU.
- The forward-compatible branches: those that NVIDIA's CUDA 13.0.2 image names in NVIDIA_REQUIRE_CUDA; none of them is
  among those that the release notes exclude (R418 to R530, R545, R555).
- TensorRT 11.2.1: what users of the images tritonserver:26.08-py3 and tensorrt:26.08-py3 report.
- The capabilities of each architecture: the release notes name Turing to Blackwell, CUDA's list of GPUs the numbers
  (https://developer.nvidia.com/cuda-gpus). Newer ones are not in the release notes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Capability = tuple[int, int]


@dataclass(frozen=True)
class Architecture:
    """A generation of GPUs and its compute capabilities."""

    name: str
    capabilities: tuple[Capability, ...]


@dataclass(frozen=True)
class GpuImage:
    """A release of NVIDIA's Triton container and the GPUs and drivers that it runs on.

    Attributes:
        triton_release: tag of the container, as in serving/gpu.Dockerfile.
        cuda, tensorrt, onnxruntime: versions inside.
        minimum_driver: oldest driver branch that runs this CUDA's major version.
        own_driver: the driver that this CUDA was released with: from it on nothing is missing.
        forward_compatible: older branches that a data centre GPU can keep, through the image's compatibility package.
        architectures: what the release notes name.
        source: page to look at when NVIDIA changes its mind.
    """

    triton_release: str
    cuda: str
    tensorrt: str
    onnxruntime: str
    minimum_driver: int
    own_driver: int
    forward_compatible: tuple[int, ...]
    architectures: tuple[Architecture, ...]
    source: str

    def architecture(self, capability: Capability) -> Architecture | None:
        """The architecture that a compute capability belongs to, if the image supports it."""
        return next((one for one in self.architectures if capability in one.capabilities), None)

    @property
    def smallest(self) -> Capability:
        """The smallest compute capability that is supported."""
        return min(capability for one in self.architectures for capability in one.capabilities)

    @property
    def largest(self) -> Capability:
        """The largest compute capability that is known to be supported."""
        return max(capability for one in self.architectures for capability in one.capabilities)

    @property
    def needs_gpu(self) -> str:
        """The GPUs, in words."""
        return f"compute capability {dotted(self.smallest)} to {dotted(self.largest)} (Triton {self.triton_release})"

    @property
    def needs_driver(self) -> str:
        """The drivers, in words."""
        return f"{self.minimum_driver} or newer (CUDA {self.cuda})"

    def as_json(self) -> dict[str, Any]:
        """The fields, a compute capability as "7.5"."""
        named = {one.name: [dotted(capability) for capability in one.capabilities] for one in self.architectures}
        return {**asdict(self), "architectures": named}


def dotted(capability: Capability) -> str:
    """`(7, 5)` as `7.5`."""
    return f"{capability[0]}.{capability[1]}"


IMAGE = GpuImage(
    triton_release="26.08",
    cuda="13.4.1",
    tensorrt="11.2.1",
    onnxruntime="1.28.0",
    minimum_driver=580,
    own_driver=615,
    forward_compatible=(535, 550, 565, 570, 575),
    architectures=(
        Architecture("Turing", ((7, 5),)),
        Architecture("Ampere", ((8, 0), (8, 6), (8, 7))),
        Architecture("Ada Lovelace", ((8, 9),)),
        Architecture("Hopper", ((9, 0),)),
        Architecture("Blackwell", ((10, 0), (10, 3), (11, 0), (12, 0), (12, 1))),
    ),
    source="https://docs.nvidia.com/deeplearning/triton-inference-server/release-notes/rel-26-08.html",
)

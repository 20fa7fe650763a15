"""Whether the pinned GPU image runs on the GPUs that are there, and the CUDA error that it would end in if not."""

from __future__ import annotations

import re

from serving.preflight._check import Check, Status, size
from serving.preflight._image import GpuImage, dotted
from serving.preflight._nvidia import Answer, Gpu

ON_CPU = (
    "without a GPU, `slipway serve` and the chart's CPU image run each model's configs/cpu.pbtxt with ONNX Runtime on "
    "CPUs: the public name is the variant that was fastest there (`slipway variants MODEL`); FP16 and TensorRT are not "
    "used"
)
EMBEDDED = "`slipway serve` runs on CPUs all the same; a release uses the GPU with the chart's gpu.enabled"

# Names that data centre GPUs go by in nvidia-smi: Tesla T4, NVIDIA A100-SXM4-40GB, NVIDIA L40S, NVIDIA H200, NVIDIA
# GB200. Workstation cards (NVIDIA T1000, RTX A4000, GB10) and GeForce do not match: they have no forward compatibility.
_DATA_CENTRE = re.compile(r"(NVIDIA )?(Tesla\b|G[HB]\d{3}|[ABHL]\d{1,3}(?!\d))")


def gpu_checks(answer: Answer, image: GpuImage, wanted: bool | None) -> list[Check]:
    """One finding for each GPU and one for the driver; one that says what runs instead where there is none.

    Args:
        answer: what nvidia-smi said.
        image: what it has to fit.
        wanted: True: a GPU has to be there. None: one that is there has to fit. False: CPUs serve, whatever is there.
    """
    if not answer:
        return [_absent(answer, image, wanted)]
    several = len(answer.gpus) > 1
    found = [_gpu(gpu, f"GPU {index}" if several else "GPU", image) for index, gpu in enumerate(answer.gpus)]
    found.append(_driver(answer.gpus, image))
    return [_unwanted(check) for check in found] if wanted is False else found


def data_centre(name: str) -> bool:
    """Whether nvidia-smi's name of a GPU is that of a data centre GPU."""
    return _DATA_CENTRE.match(name) is not None


def _absent(answer: Answer, image: GpuImage, wanted: bool | None) -> Check:
    status = Status.PROBLEM if wanted else Status.NOTE
    instead = "this machine was meant to serve with a GPU (--gpu)" if wanted else ON_CPU
    advice = "; ".join(filter(None, (answer.remedy, instead)))
    needed = f"{image.needs_gpu}, driver {image.needs_driver}"
    return Check("GPU", status, answer.failure, needed if wanted else f"if one serves: {needed}", advice)


def _unwanted(check: Check) -> Check:
    """What does not fit is only worth knowing where CPUs serve."""
    status = check.status if check else Status.NOTE
    return Check(check.name, status, check.found, f"if it serves: {check.needed}", check.advice, check.facts)


def _gpu(gpu: Gpu, name: str, image: GpuImage) -> Check:
    memory = f", {size(gpu.memory_mib * 2**20)}" if gpu.memory_mib else ""
    facts = {"gpu": gpu.name, "memory_mib": gpu.memory_mib, "compute_capability": None}
    if gpu.capability is None:
        found = f"{gpu.name}, compute capability unknown{memory}"
        advice = "nvidia-smi does not tell the compute capability: look it up at https://developer.nvidia.com/cuda-gpus"
        return Check(name, Status.NOTE, found, image.needs_gpu, advice, facts)
    facts["compute_capability"] = capability = dotted(gpu.capability)
    architecture = image.architecture(gpu.capability)
    if architecture is not None:
        found = f"{gpu.name}, compute capability {capability} ({architecture.name}){memory}"
        return Check(name, Status.OK, found, image.needs_gpu, EMBEDDED, facts)
    found = f"{gpu.name}, compute capability {capability}{memory}"
    old = gpu.capability < image.smallest
    advice = (
        f"Triton {image.triton_release} would start, and models on this GPU {'would' if old else 'may'} fail with CUDA "
        "failure 209: no kernel image is available for execution on the device. "
        + (f"CUDA {image.cuda} has no code for so old a GPU" if old else "Its release notes do not name this GPU")
        + ": serve on CPUs (gpu.enabled: false; `slipway doctor --no-gpu`), or take "
        + (f"a GPU of compute capability {dotted(image.smallest)} or higher" if old else "a newer Triton release")
    )
    return Check(name, Status.PROBLEM, found, image.needs_gpu, advice, facts)


def _driver(gpus: tuple[Gpu, ...], image: GpuImage) -> Check:
    version = next((gpu.driver for gpu in gpus if gpu.driver), None)
    facts = {"driver": version}
    if version is None:
        advice = "nvidia-smi does not tell the driver's version: `cat /proc/driver/nvidia/version`"
        return Check("driver", Status.NOTE, "unknown", image.needs_driver, advice, facts)
    status, advice = judge_driver(int(version.split(".")[0]), all(data_centre(gpu.name) for gpu in gpus), image)
    return Check("driver", status, version, image.needs_driver, advice, facts)


def judge_driver(branch: int, forward: bool, image: GpuImage) -> tuple[Status, str]:
    """What a driver branch (580 of 580.95.05) means to the image; `forward`: every GPU is a data centre GPU."""
    if branch >= image.own_driver:
        return Status.OK, ""
    if branch >= image.minimum_driver:
        return Status.NOTE, (
            f"runs CUDA {image.cuda} by minor version compatibility; code that is compiled on the machine (PTX) needs "
            f"R{image.own_driver} and fails with CUDA failure 222: the provided PTX was compiled with an unsupported "
            "toolchain"
        )
    update = f"install driver {image.minimum_driver} or newer"
    if forward and branch in image.forward_compatible:
        return Status.NOTE, (
            f"too old for CUDA {image.cuda} by itself; this data centre GPU can run it through the image's "
            f"forward-compatibility package, where the container runtime allows that (not tried by Slipway): {update} "
            "to be sure"
        )
    forced = "" if forward else ", or 804 (forward compatibility was attempted on non supported HW)"
    return Status.PROBLEM, (
        f"every model on a GPU would fail with CUDA failure 35: CUDA driver version is insufficient for CUDA runtime "
        f"version{forced}: {update}, or serve on CPUs (gpu.enabled: false; `slipway doctor --no-gpu`)"
    )

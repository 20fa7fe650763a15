"""trtexec's flags, each with the reason why it is there, or why not.

Flags and what they do: NVIDIA/TensorRT samples/common/sampleOptions.cpp, and
https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x-trtexec.html
"""

from __future__ import annotations

from dataclasses import dataclass

from model_build.engine.shapes import WHICH
from model_build.engine.spec import Files, Spec
from model_build.engine.tools import Version


@dataclass(frozen=True)
class Flag:
    """One flag; `value` is what follows the equals sign, where one does."""

    name: str
    why: str
    value: str | None = None
    present: bool = True

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


def find_flags(spec: Spec, version: Version, files: Files) -> list[Flag]:
    """The flags for one plan, those that are there first.

    Args:
        spec: what is built.
        version: of TensorRT.
        files: where it is written.
    """
    source = spec.source
    flags = [
        Flag(
            "--onnx", f"the typed graph of {source.served}: its precision, {source.variant}, is in it", str(source.path)
        ),
        Flag("--saveEngine", "the plan", str(files.plan)),
        *_shapes(spec),
        *_typing(version),
        Flag("--noTF32", "what the graph has in FP32 stays FP32: TF32 keeps 10 bits of a number, no more than FP16"),
        Flag(
            "--builderOptimizationLevel",
            "how long the builder looks for faster kernels (--level); 3 is TensorRT's own, named as it is in the key",
            str(spec.level),
        ),
        _memory(spec),
        Flag(
            "--timingCacheFile",
            "kernels that were timed on this kind of GPU are not timed again; a copy, taken over when all went well",
            str(files.timing_cache),
        ),
        Flag("--profilingVerbosity", "else layer information is names alone, and nothing is proven by it", "detailed"),
        Flag("--exportLayerInfo", "datatypes and kernels: the proof of precision reads them", str(files.layers)),
        Flag("--exportProfile", "time of each layer", str(files.profile)),
        Flag("--exportTimes", "time of each inference, at the opt shapes", str(files.times)),
        *_profiling(version),
        Flag(
            "--skipInference",
            "profile and times are wanted, and with dynamic shapes TensorRT knows a layer's formats only when it runs",
            present=False,
        ),
        Flag(
            "--versionCompatible, --hardwareCompatibilityLevel",
            "the plan is built where it runs, and is faster when it need not run elsewhere",
            present=False,
        ),
    ]
    return sorted(flags, key=lambda flag: not flag.present)


def _shapes(spec: Spec) -> list[Flag]:
    if not spec.shapes.dynamic:
        return [Flag("--minShapes, --optShapes, --maxShapes", "every dimension of the graph is fixed", present=False)]
    flags = []
    for which, what in zip(WHICH, ("smallest", "size that kernels are chosen for", "largest"), strict=True):
        sizes = "; ".join(
            f"{name} {getattr(one, which)} ({one.why})" if which == "min" else f"{name} {getattr(one, which)}"
            for name, one in spec.shapes.ranges.items()
        )
        flags.append(Flag(f"--{which}Shapes", f"{what}: {sizes}", spec.shapes.argument(which)))
    return flags


def _typing(version: Version) -> list[Flag]:
    precisions = "--fp16, --bf16, --int8, --fp8, --best, --calib"
    if version.always_typed:
        return [
            Flag("--stronglyTyped", f"TensorRT {version} always takes the types of the graph", present=False),
            Flag(precisions, "TensorRT 11 has none of them: precision and scales are in the graph", present=False),
        ]
    return [
        Flag("--stronglyTyped", f"TensorRT {version} would choose types itself; so it takes those of the graph"),
        Flag(precisions, "they let the builder choose; precision and scales are in the graph", present=False),
    ]


def _memory(spec: Spec) -> Flag:
    if spec.memory_mib is None:
        why = "a layer may use all of the GPU's memory (--memory MIB where others need it too)"
        return Flag("--memPoolSize", why, present=False)
    return Flag("--memPoolSize", "MiB that a layer may use (--memory)", f"workspace:{spec.memory_mib}")


def _profiling(version: Version) -> list[Flag]:
    if version.always_typed:  # the same release made it a no-op
        return [
            Flag("--separateProfileRun", f"trtexec {version} always profiles in a run of its own", present=False),
            Flag("--useCudaGraph", f"trtexec {version} uses CUDA graphs by itself", present=False),
        ]
    return [
        Flag("--separateProfileRun", "else the profiler slows what is timed, and trtexec exports no times"),
        Flag(
            "--useCudaGraph",
            "times hold the launches; trtexec 11 times with CUDA graphs: do not compare",
            present=False,
        ),
    ]

"""The instruction sets of the processor, and what they mean for the INT8 variants.

Slipway's INT8 graphs for CPUs are U8S8: unsigned activations, signed weights (docs/precision.md). How ONNX Runtime
multiplies them: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html. Without VNNI it is
VPMADDUBSW, which adds pairs of products in 16 signed bits: 2 x 255 x 127 does not fit, so Slipway's have seven bits.
"""

from __future__ import annotations

import re
from collections.abc import Set

from serving.preflight._check import Check, Status
from serving.preflight._machine import Machine

# Names of /proc/cpuinfo's flags that are told, in the order of their age.
_TOLD = {
    "x86_64": {
        "avx2": "AVX2",
        "avx512f": "AVX-512",
        "avx512_vnni": "AVX512-VNNI",
        "avx_vnni": "AVX-VNNI",
        "amx_int8": "AMX-INT8",
        "amx_bf16": "AMX-BF16",
    },
    "aarch64": {"asimd": "NEON", "asimddp": "dot product", "i8mm": "I8MM", "sve": "SVE"},
}
_EXACT = "; other CPUs may give slightly other INT8 answers: build on a machine like the one that serves"
_SLOW = (
    "INT8 is little faster than FP32 here, or slower: the gate of `slipway build` measures it on the machine that "
    "builds. Graphs with weights of eight bits, made elsewhere, can saturate (VPMADDUBSW)"
)


def flags(cpuinfo: str) -> frozenset[str]:
    """Feature flags that every core has: `flags` of x86, `Features` of Arm."""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset.intersection(*(frozenset(line.split()) for line in lines)) if lines else frozenset()


def model_name(cpuinfo: str) -> str | None:
    """The processor's name; Arm kernels give none."""
    found = re.search(r"^model name\s*:\s*(.+?)\s*$", cpuinfo, re.MULTILINE)
    return found[1] if found else None


def cores(cpuinfo: str) -> int:
    """Logical processors of the machine."""
    return len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))


def judge_int8(architecture: str, has: Set[str]) -> tuple[Status, str]:
    """What a processor's flags mean for the INT8 variants on CPUs."""
    if not has:
        return Status.NOTE, "the processor's flags cannot be read: what INT8 gains here is unknown"
    if architecture == "x86_64":
        if "amx_int8" in has:
            return Status.OK, "INT8 products run in tiles (AMX), exactly; not measured by Slipway" + _EXACT
        if "avx512_vnni" in has:
            return Status.OK, "INT8 runs exactly; with transformers 1.8 to 3.1 times FP32's speed" + _EXACT
        if "avx_vnni" in has:
            return Status.OK, "INT8 runs exactly; its gain on AVX-VNNI is not measured by Slipway" + _EXACT
        return Status.NOTE, _SLOW
    if architecture == "aarch64":
        if has & {"asimddp", "i8mm"}:
            return Status.OK, "INT8 has its own instructions and does not saturate; not measured by Slipway" + _EXACT
        return Status.NOTE, "without dot product instructions (asimddp) INT8 is little faster than FP32"
    return Status.NOTE, f"what INT8 gains on {architecture} is unknown to Slipway"


def instruction_sets(machine: Machine) -> Check:
    """The instruction sets, and what they mean for INT8."""
    has = flags(machine.read("proc/cpuinfo") or "")
    told = {"arm64": "aarch64", "amd64": "x86_64"}.get(machine.architecture, machine.architecture)
    names = [name for flag, name in _TOLD.get(told, {}).items() if flag in has]
    status, advice = judge_int8(told, has)
    needed = {"x86_64": "for fast INT8: VNNI or AMX", "aarch64": "for fast INT8: dot product or I8MM"}.get(told, "")
    facts = {"architecture": machine.architecture, "instruction_sets": names}
    return Check("instruction sets", status, ", ".join(names) or "none that is told", needed, advice, facts)

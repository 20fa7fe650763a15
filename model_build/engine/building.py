"""One plan: found where it is, else built beside it, proven, and renamed into place."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_build.engine import python_api, trtexec
from model_build.engine._errors import EngineError, EngineFailed, PrecisionRefused, ToolMissing
from model_build.engine.layers import read_layers
from model_build.engine.proof import Proof, prove
from model_build.engine.source import Source
from model_build.engine.spec import Files, Spec
from model_build.engine.store import Store
from model_build.engine.tools import Gpu, Trtexec, advice, find_gpu, find_tool
from model_build.precision.possible import keeping
from model_build.precision.variants import FP32


@dataclass(frozen=True)
class Built:
    """A plan that is there.

    Attributes:
        files: the plan, and what is beside it.
        record: what was built of what, as engine.json has it.
        again: whether it was there before.
    """

    files: Files
    record: dict[str, Any]
    again: bool

    def __str__(self) -> str:
        verdict, gpu = self.record["verdict"], self.record["gpu"]["name"]
        kept = len(verdict["kept_fp32"])
        proven = f"{verdict['layers'] - kept} layers run in {verdict['precision'].upper()}"
        more = f", {kept} kept in FP32" if kept else ""
        times = self.record["times"]
        took = f"; {times['median_ms']:.3f} ms (median of {times['runs']}) at {times['shapes']}" if times else ""
        what = "is there already" if self.again else "built"
        return f"{self.files.plan} {what}: {proven}{more} on {gpu}{took}"


def build_engine(
    workspace: Path, spec: Spec, *, trtexec_command: str | None = None, status: Callable[[str], None] = lambda _: None
) -> Built:
    """Build a plan, unless it is there already.

    Args:
        workspace: the folder with dvc.yaml.
        spec: what is built.
        trtexec_command: how trtexec is called; None looks for it, then for the Python package.
        status: gets a line now and then.

    Raises:
        EngineFailed: TensorRT did not build it.
        NoGpu: there is no GPU.
        PrecisionRefused: it computes in another precision than asked for; nothing is kept of it but the log.
        ToolMissing: there is no TensorRT, or it is too old.
        OSError: a file cannot be written.
    """
    gpu = find_gpu(spec.source.config.name)
    status("asking TensorRT for its version")
    tool = find_tool(workspace, trtexec_command)
    if tool is None:
        raise ToolMissing(
            f"a GPU is here ({gpu.name}), but no trtexec and no Python package tensorrt: {advice(workspace)}"
        )
    store, served, version = Store(workspace), spec.source.served, str(tool.version)
    key, identity = spec.key(gpu.capability, version), spec.identity(gpu.capability, version)
    final, cache = store.files(served, key), store.timing_cache(gpu.capability, version)
    if (record := store.read(final, identity)) is not None:
        return Built(final, record, again=True)
    try:
        with store.building(served, key, cache) as files:
            if isinstance(tool, Trtexec):
                made_by = trtexec.build(tool, spec, files, status)
            else:
                made_by = python_api.build(tool, spec, files, status)
            status("proving the precision of its layers")
            proof = _prove(spec, files)
            made_by = made_by.replace(str(files.folder), str(final.folder))
            record = _record(spec, gpu, identity, made_by, proof, files)
            final = store.publish(files, served, key, record, cache)
    except EngineError as error:
        log = store.failed_log(served, key)
        raise type(error)(f"{error} (log: {log})" if log.is_file() else str(error)) from error
    return Built(final, json.loads(final.record.read_text()), again=False)


def _prove(spec: Spec, files: Files) -> Proof:
    source = spec.source
    proof = prove(source.variant, source.load(), source.kept, read_layers(files.layers))
    with files.log.open("a") as log:
        print("", *proof.lines, sep="\n", file=log)
    if not proof:
        raise PrecisionRefused(
            f"the plan of {source.served} is refused: {proof.reason}; nothing was kept: {_remedy(source, proof)}"
        )
    return proof


def _remedy(source: Source, proof: Proof) -> str:
    """What to do about layers that the plan computes in another precision."""
    left = [row.layer for row in proof.rows if not row and row.layer not in source.kept]
    if source.variant == FP32 or not left or len(left) + len(source.kept) == len(proof.rows):
        return "serve another variant"
    command = keeping(source.config.name, source.variant, [*sorted(source.kept), *left])
    return f"keep those layers in FP32 ({command}), or serve another variant"


def _record(spec: Spec, gpu: Gpu, identity: dict[str, Any], made_by: str, proof: Proof, files: Files) -> dict[str, Any]:
    source = spec.source
    return {
        "model": source.config.name,
        "variant": source.variant,
        "served": source.served,
        "onnx": source.path.name,
        "identity": identity,
        "gpu": {"name": gpu.name, "compute_capability": gpu.capability, "driver": gpu.driver},
        "made_by": made_by,
        "built": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "verdict": proof.to_json(),
        "times": _times(spec, files),
    }


def _times(spec: Spec, files: Files) -> dict[str, Any]:
    """The median time on the GPU of one inference at the opt shapes, in milliseconds."""
    try:
        times = [float(one["computeMs"]) for one in json.loads(files.times.read_text())]
        median = statistics.median(times)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineFailed(
            f"TensorRT wrote no times ({error!r}): {files.times.name} is not what trtexec exports"
        ) from error
    return {"median_ms": median, "runs": len(times), "shapes": spec.shapes.argument("opt")}

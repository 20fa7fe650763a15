"""A plan by the Python package tensorrt, with the settings that trtexec's flags make (flags.py says why).

API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import IO, Any

from model_build.engine._errors import EngineFailed
from model_build.engine.device import Device
from model_build.engine.spec import Files, Spec
from model_build.engine.tools import PythonApi

WARM_UP, RUNS = 20, 100


def build(
    tool: PythonApi, spec: Spec, files: Files, status: Callable[[str], None], device: Callable[[], Device] = Device
) -> str:
    """Build and time a plan; return who made it.

    Args:
        tool: the package.
        spec: what is built.
        files: where everything is written; the folder is there.
        status: gets what is being done.
        device: gives the GPU's memory and clock.

    Raises:
        EngineFailed: TensorRT refused the graph or built nothing.
    """
    trt = tool.module
    with files.log.open("w") as log:
        logger = _logger(trt, log, status)
        status("building")
        files.plan.write_bytes(_plan(tool, spec, files, logger))
        status("timing")
        runtime = trt.Runtime(logger)  # must outlive the engine
        engine = runtime.deserialize_cuda_engine(files.plan.read_bytes())
        if engine is None:
            raise EngineFailed("TensorRT cannot open the plan that it has just built")
        _time(trt, engine, spec, files, device())
    return f"the Python package tensorrt {tool.version}"


def _logger(trt: Any, log: IO[str], status: Callable[[str], None]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity == trt.ILogger.Severity.VERBOSE:
                return
            print(f"[{severity.name}] {message}", file=log, flush=True)
            status(message)

    return Logger()


def _plan(tool: PythonApi, spec: Spec, files: Files, logger: Any) -> bytes:
    trt = tool.module
    builder = trt.Builder(logger)
    typed = 0 if tool.version.always_typed else 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(spec.source.path)):
        raise EngineFailed(f"TensorRT cannot read {spec.source.path}: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.builder_optimization_level = spec.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    if spec.memory_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.memory_mib << 20)
    if spec.shapes.dynamic:
        profile = builder.create_optimization_profile()
        for name in spec.shapes.inputs:
            profile.set_shape(name, *(spec.shapes.of(name, which) for which in ("min", "opt", "max")))
        config.add_optimization_profile(profile)
    known = files.timing_cache.read_bytes() if files.timing_cache.is_file() else b""
    cache = config.create_timing_cache(known)
    config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineFailed("TensorRT built no plan")
    files.timing_cache.write_bytes(bytes(cache.serialize()))
    return bytes(plan)


def _time(trt: Any, engine: Any, spec: Spec, files: Files, device: Device) -> None:
    """Run it at the opt shapes, write layers.json, times.json and profile.json as trtexec does."""
    context = engine.create_execution_context()
    for name in spec.shapes.inputs:
        context.set_input_shape(name, spec.shapes.of(name, "opt"))
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        size = trt.volume(context.get_tensor_shape(name)) * engine.get_tensor_dtype(name).itemsize
        context.set_tensor_address(name, device.zeros(size))
    for _ in range(WARM_UP):
        device.time(context.execute_async_v3)
    times = [device.time(context.execute_async_v3) for _ in range(RUNS)]
    files.times.write_text(json.dumps([{"computeMs": one, "latencyMs": one} for one in times]) + "\n")
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context  # of dynamic shapes the formats are known only so
    files.layers.write_text(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    profiler = _profiler(trt)
    context.profiler = profiler
    for _ in range(RUNS):
        device.time(context.execute_async_v3)
    total = sum(map(sum, profiler.times.values())) or 1.0
    rows = [
        {"name": name, "timeMs": sum(one), "averageMs": sum(one) / len(one), "percentage": 100 * sum(one) / total}
        for name, one in profiler.times.items()
    ]
    files.profile.write_text(json.dumps([{"count": RUNS}, *rows], indent=1) + "\n")


def _profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(ms)

    return Profiler()

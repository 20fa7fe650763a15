"""TensorRT plans: a variant's typed graph, built and timed on the GPU that runs it, the precision of its layers proven.

A plan fits one GPU architecture and one TensorRT version, so it is never in model_repository/ and never in DVC: it is
in `build/engines/`, keyed by what it was made of.
"""

from model_build.engine._errors import EngineError, EngineFailed, NoGpu, PrecisionRefused, ToolMissing
from model_build.engine.building import Built, build_engine
from model_build.engine.explaining import Explanation, explain
from model_build.engine.source import Source, find_sources
from model_build.engine.spec import Spec

__all__ = [
    "Built",
    "EngineError",
    "EngineFailed",
    "Explanation",
    "NoGpu",
    "PrecisionRefused",
    "Source",
    "Spec",
    "ToolMissing",
    "build_engine",
    "explain",
    "find_sources",
]

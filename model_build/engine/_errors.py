"""What can go wrong when a plan is built, each with the exit code of `slipway engine`.

BuildError
├── ConfigurationError     a model that has no engine, shapes that cannot be
├── DataError              the variant is not built, or is not the file that was built
└── EngineError
    ├── EngineFailed       TensorRT did not build it
    ├── NoGpu              there is no GPU here
    ├── PrecisionRefused   it was built, and computes in another precision than asked for
    └── ToolMissing        a GPU, but no TensorRT that builds typed graphs
"""

from __future__ import annotations

from model_build._errors import BuildError


class EngineError(BuildError):
    """One line; `code` is the exit code."""

    code = 1


class EngineFailed(EngineError):
    """TensorRT did not build it."""


class ToolMissing(EngineError):
    """A GPU is here, and no TensorRT that builds typed graphs."""


class NoGpu(EngineError):
    """There is no GPU here."""

    code = 5


class PrecisionRefused(EngineError):
    """It was built, and computes in another precision than asked for."""

    code = 3

"""What this machine has and what Slipway needs of it, told before anything fails: the engine of `slipway doctor`."""

from serving.preflight._check import Check, Report, Status
from serving.preflight._examine import examine
from serving.preflight._image import IMAGE, Architecture, GpuImage
from serving.preflight._machine import Machine

__all__ = ["IMAGE", "Architecture", "Check", "GpuImage", "Machine", "Report", "Status", "examine"]

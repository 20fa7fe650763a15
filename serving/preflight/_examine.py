"""Everything that is looked at, in the order in which it is told."""

from __future__ import annotations

from pathlib import Path

from serving._server import ServerOptions
from serving.preflight import _cgroup, _cpu, _gpu, _nvidia, _ports, _resources, _software
from serving.preflight._check import Report
from serving.preflight._image import IMAGE, GpuImage
from serving.preflight._machine import Machine


def examine(
    workspace: Path,
    options: ServerOptions,
    gpu: bool | None = None,
    machine: Machine | None = None,
    image: GpuImage = IMAGE,
) -> Report:
    """Compare this machine with what a build, `slipway serve` and the GPU image need. Nothing is changed.

    Args:
        workspace: the folder whose disk and environments are looked at.
        options: what would be served, and where it would listen.
        gpu: True: a GPU has to be there. None: one that is there has to fit. False: CPUs serve, whatever is there.
        machine: the machine; this one by default.
        image: the GPU image.
    """
    machine = machine or Machine()
    limits = _cgroup.limits(machine)
    return Report(
        (
            _software.system(machine),
            *_software.software_checks(machine, workspace),
            _resources.processor(machine, limits),
            _cpu.instruction_sets(machine),
            _resources.memory(machine, limits),
            _resources.disk(machine, workspace),
            _resources.shared_memory(machine, options.repository),
            *_ports.port_checks(options, machine),
            *_gpu.gpu_checks(_nvidia.ask(machine), image, gpu),
        ),
        image,
    )

"""What nvidia-smi says of the GPUs, or in one line why it says nothing."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass

from serving.preflight._image import Capability
from serving.preflight._machine import Machine

FIELDS = ("name", "driver_version", "memory.total", "compute_cap")  # compute_cap last: drivers before R510 lack it

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASSES = ("0x0300", "0x0302")  # VGA and 3D controllers; the same card's audio function is 0x0403

# What nvidia-smi prints (most of it to stdout), and what helps. The first that fits is taken.
_REMEDIES = (
    ("version mismatch", "the loaded kernel module is not of the installed driver: restart the machine"),
    ("communicate with the nvidia driver", "the driver's kernel module is not loaded: install it for this kernel"),
    ("no devices were found", "no GPU is visible here; in a container, start it with --gpus all"),
    ("insufficient permissions", "this user may not open /dev/nvidia*: run as one who may"),
    ("gpu is lost", "the GPU fell off the bus: look for NVRM and Xid in `dmesg`, then restart the machine"),
    ("device handle", "a GPU does not answer: look for NVRM and Xid in `dmesg`, then restart the machine"),
)


@dataclass(frozen=True)
class Gpu:
    """A GPU; None is what nvidia-smi did not know."""

    name: str
    driver: str | None
    memory_mib: int | None
    capability: Capability | None


@dataclass(frozen=True)
class Answer:
    """The GPUs, or why there are none: `failure` says what was seen, `remedy` what helps."""

    gpus: tuple[Gpu, ...] = ()
    failure: str = ""
    remedy: str = ""

    def __bool__(self) -> bool:
        return bool(self.gpus)


def ask(machine: Machine) -> Answer:
    """Ask nvidia-smi for every GPU; an answer for every way in which it can fail, within `machine.patience`."""
    program = shutil.which("nvidia-smi", path=machine.path)
    if program is None:
        return _without_program(machine)
    code, output = _run(program, FIELDS, machine.patience)
    if code not in (0, None) and "compute_cap" in output:  # 'Field "compute_cap" is not a valid field to query.'
        code, output = _run(program, FIELDS[:-1], machine.patience)
    if code is None:
        return Answer(failure=output, remedy="the driver hangs or is broken: look for NVRM and Xid in `dmesg`")
    if code != 0 or "no devices were found" in output.lower():
        line = next(filter(None, map(str.strip, output.splitlines())), "it printed nothing")
        return Answer(failure=f"nvidia-smi fails with exit code {code}: {line[:200]}", remedy=_remedy(output))
    return parse(output)


def parse(output: str) -> Answer:
    """The rows that nvidia-smi printed for FIELDS as CSV without header and units."""
    rows = [row for row in csv.reader(output.splitlines(), skipinitialspace=True) if any(row)]
    gpus = [_gpu([value.strip() for value in row]) for row in rows]
    if not gpus:
        return Answer(failure="nvidia-smi lists no GPU", remedy=_remedy("no devices were found"))
    if None in gpus:
        odd = ", ".join(rows[gpus.index(None)])[:100]
        return Answer(failure=f"nvidia-smi answers what is no GPU: '{odd}'", remedy="run `nvidia-smi` and see")
    return Answer(gpus=tuple(gpu for gpu in gpus if gpu is not None))


def _gpu(row: list[str]) -> Gpu | None:
    if len(row) not in (len(FIELDS), len(FIELDS) - 1) or not row[0]:
        return None
    name, driver, memory, capability = (*row, "")[: len(FIELDS)]
    known = re.fullmatch(r"(\d+)\.(\d+)", capability)
    return Gpu(
        name=name,
        driver=driver if re.fullmatch(r"\d+(\.\d+)+", driver) else None,  # [N/A], [Unknown Error], ...
        memory_mib=int(memory) if memory.isdecimal() else None,
        capability=(int(known[1]), int(known[2])) if known else None,
    )


def _run(program: str, fields: tuple[str, ...], patience: float) -> tuple[int | None, str]:
    """Exit code and all output; None and a reason where it did not start or did not end in `patience` seconds."""
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return None, f"{program} cannot be run ({error.strerror})"
    try:
        output, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        _abandon(process)
        return None, f"nvidia-smi did not answer within {patience:g} s"
    return process.returncode, output


def _abandon(process: subprocess.Popen[str]) -> None:
    """Kill it, and wait no longer than a moment: in a driver that hangs, a process does not even end by SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    if process.stdout:
        process.stdout.close()


def _without_program(machine: Machine) -> Answer:
    """A GPU or a driver can be there all the same: then its absence from the PATH is what is wrong."""
    if (version := machine.read("proc/driver/nvidia/version")) is not None:
        loaded = re.search(r"\d+\.\d+(\.\d+)?", version)
        return Answer(
            failure=f"driver {loaded[0] if loaded else ''} is loaded, and no nvidia-smi is on the PATH",
            remedy="install the driver's utilities, or put nvidia-smi on the PATH",
        )
    if _on_the_bus(machine):
        return Answer(failure="an NVIDIA GPU is on the bus, without a driver", remedy="install NVIDIA's driver")
    return Answer(failure="none (no nvidia-smi on the PATH)")


def _on_the_bus(machine: Machine) -> bool:
    folders = (f"sys/bus/pci/devices/{path.name}" for path in machine.root.glob("sys/bus/pci/devices/*"))
    found = ((machine.read(f"{folder}/vendor"), machine.read(f"{folder}/class")) for folder in folders)
    return any(
        (vendor or "").strip() == _NVIDIA_VENDOR and (kind or "").startswith(_DISPLAY_CLASSES) for vendor, kind in found
    )


def _remedy(output: str) -> str:
    lower = output.lower()
    return next((remedy for words, remedy in _REMEDIES if words in lower), "run `nvidia-smi` and see")

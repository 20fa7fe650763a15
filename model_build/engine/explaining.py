"""What would be run, and why: also without a GPU and without TensorRT."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model_build.engine._errors import NoGpu
from model_build.engine.flags import Flag, find_flags
from model_build.engine.spec import Files, Spec
from model_build.engine.store import Store
from model_build.engine.tools import ASSUMED, PythonApi, find_gpu, find_tool
from model_build.target import TARGET


@dataclass(frozen=True)
class Explanation:
    """A command and its reasons.

    Attributes:
        notes: what was assumed, and what the plan is called.
        command: as a shell takes it.
        flags: those that are there, then those that are not.
    """

    notes: Sequence[str]
    command: str
    flags: Sequence[Flag]

    @property
    def rows(self) -> list[list[str]]:
        """Header and one line for each flag."""
        lines = [["flag", "", "why"]]
        return lines + [[flag.name, "there" if flag.present else "absent", flag.why] for flag in self.flags]


def explain(workspace: Path, spec: Spec, *, trtexec_command: str | None = None) -> Explanation:
    """The command that would build a plan, with the versions that are here, else with those that Triton carries.

    Args:
        workspace: the folder with dvc.yaml.
        spec: what would be built.
        trtexec_command: how trtexec is called.

    Raises:
        EngineError: there are GPUs of several kinds.
        ToolMissing: trtexec cannot be called, or TensorRT is too old.
    """
    source, notes = spec.source, []
    program, version, capability = ["trtexec"], ASSUMED, None
    try:
        capability = find_gpu(source.config.name).capability
    except NoGpu:
        notes.append("no GPU is here: its compute capability is part of KEY")
    tool = find_tool(workspace, trtexec_command)
    if tool is None:
        notes.append(
            f"no TensorRT is here: {version} is assumed, which Triton {TARGET.triton_release} carries; its exact "
            "version is part of KEY"
        )
    else:
        version = tool.version
        if isinstance(tool, PythonApi):
            notes.append("no trtexec is here: the Python package tensorrt makes the same settings")
        else:
            program = [*tool.command]
    key = spec.key(capability, str(version)) if capability and tool else "KEY"
    files = Store(workspace).files(source.served, key)
    notes.append("written to a folder beside that one, which takes its name when its layers are proven")
    shown = Files(files.folder.relative_to(workspace))
    flags = [_relative(flag, workspace) for flag in find_flags(spec, version, shown)]
    return Explanation(notes, shlex.join([*program, *(str(flag) for flag in flags if flag.present)]), flags)


def _relative(flag: Flag, workspace: Path) -> Flag:
    if flag.value is None:
        return flag
    return Flag(flag.name, flag.why, flag.value.replace(f"{workspace}/", ""), flag.present)

"""Where a build comes from: the commit, and the tools that made it."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Commit:
    """A git commit; `dirty` when tracked files differ from it, other than those a build writes itself.

    Outside of git, `sha` is "unknown".
    """

    sha: str
    dirty: bool

    def __str__(self) -> str:
        return self.sha + (" with changes" if self.dirty else "")

    @classmethod
    def of(cls, workspace: Path) -> Commit:
        """The commit that `workspace` is at."""
        sha = _git(workspace, "rev-parse", "HEAD")
        if sha is None:
            return cls("unknown", False)
        written = (":!dvc.lock", ":!model_repository")
        return cls(sha, bool(_git(workspace, "status", "--porcelain", "--untracked-files=no", "--", ".", *written)))


def tool_versions() -> dict[str, str]:
    """Versions of what takes part in a build."""
    return {"python": platform.python_version(), **{tool: version(tool) for tool in TOOLS}}


def _git(workspace: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", workspace, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None

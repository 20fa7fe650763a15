"""Whose a file is: the user's, of whom nobody else notices a change, or the system's, a package's, a cache's."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

FRAMEWORK = Path(__file__).resolve().parents[1]
# Beside model_build in a clone; model_build/models/ and conf/ hold recipes, which are looked at as the user's are.
_FRAMEWORK_PARTS = ("client", "serving", "loadtest", "charts", "k8s", "slipway.py")
_RECIPES = (FRAMEWORK / "model_build" / "models", FRAMEWORK / "model_build" / "conf")
_SYSTEM = ("/usr", "/etc", "/proc", "/sys", "/dev", "/lib", "/lib64", "/bin", "/sbin", "/run", "/var/cache", "/var/lib")
_WORKSPACE_OWN = (".git", ".dvc", ".venv", ".venv-triton", "build/mlflow")


def is_users(path: Path, workspace: Path | None = None) -> bool:
    """Whether a file or folder (resolved) is neither installed, nor Slipway's, nor a cache, nor a tool's own.

    Args:
        path: resolved.
        workspace: resolved, where it is known: what git, DVC and MLflow keep there is theirs.
    """
    if any(path.is_relative_to(one) for one in _installed(workspace)):
        return False
    if path.is_relative_to(FRAMEWORK / "model_build"):
        return any(path.is_relative_to(one) for one in _RECIPES)
    if any(path.is_relative_to(FRAMEWORK / one) for one in _FRAMEWORK_PARTS):
        return False
    if workspace and path.is_relative_to(workspace):
        return not any(path.is_relative_to(workspace / one) for one in _WORKSPACE_OWN)
    home = Path.home()
    if path.is_relative_to(home) and any(part.startswith(".") for part in path.relative_to(home).parts):
        return False  # settings and caches
    return not any(part.startswith("torchinductor_") for part in path.parts)


@functools.cache
def _installed(workspace: Path | None) -> Sequence[Path]:
    paths = sysconfig.get_paths()
    names = {sys.prefix, sys.base_prefix, *_SYSTEM, *(paths[one] for one in ("stdlib", "platlib", "purelib"))}
    found = {Path(one).resolve() for one in names}
    around = [folder for folder in (workspace, FRAMEWORK) if folder]
    return sorted(one for one in found if not any(folder.is_relative_to(one) for folder in around))

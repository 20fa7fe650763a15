"""Whose a file is: the user's, of whom nobody else notices a change, or the system's, a package's, a cache's."""

from __future__ import annotations

import functools
import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
_FRAMEWORK = ("serving", "slipway_client", "slipway", "loadtest")  # and this package, but for
_RECIPES = (PACKAGE / "models", PACKAGE / "conf")  # which are looked at as the user's are
_SYSTEM = ("/usr", "/etc", "/proc", "/sys", "/dev", "/lib", "/lib64", "/bin", "/sbin", "/run", "/var/cache", "/var/lib")
_WORKSPACE_OWN = (".git", ".dvc", ".dvcignore", ".venv", ".venv-triton", "build/mlflow", "dvc.lock", "dvc.yaml")


def is_users(path: Path, workspace: Path) -> bool:
    """Whether a file or folder is neither installed, nor Slipway's, nor a cache, nor a tool's own.

    Args:
        path: absolute.
        workspace: resolved; what git, DVC and MLflow keep there is theirs.
    """
    if any(path.is_relative_to(one) for one in _framework()):
        return False
    for one in _installed():
        inner = [folder for folder in (workspace, PACKAGE) if folder.is_relative_to(one)]  # in /usr/src, perhaps
        if path.is_relative_to(one) and not any(path.is_relative_to(folder) for folder in inner):
            return False
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False  # of another environment, as the server's
    if path.is_relative_to(PACKAGE):
        return any(path.is_relative_to(one) for one in _RECIPES)
    if path.is_relative_to(workspace):
        return not any(path.is_relative_to(workspace / one) for one in _WORKSPACE_OWN)
    home = Path.home()
    if path.is_relative_to(home) and any(part.startswith(".") for part in path.relative_to(home).parts):
        return False  # settings and caches
    return not any(part.startswith("torchinductor_") or part.endswith(".egg-info") for part in path.parts)


def beginnings_of_installed(workspace: Path) -> tuple[str, ...]:
    """What a path begins with that is surely nobody's own: cheap to ask of the thousands of files that imports open."""
    roots = [one for one in _installed() if not any(folder.is_relative_to(one) for folder in (workspace, PACKAGE))]
    return tuple(f"{one}/" for one in roots)


@functools.cache
def _framework() -> Sequence[Path]:
    """Folders of Slipway's other packages, and its one module, wherever each is installed from."""
    found = [importlib.util.find_spec(name) for name in _FRAMEWORK]
    origins = [Path(one.origin).resolve() for one in found if one and one.origin]
    return [origin.parent if origin.name == "__init__.py" else origin for origin in origins]


@functools.cache
def _installed() -> Sequence[Path]:
    paths = sysconfig.get_paths()
    names = {sys.prefix, sys.base_prefix, *_SYSTEM, *(paths[one] for one in ("stdlib", "platlib", "purelib"))}
    return sorted({Path(one).resolve() for one in names})

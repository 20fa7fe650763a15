"""Modules of a model's own: two models may each have a `decoding.py`, and neither is this process's."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# sys.modules and sys.path belong to the whole process: one model's code runs at a time.
_LOCK = threading.RLock()


class ModelModules:
    """The modules that lie in `folder` or in its version, importable while the model's code runs and only then.

    A server's Python backend appends both folders to `sys.path` of the model's own process and imports `1.model`, so
    a model may say `import decoding` as well as `from . import decoding`. Here they come first in `sys.path`: what
    lies in the current folder must not take the place of the model's own.
    """

    def __init__(self, folder: Path, version: str, backend: ModuleType) -> None:
        self._folder = folder.resolve()
        self._version = version
        self._path = [str(self._folder / version), str(self._folder)]
        self._added: list[str] = []  # what the model itself put into sys.path
        self._modules = {backend.__name__: backend}

    def load(self, stem: str) -> ModuleType:
        """Import the file `stem`.py of the version; call it while the modules are `visible`."""
        importlib.invalidate_caches()
        return importlib.import_module(f"{self._version}.{stem}")

    @contextlib.contextmanager
    def visible(self) -> Iterator[None]:
        """Put the model's modules in place of this process's of the same names; afterwards the other way round.

        What the model prints goes to standard error, as a server's log does, and no `__pycache__` is written into the
        repository.
        """
        with _LOCK, contextlib.redirect_stdout(sys.stderr):
            before, path, no_bytecode = dict(sys.modules), list(sys.path), sys.dont_write_bytecode
            names = self._names()
            for module in before:
                if _top(module) in names:
                    del sys.modules[module]
            sys.modules.update(self._modules)
            sys.path[:] = [*self._path, *path, *self._added]
            sys.dont_write_bytecode = True
            try:
                yield
            finally:
                for module, content in list(sys.modules.items()):
                    if _top(module) in names or (module not in before and self._holds(content)):
                        self._modules[module] = sys.modules.pop(module)
                sys.modules.update({name: module for name, module in before.items() if _top(name) in names})
                self._added = [entry for entry in sys.path if entry not in (*self._path, *path)]
                sys.path[:] = path
                sys.dont_write_bytecode = no_bytecode

    def _names(self) -> set[str]:
        """Top-level names that are the model's: a module of Python's own library stays what it is."""
        found = {self._version, *map(_top, self._modules)}
        for folder in (self._folder / self._version, self._folder):
            found |= {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
        return found - sys.stdlib_module_names

    def _holds(self, module: ModuleType) -> bool:
        file = getattr(module, "__file__", None)
        return isinstance(file, str) and self._folder in Path(file).resolve().parents


def _top(module: str) -> str:
    return module.partition(".")[0]

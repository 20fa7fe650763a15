"""A stage that reads a file which nobody hashes is refused, at the moment when it reads.

Else a later change of that file would leave the old model "up to date". What is seen: files and folders that Python
opens or lists (its audit events, https://peps.python.org/pep-0578/), files that a command line names, and those that
the readers in `_READERS` open in C++ or Rust.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import shlex
import stat
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from model_build._errors import ConfigurationError
from model_build.config import CONFIG_DIRECTORY, ModelConfig
from model_build.imports import own_modules
from model_build.places import beginnings_of_installed, is_users
from model_build.sources import PIPELINE, data_path, pipeline_files, watches_sources
from model_build.stages.layout import BuildFiles

# Module, class or function, and which of its arguments is a path; each reads without Python's `open`.
_READERS = (
    ("onnxruntime", "InferenceSession", 0),
    ("safetensors", "safe_open", 0),
    ("safetensors.torch", "safe_open", 0),
    ("torch.jit", "load", 0),
    ("torch.export", "load", 0),
    ("torch", "from_file", 0),
    ("torch", "UntypedStorage.from_file", 0),
    ("tokenizers", "Tokenizer.from_file", 0),
)
_IMPORTER = "<frozen importlib._bootstrap_external>"


class _Watch:
    """What one stage may read, and what it has read beside that."""

    def __init__(self, workspace: Path, config: ModelConfig) -> None:
        self.workspace = workspace.resolve()
        self.config = config
        conf = self.workspace / CONFIG_DIRECTORY / f"{config.name}.yaml"
        data = data_path(workspace, config)
        given = [workspace / one for one in config.files] + ([data] if data else [])
        self.pipeline = pipeline_files(workspace, config.name)
        # From their text: the recipe is imported only when it is watched.
        modules = own_modules(config.recipe, self.workspace)
        known = [*modules, *given, conf]
        absolute = [Path(_absolute(one)) for one in known]
        self.known = [*self.pipeline, *absolute, *(one.resolve() for one in known)]
        self.since = time.time_ns() - 20_000_000  # file systems take a clock that is some milliseconds behind
        self.seen: set[str] = set()
        self.installed = beginnings_of_installed(self.workspace)
        self.local = threading.local()
        self.refusals = tempfile.TemporaryFile("a+", encoding="utf-8")  # noqa: SIM115 - forked processes have it too

    def refused(self) -> str:
        """Return why the first file was refused, in this process or in one that was forked; empty where none was."""
        self.refusals.seek(0)
        return self.refusals.readline().rstrip("\n")

    def read(self, name: object, folder: object = None, listed: bool = False) -> None:
        """Refuse a file or, where it is `listed`, a folder that is the user's and that nothing hashes."""
        if getattr(self.local, "checking", False) or not isinstance(name, str | bytes | os.PathLike):
            return
        given = os.fsdecode(folder) if isinstance(folder, str | bytes | os.PathLike) else ""
        path = _absolute(os.path.join(given, os.fsdecode(name)))  # noqa: PTH118 - of many thousand files
        if path in self.seen or path.startswith(self.installed):
            return
        self.seen.add(path)
        self.local.checking = True  # what is looked at from here is read by nobody
        try:
            unknown = self._is_unknown(Path(path), listed)
            external = [] if unknown or listed else self._external(Path(path))
        finally:
            self.local.checking = False
        if unknown:
            refusal = self._refusal(Path(path), listed)
            self.refusals.write(f"{refusal}\n")
            self.refusals.flush()
            raise ConfigurationError(refusal)
        for beside in external:
            self.read(beside)

    def wrote(self, name: object) -> None:
        """Take a file for the stage's own from here on."""
        if isinstance(name, str | bytes | os.PathLike):
            self.seen.add(_absolute(os.fsdecode(name)))

    def _is_unknown(self, path: Path, listed: bool) -> bool:
        try:
            found = path.stat()
        except (OSError, ValueError):
            return False
        if listed != stat.S_ISDIR(found.st_mode) or not (listed or stat.S_ISREG(found.st_mode)):
            return False
        if path.suffix == ".pyc":
            with contextlib.suppress(ValueError):  # one that lies beside no source
                path = Path(importlib.util.source_from_cache(str(path)))
        if listed and str(path) in sys.path:
            return False  # who looks for packages does so
        resolved = path.resolve()
        for one in (path, resolved):  # what DVC made may be a link to its cache, wherever that is
            if any(one.is_relative_to(known) for known in self.known) or not is_users(one, self.workspace):
                return False
        if found.st_ctime_ns >= self.since:
            return False  # the stage has made it, perhaps as a copy that keeps the time of its content
        if listed:  # the workspace cannot be declared, nor a folder of what the stages have made
            made = any(one.is_relative_to(resolved) for one in self.pipeline)
            return not (made or self.workspace.is_relative_to(resolved) or Path.home().is_relative_to(resolved))
        return True

    def _external(self, path: Path) -> list[Path]:
        """Files beside an ONNX file of the user's in which its weights lie."""
        if path.suffix != ".onnx" or path in self.pipeline or not is_users(path.resolve(), self.workspace):
            return []
        with contextlib.suppress(OSError, DecodeError):
            model = onnx.load(path, load_external_data=False)
            entries = (entry for one in model.graph.initializer for entry in one.external_data)
            return [path.parent / one for one in sorted({entry.value for entry in entries if entry.key == "location"})]
        return []

    def _refusal(self, path: Path, listed: bool) -> str:
        inside = path.is_relative_to(self.workspace)
        name = path.relative_to(self.workspace).as_posix() if inside else str(path)
        conf = CONFIG_DIRECTORY / f"{self.config.name}.yaml"
        files = ", ".join(_quoted(one) for one in (*self.config.files, name))
        reads = "lists the folder" if listed else "reads"
        return (
            f"the recipe {reads} {' '.join(name.split())}, which is not declared, so that a change of it "
            f"would leave the old model in place: add it to {conf}: files: [{files}]"
        )


def _quoted(name: str) -> str:
    """As YAML takes it and, but for apostrophes, an override of Hydra's as well."""
    if re.fullmatch(r"[A-Za-z_./][\w./-]*", name, re.ASCII):
        return name
    return json.dumps(name) if not name.isprintable() else "'" + name.replace("'", "''") + "'"


def _absolute(path: str | Path) -> str:
    """Without resolving links: what DVC made may be one to its cache."""
    return os.path.abspath(path)  # noqa: PTH100


_current: _Watch | None = None


@contextlib.contextmanager
def watching(workspace: Path, config: ModelConfig, stage: str) -> Iterator[None]:
    """Refuse, inside the block, to read what is neither declared in the configuration nor known to DVC.

    Raises:
        ConfigurationError: such a file, even where the recipe has caught the error; or the stage in `dvc.yaml` does
            not depend on the hashes.
    """
    global _current
    if not watches_sources(workspace, config.name, stage):
        raise ConfigurationError(
            f"stage {stage} in {PIPELINE} does not depend on {BuildFiles(Path(), '${item.model}').sources}: add it to "
            f"its deps, as in the stages of Slipway's own {PIPELINE}"
        )
    watch = _Watch(workspace, config)
    _install()
    before, _current = _current, watch
    try:
        yield
    finally:
        _current = before
        with watch.refusals:
            refusal = watch.refused()
        if refusal:
            raise ConfigurationError(refusal) from None


@functools.cache
def _install() -> None:
    """Once a process: an audit hook cannot be taken out again."""
    sys.addaudithook(_hook)
    for module, name, position in _READERS:
        with contextlib.suppress(ImportError):
            holder: Any = importlib.import_module(module)
            *path, last = name.split(".")
            for part in path:
                holder = getattr(holder, part)
            found = getattr(holder, last)
            if isinstance(found, type) and found.__module__.startswith("onnxruntime"):
                found.__init__ = _reading(found.__init__, position + 1)  # type: ignore[misc]
            else:
                setattr(holder, last, _reading(found, position))


def _reading(function: Callable[..., Any], position: int) -> Callable[..., Any]:
    """The function, and its path is looked at."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if _current is not None:
            for one in (*arguments[position : position + 1], *named.values()):
                if not isinstance(one, bytes):  # a model itself
                    _current.read(one)
        return function(*arguments, **named)

    return call


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    watch = _current
    if watch is None:
        return
    if event == "open":
        path, _, flags = arguments
        if flags & os.O_TRUNC or flags & os.O_ACCMODE == os.O_WRONLY:
            watch.wrote(path)
        else:
            watch.read(path)
    elif event in ("os.listdir", "os.scandir"):
        if sys._getframe(1).f_code.co_filename != _IMPORTER:  # it looks for modules in every folder of sys.path
            watch.read("." if arguments[0] is None else arguments[0], listed=True)
    elif event == "sqlite3.connect":
        database = arguments[0]
        named = isinstance(database, str) and database.startswith("file:")
        watch.read(urllib.parse.unquote(urllib.parse.urlsplit(database).path) if named else database)
    elif event == "ctypes.dlopen" and isinstance(arguments[0], str) and "/" in arguments[0]:
        watch.read(arguments[0])
    elif event in ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.spawn"):
        command, folder = (arguments[1], arguments[2]) if event == "subprocess.Popen" else (arguments[-2], None)
        _read_command(watch, [command] if isinstance(command, str | bytes) else list(command)[1:], folder)
    elif event == "os.system":
        _read_command(watch, [arguments[0]], None)


def _read_command(watch: _Watch, words: Sequence[object], folder: object) -> None:
    """Look at each file that a command line names, `--option=file` too, and at those in a line for a shell."""
    for word in words:
        text = os.fsdecode(word) if isinstance(word, str | bytes | os.PathLike) else ""
        parts = [text]
        with contextlib.suppress(ValueError):
            parts += shlex.shlex(text, posix=True, punctuation_chars=True)
        for part in parts:
            for one in {part, part.rpartition("=")[2]}:
                if one and len(one) < 4096 and "\0" not in one:
                    watch.read(one, folder)

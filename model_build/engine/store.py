"""Where plans are: `build/engines/SERVED/KEY/`, whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model_build.engine.spec import Files, prefix
from model_build.files import sha256, write_file

SCHEMA_VERSION = 1


class Store:
    """The plans of one workspace.

    Args:
        workspace: the folder with dvc.yaml.
    """

    def __init__(self, workspace: Path) -> None:
        self._folder = workspace / "build" / "engines"

    def files(self, served: str, key: str) -> Files:
        """Where a plan is, or will be."""
        return Files(self._folder / served / key)

    def failed_log(self, served: str, key: str) -> Path:
        """What is left of a build that failed or was refused."""
        return self._folder / served / f"{key}.log"

    def timing_cache(self, capability: str, tensorrt: str) -> Path:
        """Shared by all plans of one kind of GPU and one TensorRT."""
        return self._folder / f"{prefix(capability, tensorrt)}.timing.cache"

    def read(self, files: Files, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a plan that is whole: every file is the one that was built, of the same parts."""
        try:
            record: dict[str, Any] = json.loads(files.record.read_text())
            same = record["identity"] == identity and all(
                sha256(files.folder / name) == about["sha256"] for name, about in record["files"].items()
            )
            return record if same and files.plan.name in record["files"] else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @contextlib.contextmanager
    def building(self, served: str, key: str, timing_cache: Path) -> Iterator[Files]:
        """A folder beside the plan's own, gone at the end unless it was published; the log of a failure is kept."""
        parent = self._folder / served
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        files = Files(parent / f".building.{os.getpid()}")
        files.folder.mkdir()
        try:
            if timing_cache.is_file():
                shutil.copyfile(timing_cache, files.timing_cache)
            yield files
        except BaseException:
            if files.log.is_file():
                files.log.replace(self.failed_log(served, key))
            raise
        finally:
            shutil.rmtree(files.folder, ignore_errors=True)

    def publish(self, built: Files, served: str, key: str, record: Mapping[str, Any], timing_cache: Path) -> Files:
        """Write the record, then rename the folder to its name, and take the timing cache over."""
        final = self.files(served, key)
        if built.timing_cache.is_file():
            built.timing_cache.replace(timing_cache)
        kept = sorted(path for path in built.folder.iterdir() if path.is_file())
        about = {path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for path in kept}
        content = {"schema": SCHEMA_VERSION, **record, "files": about}
        write_file(built.record, json.dumps(content, indent=2).encode() + b"\n")
        if final.folder.exists():  # what is not what was built, or what another process built meanwhile
            stale = final.folder.with_name(f".building.{os.getpid()}.old")
            final.folder.rename(stale)
            shutil.rmtree(stale, ignore_errors=True)
        built.folder.rename(final.folder)
        self.failed_log(served, key).unlink(missing_ok=True)
        return final


def _remove_abandoned(parent: Path) -> None:
    """Remove folders whose builder was killed."""
    for left in parent.glob(".building.*"):
        if not Path(f"/proc/{left.name.split('.')[2]}").exists():
            shutil.rmtree(left, ignore_errors=True)

"""A release as the weights' init container meets it: image, DVC remote, volume."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from serving._lock import folder_md5, md5, object_path
from tests.support import ROOT, environment, error_lines, write_manifest

# `build` is also a folder of a developer's workspace, which is not copied.
MODELS = ("build", "digits")
FROM_GIT = ("config.pbtxt", "labels.txt")
FROM_DVC = ("1/model.onnx", "golden", "manifest.json")


@dataclass(frozen=True)
class Delivery:
    """What the weights' image carries, a DVC remote, a volume, and what must arrive there."""

    image: Path
    remote: Path
    volume: Path
    built: Path
    termination_log: Path

    @property
    def revision(self) -> str:
        return hashlib.sha256((self.image / "dvc.lock").read_bytes()).hexdigest()

    @property
    def pulled(self) -> Path:
        return self.volume / self.revision

    def stored(self, name: str) -> Path:
        """The object of a file in the remote."""
        path = self.built / "digits" / name
        return self.remote / object_path(folder_md5(path) if path.is_dir() else md5(path))

    def command(self, **options: str | Path) -> list[str]:
        given = {
            "workspace": self.image,
            "target": self.volume,
            "remote-url": self.remote,
            "termination-log": self.termination_log,
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        return [sys.executable, "-m", "serving.weights", *(f"--{name}={value}" for name, value in given.items())]

    def pull(
        self, variables: dict[str, str] | None = None, /, **options: str | Path
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(**options),
            cwd=ROOT,
            env=environment(**(variables or {})),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def is_pulled(self) -> bool:
        """Whether the revision is on the volume as it was built, and nothing else."""
        return contents(self.volume) == {f"{self.revision}/{name}": data for name, data in contents(self.built).items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_delivery(folder: Path) -> Delivery:
    """Two models, as `slipway build`, `slipway push` and the image's Dockerfile leave them."""
    image, remote, built = folder / "image", folder / "remote", folder / "built"
    stages: dict[str, dict[str, object]] = {}
    lock: dict[str, dict[str, object]] = {}
    for name in MODELS:
        model = built / name
        for part in ("1", "golden"):
            (model / part).mkdir(parents=True)
        for file in ("1/model.onnx", "golden/request.json", "golden/response.json", *FROM_GIT):
            (model / file).write_text(f"{file} of {name}")
        write_manifest(model)
        outs: list[dict[str, object]] = []
        for part in (*FROM_DVC, *FROM_GIT):
            content = model / part
            digest = folder_md5(content) if content.is_dir() else md5(content)
            outs.append(
                {"path": f"model_repository/{name}/{part}", "md5": digest, "hash": "md5", "size": _size(content)}
            )
            if part in FROM_DVC:
                _store(remote, content, digest)
            else:
                copy = image / "model_repository" / name / part
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(content, copy)
        paths = {str(out["path"]): {"cache": Path(str(out["path"])).name not in FROM_GIT} for out in outs}
        stages[name] = {"cmd": "false", "outs": [{path: settings} for path, settings in paths.items()]}
        lock[name] = {"cmd": "false", "outs": outs}
    (image / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (image / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    return Delivery(image, remote, folder / "volume", built, folder / "termination-log")


def _size(path: Path) -> int:
    return sum(len(data) for data in contents(path).values()) if path.is_dir() else path.stat().st_size


def _store(remote: Path, content: Path, digest: str) -> None:
    """What `dvc push` writes: each file under its md5, and the listing of a folder."""
    files = {md5(path): path for path in (content.iterdir() if content.is_dir() else [content])}
    objects = {name: path.read_bytes() for name, path in files.items()}
    if content.is_dir():
        entries = [{"md5": name, "relpath": path.name} for name, path in files.items()]
        objects[digest] = json.dumps(sorted(entries, key=lambda entry: entry["relpath"])).encode()
    for name, data in objects.items():
        path = remote / object_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def refused(delivery: Delivery, result: subprocess.CompletedProcess[str]) -> str:
    """The sentence of a pull that failed and left nothing: the last line of stderr, and what Kubernetes shows."""
    assert result.returncode == 1
    sentence = error_lines(result)[-1].removeprefix("error: ")
    assert delivery.termination_log.read_text() == sentence
    assert list(delivery.volume.iterdir()) == []
    return sentence

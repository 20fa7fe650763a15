"""A release: the models that one dvc.lock names. Its weights are sent to the store, its Helm values printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from serving._errors import LockError, PushError, ReleaseError
from serving._lock import Release, changed, md5

LOCK = "dvc.lock"


def read(workspace: Path) -> Release:
    """The release that the workspace holds.

    Raises:
        LockError: there is none, or a file of the model repository is not the one that dvc.lock names.
    """
    release = Release.read(workspace / LOCK)
    # Weights may be absent, in a clone that only deploys; what is there must be what the lock says.
    present = [output for output in release.outputs if (workspace / output.path).exists()]
    if wrong := changed(workspace, present):
        model = Path(wrong[0]).parts[1]
        raise LockError(
            f"{wrong[0]} is not the file that {LOCK} names: run `slipway build {model}`, or `dvc checkout` to take "
            "back the change"
        )
    return release


def push(workspace: Path, remote: str | None) -> tuple[Release, int]:
    """Send the weights to a DVC remote (None: the default one); return the release and how many objects were sent.

    Raises:
        LockError: there is no release.
        PushError: no such remote, it refuses or does not answer, or a file is not here to be sent.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    release = read(workspace)
    if absent := [output.path for output in release.outputs if not (workspace / output.path).exists()]:
        raise PushError(f"{absent[0]} is not here: run `slipway build {Path(absent[0]).parts[1]}`, or `dvc pull`")
    try:
        with Repo(str(workspace)) as repo:
            name, url = _remote(repo, remote)
            try:
                return release, _send(repo, release, name)
            except DvcException:
                raise
            except Exception as error:
                # s3fs and botocore have no common error; the deepest one is the cause.
                reason = list(_causes(error))[-1]
                text = " ".join(str(reason).split())
                raise PushError(f"cannot push to {url}: {type(reason).__name__}: {text}") from error
    except DvcException as error:
        raise PushError(f"DVC: {error}") from error


def _remote(repo: Any, name: str | None) -> tuple[str, str]:
    """Name and URL of the remote."""
    name = name or repo.config["core"].get("remote")
    if name is None or name not in repo.config["remote"]:
        raise PushError(
            f"no DVC remote {f'is named {name}' if name else 'is configured'}: run `dvc remote add --default NAME "
            "s3://bucket/prefix`, and for a store other than Amazon's `dvc remote modify NAME endpointurl URL`"
        )
    return name, str(repo.config["remote"][name]["url"])


def _send(repo: Any, release: Release, remote: str) -> int:
    """Push, and see every object in the store."""
    sent = int(repo.push(targets=release.stages, remote=remote))
    store = repo.cloud.get_remote_odb(remote)
    # DVC takes a folder for complete whose listing is in the store: files that were deleted there it would not send.
    incomplete = [
        output.md5 for output in release.outputs if output.is_folder and _absent(store, _files(repo, output.path))
    ]
    for listing in incomplete:
        store.delete(listing)
    if incomplete:
        sent += int(repo.push(targets=release.stages, remote=remote))
    cached = [output.md5 for output in release.outputs if repo.cache.local.exists(output.md5)]
    if absent := _absent(store, cached):
        raise PushError(f"{len(absent)} objects did not reach the store, {absent[0]} first: run it again")
    return sent


def _files(repo: Any, folder: str) -> list[str]:
    return [md5(path) for path in (Path(repo.root_dir) / folder).rglob("*") if path.is_file()]


def _absent(store: Any, objects: list[str]) -> list[str]:
    return sorted(set(objects) - set(store.list_oids_exists(objects)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


# Where the chart takes each image of skaffold.yaml.
IMAGE_VALUES = {
    "slipway-cpu": "server",
    "slipway-gpu": "gpu",
    "slipway-loadtest": "loadtest",
    "slipway-weights": "weights",
}


class _Text(str):
    """A string in quotation marks: to Helm's YAML a hash such as 12e34 is a number."""


yaml.SafeDumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, '"'))


def read_images(file: Path) -> dict[str, str]:
    """References by image name, from what `skaffold build --file-output=FILE` wrote.

    Raises:
        ReleaseError: the file is absent, is not skaffold's, or names none of the chart's images.
    """
    try:
        builds = json.loads(file.read_text())["builds"]
        # With a default repository the names are its own: registry.example.com/ml/slipway-cpu.
        images = {str(build["imageName"]).rpartition("/")[2]: str(build["tag"]) for build in builds}
    except FileNotFoundError as error:
        raise ReleaseError(f"{file} does not exist: run `skaffold build --file-output={file}`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{file} is not what `skaffold build --file-output={file}` writes ({error!r})") from error
    known = {name: reference for name, reference in images.items() if name in IMAGE_VALUES}
    if "slipway-weights" not in known:
        raise ReleaseError(f"{file} names no slipway-weights: run `skaffold build --file-output={file}` in this folder")
    return known


def helm_values(release: Release, commit: str, images: dict[str, str]) -> str:
    """The Helm values that pin a release, as YAML: its revision and the images it was built with."""
    values: dict[str, Any] = {"weights": {"revision": _Text(release.revision)}}
    for name, reference in sorted(images.items()):
        values.setdefault(IMAGE_VALUES[name], {})["image"] = _image(reference)
    if "slipway-gpu" in images:
        values["gpu"]["enabled"] = True
    return f"# {', '.join(release.models)}; commit {commit}\n" + yaml.safe_dump(values, sort_keys=False)


def _image(reference: str) -> dict[str, str]:
    """Repository, tag and digest; the port of a registry is no tag."""
    name, _, digest = reference.partition("@")
    folder, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return {"repository": f"{folder}{slash}{last}", "tag": _Text(tag), "digest": digest}

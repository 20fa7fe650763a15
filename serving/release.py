"""A release: the models that one dvc.lock names. Its weights are sent to the store, its Helm values printed."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from serving._errors import LockError, PushError, ReleaseError
from serving._lock import REPOSITORY, Release, changed, files, has_other_line_ends, is_as_named, object_path
from serving._repository import built_by, crlf_remedy
from serving._store import causes

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
        if all(has_other_line_ends(workspace, output) for output in present if output.path in wrong):
            raise LockError(f"{wrong[0]} is not the file that {LOCK} names: {crlf_remedy(workspace, LOCK, REPOSITORY)}")
        model = built_by(workspace / REPOSITORY / Path(wrong[0]).parts[1])
        raise LockError(
            f"{wrong[0]} is not the file that {LOCK} names: run `slipway build {model}`, or "
            "take back the change, with `git checkout` of a configuration, `dvc checkout` of anything else"
        )
    return release


def push(workspace: Path, remote: str | None) -> tuple[Release, int]:
    """Send the weights to a DVC remote (None: the default one); return the release and how many objects were sent.

    Raises:
        LockError: there is no release.
        PushError: no such remote, it refuses or does not answer, or a file is not here to be sent.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    release = read(workspace)
    if absent := [output.path for output in release.outputs if not (workspace / output.path).exists()]:
        model = built_by(workspace / REPOSITORY / Path(absent[0]).parts[1])
        raise PushError(
            f"{absent[0]} is not here: run `slipway build {model}`, or `dvc pull` its stage (`dvc stage list`)"
        )
    address = "the DVC remote"
    try:
        with _caught() as logged, Repo(str(workspace)) as repo, lock_repo(repo):
            name, address = _remote(repo, remote)
            return release, _send(repo, release, name)
    except PushError:
        raise
    except Exception as error:
        if isinstance(error, DvcException) and not logged:
            raise PushError(f"DVC: {' '.join(str(error).split())}") from error
        raise PushError(_explain(address, logged[0] if logged else error)) from error


def _remote(repo: Any, name: str | None) -> tuple[str, str]:
    """Name and address of the remote."""
    name = name or repo.config["core"].get("remote")
    if name is None or name not in repo.config["remote"]:
        raise PushError(
            f"no DVC remote {f'is named {name}' if name else 'is configured'}: run `dvc remote add --default NAME "
            "s3://bucket/prefix`, and for a store other than Amazon's `dvc remote modify NAME endpointurl URL`"
        )
    settings = repo.config["remote"][name]
    if settings["url"].startswith("s3:"):
        settings.setdefault("connect_timeout", 5)  # seconds; botocore's own are 60, tried five times
    return name, f"{settings['url']} at {settings['endpointurl']}" if "endpointurl" in settings else settings["url"]


def _send(repo: Any, release: Release, remote: str) -> int:
    """Push, and see every object in the store."""
    groups = _cached(repo, release)
    store = repo.cloud.get_remote_odb(remote)
    # DVC takes an object of the right name for whole, and a folder whose listing is there for complete.
    for name in [name for group in groups if (wrong := _wrong(store, group)) for name in {*wrong, next(iter(group))}]:
        if store.exists(name):
            store.fs.remove(store.oid_to_path(name))
    sent = int(repo.push(targets=release.stages, remote=remote))
    if absent := [name for group in groups for name in _wrong(store, group)]:
        raise PushError(f"{len(absent)} objects did not reach the store, {absent[0]} first: run it again")
    return sent


def _cached(repo: Any, release: Release) -> list[dict[str, Path]]:
    """The objects of each output, whole in DVC's cache, from where they are sent: the output itself comes first."""
    root = Path(repo.cache.local_cache_dir)
    kept = {out.def_path: out for out in repo.index.outs if out.use_cache}
    groups = []
    for output in (output for output in release.outputs if output.path in kept):
        for name in (output.md5, *files(output, root).values()):
            if not is_as_named(root / object_path(name), name):
                (root / object_path(name)).unlink(missing_ok=True)
        kept[output.path].commit(relink=False)
        names = [output.md5, *files(output, root).values()]
        groups.append({name: root / object_path(name) for name in names})
    return groups


def _wrong(store: Any, objects: dict[str, Path]) -> list[str]:
    """Those that the store has not: a listing with its content, others with their size."""
    return [name for name, cached in objects.items() if not _is_whole(store, name, cached)]


def _is_whole(store: Any, name: str, cached: Path) -> bool:
    from botocore.exceptions import FlexibleChecksumError

    path = store.oid_to_path(name)
    try:
        if name.endswith(".dir"):
            return bool(store.fs.cat_file(path) == cached.read_bytes())
        return bool(store.fs.size(path) == cached.stat().st_size)
    except (FileNotFoundError, FlexibleChecksumError):
        return False


@contextlib.contextmanager
def _caught() -> Iterator[list[BaseException]]:
    """The errors of DVC's transfers, which it logs one by one and then counts."""
    found: list[BaseException] = []

    def keep(record: logging.LogRecord) -> bool:
        found.extend([record.exc_info[1]] if record.exc_info and record.exc_info[1] else [])
        return False

    logger = logging.getLogger("dvc_data.hashfile.transfer")
    logger.addFilter(keep)
    try:
        yield found
    finally:
        logger.removeFilter(keep)


# What s3fs and botocore, which have no common error, say of a store, and what to do; the first that matches.
_REMEDIES = (
    (r"NoCredentials|PartialCredentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    (
        r"Forbidden|Access ?Denied|InvalidAccessKeyId|SignatureDoesNotMatch|UserNotFound|ExpiredToken|\(403\)",
        "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; they need to list, to read and to write",
    ),
    (r"NoSuchBucket", "create the bucket, or correct its name with `dvc remote modify`"),
    (r"", "look at the store, and at its address and settings with `dvc remote list` and `dvc remote modify`"),
)


def _explain(address: str, error: BaseException) -> str:
    chain = [cause for cause in causes(error) if str(cause)] or [error]
    text = " ".join(f"{type(cause).__name__}: {cause}" for cause in chain)
    remedy = next(remedy for pattern, remedy in _REMEDIES if re.search(pattern, text))
    reason = " ".join(f"{type(chain[-1]).__name__}: {chain[-1]}".split())[:200]
    return f"cannot push to {address} ({reason}): {remedy}"


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


def with_lock(workspace: Path, commit: str) -> str:
    """The commit, and that it has another dvc.lock, or configurations, where this is so."""
    command = ["git", "-C", str(workspace), "status", "--porcelain", "--", LOCK, REPOSITORY]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(command, capture_output=True, text=True, check=False).stdout:
            return f"{commit}, which has another {LOCK} or {REPOSITORY}/: commit them"
    return commit


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

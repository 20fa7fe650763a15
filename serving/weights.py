"""`python -m serving.weights`: the init container of a release. It pulls exactly the weights that dvc.lock names.

What the image carries (the git half of the repository) must be the revision that the release asks for; `dvc pull`
fetches its weights into a staging folder on the volume; every file is hashed again, against dvc.lock and against the
models' manifests; then one rename makes the revision visible. Anything else ends with exit code 1 and one sentence,
on stderr and as the container's termination message. Settings are options or environment variables; credentials are
the environment variables of the store (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`).
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from serving._errors import ServingError, WeightsError
from serving._lock import REPOSITORY, Output, Release, changed, listing
from serving._repository import verified_models

CONNECT_TIMEOUT, READ_TIMEOUT = 5, 30  # seconds, of one request to the store
MAX_MESSAGE = 1000  # characters; Kubernetes cuts off at 4096 bytes


@dataclass(frozen=True)
class Options:
    """What to pull, from where, to where.

    Attributes:
        workspace: folder with dvc.yaml, dvc.lock and the git half of the model repository.
        target: folder on the volume; the weights appear as `<target>/<revision>`.
        revision: sha256 that dvc.lock must have; empty takes the one that the workspace carries.
        remote_url: DVC remote, for example `s3://bucket/prefix`.
        endpoint_url: address of an S3 store other than Amazon's; empty for none.
        region: S3 region; empty for none.
        timeout: seconds that the download may take.
    """

    workspace: Path
    target: Path
    revision: str
    remote_url: str
    endpoint_url: str
    region: str
    timeout: float


def main() -> int:
    """Pull; say on stderr and in the termination message what failed."""
    options, termination_log = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped before the weights were there; nothing was kept"))
    try:
        pull(options)
    except (ServingError, OSError) as error:
        message = " ".join(str(error).split())[:MAX_MESSAGE]
        print(f"error: {message}", file=sys.stderr)
        with contextlib.suppress(OSError):  # outside of Kubernetes there is no such file
            termination_log.write_text(message)
        return 1
    return 0


def pull(options: Options) -> Path:
    """Make the revision's folder on the volume, whole and verified, or leave nothing; return the folder.

    Raises:
        LockError: the workspace has no usable dvc.lock.
        WeightsError: another revision is asked for, or its weights cannot be had, or are not those that were built.
    """
    release = Release.read(options.workspace / "dvc.lock")
    if options.revision and options.revision != release.revision:
        raise WeightsError(
            f"the weights image carries revision {release.revision[:12]} and the release asks for "
            f"{options.revision[:12]}: deploy the image that was built together with that dvc.lock, or take "
            "weights.revision from `slipway release` in the commit of this image"
        )
    final = options.target / release.revision
    if final.is_dir() and not changed(final.parent, _moved(release)):
        print(f"revision {release.revision[:12]} is on the volume already, every file verified", flush=True)
        return final
    prefix = f".pull-{socket.gethostname()}-"
    for abandoned in options.target.glob(f"{prefix}*"):
        shutil.rmtree(abandoned)
    staging = options.target / f"{prefix}{os.getpid()}"
    try:
        _fetch(options, release, staging)
        _verify(options, release, staging)
        shutil.rmtree(final, ignore_errors=True)  # what is there is not what was built
        (staging / REPOSITORY).rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return final


def _moved(release: Release) -> list[Output]:
    """The outputs where they lie below the volume: the revision's folder is the model repository."""
    prefix = f"{REPOSITORY}/"
    return [Output(f"{release.revision}/{o.path.removeprefix(prefix)}", o.md5, o.size) for o in release.outputs]


def _fetch(options: Options, release: Release, staging: Path) -> None:
    """Run `dvc pull` in a copy of the workspace on the volume, so that files are linked and not copied."""
    size = sum(output.size for output in release.outputs)
    print(f"pulling revision {release.revision[:12]} from {_store(options)}: {_megabytes(size)}", flush=True)
    began = time.monotonic()
    shutil.copytree(options.workspace, staging, ignore=shutil.ignore_patterns("serving", "cache", "tmp"))
    _write_remote(options, staging)
    # Each setting that DVC would take from a home directory or a system folder is within the staging folder.
    own = {name: str(staging / ".dvc" / "state") for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")}
    environment = {**os.environ, **own, "DVC_SITE_CACHE_DIR": str(staging / ".dvc" / "site"), "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", "pull", *release.stages]
    try:
        done = subprocess.run(
            command,
            cwd=staging,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=options.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(
            f"{_store(options)} did not give {_megabytes(size)} within {options.timeout:g} s: "
            "raise weights.timeoutSeconds, or look at the store"
        ) from error
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr, flush=True)
        raise WeightsError(explain(done.stdout, options, release, staging))
    print(f"pulled in {time.monotonic() - began:.1f} s", flush=True)


def _write_remote(options: Options, staging: Path) -> None:
    config = configparser.ConfigParser(interpolation=None)
    config["core"] = {"no_scm": "true", "remote": "weights"}
    config["cache"] = {"dir": str(staging / ".dvc" / "cache"), "type": "hardlink,copy"}
    remote = {"url": options.remote_url}
    if options.remote_url.startswith("s3:"):
        remote |= {"connect_timeout": str(CONNECT_TIMEOUT), "read_timeout": str(READ_TIMEOUT)}
        remote |= {"endpointurl": options.endpoint_url} if options.endpoint_url else {}
        remote |= {"region": options.region} if options.region else {}
    config["'remote \"weights\"'"] = remote
    with (staging / ".dvc" / "config.local").open("w") as file:
        config.write(file)


def _verify(options: Options, release: Release, staging: Path) -> None:
    """Compare every byte with dvc.lock, then every model with its manifest."""
    wrong = changed(staging, release.outputs)
    in_image = [path for path in wrong if (options.workspace / path).exists()]
    if in_image:
        raise WeightsError(
            f"the weights image carries {_names(in_image)} and its dvc.lock names other content: run `slipway build` "
            "and build the image anew"
        )
    if wrong:
        raise WeightsError(
            f"{_names(wrong)} in {_store(options)} is damaged: its hash is not the one in dvc.lock. Nothing of it is "
            "served; delete the object in the store and run `slipway push` where the model was built"
        )
    models = verified_models(staging / REPOSITORY)
    print(f"verified {len(models)} models: {', '.join(model.name for model in models)}", flush=True)


# What DVC, s3fs and botocore say, and what it means; the first that matches.
_MEANINGS = (
    (
        r"Unable to locate credentials|NoCredentials",
        "no credentials: name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "
        "weights.remote.existingSecret",
    ),
    (
        r"Forbidden|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|Access Denied|\b403\b",
        "the store refuses the credentials: correct the Secret that weights.remote.existingSecret names "
        "(they need to list and to read)",
    ),
    (
        r"NoSuchBucket|[Bb]ucket .*does not exist",
        "the bucket does not exist: correct weights.remote.url, or create the bucket and run `slipway push`",
    ),
    (
        r"Could not connect|ConnectTimeout|Connect timeout|Connection refused|Name or service not known|"
        r"Cannot connect to host|Temporary failure in name resolution|EndpointConnection",
        "the store does not answer: look at it, and at weights.remote.endpointUrl",
    ),
    (r"No space left on device", "the volume is full: raise weights.volumeSize"),
)


def explain(output: str, options: Options, release: Release, staging: Path) -> str:
    """One sentence for a `dvc pull` that failed with this output."""
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, output):
            return f"cannot pull from {_store(options)}: {meaning}"
    absent = _absent(output, release, staging)
    if absent:
        return (
            f"{_store(options)} has no undamaged {_names(absent)} of revision {release.revision[:12]}: run "
            "`slipway push` where the model was built"
        )
    errors = [line for line in output.splitlines() if "ERROR" in line] or output.strip().splitlines() or ["no output"]
    return f"`dvc pull` from {_store(options)} failed: {errors[-1].strip()}"


def _absent(output: str, release: Release, staging: Path) -> list[str]:
    """Names of the files whose objects DVC asked for in vain."""
    objects = set(re.findall(r"\b[0-9a-f]{32}(?:\.dir)?\b", output))
    files = {}
    for out in release.outputs:
        files[out.md5] = out.path
        content = staging / ".dvc" / "cache" / "files" / "md5" / out.md5[:2] / out.md5[2:]
        if out.is_folder and content.is_file():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                files |= {md5: f"{out.path}/{name}" for name, md5 in listing(content.read_bytes()).items()}
    return sorted(files[name] for name in objects & set(files))


def _names(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _store(options: Options) -> str:
    return f"{options.remote_url} at {options.endpoint_url}" if options.endpoint_url else options.remote_url


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _parse() -> tuple[Options, Path]:
    parser = argparse.ArgumentParser(prog="python -m serving.weights", description=str(__doc__).partition("\n")[0])

    def add(name: str, default: str, text: str) -> None:
        variable = f"SLIPWAY_{name.replace('-', '_').upper()}"
        parser.add_argument(f"--{name}", default=os.environ.get(variable, default), help=f"{text} [${variable}]")

    add("workspace", ".", "folder with dvc.yaml, dvc.lock and model_repository/")
    add("target", "/models", "folder on the volume")
    add("revision", "", "sha256 that dvc.lock must have")
    add("remote-url", "", "DVC remote, for example s3://bucket/prefix")
    add("remote-endpoint-url", "", "address of an S3 store other than Amazon's")
    add("remote-region", "", "S3 region")
    add("pull-timeout", "600", "seconds that the download may take")
    add("termination-log", "/dev/termination-log", "where Kubernetes reads why a container ended")
    found = parser.parse_args()
    if not found.remote_url:
        parser.error("--remote-url (or $SLIPWAY_REMOTE_URL) is needed: the DVC remote, for example s3://bucket/prefix")
    options = Options(
        workspace=Path(found.workspace),
        target=Path(found.target),
        revision=found.revision,
        remote_url=found.remote_url,
        endpoint_url=found.remote_endpoint_url,
        region=found.remote_region,
        timeout=float(found.pull_timeout),
    )
    return options, Path(found.termination_log)


if __name__ == "__main__":
    sys.exit(main())

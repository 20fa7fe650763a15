"""`python -m serving.weights`: the init container of a release. It pulls exactly the weights that dvc.lock names.

What the image carries (the git half of the repository) must be the revision that the release asks for. `dvc pull` is
done in its two steps, in a staging folder on the volume: fetch, then checkout, and every object is hashed in between,
because DVC takes a folder's listing at its word for which files to write. Every file is hashed again where it lies,
against dvc.lock and against the models' manifests; then one rename makes the revision visible. Anything else ends with
exit code 1 and one sentence, on stderr and as the container's termination message. Settings are options or environment
variables; credentials are the environment variables of the store (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from serving._errors import RepositoryError, ServingError, WeightsError
from serving._lock import REPOSITORY, Output, Release, changed, files, is_as_named, object_path
from serving._repository import ServedModel, verified_models
from serving._store import Store, some

MAX_MESSAGE = 1000  # characters; Kubernetes cuts off at 4096 bytes


@dataclass(frozen=True)
class Options:
    """What to pull, from where, to where.

    Attributes:
        workspace: folder with dvc.yaml, dvc.lock and the git half of the model repository.
        target: folder on the volume; the weights appear as `<target>/<revision>`.
        revision: sha256 that dvc.lock must have; empty takes the one that the workspace carries.
        store: where `slipway push` put the weights.
        timeout: seconds that the download may take.
    """

    workspace: Path
    target: Path
    revision: str
    store: Store
    timeout: float


def main() -> int:
    """Pull; say on stderr and in the termination message what failed."""
    options, termination_log = _parse()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        pull(options)
    except (ServingError, OSError, SystemExit) as error:
        message = " ".join(str(error).split())[:MAX_MESSAGE]
        print(f"error: {message}", file=sys.stderr)
        with contextlib.suppress(OSError):  # outside of Kubernetes there is no such file
            termination_log.write_text(message)
        return 1
    return 0


def _stop(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not end the tidying up
    # No Exception: botocore would take that for a failed request, and ask again.
    raise SystemExit(f"stopped by {signal.Signals(number).name} before the weights were there; nothing was kept")


def pull(options: Options) -> Path:
    """Make the revision's folder on the volume, whole and verified, or leave nothing; return the folder.

    Raises:
        LockError: the workspace has no usable dvc.lock.
        RepositoryError: the workspace has a model that dvc.lock does not name.
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
    if _is_whole(final, release):
        print(f"revision {release.revision[:12]} is on the volume already, every file verified", flush=True)
        return final
    staging = _staging(options.target)
    try:
        options.store.ask()
        _fetch(options, release, staging)
        _verify(options, release, staging)
        _show(staging, final, release)
    except OSError as error:
        full = "No space left on device" in str(error)
        what = f"{options.target} is full: raise weights.volumeSize" if full else f"cannot make {final}: {error}"
        raise WeightsError(what) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return final


def _is_whole(final: Path, release: Release) -> bool:
    """Whether the volume holds the revision: each file of it, and nothing else that would be served."""
    if not final.is_dir() or changed(final.parent, _moved(release)):
        return False
    try:
        return bool(_only_models(final, release))
    except RepositoryError:
        return False


def _only_models(repository: Path, release: Release) -> list[ServedModel]:
    """The models of the release, and a RepositoryError for anything else: Triton loads what it finds.

    Every file is in dvc.lock, or in a manifest that is in dvc.lock.
    """
    locked = {Path(output.path).parts[1] for output in release.outputs if Path(output.path).name == "manifest.json"}
    for path in repository.rglob("*"):
        relative = path.relative_to(repository)
        if path.is_symlink() or path.name.startswith(".") or "__pycache__" in relative.parts:
            raise RepositoryError(f"{relative} has no place among served models: build the weights image without it")
        if relative.parts[0] not in locked or (len(relative.parts) == 1 and not path.is_dir()):
            raise RepositoryError(f"{relative} is of no model in dvc.lock: run `slipway build`, or remove it")
    return verified_models(repository)


def _staging(target: Path) -> Path:
    """An empty folder on the volume; those that this pod left when it was killed are removed."""
    prefix = f".pull-{socket.gethostname()}-"
    for abandoned in target.glob(f"{prefix}*"):
        if abandoned.name.removeprefix(prefix).isdecimal():
            shutil.rmtree(abandoned, ignore_errors=True)
    staging = target / f"{prefix}{os.getpid()}"
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise WeightsError(
            f"cannot write to {target} ({error.strerror}): mount a volume there that user id {os.getuid()} may write to"
        ) from error
    return staging


def _show(staging: Path, final: Path, release: Release) -> None:
    """Make the verified folder visible, whole at once."""
    if _is_whole(final, release):
        return  # another pod with the same volume was faster, and serves from it
    if final.exists():
        final.rename(staging / "damaged")
    (staging / REPOSITORY).rename(final)


def _moved(release: Release) -> list[Output]:
    """The outputs where they lie below the volume: the revision's folder is the model repository."""
    prefix = f"{REPOSITORY}/"
    return [Output(f"{release.revision}/{o.path.removeprefix(prefix)}", o.md5, o.size) for o in release.outputs]


def _fetch(options: Options, release: Release, staging: Path) -> None:
    """Run `dvc pull` in a copy of the workspace on the volume, so that files are linked and not copied."""
    print(f"pulling revision {release.revision[:12]} from {options.store}: {_megabytes(release)}", flush=True)
    began = time.monotonic()
    _copy(options.workspace, staging)
    _write_config(options, staging)
    # Each setting that DVC would take from a home directory or a system folder is within the staging folder.
    own = {name: str(staging / ".dvc" / "state") for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")}
    environment = {**os.environ, **own, "DVC_SITE_CACHE_DIR": str(staging / ".dvc" / "site"), "DVC_NO_ANALYTICS": "1"}
    # What `dvc pull` does, in its two steps: between them nothing but the cache has been written.
    until = began + options.timeout
    said = _dvc("fetch", options, release, staging, environment, until)
    _check_fetched(options, release, staging, said)
    _dvc("checkout --force", options, release, staging, environment, until)
    print(f"pulled in {time.monotonic() - began:.1f} s", flush=True)


def _dvc(
    verb: str, options: Options, release: Release, staging: Path, environment: dict[str, str], until: float
) -> str:
    """Run a command of DVC's on the release's stages, until that time at most; return what it wrote."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *verb.split(), *release.stages],
            cwd=staging,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=max(0.0, until - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(
            f"{options.store} did not give {_megabytes(release)} within {options.timeout:g} s: "
            "raise weights.timeoutSeconds, or look at the store"
        ) from error
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr, flush=True)
        raise WeightsError(options.store.explain(done.stdout, release, staging / ".dvc" / "cache"))
    return done.stdout


def _check_fetched(options: Options, release: Release, staging: Path, said: str) -> None:
    """Every object that was to be fetched is in the cache, with the content that its name says.

    A folder's listing before all: DVC would take its word for which files to write, and where.
    """
    cache = staging / ".dvc" / "cache"
    for out in release.outputs:
        if not (cache / object_path(out.md5)).exists() and out.md5 not in said:
            continue  # of the git half: DVC names what it looked for in vain
        # A listing first: as long as it is not the one that was built, `files` names it and nothing that it says.
        for path, digest in {out.path: out.md5, **files(out, cache)}.items():
            if not (cache / object_path(digest)).is_file():
                raise WeightsError(options.store.lacks({path: digest}, release))
            if not is_as_named(cache / object_path(digest), digest):
                raise WeightsError(options.store.damaged({path: digest}))
            if ".." in Path(path).parts or not path.startswith(f"{REPOSITORY}/"):
                raise WeightsError(f"{out.path} lists a file outside of it, {path}: it was not made by `slipway build`")


def _copy(workspace: Path, staging: Path) -> None:
    """Copy what the image carries into folders that can be written to, as the image's own need not be."""

    def unused(folder: str, _: list[str]) -> set[str]:
        return {".dvc", ".git", "build", "serving"} if Path(folder) == workspace else set()

    shutil.copytree(workspace, staging, symlinks=True, ignore=unused, copy_function=shutil.copyfile, dirs_exist_ok=True)
    for folder, _, _ in os.walk(staging):
        Path(folder).chmod(0o755)


def _write_config(options: Options, staging: Path) -> None:
    (staging / ".dvc").mkdir()
    core = {"no_scm": "true", "remote": "weights"}
    cache = {"dir": str(staging / ".dvc" / "cache"), "type": ["hardlink", "copy"]}
    options.store.write_config(staging / ".dvc" / "config", "weights", {"core": core, "cache": cache})


def _verify(options: Options, release: Release, staging: Path) -> None:
    """Compare every byte with dvc.lock, then every model with its manifest."""
    wrong = [output for output in release.outputs if changed(staging, [output])]
    cache = staging / ".dvc" / "cache"
    # What DVC did not bring is the image's.
    in_image = [output.path for output in wrong if not (cache / object_path(output.md5)).exists()]
    if in_image:
        raise WeightsError(
            f"the weights image carries another {some(in_image)} than its dvc.lock names, or none: run "
            "`slipway build` and build the image anew"
        )
    if wrong:
        brought = {path: digest for output in wrong for path, digest in files(output, cache).items()}
        other = {path: digest for path, digest in brought.items() if not is_as_named(staging / path, digest)}
        raise WeightsError(options.store.damaged(other or brought))
    models = _only_models(staging / REPOSITORY, release)
    print(f"verified {len(models)} models: {', '.join(model.name for model in models)}", flush=True)


def _megabytes(release: Release) -> str:
    return f"{sum(output.size for output in release.outputs) / 1e6:.1f} MB"


def _parse() -> tuple[Options, Path]:
    parser = argparse.ArgumentParser(prog="python -m serving.weights", description=str(__doc__).partition("\n")[0])

    def add(name: str, default: str, text: str, kind: type = str) -> None:
        variable = f"SLIPWAY_{name.replace('-', '_').upper()}"
        default = os.environ.get(variable, default)
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} [${variable}]")

    add("workspace", ".", "folder with dvc.yaml, dvc.lock and model_repository/")
    add("target", "/models", "folder on the volume")
    add("revision", "", "sha256 that dvc.lock must have")
    add("remote-url", "", "DVC remote, for example s3://bucket/prefix")
    add("remote-endpoint-url", "", "address of an S3 store other than Amazon's")
    add("remote-region", "", "S3 region")
    add("pull-timeout", "600", "seconds that the download may take", float)
    add("termination-log", "/dev/termination-log", "where Kubernetes reads why a container ended")
    found = parser.parse_args()
    if not found.remote_url.strip():
        parser.error("--remote-url (or $SLIPWAY_REMOTE_URL) is needed: the DVC remote, for example s3://bucket/prefix")
    options = Options(
        workspace=Path(found.workspace),
        target=Path(found.target),
        revision=found.revision,
        store=Store(found.remote_url, found.remote_endpoint_url, found.remote_region),
        timeout=found.pull_timeout,
    )
    return options, Path(found.termination_log)


if __name__ == "__main__":
    sys.exit(main())

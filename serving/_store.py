"""The store of the weights: one question with short timeouts, and one sentence for whatever fails there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving._errors import WeightsError
from serving._lock import Release, files, object_path

CONNECT_TIMEOUT, ANSWER_TIMEOUT, READ_TIMEOUT = 5, 10, 30  # seconds: a connection, the first answer, any later one
ATTEMPTS = 3


@dataclass(frozen=True)
class Store:
    """Where `slipway push` put the weights.

    Attributes:
        url: DVC remote, for example `s3://bucket/prefix`.
        endpoint_url: address of an S3 store other than Amazon's; empty for none.
        region: S3 region; empty for none.
    """

    url: str
    endpoint_url: str = ""
    region: str = ""

    def __str__(self) -> str:
        return f"{self.url} at {self.endpoint_url}" if self.endpoint_url else self.url

    @property
    def is_s3(self) -> bool:
        """Whether it is an S3 store; a folder, which DVC takes too, needs neither settings nor a question."""
        return self.url.startswith("s3:")

    def remote(self) -> dict[str, str]:
        """DVC's settings of this remote."""
        settings = {"url": self.url}
        if self.is_s3:
            settings |= {"connect_timeout": str(CONNECT_TIMEOUT), "read_timeout": str(READ_TIMEOUT)}
            settings |= {"endpointurl": self.endpoint_url} if self.endpoint_url else {}
            settings |= {"region": self.region} if self.region else {}
        return settings

    def write_config(self, file: Path, name: str, more: Mapping[str, Any]) -> None:
        """Write a configuration of DVC's that has this remote under `name`, and `more` sections.

        DVC reads it with ConfigObj, so it is written with that: an address may hold commas, hashes and quotation marks.

        Raises:
            WeightsError: DVC would read another address, as it does with `%(name)s`, which it takes for a reference, or
                fail of a brace, which it takes for one in the text of its progress bar.
        """
        from configobj import ConfigObj, ConfigObjError
        from dvc.config import Config, ConfigError
        from dvc.fs import localfs

        if set("{}") & set(self.url):
            raise WeightsError(self._unreadable("it has a brace"))
        config = ConfigObj({**more, f'remote "{name}"': self.remote()}, encoding="utf-8", interpolation=False)
        try:
            with file.open("wb") as opened:
                config.write(opened)
            read = Config.load_file(file, localfs)["remote"][name]
        except (ConfigObjError, ConfigError, UnicodeError) as error:
            raise WeightsError(self._unreadable(" ".join(str(error).split()))) from error
        if read != self.remote():
            raise WeightsError(self._unreadable(f"it would read {read['url']!r}"))

    def _unreadable(self, reason: str) -> str:
        return f"DVC cannot be told of {str(self)!r} ({reason}): use an address without braces and '%('"

    def ask(self) -> None:
        """List one object: DVC multiplies the retries of its libraries, and hides why the last one failed.

        Raises:
            WeightsError: the store does not answer within a minute, or refuses.
        """
        if not self.is_s3:
            return
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import get_session

        bucket, _, prefix = self.url.removeprefix("s3:").lstrip("/").partition("/")
        limits = Config(
            connect_timeout=CONNECT_TIMEOUT, read_timeout=ANSWER_TIMEOUT, retries={"total_max_attempts": ATTEMPTS}
        )
        try:
            client = get_session().create_client(
                "s3", region_name=self.region or None, endpoint_url=self.endpoint_url or None, config=limits
            )
            client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        except (BotoCoreError, ClientError, ValueError) as error:
            cause = list(causes(error))[-1]
            raise WeightsError(self._failed(str(cause), f"{type(error).__name__}: {error}: {cause}")) from error

    def explain(self, output: str, release: Release, cache: Path) -> str:
        """One sentence for a `dvc pull` into `cache` that failed with this output."""
        if damaged := _paths(_DAMAGED, output, release, cache):
            return self.damaged(damaged)
        if absent := _paths(_ABSENT, output, release, cache):
            return self.lacks(absent, release)
        if "Expected checksum" in output:  # DVC names each object but a folder's listing
            return self.damaged({out.path: out.md5 for out in release.outputs if out.is_folder})
        lines = output.strip().splitlines() or ["no output"]
        errors = [line.removeprefix("ERROR: ") for line in lines if "ERROR" in line]
        return self._failed((errors or lines)[0], output)

    def lacks(self, absent: dict[str, str], release: Release) -> str:
        """One sentence for files (with their objects) that are not there."""
        return (
            f"{self} lacks {some(absent)} (revision {release.revision[:12]}): run `slipway push` where the model was "
            "built"
        )

    def damaged(self, found: dict[str, str]) -> str:
        """One sentence for files (with their objects) that are not what dvc.lock says."""
        objects = [f"{self.url.rstrip('/')}/{object_path(name)}" for name in found.values()]
        return (
            f"{some(found)} in {self} is damaged: its hash is not the one in dvc.lock. Nothing of it is served; delete "
            f"{some(objects)} and run `slipway push` where the model was built"
        )

    def _failed(self, reason: str, text: str) -> str:
        known = (meaning for pattern, meaning in _MEANINGS if re.search(pattern, text))
        remedy = next(known, "look at the store, at weights.remote.url and weights.remote.endpointUrl")
        return f"cannot pull from {self} ({' '.join(reason.split())[:200]}): {remedy}"


def some(names: Iterable[str]) -> str:
    """At most three names."""
    first, rest = list(names)[:3], list(names)[3:]
    return ", ".join(first) + (f" and {len(rest)} more" if rest else "")


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it came from, and so on to the first: botocore, s3fs and DVC wrap what the system says."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _paths(pattern: str, output: str, release: Release, cache: Path) -> dict[str, str]:
    """The files whose objects the pattern finds in what DVC wrote, with their objects."""
    known = {out.md5: out.path for out in release.outputs}
    for out in release.outputs:
        known |= {digest: path for path, digest in files(out, cache).items()}
    unlisted = " or ".join(out.path for out in release.outputs if out.is_folder)
    objects = sorted({name for groups in re.findall(pattern, output, re.MULTILINE) for name in groups if name})
    return {known.get(name, f"a file of {unlisted}"): name for name in objects}


# What botocore, s3fs, DVC and the system say, and what it means; the first that matches.
_MEANINGS = (
    (
        r"Unable to locate credentials|NoCredentials|PartialCredentials",
        "no credentials: name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "
        "weights.remote.existingSecret",
    ),
    (
        r"Forbidden|Access ?Denied|InvalidAccessKeyId|SignatureDoesNotMatch|UserNotFound|ExpiredToken|InvalidToken|"
        r"\(403\)",
        "the store refuses the credentials: correct the Secret that weights.remote.existingSecret names "
        "(they need to list and to read)",
    ),
    (
        r"NoSuchBucket|[Bb]ucket .*does not exist",
        "the bucket does not exist: correct weights.remote.url, or create the bucket and run `slipway push`",
    ),
    (
        r"AuthorizationHeaderMalformed|PermanentRedirect|\((?:301|400)\)",
        "the store takes the request for one to another region: correct weights.remote.region",
    ),
    (
        r"\bSSL\b|SSLError|CERTIFICATE",
        "no TLS with a known certificate there: correct weights.remote.endpointUrl (http:// or https://)",
    ),
    (
        r"Could not connect|[Tt]imeout|timed out|Connection refused|Name or service not known|Cannot connect to host|"
        r"name resolution|EndpointConnection|Connection (?:reset|was closed)|ConnectionClosed",
        "the store does not answer: look at it, and at weights.remote.endpointUrl",
    ),
    (
        r"Invalid (?:endpoint|bucket name|length)|Unsupported URL type|requires 'dvc-",
        "not an address that the weights image can take: weights.remote.url is s3://bucket/prefix, "
        "weights.remote.endpointUrl http://host:port or empty",
    ),
    (r"No space left on device|disk is full", "the volume is full: raise weights.volumeSize"),
)
_MD5 = r"([0-9a-f]{32}(?:\.dir)?)"
# How DVC names an object that the store has not, and one that has other content than its name says.
_ABSENT = rf"^md5: {_MD5}$|'{_MD5}' - (?:The specified key does not exist|\[Errno 2\])"
_DAMAGED = rf"'{_MD5}' - Expected checksum|object {_MD5} is corrupted"

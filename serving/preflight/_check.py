"""One finding and all of them: the same list is printed as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from serving.preflight._image import IMAGE, GpuImage


class Status(StrEnum):
    """What a finding means: nothing to do, worth knowing, or something needed is missing."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Check:
    """One finding; true unless something that is needed is missing.

    Attributes:
        name: what was looked at.
        status: only a `PROBLEM` makes the machine unfit.
        found: what is there, in a few words.
        needed: what has to be there; empty where nothing is required.
        advice: what it means and what to do; empty where there is nothing to do.
        facts: the numbers behind the words, for `--json`; sizes in bytes unless the key names another unit.
    """

    name: str
    status: Status
    found: str
    needed: str = ""
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.status is not Status.PROBLEM


@dataclass(frozen=True)
class Report:
    """Every finding of one machine; true when all that is needed is there."""

    checks: tuple[Check, ...]
    image: GpuImage = IMAGE

    def __bool__(self) -> bool:
        return all(self.checks)

    @property
    def problems(self) -> list[Check]:
        """The findings that make the machine unfit."""
        return [check for check in self.checks if not check]

    def rows(self) -> list[tuple[str, ...]]:
        """The table, its header first."""
        return [("check", "status", "found", "needed"), *((c.name, c.status, c.found, c.needed) for c in self.checks)]

    def notes(self) -> list[str]:
        """A line for each finding with something to say: problems first, else in the table's order."""
        told = [check for check in self.checks if check.advice]
        return [f"{check.name}: {check.advice}" for check in sorted(told, key=bool)]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints: `fits`, the `image` compared with, and `checks`."""
        return {
            "fits": bool(self),
            "image": self.image.as_json(),
            "checks": [{**asdict(check), "status": str(check.status)} for check in self.checks],
        }


def size(number: float) -> str:
    """Bytes as text in binary units: `64 MiB`, `2.5 GiB`."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.1f}".removesuffix(".0") + f" {unit}"

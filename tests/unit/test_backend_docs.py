"""docs/backend.md: each row names what protects it, and each case of the table stands in a row."""

from __future__ import annotations

import re

from tests.backend_cases import REFUSED, SERVED
from tests.malformed_killers import KILLERS
from tests.support import ROOT

PAGE = (ROOT / "docs" / "backend.md").read_text()


def test_each_row_names_cases_and_tests_that_are_there_and_no_case_is_left_out() -> None:
    table = PAGE.partition("## Feature by feature")[2].partition("##")[0]
    rows = [line.split("|")[3] for line in table.splitlines() if line.startswith("|")][2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    known = {*SERVED, *REFUSED, *re.findall(r"def (test_\w+)", tests)}
    assert named - known == set()
    assert {*SERVED, *REFUSED} - named == set()
    assert set(re.findall(r"`(test_\w+)`", PAGE)) - known == set()


def test_what_ends_triton_itself_is_listed_by_the_names_of_the_fuzz_test() -> None:
    section = PAGE.partition("## What ends the embedded server")[2]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == set(KILLERS)

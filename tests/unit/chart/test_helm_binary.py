"""The Helm on the PATH renders what these tests looked at: theirs is the SDK of Helm 4, a user's may be Helm 3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import environment
from tests.unit.chart.rendering import CHART, NAMESPACE, RELEASE, Object, ci_values, parse, read_values, render_only


@pytest.fixture(scope="module")
def helm() -> str:
    """Path of the helm on the PATH."""
    return _find_helm()


def _find_helm() -> str:
    """Without one the comparison is skipped; in CI that is a failure."""
    if found := shutil.which("helm"):
        return found
    if os.environ.get("CI"):
        pytest.fail("no helm on the PATH: CI must have one, or nothing compares it with the SDK")
    pytest.skip("no helm on the PATH: install Helm 3 or 4 to compare it with the SDK's rendering")


@pytest.mark.parametrize("values", ci_values(), ids=lambda path: path.name)
def test_helm_renders_what_the_sdk_renders(values: Path, helm: str) -> None:
    command = [helm, "template", RELEASE, str(CHART), "-f", str(values), "--namespace", NAMESPACE]
    command += ["--kube-version", "1.36.0"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rendered = render_only(read_values(values)).objects
    assert len(rendered) >= 4
    assert _canonical(parse(done.stdout)) == _canonical(rendered)


def _canonical(objects: list[Object]) -> list[str]:
    """Without order, and with numbers as JSON would have them: 1e9 is 1000000000."""
    numbers = [json.loads(json.dumps(one), parse_float=lambda text: _whole(float(text))) for one in objects]
    return sorted(json.dumps(one, sort_keys=True, indent=1) for one in numbers)


def _whole(number: float) -> float:
    return int(number) if number.is_integer() else number


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_helm_is_a_failure_in_ci_only(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no helm on the PATH"):
        _find_helm()

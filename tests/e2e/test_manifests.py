"""The API server accepts what the chart renders."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.cluster import NAMESPACE, run
from tests.e2e.conftest import Helm
from tests.support import ROOT

CHARTS = ROOT / "charts"


@pytest.mark.parametrize("values", sorted(CHARTS.glob("*/ci/*-values.yaml")), ids=lambda path: path.name)
def test_the_api_server_accepts_the_chart_with(values: Path, helm: Helm, store: str, tmp_path: Path) -> None:
    chart = values.parent.parent
    manifests = tmp_path / "manifests.yaml"
    manifests.write_text(
        run("helm", "template", "dry", chart, "-f", values, "-n", NAMESPACE, "--kube-version=1.36.0", cwd=ROOT)
    )
    output = run("kubectl", "-n", NAMESPACE, "apply", "--dry-run=server", "-f", manifests, cwd=ROOT)
    assert "Warning" not in output
    assert output.count("(server dry run)") >= 4
    helm("install", "dry", str(chart), "-f", str(values), "--dry-run=server")

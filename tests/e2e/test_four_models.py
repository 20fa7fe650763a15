"""A release that serves all four reference models: ensemble, Python models and a stream come through the same chart."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.cluster import NAMESPACE, Cluster, load_images, port_forward, run
from tests.e2e.conftest import Helm, Revision, push, released
from tests.support import BIN, ROOT, build_fast

RELEASE = "slipway-four"
SERVED = (
    "alexnet",
    "alexnet_fp32",
    "digits",
    "digits_fp32",
    "embedder",
    "embedder_fp32",
    "embedder_int8",
    "embedder_pooling",
    "embedder_tokenizer",
    "embedder_transformer_fp32",
    "embedder_transformer_int8",
    "translator",
    "translator_fp32",
    "translator_stream",
)


@pytest.fixture(scope="module")
def four(
    cluster: Cluster, first: Revision, store: str, images: None, tmp_path_factory: pytest.TempPathFactory
) -> Revision:
    """A revision with all four models in their fast configurations, its weights in the store, its image loaded."""
    workspace = tmp_path_factory.mktemp("four") / "workspace"
    shutil.copytree(first.workspace, workspace, symlinks=True)
    build_fast(workspace, known=True)
    revision = released(workspace)
    push(cluster, revision)
    built = workspace / "build" / "weights.json"
    run("skaffold", "build", "--build-image=slipway-weights", f"--file-output={built}", cwd=workspace, timeout=600)
    weights = json.loads(built.read_text())["builds"]
    others = json.loads((first.workspace / "build" / "used.json").read_text())["builds"]
    used = weights + [image for image in others if not image["imageName"].endswith("slipway-weights")]
    load_images(cluster, [image["tag"] for image in weights], workspace)
    file = workspace / "build" / "used.json"
    file.write_text(json.dumps({"builds": used}))
    revision.values.write_text(run(BIN / "slipway", "release", "--images", file, cwd=workspace))
    return revision


@pytest.fixture(scope="module")
def service(helm: Helm, four: Revision) -> str:
    """The release, Ready."""
    helm.upgrade(RELEASE, four)
    return RELEASE


def test_helm_test_has_the_golden_answer_of_every_model(helm: Helm, service: str) -> None:
    output = helm("test", service)
    for model in SERVED:
        assert f"{model}: the golden answer" in output


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize(("model", "output"), [("embedder", "embedding"), ("translator", "translation")])
def test_texts_are_answered_as_without_a_server(
    service: str, four: Revision, model: str, output: str, scheme: str
) -> None:
    texts = four.workspace / "build" / model / "samples" / "texts.txt"
    command = (BIN / "slipway", "predict", model, "--file", texts, "--json")
    expected = json.loads(run(*command, "--local", cwd=four.workspace))
    with port_forward(service, 8000 if scheme == "http" else 8001) as (port,):
        found = json.loads(run(*command, "--url", f"{scheme}://127.0.0.1:{port}", cwd=four.workspace))
    assert len(found) == 10
    for one, other in zip(found, expected, strict=True):
        assert one["text"] == other["text"]
        assert one[output] == pytest.approx(other[output], abs=1e-4) if output == "embedding" else one == other


def test_the_public_name_is_answered_by_the_variant_that_the_gate_has_chosen(service: str, four: Revision) -> None:
    for model in ("digits", "alexnet", "embedder"):
        manifest = json.loads((four.workspace / "model_repository" / model / "manifest.json").read_text())
        chosen = f"{model}_{manifest['variants']['chosen']['cpu']}"
        golden = (four.workspace / "model_repository" / model / "golden" / "request.json").read_bytes()
        with port_forward(service, 8000) as (port,):
            url = f"http://127.0.0.1:{port}/v2/models"
            steps = json.loads(_get(f"{url}/{model}/config"))["ensemble_scheduling"]["step"]
            assert [step["model_name"] for step in steps] == [chosen]
            before = _answered(f"{url}/{chosen}/stats")
            _get(f"{url}/{model}/infer", golden)
            assert _answered(f"{url}/{chosen}/stats") == before + 1


def _get(url: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, data=body, timeout=30) as answer:
        content: bytes = answer.read()
    return content


def _answered(url: str) -> int:
    """Requests that a model has answered, by Triton's statistics."""
    (statistics,) = json.loads(_get(url))["model_stats"]
    return int(statistics["inference_stats"]["success"]["count"])


def test_images_are_answered(service: str, four: Revision) -> None:
    for model in ("digits", "alexnet"):
        sample: Path = next((four.workspace / "build" / model / "samples").glob("7.png"))
        command = (BIN / "slipway", "predict", model, sample, "--json")
        expected = json.loads(run(*command, "--local", cwd=four.workspace))
        with port_forward(service, 8000) as (port,):
            found = json.loads(run(*command, "--url", f"http://127.0.0.1:{port}", cwd=four.workspace))
        assert found[0]["class"] == expected[0]["class"]


def test_a_pod_of_four_models_goes_when_its_release_goes(cluster: Cluster, helm: Helm, service: str) -> None:
    helm("uninstall", service, "--wait", "--timeout=120s")
    run("kubectl", "-n", NAMESPACE, "wait", "--for=delete", f"deployment/{service}", "--timeout=60s", cwd=ROOT)
    assert cluster.servers(service) == []

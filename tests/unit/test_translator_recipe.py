"""The translator's stages around its graphs: what is judged, what is asked, what a text that is too long becomes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_build import DataError
from model_build.config import TranslatorConfig, load_config
from model_build.models.translation.corpora import About, Corpus, Origin
from model_build.models.translation.pairs import Pair
from model_build.models.translator import GRAPHS, TOKENIZERS, Translator
from model_build.precision.trial import Trial, make_variant
from model_build.precision.variants import CPU, FP32, GPU, INT8, Graph, of_both
from model_build.stages.layout import BuildFiles
from tests.support import ROOT
from tests.text_support import MAX_TOKENS, SENTENCES, memorised, scripted, with_weights_mixed_up

TOO_LONG = "Море " * 2 * MAX_TOKENS  # noqa: RUF001
LEARNED = [*SENTENCES.items()]


def parts(*texts: tuple[str, str]) -> list[Origin]:
    return [("file", Pair(source, target, "group")) for source, target in texts]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> BuildFiles:
    """A network that knows SENTENCES by heart; in the middle of its held-out part is a text that it does not take."""
    files = BuildFiles(tmp_path_factory.mktemp("workspace"), "translator")
    files.folder.mkdir(parents=True)
    memorised(files.graphs)
    test = parts(LEARNED[0], (TOO_LONG, "the sea"), *LEARNED[1:3])
    test.append(("other", Pair("Да", "No", "group")))  # known by heart, and wrong here: gate.minimum is not for it
    corpus = Corpus(parts(*LEARNED), parts((TOO_LONG, "the sea"), *LEARNED[3:]), test, About("a file", "0", None))
    files.corpus.mkdir()
    for name, content in corpus.to_files().items():
        (files.corpus / name).write_bytes(content)
    for name in TOKENIZERS:
        (files.corpus / name).write_bytes((files.graphs / name).read_bytes())
    return files


@pytest.fixture
def recipe() -> Translator:
    config = load_config(ROOT, "translator")
    assert isinstance(config, TranslatorConfig)
    config.network.max_source_tokens = config.network.max_target_tokens = MAX_TOKENS
    config.triton.max_batch_size = 3
    return Translator(config)


def test_a_held_out_text_that_is_too_long_counts_as_untranslated_and_ends_nothing(
    recipe: Translator, made: BuildFiles
) -> None:
    found = recipe.infer(made)
    assert [row[-1] for row in found.predictions[1:]] == [LEARNED[0][1], "", LEARNED[1][1], LEARNED[2][1], "Yes"]
    assert 0 < found.value < 100
    assert (found.value, found.examples) == (found.details["bleu_file"], 4)
    assert found.details["bleu_other"] == 0


def test_the_server_is_asked_what_is_judged_in_process(recipe: Translator, made: BuildFiles) -> None:
    asked = [request["text"].ravel().tolist() for request in recipe.requests(made)]
    assert asked == [[LEARNED[0][0], "", LEARNED[1][0]], [LEARNED[2][0]]]
    answers = recipe.answer(made, recipe.graphs(made))
    assert answers["translation"].ravel().tolist() == [LEARNED[0][1], "", LEARNED[1][1], LEARNED[2][1]]
    assert answers["encoded"].shape[0] == 3
    assert answers["encoded"].dtype == np.float32
    value = recipe.infer(made).value
    assert recipe.judge(made, answers, answers) == value
    as_bytes = {"translation": np.array([one.encode() for one in answers["translation"].ravel()], np.object_)}
    assert recipe.judge(made, as_bytes, answers) == value


def test_what_is_evaluated_on_calibrates_nothing(recipe: Translator, made: BuildFiles) -> None:
    sources = [
        {feed["source"].tobytes() for feed in feeds(made)["encoder.onnx"]}
        for feeds in (recipe.calibration, recipe.evaluation)
    ]
    assert [len(one) for one in sources] == [2, 3]
    assert not sources[0] & sources[1]
    recipe.config.precision.calibration_examples = 1
    assert len(recipe.calibration(made)["encoder.onnx"]) <= 1


def script(tmp_path: Path, answers: dict[str, str]) -> dict[str, Graph]:
    """Graphs that give each of these texts that translation."""
    scripted(tmp_path, {source: answers.get(source, "ship") for source, _ in LEARNED})
    return dict(of_both({name: (tmp_path / name).read_bytes() for name in GRAPHS}))


Choose = Callable[[dict[str, str], dict[str, str]], tuple[str, str]]


@pytest.fixture
def choose(recipe: Translator, made: BuildFiles, tmp_path: Path) -> Choose:
    """Golden text and translation of the public name where a GPU's machine and a CPU's have other graphs."""

    def choose(on_gpu: dict[str, str], on_cpu: dict[str, str]) -> tuple[str, str]:
        files = BuildFiles(tmp_path / "workspace", "translator")
        files.corpus.mkdir(parents=True)
        for path in made.corpus.iterdir():
            (files.corpus / path.name).write_bytes(path.read_bytes())
        chosen = {GPU: script(tmp_path / "gpu", on_gpu), CPU: script(tmp_path / "cpu", on_cpu)}
        for name in TOKENIZERS:
            (files.corpus / name).write_bytes((tmp_path / "gpu" / name).read_bytes())
        for model in recipe.public(files, chosen):
            for name in GRAPHS:
                for config, target in ((model.gpu, GPU), (model.cpu, CPU)):
                    file = config.parameters[name.removesuffix(".onnx")].string_value
                    assert model.files[f"1/{file}"] == chosen[target][name].cpu
        return model.inputs["text"].item(), model.outputs["translation"].item()

    return choose


def test_the_golden_text_of_the_public_name_is_one_that_both_targets_translate_alike(choose: Choose) -> None:
    text, answer = choose({LEARNED[0][0]: "ship ship"}, {LEARNED[1][0]: "ahoy"})
    assert (text, answer) == (LEARNED[2][0], "ship")


def test_the_golden_text_is_empty_where_the_targets_agree_on_nothing(choose: Choose) -> None:
    assert choose({}, dict.fromkeys(SENTENCES, "ahoy ahoy")) == ("", "")


def test_int8_that_translates_as_fp32_passes_and_one_that_lost_bleu_does_not(
    recipe: Translator, made: BuildFiles
) -> None:
    recipe.config.precision.int8.smoothing = 0.0
    trial = Trial(recipe, made)
    variant = make_variant(trial, INT8)
    assert trial.proof(INT8, CPU, variant.graphs, variant.kept)
    contents = {name: graph.cpu for name, graph in variant.graphs.items()}
    assert contents == {name: graph.gpu for name, graph in variant.graphs.items()}  # no form for TensorRT
    passed = trial.in_process(INT8, contents)
    assert passed.losses == ()
    assert passed.metric == passed.reference > 50
    broken = {**contents, "decoder.onnx": with_weights_mixed_up(contents["decoder.onnx"])}
    (loss,) = trial.in_process(INT8, broken).losses
    assert loss.startswith("bleu is ")
    assert "precision.int8.max_drop 0.5" in loss


def test_fp32_may_differ_between_batches_by_a_thousandth_of_the_metrics_range(
    recipe: Translator, made: BuildFiles
) -> None:
    trial = Trial(recipe, made)
    assert trial.allowed(FP32).max_drop == pytest.approx(0.1)  # BLEU


def test_a_held_out_part_of_texts_that_are_all_too_long_is_one_line(recipe: Translator, made: BuildFiles) -> None:
    recipe.config.network.max_source_tokens = 2
    with pytest.raises(DataError, match=r"each held-out text of .*corpus is longer than network.max_source_tokens 2: "):
        recipe.answer(made, recipe.graphs(made))

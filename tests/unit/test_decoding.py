"""The decode loop that a server runs: what PyTorch would say, for each sentence of a batch, until it is stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from model_build.models.translation.network import BEGIN, END, TranslationNetwork
from model_build.models.translation.served.decoding import ASK_EVERY, Sentence, TextError, Translator
from tests.text_support import MAX_TOKENS, SENTENCES, memorised, scripted

TEXTS = [*SENTENCES]


class Made(NamedTuple):
    """A trained network and its exported folder."""

    network: TranslationNetwork
    translator: Translator


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("translator") / "1"
    network, *_ = memorised(folder)
    return Made(network, Translator(folder, 1, MAX_TOKENS, MAX_TOKENS))


@pytest.fixture
def endless(tmp_path: Path) -> Translator:
    """Says "ship" for ever."""
    scripted(tmp_path / "1", {"да": [], "нет": []}, ends=False)
    return Translator(tmp_path / "1", 1, 20, 12)


def plain_greedy(network: TranslationNetwork, source: Sequence[int], limit: int) -> list[int]:
    """Without a cache: the whole network again for every token."""
    tokens = [BEGIN]
    with torch.no_grad():
        while len(tokens) <= limit and tokens[-1] != END:
            logits = network(torch.tensor([source]), torch.tensor([tokens]))
            tokens.append(int(logits[0, -1].argmax()))
    return [token for token in tokens[1:] if token != END]


def decode(translator: Translator, *sentences: Sentence) -> list[tuple[list[int], str]]:
    translator.decode(sentences)
    return [(sentence.tokens, sentence.finish_reason) for sentence in sentences]


@pytest.mark.parametrize("text", [*TEXTS, "Ветер идёт домой?", "🚢 Ship!"])
def test_a_sentence_is_decoded_token_by_token_as_pytorch_decodes_it_without_a_cache(made: Made, text: str) -> None:
    sentence = made.translator.sentence(text)
    made.translator.decode([sentence])
    assert sentence.tokens == plain_greedy(made.network, sentence.source, MAX_TOKENS)
    assert sentence.finish_reason == ("stop" if len(sentence.tokens) < MAX_TOKENS else "length")


def test_what_the_network_has_learned_comes_out_as_text(made: Made) -> None:
    sentences = [made.translator.sentence(text) for text in TEXTS]
    made.translator.decode(sentences)
    assert [made.translator.text(sentence.tokens) for sentence in sentences] == [*SENTENCES.values()]


def test_a_batch_gives_what_single_sentences_give_though_they_end_at_different_steps(made: Made) -> None:
    texts = [*TEXTS, *reversed(TEXTS)]
    alone = [decode(made.translator, made.translator.sentence(text))[0] for text in texts]
    together = decode(made.translator, *(made.translator.sentence(text) for text in texts))
    assert together == alone
    assert len({len(tokens) for tokens, _ in alone}) > 3, "the sentences end at different steps"


def test_the_end_token_stops_a_sentence_and_is_none_of_its_tokens(made: Made) -> None:
    ((tokens, reason),) = decode(made.translator, made.translator.sentence("Да"))
    assert reason == "stop"
    assert tokens
    assert END not in tokens


def test_the_length_limit_stops_a_sentence_at_exactly_that_many_tokens_and_no_other(made: Made) -> None:
    limited = made.translator.sentence(TEXTS[0], max_tokens=3)
    ((whole, _), (short, reason)) = decode(made.translator, made.translator.sentence(TEXTS[0]), limited)
    assert reason == "length"
    assert short == whole[:3]


def test_no_request_may_ask_for_more_tokens_than_the_model_gives(endless: Translator) -> None:
    for asked in (None, 12, 10_000):
        ((tokens, reason),) = decode(endless, endless.sentence("да", max_tokens=asked))
        assert (len(tokens), reason) == (12, "length")


def test_a_deadline_ends_one_sentence_as_it_is_and_leaves_its_neighbour(
    endless: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    hurried, patient = endless.sentence("да"), endless.sentence("нет")
    hurried.deadline = 4.0  # the clock is read once before the first step, which is 0, and once after each
    endless.decode([hurried, patient])
    assert (len(hurried.tokens), hurried.finish_reason) == (4, "deadline")
    assert (len(patient.tokens), patient.finish_reason) == (12, "length")


def test_a_sentence_that_nobody_waits_for_any_more_leaves_the_batch(
    endless: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))  # every step takes longer than ASK_EVERY
    gone, stays = endless.sentence("да"), endless.sentence("нет")
    gone.cancelled = lambda: len(gone.tokens) == 2
    endless.decode([gone, stays])
    assert (len(gone.tokens), gone.finish_reason) == (2, "cancelled")
    assert (len(stays.tokens), stays.finish_reason) == (12, "length")


def test_whether_a_client_has_gone_is_not_asked_at_every_step(
    endless: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) * ASK_EVERY / 4)
    asked: list[int] = []
    sentence = endless.sentence("да")

    def cancelled() -> bool:
        asked.append(len(sentence.tokens))
        return False

    sentence.cancelled = cancelled
    endless.decode([sentence])
    assert asked == [0, 4, 8]


def test_what_is_late_or_cancelled_before_the_first_step_gets_no_token(endless: Translator) -> None:
    late, gone = endless.sentence("да"), endless.sentence("да")
    late.deadline, gone.cancelled = time.monotonic() - 1, lambda: True
    assert decode(endless, late, gone) == [([], "deadline"), ([], "cancelled")]


@pytest.mark.parametrize("others", [[], ["Да"]])
def test_an_empty_text_is_translated_by_nothing(made: Made, others: list[str]) -> None:
    empty, *_ = decode(made.translator, *(made.translator.sentence(text) for text in ["", *others]))
    assert empty == ([], "stop")
    assert made.translator.text([]) == ""


def test_a_text_of_as_many_tokens_as_the_network_takes_is_taken_and_one_more_is_refused(endless: Translator) -> None:
    letters = "q" * 18  # a token each, and one for the space that stands before every text
    sentence = endless.sentence(letters)
    assert len(sentence.source) == 20
    assert decode(endless, sentence)[0][1] == "length"
    with pytest.raises(TextError, match=r"the text has 20 tokens, and the model takes 19: divide it into sentences"):
        endless.sentence(letters + "q")


@pytest.mark.parametrize("name", ["[END]", "[PAD]", "[BEGIN]"])
def test_the_name_of_a_special_token_in_a_text_is_text(made: Made, name: str) -> None:
    source = made.translator.sentence(f"Да {name}").source
    assert min(source[:-1]) > END
    assert source[-1] == END
    assert made.translator._source.decode(source) == f" Да {name}"


def test_each_sentence_is_heard_once_for_each_of_its_tokens_and_when_it_ends(made: Made) -> None:
    sentences = [made.translator.sentence(text) for text in ["", *TEXTS]]
    heard: dict[int, list[tuple[int, str]]] = {id(sentence): [] for sentence in sentences}

    def hear(moved: Sequence[Sentence]) -> None:
        for sentence in moved:
            heard[id(sentence)].append((len(sentence.tokens), sentence.finish_reason))

    made.translator.decode(sentences, hear)
    for sentence in sentences:
        count = len(sentence.tokens)
        assert heard[id(sentence)] == [*((number + 1, "") for number in range(count)), (count, "stop")]

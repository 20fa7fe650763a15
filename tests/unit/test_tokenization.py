"""The embedder's tokenizer as a server runs it: cut off, padded, and each request for itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from slipway_client import Client, ServerError
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from model_build.config import TritonConfig
from model_build.models.embedder import SERVED
from model_build.models.embedding.served.tokenization import TextTokenizer
from model_build.models.translation.vocabulary import learn_vocabulary
from model_build.recipe import as_text, read_served_code
from model_build.triton_config import python_model, to_text
from tests.text_support import Request, ServedCode, refusal

OPEN, CLOSE, FILLER = 1, 2, 7


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A tokenizer with a token before and one after each text, and wishes of its own for length and padding."""
    tokenizer = learn_vocabulary(["ship"], 300)
    tokenizer.post_processor = TemplateProcessing("<s> $A </s>", None, [("<s>", OPEN), ("</s>", CLOSE)])
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=64, pad_id=FILLER, pad_token=str(tokenizer.id_to_token(FILLER)))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_long_text_is_cut_and_keeps_the_token_that_closes_it(file: Path) -> None:
    ids, mask = TextTokenizer(file, max_tokens=10, pad_to_multiple_of=1).encode(["ship " * 50])
    assert ids.shape == (1, 10)
    assert (ids[0, 0], ids[0, -1]) == (OPEN, CLOSE)
    assert not {OPEN, CLOSE, FILLER} & {*ids[0, 1:-1].tolist()}
    assert mask.tolist() == [[1] * 10]


@pytest.mark.parametrize(("multiple", "width"), [(1, 11), (4, 12), (8, 16)])
def test_texts_are_padded_to_the_longest_and_its_multiple_and_the_mask_says_where(
    file: Path, multiple: int, width: int
) -> None:
    ids, mask = TextTokenizer(file, max_tokens=100, pad_to_multiple_of=multiple).encode(["q", "q" * 8])
    assert ids.dtype == mask.dtype == np.int64
    assert ids.shape == mask.shape == (2, width)
    assert mask.sum(axis=1).tolist() == [4, 11]  # two special tokens, the space before a text, its letters
    for row, kept in zip(ids, mask, strict=True):
        assert kept.tolist() == sorted(kept.tolist(), reverse=True)
        assert row[kept == 0].tolist() == [FILLER] * (width - kept.sum())


def test_an_empty_text_is_its_two_special_tokens(file: Path) -> None:
    ids, mask = TextTokenizer(file, max_tokens=10, pad_to_multiple_of=1).encode([""])
    assert ids.tolist() == [[OPEN, CLOSE]]
    assert mask.tolist() == [[1, 1]]


def test_emoji_and_cyrillic_keep_every_byte(file: Path) -> None:
    text = "🚢 Ещё корабль 海"
    ids, mask = TextTokenizer(file, max_tokens=100, pad_to_multiple_of=8).encode([text])
    assert Tokenizer.from_file(str(file)).decode(ids[0][mask[0] == 1].tolist()) == f" {text}"


@pytest.fixture
def folder(file: Path, tmp_path: Path) -> Path:
    """The model folder `tokenizer`."""
    tokens = {name: np.ones((1, 4), np.int64) for name in ("input_ids", "attention_mask")}
    served = python_model(
        "tokenizer",
        TritonConfig(max_batch_size=4),
        files={**read_served_code(SERVED, "model.py", "tokenization.py"), "1/tokenizer.json": file.read_bytes()},
        parameters={"max_tokens": 12, "pad_to_multiple_of": 8},
        inputs={"text": as_text(["a"])},
        outputs=tokens,
        variable=tuple(tokens),
    )
    folder = tmp_path / "models" / "tokenizer"
    (folder / "1").mkdir(parents=True)
    for name, content in {"config.pbtxt": to_text(served.cpu, "embedder"), **served.files}.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_served_tokenizer_pads_each_request_for_itself_and_refuses_one_alone(folder: Path) -> None:
    responses = ServedCode(folder).execute(Request(["ship"]), Request(["a", b"\xff"]), Request(["", "q" * 30]))
    assert responses is not None
    assert refusal(responses[1]).startswith("input 'text', element 1 is not UTF-8")
    assert refusal(responses[1]).endswith(": send text in UTF-8")
    for response, shape, lengths in ((responses[0], [1, 8], [3]), (responses[2], [2, 16], [2, 12])):
        ids, mask = response.output_tensors()
        assert (ids.name(), mask.name()) == ("input_ids", "attention_mask")
        assert ids.shape() == mask.shape() == shape
        assert mask.as_numpy().sum(axis=1).tolist() == lengths


@pytest.mark.parametrize("value", ["0", "many", ""])
def test_a_configuration_with_another_number_is_refused_when_the_model_loads(folder: Path, value: str) -> None:
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace('string_value: "12"', f'string_value: "{value}"'))
    expected = rf"parameter max_tokens is '{value}': expected a whole number, 1 or more"
    with Client(f"local:{folder.parent}") as client, pytest.raises(ServerError, match=expected):
        client.model("tokenizer")(text=[["a"]])

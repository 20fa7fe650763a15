"""Golden answers of every type that Triton serves: written by a build, read, sent and compared without a loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from slipway_client import Result
from tritonclient.utils import serialize_byte_tensor

from loadtest._golden import Golden, WrongAnswerError
from model_build import BuildError
from model_build.recipe import ServedModel
from model_build.stages.staging import golden
from serving import RepositoryError, compare_golden
from serving._golden import ask_golden
from serving._repository import ServedModel as ServedFolder
from serving._tensors import DATATYPES, TensorError, in_json, pack, to_json, unpack, values_of
from tests.support import answering

Array = npt.NDArray[Any]
INFINITIES = [0.1, -0.0, np.inf, -np.inf, np.nan]


def integers(kind: type) -> Array:
    limits = np.iinfo(kind)
    return np.array([[limits.min, 1, limits.max - 1, limits.max]], kind)


ARRAYS: dict[str, Array] = {
    "BOOL": np.array([[True, False]]),
    **{f"UINT{bits}": integers(getattr(np, f"uint{bits}")) for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": integers(getattr(np, f"int{bits}")) for bits in (8, 16, 32, 64)},
    "FP16": np.array([[65504, 6e-8, *INFINITIES]], np.float16),
    "BF16": np.array([[3e38, 1e-40, *INFINITIES]], ml_dtypes.bfloat16),
    "FP32": np.array([[3.4028235e38, 1e-45, *INFINITIES]], np.float32),
    "FP64": np.array([[1.7976931348623157e308, 5e-324, *INFINITIES]], np.float64),
    "BYTES": np.array([["Ещё 🚢", b"\xff\xfe\0", "", b"text"]], object),
}


def made(array: Array, atol: float = 0.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a build writes for a model that gives back what it gets."""
    model = ServedModel("m", *_configurations(), {}, {"x": array}, {"x": array})
    request, response = golden(model, atol)

    def no_json(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    strict, answer = (json.loads(body, parse_constant=no_json) for body in (request, response))
    return strict, answer


def _configurations() -> tuple[Any, Any]:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return ModelConfig(), ModelConfig()


def in_binary(array: Array) -> bytes:
    """As tritonclient and NumPy write it."""
    if array.dtype != np.object_:
        return array.tobytes()
    texts = np.array([one.encode() if isinstance(one, str) else one for one in array.ravel()], object)
    return bytes(serialize_byte_tensor(texts).item())


def answered(array: Array, datatype: str) -> Result:
    """As the client hands it over: BYTES are `bytes`, BF16 is FP32."""
    if datatype == "BYTES":
        array = np.array([one.encode() if isinstance(one, str) else one for one in array.ravel()], object).reshape(
            array.shape
        )
    return Result({"x": array.astype(np.float32) if datatype == "BF16" else array}, "m", "1")


def test_the_table_has_every_datatype_of_triton() -> None:
    assert set(ARRAYS) == DATATYPES


@pytest.mark.parametrize("datatype", sorted(ARRAYS))
def test_a_tensor_is_written_as_strict_json_and_sent_as_the_bytes_that_it_had(datatype: str) -> None:
    array = ARRAYS[datatype]
    request, response = made(array)
    (tensor,) = request["inputs"]
    assert (tensor["datatype"], tensor["shape"]) == (datatype, list(array.shape))
    assert response["outputs"] == [tensor]
    sent = pack(datatype, values_of(tensor))
    assert sent == in_binary(array)
    assert pack(datatype, unpack(datatype, sent)) == sent


def test_a_number_between_two_of_bf16_becomes_the_one_that_ml_dtypes_takes() -> None:
    values = [1 + 2**-8, 1 + 3 * 2**-8, -1.0061, 3.4e38, 1e-41, 0.3, float("inf"), float("nan")]
    rounded = np.array(values, np.float32).astype(ml_dtypes.bfloat16)
    assert pack("BF16", values) == rounded.tobytes()


def changed(array: Array) -> Array:
    """The last value is the next one, the text another: by 1 where integers of 64 bits are largest."""
    other = array.copy()
    last = other.ravel()[-1]
    if array.dtype == np.object_:
        other[0, -1] = b"tex"
    elif array.dtype.kind in "iu":
        other[0, -1] = last - 1
    elif array.dtype.kind == "b":
        other[0, -1] = not last
    else:
        other[0, -1] = 0
    return other


@pytest.mark.parametrize("datatype", sorted(ARRAYS))
def test_the_server_side_and_the_load_test_agree_on_what_is_the_golden_answer(datatype: str, tmp_path: Path) -> None:
    array = ARRAYS[datatype]
    request, response = made(array, atol=0.5)
    (tmp_path / "request.json").write_text(json.dumps(request))
    (tmp_path / "response.json").write_text(json.dumps(response))
    load = Golden.read(tmp_path)
    for found, equal in ((array, True), (changed(array), False)):
        _, answer = made(found)
        assert bool(compare_golden("m", response, answer)) == equal
        if equal:
            load.check(answered(found, datatype))
        else:
            with pytest.raises(WrongAnswerError, match="'x' is"):
                load.check(answered(found, datatype))


@pytest.mark.parametrize(
    ("expected", "found", "distance"),
    [
        ([np.inf, 1.0], [np.inf, 1.25], 0.25),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf),
        ([np.inf, 1.0], [3e38, 1.0], np.inf),
        ([np.nan, 1.0], [1.0, np.nan], np.inf),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([], [], 0.0),
    ],
)
def test_infinities_and_nan_are_equal_to_themselves_alone(
    expected: list[float], found: list[float], distance: float, tmp_path: Path
) -> None:
    arrays = [np.array([values], np.float32) for values in (expected, found)]
    request, response = made(arrays[0], atol=0.3)
    result = compare_golden("m", response, made(arrays[1])[1])
    assert result.max_abs_error == pytest.approx(distance)
    (tmp_path / "request.json").write_text(json.dumps(request))
    (tmp_path / "response.json").write_text(json.dumps(response))
    try:
        Golden.read(tmp_path).check(answered(arrays[1], "FP32"))
    except WrongAnswerError:
        assert not result
    else:
        assert result


def test_files_of_before_are_read_alike() -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [[float("inf"), 0.1, float("nan")]]}
    assert values_of(json.loads(json.dumps(tensor)))[:2] == [float("inf"), float(np.float32(0.1))]


def test_what_curl_can_ask_is_told_from_what_it_cannot() -> None:
    tensors = {datatype: made(array)[0]["inputs"][0] for datatype, array in ARRAYS.items()}
    plain = {name for name, tensor in tensors.items() if in_json(tensor)}
    assert plain == DATATYPES - {"FP16", "BF16", "FP32", "FP64", "BYTES"}
    assert in_json(to_json("x", "FP32", [1], [0.5]))
    assert in_json(to_json("x", "BYTES", [1], ["text"]))


@pytest.mark.parametrize(
    ("datatype", "data", "reason"),
    [
        ("FP8", [1], "Triton has no datatype FP8: expected one of BF16, BOOL"),
        ("INT8", [128], "not every value fits INT8"),
        ("INT32", [0.5], r"0\.5 is no INT32"),
        ("FP16", [1e5], "not every value fits FP16"),
        ("BYTES", [3], "3 is no BYTES"),
        ("BYTES", ["\udcff"], "is no text that UTF-8 can hold"),
        ("BOOL", ["no"], "'no' is no BOOL"),
        ("INT32", [1, 2], r"'x' has 2 values, and 1 in its shape \[1\]"),
    ],
)
def test_a_tensor_that_is_none_of_its_type_is_refused_with_the_reason(
    datatype: str, data: list[Any], reason: str
) -> None:
    with pytest.raises(TensorError, match=reason):
        values_of({"name": "x", "datatype": datatype, "shape": [1], "data": data})


@pytest.mark.parametrize("shape", [[-1, -1], [2, -1], [True], [1.0], ["1"], 1, None, {"1": 1}, "1"])
def test_a_shape_that_is_no_list_of_sizes_is_refused(shape: Any) -> None:
    with pytest.raises(
        TensorError, match=r"^'x' is no tensor of FP32: its shape .* is no list of sizes, whole numbers"
    ):
        values_of({"name": "x", "datatype": "FP32", "shape": shape, "data": [1.0]})


@pytest.mark.parametrize("data", ["ab", {"a": 1, "b": 2}, None, 3])
def test_data_that_is_no_list_is_refused(data: Any) -> None:
    with pytest.raises(TensorError, match=r"^'x' is no tensor of BYTES: its data .* is no list$"):
        values_of({"name": "x", "datatype": "BYTES", "shape": [2], "data": data})


def test_an_empty_answer_with_values_is_another_than_the_golden_one_without() -> None:
    _, response = made(np.zeros((0,), np.float32))
    (output,) = response["outputs"]
    assert compare_golden("m", response, response)
    result = compare_golden("m", response, {"outputs": [{**output, "data": [1.0]}]})
    assert not result
    assert result.max_abs_error == np.inf


@pytest.mark.parametrize("atol", [np.inf, np.nan, -1.0])
def test_a_tolerance_that_lets_anything_pass_is_none(atol: float, tmp_path: Path) -> None:
    request, response = made(np.array([[np.inf]], np.float32))
    response["parameters"]["atol"] = str(atol)
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "request.json").write_text(json.dumps(request))
    (tmp_path / "golden" / "response.json").write_text(json.dumps(response))
    with pytest.raises(RepositoryError, match=rf"parameters\.atol is {atol}, and a tolerance is 0 or more, and finite"):
        ask_golden("http://127.0.0.1:9", ServedFolder("m", tmp_path))
    with pytest.raises(ValueError, match=rf"parameters\.atol is {atol}: expected 0 or more, and finite"):
        Golden.read(tmp_path / "golden")
    with pytest.raises(BuildError, match=f"model 'm' has atol {atol}: expected a tolerance"):
        made(np.zeros(1), atol=atol)


def test_an_array_of_a_type_that_triton_has_not_is_refused_by_the_build() -> None:
    with pytest.raises(BuildError, match=r"no golden answer can hold tensor 'x' \(complex64\)"):
        made(np.zeros((1, 2), np.complex64))


@pytest.mark.parametrize(
    ("request_body", "response_body", "reason"),
    [
        ("{", "{}", r"golden/request\.json is nothing that can be asked or compared"),
        ("{}", "{}", "it has no 'inputs'"),
        ('{"inputs": []}', '{"outputs": []}', "it has no 'parameters'"),
        ('{"inputs": []}', '{"parameters": {"atol": -1}, "outputs": []}', "a tolerance is 0 or more"),
        ('{"inputs": []}', '{"parameters": {"atol": 0}, "outputs": []}', "any answer would do"),
        ('{"inputs": [3]}', "{}", "golden/request"),
    ],
)
def test_golden_files_that_say_nothing_are_refused_by_name(
    request_body: str, response_body: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "request.json").write_text(request_body)
    (tmp_path / "golden" / "response.json").write_text(response_body)
    with pytest.raises(RepositoryError, match=reason):
        ask_golden("http://127.0.0.1:9", ServedFolder("m", tmp_path))


def test_a_stream_whose_request_json_cannot_carry_is_refused_by_name(tmp_path: Path) -> None:
    request, response = made(ARRAYS["FP16"])
    response["parameters"]["stream"] = True
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "request.json").write_text(json.dumps(request))
    (tmp_path / "golden" / "response.json").write_text(json.dumps(response))
    result = ask_golden("http://127.0.0.1:9", ServedFolder("m", tmp_path))
    assert result.reason == "no answer: a stream is asked and answered in JSON, which cannot carry x, x"


def test_a_stream_of_several_numbers_and_texts_is_compared_element_by_element(tmp_path: Path) -> None:
    text = {"name": "t", "datatype": "BYTES", "shape": [2], "data": ["ab", "c"]}
    numbers = {"name": "n", "datatype": "FP32", "shape": [2], "data": ["-Infinity", 2]}
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "request.json").write_text(json.dumps({"inputs": [text]}))
    response = {"parameters": {"atol": 0, "stream": True}, "outputs": [text, numbers]}
    (tmp_path / "golden" / "response.json").write_text(json.dumps(response))
    events = b'data: {"t": ["a", ""], "n": [0, 1]}\n\ndata: {"t": ["b", "c"], "n": [-Infinity, 2.0]}\n\n'
    with answering(events) as url:
        assert ask_golden(url, ServedFolder("m", tmp_path))

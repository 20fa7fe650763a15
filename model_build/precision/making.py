"""FP16 and INT8 as typed ONNX files: the precision is in the graph, and no builder's flag can lose it.

INT8 is static quantisation with QuantizeLinear and DequantizeLinear (QDQ), weights per channel. For a CPU activations
are unsigned and weights signed (U8S8): x86 multiplies exactly that pair (AVX512-VNNI; S8S8 leaves half of the
products in FP32). The weights have seven bits: without VNNI pairs of products are added in 16 bits, where 2 x 255 x 127
does not fit (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). For TensorRT both are
signed and symmetric, as it demands
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html).
Products keep their result in FP32 (MatMulIntegerToFloat): measured on MiniLM, quantising it too costs 0.05 of cosine.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from model_build._errors import DataError, ExportError
from model_build.precision.graph import fold_weights, layers
from model_build.precision.kept import release
from model_build.precision.smoothing import smooth
from model_build.precision.variants import FP16, Graph

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]

_CPU_OPERATORS = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool")  # the last two, so that convolutions stay in INT8
# On a CPU each smoothed input costs a Mul. Those behind GELU are four times as wide, and take MiniLM from a mean cosine
# of 0.996 to 0.998 for a fourteenth of its time.
_SMOOTHED = ("LayerNormalization",)
_FLOAT_RESULT = ["Gemm", "MatMul"]
_LARGEST_HALF, _AS_INFINITE = 65504.0, 1e30


class Maker:
    """Makes one graph's variants; what calibration found is kept between them.

    Args:
        name: of the graph's file, for messages.
        content: the FP32 file.
        calibration: real inputs of the graph, none of which is evaluated on.
        smoothing: strength of `smoothing.smooth`.
    """

    def __init__(self, name: str, content: bytes, calibration: Sequence[Feed], smoothing: float) -> None:
        self._name, self._content, self._calibration, self._smoothing = name, content, calibration, smoothing
        self._folder = tempfile.TemporaryDirectory(prefix="slipway-quantise-")

    def make(self, variant: str, keep: Collection[str]) -> Graph:
        """The graph as `variant`, the layers named in `keep` in FP32.

        Raises:
            DataError: a calibration input is missing or has another shape or dtype than the graph takes.
            ExportError: ONNX Runtime's tools cannot convert it.
        """
        try:
            with _quiet():
                if variant == FP16:
                    half = self._half(keep)
                    return Graph(half, half)
                return Graph(self._int8(keep, symmetric=False), self._int8(keep, symmetric=True))
        except (DataError, OSError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            known = (layer.name for layer in layers(onnx.load_from_string(self._content), variant))
            named = max((name for name in known if name and name in reason), key=len, default=None)
            together = ",".join([*keep, str(named)])
            keep_it = f"keep {named} in FP32 (precision.{variant}.keep_fp32=[{together}]), or " if named else ""
            raise ExportError(
                f"{self._name} cannot be converted to {variant} ({reason}): {keep_it}take {variant} out of "
                "precision.variants"
            ) from error

    def close(self) -> None:
        """Remove temporary files."""
        self._folder.cleanup()

    def _half(self, keep: Collection[str]) -> bytes:
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        original = onnx.load_from_string(self._content)
        model = convert_float_to_float16(
            original,
            max_finite_val=_LARGEST_HALF,
            keep_io_types=True,
            node_block_list=[*keep, *_beyond_half(original)],
        )
        # The tool leaves its casts at the end, and types of FP32 that are none any more: neither is valid ONNX.
        OnnxModel(model).topological_sort()
        del model.graph.value_info[:]
        return _finished(onnx.shape_inference.infer_shapes(model), self._content)

    def _int8(self, keep: Collection[str], *, symmetric: bool) -> bytes:
        check_feeds(self._name, self._content, self._calibration)
        model = onnx.load_from_string(self._content)
        fold_weights(model)
        if self._smoothing:
            model = smooth(model, self._calibration, self._smoothing, None if symmetric else _SMOOTHED)
        folder = Path(self._folder.name)
        result = folder / "quantised.onnx"
        activations = QuantType.QInt8 if symmetric else QuantType.QUInt8
        operators = [*_FLOAT_RESULT, "Conv"] if symmetric else [*_CPU_OPERATORS]
        options: dict[str, Any] = {
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": operators if symmetric else _FLOAT_RESULT,
            "QuantizeBias": not symmetric,
        }
        quantize_static(
            model,
            result,
            _Reader(self._calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            reduce_range=not symmetric,
            activation_type=activations,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep),
            calibration_cache_path=folder / f"ranges-{symmetric}.json",
            extra_options=options,
        )
        quantised = onnx.load(result)
        release(quantised, keep, symmetric=symmetric)
        return _finished(quantised, self._content)


def _beyond_half(model: onnx.ModelProto) -> list[str]:
    """Nodes with a constant that half precision cannot hold, a normalisation's variance for one: they stay FP32.

    What stands for minus infinity in a mask is no such number: clamped, it does the same. The tool casts each input of
    such a node under a name of its own: a constant that goes in twice gets a second name here.
    """
    constants = {one.name: one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
    large = set()
    for name, tensor in constants.items():
        values = np.abs(onnx.numpy_helper.to_array(tensor))
        if ((values > _LARGEST_HALF) & (values < _AS_INFINITE)).any():
            large.add(name)
    nodes = [node for node in model.graph.node if large & set(node.input)]
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in constants and name in node.input[:index]:
                node.input[index] = f"{name}_{index}"
                twin = model.graph.initializer.add()
                twin.CopyFrom(constants[name])
                twin.name = node.input[index]
    return [node.name for node in nodes]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def check_feeds(name: str, content: bytes, feeds: Sequence[Feed]) -> None:
    """Raise a DataError unless there are calibration inputs and each is one that the graph takes."""
    if not feeds:
        raise DataError(f"there is no calibration data for {name}: expected real inputs, none of them evaluated on")
    nodes = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).get_inputs()
    expected = {node.name: node for node in nodes}
    for index, feed in enumerate(feeds):
        if set(feed) != set(expected):
            raise DataError(f"calibration input {index} of {name} has tensors {sorted(feed)}: expected {[*expected]}")
        for key, array in feed.items():
            shape, dtype = expected[key].shape, _NUMPY.get(expected[key].type)
            sizes = zip(shape, array.shape, strict=False)
            fits = (
                len(shape) == array.ndim
                and array.size
                and all(not isinstance(want, int) or want == have for want, have in sizes)
            )
            if not fits or array.dtype != dtype:
                raise DataError(
                    f"calibration input {index} of {name}: '{key}' is {array.dtype} {list(array.shape)}, expected "
                    f"{np.dtype(dtype)} {list(shape)}: calibrate with inputs like those that the model is asked with"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DataError(f"calibration input {index} of {name}: '{key}' holds NaN or infinity: remove it")


_NUMPY: Mapping[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def _finished(model: onnx.ModelProto, original: bytes) -> bytes:
    """The file without what the tools note in it, of the version that it was exported in."""
    del model.metadata_props[:]
    model.ir_version = onnx.load_from_string(original).ir_version
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tools print and warn about what is decided here."""
    logger, level = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

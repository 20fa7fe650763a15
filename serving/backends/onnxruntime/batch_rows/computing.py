"""Rules of operators that compute: elements, sums, products, layers, trees."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from .rules import CONSTANT, RULES, Call, Mixes, Rows, Tensor, Undecided, Unknown, Where, rule

MASK = 3  # which input of Attention
# Which factor the scales and zero points belong to, by their number among the inputs; None: to the product.
QUANTIZED: dict[str, dict[int, int | None]] = {
    "MatMulInteger": {2: 0, 3: 1},
    "QLinearMatMul": {1: 0, 2: 0, 4: 3, 5: 3, 6: None, 7: None},
}


@rule(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike "
    "Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or "
    "PRelu Pow Reciprocal RegexFullMatch Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign "
    "Sqrt StringConcat Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
)
def elementwise(call: Call) -> Where:
    """Broadcast from the right: each place of the batch is made of the same place of each input."""
    if call.node.op_type == "Dropout" and (mode := call.given(2)) is not None and mode.value.any():
        raise Undecided("that gives something else each time")
    if call.node.op_type == "CastLike" and call.inputs[0] is not None:
        return call.inputs[0].where
    rank = max(tensor.rank for tensor in call.inputs if tensor is not None)
    places = set()
    for tensor in call.inputs:
        if tensor is None or tensor.where is CONSTANT:
            continue
        if not isinstance(tensor.where, Rows):
            raise Mixes("computes with the size of the batch")
        places.add(tensor.where.at(rank - tensor.rank + tensor.where.axis))
    if len(places) != 1:
        raise Mixes("combines each row with every other")
    (where,) = places
    for tensor in call.inputs:
        if tensor is not None:
            call.alike(tensor, where.axis - (rank - tensor.rank))
    return where


def is_elementwise(node: onnx.NodeProto) -> bool:
    """Whether the shapes of its inputs alone say which shape its output has."""
    return node.domain in ("", "ai.onnx") and RULES.get(("", node.op_type)) is elementwise


@rule("DequantizeLinear QuantizeLinear")
def quantize(call: Call) -> Where:
    """With one scale, one for each place of `axis`, or one for each block (as many dimensions as the input)."""
    where, rank = call.place(), call.rank
    axis = call.axis(1, rank)
    for tensor in call.inputs[1:]:
        if tensor is not None and tensor.rank == 1 and axis == where.axis:
            call.single(tensor)
        elif tensor is not None and tensor.rank > 1:
            call.alike(tensor, where.axis)
    return where


@rule(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare ArgMax ArgMin"
)
def reduce(call: Call) -> Where:
    """The dimensions that are reduced go, or become 1."""
    where, rank = call.place(), call.rank
    if call.node.op_type.startswith("Arg"):
        axes = [call.axis(0, rank)]
    else:
        given = call.parameter("axes", 1)
        if not given and call.attributes.get("noop_with_empty_axes"):
            return where
        axes = [axis % rank for axis in (given or range(rank))]
    if where.axis in axes:
        raise Mixes("reduces the batch")
    kept = call.attributes.get("keepdims", 1)
    return where if kept else where.at(where.axis - sum(axis < where.axis for axis in axes))


@rule("Softmax LogSoftmax Hardmax")
def normalize_along(call: Call) -> Where:
    """Along one dimension; before version 13 along that and all after it."""
    where, rank = call.place(), call.rank
    axis = call.axis(-1 if call.version >= 13 else 1, rank)
    if where.axis == axis or (call.version < 13 and where.axis > axis):
        raise Mixes("normalizes over the batch")
    return where


@rule("LpNormalization CumSum CumProd TopK")
def along(call: Call) -> Where:
    """Along one dimension; `axis` is the second input of CumSum."""
    where, rank = call.place(), call.rank
    axis = int(call.parameter("", 1)) % rank if call.node.op_type.startswith("Cum") else call.axis(-1, rank)
    if where.axis == axis:
        raise Mixes("goes along the batch")
    return where


@rule("LayerNormalization RMSNormalization")
def normalize_after(call: Call) -> Where:
    """Over `axis` and all dimensions after it; scale and bias broadcast from the right."""
    where = call.place()
    if where.axis >= call.axis(-1, call.rank):
        raise Mixes("normalizes over the batch")
    for tensor in call.inputs[1:]:
        if tensor is not None:
            call.alike(tensor, where.axis - (call.rank - tensor.rank))
    return where


@rule("MeanVarianceNormalization")
def normalize_over(call: Call) -> Where:
    """Over `axes`."""
    where, rank = call.place(), call.rank
    if where.axis in [axis % rank for axis in call.attributes.get("axes", (0, 2, 3))]:
        raise Mixes("normalizes over the batch")
    return where


@rule(
    "AveragePool BatchNormalization Conv ConvInteger ConvTranspose DepthToSpace GlobalAveragePool "
    "GlobalLpPool GlobalMaxPool GroupNormalization InstanceNormalization LRN LpPool MaxPool QLinearConv "
    "SpaceToDepth"
)
def images(call: Call) -> Sequence[Where]:
    """`[n, channels, ...]`: the first dimension is the batch by definition."""
    where = call.place()
    if where.axis != 0:
        raise Mixes("takes the batch for channels or places")
    several = sum(map(bool, call.node.output)) > 1  # before version 14, BatchNormalization trains if they are asked for
    if call.attributes.get("training_mode") or (call.node.op_type == "BatchNormalization" and several):
        raise Mixes("normalizes over the batch")
    if call.node.op_type == "MaxPool":
        return [where, Unknown("MaxPool's indices count through the whole batch", mixes=True)]
    return [where] * len(call.outputs)


@rule("GridSample Attention")
def images_together(call: Call) -> Where:
    """All inputs have the batch first; Attention's mask has it first of four dimensions."""
    if any(tensor.where != Rows(0) for tensor in call.rows):
        raise Mixes("takes the batch for another dimension")
    for index, tensor in enumerate(call.inputs):
        if tensor is None:
            continue
        if tensor.where is not CONSTANT and not isinstance(tensor.where, Rows):
            raise Undecided("with a parameter that depends on the batch")
        mask = call.node.op_type == "Attention" and index == MASK
        if call.node.op_type == "Attention" and isinstance(tensor.where, Rows) and tensor.rank < (4 if mask else 3):
            raise Undecided("with an input of fewer dimensions than it has with a batch")
        if not mask or tensor.rank > 2:
            call.alike(tensor, 0)
    return Rows(0)


@rule("MatMul MatMulInteger QLinearMatMul")
def matmul(call: Call) -> Where:
    """`[..., m, k] x [..., k, n]`, the dimensions before broadcast from the right."""
    second = 3 if call.node.op_type == "QLinearMatMul" else 1
    call.only(0, second)
    left, right = call.inputs[0], call.inputs[second]
    if left is None or right is None:
        raise Undecided("without one of its inputs")
    places = [_product_place(left, right, 1), _product_place(right, left, 2)]
    found = {place for place in places if place is not None}
    inner = any(tensor.where.axis >= tensor.rank - 2 for tensor in call.rows if isinstance(tensor.where, Rows))
    if len(found) != 1 or (len(call.rows) == 2 and inner):
        raise Mixes("combines each row with every other")
    (where,) = found
    rank = max(left.rank, right.rank)
    if min(left.rank, right.rank) > 1 and where.axis < rank - 2:
        for factor in (left, right):
            call.alike(factor, where.axis - (rank - factor.rank))
    for index, number in QUANTIZED.get(call.node.op_type, {}).items():
        # One for each row of the left factor, or for each column of the right one: the batch may lie along them.
        parameter, owner = call.given(index), call.inputs[number] if number is not None else None
        if parameter is not None and (parameter.rank > 1 or owner is None or isinstance(owner.where, Rows)):
            call.single(parameter)
    return where


def _product_place(tensor: Tensor, other: Tensor, summed: int) -> Rows | None:
    """Where the batch of one factor lies in the product; `summed` counts from the right."""
    if not isinstance(tensor.where, Rows):
        if tensor.where is not CONSTANT:
            raise Mixes("computes with the size of the batch")
        return None
    axis, rank = tensor.where.axis, tensor.rank
    if rank == 1 or axis == rank - summed:
        raise Mixes("sums over the batch")
    if other.rank == 1:
        axis -= summed == 2 and axis == rank - 1
        return tensor.where.at(axis)
    return tensor.where.at(max(rank, other.rank) - rank + axis)


@rule("Gemm")
def gemm(call: Call) -> Where:
    """`A [m, k] x B [k, n] + C`, either transposed."""
    left, right, added = call.given(0), call.given(1), call.given(2)
    if left is None or right is None or right.where is not CONSTANT or not isinstance(left.where, Rows):
        raise Undecided("with weights that depend on the batch")
    if left.where.axis != (1 if call.attributes.get("transA") else 0):
        raise Mixes("sums over the batch")
    if added is not None and added.where not in (CONSTANT, left.where.at(0)):
        raise Mixes("combines each row with every other")
    if added is not None and isinstance(added.where, Rows) and added.rank != 2:
        raise Mixes("combines each row with every other")
    if added is not None and added.rank == 2:
        call.alike(added, 0)
    return left.where.at(0)


@rule("Einsum")
def einsum(call: Call) -> Where:
    """The batch keeps its letter."""
    given, arrow, result = call.attributes["equation"].decode().replace(" ", "").partition("->")
    terms = given.split(",")
    if not arrow or "." in given:
        raise Undecided("whose equation leaves letters out")
    letters, places = set(), set()
    for term, tensor in zip(terms, call.inputs, strict=True):
        if tensor is not None and isinstance(tensor.where, Rows):
            letters.add(term[tensor.where.axis])
            places.add(tensor.where.at(0))
        elif tensor is not None and tensor.where is not CONSTANT:
            raise Mixes("computes with the size of the batch")
    if len(letters) != 1 or len(places) != 1:
        raise Mixes("combines each row with every other")
    (letter,) = letters
    if result.count(letter) != 1 or any(term.count(letter) > 1 for term in terms):
        raise Mixes("sums over the batch")
    for term, tensor in zip(terms, call.inputs, strict=True):
        call.alike(tensor, term.find(letter))
    return places.pop().at(result.index(letter))


@rule("Binarizer LabelEncoder OneHotEncoder", domain="ml")
def each_value(call: Call) -> Where:
    """Each value by itself; OneHotEncoder adds a dimension at the end."""
    where = call.place()
    call.outputs[0].table = call.node.op_type != "OneHotEncoder" and _is_table(call.inputs[0])
    return where


@rule(
    "ArrayFeatureExtractor FeatureVectorizer Imputer LinearClassifier LinearRegressor Normalizer SVMClassifier "
    "SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor",
    domain="ml",
)
def rows_of_features(call: Call) -> Where:
    """`[n, features]` to one answer for each row; `[features]` would be one row."""
    several = call.node.op_type == "FeatureVectorizer"
    if not several:
        call.place()
    for tensor in call.inputs if several else call.inputs[:1]:
        if tensor is None or tensor.where != Rows(0) or (tensor.shapes[0] is not None and tensor.rank == 1):
            raise Mixes("takes the batch for features")
        if not _is_table(tensor):
            raise Undecided("with an input that is not known to be rows of features")
    for number, output in enumerate(call.outputs):
        output.table = not (call.node.op_type.endswith("Classifier") and number == 0)
    return Rows(0)


def _is_table(tensor: Tensor | None) -> bool:
    return tensor is not None and (tensor.table or (tensor.shapes[0] is not None and tensor.rank == 2))

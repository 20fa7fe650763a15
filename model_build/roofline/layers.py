"""What runs as one piece: the nodes of an exported graph grouped as ONNX Runtime fuses them, with FLOPs and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

import onnx

from model_build.precision.variants import FP16, FP32, INT8
from model_build.roofline import operators
from model_build.roofline.devices import TF32
from model_build.roofline.graph import StaticGraph, producers

_OWN_LAYOUT = "_nchwc"  # ONNX Runtime names a node so after the tensor whose channels it gives in blocks
_FLOAT_SIZE = {FP32: 4, TF32: 4, FP16: 2, INT8: 4}


@dataclass(frozen=True)
class Layer:
    """A fused piece of the graph.

    Attributes:
        name: of the node that does most of it.
        module: of the PyTorch network, where the names of its weights tell; else the node's name.
        operator: ONNX's name of that node's operator, with those that are fused into it.
        kind: `product`, `convolution` or `other`.
        precision: in which it computes.
        flops: floating point operations of one run.
        product_flops: those of them that are products and convolutions.
        weight_bytes: constants, read once.
        activation_bytes: tensors that come in and go out.
        kernels: how many nodes ONNX Runtime runs for it that compute or move.
        views: how many it runs that give the same bytes under another shape.
        nodes: their names in the fused graph.
    """

    name: str
    module: str
    operator: str
    kind: str
    precision: str
    flops: float
    product_flops: float
    weight_bytes: float
    activation_bytes: float
    kernels: int
    views: int = 0
    nodes: tuple[str, ...] = field(repr=False, default=())

    @property
    def bytes(self) -> float:
        """Between memory and chip, each once."""
        return self.weight_bytes + self.activation_bytes

    @property
    def intensity(self) -> float:
        """FLOPs for each byte (Williams et al., Roofline, CACM 52(4), 2009)."""
        return self.flops / self.bytes if self.bytes else 0.0


def find_layers(
    graph: StaticGraph, precision: str = FP32, kept: Iterable[str] = (), known: Mapping[str, float] | None = None
) -> list[Layer]:
    """The layers in the order in which they run.

    Args:
        graph: with fixed sizes.
        precision: FP16 halves what is FP32 in the graph; INT8 quarters the weights and inputs of products with constant
            weights and of convolutions, and of tensors that only those read.
        kept: names of layers whose weights stay in FP32, and which compute in it.
        known: FLOPs of operators that have no formula (see `operators.flops`).

    Raises:
        ConfigurationError: an operator has no formula.
    """
    sizes = _Sizes(graph, precision, frozenset(kept))
    return [_layer(group, nodes, graph, sizes, known) for group, nodes in _pieces(graph)]


def live_bytes(graph: StaticGraph, precision: str = FP32) -> tuple[float, float]:
    """Bytes of the activations that are needed at one time, at most, and of all weights.

    Counted between layers, as if each took its memory when it gives a tensor and freed it after the last that reads it.
    """
    sizes = _Sizes(graph, precision, frozenset())
    pieces = _pieces(graph)
    last = {name: index for index, (_, nodes) in enumerate(pieces) for node in nodes for name in node.input}
    kept = {value.name for value in graph.model.graph.output}
    held = {value.name for value in graph.model.graph.input}
    most = sum(map(sizes.of, held))
    for index, (group, _) in enumerate(pieces):
        held |= set(group.outputs)
        most = max(most, sum(map(sizes.of, held)))
        held = {name for name in held if name in kept or last.get(name, -1) > index}
    return most, sum(map(sizes.of, graph.weights))


@dataclass
class _Group:
    """Nodes of the fused graph that give tensors of the exported graph together."""

    fused: list[onnx.NodeProto]
    outputs: list[str]
    boundary: frozenset[str]


def _pieces(graph: StaticGraph) -> list[tuple[_Group, list[onnx.NodeProto]]]:
    """Each group with the exported graph's nodes that it runs."""
    made_by = producers(graph.model.graph.node)
    seen: set[int] = set()
    pieces = [(group, _behind(group, graph, made_by, seen)) for group in _groups(graph)]
    return [(group, nodes) for group, nodes in pieces if nodes]


def _groups(graph: StaticGraph) -> list[_Group]:
    """Each fused node that gives a tensor of the exported graph, with those before it that give only new ones.

    ONNX Runtime keeps the names of tensors that it does not fuse away, and makes up names for what it inserts.
    """
    fused = graph.fused.graph.node
    known = {name for name in graph.shapes if name not in graph.weights}
    boundary = frozenset(output for node in fused for output in _gives(node, known))
    boundary |= {value.name for value in graph.model.graph.input}
    made_by = producers(fused)
    taken: set[int] = set()
    groups: dict[str, _Group] = {}  # by the first tensor that each gives
    for node in fused:
        if not (outputs := _gives(node, known)):
            continue
        members, waiting = [], [node]
        while waiting:
            one = waiting.pop()
            if id(one) not in taken:
                taken.add(id(one))
                members.append(one)
                before = (made_by[name] for name in one.input if name in made_by and name not in boundary)
                waiting += [other for other in before if not _gives(other, known)]
        if outputs[0] in groups:  # the same tensor once more, brought back from a layout of ONNX Runtime's own
            groups[outputs[0]].fused += members
        elif members:
            groups[outputs[0]] = _Group(members, outputs, boundary)
    return list(groups.values())


def _gives(node: onnx.NodeProto, known: Set[str]) -> list[str]:
    """The exported graph's tensors that a fused node gives, also those that it gives in ONNX Runtime's own layout."""
    outputs = [output for output in node.output if output in known]
    named = node.name.removesuffix(_OWN_LAYOUT)
    return outputs or ([named] if named != node.name and named in known else [])


def _behind(
    group: _Group, graph: StaticGraph, made_by: Mapping[str, onnx.NodeProto], seen: set[int]
) -> list[onnx.NodeProto]:
    """The exported graph's nodes between the group's outputs and what other groups give."""
    found: list[onnx.NodeProto] = []
    waiting = [made_by[name] for name in group.outputs if name in made_by]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        found.append(node)
        waiting += [made_by[name] for name in node.input if name in made_by and name not in group.boundary]
    return found


def _layer(
    group: _Group, nodes: list[onnx.NodeProto], graph: StaticGraph, sizes: _Sizes, known: Mapping[str, float] | None
) -> Layer:
    counts = {id(node): operators.flops(node, graph.shapes, known) for node in nodes}
    heavy = max(nodes, key=lambda node: counts[id(node)])
    kind = _kind(heavy)
    products = sum(operators.products(node, graph.shapes) for node in nodes)
    inside = {output for node in nodes for output in node.output}
    reads = Counter(name for node in nodes for name in node.input if name and name not in inside)
    weights = sum(sizes.of(name) for name in reads if name in graph.weights and not sizes.rows(name, nodes))
    # A lookup reads as much as it gives, in rows of a table or of an activation.
    picked = sum(
        sizes.of(node.output[0]) for node in nodes for name in node.input if name in reads and sizes.rows(name, nodes)
    )
    come = sum(sizes.of(name) for name in reads if name not in graph.weights and not sizes.rows(name, nodes))
    gone = sum(sizes.of(name) for name in group.outputs)
    same = sum(node.op_type in operators.VIEWS for node in group.fused)
    views = same == len(group.fused)
    rest = Counter(
        node.op_type for node in reversed(nodes) if node is not heavy and node.op_type not in operators.VIEWS
    )
    return Layer(
        name=_exported(heavy),
        module=_module(name for node in (heavy, *nodes) for name in node.input if name in graph.weights)
        or _exported(heavy),
        operator="+".join([heavy.op_type, *rest]),
        kind=kind,
        precision=sizes.computes(heavy) if kind != "other" else sizes.precision,
        flops=sum(counts.values()),
        product_flops=products,
        weight_bytes=0.0 if views else weights,
        activation_bytes=0.0 if views else come + gone + picked,
        kernels=len(group.fused) - same,
        views=same,
        nodes=tuple(node.name for node in group.fused),
    )


def _module(weights: Iterable[str]) -> str:
    """What PyTorch calls the part that has these weights; the exporter's own names have no dots."""
    return next((name.rpartition(".")[0] for name in weights if "." in name), "")


def _kind(node: onnx.NodeProto) -> str:
    if node.op_type in operators.CONVOLUTIONS:
        return "convolution"
    return "product" if node.op_type in operators.PRODUCTS else "other"


def _exported(node: onnx.NodeProto) -> str:
    """The node's name before ONNX Runtime put an addition into it: `node_MatMul_3/MatMulAddFusion`."""
    return node.name.partition("/")[0]


class _Sizes:
    """Bytes of each tensor in a precision."""

    def __init__(self, graph: StaticGraph, precision: str, kept: frozenset[str]) -> None:
        self.graph, self.precision, self.kept = graph, precision, kept
        nodes = graph.model.graph.node
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        self._narrow = frozenset(
            name
            for name, by in readers.items()
            if precision == INT8 and name in graph.floats and all(self._quantised(node, name) for node in by)
        )
        self._wide = frozenset(
            name for name, by in readers.items() if name in graph.weights and all(_exported(one) in kept for one in by)
        )

    def of(self, name: str) -> float:
        """Of the whole tensor."""
        if not name or name not in self.graph.sizes:
            return 0.0
        size = self.graph.sizes[name]
        if name in self.graph.floats:
            narrow = size if name in self._wide else min(size, _FLOAT_SIZE[self.precision])
            size = 1 if name in self._narrow else narrow
        return float(size * self.graph.elements(name))

    def rows(self, name: str, nodes: Iterable[onnx.NodeProto]) -> bool:
        """Whether the tensor is only looked up in: read by the rows that are asked for."""
        by = [node for node in nodes if name in node.input]
        return bool(by) and all(node.op_type in operators.ROWS and node.input[0] == name for node in by)

    def computes(self, node: onnx.NodeProto) -> str:
        """The precision of a product or a convolution."""
        if _exported(node) in self.kept:
            return FP32
        if self.precision == INT8:
            return INT8 if self._weighted(node) else FP32
        return self.precision

    def _weighted(self, node: onnx.NodeProto) -> bool:
        constant = len(node.input) > 1 and node.input[1] in self.graph.weights
        return node.op_type in ("Conv", "Gemm", "MatMul") and constant and _exported(node) not in self.kept

    def _quantised(self, node: onnx.NodeProto, name: str) -> bool:
        return self._weighted(node) and name in node.input[:2]

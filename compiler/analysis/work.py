"""Estimate the work of a model from its types: operations and bytes, by family of operators.

A multiply-add is two operations; an elementwise function of an element is one, whatever it is.  Bytes are those of the
operands and results, each counted whenever a node reads or writes it.  Operators that only rename memory cost nothing.

Decisions: dynamic dims need numbers, so a *binding* gives every symbol one, and whoever shows the estimate shows the
binding.  Nodes of nested graphs count once, since nobody knows how often a loop runs.  The time is what the target's
peak rates allow, ``launch + max(operations / peak, bytes / bandwidth)`` for each node: a lower bound that orders
families, not a prediction.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.ir.dims import Dim, substitute
from compiler.ir.dtype import DType
from compiler.ir.graph import Graph, Model, Node, Value
from compiler.ir.schema import attribute, operator_names
from compiler.ir.types import TensorType

if TYPE_CHECKING:
    from targets import Target

_BATCH = re.compile(r"(?i)b|n|bs|.*batch.*")
_LENGTH = re.compile(r"(?i)t|s|l|.*(seq|len|time|frame|token|sample).*")
_DEFAULTS = {"batch": 1, "length": 128, "other": 64}
"""Sizes of dynamic dims whose size nobody gave."""


@dataclass(frozen=True, slots=True)
class FamilyWork:
    """The work of all nodes of a family."""

    family: str
    """What the operators have in common."""
    nodes: int
    """Number of nodes."""
    operations: float
    """Arithmetic operations; a multiply-add is two."""
    nbytes: float
    """Bytes read and written."""
    seconds: float
    """What the target's peak rates allow at best."""


@dataclass(frozen=True, slots=True)
class Work:
    """An estimate of a model's work."""

    families: tuple[FamilyWork, ...]
    """The families that occur, the longest first."""
    binding: dict[str, int]
    """What the dynamic dims of inputs were taken to be."""
    guessed: int
    """Dynamic dims inside the model that were taken to be of the usual size."""
    unknown: int
    """Nodes that could not be estimated, since types are missing or the operator is opaque."""

    @property
    def operations(self) -> float:
        """Arithmetic operations of the whole model."""
        return sum(f.operations for f in self.families)

    @property
    def nbytes(self) -> float:
        """Bytes that the whole model reads and writes."""
        return sum(f.nbytes for f in self.families)


def default_binding(model: Model, given: Mapping[str, int]) -> dict[str, int]:
    """Return a size for every symbol of the model's inputs: batch 1, lengths 128, others 64, unless given."""
    binding: dict[str, int] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            for name in [] if isinstance(dim, int) else dim.symbols():
                binding.setdefault(name, given.get(name, _size(name, axis)))
    return {**binding, **given}


def _size(name: str, axis: int) -> int:
    if _BATCH.fullmatch(name) or (axis == 0 and not _LENGTH.fullmatch(name)):
        return _DEFAULTS["batch"]
    return _DEFAULTS["length"] if _LENGTH.fullmatch(name) else _DEFAULTS["other"]


def estimate(model: Model, target: Target, binding: Mapping[str, int]) -> Work:
    """Estimate the work of a model; ``binding`` gives symbols their sizes."""
    sizes = Sizes(binding)
    peaks = _Peaks(target)
    found: dict[str, list[float]] = {}
    unknown = 0
    for graph in model.graph.all_graphs():
        for node in graph.nodes():
            cost = _cost(node, sizes)
            if cost is None:
                unknown += 1
                continue
            family, operations, nbytes = cost
            row = found.setdefault(family, [0, 0.0, 0.0, 0.0])
            row[0] += 1
            row[1] += operations
            row[2] += nbytes
            row[3] += peaks.seconds(node, operations, nbytes)
    families = [FamilyWork(f, int(n), ops, size, seconds) for f, (n, ops, size, seconds) in found.items()]
    return Work(
        families=tuple(sorted(families, key=lambda f: (-f.seconds, f.family))),
        binding={k: v for k, v in binding.items() if not k.startswith("?")},
        guessed=len(sizes.guessed),
        unknown=unknown,
    )


class Sizes:
    """Numbers for dims under a binding; what is not bound has the usual size, and is counted."""

    def __init__(self, binding: Mapping[str, int]) -> None:
        self._binding: dict[str, Dim] = dict(binding)
        self.guessed: dict[str, None] = {}

    def dim(self, dim: Dim) -> int:
        """Return a dim's size."""
        if isinstance(dim, int):
            return dim
        for name in dim.symbols():
            if name not in self._binding:
                self._binding[name] = _DEFAULTS["other"]
                self.guessed[name] = None
        found = substitute(dim, self._binding)
        return max(found, 0) if isinstance(found, int) else _DEFAULTS["other"]

    def shape(self, value: Value | None) -> tuple[int, ...] | None:
        """Return a value's shape, ``None`` when the value is missing or its rank is not known."""
        if value is None or not isinstance(value.type, TensorType):
            return None
        return tuple(self.dim(d) for d in value.type.shape)

    def elements(self, value: Value | None) -> int:
        """Return a value's number of elements, 0 when it is not known."""
        shape = self.shape(value)
        return math.prod(shape) if shape is not None else 0

    def nbytes(self, value: Value | None) -> float:
        """Return a value's bytes, 0 when they are not known."""
        return 0 if value is None else self.elements(value) * value.dtype.bits / 8


class _Peaks:
    """What a target does at best."""

    def __init__(self, target: Target) -> None:
        machine = target.machine
        self.launch = machine.launch.value
        self.bandwidth = machine.bandwidth.value
        rates: dict[str, float] = {str(k): v.total(machine.cores) for k, v in machine.flops.items()}
        self.rates = rates
        self.usual = rates.get("f32") or max(rates.values(), default=1e9)

    def seconds(self, node: Node, operations: float, nbytes: float) -> float:
        """Return the least time of a node."""
        if not operations and not nbytes:
            return 0.0
        dtype = next((i.dtype for i in node.inputs if i is not None), DType.F32)
        name = "i8" if dtype in (DType.U8, DType.I8) else dtype.text
        return self.launch + max(operations / self.rates.get(name, self.usual), nbytes / self.bandwidth)


# Families ----------------------------------------------------------------------------------------

_FREE = operator_names("Identity Reshape Squeeze Unsqueeze Flatten Shape Size Constant Dropout SequenceConstruct")
_MOVES = operator_names("""
        Transpose Concat Slice Split Gather GatherElements GatherND Scatter ScatterElements ScatterND Pad Tile Expand
        DepthToSpace SpaceToDepth ReverseSequence Trilu OneHot Compress NonZero Range ConstantOfShape EyeLike Unique
        TopK TensorScatter Col2Im ReorderInput ReorderOutput
""")
_PRODUCTS = operator_names("""
        MatMul Gemm FusedMatMul FusedGemm TransposeMatMul MatMulInteger MatMulIntegerToFloat QLinearMatMul QGemm
        DynamicQuantizeMatMul MatMulNBits Einsum
""")
_CONVOLUTIONS = operator_names("""
        Conv FusedConv NhwcConv NhwcFusedConv ConvInteger QLinearConv ConvTranspose ConvTransposeWithDynamicPads
""")
_RECURRENT = operator_names("LSTM GRU RNN DynamicQuantizeLSTM")
_ATTENTION = operator_names("Attention MultiHeadAttention GroupQueryAttention QAttention")
_NORMS = operator_names("""
        LayerNormalization SkipLayerNormalization SimplifiedLayerNormalization SkipSimplifiedLayerNormalization
        RMSNormalization InstanceNormalization GroupNormalization BatchNormalization LpNormalization LRN Softmax
        LogSoftmax MeanVarianceNormalization
""")
_POOLS = operator_names("MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool")
_CONVERSIONS = operator_names("Cast CastLike QuantizeLinear DequantizeLinear DynamicQuantizeLinear BitCast")
_CONTROL = operator_names("If Loop Scan SequenceMap")

_FAMILIES: dict[str, dict[str, None]] = {
    "matrix products": _PRODUCTS, "convolutions": _CONVOLUTIONS, "recurrent": _RECURRENT, "attention": _ATTENTION,
    "normalization, softmax": _NORMS, "pooling": _POOLS, "conversions": _CONVERSIONS, "data movement": _MOVES,
    "views": _FREE, "control flow": _CONTROL,
}  # fmt: skip
_FAMILY = {op: family for family, ops in _FAMILIES.items() for op in ops}

_NORM_OPERATIONS = 8
"""Operations an element of normalizing takes: two passes for the statistics, one to apply them."""


def family_of(node: Node) -> str:
    """Return the family of a node."""
    if node.op.startswith(("Reduce", "Arg", "CumSum")):
        return "reductions"
    return _FAMILY.get(node.op, "elementwise" if node.domain in ("", "com.microsoft") else "opaque")


def _cost(node: Node, sizes: Sizes) -> tuple[str, float, float] | None:
    """Return family, operations and bytes of a node, ``None`` when its types do not tell."""
    family = family_of(node)
    if family in ("views", "control flow"):
        return family, 0.0, 0.0
    if family == "opaque" or any(sizes.shape(o) is None for o in node.outputs if not o.absent):
        return None
    operations = _operations(node, family, sizes)
    written = sum(sizes.nbytes(o) for o in node.outputs if not o.absent)
    if family == "data movement":
        return family, 0.0, 2 * written
    read = sum(sizes.nbytes(i) for i in node.inputs)
    return family, operations, read + written


def _operations(node: Node, family: str, sizes: Sizes) -> float:
    out = sizes.elements(node.output) if node.outputs else 0
    rule = _RULES.get(family)
    if rule is not None:
        return rule(node, sizes, out)
    if family == "normalization, softmax":
        return _NORM_OPERATIONS * out
    if family == "reductions":
        return sizes.elements(node.input(0))
    return 0.0 if family == "data movement" else float(out)


def _product(node: Node, sizes: Sizes, out: int) -> float:
    if node.op == "Einsum":
        return _einsum(node, sizes)
    shape = sizes.shape(node.input(0))
    if not shape:
        return 0.0
    return 2.0 * out * (shape[0] if node.op.endswith("Gemm") and node.attr("transA", 0) else shape[-1])


def _einsum(node: Node, sizes: Sizes) -> float:
    terms = str(node.attr("equation", "")).replace(" ", "").partition("->")[0].split(",")
    extents: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=False):
        extents |= dict(zip(term, sizes.shape(value) or (), strict=False))
    return 2.0 * math.prod(extents.values())


def _convolution(node: Node, sizes: Sizes, out: int) -> float:
    weights = sizes.shape(node.input(3 if node.op == "QLinearConv" else 1))
    if weights is None or len(weights) < 2:
        return 0.0
    points = sizes.elements(node.input(0)) if node.op.startswith("ConvTranspose") else out
    return 2.0 * points * math.prod(weights[1:])


def _recurrence(node: Node, sizes: Sizes, out: int) -> float:
    shape = sizes.shape(node.input(0))
    if shape is None or len(shape) != 3:
        return 0.0
    return 2.0 * shape[0] * shape[1] * (sizes.elements(node.input(1)) + sizes.elements(node.input(2)))


def _attend(node: Node, sizes: Sizes, out: int) -> float:
    """Count scores and mixing, and the projections that some forms contain; caches are left out."""
    query, key = sizes.shape(node.input(0)), sizes.shape(node.input(1))
    if not query or len(query) < 3:
        return 0.0
    if node.domain and node.op in ("Attention", "QAttention"):
        projected = math.prod(query) * (key[-1] if key else 0)
        return 2.0 * projected + 4.0 * out * query[-2]
    length = key[-2] if key and len(key) >= 3 else query[-2]
    return 2.0 * (math.prod(query) + out) * length


def _pool(node: Node, sizes: Sizes, out: int) -> float:
    if node.op.startswith("Global"):
        return sizes.elements(node.input(0))
    return out * float(math.prod(attribute(node, "kernel_shape") or (1,)))


_RULES: dict[str, Callable[[Node, Sizes, int], float]] = {
    "matrix products": _product,
    "convolutions": _convolution,
    "recurrent": _recurrence,
    "attention": _attend,
    "pooling": _pool,
}


def nodes_within(graph: Graph) -> int:
    """Return the number of nodes of a graph, those nested in it included."""
    return sum(g.node_count for g in graph.all_graphs())

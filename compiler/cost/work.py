"""Count the work of one node from its types: arithmetic operations, and bytes read and written.

A multiply-add is two operations; an elementwise function of an element is one, whatever it is.  Bytes are those of the
operands and results, each counted whenever a node reads or writes it.  Operators that only rename memory cost nothing.
Dynamic dims need numbers: ``Sizes`` gives every symbol one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compiler.ir.dims import Dim, substitute
from compiler.ir.graph import Node, Value
from compiler.ir.schema import attribute, operator_names
from compiler.ir.types import TensorType

USUAL = 64
"""Size of a dynamic dim that nobody gave."""


@dataclass(frozen=True, slots=True)
class NodeWork:
    """The work of one node."""

    family: str
    """What the operators have in common."""
    operations: float
    """Arithmetic operations."""
    nbytes: float
    """Bytes read and written."""


class Sizes:
    """Numbers for dims under a binding; what is not bound has the usual size, and is counted."""

    def __init__(self, binding: Mapping[str, int]) -> None:
        self._binding: dict[str, Dim] = dict(binding)
        self.guessed: dict[str, None] = {}

    @property
    def known(self) -> dict[str, int]:
        """The sizes that symbols have so far."""
        return {name: size for name, size in self._binding.items() if isinstance(size, int)}

    def dim(self, dim: Dim) -> int:
        """Return a dim's size."""
        if isinstance(dim, int):
            return dim
        for name in dim.symbols():
            if name not in self._binding:
                self._binding[name] = USUAL
                self.guessed[name] = None
        found = substitute(dim, self._binding)
        return max(found, 0) if isinstance(found, int) else USUAL

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
HEAVY = ("matrix products", "convolutions", "recurrent", "attention")
"""Families whose arithmetic outweighs what they read and write."""

_FAMILY = {op: family for family, ops in _FAMILIES.items() for op in ops}

_OPEN = frozenset({"", "com.microsoft", "com.microsoft.nchwc"})
"""Domains whose unlisted operators are elementwise."""

_NORM_OPERATIONS = 8
"""Operations an element of normalizing takes: two passes for the statistics, one to apply them."""


def family_of(node: Node) -> str:
    """Return the family of a node."""
    if node.op.startswith(("Reduce", "Arg", "CumSum")):
        return "reductions"
    return _FAMILY.get(node.op, "elementwise" if node.domain in _OPEN else "opaque")


def work_of(node: Node, sizes: Sizes) -> NodeWork | None:
    """Return the work of a node, ``None`` when its types do not tell or the operator is opaque."""
    family = family_of(node)
    if family in ("views", "control flow"):
        return NodeWork(family, 0.0, 0.0)
    if family == "opaque" or any(sizes.shape(o) is None for o in node.outputs if not o.absent):
        return None
    operations = _operations(node, family, sizes)
    written = sum(sizes.nbytes(o) for o in node.outputs if not o.absent)
    if family == "data movement":
        return NodeWork(family, 0.0, 2 * written)
    read = sum(sizes.nbytes(i) for i in node.inputs)
    return NodeWork(family, operations, read + written)


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

"""Put nodes into kinds: nodes of one kind run the same kernel, so that what one takes tells what another takes.

A kind is a key (operator, element type, variant) with the amount of work that its time grows with, and features that
decide how fast the kernel goes: logarithms of the sizes that matter for it. Calibration and prediction put nodes into
kinds by this one function, so that they always agree.

Variants follow the kernels of ONNX Runtime's CPU provider: a product with constant weights is packed beforehand, a
convolution runs in the blocked layout or does not, a reduction over the last axis is vectorised, a broadcast of a
scalar, a row or a channel has its own loop. Operators that run the same kernel share a key: ``Gemm`` and
``FusedMatMul`` are ``MatMul``, ``FusedConv`` is ``Conv``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from compiler.cost.work import Sizes, work_of
from compiler.ir.dtype import DType
from compiler.ir.facts import known_ints
from compiler.ir.graph import Node, Value
from compiler.ir.schema import attribute, operator_names

BLOCKED = "com.microsoft.nchwc"
"""Domain of ONNX Runtime's convolutions in the blocked layout."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """What decides the time of a node."""

    key: str
    """Operator, element type and variant: ``MatMul:f32:weights``."""
    work: float
    """What the time grows with: operations of products, elements or bytes of the rest; 0 for views."""
    features: tuple[float, ...]
    """Base-2 logarithms of the sizes that the speed depends on; equally many for all nodes of a key."""
    operations: float = 0.0
    """Arithmetic operations."""
    nbytes: float = 0.0
    """Bytes read and written."""
    weights: float = 0.0
    """Bytes of constants among those read."""
    exact: bool = True
    """False when a size had to be made up."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes of a node's operands and of its first result, as numbers."""

    node: Node
    """The node."""
    sizes: Sizes
    """What dims are."""

    def of(self, index: int) -> Shape:
        """Return an operand's shape, ``()`` when it is missing or its rank is not known."""
        return self.sizes.shape(self.node.input(index)) or ()

    @property
    def out(self) -> Shape:
        """The shape of the first result."""
        return self.sizes.shape(self.node.output) or () if self.node.outputs else ()


Found = tuple[str, float, tuple[float, ...]]
"""Variant (it may begin with another operator and ``:``), work, and sizes that are features."""
Classifier = Callable[[Shapes], Found]
_CLASSIFIERS: dict[str, Classifier] = {}


def classifies(*ops: str) -> Callable[[Classifier], Classifier]:
    """Register a function that puts nodes of some operators (of any domain) into kinds."""

    def register(function: Classifier) -> Classifier:
        _CLASSIFIERS.update(dict.fromkeys(ops, function))
        return function

    return register


def kind_of(node: Node, sizes: Sizes) -> Kind:
    """Return the kind of a node; dims that have no number yet get the usual one."""
    import compiler.cost.kinds_movement
    import compiler.cost.kinds_products  # noqa: F401 - both register what they know

    guessed = len(sizes.guessed)
    work = work_of(node, sizes)
    operations, nbytes = (work.operations, work.nbytes) if work is not None else (0.0, 0.0)
    shapes = Shapes(node, sizes)
    classify = _CLASSIFIERS.get(node.op)
    if work is not None and work.family == "views":
        return Kind(f"View:{dtype_text(node)}", 0.0, (), exact=len(sizes.guessed) == guessed)
    variant, amount, features = classify(shapes) if classify is not None else elementwise(shapes)
    op, _, rest = variant.rpartition(":")
    key = f"{op or node.op}:{dtype_text(node)}" + (f":{rest}" if rest else "")
    logs = tuple(math.log2(max(f, 1)) for f in features)
    weights = sum(sizes.nbytes(v) for v in node.inputs if v is not None and v.constant is not None)
    if node.op in _LOOKUPS:
        weights = 0.0
    return Kind(key, amount, logs, operations, nbytes, weights, exact=len(sizes.guessed) == guessed)


def dtype_text(node: Node) -> str:
    """Return the element type that a node computes in: that of the first operand, or of what it makes."""
    values: list[Value | None] = [*node.inputs[:1], *node.outputs[:1]]
    if node.op in _SECOND_TELLS:
        values = [node.input(1), node.outputs[0]]
    found = next((v.dtype for v in values if v is not None and v.dtype is not DType.UNKNOWN), DType.F32)
    return found.text


_LOOKUPS = operator_names("Gather GatherElements GatherND GatherBlockQuantized")
"""Operators that read only some of a constant."""

_SECOND_TELLS = operator_names("Where")
"""Operators whose second operand has the type that they compute in."""


def product(shape: Shape) -> float:
    """Return the number of elements."""
    return float(math.prod(shape))


# Elementwise -------------------------------------------------------------------------------------


def elementwise(s: Shapes) -> Found:
    """Tell apart how operands are broadcast."""
    out = s.out or s.of(0)
    elements = product(out)
    shapes = [s.of(i) for i, v in enumerate(s.node.inputs) if v is not None]
    ways = {_broadcast(shape, out) for shape in shapes} - {"full"}
    variant = "" if not ways else sorted(ways, key=_WAYS.index)[0]
    return variant, elements, (elements,)


_WAYS = ("mixed", "channel", "row", "scalar")
"""Ways to broadcast, the slowest first."""


def _broadcast(shape: Shape, out: Shape) -> str:
    """Return how an operand of one shape reaches another: ``full``, ``scalar``, ``row``, ``channel`` or ``mixed``."""
    count, whole = product(shape), product(out)
    if count == whole:
        return "full"
    if count <= 1:
        return "scalar"
    padded = (1,) * (len(out) - len(shape)) + shape
    same = [p == o for p, o in zip(padded, out, strict=False) if o != 1]
    if same and same[-1]:
        first = same.index(True)
        return "row" if all(same[first:]) or count == out[-1] else "mixed"
    return "channel"


@classifies("Pow")
def _power(s: Shapes) -> Found:
    """Squares and cubes are products; everything else calls the library."""
    from compiler.ir.facts import scalar_constant

    exponent = scalar_constant(s.node.input(1))
    elements = product(s.out)
    return "small" if exponent in (2, 3) else "any", elements, (elements,)


@classifies("Cast", "CastLike")
def _cast(s: Shapes) -> Found:
    elements = product(s.out)
    return f"Cast:{s.node.output.dtype.text}", elements, (elements,)


@classifies("Clip")
def _clip(s: Shapes) -> Found:
    elements = product(s.out)
    return "", elements, (elements,)


@classifies("BiasGelu", "FastGelu", "QuickGelu", "Gelu")
def _gelu(s: Shapes) -> Found:
    elements = product(s.out)
    name = str(s.node.attr("approximate", "")) if s.node.op == "Gelu" else ""
    return ("tanh" if name == "tanh" else "bias" if s.node.input(1) is not None else ""), elements, (elements,)


# Normalizations and reductions -------------------------------------------------------------------


@classifies("Softmax", "LogSoftmax")
def _softmax(s: Shapes) -> Found:
    shape = s.of(0)
    if not shape:
        return "last", 0.0, (1, 1)
    axis = int(attribute(s.node, "axis") or 0) % len(shape)
    version = s.node.version
    length = product(shape[axis:]) if version and version < 13 else shape[axis]
    last = axis == len(shape) - 1 or (version > 0 and version < 13)
    return "last" if last else "other", product(shape), (product(shape) / max(length, 1), length)


@classifies(
    "LayerNormalization",
    "SkipLayerNormalization",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "RMSNormalization",
    "LpNormalization",
)
def _row_norm(s: Shapes) -> Found:
    shape = s.of(0)
    axis = attribute(s.node, "axis")
    axis = -1 if axis is None or s.node.op.startswith("Skip") else int(axis)
    width = product(shape[axis:]) if shape else 1
    return "", product(shape), (product(shape) / max(width, 1), width)


@classifies("InstanceNormalization", "GroupNormalization", "BatchNormalization", "MeanVarianceNormalization", "LRN")
def _channel_norm(s: Shapes) -> Found:
    shape = s.of(0)
    return "", product(shape), (product(shape[:2]), product(shape[2:]))


def reduction(s: Shapes) -> Found:
    """Tell reductions of the last axes from those of others."""
    shape, out = s.of(0), s.out
    axes = known_ints(s.node.input(1)) or attribute(s.node, "axes")
    if axes is None and s.node.op.startswith("Arg"):
        axes = (attribute(s.node, "axis") or 0,)
    if not shape:
        return "last", 1.0, (1, 1)
    reduced = {int(a) % len(shape) for a in axes} if axes else set(range(len(shape)))
    big = [i for i in range(len(shape)) if shape[i] > 1]
    last = not big or big[-1] in reduced
    joined = sum(1 for i, j in pairwise(big) if (i in reduced) != (j in reduced)) <= 1
    kept = max(product(out), 1.0)
    variant = ("last" if last else "first") if joined else ("ends" if last else "middle")
    return variant, product(shape), (kept, product(shape) / kept)


for _op in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"):
    classifies(f"Reduce{_op}")(reduction)
classifies("ArgMax", "ArgMin")(reduction)


@classifies("CumSum", "TopK")
def _scan(s: Shapes) -> Found:
    shape = s.of(0)
    return "", product(shape), (product(shape),)

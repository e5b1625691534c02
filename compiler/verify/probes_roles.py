"""What an input is for, as far as its uses, its name and its type tell: indices, masks, lengths, images.

A role decides which values are legal and telling.  Uses say more than names, and are followed through
operators that pass values on.  Roles are found once, before any pass runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from compiler.ir.dims import Dim
from compiler.ir.dtype import DType
from compiler.ir.facts import known_ints
from compiler.ir.graph import Node, Value

Kind = Literal[
    "plain", "index", "mask", "positions", "length", "segment", "exact", "nonzero", "image", "probability", "scale",
    "choice", "sections", "batch-length",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Role:
    """What the values of an input mean, with what else must be known to draw them."""

    kind: Kind = "plain"
    """``plain`` values may be anything; ``exact`` are given one by one by ``values``, ``scale`` by a factor."""
    bound: Dim | None = None
    """Exclusive upper bound of indices; the size that lengths must not exceed; the sum of sections."""
    values: tuple[Dim, ...] | None = None
    """Elements, repeated or cut to the size of the input."""
    words: tuple[str, ...] = ()
    """Texts that the model knows."""


PLAIN = Role()

_PASSING = frozenset(
    {
        "Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand", "Dropout", "Slice",
        "Concat", "Clip", "Tile", "Abs",
    }
)  # fmt: skip
_STEPS = 24
"""Values looked at from one input."""

_INDEXED = frozenset({"Gather", "GatherElements", "ScatterElements", "Scatter", "GatherND", "ScatterND"})
_SWITCHES = frozenset({"sr", "sample_rate", "sampling_rate"})


def role_of(value: Value) -> Role:
    """Return the role of a graph's input."""
    todo, seen = [value], {value}
    while todo and len(seen) < _STEPS:
        at = todo.pop(0)
        for node, index in at.uses:
            found = _by_use(node, index, value)
            if found is not None:
                return found
            if node.op in _PASSING and not node.domain and (index == 0 or node.op == "Concat"):
                todo += [o for o in node.outputs[:1] if o not in seen]
                seen.update(node.outputs[:1])
    return _by_name(value, seen)


def _by_use(node: Node, index: int, value: Value) -> Role | None:
    whole = value.dtype.is_integer
    if node.op in _INDEXED and index == 1 and not node.domain:
        return Role("index", bound=_indexed_size(node, value))
    rule = _USES.get((node.qualified, index)) or _USES.get((node.qualified, -1))
    if rule is None or (index == 0 and not whole and node.op not in ("LabelEncoder", "CategoryMapper")):
        return None
    return rule(node, value)


def _indexed_size(node: Node, value: Value) -> Dim | None:
    data = node.inputs[0]
    shape = data.shape if data is not None else None
    if not shape:
        return None
    if node.op.endswith("ND"):
        last = value.shape[-1] if value.shape else None
        numbers = [d for d in shape[: last if isinstance(last, int) else None] if isinstance(d, int)]
        return min(numbers, default=None)
    axis = node.attr("axis", 0)
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def _exact(*values: Dim) -> Callable[[Node, Value], Role]:
    return lambda node, value: Role("exact", values=values)


def _rising(node: Node, value: Value) -> Role:
    return Role("exact", values=tuple(range(64)))


def _shape(node: Node, value: Value) -> Role:
    """A shape that is an operand: what inference knows of the result, else sizes that always work."""
    shape = node.outputs[0].shape
    size = value.shape[0] if value.shape else None
    if shape is not None and len(shape) == size and all(isinstance(d, int) for d in shape):
        return Role("exact", values=shape)
    if node.op == "Reshape":
        return Role("exact", values=(-1, *(1,) * 63))
    return Role("exact", values=(2,) if node.op == "ConstantOfShape" else (1,))


def _squeezed(node: Node, value: Value) -> Role:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    ones = tuple(i for i, d in enumerate(shape or ()) if d == 1)
    return Role("exact", values=ones or tuple(range(64)))


def _sections(node: Node, value: Value) -> Role:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axis = node.attr("axis", 0)
    known = shape is not None and -len(shape) <= axis < len(shape)
    return Role("sections", bound=shape[axis] if known and shape is not None else None)


def _size_of_axis(axis: int) -> Callable[[Node, Value], Role]:
    def rule(node: Node, value: Value) -> Role:
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        return Role("length", bound=shape[axis] if shape is not None and len(shape) > axis else None)

    return rule


def _one_hot(node: Node, value: Value) -> Role:
    depth = known_ints(node.input(1))
    return Role("index", bound=depth[0] if depth else 5)


def _embedding(operand: int) -> Callable[[Node, Value], Role]:
    def rule(node: Node, value: Value) -> Role:
        table = node.input(operand)
        return Role("index", bound=table.shape[0] if table is not None and table.shape else 2)

    return rule


def _resized(node: Node, value: Value) -> Role:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    numbers = shape is not None and all(isinstance(d, int) for d in shape)
    return Role("exact", values=shape if numbers else (1, 1, 8, 8))


def _words(node: Node, value: Value) -> Role | None:
    for name in ("keys_strings", "cats_strings", "classlabels_strings", "string_vocabulary"):
        if (words := node.attr(name)) is not None:
            return Role("choice", words=tuple(w for w in words[:16] if isinstance(w, str)))
    ints = node.attr("keys_int64s") or node.attr("cats_int64s")
    return Role("exact", values=tuple(ints[:16])) if ints else None


def _nonzero(node: Node, value: Value) -> Role:
    return Role("nonzero")


def _scale(node: Node, value: Value) -> Role:
    return Role("scale")


_USES: dict[tuple[str, int], Callable[[Node, Value], Role | None]] = {
    ("Reshape", 1): _shape,
    ("Expand", 1): _shape,
    ("ConstantOfShape", 0): _shape,
    ("Slice", 1): _exact(0),
    ("Slice", 2): _exact(2),
    ("Slice", 3): _rising,
    ("Slice", 4): _exact(1),
    ("TopK", 1): _exact(1),
    ("Tile", 1): _exact(2),
    ("Pad", 1): _exact(1),
    ("OneHot", 1): _exact(5),
    ("OneHot", 0): _one_hot,
    ("Squeeze", 1): _squeezed,
    ("Unsqueeze", 1): _rising,
    ("CumSum", 1): _exact(0),
    ("Split", 1): _sections,
    ("SplitToSequence", 1): _sections,
    ("Range", 0): _exact(0),
    ("Range", 1): _exact(6),
    ("Range", 2): _exact(2),
    ("LSTM", 4): _size_of_axis(0),
    ("GRU", 4): _size_of_axis(0),
    ("RNN", 4): _size_of_axis(0),
    ("Loop", 0): _exact(3),
    ("ReverseSequence", 1): _exact(1),
    ("Resize", 2): _scale,
    ("Upsample", 1): _scale,
    ("Resize", 3): _resized,
    ("SequenceAt", 1): _exact(0),
    ("SequenceErase", 1): _exact(0),
    ("SequenceInsert", 2): _exact(0),
    ("EyeLike", 1): _exact(0),
    ("Trilu", 1): _exact(0),
    ("NonMaxSuppression", 2): _exact(3),
    ("Div", 1): _nonzero,
    ("Mod", 1): _nonzero,
    ("com.microsoft::EmbedLayerNormalization", 0): _embedding(2),
    ("com.microsoft::EmbedLayerNormalization", 1): _embedding(4),
    ("com.microsoft::GroupQueryAttention", 5): _exact(0),
    ("ai.onnx.ml::LabelEncoder", 0): _words,
    ("ai.onnx.ml::CategoryMapper", 0): _words,
    ("ai.onnx.ml::OneHotEncoder", 0): _words,
    **{
        (f"Reduce{name}", 1): _rising
        for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
    },
}  # fmt: skip
"""(operator, operand) → the role of what is fed there."""


def _by_name(value: Value, reached: set[Value]) -> Role:
    low = value.name.lower()
    whole = value.dtype.is_integer
    if low in _SWITCHES and whole:
        return Role("exact", values=(16000,))
    if "mask" in low or (whole and _masks(reached)):
        return Role("mask")
    if not whole:
        return _float_by_name(low, value)
    if "position" in low:
        return Role("positions")
    if "token_type" in low or "segment" in low:
        return Role("segment")
    if "len" in low:
        return Role("length", bound=2)
    return PLAIN


def _float_by_name(low: str, value: Value) -> Role:
    if not value.dtype.is_float and value.dtype is not DType.UNKNOWN:
        return PLAIN
    if "pixel" in low or "image" in low or low in ("img", "input_image"):
        return Role("image")
    return Role("probability") if "prob" in low else PLAIN


def _masks(reached: set[Value]) -> bool:
    """True when an integer becomes a float that is taken from one, or a condition."""
    return any(_is_mask_use(n, i) for v in reached for n, i in v.uses)


def _is_mask_use(node: Node, index: int) -> bool:
    if node.op == "Where" and index == 0 and not node.domain:
        return True
    if node.op != "Sub" or index != 1 or node.domain:
        return False
    first: Any = node.inputs[0].array() if node.inputs[0] is not None and node.inputs[0].constant is not None else None
    return first is not None and first.size == 1 and float(first.reshape(-1)[0]) == 1.0

"""Symbolic contents: what small integer tensors hold, as dims, so that shape arithmetic is understood.

``Shape → Gather → Mul → Concat → Reshape`` works with dynamic shapes because each of these knows the contents
of its result.  A rule gets the node and the index of an output, and returns the elements or ``None``.

Rules are of scalars and vectors; those that only move elements (``MOVES``) follow tensors of any rank, since exporters
turn lists of pads about as matrices.

Symbolic elements are products and sums of dims, which are assumed to fit ``int64``; numbers are checked
against the element type, so nothing is claimed where ONNX Runtime would wrap around.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from compiler.ir.dims import Dim, Expr, floor_div, minimum, modulo
from compiler.ir.dims import maximum as largest_of
from compiler.ir.dtype import DType
from compiler.ir.facts import (
    CONTENTS_LIMIT,
    Contents,
    at_least,
    element_count,
    known_contents,
    known_elements,
    known_ints,
    known_scalar,
    nonnegative_dim,
    positive_dim,
)
from compiler.ir.graph import Node
from compiler.ir.infer_rules import attribute_constant, axis_index, integer, number_list, static_list
from compiler.ir.types import TensorType, Type

ContentRule: TypeAlias = Callable[[Node, int], "Contents | None"]

MOVES = ("Cast", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose rules follow tensors of any rank."""

CONTENT_RULES: dict[str, ContentRule] = {}
"""Rules by operator of the default domain."""

_RANGES = {
    DType.BOOL: (0, 1),
    DType.I64: (-(1 << 63), (1 << 63) - 1),
    DType.I32: (-(1 << 31), (1 << 31) - 1),
    DType.U8: (0, 255),
    DType.I8: (-128, 127),
    DType.F32: (-(1 << 24), 1 << 24),
    DType.F64: (-(1 << 53), 1 << 53),
}
"""Numbers that contents may hold, by element type: those that are exact."""

_NUMBERS_ONLY = frozenset({DType.U8, DType.I8, DType.F32})
"""Element types too small for dims: symbolic contents are not claimed for them."""


def contents_of(node: Node, index: int, type_: Type) -> Contents | None:
    """Return the contents of an output of the given type, ``None`` when they are not known."""
    found = CONTENT_RULES.get(node.op)
    if found is None or node.domain or not isinstance(type_, TensorType):
        return None
    limits, count = _RANGES.get(type_.dtype), element_count(type_.shape)
    if limits is None or count is None or count > CONTENTS_LIMIT or (len(type_.shape) > 1 and node.op not in MOVES):
        return None
    contents = found(node, index)
    if contents is None or len(contents) != count:
        return None
    return contents if all(_fits(c, type_.dtype, limits) for c in contents) else None


def _fits(element: Dim, dtype: DType, limits: tuple[int, int]) -> bool:
    if isinstance(element, int):
        return limits[0] <= element <= limits[1]
    return dtype not in _NUMBERS_ONLY and len(element.text) <= 256


def _content_rule(*ops: str) -> Callable[[ContentRule], ContentRule]:
    def register(function: ContentRule) -> ContentRule:
        for op in ops:
            CONTENT_RULES[op] = function
        return function

    return register


@_content_rule("Shape")
def _shape(node: Node, index: int) -> Contents | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        return None
    return shape[slice(integer(node, "start", 0), integer(node, "end", len(shape)))]


@_content_rule("Size")
def _size(node: Node, index: int) -> Contents | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return None if shape is None else _product(shape)


def _product(factors: Contents) -> Contents | None:
    result: Dim = 1
    for f in factors:
        result = result * f
        if isinstance(result, Expr) and len(result.terms) > 16:
            return None
    return (result,)


@_content_rule("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
def _same(node: Node, index: int) -> Contents | None:
    return known_elements(node.input(0))


@_content_rule("Transpose")
def _transpose(node: Node, index: int) -> Contents | None:
    places = _places(node)
    return None if places is None else _at(node, places.transpose(node.attr("perm") or None))


def _places(node: Node) -> np.ndarray[Any, Any] | None:
    """Return for every element of the first operand its place in row-major order, if it is small."""
    value = node.input(0)
    shape = value.shape if value is not None else None
    count = element_count(shape)
    if shape is None or count is None or count > CONTENTS_LIMIT:
        return None
    return np.arange(count).reshape([d for d in shape if isinstance(d, int)])


def _at(node: Node, places: np.ndarray[Any, Any]) -> Contents | None:
    """Return the elements of the first operand that stand at some places."""
    data = known_elements(node.input(0))
    return None if data is None else tuple(data[i] for i in places.reshape(-1).tolist())


@_content_rule("Cast")
def _cast(node: Node, index: int) -> Contents | None:
    contents = known_elements(node.input(0))
    if contents is None or node.outputs[0].dtype is not DType.BOOL:
        return contents
    if all(isinstance(c, int) or positive_dim(c) for c in contents):
        return tuple(int(c != 0) for c in contents)
    return None


@_content_rule("Concat")
def _concat(node: Node, index: int) -> Contents | None:
    parts = [known_contents(i) for i in node.inputs]
    known = [p for p in parts if p is not None]
    return tuple(c for p in known for c in p) if len(known) == len(parts) else None


@_content_rule("Gather")
def _gather(node: Node, index: int) -> Contents | None:
    data, indices = known_contents(node.input(0)), known_ints(node.input(1))
    if data is None or indices is None or node.inputs[0].rank != 1:  # type: ignore[union-attr]  # data is known
        return None
    return tuple(data[axis_index(i, len(data))] for i in indices)


@_content_rule("Slice")
def _slice(node: Node, index: int) -> Contents | None:
    places = _places(node)
    starts, ends = static_list(node, "starts", 1), static_list(node, "ends", 2)
    axes = static_list(node, "axes", 3)
    if places is None or starts is None or ends is None:
        return None
    axes = tuple(range(len(starts))) if axes is None and node.input(3) is None else axes
    steps = (1,) * len(starts) if node.input(4) is None else known_ints(node.input(4))
    if axes is None or steps is None or not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        return None
    cuts = [slice(None)] * places.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if not -places.ndim <= axis < places.ndim:
            return None
        cuts[axis] = _cut(start, end, step, places.shape[axis])
    return _at(node, places[tuple(cuts)])


def _cut(start: int, end: int, step: int, size: int) -> slice:
    """Return the Python slice that ``Slice`` means, which knows no end before the first element."""
    if step > 0:
        return slice(start, end, step)
    start, end = (n + size if n < 0 else n for n in (start, end))
    return slice(min(max(start, 0), size - 1), None if end < 0 else end, step)


@_content_rule("Split")
def _split(node: Node, index: int) -> Contents | None:
    data = known_contents(node.input(0))
    sizes = [known_length(out.shape) for out in node.outputs]
    if data is None or any(s is None for s in sizes):
        return None
    start = sum(s for s in sizes[:index] if s is not None)
    return data[start : start + (sizes[index] or 0)]


def known_length(shape: tuple[Dim, ...] | None) -> int | None:
    """Return the length of a vector, ``None`` when it is not known."""
    return shape[0] if shape is not None and len(shape) == 1 and isinstance(shape[0], int) else None


@_content_rule("Expand", "Tile")
def _repeat(node: Node, index: int) -> Contents | None:
    data, shape = known_contents(node.input(0)), node.outputs[0].shape
    if data is None or shape is None or not data:
        return None
    count = known_length(shape) if shape else 1
    if count is None or count % len(data) or count > CONTENTS_LIMIT:
        return None
    return data * (count // len(data))


@_content_rule("ConstantOfShape")
def _constant_of_shape(node: Node, index: int) -> Contents | None:
    value, shape = attribute_constant(node, "value"), node.outputs[0].shape
    count = known_length(shape) if shape else 1
    if count is None or count > CONTENTS_LIMIT:
        return None
    if value is None:
        return (0,) * count
    number = value.item()
    return (int(number),) * count if math.isfinite(number) and int(number) == number else None


@_content_rule("Range")
def _range(node: Node, index: int) -> Contents | None:
    bounds = [known_scalar(i) for i in node.inputs]
    numbers = [b for b in bounds if isinstance(b, int)]
    if len(numbers) != 3 or len(bounds) != 3 or numbers[2] == 0:
        return None
    span = range(numbers[0], numbers[1], numbers[2])
    return tuple(span) if not span or len(span[: CONTENTS_LIMIT + 1]) <= CONTENTS_LIMIT else None


@_content_rule("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduce(node: Node, index: int) -> Contents | None:
    data = known_contents(node.input(0))
    axes = number_list(node, "axes", 1)
    if data is None or node.input(0).rank != 1 or axes not in ((0,), (-1,), (), None):  # type: ignore[union-attr]
        return None
    if axes is None and node.input(1) is not None:
        return None
    if not axes and integer(node, "noop_with_empty_axes", 0):
        return data
    return _REDUCERS[node.op](data) if data and _is_small(data, node.outputs[0].dtype) else None


def _is_small(data: Contents, dtype: DType) -> bool:
    """True when no sum or product leaves what ONNX Runtime, which reduces in floating point, holds exactly."""
    return math.prod(1 + abs(d) for d in data if isinstance(d, int)) < (1 << (24 if dtype is DType.I32 else 53))


def _sum(terms: Contents) -> Contents | None:
    result: Dim = 0
    for t in terms:
        result = result + t
    return (result,)


_REDUCERS: dict[str, Callable[[Contents], Contents | None]] = {
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceMax": lambda data: (_extreme("Max", data),),
    "ReduceMin": lambda data: (_extreme("Min", data),),
}


def _extreme(op: str, data: Contents) -> Dim:
    best = data[0]
    for d in data[1:]:
        upper, lower = (d, best) if at_least(d, best) else (best, d)
        if not at_least(upper, lower):
            best = largest_of(best, d) if op == "Max" else minimum(best, d)
        else:
            best = upper if op == "Max" else lower
    return best


# Arithmetic --------------------------------------------------------------------------------------


def _elements(node: Node) -> list[Contents] | None:
    """Return the operands' elements, broadcast to one length."""
    found = [known_contents(i) for i in node.inputs]
    known = [f for f in found if f is not None]
    if len(known) != len(found) or not known:
        return None
    count = max(map(len, known))
    return (
        [k * count if len(k) == 1 else k for k in known] if count and all(len(k) in (1, count) for k in known) else None
    )


def _floating(node: Node) -> bool:
    return node.outputs[0].dtype.is_float


def _each(node: Node, combine: Callable[..., Dim | None]) -> Contents | None:
    elements = _elements(node)
    if elements is None or _floating(node):
        return None
    results = [combine(*row) for row in zip(*elements, strict=True)]
    known = tuple(r for r in results if r is not None)
    return known if len(known) == len(results) else None


@_content_rule("Add")
def _add(node: Node, index: int) -> Contents | None:
    return _each(node, lambda a, b: a + b)


@_content_rule("Sub")
def _sub(node: Node, index: int) -> Contents | None:
    return _each(node, lambda a, b: a - b)


@_content_rule("Mul")
def _mul(node: Node, index: int) -> Contents | None:
    return _each(node, lambda a, b: (_product((a, b)) or (None,))[0])


@_content_rule("Neg")
def _neg(node: Node, index: int) -> Contents | None:
    return _each(node, lambda a: -a)


@_content_rule("Abs")
def _abs(node: Node, index: int) -> Contents | None:
    return _each(node, lambda a: a if nonnegative_dim(a) else abs(a) if isinstance(a, int) else None)


@_content_rule("Div")
def _div(node: Node, index: int) -> Contents | None:
    return _each(node, _truncated_quotient)


def _truncated_quotient(left: Dim, right: Dim) -> Dim | None:
    if right == 0:
        return None
    if isinstance(left, int) and isinstance(right, int):
        quotient = abs(left) // abs(right)
        return quotient if (left < 0) == (right < 0) else -quotient
    return floor_div(left, right) if nonnegative_dim(left) and nonnegative_dim(right) else None


@_content_rule("Mod")
def _mod(node: Node, index: int) -> Contents | None:
    return _each(node, _remainder) if integer(node, "fmod", 0) == 0 else None


def _remainder(left: Dim, right: Dim) -> Dim | None:
    return modulo(left, right) if positive_dim(right) else None


@_content_rule("Max", "Min")
def _max_min(node: Node, index: int) -> Contents | None:
    return _each(node, lambda *row: _extreme(node.op, row))


# Comparisons and choices -------------------------------------------------------------------------


_COMPARISONS = {
    "Equal": (1, 0, 0),
    "Less": (0, 1, 0),
    "Greater": (0, 0, 1),
    "LessOrEqual": (1, 1, 0),
    "GreaterOrEqual": (1, 0, 1),
}
"""Operator → its answer when the left operand is equal, less, greater."""


@_content_rule(*_COMPARISONS)
def _comparison(node: Node, index: int) -> Contents | None:
    equal, less, greater = _COMPARISONS[node.op]
    return _each(node, lambda a, b: _decide(a, b, equal=equal, less=less, greater=greater))


def _decide(left: Dim, right: Dim, *, equal: int, less: int, greater: int) -> int | None:
    """Return the answer to a comparison when it is the same for all values of the symbols."""
    if left == right:
        return equal
    if positive_dim(right - left):
        return less
    if positive_dim(left - right):
        return greater
    if equal == greater and at_least(left, right):
        return equal
    return equal if equal == less and at_least(right, left) else None


@_content_rule("Not")
def _not(node: Node, index: int) -> Contents | None:
    return _each(node, lambda a: 1 - a)


@_content_rule("And")
def _and(node: Node, index: int) -> Contents | None:
    return _each(node, lambda a, b: a * b)


@_content_rule("Or")
def _or(node: Node, index: int) -> Contents | None:
    return _each(node, lambda a, b: a + b - a * b)


@_content_rule("Where")
def _where(node: Node, index: int) -> Contents | None:
    elements = _elements(node)
    if elements is None or not all(isinstance(c, int) for c in elements[0]):
        return None
    return tuple(a if c else b for c, a, b in zip(*elements, strict=True))

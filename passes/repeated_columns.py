"""Prove that the columns of a tensor come twice: that its last axis holds every column two times.

Exporters write the cosines of a rotation over the full width, each angle twice: ``Concat(f, f)`` for rotations of
halves, repeated neighbours for rotations of pairs, a table with either, or columns picked from several such tensors.
One mechanism covers all of them: *parts* of tensors, in which some axes are fixed at an index, are followed backwards
through the operators that made them, and numbered by what they compute.  Parts with one number are equal in every
execution.

Decisions: constants are compared by their bytes, so a table that was rounded differently is refused; what an operator
not listed here makes is equal to itself only; and so is what lies deeper than the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import TypeAlias

import numpy as np

from compiler.ir.facts import known_ints
from compiler.ir.graph import Node, Value
from compiler.ir.types import Shape
from passes.node_forms import is_current, permutation

Fixed: TypeAlias = dict[int, int]
"""Axis → the index at which it is fixed."""

_REACH = 64
"""Operators through which a part is followed."""

_ELEMENTWISE = frozenset(
    {
        "Abs", "Add", "Cast", "Ceil", "Cos", "Cosh", "Div", "Exp", "Floor", "Identity", "Log", "Max", "Min", "Mod",
        "Mul", "Neg", "Pow", "Reciprocal", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Sqrt", "Sub", "Tan", "Tanh",
        "Where",
    }
)  # fmt: skip


def why_not_repeated(value: Value, *, pairs: bool) -> str:
    """Return why the columns are not known to come twice, ``""`` when they are.

    Halves: column ``i`` equals column ``i + D/2``.  Pairs: column ``2i`` equals column ``2i + 1``.
    """
    width = value.shape[-1] if value.shape else None
    if not isinstance(width, int) or width % 2:
        return f"%{value.name} has {width} columns"
    parts, last = _Parts(), len(value.shape or ()) - 1
    for i in range(width // 2):
        left, right = (2 * i, 2 * i + 1) if pairs else (i, i + width // 2)
        if parts.number(value, {last: left}) != parts.number(value, {last: right}):
            return f"columns {left} and {right} of %{value.name} may differ"
    return ""


class _Parts:
    """Numbers of parts, one for each thing that they may compute."""

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.known: dict[Hashable, int] = {}
        self.depth = 0

    def number(self, value: Value, fixed: Fixed) -> int:
        """Return the number of a part."""
        name = (value, tuple(sorted(fixed.items())))
        found = self.known.get(name)
        if found is None:
            self.depth += 1
            found = self._follow(value, fixed)
            self.depth -= 1
            self.known[name] = found
        return found

    def _follow(self, value: Value, fixed: Fixed) -> int:
        node, step = value.node, None
        if value.constant is not None:
            return self._constant(value, fixed)
        if node is not None and not node.domain and value.shape is not None and self.depth < _REACH:
            step = _STEPS.get(node.op) if is_current(node, node.op) or node.op == "Identity" else None
        found = step(self, node, value, fixed) if step is not None and node is not None else None
        return self.of("leaf", value, tuple(sorted(fixed.items()))) if found is None else found

    def _constant(self, value: Value, fixed: Fixed) -> int:
        array = value.array()
        if array is None:
            return self.of("leaf", value, tuple(sorted(fixed.items())))
        part = array[tuple(fixed.get(axis, slice(None)) for axis in range(array.ndim))]
        return self.of("constant", str(part.dtype), part.shape, np.ascontiguousarray(part).tobytes())

    def of(self, *key: Hashable) -> int:
        """Return the number of what a key says."""
        return self.numbers.setdefault(key, len(self.numbers))

    def made(self, node: Node, fixed: Fixed, *key: Hashable) -> int:
        """Return the number of what an operator makes of numbered parts, in a part with these axes fixed."""
        return self.of(node.op, tuple(sorted(fixed)), *key)


_Step: TypeAlias = Callable[[_Parts, Node, Value, Fixed], "int | None"]


def _attributes(node: Node) -> tuple[tuple[str, str, Hashable], ...]:
    return tuple((name, attr.kind, attr.value) for name, attr in sorted(node.attributes.items()))


def _aligned(operand: Value, shape: Shape, fixed: Fixed) -> Fixed | None:
    """Return which axes of an operand are fixed when it broadcasts to a shape."""
    dims = operand.shape
    if dims is None:
        return None
    found, offset = {}, len(shape) - len(dims)
    for axis, index in fixed.items():
        if axis < offset:
            continue
        if dims[axis - offset] not in (1, shape[axis]):
            return None
        found[axis - offset] = 0 if dims[axis - offset] == 1 else index
    return found


def _elementwise(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    numbers = []
    for operand in node.inputs:
        own = _aligned(operand, value.shape or (), fixed) if operand is not None else None
        if operand is None or own is None:
            return None
        numbers.append(parts.number(operand, own))
    return parts.made(node, fixed, _attributes(node), tuple(numbers))


def _concat(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    axis = node.attr("axis", 0) % (value.rank or 1)
    operands = [i for i in node.inputs if i is not None and i.shape is not None]
    if len(operands) != len(node.inputs):
        return None
    if axis not in fixed:
        return parts.made(node, fixed, axis, tuple(parts.number(o, fixed) for o in operands))
    index = fixed[axis]
    for operand in operands:
        size = (operand.shape or ())[axis]
        if not isinstance(size, int):
            return None
        if index < size:
            return parts.number(operand, {**fixed, axis: index})
        index -= size
    return None


def _split(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    data, axis = node.input(0), node.attr("axis", 0) % (value.rank or 1)
    sizes = [o.shape[axis] if o.shape is not None else None for o in node.outputs[: value.index]]
    if data is None or axis not in fixed or not all(isinstance(s, int) for s in sizes):
        return None
    before = sum(s for s in sizes if isinstance(s, int))
    return parts.number(data, {**fixed, axis: fixed[axis] + before})


def _slice(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    data, starts = node.input(0), known_ints(node.input(1))
    shape = data.shape if data is not None else None
    if data is None or shape is None or starts is None:
        return None
    axes = tuple(range(len(starts))) if node.input(3) is None else known_ints(node.input(3))
    steps = (1,) * len(starts) if node.input(4) is None else known_ints(node.input(4))
    ends = node.input(2)
    if axes is None or steps is None or ends is None:
        return None
    own, rest = dict(fixed), []
    for i, axis in enumerate(a % len(shape) for a in axes):
        size = shape[axis]
        if axis not in fixed:
            rest.append((i, axis, starts[i], steps[i]))
            continue
        if not isinstance(size, int) or steps[i] < 1:
            return None
        start = min(max(starts[i] + size if starts[i] < 0 else starts[i], 0), size)
        own[axis] = start + steps[i] * fixed[axis]
    number = parts.number(data, own)
    return parts.made(node, fixed, tuple(rest), parts.number(ends, {}), number) if rest else number


def _unsqueeze(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    data, axes = node.input(0), known_ints(node.input(1))
    if data is None or axes is None or value.rank is None:
        return None
    new = sorted(a % value.rank for a in axes)
    own = {a - sum(n < a for n in new): i for a, i in fixed.items() if a not in new}
    left = tuple(n for n in new if n not in fixed)
    number = parts.number(data, own)
    return parts.made(node, fixed, left, number) if left else number


def _squeeze(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    data, axes = node.input(0), known_ints(node.input(1))
    if data is None or data.rank is None or axes is None:
        return None
    gone = {a % data.rank for a in axes}
    kept = [a for a in range(data.rank) if a not in gone]
    return parts.number(data, {kept[a]: i for a, i in fixed.items()} | dict.fromkeys(gone, 0))


def _expand(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    data, target = node.input(0), node.input(1)
    own = _aligned(data, value.shape or (), fixed) if data is not None else None
    if data is None or target is None or own is None:
        return None
    number = parts.number(data, own)
    left = tuple(d for a, d in enumerate(value.shape or ()) if a not in fixed)
    if left == tuple(d for a, d in enumerate(data.shape or ()) if a not in own):
        return number
    return parts.made(node, fixed, left, parts.number(target, {}), number)


def _reshape(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    """Follow columns: the elements keep their order, so that equal leading dims hold equal rows."""
    data, after = node.input(0), value.shape or ()
    before = data.shape if data is not None else None
    cut = len(after) - len(fixed)
    widths = [d for d in after[cut:] if isinstance(d, int)]
    if data is None or not before or len(widths) != len(fixed) or any(axis < cut for axis in fixed):
        return None
    at = int(np.ravel_multi_index([fixed[a] for a in range(cut, len(after))], widths)) if widths else 0
    for own in range(len(before) + 1):
        inner = [d for d in before[own:] if isinstance(d, int)]
        if before[:own] == after[:cut] and len(inner) == len(before) - own and math.prod(inner) == math.prod(widths):
            return parts.number(data, dict(enumerate(map(int, np.unravel_index(at, inner)), own)) if inner else {})
    if len(widths) == 1 and before[-1] == widths[0]:
        return parts.made(node, fixed, after[:cut], parts.number(data, {len(before) - 1: at}))
    return None


def _transpose(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    data, order = node.input(0), permutation(node)
    if data is None or order is None:
        return None
    return parts.made(node, fixed, order, parts.number(data, {order[a]: i for a, i in fixed.items()}))


def _gather(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    data, indices = node.input(0), node.input(1)
    if data is None or indices is None or data.rank is None or indices.rank is None:
        return None
    axis, rank = node.attr("axis", 0) % data.rank, indices.rank
    if any(axis <= a < axis + rank for a in fixed):
        return None
    own = {a if a < axis else a - rank + 1: i for a, i in fixed.items()}
    picked, size = known_ints(indices) if rank == 0 else None, (data.shape or ())[axis]
    if picked is not None and isinstance(size, int) and -size <= picked[0] < size:
        return parts.number(data, {**own, axis: picked[0] % size})
    return parts.made(node, fixed, axis, parts.number(indices, {}), parts.number(data, own))


def _matmul(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    """Follow a column of a product: it is made of one column of the right operand."""
    left, right = node.input(0), node.input(1)
    if left is None or right is None or (right.rank or 0) < 2 or tuple(fixed) != ((value.rank or 0) - 1,):
        return None
    column = {(right.rank or 0) - 1: next(iter(fixed.values()))}
    return parts.made(node, fixed, parts.number(left, {}), parts.number(right, column))


def _tile(parts: _Parts, node: Node, value: Value, fixed: Fixed) -> int | None:
    data, repeats = node.input(0), node.input(1)
    shape = data.shape if data is not None else None
    if data is None or shape is None or repeats is None or not all(isinstance(shape[a], int) for a in fixed):
        return None
    own = {a: i % d for a, i in fixed.items() if isinstance(d := shape[a], int)}
    number = parts.number(data, own)
    left = [(a, d) for a, d in enumerate(value.shape or ()) if a not in fixed]
    if left == [(a, d) for a, d in enumerate(shape) if a not in fixed]:
        return number
    return parts.made(node, fixed, parts.number(repeats, {}), number)


_STEPS: dict[str, _Step] = {
    **dict.fromkeys(sorted(_ELEMENTWISE), _elementwise),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": _expand,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Gather": _gather,
    "MatMul": _matmul,
    "Tile": _tile,
}
"""Operator → how a part of its result is followed; ``None`` when it cannot be."""

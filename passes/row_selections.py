"""Selections of rows: which elements of an axis ``Slice``, ``Gather`` and ``GatherND`` pick, and how to pick them.

Selections are equal when they pick the same in every execution: rows that are numbers are equal however they are
written, others when their bounds or indices are the same numbers or the same values.

Decisions:

* Rows are picked in places, and the axis stays, so that ranks are the same all the way up; an index without axes
  drops its axis at the very end.
* ``GatherND`` with one batch dim is the one form in which each element of a batch picks a row of its own.  The axis
  and the batch may have moved on the way up; they are brought to the front for it, and back.
* Rows that are numbers are cut by ``Slice`` where they are a range of an axis of known size, and picked by ``Gather``
  otherwise, which fails for a row that is not there as the original does.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from compiler.cost.work import Sizes
from compiler.ir.dims import Dim
from compiler.ir.facts import known_ints
from compiler.ir.graph import Node, Value
from compiler.ir.schema import attribute
from passes.node_forms import is_current

_LIMIT = 1 << 12
"""Rows up to which it is remembered which they are."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which elements of an axis are picked; equal ones pick the same."""

    how: str
    """``rows`` are numbers; ``slice`` by bounds; ``gather`` by indices; ``each`` element of a batch by its index."""
    key: tuple[Hashable, ...]
    """The rows themselves, or for each operand its numbers or the value."""
    size: Dim
    """Elements of the axis."""
    count: Dim
    """How many are picked."""
    operands: tuple[Value, ...] = field(default=(), compare=False)
    """Starts, ends and steps; indices; or nothing."""
    fills: bool = field(default=True, compare=False)
    """Whether something is picked for certain, where the axis is not empty."""

    @property
    def batch(self) -> Dim | None:
        """Return the dim whose elements pick rows of their own, ``None`` when all pick the same."""
        shape = self.operands[0].shape if self.how == "each" else None
        return shape[0] if shape else None

    @property
    def rows(self) -> tuple[int, ...] | None:
        """Return the rows when they are numbers."""
        return tuple(k for k in self.key if isinstance(k, int)) if self.how == "rows" else None

    @property
    def pays(self) -> bool:
        """True when at most half of the axis is picked; dims that nobody knows have the usual size."""
        sizes = Sizes({})
        return self.size != self.count and 2 * sizes.dim(self.count) <= sizes.dim(self.size)

    @property
    def is_last(self) -> bool:
        """True when the last row is picked, and no other."""
        if self.how == "slice":
            return self.key[0] == (-1,) and self.fills
        if self.how == "gather":
            return self.key == ((-1,),)
        return isinstance(self.size, int) and self.rows == (self.size - 1,)


@dataclass(frozen=True, slots=True)
class Rows:
    """A selection at an axis of a value."""

    selection: Selection
    axis: int
    """The axis that rows are picked from."""
    batch: int = -1
    """The axis whose elements pick rows of their own; -1 when all pick the same.  It may be merged with the axis."""
    outer: Dim = 1
    """How often the axis that rows are picked from is repeated, where a view merged axes before it into it."""
    lead: int = 0
    """Axes of one element to put in front first."""
    shared: bool = False
    """Each element of the batch picks from the same rows: the value has one element at that axis, or not the axis."""

    @property
    def size(self) -> Dim:
        """Return the elements of the value's axis."""
        return self.outer * self.selection.size

    @property
    def count(self) -> Dim:
        """Return how many elements of the value's axis are picked."""
        return self.outer * self.selection.count


@dataclass(frozen=True, slots=True)
class Picked:
    """What a node picks of its first operand."""

    rows: Rows
    drops: bool
    """Whether the axis is gone afterwards."""


def picked(node: Node) -> Picked | None:
    """Return what a node picks along one axis, ``None`` for other nodes and where nothing is known to be left out."""
    data = node.input(0)
    if data is None or data.shape is None or data.constant is not None or not node.outputs:
        return None
    if is_current(node, "Slice"):
        found = _sliced(node, data)
    elif is_current(node, "Gather"):
        found = _gathered(node, data)
    elif is_current(node, "GatherND"):
        found = _each(node, data)
    else:
        return None
    return found if found is not None and found.rows.selection.pays else None


def _sliced(node: Node, data: Value) -> Picked | None:
    axes = (0,) if node.input(3) is None else known_ints(node.input(3))
    shape, cut = data.shape, node.output.shape
    if axes is None or len(axes) != 1 or not shape or cut is None or len(cut) != len(shape):
        return None
    axis = axes[0] % len(shape)
    operands = tuple(v for v in (node.input(1), node.input(2), node.input(4)) if v is not None)
    bounds = [known_ints(v) for v in operands]
    numbers = [b[0] for b in bounds if b is not None and len(b) == 1]
    if len(numbers) != len(operands):
        numbers = []
    rows = _range(numbers, shape[axis], cut[axis])
    if rows is not None:
        return Picked(Rows(_of_rows(rows, shape[axis]), axis), drops=False) if rows else None
    key = tuple(b if b is not None else v for b, v in zip(bounds, operands, strict=True))
    fills = numbers[:2] != [] and (numbers[2:] or [1]) == [1] and _never_empty(numbers[0], numbers[1])
    return Picked(Rows(Selection("slice", key, shape[axis], cut[axis], operands, fills), axis), drops=False)


def _range(numbers: list[int], size: Dim, count: Dim) -> tuple[int, ...] | None:
    """Return the rows between bounds, ``None`` when they depend on what is not known, or are many."""
    if not numbers:
        return None
    start, end, step = (*numbers, 1)[:3]
    if isinstance(size, int) and step != 0:
        found = range(*slice(start, end, step).indices(size))
    elif start >= 0 and step == 1 and count == end - start:
        found = range(start, end)
    else:
        return None
    return tuple(found) if len(found) <= _LIMIT else None


def _never_empty(start: int, end: int) -> bool:
    return (start == 0 and end > 0) or (start < 0 and end >= (1 << 31) - 1)


def _of_rows(rows: tuple[int, ...], size: Dim) -> Selection:
    return Selection("rows", rows, size, len(rows))


def _gathered(node: Node, data: Value) -> Picked | None:
    indices, shape = node.input(1), data.shape
    if indices is None or indices.shape is None or len(indices.shape) > 1 or not shape:
        return None
    axis, drops = int(attribute(node, "axis") or 0) % len(shape), not indices.shape
    size, count = shape[axis], 1 if drops else indices.shape[0]
    numbers = known_ints(indices)
    rows = _inside(numbers, size) if numbers is not None else None
    if rows is not None:
        return Picked(Rows(_of_rows(rows, size), axis), drops)
    if not isinstance(count, int) or count < 1:
        return None
    key = (numbers if numbers is not None else indices,)
    return Picked(Rows(Selection("gather", key, size, count, (indices,)), axis), drops)


def _inside(numbers: tuple[int, ...], size: Dim) -> tuple[int, ...] | None:
    """Return indices counted from the front, ``None`` when one may lie outside of the axis."""
    if isinstance(size, int):
        inside = bool(numbers) and all(-size <= i < size for i in numbers)
        return tuple(i % size for i in numbers) if inside else None
    return numbers if numbers and min(numbers) >= 0 else None


def _each(node: Node, data: Value) -> Picked | None:
    indices, shape = node.input(1), data.shape
    if indices is None or indices.shape is None or shape is None or attribute(node, "batch_dims") != 1:
        return None
    if len(shape) < 2 or indices.shape[1:] not in ((1,), (1, 1)) or indices.shape[0] != shape[0]:
        return None
    selection = Selection("each", (indices,), shape[1], 1, (indices,))
    return Picked(Rows(selection, 1, 0), drops=len(indices.shape) == 2)


def joined(left: Rows, right: Rows) -> Rows | None:
    """Return what contains both: themselves when they are equal, or all rows of both when these are few numbers."""
    if left == right:
        return left
    first, second = left.selection.rows, right.selection.rows
    same = (left.axis, left.selection.size) == (right.axis, right.selection.size)
    if first is None or second is None or not same or left.outer != 1 or right.outer != 1:
        return None
    both = _of_rows(tuple(sorted({*first, *second})), left.selection.size)
    return Rows(both, left.axis) if both.pays else None


def within(part: Selection, whole: Selection) -> tuple[int, ...] | None:
    """Return where the rows of one selection stand among those of another one, ``None`` when they are the same."""
    if part == whole:
        return None
    wanted, there = part.rows, whole.rows
    if wanted is None or there is None:
        return None
    place = {row: i for i, row in enumerate(there)}
    return tuple(place[row] for row in wanted)

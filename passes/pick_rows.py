"""Write the nodes that pick rows, each once, and the nodes that are made anew for rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dims import Dim
from compiler.ir.graph import Attr, Graph, Loc, Node, Value
from compiler.ir.types import TensorType, Type
from passes.row_selections import Rows, Selection

_BY = "hoist-rows"
_SUFFIX = "_rows"


class Picker:
    """Writes nodes before a place in a graph, which moves from the first node to the last."""

    def __init__(self, graph: Graph) -> None:
        """Start without a place."""
        self.graph = graph
        self._before: Node | None = None
        self._loc = Loc()
        self._done: dict[Hashable, Value] = {}

    def place(self, before: Node, origin: Node) -> None:
        """Write before a node from now on, on behalf of a node."""
        self._before = before
        self._loc = edit.merge_locs([origin], _BY)

    def add(
        self, node: Node, inputs: Sequence[Value | None], types: Sequence[Type], attributes: Mapping[str, Attr]
    ) -> Node:
        """Write a node again with other operands, types and some other attributes."""
        return edit.add_node(
            self.graph,
            node.op,
            inputs,
            types,
            {**node.attributes, **attributes},
            domain=node.domain,
            version=node.version,
            before=self._before,
            names=[f"{o.name}{_SUFFIX}" for o in node.outputs],
            loc=self._loc,
        )

    def pick(self, value: Value, rows: Rows) -> Value:
        """Return rows of a value; the axis stays."""
        key = (value, rows)
        if key not in self._done:
            self._done[key] = self._pick(value, rows)
        return self._done[key]

    def pick_places(self, value: Value, rows: Rows, places: tuple[int, ...]) -> Value:
        """Return some of the rows that were made, by their places among them."""
        key = (value, rows, places)
        if key not in self._done:
            self._done[key] = self._numbered(value, rows.axis, places, static=True)
        return self._done[key]

    def drop(self, value: Value, axis: int) -> Value:
        """Return a value without an axis of one element."""
        shape = _dims(value)
        return self._node("Squeeze", [value, self._ints(axis)], value, [*shape[:axis], *shape[axis + 1 :]])

    # Forms -------------------------------------------------------------------------------------------

    def _pick(self, value: Value, rows: Rows) -> Value:
        if rows.outer != 1:
            return self._merged(value, rows)
        selection = rows.selection
        if selection.rows is not None:
            return self._numbered(value, rows.axis, selection.rows, static=isinstance(selection.size, int))
        if selection.how == "slice":
            starts, ends, *steps = selection.operands
            operands = [value, starts, ends, self._axes(rows.axis, starts), *steps]
            return self._node("Slice", operands, value, _with(value, rows.axis, selection.count))
        if selection.how == "gather":
            indices = self._vector(selection.operands[0], selection)
            return self._gather(value, indices, rows.axis, selection.count)
        return self._each(value, rows)

    def _merged(self, value: Value, rows: Rows) -> Value:
        """Take apart what a view merged, pick, and merge again; one dim at most is not static."""
        shape, axis, size = _dims(value), rows.axis, rows.selection.size
        batch = rows.batch + (rows.batch > axis)
        apart = [*shape[:axis], rows.outer, size, *shape[axis + 1 :]]
        split = self._viewed(value, apart, _target(apart), rows.selection)
        found = self._pick(split, Rows(rows.selection, axis + 1, batch))
        together = [*shape[:axis], rows.count, *shape[axis + 1 :]]
        return self._viewed(found, together, _target(together), rows.selection)

    def _numbered(self, value: Value, axis: int, numbers: tuple[int, ...], *, static: bool) -> Value:
        first = numbers[0]
        if static and numbers == tuple(range(first, first + len(numbers))):
            bounds = [self._ints(first), self._ints(first + len(numbers)), self._ints(axis), self._ints(1)]
            return self._node("Slice", [value, *bounds], value, _with(value, axis, len(numbers)))
        return self._gather(value, self._ints(*numbers), axis, len(numbers))

    def _gather(self, value: Value, indices: Value, axis: int, count: Dim) -> Value:
        return self._node("Gather", [value, indices], value, _with(value, axis, count), axis=axis)

    def _each(self, value: Value, rows: Rows) -> Value:
        """Each element of the batch picks a row: of its own, or of those that all share."""
        indices, batch = rows.selection.operands[0], rows.selection.batch
        assert batch is not None
        if rows.shared:
            value = self._extended(value, rows.lead)
            numbers = self._viewed(indices, [batch], (-1,), rows.selection)
            found = self._gather(value, numbers, rows.axis, batch)
            return self._swapped(found, rows.axis, rows.batch)
        order = [rows.batch, rows.axis, *(a for a in range(len(_dims(value))) if a not in (rows.batch, rows.axis))]
        front = self._transposed(value, order)
        shape = [batch, 1, *_dims(front)[2:]]
        numbers = self._viewed(indices, [batch, 1, 1], (0, 1, 1), rows.selection)
        found = self._node("GatherND", [front, numbers], front, shape, batch_dims=1)
        back = [order.index(a) for a in range(len(order))]
        return self._transposed(found, back)

    def _extended(self, value: Value, lead: int) -> Value:
        if not lead:
            return value
        return self._node("Unsqueeze", [value, self._ints(*range(lead))], value, [1] * lead + list(_dims(value)))

    def _swapped(self, value: Value, left: int, right: int) -> Value:
        order = list(range(len(_dims(value))))
        order[left], order[right] = right, left
        return self._transposed(value, order)

    def _transposed(self, value: Value, order: list[int]) -> Value:
        if order == sorted(order):
            return value
        shape = [_dims(value)[a] for a in order]
        return self._node("Transpose", [value], value, shape, perm=tuple(order))

    # Operands ----------------------------------------------------------------------------------------

    def _vector(self, indices: Value, selection: Selection) -> Value:
        return self._viewed(indices, [1], (-1,), selection) if not _dims(indices) else indices

    def _viewed(self, value: Value, shape: list[Dim], target: tuple[int, ...], selection: Selection) -> Value:
        """Return a view, once for each selection: another one may be known earlier, and stand before this."""
        if list(_dims(value)) == shape:
            return value
        key = ("view", value, target, selection)
        if key not in self._done:
            self._done[key] = self._node("Reshape", [value, self._ints(*target)], value, shape)
        return self._done[key]

    def _axes(self, axis: int, like: Value) -> Value:
        """Return the axis as a tensor of the type that the bounds of a ``Slice`` have."""
        key = ("axes", axis, like.dtype)
        if key not in self._done:
            constant = Constant.from_array(np.array([axis], like.dtype.numpy))
            self._done[key] = edit.add_constant(self.graph, constant, hint="axes")
        return self._done[key]

    def _ints(self, *numbers: int) -> Value:
        key = ("ints", *numbers)
        if key not in self._done:
            constant = Constant.from_array(np.array(numbers, np.int64))
            self._done[key] = edit.add_constant(self.graph, constant, hint="rows")
        return self._done[key]

    def _node(
        self, op: str, inputs: Sequence[Value], like: Value, shape: Sequence[Dim], **attributes: int | tuple[int, ...]
    ) -> Value:
        node = edit.add_node(
            self.graph,
            op,
            inputs,
            [TensorType(like.dtype, tuple(shape))],
            {n: Attr("int" if isinstance(a, int) else "ints", a) for n, a in attributes.items()},
            version=edit.latest_version(self.graph.model),
            before=self._before,
            hint=f"{like.name.removesuffix(_SUFFIX)}{_SUFFIX}",
            loc=self._loc,
        )
        return node.output


def _dims(value: Value) -> tuple[Dim, ...]:
    shape = value.shape
    assert shape is not None
    return shape


def can_pick(value: Value, rows: Rows) -> bool:
    """Return whether rows of a value can be picked: what a view merged must be taken apart for it."""
    if rows.outer == 1:
        return True
    others = [d for i, d in enumerate(_dims(value)) if i != rows.axis]
    parts = [d for d in (rows.outer, rows.selection.size, *others, rows.selection.count) if not isinstance(d, int)]
    return len(parts) <= 1 and isinstance(rows.selection.count, int) and 0 not in others


def _target(shape: Sequence[Dim]) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else -1 for d in shape)


def _with(value: Value, axis: int, count: Dim) -> list[Dim]:
    shape = list(_dims(value))
    shape[axis] = count
    return shape

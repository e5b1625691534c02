"""Compute only rows that are used: where a few rows of a sequence are picked, all that makes them needs no others.

A classifier reads one token, a detector the last hundred; what stands between them and the last attention that reads
the whole sequence works on each row alone.  Which rows of each value are wanted is found backwards, in one walk; the
nodes of which only some rows are wanted are made anew for these, and rows are picked where others want the whole.

Theorem.  An operator that treats rows alike commutes with picking them (``row_axes``).  A value is made for some rows
only when all its readers want these, so that nothing is computed twice: no step multiplies more than before.

Decisions:

* At most half of the rows are picked, and something with more work than to pick them gets smaller.  So an activation
  is not torn from its convolution, nor the first token cut off all others.
* Where readers want different rows whose numbers are known, all of them are made.
* A node that picks rows along one axis passes rows of another axis on, or is looked at itself: both are tried.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.types import TensorType
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import erase_unused, open_graphs
from passes.pick_rows import Picker, can_pick
from passes.row_axes import LABOUR, needs
from passes.row_needs import Blocked, Need
from passes.row_selections import Picked, Rows, Selection, joined, picked, within

_WALKS = 4
"""Walks that look for the last place where rows can be picked, until views that merge rows are left alone."""

_ROUNDS = 6
"""Walks over a graph: rows of one axis, then those of another."""


@dataclass(frozen=True)
class HoistRows(Pass):
    """Compute only those rows of a sequence that are read, where all that is read of it are few of them."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Walk over each graph until nothing moves any more."""
        changed = False
        for g in open_graphs(graph):
            for _ in range(_ROUNDS):
                hoisted = [_hoist(g, ctx, through=through) for through in (True, False)]
                changed = changed or any(hoisted)
                if not any(hoisted):
                    break
        return changed


def _hoist(graph: Graph, ctx: Context, *, through: bool) -> bool:
    wanted = _Wanted.of_graph(graph, ctx, through=through)
    worthy = {wanted.group(rows.selection) for node, rows in wanted.rows.items() if node.op in LABOUR}
    region = [node for node, rows in wanted.rows.items() if wanted.group(rows.selection) in worthy]
    if not region:
        return False
    _Rebuilding(graph, wanted).run(region)
    ctx.count("rows", len(region))
    return True


# What is wanted ----------------------------------------------------------------------------------


@dataclass
class _Wanted:
    """Which rows of each value are wanted."""

    through: bool
    """Whether nodes that pick rows pass on rows of another axis first."""
    barred: dict[Node, None]
    """Nodes that need rows which cannot be picked from the whole."""
    of: dict[Value, Rows | None] = field(default_factory=dict)
    """Value → its rows; ``None`` for all of it."""
    need: dict[Node, Need] = field(default_factory=dict)
    """Node of which only rows are wanted → what it needs for them."""
    rows: dict[Node, Rows] = field(default_factory=dict)
    """The same nodes → the rows of their results."""
    picks: dict[Node, Picked] = field(default_factory=dict)
    """Nodes that pick rows."""
    parent: dict[Selection, Selection] = field(default_factory=dict)
    """Selections that became part of one that contains them."""

    @staticmethod
    def of_graph(graph: Graph, ctx: Context, *, through: bool) -> _Wanted:
        """Walk until all rows that are needed can be picked where not all readers want them."""
        barred: dict[Node, None] = {}
        for walk in itertools.count(1):
            found = _Wanted(through=through, barred=barred)
            found.read(graph, ctx)
            more = [node for node in found.need if not found.can_make(node)]
            if not more:
                break
            barred.update(dict.fromkeys(more if walk < _WALKS else filter(found.merges, found.need)))
        return found

    def merges(self, node: Node) -> bool:
        """Return whether a node's rows are merged with other axes in what it reads only."""
        return self.rows[node].outer == 1 and any(r is not None and r.outer != 1 for r in self.need[node].operands)

    def can_make(self, node: Node) -> bool:
        """Return whether what a node needs is made, or can be picked from the whole."""
        pairs = zip(node.inputs, self.need[node].operands, strict=False)
        wanted = [(v, r) for v, r in pairs if v is not None and r is not None and r.outer != 1]
        return all(can_pick(v, r) or (self.of[v] is not None and v.node in self.need) for v, r in wanted)

    def read(self, graph: Graph, ctx: Context) -> None:
        """Walk from the results to the inputs."""
        for node in graph.reversed_nodes():
            pick, rows = picked(node), self._of_results(node)
            if pick is not None and (rows is None or not self.through):
                self.picks[node] = pick
                self._ask(node, (pick.rows, *[None] * (len(node.inputs) - 1)))
                continue
            need = None if rows is None or node in self.barred else _need(node, rows, ctx)
            if need is not None and rows is not None:
                self.need[node], self.rows[node] = need, rows
            self._ask(node, need.operands if need is not None else (None,) * len(node.inputs))

    def _of_results(self, node: Node) -> Rows | None:
        """Return the rows that are wanted of all results of a node, ``None`` when more is wanted of one."""
        found: Rows | None = None
        for out in node.outputs:
            if not out.is_used:
                continue
            rows = self.of.get(out)
            if rows is None or out.is_output or any(user.graph is not node.graph for user, _ in out.uses):
                return None
            found = rows if found is None else self._joined(found, rows)
            if found is None:
                return None
        return found

    def _ask(self, node: Node, operands: tuple[Rows | None, ...]) -> None:
        for value, rows in zip(node.inputs, operands, strict=False):
            if value is not None:
                self.of[value] = self._with(value, None if rows is None or rows.shared else rows)

    def _with(self, value: Value, rows: Rows | None) -> Rows | None:
        """Return what is wanted of a value once somebody wants rows of it too."""
        if rows is None or value not in self.of:
            return rows
        old = self.of[value]
        return None if old is None else self._joined(old, rows)

    def _joined(self, left: Rows, right: Rows) -> Rows | None:
        both = joined(left, right)
        if both is not None and left != right:
            for part in (left.selection, right.selection):
                self._unite(part, both.selection)
        return both

    def _unite(self, part: Selection, whole: Selection) -> None:
        first, second = self.group(part), self.group(whole)
        if first != second:
            self.parent[first] = second

    def group(self, selection: Selection) -> Selection:
        """Return one selection for all that are made together."""
        while selection in self.parent:
            selection = self.parent[selection]
        return selection


def _need(node: Node, rows: Rows, ctx: Context) -> Need | None:
    try:
        return needs(node, rows)
    except Blocked as why:
        ctx.refuse(f"{node.qualified}: {why}")
        return None


# The graph anew ----------------------------------------------------------------------------------


class _Rebuilding:
    """Makes nodes anew for the rows that are wanted of them."""

    def __init__(self, graph: Graph, wanted: _Wanted) -> None:
        self.graph = graph
        self.wanted = wanted
        self.picker = Picker(graph)
        self.made: dict[Value, Value] = {}
        self.nodes = list(graph.nodes())
        self.order = {node: i for i, node in enumerate(self.nodes)}

    def run(self, region: list[Node]) -> None:
        """Make the nodes of the region, and let those that picked rows read them; all in order."""
        there = dict.fromkeys(region)
        for node in self.nodes:
            if node in there:
                self._make(node)
            elif node in self.wanted.picks:
                self._replace_pick(node, self.wanted.picks[node])
        for node in region:  # last first
            erase_unused(node.output)

    def _make(self, node: Node) -> None:
        need, rows = self.wanted.need[node], self.wanted.rows[node]
        self.picker.place(self._anchor(node, rows.selection), node)
        operands: list[Value | None] = list(node.inputs)
        for i, array in need.constants.items():
            hint = f"{node.output.name}_rows"
            operands += [None] * (i + 1 - len(operands))
            operands[i] = edit.add_constant(self.graph, Constant.from_array(array), hint=hint)
        inputs = [self._operand(v, r) for v, r in zip(operands, need.operands, strict=True)]
        made = self.picker.add(node, inputs, [_fewer(o, rows) for o in node.outputs], need.attributes)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            if old.is_used:
                self.made[old] = new

    def _operand(self, value: Value | None, rows: Rows | None) -> Value | None:
        """Return rows of a value: as they were made, some of these, or picked from the whole."""
        if value is None or rows is None:
            return value
        new, there = self.made.get(value), self.wanted.of.get(value)
        if new is None or there is None:
            return self.picker.pick(value, rows)
        places = within(rows.selection, there.selection)
        return new if places is None else self.picker.pick_places(new, there, places)

    def _anchor(self, node: Node, selection: Selection) -> Node:
        """Return what to stand before: the node's own place, or where the indices are known."""
        known = [v.node for v in selection.operands if v.node is not None and v.node.graph is self.graph]
        last = max(known, key=lambda n: self.order[n], default=None)
        return node if last is None or self.order[last] < self.order[node] else self.nodes[self.order[last] + 1]

    def _replace_pick(self, node: Node, pick: Picked) -> None:
        data = node.inputs[0]
        if data not in self.made:
            return
        self.picker.place(node, node)
        found = self._operand(data, pick.rows)
        assert found is not None
        if pick.drops:
            found = self.picker.drop(found, pick.rows.axis)
        edit.replace(node.output, found)
        edit.erase(node)


def _fewer(value: Value, rows: Rows) -> TensorType:
    """Return the type of some rows of a value."""
    kind = value.type
    assert isinstance(kind, TensorType)
    shape = list(kind.shape)
    shape[rows.axis] = rows.count
    return TensorType(kind.dtype, tuple(shape))

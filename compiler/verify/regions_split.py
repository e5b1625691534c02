"""Split what a pass changed into rewrite instances: small pairs of subgraphs that claim to compute the same.

A *reader* is a node that a pass left alone, or only rewired from one value to another: what it read before
and what it reads now must be equal.  These pairs are all that a pass promises; values inside a rewritten part
may change freely. Nodes inside nested graphs count as part of the node of the main graph around them.

Connected parts are separate rewrites: two nodes belong together when one reads the other's result, before or
after, or when a reader went from one to the other.  Nodes that were removed and that nobody missed promise
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from itertools import zip_longest

from compiler.backend.fragment import NOW, View
from compiler.ir.edit import Journal
from compiler.ir.graph import Attr, Graph, Model, Node, Value

Pair = tuple[Value | None, Value | None]


class Before(View):
    """The graph as it was before the changes of a journal."""

    def __init__(self, journal: Journal, moved: dict[Node, Graph]) -> None:
        """Sort what left a graph by graph; ``moved`` are nodes that went to the main graph, with their old one."""
        self._journal = journal
        self._moved = moved
        self._left: dict[Graph, list[Node]] = {}
        for node, graph in (*journal.erased.items(), *moved.items()):
            self._left.setdefault(graph, []).append(node)

    def inputs(self, node: Node) -> tuple[Value | None, ...]:
        """Return the operands that the node had."""
        return self._journal.inputs_before.get(node, node.inputs)

    def attributes(self, node: Node) -> dict[str, Attr]:
        """Return the attributes that the node had."""
        return self._journal.attributes_before.get(node, node.attributes)

    def nodes(self, graph: Graph) -> Iterable[Node]:
        """Return the nodes that a nested graph had, in an order that works."""
        stayed = [n for n in graph.nodes() if n not in self._journal.inserted]
        left = self._left.get(graph)
        return in_order([*stayed, *left], self) if left else stayed

    def outputs(self, graph: Graph) -> list[Value]:
        """Return what the graph returned."""
        return self._journal.outputs_before.get(graph, graph.outputs)


def in_order(nodes: Iterable[Node], view: View) -> list[Node]:
    """Return nodes sorted so that each stands behind those that it reads; raises ``ValueError`` for a cycle."""
    listed = list(nodes)
    maker = {o: n for n in listed for o in n.outputs}
    sorter: TopologicalSorter[Node] = TopologicalSorter()
    for n in listed:
        sorter.add(n, *dict.fromkeys(maker[v] for v in view.operands(n) if v in maker and maker[v] is not n))
    return list(sorter.static_order())


@dataclass(slots=True)
class Part:
    """One rewrite instance: its nodes before and after, and the pairs of values that must be equal."""

    before: list[Node] = field(default_factory=list)
    after: list[Node] = field(default_factory=list)
    pairs: list[tuple[Value, Value]] = field(default_factory=list)


class Change:
    """What one journal did to the main graph of a model."""

    def __init__(self, model: Model, journal: Journal, known: dict[Node, None]) -> None:
        """Sort nodes into old and new ones; ``known`` are the nodes of the main graph before the change."""
        self._journal = journal
        self._main = model.graph
        self._tops: dict[Node, Node | None] = {}
        self.old: dict[Node, None] = {}
        self.new: dict[Node, None] = {}
        self.moved: dict[Node, Graph] = {}
        self._sort_nodes()
        self._promote_readers()
        self._find_moved(known)
        self.before = Before(journal, self.moved)

    def inserted(self) -> list[Node]:
        """Return the nodes that are new in the main graph."""
        return [n for n in self.new if n not in self.old]

    # Which nodes changed --------------------------------------------------------------------------

    def _top(self, node: Node) -> Node | None:
        """Return the node of the main graph that holds ``node``; ``None`` when it hangs in no graph."""
        at: Node | None = node
        while at is not None:
            graph = at.graph if at.graph is not None else self._journal.erased.get(at)
            if graph is None:
                return None
            if graph is self._main:
                return at
            at = graph.owner
        return None

    def _touch(self, node: Node) -> None:
        top = self._top(node)
        if top is None:
            return
        if top not in self._journal.inserted or top in self._journal.erased:
            self.old[top] = None
        if top.graph is not None:
            self.new[top] = None

    def _sort_nodes(self) -> None:
        for node in (*self._journal.erased, *self._journal.modified, *self._journal.inserted):
            self._touch(node)
        for graph in self._journal.outputs_before:
            if graph.owner is not None:
                self._touch(graph.owner)

    def _promote_readers(self) -> None:
        """A node in a nested graph that was rewired between values of nested graphs changes the node around it."""
        for node, before in self._journal.inputs_before.items():
            changed = [v for b, a in zip_longest(before, node.inputs) if b is not a for v in (a, b) if v is not None]
            if any(v.graph is not None and v.graph is not self._main for v in changed):
                self._touch(node)

    def _find_moved(self, known: dict[Node, None]) -> None:
        """Find nodes that were moved out of a nested graph: their values are still made, but in the main graph."""
        for top in list(self.old):
            for graph in _all_graphs(top):
                todo = [v.node for v in Before(self._journal, {}).outputs(graph)]
                while todo:
                    node = todo.pop()
                    if node is None or node in known or node in self.moved or node.graph is not self._main:
                        continue
                    if node not in self._journal.inserted:
                        self.moved[node] = graph
                        self.new[node] = None
                        todo += [v.node for v in NOW.operands(node)]

    # What must be equal ---------------------------------------------------------------------------

    def pairs(self) -> dict[tuple[Value, Value], None]:
        """Return the pairs of values that readers took for equal."""
        found: dict[tuple[Value, Value], None] = {}
        for node, before in self._journal.inputs_before.items():
            if self._is_reader(node):
                _add(found, zip_longest(before, node.inputs))
        _add(found, zip_longest(self.before.outputs(self._main), self._main.outputs))
        for node in self.old:
            if node in self.new:
                _add(found, ((o, o) for o in node.outputs if self._is_read(o)), same=True)
        return found

    def _is_reader(self, node: Node) -> bool:
        top = self._top(node)
        return top is not None and top.graph is not None and top not in self.old and top not in self.new

    def _is_read(self, value: Value) -> bool:
        if value in self._main.outputs and value in self.before.outputs(self._main):
            return True
        return any(self._is_reader(n) and _at(self.before.inputs(n), i) is value for n, i in value.uses)

    # Parts ----------------------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        """Return the rewrite instances in order of their first node; those that promise nothing are left out."""
        pairs = self.pairs()
        joined = _Joined()
        old_maker = {o: n for n in self.old for o in n.outputs}
        new_maker = {o: n for n in self.new for o in n.outputs}
        for node in self.old:
            joined.join(node, *(old_maker[v] for v in self.before.operands(node) if v in old_maker))
        for node in self.new:
            joined.join(node, *(new_maker[v] for v in NOW.operands(node) if v in new_maker))
        for a, b in pairs:
            joined.join(*(m for m in (old_maker.get(a), new_maker.get(b)) if m is not None))
        found: dict[Node | tuple[Value, Value], Part] = {}
        for a, b in pairs:
            maker = old_maker.get(a) or new_maker.get(b)
            key = joined.root(maker) if maker is not None else (a, b)
            found.setdefault(key, Part()).pairs.append((a, b))
        for node in self.old:
            if (part := found.get(joined.root(node))) is not None:
                part.before.append(node)
        for node in self.new:
            if (part := found.get(joined.root(node))) is not None:
                part.after.append(node)
        return [self._ordered(part) for part in found.values()]

    def _ordered(self, part: Part) -> Part:
        part.before = in_order(part.before, self.before)
        part.after = in_order(part.after, NOW)
        return part


def _at(inputs: tuple[Value | None, ...], index: int) -> Value | None:
    return inputs[index] if index < len(inputs) else None


def _add(found: dict[tuple[Value, Value], None], pairs: Iterable[Pair], *, same: bool = False) -> None:
    for a, b in pairs:
        if a is not None and b is not None and (same or a is not b):
            found[(a, b)] = None


def _all_graphs(node: Node) -> list[Graph]:
    return [inner for g in node.graphs() for inner in g.all_graphs()] if node.attributes else []


class _Joined:
    """Disjoint sets of nodes."""

    def __init__(self) -> None:
        self._up: dict[Node, Node] = {}

    def root(self, node: Node) -> Node:
        """Return the node that stands for the set of ``node``."""
        top = node
        while (above := self._up.get(top, top)) is not top:
            top = above
        while (above := self._up.get(node, node)) is not top:
            self._up[node], node = top, above
        return top

    def join(self, *nodes: Node) -> None:
        """Make one set of the sets of the nodes."""
        for other in nodes[1:]:
            self._up[self.root(other)] = self.root(nodes[0])

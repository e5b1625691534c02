"""Keep one copy of equal constants: weights that an exporter duplicated become tied.

Decisions:

* Contents are compared lazily.  Constants must agree in type and shape, then in a few sampled bytes, before
  either is hashed: a model of 20 GB whose layers differ is sampled, not read.
* Constants of at most 1 KiB are shared within one graph only, since some rewrites of ONNX Runtime look for
  scalars in the node's own graph.  Larger ones are shared across graphs: an equal one of an enclosing graph
  is used, and equal ones of siblings (the branches of an ``If``) move to the graph that encloses them all.
* A constant that a graph returns keeps its name and place; others may be replaced by it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Graph, Value
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import open_graphs

_SMALL = 1024
"""Bytes up to which a constant stays in the graph that reads it."""

_SAMPLE = 64
"""Bytes that are compared at the start, in the middle and at the end before a large constant is hashed."""


@dataclass(frozen=True)
class ShareConstants(Pass):
    """Make equal constants one, within a graph and (for large ones) across nested graphs."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Group the constants by what is cheap to compare, hash within groups, and merge what is equal."""
        scopes = _Scopes(graph)
        readable = [v for g in scopes.graphs for v in g.constants if v.constant is not None and v.constant.is_readable]
        shared: dict[Value, Value] = {}
        for group in _equal(readable):
            shared |= _merge_large(group, scopes) if _bytes(group[0]) > _SMALL else _merge_small(group)
        edit.replace_all(list(shared.items()))
        for value in shared:
            edit.erase_constant(value)
        if shared:
            ctx.count("share constant", len(shared))
        return bool(shared)


class _Scopes:
    """The graphs, outer before inner, with what tells whether one encloses another."""

    def __init__(self, graph: Graph) -> None:
        self.graphs = list(open_graphs(graph))
        self.position = {g: i for i, g in enumerate(self.graphs)}
        self.end = {g: i + 1 for i, g in enumerate(self.graphs)}
        self.root: dict[Graph, Graph] = {}
        for g in self.graphs:
            own = g.owner is None or g.owner.domain or g.parent not in self.root
            self.root[g] = g if own or g.parent is None else self.root[g.parent]
        for g in reversed(self.graphs):
            if (parent := g.parent) in self.end:
                self.end[parent] = max(self.end[parent], self.end[g])

    def encloses(self, outer: Graph, inner: Graph) -> bool:
        """True when ``inner`` is ``outer`` or nested in it."""
        return self.position[outer] <= self.position[inner] < self.end[outer]

    def visible(self, outer: Graph, inner: Graph) -> bool:
        """True when ``inner`` may read a value of ``outer`` that it did not read before."""
        return self.encloses(outer, inner) and self.root[outer] is self.root[inner]

    def around(self, graphs: list[Graph]) -> Graph | None:
        """Return the innermost graph that encloses all of them."""
        found: Graph | None = graphs[0]
        while found is not None and not all(self.encloses(found, g) for g in graphs):
            found = found.parent
        return found


def _bytes(value: Value) -> int:
    assert value.constant is not None
    return value.constant.nbytes if value.constant.dtype is not DType.STRING else 0


def _equal(values: list[Value]) -> list[list[Value]]:
    """Return the groups of two and more equal constants, in order of their first members."""
    groups = [values]
    for key in (_form, _sample, Constant.digest):
        groups = [group for members in groups for group in _split(members, key)]
    return groups


def _split(values: Iterable[Value], key: Callable[[Constant], Hashable]) -> list[list[Value]]:
    found: dict[Hashable, list[Value]] = {}
    for value in values:
        assert value.constant is not None
        found.setdefault(key(value.constant), []).append(value)
    return [group for group in found.values() if len(group) > 1]


def _form(constant: Constant) -> Hashable:
    return constant.dtype, constant.shape


def _sample(constant: Constant) -> bytes:
    if constant.dtype is DType.STRING:
        return b""
    raw = memoryview(constant.raw()).cast("B") if constant.nbytes else memoryview(b"")
    middle = len(raw) // 2
    return bytes(raw[:_SAMPLE]) + bytes(raw[middle : middle + _SAMPLE]) + bytes(raw[-_SAMPLE:])


def _merge_small(group: list[Value]) -> dict[Value, Value]:
    """Return which constants of one graph stand for others of the same graph."""
    kept: dict[Graph, Value] = {}
    shared: dict[Value, Value] = {}
    for value in sorted(group, key=lambda v: not v.is_output):
        assert value.graph is not None
        first = kept.setdefault(value.graph, value)
        if first is not value and not value.is_output:
            shared[value] = first
    return shared


def _merge_large(group: list[Value], scopes: _Scopes) -> dict[Value, Value]:
    """Return which constants stand for others: those of enclosing graphs, and one that all siblings see."""
    kept: list[Value] = []
    shared: dict[Value, Value] = {}
    for value in group:  # outer graphs come first
        assert value.graph is not None
        outer = None if value.is_output else _first_visible(kept, value.graph, scopes)
        if outer is None:
            kept.append(value)
        else:
            shared[value] = outer
    hoisted = _hoist([v for v in kept if not v.is_output], scopes)
    return {value: hoisted.get(other, other) for value, other in shared.items()} | hoisted


def _first_visible(kept: list[Value], graph: Graph, scopes: _Scopes) -> Value | None:
    return next((k for k in kept if k.graph is not None and scopes.visible(k.graph, graph)), None)


def _hoist(values: list[Value], scopes: _Scopes) -> dict[Value, Value]:
    """Copy a constant of graphs that do not see each other to one that encloses them, and let it stand for all."""
    graphs = [v.graph for v in values if v.graph is not None]
    target = scopes.around(graphs) if len(values) > 1 else None
    if target is None or not all(scopes.visible(target, g) for g in graphs):
        return {}
    first = values[0]
    assert first.constant is not None
    outer = edit.add_constant(target, first.constant, hint=first.name)
    return dict.fromkeys(values, outer)

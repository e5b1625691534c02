"""Cut nodes out of a graph: a small model of its own, and its bytes for a runtime.

The nodes are copied with their values, so that nothing in the model they come from changes.  Constants are
shared; big ones that lie in a mapped file are referred to rather than copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compiler.backend.emit import Limits, emit
from compiler.backend.places import Places, leave_in_files
from compiler.errors import CompilerError
from compiler.ir import edit
from compiler.ir.graph import Attr, Graph, Model, Node, Value
from compiler.ir.splice import PayloadTable
from compiler.ir.types import UNKNOWN, Type


class View:
    """What a graph looks like; subclasses show another moment than now."""

    def inputs(self, node: Node) -> tuple[Value | None, ...]:
        """Return the operands of a node."""
        return node.inputs

    def attributes(self, node: Node) -> dict[str, Attr]:
        """Return the attributes of a node."""
        return node.attributes

    def nodes(self, graph: Graph) -> Iterable[Node]:
        """Return the nodes of a nested graph in order."""
        return graph.nodes()

    def outputs(self, graph: Graph) -> Sequence[Value]:
        """Return what a nested graph returns."""
        return graph.outputs

    def operands(self, node: Node) -> list[Value]:
        """Return all values that a node reads, those captured by its nested graphs and defined outside included."""
        found: dict[Value, None] = {}
        inside: set[Value] = set()
        todo = [node]
        while todo:
            n = todo.pop()
            found.update((v, None) for v in self.inputs(n) if v is not None)
            for graph in self.graphs(n):
                inner = list(self.nodes(graph))
                inside.update(graph.inputs)
                inside.update(o for m in inner for o in m.outputs)
                inside.update(c for c in graph.constants)
                found.update(dict.fromkeys(self.outputs(graph)))
                todo += inner
        return [v for v in found if v not in inside]

    def graphs(self, node: Node) -> list[Graph]:
        """Return the graphs nested in a node."""
        found: list[Graph] = []
        for a in self.attributes(node).values():
            if a.kind == "graph":
                found.append(a.value)
            elif a.kind == "graphs":
                found.extend(a.value)
        return found


NOW = View()
"""The graph as it is."""


@dataclass(slots=True)
class Copier:
    """Copies nodes; a value is copied once, so that copies made one after the other still share their values.

    ``name`` gives the names of copied values; by default they keep theirs.  Copies of nodes belong to no
    graph.
    """

    view: View = NOW
    values: dict[Value, Value] = field(default_factory=dict)
    name: Callable[[str], str] = lambda name: name
    scratch: Model = field(default_factory=Model)

    def value(self, old: Value) -> Value:
        """Return the copy of a value."""
        new = self.values.get(old)
        if new is None:
            new = Value(self.name(old.name) if old.name else "", old.type)
            new.constant = old.constant
            self.values[old] = new
        return new

    def node(self, old: Node) -> Node:
        """Return a copy of a node and of all that is nested in it."""
        new = Node(
            old.op,
            tuple(None if v is None else self.value(v) for v in self.view.inputs(old)),
            tuple(self.value(v) for v in old.outputs),
            domain=old.domain,
            version=old.version,
            name=old.name,
            loc=old.loc,
        )
        new.extra = old.extra
        new.attributes = {k: self._attribute(a, new) for k, a in self.view.attributes(old).items()}
        return new

    def _attribute(self, attr: Attr, owner: Node) -> Attr:
        if attr.kind == "graph":
            return Attr("graph", self._graph(attr.value, owner))
        if attr.kind == "graphs":
            return Attr("graphs", tuple(self._graph(g, owner) for g in attr.value))
        return attr

    def _graph(self, old: Graph, owner: Node) -> Graph:
        new = edit.new_graph(old.name, self.scratch, owner)
        new.extra = old.extra
        for v in old.inputs:
            edit.add_input(new, self.value(v))
        outputs = self.view.outputs(old)
        read: dict[Value, None] = dict.fromkeys(outputs)
        for node in self.view.nodes(old):
            read.update(dict.fromkeys(v for v in self.view.inputs(node) if v is not None))
            edit.attach(new, self.node(node))
        read.update(dict.fromkeys(old.constants))
        for v in read:
            if v.constant is not None and (v in old.constants or v.graph is old):
                copy = self.value(v)
                copy.graph = new
                new.constants[copy] = None
        for v in outputs:
            edit.add_output(new, self.value(v))
        return new


def fragment(
    nodes: Iterable[Node],
    *,
    inputs: Sequence[tuple[Value, Type]],
    outputs: Sequence[Value],
    like: Model,
    names: Sequence[str] = (),
) -> Model:
    """Return a model that computes ``outputs`` from ``inputs`` by copies of ``nodes``, which stand in order.

    ``like`` gives versions and functions.  ``names``, one for each output, puts an ``Identity`` under that
    name behind it; without them the outputs must be made by nodes and keep their names.  Raises
    ``CompilerError`` when a value is read that is neither made, nor constant, nor an input.
    """
    model = Model(opsets=dict(like.opsets), ir_version=like.ir_version, functions=like.functions)
    graph = edit.new_graph("fragment", model)
    model.graph = graph
    copier = Copier(scratch=model)
    defined: set[Value] = set()
    for value, type_ in inputs:
        copy = copier.value(value)
        copy.type, copy.constant = type_, None
        edit.add_input(graph, copy)
        defined.add(value)
    for node in nodes:
        for v in NOW.operands(node):
            _define(v, defined, copier, graph, node)
        edit.attach(graph, copier.node(node))
        defined.update(node.outputs)
    for k, v in enumerate(outputs):
        _define(v, defined, copier, graph, None)
        edit.add_output(graph, _named(copier.value(v), names[k], graph) if names else _untyped(copier.value(v)))
    return model


def _define(value: Value, defined: set[Value], copier: Copier, graph: Graph, reader: Node | None) -> None:
    if value in defined:
        return
    if value.constant is None:
        by = "an output of the fragment" if reader is None else f"{reader!r}"
        raise CompilerError(f"a fragment lacks {value!r}", where=by, why="it is neither made inside nor given")
    copy = copier.value(value)
    copy.graph = graph
    graph.constants[copy] = None
    defined.add(value)


def _named(value: Value, name: str, graph: Graph) -> Value:
    node = Node("Identity", (value,), (Value(name),), version=1)
    node.version = edit.NEWEST
    edit.attach(graph, node)
    return node.output


def _untyped(value: Value) -> Value:
    value.type = UNKNOWN if value.constant is None else value.type
    return value


def fragment_bytes(
    model: Model, *, limits: Limits | None = None, places: Places | None = None
) -> tuple[bytes, Path | None]:
    """Return a model's bytes for a runtime in another process, and the folder of its external data, if it has any.

    With ``places`` big constants stay in the files they lie in; without, all are copied.  Raises
    ``UnsupportedError`` when no opset within ``limits`` can say it.
    """
    table = PayloadTable()
    proto = emit(model, table, limits=limits)
    folder = leave_in_files(proto, table, places or Places())
    return _serialized(proto), folder


def _serialized(proto: Any) -> bytes:
    from google.protobuf.message import EncodeError

    try:
        data: bytes = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise CompilerError("a fragment is too large to be sent to the runtime", why=str(error)) from error
    return data

"""Primitive steps: the only code that writes to graphs, nodes and values that stand in a model.

Each step records its inverse in the journal of the model, if one is open.  Use them through ``compiler.ir.edit``.
"""

from __future__ import annotations

from collections.abc import Sequence

from compiler.ir.dims import Dim
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.ir.journal import record
from compiler.ir.types import Type


def link(graph: Graph, node: Node, before: Node | None) -> None:
    """Put a node into the list of its graph."""
    previous = before.previous if before is not None else graph._last
    node.previous, node.next, node.graph = previous, before, graph
    if previous is not None:
        previous.next = node
    else:
        graph._first = node
    if before is not None:
        before.previous = node
    else:
        graph._last = node
    graph.node_count += 1
    if node.attributes and node.graphs():
        graph.owners[node] = None


def unlink(node: Node) -> None:
    """Take a node out of the list of its graph."""
    graph = node.graph
    assert graph is not None
    if node.previous is not None:
        node.previous.next = node.next
    else:
        graph._first = node.next
    if node.next is not None:
        node.next.previous = node.previous
    else:
        graph._last = node.previous
    graph.node_count -= 1
    graph.owners.pop(node, None)
    node.graph = None  # next/previous stay, so that a running iteration finds its way


def add_uses(node: Node) -> None:
    """Tell the operands of a node that it reads them."""
    for i, value in enumerate(node.inputs):
        if value is not None:
            value.uses[(node, i)] = None


def _drop_uses(node: Node) -> None:
    for i, value in enumerate(node.inputs):
        if value is not None:
            value.uses.pop((node, i), None)


def nested(node: Node) -> list[Graph]:
    """Return all graphs nested in a node, however deep."""
    return [sub for g in node.graphs() for sub in g.all_graphs()] if node.attributes else []


def _attach(graph: Graph, node: Node, before: Node | None) -> None:
    link(graph, node, before)
    add_uses(node)
    for sub in nested(node):
        for n in sub.nodes():
            add_uses(n)
        for i, v in enumerate(sub.outputs):
            v.returned[(sub, i)] = None


def detach(node: Node) -> None:
    """Take a node out of its graph, with all that it and its nested graphs use."""
    _drop_uses(node)
    for sub in nested(node):
        for n in sub.nodes():
            _drop_uses(n)
        for i, v in enumerate(sub.outputs):
            v.returned.pop((sub, i), None)
    unlink(node)


def attach(graph: Graph, node: Node, *, before: Node | None = None) -> Node:
    """Put a finished node (with its outputs) into a graph, at the end or before another node."""
    model = graph.model
    for i, out in enumerate(node.outputs):
        out.node, out.index, out.graph = node, i, graph
    _attach(graph, node, before)
    if model.journal is not None:
        model.journal.inserted[node] = None
        record(model, lambda: detach(node))
    return node


def erase(node: Node) -> None:
    """Take a node out of its graph; none of its outputs may be in use."""
    graph = node.graph
    assert graph is not None
    assert not any(o.is_used for o in node.outputs), f"erasing {node!r} whose outputs are in use"
    model, after = graph.model, node.next
    while after is not None and after.graph is not graph:
        after = after.next
    detach(node)
    journal = model.journal
    if journal is None:
        return
    if node in journal.inserted:
        del journal.inserted[node]

        def restore() -> None:
            journal.inserted[node] = None
            _attach(graph, node, after)

        record(model, restore)
        return
    journal.erased[node] = graph
    record(model, lambda: _attach(graph, node, after))


def set_input(node: Node, index: int, value: Value | None) -> None:
    """Change one operand of a node; operands beyond the end are filled with missing ones."""
    inputs = list(node.inputs) + [None] * (index + 1 - len(node.inputs))
    inputs[index] = value
    set_inputs(node, inputs)


def set_inputs(node: Node, inputs: Sequence[Value | None]) -> None:
    """Change all operands of a node; trailing missing ones are dropped."""
    new = list(inputs)
    while new and new[-1] is None:
        new.pop()
    old = node.inputs
    if tuple(new) == old:
        return
    rewire(node, tuple(new))
    if node.graph is not None and (journal := node.graph.model.journal) is not None and node not in journal.inserted:
        journal.modified[node] = None


def rewire(node: Node, inputs: tuple[Value | None, ...]) -> None:
    """Change all operands of a node without calling it modified."""
    old = node.inputs
    _assign_inputs(node, inputs)
    if node.graph is not None and (journal := node.graph.model.journal) is not None:
        if node not in journal.inserted:
            journal.inputs_before.setdefault(node, old)
        record(node.graph.model, lambda: _assign_inputs(node, old))


def rewire_at(node: Node, index: int, value: Value | None) -> None:
    """Change one operand that is there; nodes may have tens of thousands, so the others are not looked at."""
    old = node.inputs[index]
    before = node.inputs
    _assign_input(node, index, value)
    if node.graph is not None and (journal := node.graph.model.journal) is not None:
        if node not in journal.inserted:
            journal.inputs_before.setdefault(node, before)
        record(node.graph.model, lambda: _assign_input(node, index, old))


def _assign_input(node: Node, index: int, value: Value | None) -> None:
    old = node.inputs[index]
    inputs = list(node.inputs)
    inputs[index] = value
    node.inputs = tuple(inputs)
    if node.graph is None:
        return
    if old is not None:
        old.uses.pop((node, index), None)
    if value is not None:
        value.uses[node, index] = None


def _assign_inputs(node: Node, inputs: tuple[Value | None, ...]) -> None:
    if node.graph is None:
        node.inputs = inputs
        return
    _drop_uses(node)
    node.inputs = inputs
    add_uses(node)


def set_attribute(node: Node, name: str, attr: Attr | None) -> None:
    """Set or (with ``None``) remove an attribute that holds no graph."""
    old = dict(node.attributes)
    new = dict(old)
    if attr is None:
        new.pop(name, None)
    else:
        new[name] = attr
    node.attributes = new
    if node.graph is not None and (journal := node.graph.model.journal) is not None:
        if node not in journal.inserted:
            journal.modified[node] = None
            journal.attributes_before.setdefault(node, old)
        record(node.graph.model, lambda: setattr(node, "attributes", old))


def set_type(value: Value, type_: Type) -> None:
    """Change what is known of a value's type."""
    if value.type == type_:
        return
    old = value.type
    value.type = type_
    if value.graph is not None:
        record(value.graph.model, lambda: setattr(value, "type", old))


def set_contents(value: Value, contents: tuple[Dim, ...] | None) -> None:
    """Change what is known of the elements of a small integer tensor."""
    if value.contents == contents:
        return
    old = value.contents
    value.contents = contents
    if value.graph is not None:
        record(value.graph.model, lambda: setattr(value, "contents", old))


def rename(value: Value, name: str) -> None:
    """Give a value another name; the name must be free or just given up."""
    old = value.name
    value.name = name
    if value.graph is not None:
        value.graph.model.claim(name)
        record(value.graph.model, lambda: setattr(value, "name", old))


def set_output(graph: Graph, index: int, value: Value) -> None:
    """Let a graph return another value at one of its outputs."""
    old = graph.outputs[index]
    if graph.model.journal is not None:
        graph.model.journal.outputs_before.setdefault(graph, list(graph.outputs))
    _assign_output(graph, index, value)
    record(graph.model, lambda: _assign_output(graph, index, old))


def _assign_output(graph: Graph, index: int, value: Value) -> None:
    graph.outputs[index].returned.pop((graph, index), None)
    graph.outputs[index] = value
    value.returned[(graph, index)] = None

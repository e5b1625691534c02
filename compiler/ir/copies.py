"""Copy the nodes of one graph into another, for values of which they then compute the same.

This is how a definition is put in the place of the node that it defines: the definition is a template, read once and
copied as often as it is needed.  Constants are shared, not copied: their contents never change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.ir import edit
from compiler.ir.graph import Attr, Graph, Loc, Node, Value

Standing = dict[Value, Value | None]
"""Value of the template → the value that stands for it, ``None`` for one that is missing."""


def copy_nodes(
    template: Graph, operands: Mapping[Value, Value | None], before: Node, *, loc: Loc
) -> tuple[Standing, list[Node]]:
    """Copy the constants and nodes of a graph before a node; return what stands for its values, and the new nodes.

    ``operands`` says what stands for the graph's inputs.  New values have names made of that of the first output of
    ``before`` and their own.  Nothing is known of their types, which are to be inferred: those of the template speak of
    its own symbols, which stand for other dims here.
    """
    graph = before.graph
    assert graph is not None
    standing: Standing = dict(operands)
    prefix = before.output.name if before.outputs else before.op
    _copy_constants(template, graph, standing, prefix)
    made = [edit.attach(graph, _copy(node, graph, standing, prefix, loc), before=before) for node in template.nodes()]
    return standing, made


def _copy_constants(template: Graph, graph: Graph, standing: Standing, prefix: str) -> None:
    for value in template.constants:
        assert value.constant is not None
        copy = Value(_name(value, graph, prefix), value.type)
        standing[value] = edit.attach_constant(graph, copy, value.constant)


def _copy(node: Node, graph: Graph, standing: Standing, prefix: str, loc: Loc) -> Node:
    """Return a copy of a node that stands in no graph yet, with the graphs that are nested in it."""
    inputs = tuple([None if v is None else standing[v] for v in node.inputs])
    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    outputs = []
    for value in node.outputs:
        copy = Value("" if value.absent else _name(value, graph, prefix))
        standing[value] = copy
        outputs.append(copy)
    made = Node(node.op, inputs, tuple(outputs), domain=node.domain, version=node.version, loc=loc)
    made.graph = graph  # nested graphs look for their owner's place while they are copied
    made.attributes = {name: _copy_attribute(a, made, standing, prefix, loc) for name, a in node.attributes.items()}
    made.graph = None
    return made


def _copy_attribute(attr: Attr, owner: Node, standing: Standing, prefix: str, loc: Loc) -> Attr:
    if attr.kind == "graph":
        return Attr("graph", _copy_graph(attr.value, owner, standing, prefix, loc))
    if attr.kind == "graphs":
        return Attr("graphs", tuple(_copy_graph(g, owner, standing, prefix, loc) for g in attr.value))
    return attr


def _copy_graph(source: Graph, owner: Node, standing: Standing, prefix: str, loc: Loc) -> Graph:
    assert owner.graph is not None
    graph = edit.new_graph(source.name, owner.graph.model, owner)
    for value in source.inputs:
        standing[value] = edit.add_input(graph, Value(_name(value, graph, prefix)))
    _copy_constants(source, graph, standing, prefix)
    for node in source.nodes():
        edit.attach(graph, _copy(node, graph, standing, prefix, loc))
    for value in source.outputs:
        stands = standing[value]
        assert stands is not None
        edit.add_output(graph, stands)
    return graph


def _name(value: Value, graph: Graph, prefix: str) -> str:
    return graph.model.fresh_name(f"{prefix}/{value.name.rpartition('/')[2]}")


def replace_by(node: Node, values: Sequence[Value | None], made: Sequence[Node]) -> None:
    """Let others stand for the outputs of a node (``None`` where an output is absent) and erase it.

    Those that nodes of ``made`` make take the names of what they stand for.
    """
    pairs = [(old, new) for old, new in zip(node.outputs, values, strict=True) if new is not None]
    new_nodes = frozenset(made)
    for old, new in pairs:
        edit.replace(old, new)
    edit.erase(node)
    for old, new in pairs:
        if new.node in new_nodes and not new.returned and new.name != old.name:
            edit.rename(new, old.name)

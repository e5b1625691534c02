"""Let a model have the body of another one, as one change that can be undone like any other.

This is how a graph that was rewritten outside of the IR (by a GraphSurgeon script) takes the place of the one that it
was made of.
"""

from __future__ import annotations

from compiler.ir import edit
from compiler.ir.graph import Graph, Node, Value


def replace_body(graph: Graph, new: Graph) -> None:
    """Let a main graph have the nodes, constants and outputs of another model's, whose graph is used up.

    Inputs and outputs are matched by position; inputs stay, and outputs keep their declarations.  Names of values must
    be unique in each of the two, and outputs of the same name in both.
    """
    model, other = graph.model, new.model
    before = [*graph.nodes()], [*graph.constants]
    if other.opsets.get("") != model.opsets.get(""):
        _forget_forms(new)
    for domain, version in other.opsets.items():
        edit.import_domain(model, domain, version)
    inputs = dict(zip(new.inputs, graph.inputs, strict=True))
    outputs = [inputs.get(v, v) for v in edit.release_outputs(new)]
    for old, value in inputs.items():
        for node, index in list(old.uses):
            edit.set_input(node, index, value)
    for constant in list(new.constants):
        edit.adopt_constant(graph, constant)
    for node in list(new.nodes()):
        edit.adopt(graph, node)
    _return(graph, outputs)
    _erase(*before)


def _forget_forms(new: Graph) -> None:
    """Drop what says in which form nodes were written: it was that of another opset version."""
    for node in new.all_nodes():
        node.extra = None


def _return(graph: Graph, outputs: list[Value]) -> None:
    for index, (old, value) in enumerate(zip(list(graph.outputs), outputs, strict=True)):
        if not value.is_input and value is not old:
            value.declared = old.declared
        edit.replaced(old, value)
        edit.set_output(graph, index, value)


def _erase(nodes: list[Node], constants: list[Value]) -> None:
    for node in reversed(nodes):
        edit.erase(node)
    for value in constants:
        if not value.is_used:
            edit.erase_constant(value)

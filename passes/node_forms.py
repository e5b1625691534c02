"""What the passes of this folder ask of a node, and the two ways in which they replace one.

A pass acts on nodes of known meaning only: operators of the default domain in a form of opset 13 or newer
(axes and sizes are inputs there), and operators of ``com.microsoft`` that it knows by name.  Graphs nested in
nodes of any other domain are left as they are, since only their operator knows what it reads from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.ir.types import TensorType

_FIRST_CURRENT = 13
_FIRST_REDUCE = 18
_OPEN_DOMAINS = frozenset({"", "com.microsoft"})


def is_current(node: Node, *ops: str) -> bool:
    """True when the node is one of these operators, with axes and sizes as inputs."""
    return node.is_op(*ops) and (node.version >= _FIRST_CURRENT or node.version == 0)


def has_axes_input(node: Node) -> bool:
    """True when the node is a reduction whose axes are its second input."""
    if node.domain or not node.op.startswith("Reduce"):
        return False
    return node.version >= _FIRST_REDUCE or node.version == 0 or is_current(node, "ReduceSum")


def is_open(node: Node) -> bool:
    """True when passes may change the graphs nested in the node."""
    return node.domain in _OPEN_DOMAINS


def open_graphs(graph: Graph) -> Iterator[Graph]:
    """Yield a graph and the graphs nested in it that passes may change, outer before inner, in node order."""
    todo = [graph]
    while todo:
        current = todo.pop()
        yield current
        if current.owners:
            nested = [g for n in current.nodes() if n in current.owners and is_open(n) for g in n.graphs()]
            todo.extend(reversed(nested))


def same_type(left: Value, right: Value) -> bool:
    """True when both are tensors of one known element type whose dims are equal in every execution."""
    return isinstance(left.type, TensorType) and left.type == right.type and left.dtype is not DType.UNKNOWN


def all_equal(value: Value | None, number: Any) -> bool:
    """True when the value is a constant all of whose elements equal a number; ``-0.0`` equals ``0``."""
    if value is None or value.constant is None or not value.constant.is_readable:
        return False
    constant = value.constant
    if constant.dtype in (DType.STRING, DType.UNKNOWN):
        return False
    array = constant.array().reshape(-1)
    return bool((array[:1] == number).all()) and bool((array == number).all())


def permutation(node: Node) -> tuple[int, ...] | None:
    """Return how a ``Transpose`` orders the axes, ``None`` when it is not known."""
    perm = node.attr("perm")
    if perm is not None:
        return tuple(perm)
    data = node.input(0)
    rank = data.rank if data is not None else None
    return None if rank is None else tuple(reversed(range(rank)))


def unused(node: Node) -> bool:
    """True when nothing reads an output of the node."""
    return not any(o.is_used for o in node.outputs)


def erase_unused(*values: Value | None) -> None:
    """Erase the producers of values, as far as nothing reads any of their outputs."""
    for value in values:
        node = value.node if value is not None else None
        if node is not None and node.graph is not None and unused(node):
            edit.erase(node)


def let_stand_for(node: Node, value: Value) -> None:
    """Replace the first output of a node by an equal value; erase the node when nothing else is read."""
    edit.replace(node.output, value)
    if unused(node):
        edit.erase(node)


def replace_by_constant(value: Value, constant: Constant) -> Value:
    """Replace an output of a node by a constant, under the same name where that becomes free."""
    graph, node, name = value.graph, value.node, value.name
    assert graph is not None
    assert node is not None
    made = edit.add_constant(graph, constant, hint=name)
    edit.replace(value, made)
    if unused(node):
        edit.erase(node)
        if value.name == name:
            edit.rename(made, name)
    return made


def rewrite(
    node: Node, by: str, op: str, inputs: Sequence[Value | None], attributes: dict[str, Attr] | None = None
) -> Node:
    """Replace a node with one output by another operator of the default domain; the names stay."""
    graph, old, name = node.graph, node.output, node.output.name
    assert graph is not None
    made = edit.add_node(
        graph,
        op,
        inputs,
        [old.type],
        attributes,
        version=edit.latest_version(graph.model),
        before=node,
        names=[name],
        loc=edit.merge_locs([node], by),
    )
    made.name = node.name
    made.output.contents = old.contents
    edit.replace(old, made.output)
    edit.erase(node)
    if old.name == name and name != made.output.name:
        edit.rename(made.output, name)
    return made

"""Make nodes and put them in the place of others, as the steps of legalization do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.ir.infer import infer_nodes
from compiler.ir.types import UNKNOWN
from passes.node_forms import rewrite


def ints(graph: Graph, numbers: Sequence[int]) -> Value:
    """Return a new constant of 64-bit integers."""
    return edit.add_constant(graph, Constant.from_array(np.asarray(numbers, np.int64)), hint="sizes")


def added(
    node: Node, by: str, op: str, operands: Sequence[Value | None], attributes: Mapping[str, Attr] | None = None
) -> Value:
    """Add a node of one result before another, in the newest form, and return what it makes."""
    graph = node.graph
    assert graph is not None
    made = edit.add_node(
        graph,
        op,
        operands,
        [UNKNOWN],
        dict(attributes or {}),
        version=edit.latest_version(graph.model),
        before=node,
        names=[f"{node.output.name}/{op}"],
        loc=edit.merge_locs([node], by),
    )
    infer_nodes([made])
    return made.output


def reshaped(node: Node, by: str, value: Value, sizes: Sequence[int]) -> Value:
    """Return a value in another shape of the same number of elements, made before a node."""
    if value.shape == tuple(sizes) or node.graph is None:
        return value
    contents = value.array()
    if contents is not None and value.constant is not None:
        constant = Constant.from_array(contents.reshape(tuple(sizes)), value.constant.dtype)
        return edit.add_constant(node.graph, constant, hint=value.name)
    return added(node, by, "Reshape", [value, ints(node.graph, sizes)])


def retargeted(node: Node, by: str, operands: Sequence[Value | None], attributes: Mapping[str, Attr]) -> Node:
    """Replace a node of one result by one of the same operator with other operands and attributes."""
    return rewrite(node, by, node.op, list(operands), dict(attributes))

"""Infer again after a pass: what it touched, and what follows from that, instead of the whole graph.

A node is visited when an operand's type or contents changed; a pass that touched ten nodes of 100,000 costs ten visits
and their consequences.  Nodes are visited in the order of the graph, so that each is visited once, after all its
operands are known; only what nested graphs hand back is visited again, a few times.
"""

from __future__ import annotations

import heapq

from compiler.ir import edit
from compiler.ir.dims import Dim, is_fresh
from compiler.ir.edit import Journal
from compiler.ir.graph import Model, Node, Value
from compiler.ir.infer import infer_nodes
from compiler.ir.types import TensorType, Type

_VISITS = 3
"""Visits of one node, so that loops of nested graphs come to an end."""


def infer_changes(model: Model, journal: Journal) -> None:
    """Bring types and contents up to date after the changes in a journal."""
    touched = dict.fromkeys([*journal.inserted, *journal.modified, *journal.inputs_before])
    if not any(n.graph is not None for n in touched):
        return
    order = {node: i for i, node in enumerate(model.graph.all_nodes())}
    waiting = {order[n]: n for n in touched if n in order}
    queue = sorted(waiting)
    visits: dict[Node, int] = {}
    while queue:
        node = waiting.pop(heapq.heappop(queue))
        visits[node] = visits.get(node, 0) + 1
        if visits[node] > _VISITS:
            continue
        for affected in _visit(node):
            position = order.get(affected)
            if position is not None and position not in waiting:
                waiting[position] = affected
                heapq.heappush(queue, position)


def _visit(node: Node) -> list[Node]:
    """Infer one node; return the nodes that may know more now."""
    before = [(o.type, o.contents) for o in node.outputs]
    infer_nodes([node])
    affected: list[Node] = []
    for out, (type_, contents) in zip(node.outputs, before, strict=True):
        if _same_type(out.type, type_) and out.contents == contents:
            edit.set_type(out, type_)  # keep the names of made-up symbols: others may share them
            continue
        affected.extend(out.users())
        affected.extend(_owners(out))
    return affected


def _owners(value: Value) -> list[Node]:
    owner = value.graph.owner if value.graph is not None else None
    return [owner] if owner is not None and value.is_output else []


def _same_type(new: Type, old: Type) -> bool:
    """Equal but for the names of made-up symbols."""
    if new == old:
        return True
    if not isinstance(new, TensorType) or not isinstance(old, TensorType):
        return False
    return new.dtype == old.dtype and len(new.shape) == len(old.shape) and all(map(_same_dim, new.shape, old.shape))


def _same_dim(new: Dim, old: Dim) -> bool:
    return new == old or (is_fresh(new) and is_fresh(old))

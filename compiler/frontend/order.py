"""Topological order of a GraphProto's nodes; a cycle is an error that names a node of it."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from compiler.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def in_order(proto: GraphProto, where: str) -> list[NodeProto]:
    """Return the nodes in an order in which every name is defined before it is read.

    Nodes that already stand in order keep it; otherwise the sort is stable.  Raises ``ModelError`` for a cycle.
    """
    nodes = list(proto.node)
    reads = [reads_of(n) for n in nodes]
    makes: dict[str, int] = {}
    for i, n in enumerate(nodes):
        for o in n.output:
            makes.setdefault(o, i)
    makes.pop("", None)
    if all(makes.get(name, -1) < i for i, names in enumerate(reads) for name in names):
        return nodes
    return [nodes[i] for i in _sorted(nodes, reads, makes, where)]


def _sorted(nodes: list[NodeProto], reads: list[list[str]], makes: dict[str, int], where: str) -> list[int]:
    waits = [0] * len(nodes)
    readers: list[list[int]] = [[] for _ in nodes]
    for i, names in enumerate(reads):
        for j in {makes[n] for n in names if n in makes}:
            readers[j].append(i)
            waits[i] += 1
    ready = [i for i, w in enumerate(waits) if not w]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in readers[i]:
            waits[j] -= 1
            if not waits[j]:
                heapq.heappush(ready, j)
    if len(order) < len(nodes):
        stuck = next(i for i, w in enumerate(waits) if w)
        raise ModelError(
            "the graph has a cycle",
            where=f"{where}, node {nodes[stuck].name!r} ({nodes[stuck].op_type}) making {list(nodes[stuck].output)[:2]}",
            hint="export the model again; a cycle cannot run",
        )
    return order


def reads_of(node: NodeProto) -> list[str]:
    """Return the names that a node reads from its own graph's scope, nested graphs' captures included."""
    names = [n for n in node.input if n]
    for a in node.attribute:
        if a.HasField("g"):
            names.extend(_free(a.g))
        for g in a.graphs:
            names.extend(_free(g))
    return names


def _free(graph: GraphProto) -> list[str]:
    bound = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    for n in graph.node:
        bound.update(n.output)
    read = [name for n in graph.node for name in reads_of(n)] + [o.name for o in graph.output]
    return [name for name in dict.fromkeys(read) if name not in bound]

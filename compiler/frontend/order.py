"""Topological order of nodes as they stand in a file; a cycle is an error that names a node of it."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compiler.errors import ModelError
from compiler.frontend.scope import DEEPEST, Place

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def definitions(nodes: Sequence[NodeProto]) -> dict[str, int]:
    """Return the names that nodes define, each with the position of the first node that does."""
    makes: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            makes.setdefault(name, i)
    makes.pop("", None)
    return makes


def in_order(nodes: Sequence[NodeProto], makes: Mapping[str, int], where: str) -> Sequence[NodeProto]:
    """Return the nodes in an order in which every name is defined before it is read.

    ``makes`` is what ``definitions`` says.  Nodes that already stand in order keep it; otherwise the sort is stable.
    Raises ``ModelError`` for a cycle.
    """
    reads = [reads_of(n) for n in nodes]
    if all(makes.get(name, -1) < i for i, names in enumerate(reads) for name in names):
        return nodes
    return [nodes[i] for i in _sorted(nodes, reads, makes, where)]


def _sorted(nodes: Sequence[NodeProto], reads: list[list[str]], makes: Mapping[str, int], where: str) -> list[int]:
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
            where=f"{where}, at or after {Place(nodes[stuck])}",
            hint="export the model again; a cycle cannot run",
        )
    return order


def reads_of(node: NodeProto, depth: int = 0) -> list[str]:
    """Return the names that a node reads from its own graph's scope, nested graphs' captures included."""
    names = [n for n in node.input if n]
    for a in node.attribute:
        if a.HasField("g"):
            names.extend(_free(a.g, depth + 1))
        for g in a.graphs:
            names.extend(_free(g, depth + 1))
    return names


def _free(graph: GraphProto, depth: int) -> list[str]:
    if depth > DEEPEST:
        raise ModelError(f"graphs are nested more than {DEEPEST} levels deep", why="no runtime can read such a model")
    bound = {i.name for i in graph.input}
    bound.update(i.name for i in graph.initializer)
    bound.update(i.values.name for i in graph.sparse_initializer)
    for n in graph.node:
        bound.update(n.output)
    read = [name for n in graph.node for name in reads_of(n, depth)] + [o.name for o in graph.output]
    return [name for name in dict.fromkeys(read) if name not in bound]

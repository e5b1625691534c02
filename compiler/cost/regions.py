"""Choose between two labels for each node of a graph, at the least cost, when neighbours that differ pay for it.

Execution providers are such a choice (``compiler.analysis.islands``), and layouts are: each node has a cost under
either label, and each edge between nodes of different labels costs a conversion.  The best labelling is a minimum cut:
no search, no thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def label_regions(
    costs: Mapping[Key, tuple[float, float]], conversions: Mapping[tuple[Key, Key], float]
) -> dict[Key, int]:
    """Return label 0 or 1 for each key, such that the sum of all costs is least.

    ``costs`` gives what a key costs under label 0 and under label 1, ``math.inf`` where it cannot have the label;
    ``conversions`` what a pair of different labels costs, in either direction.  Among equally good labellings the one
    with the fewest ones is taken.  Raises ``ValueError`` when a cost is negative, or a key can have no label.
    """
    import networkx as nx

    graph = nx.DiGraph()
    source, sink = ("label", 0), ("label", 1)
    for key, (zero, one) in costs.items():
        if min(zero, one) < 0 or (math.isinf(zero) and math.isinf(one)):
            raise ValueError(f"{key!r} costs {zero} or {one}")
        lower = min(zero, one)
        _connect(graph, source, ("key", key), one - lower)
        _connect(graph, ("key", key), sink, zero - lower)
    for (left, right), cost in conversions.items():
        if cost < 0 or left not in costs or right not in costs:
            raise ValueError(f"the conversion between {left!r} and {right!r} costs {cost}")
        _connect(graph, ("key", left), ("key", right), cost)
        _connect(graph, ("key", right), ("key", left), cost)
    if source not in graph or sink not in graph:
        return {key: int(one < zero) for key, (zero, one) in costs.items()}
    residual = nx.algorithms.flow.boykov_kolmogorov(graph, source, sink)
    ones = _reaching(residual, sink)
    return {key: int(("key", key) in ones) for key in costs}


def _connect(graph: object, left: Hashable, right: Hashable, capacity: float) -> None:
    """Add to the capacity of an edge; an infinite one has none, which means no bound."""
    if capacity <= 0:
        return
    edges = graph.adj[left] if left in graph else {}  # type: ignore[attr-defined,operator]
    known = edges[right].get("capacity", math.inf) if right in edges else 0.0
    total = known + capacity
    graph.add_edge(left, right, **({} if math.isinf(total) else {"capacity": total}))  # type: ignore[attr-defined]
    if math.isinf(total):
        graph.adj[left][right].pop("capacity", None)  # type: ignore[attr-defined]


def _reaching(residual: object, sink: Hashable) -> set[Hashable]:
    """Return what can still send flow to the sink: the smallest side of a minimum cut that holds it."""
    before = residual.pred  # type: ignore[attr-defined]
    found, todo = {sink}, [sink]
    while todo:
        node = todo.pop()
        for other, edge in before[node].items():
            if other not in found and edge["flow"] < edge["capacity"] - 1e-9 * max(1.0, abs(edge["capacity"])):
                found.add(other)
                todo.append(other)
    return found

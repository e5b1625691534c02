"""Find nodes that an accelerator runs and that are better left to the CPU: getting there costs more than it gains.

ONNX Runtime gives a provider all that it runs.  Where an operator in the middle is left to the CPU, small islands may
remain whose operands travel there and back.  Each node is given to one of the two, at the least cost of nodes and
transfers together: a minimum cut (``compiler.cost.regions``).  What the provider refuses stays on the CPU, as do the
model's inputs and outputs.

Decision: a value that several nodes read pays for each of them that lies across, which favours few and large regions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from compiler.analysis.placement import Island, WhyNot, name_of
from compiler.cost.regions import label_regions
from compiler.cost.work import Sizes
from compiler.ir.graph import Graph, Node, Value

_HOST = "host"
"""Stands for the caller, who gives the inputs and takes the outputs."""

_PLACES = 3
"""Nodes of an island that are named."""

Place = Node | str
Edges = dict[tuple[Place, Place], float]


@dataclass(frozen=True, slots=True)
class Prices:
    """What nodes and transfers take, in microseconds."""

    here: Callable[[Node], float]
    """A node on the accelerator."""
    there: Callable[[Node], float]
    """A node on the CPU."""
    crossing: float
    """A change from one to the other, whatever is transferred."""
    per_byte: float
    """A transferred byte."""


def find_islands(graph: Graph, why_not: WhyNot, prices: Prices, sizes: Sizes) -> tuple[Island, ...]:
    """Return what the provider runs and should not, connected nodes together, those that lose most first.

    ``why_not`` says why the provider does not run a node, ``""`` when it does.
    """
    costs: dict[Place, tuple[float, float]] = {_HOST: (math.inf, 0.0)}
    for node in graph.nodes():
        costs[node] = (math.inf if why_not(node) else prices.here(node), prices.there(node))
    edges = _edges(graph, prices, sizes)
    labels = label_regions(costs, edges)
    left = [n for n in graph.nodes() if labels[n] and math.isfinite(costs[n][0])]
    found = [_island(nodes, costs, edges, labels) for nodes in _connected(left, edges)]
    return tuple(sorted(found, key=lambda i: (i.cpu_us - i.us, i.where)))


def _edges(graph: Graph, prices: Prices, sizes: Sizes) -> Edges:
    """Return what a difference between two nodes, or a node and the host, costs."""
    found: Edges = {}
    for node in graph.nodes():
        read = dict.fromkeys(v for v in node.inputs if v is not None and v.constant is None)
        for value in read:
            maker: Place | None = value.node if value.node is not None and value.graph is graph else None
            if maker is None and value.is_input:
                maker = _HOST
            if maker is not None and maker is not node:
                _add(found, maker, node, value, prices, sizes)
        for value in node.outputs:
            if value.is_output:
                _add(found, node, _HOST, value, prices, sizes)
    return found


def _add(found: Edges, left: Place, right: Place, value: Value, prices: Prices, sizes: Sizes) -> None:
    cost = prices.crossing + prices.per_byte * sizes.nbytes(value)
    found[left, right] = found.get((left, right), 0.0) + cost


def _connected(nodes: Iterable[Node], edges: Edges) -> Iterator[list[Node]]:
    """Yield nodes in groups that hang together, in order."""
    near: dict[Place, list[Place]] = {node: [] for node in nodes}
    for left, right in edges:
        if left in near and right in near:
            near[left].append(right)
            near[right].append(left)
    waiting = dict.fromkeys(near)
    for start in near:
        if start not in waiting:
            continue
        group, todo = [], [start]
        del waiting[start]
        while todo:
            place = todo.pop()
            group.append(place)
            for other in near[place]:
                if other in waiting:
                    del waiting[other]
                    todo.append(other)
        yield [place for place in group if isinstance(place, Node)]


def _island(
    nodes: list[Node], costs: Mapping[Place, tuple[float, float]], edges: Edges, labels: Mapping[Place, int]
) -> Island:
    """Return a group with what it takes on the provider, transfers included, and what it takes on the CPU."""
    inside = dict.fromkeys(nodes)
    times = [sum(costs[n][label] for n in nodes) for label in (0, 1)]
    for (left, right), cost in edges.items():
        if (left in inside) != (right in inside):
            outer = labels[right if left in inside else left]
            times[1 - outer] += cost
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.qualified] = counts.get(node.qualified, 0) + 1
    operators = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    where = tuple(filter(None, map(name_of, nodes[:_PLACES])))
    return Island(len(nodes), operators, round(times[0], 1), round(times[1], 1), where)

"""Cut a graph into stages, for a picture of where time goes: runs of nodes between which little is handed on.

Nodes are taken in order.  A stage ends where the fewest values are alive among the places near which it has its share
of the time; so layers of a network stay whole when they are near that size, whatever they are called.

Considered and rejected: stages by the names of nodes.  Exporters name nodes in a dozen ways, or not at all; names are
used for what stages are called, where the nodes of one have a beginning in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from compiler.ir.graph import Graph, Node
from compiler.operators import OperatorType, operator_type

STAGES = 20
"""Stages to aim at."""

_OPERATORS = 3
"""Operators that a stage lists."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of nodes."""

    name: str
    """What the names of its nodes begin with, ``""`` when that is nothing."""
    nodes: int
    """Number of nodes, those of nested graphs left out."""
    us: float
    """Microseconds of all of them."""
    types: Mapping[OperatorType, float]
    """Microseconds by type, the longest first."""
    operators: Mapping[str, int]
    """The operators that take the most time, and how many there are of each."""
    gives: str
    """The type of what the last node makes."""


@dataclass(slots=True)
class _Run:
    nodes: list[Node] = field(default_factory=list)
    us: float = 0.0


def stages(graph: Graph, cost: Callable[[Node], float], *, wanted: int = STAGES) -> tuple[Stage, ...]:
    """Return the stages of a graph in order, about as many as are wanted; ``cost`` gives microseconds."""
    nodes = list(graph.nodes())
    costs = [cost(node) for node in nodes]
    share = sum(costs) / max(wanted, 1)
    alive = _alive(nodes)
    found: list[Stage] = []
    start = 0
    while start < len(nodes):
        end = _end(costs, alive, start, share)
        found.append(_stage(nodes[start:end], costs[start:end]))
        start = end
    return tuple(found)


def _alive(nodes: Sequence[Node]) -> list[int]:
    """Return how many computed values are alive after each node."""
    place = {node: i for i, node in enumerate(nodes)}
    changes = [0] * (len(nodes) + 1)
    for i, node in enumerate(nodes):
        for value in node.outputs:
            last = max((place.get(user, i) for user in value.users()), default=i)
            changes[i] += 1
            changes[last] -= 1
    alive, found = 0, []
    for change in changes[:-1]:
        alive += change
        found.append(alive)
    return found


def _end(costs: Sequence[float], alive: Sequence[int], start: int, share: float) -> int:
    """Return where the stage that begins at ``start`` ends: between a half and one and a half of its share."""
    spent, best, least = 0.0, None, 0
    for i in range(start, len(costs)):
        spent += costs[i]
        if spent > 1.5 * share and best is not None:
            return best
        if spent >= 0.5 * share and (best is None or alive[i] < least):
            best, least = i + 1, alive[i]
    return len(costs)


def _stage(nodes: Sequence[Node], costs: Sequence[float]) -> Stage:
    types: dict[OperatorType, float] = {}
    operators: dict[str, list[float]] = {}
    for node, us in zip(nodes, costs, strict=True):
        kind = operator_type(node.op, node.domain)
        types[kind] = types.get(kind, 0.0) + us
        row = operators.setdefault(node.op, [0, 0.0])
        row[0] += 1
        row[1] += us
    longest = sorted(operators.items(), key=lambda item: (-item[1][1], item[0]))
    made = next((v for v in reversed(nodes[-1].outputs) if not v.absent), None)
    return Stage(
        name=_common([node.name or next(iter(node.loc.names), "") for node in nodes]),
        nodes=len(nodes),
        us=sum(costs),
        types=dict(sorted(types.items(), key=lambda item: (-item[1], item[0]))),
        operators={op: int(count) for op, (count, _) in longest[:_OPERATORS]},
        gives="" if made is None else str(made.type),
    )


def _common(names: Sequence[str]) -> str:
    """Return the whole parts that names begin with; nodes without a name say nothing."""
    parts = [name.strip("/").replace("/", ".").split(".")[:-1] for name in names if name]
    if not parts:
        return ""
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared)

"""Say which node goes to which execution provider of a target, in how many partitions, and what breaks them.

ONNX Runtime asks the providers in their order; each takes the nodes that it runs, and the CPU provider takes the rest.
The answer here is by what is known of providers (kernels, demands), so it is there before anything is installed.
Partitions are counted as the runtime makes them: a group of nodes grows until nothing is left that does not wait for a
node of another provider that reads of the group; each costs copies, and for providers that compile, a graph of its own.
Nodes of nested graphs count where they go, and make no partitions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compiler.ir.graph import Graph, Model, Node

WhyNot = Callable[[Node], str]
"""Says why a provider does not run a node, ``""`` when it does."""

CPU = "CPUExecutionProvider"

_PLACES = 3
"""Nodes that are named for each operator that breaks a partition."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one provider takes."""

    provider: str
    """The provider."""
    nodes: int
    """Nodes, those of nested graphs included."""
    partitions: int
    """Groups of nodes that run there without a change of provider."""
    operators: dict[str, int]
    """Nodes by operator, the most frequent first."""


@dataclass(frozen=True, slots=True)
class Break:
    """An operator that the first provider leaves to another."""

    op: str
    """The operator."""
    nodes: int
    """How many nodes."""
    provider: str
    """Who takes it instead."""
    why: str
    """Why the first provider does not take the first of them."""
    where: tuple[str, ...]
    """Names of some of the nodes."""


@dataclass(frozen=True, slots=True)
class Island:
    """Connected nodes that the first provider runs, and that are better left to the CPU; see ``islands``."""

    nodes: int
    """How many nodes."""
    operators: dict[str, int]
    """Nodes by operator, the most frequent first."""
    us: float
    """Predicted microseconds on the provider, transfers included."""
    cpu_us: float
    """Predicted microseconds on the CPU, transfers included."""
    where: tuple[str, ...] = ()
    """Names of some of the nodes."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the nodes of a model go on a target; ``str()`` is a few lines of text."""

    target: str
    """The target's name."""
    shares: tuple[Share, ...]
    """What each provider takes, in the target's order; those without nodes are left out."""
    breaks: tuple[Break, ...] = ()
    """What the first provider leaves to others, the most frequent first."""
    unknown: tuple[str, ...] = ()
    """Providers of which nothing is known, so that they are taken to run nothing."""
    islands: tuple[Island, ...] = ()
    """What would be faster on the CPU, though the first provider runs it; what gains most is first."""

    @property
    def whole(self) -> bool:
        """Whether the first provider takes everything in one piece."""
        return not self.breaks and all(s.partitions <= 1 for s in self.shares)

    def to_json(self) -> dict[str, Any]:
        """Return the placement as a JSON object."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [f"{s.provider}: {s.nodes} nodes in {s.partitions} partitions" for s in self.shares]
        for b in self.breaks:
            names = f" ({', '.join(b.where)})" if b.where else ""
            lines.append(f"{b.nodes} x {b.op} -> {b.provider}: {b.why}{names}")
        lines += [
            f"{i.nodes} nodes would be faster on the CPU: {i.us:.0f} -> {i.cpu_us:.0f} us ({', '.join(i.where)})"
            for i in self.islands
        ]
        lines += [f"{name}: it is not known what it runs" for name in self.unknown]
        return "\n".join(lines)


def place(model: Model, target: str, providers: Sequence[tuple[str, WhyNot | None]]) -> Placement:
    """Place the nodes of a model on the providers of a target, given in their order.

    With each provider comes what says why it does not run a node (``""`` when it does), or ``None`` when nothing is
    known of it, and it is taken to run nothing.  The CPU provider runs what is left, and need not be asked.
    """
    unknown = tuple(name for name, why_not in providers if why_not is None and name != CPU)
    asked = [(name, why_not) for name, why_not in providers if why_not is not None and name != CPU]
    chosen: dict[Node, str] = {}
    reasons: dict[Node, str] = {}
    for node in model.graph.all_nodes():
        for name, why_not in asked:
            reason = why_not(node)
            if not reason:
                chosen[node] = name
                break
            reasons.setdefault(node, reason)
        else:
            chosen[node] = CPU
    order = [*(name for name, _ in asked), CPU]
    found = (_share(name, chosen, _partitions(name, model.graph, chosen)) for name in order)
    shares = tuple(share for share in found if share.nodes)
    return Placement(target, shares, _breaks(order[0], chosen, reasons), unknown)


def _share(provider: str, chosen: dict[Node, str], partitions: int) -> Share:
    counts: dict[str, int] = {}
    for node, name in chosen.items():
        if name == provider:
            counts[node.qualified] = counts.get(node.qualified, 0) + 1
    operators = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return Share(provider, sum(counts.values()), partitions, operators)


def _partitions(provider: str, graph: Graph, chosen: dict[Node, str]) -> int:
    """Count the groups that a provider's nodes make: one ends where another's node reads of it."""
    group: dict[Node, int] = {}
    for node in graph.nodes():
        taken = chosen[node] == provider
        reads = [(group[p], chosen[p] == provider and not taken) for p in _producers(node, graph)]
        group[node] = max((number + ends for number, ends in reads), default=0)
    return len({number for node, number in group.items() if chosen[node] == provider})


def _producers(node: Node, graph: Graph) -> dict[Node, None]:
    """Return the nodes of a graph that make what a node reads, also in graphs that are nested in it."""
    found: dict[Node, None] = {}
    todo = [node]
    while todo:
        reader = todo.pop()
        for value in reader.inputs:
            if value is not None and value.node is not None and value.graph is graph:
                found[value.node] = None
        for nested in reader.graphs():
            todo += nested.nodes()
            for value in nested.outputs:
                if value.node is not None and value.graph is graph:
                    found[value.node] = None
    found.pop(node, None)
    return found


def _breaks(first: str, chosen: dict[Node, str], reasons: dict[Node, str]) -> tuple[Break, ...]:
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in reasons:
        if chosen[node] != first:
            groups.setdefault((node.qualified, chosen[node]), []).append(node)
    found = [
        Break(op, len(nodes), provider, reasons[nodes[0]], tuple(filter(None, map(name_of, nodes[:_PLACES]))))
        for (op, provider), nodes in groups.items()
    ]
    return tuple(sorted(found, key=lambda b: (-b.nodes, b.op)))


def name_of(node: Node) -> str:
    """Return a node's name, or what it stems from, or the name of a result."""
    return node.name or next(iter(node.loc.names), "") or next((o.name for o in node.outputs if not o.absent), "")

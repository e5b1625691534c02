"""The cost model: microseconds of nodes on a target, from the best source that knows them.

Sources, best first: **measured**, this very fragment timed on this machine (``database``); **calibrated**, from what
kernels of the same kind took here, or on the typical machine that comes with ampc; **analytic**, from the target's peak
rates.  The order of costs is what may be relied upon, their value roughly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.cost.as_run import AsRun, End
from compiler.cost.kinds import Kind, kind_of
from compiler.cost.roofline import roofline
from compiler.cost.work import Sizes
from compiler.ir.graph import Model, Node

if TYPE_CHECKING:
    from compiler.cost.calibration import Calibration
    from compiler.cost.database import Database
    from targets import Target

SOURCES = ("measured", "calibrated", "analytic")
"""Where a cost may come from, the best first."""

_LEAST = 0.2
"""Share of what the profiler says of a kernel that the kernel takes at least; the rest may be the profiler's own."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What nodes take."""

    us: float
    """Microseconds."""
    source: str
    """The worst source that any part of it comes from: one of ``SOURCES``."""
    detail: str = ""
    """What it comes from: the kind, or the fragment."""

    def __add__(self, other: Cost) -> Cost:
        """Return what both take one after the other."""
        if not self.us and not self.detail:
            return other
        if not other.us and not other.detail:
            return self
        worst = max(self.source, other.source, key=SOURCES.index)
        return Cost(self.us + other.us, worst, " + ".join(d for d in (self.detail, other.detail) if d))


NOTHING = Cost(0.0, "measured")
"""The cost of no nodes."""


class CostModel:
    """Tells what nodes cost on a target, under a binding of dims."""

    def __init__(
        self,
        target: Target,
        binding: Mapping[str, int],
        *,
        calibration: Calibration | None = None,
        database: Database | None = None,
        threads: int = 1,
        weights: float = 0.0,
    ) -> None:
        """Take what is known; without a calibration and a database everything is analytic.

        ``weights`` is the size of all constants of the model in bytes: where no cache holds them all, each run reads
        them from memory.
        """
        self.target = target
        self.sizes = Sizes(binding)
        self.as_run = AsRun.on(target)
        self.calibration = calibration
        self.database = database
        self.threads = threads
        cache = target.machine.caches.l3 or target.machine.caches.l2
        self.streams = cache is not None and weights > cache.value
        self._known: dict[Kind, Cost] = {}

    def kind(self, node: Node) -> Kind:
        """Return the kind of a node."""
        return kind_of(node, self.sizes)

    def cost(self, nodes: Node | Iterable[Node]) -> Cost:
        """Return what a node takes, or several one after the other, each as it is written."""
        if isinstance(nodes, Node):
            return self._one(nodes)
        given = list(nodes)
        if self.database is not None and len(given) > 1:
            found = self.database.find(given, self.sizes)
            if found is not None:
                return Cost(found.us, "measured", found.key[:12])
        total = NOTHING
        for node in given:
            total = total + self._one(node)
        return total

    def cost_as_run(self, nodes: Sequence[Node], ends: Sequence[End] = (), *, replaced: Sequence[Node] = ()) -> Cost:
        """Return what nodes take after the runtime's own optimizations, conversions of layout at their ends included.

        ``ends`` are their results with those who read them, ``replaced`` the nodes whose place they take.
        """
        if self.database is not None:
            found = self.database.find(nodes, self.sizes)
            if found is not None:
                return Cost(found.us, "measured", found.key[:12])
        total = NOTHING
        for node in nodes:
            if not self.as_run.is_free(node):
                total = total + self.of_kind(self.as_run.kind(node, self.kind(node)))
        for op, value in self.as_run.reorders(nodes, ends, replaced):
            elements = float(self.sizes.elements(value))
            total = total + self.of_kind(Kind(f"{op}:f32", elements, (math.log2(max(elements, 1)),), 0, 8 * elements))
        return total

    def _one(self, node: Node) -> Cost:
        if self.database is not None:
            found = self.database.find([node], self.sizes)
            if found is not None:
                return Cost(found.us, "measured", found.key[:12])
        return self.of_kind(self.kind(node))

    def of_kind(self, kind: Kind) -> Cost:
        """Return what a node of a kind takes."""
        found = self._known.get(kind)
        if found is None:
            found = self._known[kind] = self._of_kind(kind)
        return found

    def _of_kind(self, kind: Kind) -> Cost:
        if self.calibration is not None:
            us = self.calibration.us(kind)
            if us is not None:
                if self.streams and self.calibration.stream:
                    us = max(us, kind.weights / self.calibration.stream)
                return Cost(max(us + self.calibration.launch_us, _LEAST * us), "calibrated", kind.key)
        return Cost(roofline(kind, self.target, self.threads), "analytic", kind.key)


def constant_bytes(model: Model) -> float:
    """Return the bytes of all constants of a model."""
    return float(
        sum(v.constant.nbytes for g in model.graph.all_graphs() for v in g.constants if v.constant is not None)
    )

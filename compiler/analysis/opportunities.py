"""What could be gained in a model: time by type of operator, the rewrites that would shorten it, what keeps others off.

Times are predictions of the cost model for the graph as it is written, and as the pipeline would leave it.  Where the
provider is ONNX Runtime's own, what it fuses when it loads a model is reckoned with in both, as far as that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from compiler.analysis.stages import Stage, stages
from compiler.ir.graph import Model, Node
from compiler.operators import OperatorType, operator_type

FUSED = "fused"
"""The source of the time of a node that the runtime fuses into a neighbour: it takes none."""


@dataclass(frozen=True, slots=True)
class FamilyTime:
    """The time of all nodes of one type."""

    type: OperatorType
    """The type."""
    nodes: int
    """Number of nodes, nested graphs included."""
    us: float
    """Microseconds of all of them."""


@dataclass(frozen=True, slots=True)
class Rewriting:
    """One rewrite, as often as it would be done for operators of one type."""

    name: str
    """The rule, or the pass when it has no rules."""
    type: OperatorType
    """What it is done for: the weightiest operator that it makes, or that it removes when it makes none."""
    stage: str
    """The rule's stage; of a pass ``pass``."""
    count: int
    """Places; of a pass the nodes that it removes."""
    gain_us: float
    """Microseconds less; negative when it only prepares others."""
    summary: str = ""
    """What it does, in a sentence."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a rule's form, and how far a place agrees with it."""

    text: str
    """The statement as the rule writes it."""
    state: str
    """``matched``, ``failed``, ``alike`` (the right operator), ``open`` (not reached) or ``left out``."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A rewrite that nearly applies, and what is in its way."""

    rule: str
    """The rule."""
    type: OperatorType
    """What it would be done for."""
    stage: str
    """The rule's stage."""
    kind: str
    """What it fails for: ``cost``, ``legality``, ``guard``, ``users``, ``type``, ``structure`` or ``result``."""
    reason: str
    """Why, with the value at fault."""
    matched: int
    """Statements of the form that are there."""
    statements: int
    """Statements of the form."""
    count: int
    """Places that are alike."""
    places: tuple[str, ...]
    """The first of them."""
    us: float
    """Microseconds of the nodes that take part, in all places: more cannot be gained."""
    form: tuple[Statement, ...] = ()
    """The form, statement by statement."""


@dataclass(frozen=True, slots=True)
class Opportunities:
    """What a pipeline would do to a model on a target, and what it would gain, as far as that can be predicted."""

    us: float
    """Microseconds of a run of the graph as it is written."""
    us_after: float
    """Microseconds of a run of the graph as the pipeline would leave it."""
    nodes: int
    """Nodes of the one."""
    nodes_after: int
    """Nodes of the other."""
    families: tuple[FamilyTime, ...]
    """Time by type as it is written, the longest first."""
    families_after: tuple[FamilyTime, ...]
    """Time by type as the pipeline would leave it, the longest first."""
    rewrites: tuple[Rewriting, ...]
    """What would be done, what gains the most first."""
    blocked: tuple[Blocked, ...]
    """What nearly applies, the nearest of each rule, where the most time is first."""
    stages: tuple[Stage, ...] = ()
    """The graph as it is written, in runs of nodes."""
    stages_after: tuple[Stage, ...] = ()
    """The graph as the pipeline would leave it, in runs of nodes."""
    sources: Mapping[str, int] = field(default_factory=dict)
    """Where predicted times come from (``measured``, ``calibrated``, ``analytic``, ``fused``) → nodes."""
    threads: int = 1
    """Threads that the prediction is for; 0 where it is for a device."""
    device: str = ""
    """The execution provider of the device that the prediction is for, empty where it is for a processor's threads."""
    as_run: bool = False
    """Whether the runtime's own fusions are reckoned with, as far as they are known."""

    @property
    def ratio(self) -> float:
        """How many times as fast the graph would be."""
        return self.us / self.us_after if self.us_after else 1.0

    def counts(self) -> dict[OperatorType, int]:
        """Return the number of places where something would be done, by type; every type that occurs is there.

        Normal forms, which only prepare others, do not count.
        """
        found = {f.type: 0 for f in self.families}
        for r in self.rewrites:
            found[r.type] = found.get(r.type, 0) + (r.count if r.stage != "canonical" else 0)
        return {kind: found[kind] for kind in OperatorType if kind in found}

    def gains(self) -> dict[OperatorType, float]:
        """Return the microseconds to gain by type."""
        found: dict[OperatorType, float] = {}
        for r in self.rewrites:
            found[r.type] = found.get(r.type, 0.0) + r.gain_us
        return found


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The time of a model at one moment."""

    families: tuple[FamilyTime, ...]
    """By type, the longest first."""
    stages: tuple[Stage, ...]
    """By runs of nodes."""

    @property
    def us(self) -> float:
        """Microseconds of all nodes; those of nested graphs count once."""
        return sum(f.us for f in self.families)

    @property
    def nodes(self) -> int:
        """Number of nodes, nested graphs included."""
        return sum(f.nodes for f in self.families)


def snapshot(model: Model, cost: Callable[[Node], float]) -> Snapshot:
    """Add up the time of a model; ``cost`` gives a node's microseconds."""
    found: dict[OperatorType, list[float]] = {}
    for node in model.graph.all_nodes():
        row = found.setdefault(operator_type(node.op, node.domain), [0, 0.0])
        row[0] += 1
        row[1] += cost(node)
    families = [FamilyTime(kind, int(nodes), us) for kind, (nodes, us) in found.items()]
    return Snapshot(_longest_first(families), stages(model.graph, cost))


def _longest_first(families: Iterable[FamilyTime]) -> tuple[FamilyTime, ...]:
    return tuple(sorted(families, key=lambda f: (-f.us, f.type)))

"""Check every change of every pass on the user's own model, after the pipeline has run.

``RegionLog`` is an observer of the pass manager: right after a pass it copies what the pass changed, before
and after, split into rewrite instances (``regions_split``), since later passes change the same nodes.
``check`` runs both sides on activations that are recorded from one run of the original, all instances of a
pass in one model.

Decisions:

* A value that a pass put in place of another one is *that* value: its activation is taken from the original.
  So an error in one pass neither hides nor causes one in a later pass.  Values that have no counterpart in
  the original are computed by the rewritten part that makes them.
* Equal instances (same operators, types, attributes and small constants) are checked three times and no more:
  the twelve layers of a transformer are rewritten in the same way.
* What cannot be evaluated here is counted with the reason; the comparison of the whole models covers it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from compiler.backend.fragment import NOW, Copier
from compiler.frontend.load import Source
from compiler.ir.edit import Journal
from compiler.ir.graph import Model, Node, Value
from compiler.ir.schema import is_random
from compiler.verify.probes import ProbePlan
from compiler.verify.regions_key import key_of, small_constants
from compiler.verify.regions_split import Change, Part

if TYPE_CHECKING:
    from compiler.verify.compare import Tolerance
    from compiler.verify.probes import Probe
    from compiler.verify.reference import Reference
    from compiler.verify.regions_check import RegionFailure
    from compiler.verify.worker import Worker

REPEATS = 3
"""Times that equal rewrites are checked."""


class Named(Protocol):
    """What is needed of the record of a pass."""

    name: str
    """Name of the pass."""

    @property
    def fired(self) -> Sequence[str]:
        """Rules that rewrote something."""
        ...


class Rewritten(Protocol):
    """What is needed of a rewrite by a rule: ``compiler.rewrite.engine.Rewrite``."""

    @property
    def rule(self) -> str:
        """Name of the rule."""
        ...

    @property
    def match(self) -> Any:
        """What matched."""
        ...

    @property
    def made(self) -> Any:
        """What replaces it."""
        ...


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the activation of a value comes from: the original, by name, or the rewritten side of a region."""

    name: str = ""
    region: Region | None = None
    value: Value | None = None


@dataclass(slots=True, eq=False)
class Region:
    """One rewrite instance, copied: nodes before and after, and the values that must be equal."""

    pass_name: str
    stage: int
    """Which run of a pass made it, counted from 1."""
    nodes: tuple[str, ...]
    """What was rewritten, for people: names of nodes of the original."""
    before: list[Node]
    after: list[Node]
    pairs: list[tuple[Value, Value]]
    inputs: dict[Value, Origin]
    """What both sides read that neither makes."""
    rules: list[tuple[str, ...]] = field(default_factory=list)
    """For each pair the rules that put one value in the place of the other, newest first."""
    fired: frozenset[str] = frozenset()
    """Rules that rewrote something in this run of the pass, here or elsewhere."""
    rtol: float = 0.0
    """Relative difference that its rules say they cause."""
    reason: str = ""
    """Why it cannot be checked, if so."""


@dataclass(slots=True)
class RegionLog:
    """What the passes changed on one model, from the moment of construction on: an observer of the pass manager."""

    model: Model
    plan: ProbePlan = field(init=False)
    """What probes need to know of the original."""
    recording: Any = field(init=False)
    """The model in which the original's values have their names: the source, or a snapshot."""
    regions: list[Region] = field(default_factory=list)
    """What is to be checked, in order of the passes."""
    unchecked: Counter[str] = field(default_factory=Counter)
    """Reasons why rewrites are not checked, and how many."""
    repeated: int = 0
    """Rewrites left out since equal ones are checked."""
    stages: int = 0
    """Runs of passes that changed something."""
    _names: dict[Value, str] = field(default_factory=dict)
    _known: dict[Node, None] = field(default_factory=dict)
    _same_as: dict[Value, Value] = field(default_factory=dict)
    _maker: dict[Value, tuple[Region, Value]] = field(default_factory=dict)
    _copies: dict[Value, Value] = field(default_factory=dict)
    _taken: dict[str, int] = field(default_factory=dict)
    _seen: Counter[str] = field(default_factory=Counter)
    _rewritten: dict[Value, tuple[str, Value]] = field(default_factory=dict)
    _rtol: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Remember the names that values have in the original."""
        graph = self.model.graph
        self.plan = ProbePlan(self.model)
        self._known = dict.fromkeys(graph.nodes())
        values = [*graph.inputs, *(o for n in self._known for o in n.outputs if o.name)]
        self._names = {v: v.name for v in values}
        self.recording = self._snapshot()

    def _snapshot(self) -> Any:
        """Return the source when it has every value under its name, else the model as it is now."""
        source = self.model.extra
        if isinstance(source, Source) and not source.proto.functions:
            return source
        from compiler.backend.emit import emit, payload_table
        from compiler.verify.reference import Original

        table = payload_table(self.model)
        path = source.path if isinstance(source, Source) else None
        return Original(emit(self.model, table), table, path.absolute().parent if path is not None else None, path)

    # Observing ------------------------------------------------------------------------------------

    def before(self, model: Model, name: str) -> None:
        """Forget the rewrites of the pass before; what the graph was before, the journal knows."""
        self._rewritten.clear()

    def rewrote(self, rewrite: Rewritten) -> None:
        """Remember which rule replaces which values."""
        self._rtol[rewrite.rule] = rewrite.match.rule.rtol
        for name in sorted(rewrite.match.rule.outputs):
            old, new = rewrite.match.get(name), rewrite.made.values.get(name)
            if old is not None and new is not None and old is not new:
                self._rewritten[old] = (rewrite.rule, new)

    def _rules(self, value: Value) -> tuple[str, ...]:
        """Return the rules that replaced a value, and what they replaced it by, newest first."""
        found: list[str] = []
        at, seen = value, {value}
        while at in self._rewritten:
            rule, at = self._rewritten[at]
            found.append(rule)
            if at in seen:
                break
            seen.add(at)
        return tuple(reversed(found))

    def after(self, model: Model, record: Named, journal: Journal) -> None:
        """Copy what a pass changed."""
        self.capture(model, journal, record.name, fired=record.fired)

    def capture(self, model: Model, journal: Journal, pass_name: str, *, fired: Iterable[str] = ()) -> None:
        """Copy what the journal of a committed pass changed; must be called before the next pass runs.

        ``fired`` are the rules that the pass applied, so that one of them can be blamed instead of the pass.
        """
        self.stages += 1
        try:
            change = Change(model, journal, self._known)
            parts = change.parts()
        except ValueError as error:  # a cycle: the graph before cannot be rebuilt from what is left of it
            self.unchecked[f"{pass_name}: the graph before the pass cannot be rebuilt ({error})"] += 1
            self._known = dict.fromkeys(model.graph.nodes())
            return
        for part in parts:
            self._add(part, change, pass_name, frozenset(fired))
        for node in change.old:
            self._known.pop(node, None)
        self._known.update(change.new)

    def _add(self, part: Part, change: Change, pass_name: str, fired: frozenset[str]) -> None:
        before, after = Copier(change.before, self._copies, self._fresh), Copier(NOW, self._copies, self._fresh)
        region = Region(
            pass_name,
            self.stages,
            tuple(dict.fromkeys(name for n in part.before for name in n.loc.names[:4] or (n.op,)))[:16],
            [before.node(n) for n in part.before],
            [after.node(n) for n in part.after],
            [(before.value(a), after.value(b)) for a, b in part.pairs],
            {},
            [self._rules(a) for a, _ in part.pairs],
            fired,
        )
        region.rtol = self._difference(region)
        read = [v for n in part.before for v in change.before.operands(n)] + [a for a, _ in part.pairs]
        made = {o for n in part.before for o in n.outputs}
        self._read(region, (v for v in read if v not in made))
        read = [v for n in part.after for v in NOW.operands(n)] + [b for _, b in part.pairs]
        made = {o for n in part.after for o in n.outputs}
        self._read(region, (v for v in read if v not in made))
        self._identify(part, region)
        self._keep(region)

    def _difference(self, region: Region) -> float:
        """Return the largest relative difference that a rule admits which worked on a region."""
        made = {name for n in region.after for name in n.loc.by if name in region.fired}
        return max((self._rtol.get(name, 0.0) for name in made.union(*region.rules)), default=0.0)

    def check(
        self,
        reference: Reference,
        probes: Sequence[Probe],
        worker: Worker,
        *,
        tolerance: Tolerance | None = None,
        max_ir: int = 10,
    ) -> list[RegionFailure]:
        """Check what was captured and return the failures; ``regions_check.check_regions`` tells more."""
        from compiler.verify.regions_check import check_regions

        return check_regions(self, reference, probes, worker, tolerance=tolerance, max_ir=max_ir).failures

    def _fresh(self, name: str) -> str:
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        return name if not count else f"{name}~{count}"

    def _read(self, region: Region, values: Iterable[Value]) -> None:
        for v in values:
            copy = self._copies.get(v)
            if copy is None:
                copy = self._copies[v] = Value(self._fresh(v.name), v.type)
                copy.constant = v.constant
            copy.type = v.type
            if copy.constant is None and copy not in region.inputs:
                region.inputs[copy] = self._origin(v)

    def _origin(self, value: Value) -> Origin:
        root = self._same_as.get(value, value)
        if root in self._maker:
            region, copy = self._maker[root]
            return Origin(region=region, value=copy)
        return Origin(name=self._names.get(root, ""))

    def _identify(self, part: Part, region: Region) -> None:
        """Note where the values that the rewritten side makes come from for the passes to come."""
        claimed = {b: a for a, b in part.pairs}
        for node in part.after:
            for o in node.outputs:
                if o.absent or claimed.get(o) is o:
                    continue
                self._same_as.pop(o, None)
                self._maker.pop(o, None)
                old = claimed.get(o)
                if old is not None and old.constant is None:
                    self._same_as[o] = self._same_as.get(old, old)
                else:
                    self._maker[o] = (region, self._copies[o])

    def _keep(self, region: Region) -> None:
        region.reason = self._reason(region)
        if region.reason:
            self.unchecked[f"{region.pass_name}: {region.reason}"] += 1
            return
        key = key_of(region.pass_name, region.before, region.after, region.pairs)
        self._seen[key] += 1
        if self._seen[key] <= REPEATS:
            self.regions.append(region)
        else:
            self.repeated += 1

    def _reason(self, region: Region) -> str:
        nodes = [*region.before, *region.after]
        nested = [m for n in nodes for g in n.graphs() for m in g.all_nodes()]
        for n in (*nodes, *nested):
            if is_random(n):
                return f"{n.op} draws random numbers"
        if any(not o.name and not o.region for o in region.inputs.values()):
            return "it reads a value that the original does not have"
        if not region.inputs and not small_constants(nodes, region.pairs):
            return "it folds large constants, which the runtime itself computed"
        return ""

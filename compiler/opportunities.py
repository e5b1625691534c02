"""Run the pipeline on a model in memory, and add up what it would gain: the composition behind ``ampc analyze``.

A ledger sees each rewrite and each pass.  It prices the nodes that go and those that come, and their neighbours anew,
since the runtime may fuse them now or no longer.  So the entries add up to the difference between the graph before and
after, but for layouts that change farther away.  Nothing is written and nothing is verified: what is found is what
could be done, not what was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compiler import manager
from compiler.analysis.opportunities import FUSED, Blocked, Opportunities, Rewriting, Statement, snapshot
from compiler.analysis.work import default_binding
from compiler.cost.model import Cost, CostModel
from compiler.costing import cost_model, fragments, threads_of
from compiler.explaining import ExplainOptions, Questions
from compiler.ir.edit import Journal
from compiler.ir.graph import Model, Node
from compiler.manager import PassRecord
from compiler.operators import OperatorType, operator_type, type_of_qualified, weightiest
from compiler.planning import plan, rule_context
from compiler.rewrite.explain import NearMiss
from compiler.rewrite.pattern import operators

if TYPE_CHECKING:
    from compiler.rewrite.engine import Rewrite
    from targets import Target

_ASKED = ("raise", "optimize", "lower")
"""Stages whose near misses are told; normal forms and expansions are means to these."""

_KNOWN = "CPUExecutionProvider"
"""The provider whose fusions when it loads a model are known to the cost model."""

_PLACES = 3
"""Places of a near miss that are named."""

_BLOCKED = 40
"""Near misses that are kept."""

_MINOR = frozenset({OperatorType.SHAPE, OperatorType.CONVERSION, OperatorType.CONSTANT})
"""Types that a rewrite is done for only when it touches no other."""


class Prices:
    """What nodes take on a target, from the best source that there is."""

    def __init__(self, target: Target, model: Model, binding: Mapping[str, int]) -> None:
        """Take the cost model that compilations choose by, or where there is none the target's peak rates."""
        self.threads = threads_of(target)
        first = target.runtime.providers[0][0]
        by_core = first == _KNOWN or any(rate.per_core for rate in target.machine.flops.values())
        self.device = "" if by_core else first
        """The first provider, where it computes on a device: its rates are the whole device's, and not a core's."""
        found = cost_model(target, model, binding=binding, database=fragments(target))
        self.chosen = found
        """What lowering chooses by; ``None`` where it goes by the table of gains alone."""
        self.costs = found or CostModel(target, default_binding(model, binding), threads=self.threads)
        self.as_run = first == _KNOWN
        """Whether the runtime's own fusions are reckoned with."""

    def cost(self, node: Node) -> Cost:
        """Return what a node takes where it stands."""
        if not self.as_run:
            return self.written(node)
        if self.costs.as_run.is_free(node):
            return Cost(0.0, FUSED)
        return self.costs.cost_as_run([node])

    def written(self, node: Node) -> Cost:
        """Return what a node takes as it is written, wherever it stands."""
        return self.costs.cost(node)


def find_opportunities(
    model: Model,
    target: Target,
    *,
    binding: Mapping[str, int],
    select: str = "cost",
    progress: Callable[[str], None] | None = None,
) -> Opportunities:
    """Return what the target's pipeline would do to a model that was prepared, and what that gains.

    The model is rewritten in place: it is the caller's copy.  ``binding`` gives dims their sizes, ``select`` says how
    forms are chosen; ``progress`` is called with the name of each pass.
    """
    prices = Prices(target, model, binding)
    ledger = Ledger(prices)
    before = snapshot(model, ledger.us)
    sources = ledger.sources(model)
    context = rule_context(target, model, select=select, listeners=[ledger.rewrote], cost=prices.chosen)
    asked = [cls for cls in manager.known_rules().values() if cls.stage in _ASKED]
    questions = Questions(
        model, context, plan(None, target=target), asked, ExplainOptions(), observers=[ledger], progress=progress
    )
    questions.run(to_the_end=True)
    after = snapshot(model, ledger.us)
    return Opportunities(
        us=before.us,
        us_after=after.us,
        nodes=before.nodes,
        nodes_after=after.nodes,
        families=before.families,
        families_after=after.families,
        rewrites=ledger.rewritings(),
        blocked=_blocked(questions, ledger),
        stages=before.stages,
        stages_after=after.stages,
        sources=sources,
        threads=0 if prices.device else prices.threads,
        device=prices.device,
        as_run=prices.as_run,
    )


# The ledger --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Done:
    """One rewrite by a rule that the running pass did."""

    rule: str
    stage: str
    gone: list[Node]
    made: list[Node]


@dataclass(slots=True)
class _Entry:
    count: int = 0
    gain_us: float = 0.0


@dataclass(slots=True)
class Ledger:
    """Prices what rewrites and passes remove and add: an observer of the pass manager, and a listener of rewrites."""

    prices: Prices
    """What tells the time of nodes."""
    entries: dict[tuple[str, str, OperatorType], _Entry] = field(default_factory=dict)
    """Rule or pass, its stage, what it was done for → what it gained."""
    _known: dict[Node, Cost] = field(default_factory=dict)
    _running: list[_Done] = field(default_factory=list)

    def us(self, node: Node) -> float:
        """Return the microseconds of a node; those of one that is gone are those it had."""
        return self._cost(node).us

    def _cost(self, node: Node) -> Cost:
        found = self._known.get(node)
        if found is None:
            found = self._known[node] = self.prices.cost(node)
        return found

    def sources(self, model: Model) -> dict[str, int]:
        """Return how many nodes' times come from which source."""
        found: dict[str, int] = {}
        for node in model.graph.all_nodes():
            source = self._cost(node).source
            found[source] = found.get(source, 0) + 1
        return dict(sorted(found.items()))

    def before(self, model: Model, name: str) -> None:
        """Price all nodes that the pass may remove."""
        self._running.clear()
        for node in model.graph.all_nodes():
            self.us(node)

    def rewrote(self, rewrite: Rewrite) -> None:
        """Take note of a rewrite that is about to happen; what it makes stands nowhere yet."""
        for node in rewrite.made.nodes:
            self._known[node] = self.prices.written(node)
        self._running.append(_Done(rewrite.rule, rewrite.stage, rewrite.match.nodes(), rewrite.made.nodes))

    def after(self, model: Model, record: PassRecord, journal: Journal) -> None:
        """Enter what the pass did, as it was kept: rewrites first, and what is left for the pass itself."""
        came: dict[Node, None] = {}
        went: dict[Node, None] = {}
        for done in self._running:
            gone = [n for n in done.gone if n.graph is None and n not in went]
            went.update(dict.fromkeys(gone))
            came.update(dict.fromkeys(done.made))
            self._enter(done.rule, done.stage, gone, done.made)
        for node in journal.erased:
            if node.graph is None and node not in went and (node in came or node not in journal.inserted):
                self._enter(record.name, "pass", [node], [])
        for node in journal.inserted:
            if node.graph is not None and node not in came:
                self._enter(record.name, "pass", [], [node])
        for node in journal.modified:
            if change := self._repriced(node):
                kind = operator_type(node.op, node.domain)
                self.entries.setdefault((record.name, "pass", kind), _Entry()).gain_us += change

    def _enter(self, name: str, stage: str, gone: list[Node], made: list[Node]) -> None:
        """Enter a rewrite: what goes, what comes, and what both do to the price of their neighbours."""
        entry = self.entries.setdefault((name, stage, _done_for(gone, made)), _Entry())
        entry.count += 1 if stage != "pass" else len(gone)
        spent = sum(map(self.us, made))
        near = {n: None for n in _neighbours((*gone, *made)) if n not in made}
        entry.gain_us += sum(map(self.us, gone)) - spent + sum(map(self._repriced, (*made, *near)))

    def _repriced(self, node: Node) -> float:
        """Price a node anew, and return how much less it takes."""
        if node.graph is None or node not in self._known:
            return 0.0
        return self._known.pop(node).us - self.us(node)

    def rewritings(self) -> tuple[Rewriting, ...]:
        """Return all entries, what gains the most first."""
        rules, passes = manager.known_rules(), manager.known_passes()
        found = []
        for (name, stage, kind), entry in self.entries.items():
            cls: Any = rules.get(name) if stage != "pass" else passes.get(name)
            summary = (inspect.getdoc(cls) or "").partition("\n")[0] if cls is not None else ""
            found.append(Rewriting(name, kind, stage, entry.count, entry.gain_us, summary.replace("``", "`")))
        return tuple(sorted(found, key=lambda r: (-r.gain_us, r.name, r.type)))


def _neighbours(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield the nodes that make what some nodes read, and those that read what they make."""
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.node is not None:
                yield value.node
        for value in node.outputs:
            yield from value.users()


def _done_for(gone: list[Node], made: list[Node]) -> OperatorType:
    """Return what a rewrite is done for: the weightiest of what it makes, or else of what it removes."""
    for nodes in (made, gone):
        kinds = {operator_type(n.op, n.domain): None for n in nodes}
        if heavy := [kind for kind in kinds if kind not in _MINOR]:
            return weightiest(heavy)
    return weightiest(operator_type(n.op, n.domain) for n in (*made, *gone))


# Near misses -------------------------------------------------------------------------------------


def _blocked(questions: Questions, ledger: Ledger) -> tuple[Blocked, ...]:
    """Return the near misses of the pipeline, the nearest for each place, those where the most time is first."""
    nearest: dict[tuple[OperatorType, tuple[str, ...]], Blocked] = {}
    for group in questions.groups():
        found = _one_blocked(group, ledger)
        if found.statements > 1 or found.kind != "guard":  # an operator alone is no sign of what the rule is for
            nearest.setdefault((found.type, found.places), found)
    kept = sorted(nearest.values(), key=lambda b: (-b.us, b.rule, b.reason))
    return tuple(kept[:_BLOCKED])


def _one_blocked(group: list[NearMiss], ledger: Ledger) -> Blocked:
    first = group[0]
    made = [type_of_qualified(op) for s in first.rule.replacement.statements for op in sorted(operators(s))]
    part = {node: None for miss in group for node in (miss.root, *miss.matched.values(), *miss.alike.values())}
    return Blocked(
        rule=first.rule.name,
        type=weightiest(made),
        stage=first.rule.stage,
        kind=first.kind,
        reason=first.reason,
        matched=len(first.matched),
        statements=len(first.pattern.statements),
        count=len(group),
        places=tuple(dict.fromkeys(_place(miss.root) for miss in group))[:_PLACES],
        us=sum(map(ledger.us, part)),
        form=tuple(Statement(line.text, line.state) for line in first.lines()),
    )


def _place(node: Node) -> str:
    name = next(iter(node.loc.names), "") or node.name or next((f"%{o.name}" for o in node.outputs if not o.absent), "")
    return f"{node.qualified} at {name}" if name else node.qualified


"""Choose among rewrites by what they cost: candidates, their gains, the conflicts among them, and the choice.

A candidate is a place where a rule fits and what it would make there. Its gain comes from two witnesses: the cost
model (what the nodes take before and after, as the runtime runs them), and the table of gains that were measured rule
by rule on the provider. Each says the logarithm of the speed-up with an uncertainty, and the expectation is their
average, weighted as is usual for independent measurements; where the table is silent, that the rule changes nothing is
the witness. So a model that knows only peak rates hardly moves the table, and one that measured this very fragment
overrules it.

Candidates that share nodes exclude each other. Those connected by conflicts form a component; small ones are solved
exactly, by trying all, large ones greedily by what they save. Ties go by position and name, so that builds are
deterministic. What was chosen is applied, and the search repeats on what it made, until nothing is left to gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compiler.cost.as_run import End
from compiler.ir.graph import Graph, Node
from compiler.rewrite.engine import Engine, open_graphs
from compiler.rewrite.rule import Rule

if TYPE_CHECKING:
    from compiler.cost.model import Cost, CostModel
    from compiler.rewrite.apply import Replacement
    from compiler.rewrite.match import Match
    from compiler.rewrite.transform import Context

EXACT = 12
"""Candidates of a component up to which all choices are tried."""

_ROUNDS = 6
"""Times that the search repeats on what it made."""

_LEAST_SAVED = 0.2
"""Microseconds below which a gain is not worth a change."""

_MODEL = {"measured": 0.05, "calibrated": 0.25, "analytic": 0.7}
"""Standard deviation of the logarithm of the model's speed-up, by the worst source of its costs."""

_TABLE = 0.15
"""The same of a gain in the table: measured, but on a case of another size."""

_SILENCE = 0.3
"""The same of "it changes nothing", which holds where the table is silent."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a place, with its predicted cost."""

    name: str
    """The rule, or ``keep``."""
    us: float
    """Predicted microseconds by the cost model."""
    source: str
    """Where the prediction comes from."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"name": self.name, "us": round(self.us, 2), "source": self.source}


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided at one place, and why."""

    place: str
    """The user's nodes that the place comes from."""
    operator: str
    """The operators that stand there."""
    options: tuple[Option, ...]
    """What could be there: what is, and what each rule would make."""
    chosen: str
    """The rule that was applied, or ``keep``."""
    gain: float
    """Expected speed-up of the best rule at the place, table and model taken together."""
    why: str
    """The reason in words."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "place": self.place,
            "operator": self.operator,
            "options": [o.to_json() for o in self.options],
            "chosen": self.chosen,
            "gain": round(self.gain, 3),
            "why": self.why,
        }


@dataclass(slots=True)
class Candidate:
    """A place where a rule fits, and what that would gain."""

    match: Match
    """The match."""
    position: int
    """The root's position in its graph."""
    before: Cost
    """What the nodes take that would go."""
    after: Cost
    """What those take that would come."""
    gain: float
    """Expected speed-up."""
    evidence: str
    """What the expectation rests on."""
    nodes: frozenset[Node] = field(default_factory=frozenset)
    """The nodes that it would replace."""

    @property
    def rule(self) -> Rule:
        """The rule."""
        return self.match.rule

    @property
    def saved(self) -> float:
        """Expected microseconds saved."""
        return self.before.us * (1 - 1 / self.gain)

    @property
    def order(self) -> tuple[float, int, str]:
        """Sorts what saves most first, then what stands first, then by name."""
        return (-self.saved, self.position, self.rule.name)


def lower_by_cost(rules: Iterable[Rule], graph: Graph, ctx: Context) -> bool:
    """Apply those rules that are expected to gain, nested graphs included; return whether anything changed.

    ``ctx.cost`` is the cost model; decisions are appended to ``ctx.decisions``.
    """
    given = list(rules)
    changed = False
    decided: dict[tuple[str, str, str], Decision] = {}
    for _ in range(_ROUNDS):
        engine = Engine(given, ctx, backwards=True, trace=ctx.trace)
        applied = False
        for g in open_graphs(graph):
            engine.survey(g.nodes())
            found = _candidates(engine, g, ctx)
            chosen = choose([c for c in found if c.gain > 1 and c.saved >= _LEAST_SAVED])
            decided |= {(d.place, d.operator, d.chosen): d for d in _decisions(found, chosen)}
            for candidate in sorted(chosen, key=lambda c: -c.position):
                applied = _apply(candidate, ctx, engine) or applied
        if not applied:
            break
        changed = True
    ctx.decisions.extend(decided.values())
    return changed


def _apply(candidate: Candidate, ctx: Context, engine: Engine) -> bool:
    """Match once more, since values may have been replaced since, and rewrite."""
    root = candidate.match.root
    if root.graph is None:
        return False
    alone = Engine([candidate.rule], ctx)
    alone.order = engine.order  # numbering the nodes anew for each rewrite would make the work quadratic
    made = alone.at(root)
    engine.survey(made or ())
    return made is not None


# Candidates --------------------------------------------------------------------------------------


def _candidates(engine: Engine, graph: Graph, ctx: Context) -> list[Candidate]:
    return [
        _candidate(match, made, position, ctx)
        for position, node in enumerate(graph.nodes())
        for match, made in engine.matches(node)
    ]


def _candidate(match: Match, made: Replacement, position: int, ctx: Context) -> Candidate:
    model: CostModel = ctx.cost
    gone = _gone(match, made)
    outputs = [(name, value) for name in sorted(match.rule.outputs) if (value := match.get(name)) is not None]
    before = model.cost_as_run(gone, [End(v, tuple(v.users())) for _, v in outputs])
    ends = [End(new, tuple(v.users())) for name, v in outputs if (new := made.values.get(name)) is not None]
    after = model.cost_as_run(made.nodes, ends, replaced=gone)
    name = match.rule.name
    measured = ctx.measured.get(name)
    table = ctx.gains.get(name) if measured is None else measured
    gain, evidence = expected_gain(before, after, table, measured=measured is not None)
    return Candidate(match, position, before, after, gain, evidence, frozenset(match.nodes()))


def _gone(match: Match, made: Replacement) -> list[Node]:
    """Return the matched nodes that nothing needs once the replacement is in place."""
    replaced = {v for n in match.rule.outputs if (v := match.get(n)) is not None and made.values.get(n) is not v}
    read = {v for n in made.nodes for v in n.inputs} | {v for v in made.values.values() if v not in replaced}
    gone = dict.fromkeys(match.nodes())
    stays = True
    while stays:
        stays = False
        for node in list(gone):
            for out in node.outputs:
                needed = out in read or (
                    out not in replaced and (out.is_output or any(u not in gone for u in out.users()))
                )
                if needed and node in gone:
                    del gone[node]
                    stays = True
    return list(gone)


def expected_gain(before: Cost, after: Cost, table: float | None, *, measured: bool = False) -> tuple[float, str]:
    """Return the expected speed-up of a rewrite, and what it rests on.

    ``table`` is the gain that was measured for the rule, ``None`` where it was not; ``measured`` says that it was
    measured on this very model, which leaves nothing to predict.
    """
    from compiler.cost.model import SOURCES

    if measured and table is not None:
        return table, f"measured on this model: {table:g}x"
    source = max(before.source, after.source, key=SOURCES.index)
    predicted = math.log(max(before.us, 0.1) / max(after.us, 0.1))
    own, other = _MODEL[source] ** -2, (_SILENCE if table is None else _TABLE) ** -2
    known = 0.0 if table is None else math.log(max(table, 1e-3))
    gain = math.exp((predicted * own + known * other) / (own + other))
    said = "the table is silent" if table is None else f"table {table:g}x"
    return gain, f"model {math.exp(predicted):.2f}x ({source}), {said}"


# Choice ------------------------------------------------------------------------------------------


Conflicts = Sequence[set[int]]
"""For each candidate, by its position, those that share a node with it."""


def choose(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates that do not exclude each other and save most together."""
    holders: dict[Node, list[int]] = {}
    conflicts: list[set[int]] = [set() for _ in candidates]
    for i, candidate in enumerate(candidates):
        for node in candidate.match.nodes():
            held = holders.setdefault(node, [])
            for other in held:
                conflicts[other].add(i)
                conflicts[i].add(other)
            held.append(i)
    chosen: list[int] = []
    for component in _components(conflicts):
        ordered = sorted(component, key=lambda i: candidates[i].order)
        solve = _exactly if len(ordered) <= EXACT else _greedily
        chosen += solve(ordered, [candidates[i].saved for i in ordered], conflicts)
    return [candidates[i] for i in sorted(chosen)]


def _components(conflicts: Conflicts) -> list[list[int]]:
    """Return the candidates that conflicts connect, each component in order, and those in the order of their first."""
    found: list[list[int]] = []
    seen: set[int] = set()
    for start in range(len(conflicts)):
        component, todo = [], [start]
        while todo:
            i = todo.pop()
            if i not in seen:
                seen.add(i)
                component.append(i)
                todo.extend(conflicts[i])
        if component:
            found.append(sorted(component))
    return found


def _greedily(ordered: Sequence[int], saved: Sequence[float], conflicts: Conflicts) -> list[int]:
    taken: dict[int, None] = {}
    for i in ordered:
        if conflicts[i].isdisjoint(taken):
            taken[i] = None
    return list(taken)


def _exactly(ordered: Sequence[int], saved: Sequence[float], conflicts: Conflicts) -> list[int]:
    """Branch on each candidate in turn, and cut off where what is left cannot make up for the best known."""
    rest = [sum(saved[k:]) for k in range(len(ordered) + 1)]
    best: tuple[float, list[int]] = (-1.0, [])
    todo: list[tuple[int, float, list[int]]] = [(0, 0.0, [])]
    while todo:
        k, total, taken = todo.pop()
        if total + rest[k] <= best[0] * (1 + 1e-12):
            continue
        if k == len(ordered):
            best = (total, taken)
            continue
        todo.append((k + 1, total, taken))
        if conflicts[ordered[k]].isdisjoint(taken):
            todo.append((k + 1, total + saved[k], [*taken, ordered[k]]))
    return best[1]


# Decisions ---------------------------------------------------------------------------------------


def _decisions(found: Sequence[Candidate], chosen: Sequence[Candidate]) -> list[Decision]:
    """Return one decision for each root at which anything was possible."""
    by_root: dict[Node, list[Candidate]] = {}
    for candidate in found:
        by_root.setdefault(candidate.match.root, []).append(candidate)
    taken = {id(c) for c in chosen}
    return [_decision(group, [c for c in group if id(c) in taken], chosen) for group in by_root.values()]


def _decision(group: Sequence[Candidate], taken: Sequence[Candidate], chosen: Sequence[Candidate]) -> Decision:
    best = min(group, key=lambda c: c.order)
    shown = taken[0] if taken else best
    nodes = shown.match.nodes()
    names = dict.fromkeys(name for n in nodes for name in n.loc.names)
    keep = Option("keep", shown.before.us, shown.before.source)
    options = (keep, *(Option(c.rule.name, c.after.us, c.after.source) for c in sorted(group, key=lambda c: c.order)))
    return Decision(
        place=", ".join(names) or f"%{shown.match.root.output.name}",
        operator=" + ".join(dict.fromkeys(n.qualified for n in nodes)),
        options=options,
        chosen=taken[0].rule.name if taken else "keep",
        gain=shown.gain,
        why=_why(shown, bool(taken), chosen),
    )


def _why(candidate: Candidate, taken: bool, chosen: Sequence[Candidate]) -> str:
    expected = f"expected {candidate.gain:.2f}x: {candidate.evidence}"
    if taken:
        return expected
    if candidate.gain > 1 and candidate.saved >= _LEAST_SAVED:
        rivals = sorted({c.rule.name for c in chosen if c.nodes & candidate.nodes})
        return f"{expected}; {', '.join(rivals)} saves more" if rivals else expected
    return f"{expected}; no gain"

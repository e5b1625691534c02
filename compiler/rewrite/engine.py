"""Apply rules to graphs: a worklist of nodes, rules indexed by the operator of their root.

A rule is read when a node with its root's operator is met and, where the graph was surveyed, all other operators that
it asks for were met too: what makes new operators lets rules in that had no place before.

Each node is tried once; after a rewrite the new nodes and those near them are tried again.  So the work is near-linear
in the size of the graph.  At one node the largest form that matches wins, ties go by name, and builds are
deterministic.  A node that was made by a long chain of rewrites is the sign of rules that undo each other: the rule
that made it is left out for the rest of the run, and the report says so.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compiler.ir.edit import NEWEST
from compiler.ir.graph import Graph, Model, Node
from compiler.ir.printer import print_nodes
from compiler.rewrite.apply import Replacement, build, put
from compiler.rewrite.match import Match, Matcher, Refusal
from compiler.rewrite.order import Order
from compiler.rewrite.pattern import Pattern
from compiler.rewrite.rule import Rule
from compiler.rewrite.surroundings import Surroundings, may_match, surroundings

if TYPE_CHECKING:
    from compiler.rewrite.match import Trace
    from compiler.rewrite.transform import Context
    from compiler.rewrite.unify import Binding

_GENERATIONS = 40
"""Rewrites of rewrites after which rules count as undoing each other."""

_NEAR = 48
"""Nodes below a rewrite that are tried again."""

_OPEN_DOMAINS = frozenset({"", "com.microsoft"})


@dataclass(slots=True)
class RuleStats:
    """What one rule did: attempts beyond the index, rewrites, refusals by reason, time in milliseconds."""

    tries: int = 0
    hits: int = 0
    ms: float = 0.0
    refusals: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as a JSON object."""
        refusals = dict(sorted(self.refusals.items()))
        return {"tries": self.tries, "hits": self.hits, "ms": round(self.ms, 3), "refusals": refusals}


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What is told of a rewrite just before it happens."""

    match: Match
    made: Replacement

    @property
    def rule(self) -> str:
        """The rule's name."""
        return self.match.rule.name

    @property
    def stage(self) -> str:
        """The rule's stage."""
        return self.match.rule.stage

    @property
    def locs(self) -> tuple[str, ...]:
        """Names of the user's nodes that the matched nodes come from."""
        return tuple(dict.fromkeys(name for n in self.match.nodes() for name in n.loc.names))

    @property
    def before(self) -> str:
        """What matched, as IR text."""
        return print_nodes(self._model(), self.match.nodes())

    @property
    def after(self) -> str:
        """What replaces it, as IR text; a rule's output that becomes another value is an ``Identity`` here."""
        aliases = [
            Node("Identity", (value,), (self.match[name],), version=NEWEST)
            for name, value in sorted(self.made.values.items())
            if name in self.match.rule.outputs and value is not None and value.node not in self.made.nodes
        ]
        return print_nodes(self._model(), [*self.made.nodes, *aliases])

    def _model(self) -> Model:
        assert self.match.root.graph is not None
        return self.match.root.graph.model


@dataclass(frozen=True, slots=True)
class Candidate:
    """A form of a rule, ready to be tried."""

    rule: Rule
    """The rule."""
    pattern: Pattern
    """The form."""
    matcher: Matcher
    """What finds it."""


def largest_first(candidate: Candidate) -> tuple[int, str, int]:
    """Return the key that puts forms with more statements first; ties go by name."""
    return (-len(candidate.pattern.statements), candidate.rule.name, candidate.pattern.index)


class Engine:
    """Applies a set of rules; one use for one run of a pass."""

    def __init__(
        self,
        rules: Iterable[Rule],
        ctx: Context,
        *,
        backwards: bool = False,
        trace: Trace | None = None,
        precedence: Callable[[Candidate], Any] = largest_first,
    ) -> None:
        """Index the rules; ``backwards`` visits the outputs of a graph first, ``trace`` is told of near misses.

        ``precedence`` is the key by which forms are tried in order at one node.
        """
        self.ctx = ctx
        self.backwards = backwards
        self.trace = trace
        self.order = Order()
        self.generation: dict[Node, int] = {}
        self.stopped: set[str] = set()
        self.made: list[Node] = []
        self.precedence = precedence
        self._present: set[str] | None = None
        self._unread: dict[str, list[Rule]] = {}
        self._looked: set[str] = set()
        self._index: dict[str, list[Candidate]] = {}
        self._likely: dict[Surroundings, list[Candidate]] = {}
        for rule in rules:
            for op in rule.outline().roots:
                self._unread.setdefault(op, []).append(rule)
        self.roots = frozenset(self._unread)
        """Operators at which some rule may start."""

    # Which rules there are -----------------------------------------------------------------------

    def survey(self, nodes: Iterable[Node]) -> None:
        """Take note of operators; rules that ask for operators of which no note was taken are left out from now on.

        Without a survey, and with a trace, no rule is left out.
        """
        met = {n.qualified for n in nodes}
        if self._present is None:
            self._present = met
        elif not met <= self._present:
            self._present |= met
            self._looked.clear()

    def _rules_at(self, op: str) -> Sequence[Candidate]:
        """Return the forms whose root may be an operator."""
        if op not in self._looked:
            self._looked.add(op)
            self._read(op)
        return self._index.get(op, ())

    def _read(self, op: str) -> None:
        """Read the rules that may start at an operator and are possible now."""
        unread = self._unread.get(op, ())
        found = [r for r in unread if self._is_possible(r)]
        if not found:
            return
        self._unread[op] = [r for r in unread if r not in found]
        candidates = self._index.setdefault(op, [])
        for rule in found:
            forms = (form for form in rule.forms if op in form.operators[form.root])
            candidates += [Candidate(rule, f, Matcher(f, rule.types, rule.outputs, rule.kept)) for f in forms]
        candidates.sort(key=self.precedence)
        self._likely = {around: likely for around, likely in self._likely.items() if around[0] != op}

    def _is_possible(self, rule: Rule) -> bool:
        return self._present is None or self.trace is not None or rule.outline().possible(self._present)

    # A graph -------------------------------------------------------------------------------------

    def run(self, graph: Graph) -> bool:
        """Rewrite a graph and the graphs nested in it until no rule applies; return whether anything changed."""
        self.survey(graph.all_nodes())
        changed = False
        for g in open_graphs(graph):
            changed = self._graph(g) or changed
        return changed

    def _graph(self, graph: Graph) -> bool:
        nodes = graph.reversed_nodes() if self.backwards else graph.nodes()
        queue = deque(n for n in nodes if n.qualified in self.roots)
        queued = set(queue)
        changed = False
        while queue:
            node = queue.popleft()
            queued.discard(node)
            if node.graph is not graph:
                continue
            made = self._visit(node)
            if made is None:
                continue
            changed = True
            for near in self._near(made, graph):
                if near not in queued and near.qualified in self.roots:
                    queued.add(near)
                    queue.append(near)
        return changed

    # One node ------------------------------------------------------------------------------------

    def at(self, node: Node) -> list[Node] | None:
        """Apply the first rule that fits at a node, and at no other; return the new nodes, ``None`` when none fits."""
        return self.made if self._visit(node) is not None else None

    def _visit(self, node: Node) -> list[Node] | None:
        """Apply the first rule that fits at a node; return what must be looked at again, ``None`` when none did."""
        for candidate in self._candidates(node):
            made = self._try(candidate, node) if candidate.rule.name not in self.stopped else None
            if made is not None:
                return made
        return None

    def _candidates(self, node: Node) -> Sequence[Candidate]:
        """Return the forms whose root may be a node, going by its operator and its surroundings."""
        found = self._rules_at(node.qualified)
        if self.trace is not None or not found:
            return found
        around = surroundings(node)
        likely = self._likely.get(around)
        if likely is None:
            likely = [c for c in found if may_match(c.pattern, c.pattern.root, around)]
            self._likely[around] = likely
        return likely

    def _try(self, candidate: Candidate, node: Node) -> list[Node] | None:
        stats = self.ctx.rules.setdefault(candidate.rule.name, RuleStats())
        stats.tries += 1
        start = time.perf_counter()
        try:
            return self._rewrite(candidate, node, stats)
        finally:
            stats.ms += (time.perf_counter() - start) * 1e3

    def matches(self, node: Node) -> list[tuple[Match, Replacement]]:
        """Return where rules fit at a node and what they would make, one form of each rule; nothing is changed."""
        found: dict[str, tuple[Match, Replacement]] = {}
        for candidate in self._candidates(node):
            name = candidate.rule.name
            fits = None if name in found else self._first(candidate, node, self.ctx.rules.setdefault(name, RuleStats()))
            if fits is not None:
                found[name] = fits
        return list(found.values())

    def _first(self, candidate: Candidate, node: Node, stats: RuleStats) -> tuple[Match, Replacement] | None:
        """Return the first way to match a form at a node that its rule accepts, with its replacement."""
        rule = candidate.rule
        found: list[tuple[Match, Replacement]] = []

        def accept(binding: Binding) -> str:
            match = Match(rule, candidate.pattern, node, binding, self.ctx.target)
            reason, made = self._examine(match)
            if made is None:
                stats.refusals[reason] = stats.refusals.get(reason, 0) + 1
                return reason or "refused"
            found.append((match, made))
            return ""

        return found[-1] if candidate.matcher.match(node, accept, self.trace) is not None else None

    def _rewrite(self, candidate: Candidate, node: Node, stats: RuleStats) -> list[Node] | None:
        rule = candidate.rule
        fits = self._first(candidate, node, stats)
        if fits is None:
            return None
        match, made = fits
        generation = 1 + max(self.generation.get(n, 0) for n in match.nodes())
        if generation > _GENERATIONS:
            self.stopped.add(rule.name)
            self.ctx.refuse(f"{rule.name}: left out, since rules undo each other ({' < '.join(node.loc.by[:4])})")
            return None
        if self.ctx.on_rewrite is not None:
            self.ctx.on_rewrite(Rewrite(match, made))
        try:
            new = put(match, made, self.order)
        except Refusal as refusal:
            stats.refusals[str(refusal)] = stats.refusals.get(str(refusal), 0) + 1
            return None
        self.made = new
        if self._present is not None:
            self.survey(new)
        stats.hits += 1
        self.ctx.count(rule.name)
        self.generation.update(dict.fromkeys(new, generation))
        around = [made.values[name] for name in sorted(rule.outputs) if made.values.get(name) is not None]
        return [*new, *(n for v in around if v is not None for n in v.users())]

    def _examine(self, match: Match) -> tuple[str, Replacement | None]:
        """Return the checked replacement of a match, or why there is none."""
        graph = match.root.graph
        assert graph is not None
        try:
            reason = match.rule.guard(match) or self.ctx.why_not_worth(match)
            if reason:
                return reason, None
            made = build(match, graph.model)
            for node in made.nodes:
                reason = self.ctx.why_illegal(match.rule, node)
                if reason:
                    return reason, None
        except Refusal as refusal:
            return str(refusal), None
        except Exception as error:  # a hook may fail in any way: this place is left alone, and the report says why
            reason = f"{match.rule.name} failed: {type(error).__name__}: {error}"
            self.ctx.refuse(reason)
            return reason, None
        return "", made

    def _near(self, made: Sequence[Node], graph: Graph) -> Iterator[Node]:
        """Yield nodes and what lies below them, as far as a rule may reach."""
        seen: dict[Node, None] = {}
        todo = deque(made)
        while todo and len(seen) < _NEAR:
            node = todo.popleft()
            if node in seen or node.graph is not graph:
                continue
            seen[node] = None
            for out in node.outputs:
                todo.extend(out.users())
        yield from seen


def open_graphs(graph: Graph) -> Iterator[Graph]:
    """Yield a graph and the graphs nested in nodes of known domains, outer before inner."""
    todo = [graph]
    while todo:
        current = todo.pop()
        yield current
        if current.owners:
            owners = [n for n in current.nodes() if n in current.owners and n.domain in _OPEN_DOMAINS]
            nested = [g for n in owners for g in n.graphs()]
            todo.extend(reversed(nested))

"""Say why rules did not fire: for each rule and place, the form that comes nearest, and where it stops.

The matcher is asked again at every node that may be the root of a form, with a ``Trace`` that keeps the attempt that
came farthest.  What the matcher did not reach since an earlier statement failed is compared by operators only, so that
a form of which one statement is wrong counts as nearer than one that has nothing but its root.

A near miss ends for one of these reasons, the nearest first:

* ``ready``: everything fits; the rule was left out, or would close a cycle;
* ``cost``: the rule is legal, and the selection leaves it out;
* ``legality``: the target does not run what the rule would make;
* ``result``: the replacement cannot be made, or would change a type;
* ``guard``: the rule's own condition in Python;
* ``users``: something that would go has other users;
* ``type``: element types, ranks or dims;
* ``structure``: another operator, operand or attribute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from compiler.ir.graph import Graph, Node, Value
from compiler.ir.syntax import Operand, Statement
from compiler.rewrite.apply import build
from compiler.rewrite.engine import open_graphs
from compiler.rewrite.match import Match, Matcher, Refusal
from compiler.rewrite.pattern import COMMUTATIVE, Pattern, operators
from compiler.rewrite.rule import Rule
from compiler.rewrite.transform import Context
from compiler.rewrite.unify import Binding

Kind = Literal["ready", "cost", "legality", "result", "guard", "users", "type", "structure"]
"""What a near miss fails for."""

KINDS: tuple[Kind, ...] = ("ready", "cost", "legality", "result", "guard", "users", "type", "structure")
"""All kinds, the nearest first."""

State = Literal["matched", "failed", "alike", "open", "left out"]
"""What is known of a statement: ``alike`` has the right operator, ``open`` was not reached."""

_TYPES = re.compile(
    r"its element type is |its rank is |a dim is |, and the dim is |"
    r"[^%\s]+ is .* elsewhere and .* here$|\w cannot be \w+$"
)
"""What the unification of types says."""

_USERS = ("it has other users", "it is an output of the graph")
"""What the matcher says of values that cannot go."""

_WORTH_SHOWING = 0.5
"""Part of the statements that must be there, when all rules are asked about."""


@dataclass(frozen=True, slots=True)
class Line:
    """One statement of a form, and how far a place agrees with it."""

    text: str
    """The statement as the rule writes it."""
    state: State
    """Whether it is there."""
    node: Node | None = None
    """The node that stands for it."""


@dataclass(frozen=True, slots=True, eq=False)
class NearMiss:
    """The best attempt of one rule at one place."""

    rule: Rule
    """The rule."""
    pattern: Pattern
    """The form of it that came nearest."""
    root: Node
    """The place: the node that the form's last statement was compared with."""
    kind: Kind
    """What it fails for."""
    reason: str
    """Why, with the value at fault."""
    failed: int | None
    """Position of the statement that failed; ``None`` when all match."""
    at: Node | Value | None
    """What stood where that statement was looked for."""
    matched: dict[int, Node]
    """Statements that match, and their nodes."""
    alike: dict[int, Node]
    """Statements of which only the operator was compared, and their nodes."""

    @property
    def share(self) -> float:
        """How much of the form is there, between 0 and 1."""
        return (len(self.matched) + len(self.alike)) / len(self.pattern.statements)

    @property
    def nearness(self) -> tuple[float, ...]:
        """A key by which nearer misses come first."""
        return (KINDS.index(self.kind) if self.failed is None else len(KINDS), -self.share, -len(self.matched))

    @property
    def nodes(self) -> list[Node]:
        """The nodes that take part, the root first."""
        at = [self.at] if isinstance(self.at, Node) else []
        return list(dict.fromkeys([self.root, *self.matched.values(), *at, *self.alike.values()]))

    def lines(self) -> list[Line]:
        """Return all statements of the text of the form, also those that the form leaves out."""
        index = {s.at: i for i, s in enumerate(self.pattern.statements)}
        return [
            Line(text, "left out") if at not in index else self._line(text, index[at])
            for at, text in _statements(self.rule, self.pattern)
        ]

    def _line(self, text: str, index: int) -> Line:
        if index == self.failed:
            node = self.at.node if isinstance(self.at, Value) else self.at
            return Line(text, "failed", node)
        if index in self.matched:
            return Line(text, "matched", self.matched[index])
        node = self.alike.get(index)
        return Line(text, "open" if node is None else "alike", node)


def _statements(rule: Rule, pattern: Pattern) -> list[tuple[int, str]]:
    """Return the statements of the text that a form is of, each with its offset."""
    whole = next(f for f in rule.forms if f.index == pattern.index and not f.skipped)
    starts = [s.at for s in whole.statements]
    text = whole.grammar.text
    ends = [*starts[1:], len(text)]
    return [(a, " ".join(_uncommented(text[a:b]).split())) for a, b in zip(starts, ends, strict=True)]


def _uncommented(text: str) -> str:
    return re.sub(r"//[^\n]*", "", text)


# Asking ------------------------------------------------------------------------------------------


def near_misses(
    graph: Graph,
    rules: Iterable[Rule],
    ctx: Context,
    *,
    admits: Callable[[Rule, Node], str] = lambda rule, root: "",
    among: Callable[[Node], bool] | None = None,
) -> list[NearMiss]:
    """Return the best attempt of each rule at each place of a graph and of those nested in it, the nearest first.

    ``admits`` says why the selection leaves a rule out at a root, ``""`` when it does not.  With ``among`` only
    attempts are returned in which a node takes part that it is true for.  Attempts of which nothing is there but the
    operator of the root are left out, unless the root is all that the form has.
    """
    found: list[NearMiss] = []
    nodes: dict[str, list[Node]] = {}
    for g in open_graphs(graph):
        for node in g.nodes():
            nodes.setdefault(node.qualified, []).append(node)
    for rule in rules:
        for root, forms in _roots(rule, nodes):
            refusal = admits(rule, root)
            best = min(_attempts(rule, forms, root, ctx, refusal), key=lambda m: m.nearness)
            if best.matched or best.alike or len(best.pattern.statements) == 1:
                found.append(best)
    found = _without_parts(found)
    if among is not None:
        found = [m for m in found if any(among(node) for node in m.nodes)]
    return sorted(found, key=lambda m: m.nearness)  # stable: rules and places stay in order


def _roots(rule: Rule, nodes: dict[str, list[Node]]) -> Iterator[tuple[Node, list[Pattern]]]:
    """Yield the nodes that may be the root of a form, each with those forms."""
    by_operator: dict[str, list[Pattern]] = {}
    for pattern in rule.forms:
        for op in sorted(operators(pattern.statements[pattern.root])):
            by_operator.setdefault(op, []).append(pattern)
    for op, forms in by_operator.items():
        for node in nodes.get(op, ()):
            yield node, forms


def _without_parts(misses: list[NearMiss]) -> list[NearMiss]:
    """Return the attempts without those that stop at the same node as a larger one of the same rule around them."""
    stopped: dict[tuple[str, Node | Value | None], list[NearMiss]] = {}
    for m in misses:
        stopped.setdefault((m.rule.name, m.at), []).append(m)
    parts = {
        small
        for group in stopped.values()
        for small in group
        if small.failed is not None
        for large in group
        if large.root is not small.root and small.root in large.matched.values() and small.share <= large.share
    }
    return [m for m in misses if m not in parts]


def _attempts(rule: Rule, forms: list[Pattern], root: Node, ctx: Context, refusal: str) -> Iterator[NearMiss]:
    for pattern in forms:
        attempt = _Attempt(rule, pattern, root, ctx, refusal)
        if attempt.best is not None:
            yield attempt.best


class _Attempt:
    """One form at one root: a ``Trace`` that keeps what came farthest."""

    def __init__(self, rule: Rule, pattern: Pattern, root: Node, ctx: Context, refusal: str) -> None:
        self.rule, self.pattern, self.root, self.ctx, self.refusal = rule, pattern, root, ctx, refusal
        self.verdict: tuple[Kind, str] | None = None
        self.best: NearMiss | None = None
        Matcher(pattern, rule.types, rule.outputs, rule.kept).match(root, self.accept, self)

    def accept(self, binding: Binding) -> str:
        """Judge a match as the engine does, and refuse it in any case."""
        self.verdict = self._judged(Match(self.rule, self.pattern, self.root, binding, self.ctx.target))
        return self.verdict[1]

    def _judged(self, match: Match) -> tuple[Kind, str]:
        assert self.root.graph is not None
        try:
            if reason := self.rule.guard(match):
                return "guard", reason
        except Refusal as refusal:
            return "guard", str(refusal)
        try:
            made = build(match, self.root.graph.model)
        except Refusal as refusal:
            return "result", str(refusal)
        for node in made.nodes:
            if reason := self.ctx.why_illegal(self.rule, node):
                return "legality", reason
        if reason := self.refusal or self._why_not_worth(match):
            return "cost", reason
        return "ready", self._why_not_done()

    def _why_not_worth(self, match: Match) -> str:
        try:
            return self.ctx.why_not_worth(match)
        except Refusal as refusal:
            return str(refusal)

    def _why_not_done(self) -> str:
        if self.rule.name in self.ctx.banned_rules:
            return "the rule is left out"
        return "it fits, and would be applied here; another rewrite may have to come first"

    def miss(self, pattern: Pattern, binding: Binding, statement: int, place: Node | Value | None, reason: str) -> None:
        """Keep the attempt if it came farther than the best so far."""
        matched = dict(binding.nodes)
        if self.verdict is not None and len(matched) == len(pattern.statements):
            found = NearMiss(self.rule, pattern, self.root, *self.verdict, None, None, matched, {})
        else:
            matched.pop(statement, None)
            alike = _aligned(pattern, matched, statement, place)
            kind = _kind(reason)
            found = NearMiss(self.rule, pattern, self.root, kind, reason, statement, place, matched, alike)
        if self.best is None or found.nearness < self.best.nearness:
            self.best = found
        self.verdict = None


def _kind(reason: str) -> Kind:
    if reason.endswith(_USERS):
        return "users"
    return "type" if _TYPES.search(reason) else "structure"


# What the matcher did not reach ------------------------------------------------------------------


def _aligned(pattern: Pattern, matched: dict[int, Node], failed: int, at: Node | Value | None) -> dict[int, Node]:
    """Return statements that were not reached, and nodes of the right operators where they would have to be."""
    here = dict(matched)
    if isinstance(at, Node) and at.qualified in operators(pattern.statements[failed]):
        here[failed] = at
    todo, found = list(here.items()), {}
    while todo:
        index, node = todo.pop()
        for other, maker in _makers(pattern, pattern.statements[index], node):
            if other != failed and other not in here and other not in found and maker not in here.values():
                found[other] = maker
                todo.append((other, maker))
    return found


def _makers(pattern: Pattern, statement: Statement, node: Node) -> Iterator[tuple[int, Node]]:
    """Yield the statements that make what a statement reads, with nodes that have their operator and place."""
    for k, operand in enumerate(statement.inputs):
        at = pattern.defined.get(operand.name) if isinstance(operand, Operand) else None
        if at is None:
            continue
        swap = node.op in COMMUTATIVE and not node.domain and k < 2
        for value in (node.input(k), node.input(1 - k)) if swap else (node.input(k),):
            maker = value.node if value is not None and value.index == at[1] else None
            if maker is not None and maker.qualified in operators(pattern.statements[at[0]]):
                yield at[0], maker
                break


# Putting together --------------------------------------------------------------------------------


def grouped(misses: Iterable[NearMiss]) -> list[list[NearMiss]]:
    """Return near misses that differ in nothing but names together, in order of the first of each group."""
    found: dict[tuple[object, ...], list[NearMiss]] = {}
    for m in misses:
        reason = re.sub(r"%[\w./:~-]+", "%", m.reason)
        key = (m.rule.name, m.pattern.index, m.pattern.skipped, m.failed, m.kind, reason, frozenset(m.alike))
        found.setdefault(key, []).append(m)
    return list(found.values())


def worth_showing(miss: NearMiss) -> bool:
    """True for an attempt that somebody may want to know of who did not ask for its rule."""
    if miss.failed is None:
        return miss.kind != "ready" and (miss.kind, miss.rule.stage) != ("cost", "expand")
    return len(miss.pattern.statements) > 2 and miss.share >= _WORTH_SHOWING and len(miss.matched) > 1

"""Run the pipeline up to where rules run, and say why they did not fire: ``ampc explain``.

Decisions: the graph that is looked at is the one that the stage leaves behind (the end of the fixpoint that its pass
stands in), since what could fire has fired by then, and what is left is the question.  Places that are alike but for
names are one entry: a network has many equal layers, and they fail alike.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from compiler import manager
from compiler.errors import UnknownNameError, nearest
from compiler.ir.edit import Journal
from compiler.ir.graph import Model, Node, Value
from compiler.manager import Observer, PassRecord, Runner, Step
from compiler.observe import Progress
from compiler.planning import check_selection, plan, rule_context
from compiler.rewrite.expansion import Expander
from compiler.rewrite.explain import NearMiss, grouped, near_misses, worth_showing
from compiler.rewrite.rule import Rule
from compiler.rewrite.transform import Context
from compiler.ruling import STAGES, find_rule, pass_of
from compiler.settings import load_target

_SHOWN_OF_ONE = 3
"""Entries shown of one rule, each with a picture."""

_SHOWN_OF_ALL = 20
"""Entries shown of all rules, each a line."""

_OF_EACH = 2
"""Entries of each rule, when all are asked about."""

_NAMES = 8
"""Names of the user's nodes that are listed of one node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """What to explain; see ``ampc explain --help``."""

    rule: str | None = None
    """The rule that is asked about; ``None`` for all."""
    node: str | None = None
    """A pattern of names of the user's nodes: only places where one takes part."""
    target: str = "auto"
    """The target whose pipeline runs."""
    select: str = "cost"
    """How lowering chooses."""
    passes: str | None = None
    """A pipeline in place of the default."""
    disable: tuple[str, ...] = ()
    """Passes and rules to leave out."""
    limit: int | None = None
    """Entries to show; by default 3 of one rule, 20 of all."""

    @property
    def shown(self) -> int:
        """How many entries are shown."""
        return self.limit or (_SHOWN_OF_ALL if self.rule is None else _SHOWN_OF_ONE)


def explain_model(
    path: str | os.PathLike[str],
    options: ExplainOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Return which rules fired how often, and where others came near and why they did not fire, as a plain record.

    ``progress`` is called with the name of each pass that runs.  Raises ``UnknownNameError`` for a rule, target,
    selection or node that does not exist, and ``InputError`` for a model that cannot be read or a pipeline in which
    the rule's pass does not stand.
    """
    o = options or ExplainOptions()
    asked = [find_rule(o.rule)] if o.rule is not None else list(manager.known_rules().values())
    target = load_target(o.target)
    reach = [pass_of(asked[0].stage)] if o.rule is not None else []
    steps = plan(o.passes, target=target, disable=o.disable, reach=reach)
    check_selection(o.select)
    model = _load(Path(path))
    context = rule_context(target, model, select=o.select, left_out=o.disable)
    questions = Questions(model, context, steps, asked, o, progress=progress)
    questions.run()
    return {"model": str(path), "target": target.name, "select": o.select, **questions.record()}


def _load(path: Path) -> Model:
    from compiler.opening import open_model, prepare

    model = open_model(path)
    prepare(model)
    return model


class Questions:
    """What is asked about one model while the pipeline runs on it."""

    def __init__(
        self,
        model: Model,
        context: Context,
        steps: Sequence[Step],
        asked: Sequence[type[Rule]],
        options: ExplainOptions,
        *,
        observers: Sequence[Observer] = (),
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Take a model that was prepared; ``observers`` see it around each pass besides."""
        from compiler.verify.fold import runtime_evaluator
        from compiler.verify.worker import shared_worker

        self.options = options
        self.steps = steps
        self.asked = asked
        self.watched = Watched(model, options.node) if options.node is not None else None
        seeing: list[Observer] = [*observers]
        if self.watched is not None:
            seeing.append(self.watched)
        if progress is not None:
            seeing.append(Progress(progress))
        context.evaluate = runtime_evaluator(shared_worker, model=model)
        self.runner = Runner(model, context, seeing, disable=frozenset(options.disable))
        self.misses: list[NearMiss] = []
        self.notes: list[str] = []

    def run(self, *, to_the_end: bool = False) -> None:
        """Run the pipeline from stage to stage, and ask the rules of each; what comes after the last only if told."""
        done = 0
        for end, stage in self._stops():
            self.runner.run(self.steps[done:end])
            done = end
            self._ask(stage)
        if to_the_end:
            self.runner.run(self.steps[done:])

    def _stops(self) -> Iterator[tuple[int, str]]:
        """Yield how many steps lead to the end of each stage that is asked about, in order."""
        stages = {cls.stage for cls in self.asked}
        ends = {}
        for i, step in enumerate(self.steps):
            names = manager.pass_names([step])
            ends.update({stage: i + 1 for stage in STAGES if stage in stages and pass_of(stage) in names})
        yield from sorted((end, stage) for stage, end in ends.items())

    def _ask(self, stage: str) -> None:
        rules = [cls() for cls in self.asked if cls.stage == stage]
        ctx, admits = self._conditions(stage)
        watched = self.watched
        among = watched.matches if watched is not None else None
        found = near_misses(self.runner.model.graph, rules, ctx, admits=admits, among=among)
        self.misses += found if self.options.rule is not None else [m for m in found if worth_showing(m)]
        if watched is not None and (self.options.rule is not None or not self.notes):
            self.notes += watched.notes()

    def _conditions(self, stage: str) -> tuple[Context, Callable[[Rule, Node], str]]:
        """Return what is legal in a stage, and which rules are selected where."""
        ctx = self.runner.ctx
        if stage != "expand":
            return ctx, lambda rule, root: ctx.why_not_selected(rule) or self._why_not_chosen(rule, root)
        expander = Expander(ctx)
        runs = "the target runs the operator as it is"
        return replace(ctx, legality=expander.why_never), lambda rule, root: "" if expander.why_needed(root) else runs

    def _why_not_chosen(self, rule: Rule, root: Node) -> str:
        """Return why lowering decided against a rule at a place, ``""`` when it did not."""
        names = set(root.loc.names)
        for decision in (d for record in reversed(self.runner.records) for d in record.decisions):
            asked = decision.chosen != rule.name and any(o.name == rule.name for o in decision.options[1:])
            if asked and (names & set(decision.place.split(", ")) or decision.place == f"%{root.output.name}"):
                return f"not chosen: {decision.why}"
        return ""

    def groups(self) -> list[list[NearMiss]]:
        """Return near misses, those alike together, the nearest first; of all rules only a few each."""
        groups = grouped(sorted(self.misses, key=lambda m: m.nearness))
        return groups if self.options.rule is not None else _some_of_each(groups)

    def record(self) -> dict[str, Any]:
        """Return the answer as a plain record."""
        hits: dict[str, int] = {}
        names = {cls.name for cls in self.asked}
        for record in self.runner.records:
            for name in record.fired:
                if name in names:
                    hits[name] = hits.get(name, 0) + record.rules[name].hits
        groups = self.groups()
        return {
            "rule": self.options.rule,
            "node": self.options.node,
            "fired": dict(sorted(hits.items())),
            "found": len(groups),
            "misses": [_entry(group) for group in groups[: self.options.shown]],
            "notes": self.notes,
        }


def _some_of_each(groups: list[list[NearMiss]]) -> list[list[NearMiss]]:
    """Return the nearest entries of each rule, so that one rule with many sizes does not fill the answer."""
    seen: Counter[str] = Counter()
    kept = []
    for group in groups:
        seen[group[0].rule.name] += 1
        if seen[group[0].rule.name] <= _OF_EACH:
            kept.append(group)
    return kept


# Names of the user's nodes -----------------------------------------------------------------------


@dataclass(slots=True)
class Watched:
    """Nodes of the user whose names match a pattern, and what becomes of them: an observer of the pass manager.

    Raises ``UnknownNameError`` when nothing in the model matches.
    """

    model: Model
    """The model as it was loaded."""
    pattern: str
    """A name, or a pattern such as ``*attn*``; names of nodes and of values count."""
    taken_by: str = field(default="", init=False)
    """The pass that took away the last node that matched; empty as long as there is one."""

    def __post_init__(self) -> None:
        """Check that there is something to watch."""
        if not self._nodes():
            names = dict.fromkeys(name for node in self.model.graph.all_nodes() for name in _names(node))
            raise UnknownNameError(f"no node is called {self.pattern!r}", hint=nearest_name(self.pattern, [*names]))

    def matches(self, node: Node) -> bool:
        """True when a node, or one that it was made of, has a name that matches."""
        return any(name == self.pattern or fnmatchcase(name, self.pattern) for name in _names(node))

    def before(self, model: Model, name: str) -> None:
        """Do nothing."""

    def after(self, model: Model, record: PassRecord, journal: Journal) -> None:
        """Take note of the pass after which nothing matches any more."""
        if not self.taken_by and not self._nodes():
            self.taken_by = record.name

    def _nodes(self) -> list[Node]:
        return [node for node in self.model.graph.all_nodes() if self.matches(node)]

    def notes(self) -> list[str]:
        """Say what became of the nodes that match."""
        if self.taken_by:
            return [f"nothing that matches {self.pattern!r} is left: the pass {self.taken_by!r} took it away"]
        made = [node for node in self._nodes() if node.loc.by]
        return [
            f"{_label(node)['operator']} %{node.output.name} was made of {_some(node.loc.names)} by {node.loc.by[0]}"
            for node in made[:_SHOWN_OF_ONE]
        ]


def nearest_name(name: str, valid: list[str]) -> str:
    """Return a hint that names the nearest names, and does not list thousands of them when none is near."""
    hint = nearest(name, valid)
    return "see `ampc dump MODEL --loc` for the names" if hint.startswith("valid names") else hint


def _names(node: Node) -> list[str]:
    return [name for name in (node.name, *node.loc.names, *(o.name for o in node.outputs)) if name]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else "the model's own"


# Records -----------------------------------------------------------------------------------------


def _entry(group: list[NearMiss]) -> dict[str, Any]:
    """Return near misses that are alike as one plain record."""
    first = group[0]
    return {
        "rule": first.rule.name,
        "stage": first.rule.stage,
        "kind": first.kind,
        "reason": first.reason,
        "form": first.pattern.index,
        "statements": len(first.pattern.statements),
        "matched": len(first.matched),
        "alike": len(first.alike),
        "places": [_label(m.root) for m in group],
        "lines": [
            {"statement": line.text, "state": line.state, "node": _label(line.node) if line.node is not None else None}
            for line in first.lines()
        ],
        "found": _found(first.at),
    }


def _label(node: Node) -> dict[str, Any]:
    """Return how a node is called: its operator, its first result, and the user's nodes that it comes from."""
    value = next((o.name for o in node.outputs if not o.absent), "")
    return {"operator": node.qualified, "value": value, "nodes": list(node.loc.names[:_NAMES])}


def _found(at: Node | Value | None) -> str:
    """Say in words what stands where a statement was looked for."""
    if isinstance(at, Value):
        return f"%{at.name}: {at.type}" if at.node is None else f"{at.node.qualified} %{at.name}"
    return "" if at is None else at.qualified

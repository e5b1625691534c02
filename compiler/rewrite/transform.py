"""The contract between the compiler and its passes.

A ``Pass`` is a frozen dataclass; its fields are its options in a pipeline (``fold{budget=16MiB}``).  ``run`` gets a
valid graph and leaves a valid graph; it changes graphs only through ``compiler.ir.edit``; it returns whether it changed
anything, and the manager checks that it told the truth.  The first line of the docstring is the pass's documentation.

Passes are found, never registered by hand: every subclass in a module of the package ``passes``, and whatever the
entry point group ``ampc.passes`` names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from compiler.ir.constant import Constant
from compiler.ir.graph import Graph, Node, Value

if TYPE_CHECKING:
    from compiler.rewrite.engine import Rewrite, RuleStats
    from compiler.rewrite.match import Match
    from compiler.rewrite.rule import Rule


class Evaluator(Protocol):
    """Computes constants with the runtime's own kernels, in a child process, within limits of time and memory."""

    def __call__(self, nodes: Sequence[Node], wanted: Sequence[Value]) -> list[Constant] | str:
        """Return the constants of the ``wanted`` outputs of ``nodes``, or the reason why they cannot be had.

        All inputs of ``nodes`` must be constants or outputs of others among them; ``nodes`` stand in order.
        """
        ...


@dataclass(slots=True)
class Context:
    """What a pass may use besides the graph.

    ``count`` and ``refuse`` feed the report.
    """

    target: Any = None
    """The target description."""
    evaluate: Evaluator | None = None
    """Runs nodes on constants; ``None`` when no runtime is to be used."""
    rewrites: dict[str, int] = field(default_factory=dict)
    """How often each rewrite was done."""
    refusals: dict[str, int] = field(default_factory=dict)
    """Reasons why something was left alone, and how often."""
    rule_set: tuple[Rule, ...] = ()
    """Every rule that there is, ordered by name."""
    banned_rules: frozenset[str] = frozenset()
    """Names of rules that are left out."""
    rules: dict[str, RuleStats] = field(default_factory=dict)
    """What each rule did in the current pass, by its name."""
    select: str = "cost"
    """How lowering chooses: ``fused``, ``cost`` or ``standard``."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """Rule → measured gain on the target's provider: time before over time after."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """Rule → gain that was measured on this very model; it overrules ``gains`` and the cost model."""
    legality: Callable[[Node], str] | None = None
    """Says why the target does not run a node, ``""`` when it does; ``None`` when everything is legal."""
    on_rewrite: Callable[[Rewrite], None] | None = None
    """Is told of each rewrite by a rule just before it happens."""
    trace: Any = None
    """A ``Trace`` that is told of near misses."""
    cost: Any = None
    """The ``CostModel`` that lowering chooses by; ``None`` leaves the choice to ``gains``."""
    decisions: list[Any] = field(default_factory=list)
    """What lowering decided: each a ``Decision``."""

    @property
    def by_cost(self) -> bool:
        """True when lowering compares what each form costs."""
        return self.select == "cost" and self.cost is not None

    def why_not_worth(self, match: Match) -> str:
        """Return why a rule would not pay at a match where it applies, ``""`` when it may; raises ``Refusal``."""
        return (match.rule.worth(match) or "") if self.by_cost else ""

    def rules_of(self, stage: str, *, only: str = "") -> list[Rule]:
        """Return the rules of a stage that are not banned; ``only`` names one of them."""
        found = [r for r in self.rule_set if r.stage == stage and r.name not in self.banned_rules]
        return [r for r in found if r.name == only] if only else found

    def why_illegal(self, rule: Rule, node: Node) -> str:
        """Return why a node that a rule would make may not be made, ``""`` when it may.

        Normal forms and raised operators are legal on every target, since ``expand`` takes apart what is left of them.
        """
        if self.legality is None or rule.stage in ("canonical", "raise"):
            return ""
        return self.legality(node)

    def why_not_selected(self, rule: Rule) -> str:
        """Return why the selection leaves a lowering rule out, ``""`` when it admits it, and for all other rules."""
        if rule.stage != "lower":
            return ""
        outline = rule.outline()
        foreign = [s.domain for s in outline.after if s.domain]
        if self.select == "fused":
            apart = len(outline.after) > outline.longest and not foreign
            return "it takes an operator apart" if apart else ""
        if self.select == "standard":
            return f"it makes operators of {foreign[0]}" if foreign else ""
        if self.cost is not None:
            return ""  # decided place by place: see ``decisions``
        gain = self.gains.get(rule.name)
        if gain is None:
            return "its gain was not measured on this provider"
        return "" if gain > 1 else f"its measured gain is {gain:g}"

    def count(self, rewrite: str, times: int = 1) -> None:
        """Record that a rewrite was done."""
        self.rewrites[rewrite] = self.rewrites.get(rewrite, 0) + times

    def refuse(self, reason: str) -> None:
        """Record why something that looked like a match was left alone."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1


class Pass:
    """A transformation of a whole graph, nested graphs included.

    Subclasses are frozen dataclasses.  ``name`` is derived from the class name (``DeadCode`` is ``dead-code``) unless
    given.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        """Derive the command-line name."""
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Transform the main graph (and what is nested in it); return whether anything changed."""
        raise NotImplementedError(f"pass {self.name} does not implement run()")

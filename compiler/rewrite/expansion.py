"""Take operators apart that a target does not run: by our own definitions, or else by those of the standard.

Our definitions are the rules of the stage ``expand``; they come first, since they give what exporters would have
written, while the standard's are written for every case at once and leave chains of shapes to be folded.  Definitions
may use operators that are themselves taken apart, as long as it ends in operators that run: an operator that cannot be
brought to an end is left as it is, and the reason is told.

Anybody may ask: the pass ``expand`` asks for every node that the target lacks, and a selection by cost may ask for a
raised operator whose definition is cheaper than its kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from compiler.ir import edit
from compiler.ir.copies import copy_nodes, replace_by
from compiler.ir.graph import Graph, Model, Node, Value
from compiler.ir.infer import infer_nodes
from compiler.ir.schema import is_random, node_schema
from compiler.rewrite.apply import type_change
from compiler.rewrite.demands import is_known_number
from compiler.rewrite.engine import Candidate, Engine
from compiler.rewrite.legal import Legality
from compiler.rewrite.transform import Context

BY = "expand"
"""Who is said to have made the nodes of a standard definition."""

_DEEPEST = 8
"""Definitions within definitions; those of the standard are three deep."""


def _plainest_first(candidate: Candidate) -> tuple[bool, str, int]:
    return (len(candidate.rule.replacement.statements) > 1, candidate.rule.name, candidate.pattern.index)


def _is_number(node: Node) -> bool:
    """Whether all that a node computes is known by now, so that it will be folded."""
    return all(o.absent or is_known_number(o) for o in node.outputs)


class Expander:
    """Takes nodes apart on one target; one use for one run of a pass."""

    def __init__(self, ctx: Context) -> None:
        """Take the rules, the target and the definitions from the context."""
        self.ctx = ctx
        self.legality = ctx.legality if isinstance(ctx.legality, Legality) else Legality(None)
        self.strict = self._engine(self._why_not_at_once)
        self.lenient = self._engine(self.why_never)
        self.lenient.order = self.strict.order
        self._ends: dict[Graph, str] = {}
        self._came_from: dict[Node, frozenset[str]] = {}
        self._barred: frozenset[str] = frozenset()
        self.took_back = False
        """Whether a definition was put in place and taken out again, which counts as a change of the graph."""

    def _engine(self, legality: Callable[[Node], str]) -> Engine:
        """Return our definitions, an operator for an operator first, that may make what ``legality`` allows."""
        ctx = replace(self.ctx, legality=legality)
        return Engine(self.ctx.rules_of("expand"), ctx, trace=self.ctx.trace, precedence=_plainest_first)

    def _why_not_at_once(self, node: Node) -> str:
        """Return why a node would have to be taken apart again, ``""`` when it runs, or will be folded."""
        if _is_number(node):
            return ""
        reason = self.legality.why_not(node)
        return reason or (f"{node.op} has no kernel" if self.legality.fused_by_function(node) else "")

    def why_needed(self, node: Node) -> str:
        """Return why a node must be taken apart, ``""`` when it can stay.

        What a rewrite made must be known to run; what the user's model has is left when it may.
        """
        if node.loc.by and _is_number(node):
            return ""
        reason = self.legality.why_not(node, proven=bool(node.loc.by))
        if reason or self.ctx.select == "fused" or not self.legality.fused_by_function(node):
            return reason  # what is most fused stays, even where only its definition runs
        return f"{self.legality.provider} has no kernel of {node.op}, only its definition"

    def expand(self, node: Node) -> list[Node] | str:
        """Put what defines a node in its place and return the new nodes, or why that is not possible.

        A definition by operators that run is preferred to one that must be taken apart further.
        """
        history = self._came_from.get(node, frozenset())
        self._barred = history - {node.qualified}
        made = self.strict.at(node) or self.lenient.at(node) or self._by_standard(node)
        if not isinstance(made, str):
            self._came_from.update(dict.fromkeys(made, history | {node.qualified}))
        return made

    def _by_standard(self, node: Node) -> list[Node] | str:
        body = self._body(node)
        return body if isinstance(body, str) else self._inline(node, body)

    def why_never(self, node: Node) -> str:
        """Return why a node would neither run nor could be taken apart, ``""`` when one of the two is so."""
        return self._never(node, 0)

    def _never(self, node: Node, depth: int) -> str:
        reason = self._why_not_at_once(node)
        if not reason:
            return ""
        if node.qualified in self._barred:
            return f"{reason}, and it is defined by what was taken apart to make it"
        if node.qualified in self.lenient.roots:
            return ""
        if depth == _DEEPEST:
            return reason
        body = self._body(node, depth + 1)
        return reason if isinstance(body, str) else ""

    def _body(self, node: Node, depth: int = 0) -> Model | str:
        """Return the standard's definition of a node if it ends in operators that run, or why not."""
        definition = node_schema(node)
        if self.legality.bodies is None or definition is None or not definition.has_function:
            return f"nothing defines {node.qualified}"
        if is_random(node) or not definition.deterministic:
            return f"{node.op} draws random numbers"
        body = self.legality.bodies(node)
        if isinstance(body, str):
            return body
        if body.graph not in self._ends:
            self._ends[body.graph] = ""  # a definition that comes back to itself is cut off by its depth
            reasons = (self._never(n, depth) for n in body.graph.all_nodes())
            self._ends[body.graph] = next(filter(None, reasons), "")
        reason = self._ends[body.graph]
        return f"its definition does not run either: {reason}" if reason else body

    def _inline(self, node: Node, body: Model) -> list[Node] | str:
        """Put a copy of a definition in the place of a node, or return how it contradicts what is known of the node."""
        given = [v for v in node.inputs if v is not None]
        operands: dict[Value, Value | None] = dict(zip(body.graph.inputs, given, strict=True))
        standing, made = copy_nodes(body.graph, operands, node, loc=edit.merge_locs([node], BY))
        infer_nodes(made)
        wanted = iter(body.graph.outputs)
        results = [None if o.absent else standing[next(wanted)] for o in node.outputs]
        pairs = [(old, new) for old, new in zip(node.outputs, results, strict=True) if new is not None]
        change = next(filter(None, (type_change(old.type, new.type) for old, new in pairs)), "")
        if change:  # such as a dim that is one symbol here, and a number by an operand that broadcasts
            for n in reversed(made):
                edit.erase(n)
            self.took_back = True
            return f"its definition gives another type: {change}"
        for old, new in pairs:
            edit.refine(new, old.type)
        replace_by(node, results, made)
        for n in made:
            self.strict.order.insert(n)
        self.strict.order.forget(node)
        self.ctx.count(f"{BY} {node.op}")
        return made

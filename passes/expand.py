"""Take operators apart that the target has no kernel for, so that what is emitted runs there."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from compiler.ir.graph import Graph, Node
from compiler.rewrite.engine import open_graphs
from compiler.rewrite.expansion import Expander
from compiler.rewrite.transform import Context, Pass


@dataclass(frozen=True)
class Expand(Pass):
    """Replace every operator that the target lacks by its definition, down to operators that it has.

    Theorem: an operator equals its definition, ours (rules of the stage ``expand``) or the standard's. What cannot be
    taken apart stays, and the report says why.
    """

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Look at every node once, and at what it is replaced by."""
        expander = Expander(ctx)
        changed = False
        for body in list(open_graphs(graph)):
            changed = _expand(body, expander, ctx) or changed
        return changed or expander.took_back


def _expand(graph: Graph, expander: Expander, ctx: Context) -> bool:
    queue: deque[Node] = deque(graph.nodes())
    changed = False
    while queue:
        node = queue.popleft()
        reason = expander.why_needed(node) if node.graph is not None else ""
        if not reason:
            continue
        made = expander.expand(node)
        if isinstance(made, str):
            ctx.refuse(f"{node.qualified} stays: {reason}; {made}")
            continue
        changed = True
        queue.extend(made)
    return changed

"""Take operators apart that no opset has that may be emitted, whoever then runs what they are made of.

``expand`` takes apart what the target's first provider does not run, as long as it runs the parts.  A node that is
newer than the target's opsets cannot stay even where it does not: then the parts need only run on the processor.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from compiler.ir.graph import Graph, Node
from compiler.rewrite.expansion import Expander
from compiler.rewrite.legal import Legality
from compiler.rewrite.transform import Context


def take_new_apart(graph: Graph, ctx: Context) -> bool:
    """Take apart the nodes of one graph that are too new; returns whether there were any."""
    legality = ctx.legality
    if not isinstance(legality, Legality) or not legality.highest:
        return False
    expander: Expander | None = None
    changed = False
    queue: deque[Node] = deque(n for n in graph.nodes() if legality.too_new(n))
    while queue:
        node = queue.popleft()
        expander = expander or Expander(replace(ctx, legality=legality.on_the_host()))
        made = expander.expand(node)
        if isinstance(made, str):
            ctx.refuse(f"{node.qualified} is newer than the target's opsets: {made}")
            continue
        ctx.count(f"{node.op} in older operators")
        changed = True
        queue.extend(n for n in made if n.graph is not None and legality.too_new(n))
    return changed or (expander is not None and expander.took_back)

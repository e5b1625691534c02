"""Bring nodes into the form that the target's provider takes: attributes, ranks, paddings, widths of indices.

What no kernel runs at all was taken apart before (``expand``).  What is left here are nodes that the provider would run
in another form, and that would break its partition in two as they are.  A node that has no such form stays, and the
report of the placement says where it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compiler.ir.facts import known_ints
from compiler.ir.graph import Attr, Graph, Node
from compiler.rewrite.engine import open_graphs
from compiler.rewrite.transform import Context, Pass
from passes.legalize_indices import flatten_indices, narrow_indices
from passes.legalize_masks import move_as_numbers
from passes.legalize_nodes import ints, retargeted
from passes.legalize_opset import take_new_apart
from passes.legalize_ranks import lower_rank
from passes.node_forms import is_current

_ROUNDS = 4
"""Times that all nodes are looked at: what one step makes may be for another."""

Step = Callable[[Node, Context, str], bool]
"""Rewrites a node, the pass of this name being the cause; returns whether it did."""


@dataclass(frozen=True)
class Legalize(Pass):
    """Write nodes in the form that the target's provider takes, where it refuses the form that they have."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Try every step on every node."""
        changed = False
        for body in list(open_graphs(graph)):
            changed |= take_new_apart(body, ctx)
            rounds = 0
            while rounds < _ROUNDS and self._once(body, ctx):
                rounds, changed = rounds + 1, True
        return changed

    def _once(self, graph: Graph, ctx: Context) -> bool:
        changed = False
        for node in list(graph.nodes()):
            for step in STEPS:
                if node.graph is not None:
                    changed |= step(node, ctx, self.name)
        return changed


def _plain_reshape(node: Node, ctx: Context, by: str) -> bool:
    """A ``Reshape`` to sizes none of which is zero means the same whatever ``allowzero`` says."""
    if not is_current(node, "Reshape") or not node.attr("allowzero", 0):
        return False
    sizes = known_ints(node.input(1))
    if sizes is None or 0 in sizes:
        return False
    ctx.count("Reshape without allowzero")
    retargeted(node, by, node.inputs, {k: a for k, a in node.attributes.items() if k != "allowzero"})
    return True


def _full_pad(node: Node, ctx: Context, by: str) -> bool:
    """Padding along some axes is padding along all of them, by nothing along the others."""
    data = node.input(0)
    if not is_current(node, "Pad") or node.input(3) is None or data is None or not _refused(node, ctx):
        return False
    pads, axes, rank = known_ints(node.input(1)), known_ints(node.input(3)), data.rank
    if pads is None or axes is None or rank is None or len(pads) != 2 * len(axes):
        return False
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis % rank], full[axis % rank + rank] = pads[i], pads[i + len(axes)]
    assert node.graph is not None
    amounts = ints(node.graph, full)
    ctx.count("Pad along all axes")
    retargeted(node, by, [data, amounts, node.input(2)], node.attributes)
    return True


def _named_axes(node: Node, ctx: Context, by: str) -> bool:
    """A reduction along named axes means the same whatever it would do without any."""
    if not node.op.startswith("Reduce") or node.domain or not node.attr("noop_with_empty_axes", 0):
        return False
    axes = known_ints(node.input(1))
    if not axes:
        return False
    ctx.count("reduction along named axes")
    kept: dict[str, Attr] = {k: a for k, a in node.attributes.items() if k != "noop_with_empty_axes"}
    retargeted(node, by, node.inputs, kept)
    return True


def _refused(node: Node, ctx: Context) -> bool:
    return ctx.legality is not None and bool(ctx.legality(node))


STEPS: tuple[Step, ...] = (
    _plain_reshape,
    _full_pad,
    _named_axes,
    lower_rank,
    flatten_indices,
    narrow_indices,
    move_as_numbers,
)
"""What is tried on each node, in this order."""

"""Fold constant factors, divisors and summands that follow a linear operator into its weight and bias.

Theorem.  Let ``y = W x + b`` be ``Conv``, ``ConvTranspose``, ``Gemm`` or ``MatMul`` with a constant weight,
read by nothing but the next node, and let that node be ``Mul``, ``Div``, ``Add`` or ``Sub`` of ``y`` and a
finite constant that is the same for all elements of an output channel and does not enlarge ``y``.  Then its
result is ``(s W) x + (s b + t)``, with one ``s`` and one ``t`` per output channel.  The constant may stand on
either side, except in ``constant / y``; a divisor must have no zero.  The claim composes: a chain of such
nodes is one map, rounded once.

Decisions:

* A ``MatMul`` has no bias, so that an ``Add`` stays behind it when the chain shifts.  Its chain is folded
  only when that leaves fewer nodes: ``MatMul`` and ``Add`` alone are left as they are.
* When a chain is refused, for example since the weight is shared, the shifts at its start are folded without
  it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from compiler.ir.graph import Graph, Node
from compiler.rewrite.transform import Context, Pass
from passes.affine import Affine, Linear, chain, elementwise, fold, linear_of, total
from passes.node_forms import open_graphs


@dataclass(frozen=True)
class FoldScale(Pass):
    """Fold constants that multiply, divide, add or subtract into the linear operator before them."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Visit each linear operator once, and take the whole chain that follows it."""
        changed = False
        for g in open_graphs(graph):
            for node in g.nodes():
                linear = linear_of(node)
                changed |= linear is not None and _visit(linear, ctx, self.name)
        return changed


def _visit(linear: Linear, ctx: Context, by: str) -> bool:
    steps, refusal = chain(linear, elementwise)
    if refusal:
        ctx.refuse(refusal)
    if _try(linear, steps, ctx, by):
        return True
    shifts = list(takewhile(lambda step: step[1].only_shifts, steps))
    return len(shifts) < len(steps) and _try(linear, shifts, ctx, by)


def _try(linear: Linear, steps: Sequence[tuple[Node, Affine]], ctx: Context, by: str) -> bool:
    if not steps:
        return False
    affine = total(steps)
    if linear.node.op == "MatMul" and not affine.only_scales and len(steps) < 2:
        return False
    refusal = fold(linear, steps, by)
    if refusal:
        ctx.refuse(refusal)
        return False
    ctx.count(f"{linear.node.op}{'Bias' if affine.only_shifts else 'Scale'}")
    return True

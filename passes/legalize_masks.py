"""Move truth values as numbers where the provider moves numbers only.

Theorem: an operator that only moves elements gives the same for truth values as for the zeros and ones that stand for
them; casts to a number and back change nothing.
"""

from __future__ import annotations

from compiler.ir import edit
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Node
from compiler.rewrite.transform import Context
from passes.legalize_nodes import added
from passes.node_forms import is_current, let_stand_for

_MOVES = frozenset(
    {"Concat", "Expand", "Gather", "GatherElements", "GatherND", "Reshape", "Slice", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)
_CARRIERS = (DType.I32, DType.F32)


def move_as_numbers(node: Node, ctx: Context, by: str) -> bool:
    """Move truth values as numbers if that runs and they themselves do not; returns whether that was done."""
    if ctx.legality is None or not is_current(node, *_MOVES) or node.output.dtype is not DType.BOOL:
        return False
    reason = ctx.legality(node)
    if not reason:
        return False
    count = len(node.inputs) if node.is_op("Concat") else 1
    for carrier in _CARRIERS:
        to = {"to": Attr("int", carrier.code)}
        numbers = [added(node, by, "Cast", [v], to) if v is not None else None for v in node.inputs[:count]]
        moved = added(node, by, node.op, [*numbers, *node.inputs[count:]], node.attributes)
        back = added(node, by, "Cast", [moved], {"to": Attr("int", DType.BOOL.code)})
        made = [v.node for v in (back, moved, *numbers) if v is not None and v.node is not None]
        if not any(ctx.legality(n) for n in made):
            ctx.count(f"{node.op} of truth values by {carrier}")
            let_stand_for(node, back)
            return True
        for n in dict.fromkeys(made):
            edit.erase(n)
    return False

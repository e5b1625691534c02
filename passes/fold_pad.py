"""Fold padding with a constant into the convolution or pooling that follows it.

All three theorems are about a ``Pad`` of mode ``constant`` by known, non-negative amounts along spatial dims
only, which nothing reads but the next node, whose ``auto_pad`` is ``NOTSET`` or ``VALID``.  The windows of
the next node lie at the same places when the amounts are added to its ``pads``.

* ``Conv``, padded with zero: its own padding is zero, so that every window reads the same numbers.
* ``MaxPool``, padded with minus infinity, which is the operator's own padding.  Conditions: ``ceil_mode`` is
  0 (else the rule that the last window must start inside the data would drop another window), and the indices
  are not wanted, since they count in the padded tensor.
* ``AveragePool``, padded with zero: the sum over a window is the same, what matters is the number that it is
  divided by. With ``ceil_mode=0`` every window lies inside the padded data, so that before the fold the
  divisor is the full size of the window if (a) ``count_include_pad=1``, or (b) the pool has no pads of its
  own, and then every element counts. After the fold the divisor is the full size exactly when
  ``count_include_pad=1``: (a) has it, in (b) it is set.  A pool with pads of its own that it does not count
  is left alone: no value of the attribute gives its divisors.

Decisions: runtimes demand that the pads of a pool are smaller than its window, so that larger ones are
refused, and so are pools with dilations, whose windows could lie in the padding altogether.
``ConvTranspose`` is left alone: its ``pads`` crop the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compiler.ir import edit
from compiler.ir.facts import known_ints, scalar_constant
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.rewrite.transform import Context, Pass
from passes.affine import only_reader, returned_elsewhere
from passes.node_forms import erase_unused, is_current, open_graphs, rewrite

_NEUTRAL = {"Conv": 0.0, "AveragePool": 0.0, "MaxPool": -math.inf}
"""Operator → the number that it pads with by itself."""


@dataclass(frozen=True)
class FoldPad(Pass):
    """Fold constant padding into the pads of the convolution or pooling after it."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Visit each convolution and pooling; several ``Pad`` before it are taken one after the other."""
        changed = False
        for g in open_graphs(graph):
            for node in g.nodes():
                current: Node | None = node
                while current is not None and (pad := _pad_before(current)) is not None:
                    current = _visit(current, pad, ctx, self.name)
                    changed |= current is not None
        return changed


def _pad_before(node: Node) -> Node | None:
    """Return the ``Pad`` that only this node reads, as its data."""
    if not is_current(node, *_NEUTRAL):
        return None
    data = node.input(0)
    pad = data.node if data is not None else None
    if data is None or pad is None or not is_current(pad, "Pad"):
        return None
    if pad.attr("mode", "constant") != "constant" or returned_elsewhere(node.output):
        return None
    return pad if only_reader(data) is node else None


def _visit(node: Node, pad: Node, ctx: Context, by: str) -> Node | None:
    """Fold one ``Pad`` and return the node that took the other's place, ``None`` when it was refused."""
    amounts = _amounts(pad, node)
    attributes = _padded(node, amounts) if isinstance(amounts, tuple) else amounts
    if isinstance(attributes, str):
        ctx.refuse(attributes)
        return None
    ctx.count(f"Pad{node.op}")
    return _fold(node, pad, attributes, by)


def _amounts(pad: Node, node: Node) -> tuple[int, ...] | str:
    """Return what a ``Pad`` adds before each spatial dim, then after each, or why that cannot be folded."""
    rank = _rank(node)
    if rank is None:
        return "the rank is not known"
    if not _fills_with(pad.input(2), _NEUTRAL[node.op]):
        return "the padding is filled with another number"
    pads = known_ints(pad.input(1))
    axes = tuple(range(rank)) if pad.input(3) is None else known_ints(pad.input(3))
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        return "the amounts of padding are not known"
    places = [a + rank if a < 0 else a for a in axes]
    if len(set(places)) != len(places) or any(not 0 <= p < rank for p in places):
        return "the axes of the padding are not valid"
    if any(p < 0 for p in pads):
        return "the padding crops"
    full = [0] * (2 * rank)
    for i, place in enumerate(places):
        full[place], full[place + rank] = pads[i], pads[i + len(places)]
    if any(full[i] for i in (0, 1, rank, rank + 1)):
        return "the padding is not only along spatial dims"
    return (*full[2:rank], *full[rank + 2 :])


def _rank(node: Node) -> int | None:
    """Return the rank of a node's data, from its weight or window when the data's own is not known."""
    if node.op == "Conv":
        weight, data = node.input(1), node.input(0)
        known = weight.rank if weight is not None else None
        return known if known is not None or data is None else data.rank
    kernel = node.attr("kernel_shape")
    return None if kernel is None else len(kernel) + 2


def _fills_with(value: Value | None, number: float) -> bool:
    """True when the fill value of a ``Pad`` equals a number; zero is the default."""
    if value is None:
        return number == 0.0
    found = scalar_constant(value)
    return found is not None and bool(found == number)


def _padded(node: Node, amounts: tuple[int, ...]) -> dict[str, Attr] | str:
    """Return the attributes of a node that pads its data itself, or why it cannot."""
    mode = node.attr("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID"):
        return "the padding depends on the size of the data"
    own = tuple(node.attr("pads") or ()) if mode == "NOTSET" else ()
    own = own or (0,) * len(amounts)
    if len(own) != len(amounts) or any(p < 0 for p in own):
        return "the pads of the operator are not valid"
    pads = tuple(a + b for a, b in zip(own, amounts, strict=True))
    attributes = {k: v for k, v in node.attributes.items() if k != "auto_pad"}
    attributes["pads"] = Attr("ints", pads)
    if node.op == "Conv":
        return attributes
    refusal = _unfit_pool(node, own, pads)
    if refusal:
        return refusal
    if node.op == "AveragePool":
        attributes["count_include_pad"] = Attr("int", 1)
    return attributes


def _unfit_pool(node: Node, own: tuple[int, ...], pads: tuple[int, ...]) -> str:
    """Return why a pool cannot take over padding, or nothing."""
    kernel = tuple(node.attr("kernel_shape"))
    if node.attr("ceil_mode", 0):
        return "the pool rounds its size up"
    if any(d != 1 for d in node.attr("dilations") or ()):
        return "the pool has dilations"
    if any(o.is_used or not o.absent for o in node.outputs[1:]):
        return "the indices of the pool are wanted"
    if node.op == "AveragePool" and any(own) and not node.attr("count_include_pad", 0):
        return "the pool does not count its own padding"
    if any(p >= k for p, k in zip(pads, kernel * 2, strict=True)):
        return "the padding is not smaller than the window"
    return ""


def _fold(node: Node, pad: Node, attributes: dict[str, Attr], by: str) -> Node:
    loc = edit.merge_locs([pad, node], by)
    operands = [i for i in pad.inputs[1:] if i is not None and i.constant is not None]
    made = rewrite(node, by, node.op, [pad.inputs[0], *node.inputs[1:]], attributes)
    edit.set_loc(made, loc)
    erase_unused(pad.output)
    for operand in dict.fromkeys(operands):
        if not operand.is_used:
            edit.erase_constant(operand)
    return made

"""Remove operators that give back their input.

Each function below is a theorem: it returns the value that the node's first output equals in every execution,
or ``None``.  Where the result's shape could differ from the input's (broadcasting, reshaping) the types that
inference found must be equal, symbol by symbol.

Decisions:

* ``x + 0.0`` stays: it turns ``-0.0`` into ``0.0``, and a division tells the two apart.  ONNX Runtime removes it when
  it loads the model, so nothing is lost; ``x + -0.0`` and ``x - 0.0`` are ``x``.
* ``Clip`` without bounds is removed for integers only: for floats ONNX Runtime clips infinities to the
  largest number.
* ``Slice`` with steps of one that changes no dim is the identity, whatever its bounds are.
* An ``Identity`` that keeps the name of a graph's output apart from an input, a constant or another output
  stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.facts import known_ints
from compiler.ir.graph import Graph, Node, Value
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import all_equal, is_current, let_stand_for, open_graphs, permutation, same_type

Theorem: TypeAlias = Callable[[Node], Value | None]


def _identity(node: Node) -> Value | None:
    source = node.input(0)
    return None if source is None or edit.needs_carrier(node.output, source) else source


def _only_input(node: Node) -> Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _same_type(node: Node) -> Value | None:
    source = node.input(0)
    return source if source is not None and same_type(source, node.output) else None


def _dropout(node: Node) -> Value | None:
    """Dropout in inference mode, when nobody reads the mask."""
    mode = node.input(2)
    if any(o.is_used for o in node.outputs[1:]) or (mode is not None and not all_equal(mode, False)):
        return None
    return node.input(0)


def _cast(node: Node) -> Value | None:
    source = node.input(0)
    if source is None or not source.dtype.code or node.attr("to") != source.dtype.code:
        return None
    return source


def _transpose(node: Node) -> Value | None:
    order = permutation(node)
    return node.input(0) if order is not None and order == tuple(range(len(order))) else None


def _clip(node: Node) -> Value | None:
    source = node.input(0)
    return source if source is not None and len(node.inputs) == 1 and source.dtype.is_integer else None


def _pad(node: Node) -> Value | None:
    pads = known_ints(node.input(1))
    return node.input(0) if pads is not None and not any(pads) else None


def _tile(node: Node) -> Value | None:
    repeats = known_ints(node.input(1))
    return node.input(0) if repeats is not None and all(r == 1 for r in repeats) else _same_type(node)


def _slice(node: Node) -> Value | None:
    steps = node.input(4)
    known = known_ints(steps)
    forward = steps is None or (known is not None and all(s == 1 for s in known))
    return _same_type(node) if forward else None


def _split(node: Node) -> Value | None:
    return node.input(0) if len(node.outputs) == 1 else None


def _where(node: Node) -> Value | None:
    condition, yes, no = node.input(0), node.input(1), node.input(2)
    if yes is not None and yes is no and same_type(yes, node.output):
        return yes
    chosen = yes if all_equal(condition, True) else no if all_equal(condition, False) else None
    return chosen if chosen is not None and same_type(chosen, node.output) else None


def _involution(node: Node) -> Value | None:
    """``Neg(Neg(x))`` and ``Not(Not(x))`` are ``x``."""
    source = node.input(0)
    inner = source.node if source is not None else None
    return inner.input(0) if inner is not None and inner.is_op(node.op) else None


def _idempotent(node: Node) -> Value | None:
    """``f(f(x))`` is ``f(x)`` for rectifying and rounding."""
    source = node.input(0)
    inner = source.node if source is not None else None
    return source if inner is not None and inner.is_op(node.op) else None


def _neutral(number: float | bool, *, either_side: bool, negative_zero: bool = False) -> Theorem:
    """Return the theorem that an operand which is ``number`` everywhere changes nothing.

    ``negative_zero`` demands that a float operand is ``-0.0``.
    """

    def theorem(node: Node) -> Value | None:
        if len(node.inputs) != 2:
            return None
        left, right = node.inputs
        return _unless_neutral(node, left, right) or (_unless_neutral(node, right, left) if either_side else None)

    def _unless_neutral(node: Node, data: Value | None, operand: Value | None) -> Value | None:
        if data is None or operand is None or operand.constant is None:
            return None
        fits = operand.constant.shape == () or same_type(data, node.output)
        if not fits or not all_equal(operand, number):
            return None
        return data if not negative_zero or _is_negative_zero(operand.constant) else None

    return theorem


def _is_negative_zero(zero: Constant) -> bool:
    """True for zeros of an integer type, and for floats with their sign set."""
    return not zero.dtype.is_float or bool(np.all(np.signbit(zero.array().astype(np.float64))))


THEOREMS: dict[str, Theorem] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Clip": _clip,
    "Pad": _pad,
    "Tile": _tile,
    "Slice": _slice,
    "Split": _split,
    "Where": _where,
    **dict.fromkeys(("Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze"), _same_type),
    **dict.fromkeys(("Sum", "Max", "Min", "Mean", "Concat"), _only_input),
    **dict.fromkeys(("Neg", "Not"), _involution),
    **dict.fromkeys(("Relu", "Abs", "Ceil", "Floor", "Round", "Sign"), _idempotent),
    "Add": _neutral(0, either_side=True, negative_zero=True),
    "Sub": _neutral(0, either_side=False),
    "Mul": _neutral(1, either_side=True),
    "Div": _neutral(1, either_side=False),
    "Pow": _neutral(1, either_side=False),
    "And": _neutral(True, either_side=True),
    "Or": _neutral(False, either_side=True),
    "Xor": _neutral(False, either_side=True),
}
"""Operator of the default domain → the theorem that names the value it gives back."""


@dataclass(frozen=True)
class NoOps(Pass):
    """Remove operators that give back their input.

    ``Identity``, adding zero, multiplying by one, casts to the same type, reshapes to the same shape,
    inference-mode ``Dropout``, ``Where`` with a constant condition, and the like; empty parts of a ``Concat``
    go too.
    """

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Remove them in one sweep: operands come before the nodes that read them."""
        changed = False
        for g in open_graphs(graph):
            for node in g.nodes():
                changed |= _visit(node, ctx)
        return changed


def _visit(node: Node, ctx: Context) -> bool:
    theorem = THEOREMS.get(node.op)
    if theorem is None or not node.outputs or not node.output.is_used:
        return False
    if not is_current(node, node.op) and not node.is_op("Identity"):
        return False
    changed = node.op == "Concat" and _drop_empty_parts(node)
    source = theorem(node)
    if source is None or source is node.output:
        return changed
    ctx.count(f"drop {node.op}")
    let_stand_for(node, source)
    return True


def _drop_empty_parts(node: Node) -> bool:
    """Drop the inputs of a ``Concat`` that have no elements along its axis, as long as one input is left."""
    axis = node.attr("axis", 0)
    kept = [i for i in node.inputs if not _is_empty_along(i, axis)]
    if not kept or len(kept) == len(node.inputs):
        return False
    edit.set_inputs(node, kept)
    return True


def _is_empty_along(value: Value | None, axis: int) -> bool:
    shape = value.shape if value is not None else None
    return shape is not None and -len(shape) <= axis < len(shape) and shape[axis] == 0

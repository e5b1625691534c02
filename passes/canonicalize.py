"""Bring nodes into one normal form, so that a rule is written once.

Each step is exact, and no step adds work:

* A constant is the second operand of a commutative operator (IEEE addition and multiplication commute); a
  comparison with a constant on the left is turned round.
* The last axis is written ``-1`` where that is the operator's default (``Softmax``, ``LayerNormalization``)
  and in reductions over it; axes that ``Squeeze`` leaves open are written out when the shape is static.
* ``Transpose`` says its order.  ``Sum`` of two is ``Add``.  ``CastLike`` of a known type is ``Cast``; its
  other attributes (``saturate``) are kept.  ``Constant`` nodes are constants.

Left alone on purpose: ``Max`` and ``Min`` (which operand is a NaN decides in some kernels), ``Pow(x, 2)``,
division by a constant (the product with the reciprocal rounds differently), ``Squeeze`` and ``Flatten``
against ``Reshape``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.facts import known_ints
from compiler.ir.forms import REDUCTIONS
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import (
    has_axes_input,
    is_current,
    open_graphs,
    permutation,
    replace_by_constant,
    rewrite,
)

Step: TypeAlias = Callable[[Node], bool]

_NAME = "canonicalize"

_TURNED = {
    "Less": "Greater", "Greater": "Less", "LessOrEqual": "GreaterOrEqual", "GreaterOrEqual": "LessOrEqual",
}  # fmt: skip

_COMMUTATIVE = ("Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
_LAST_BY_DEFAULT = ("Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "RMSNormalization")
@dataclass(frozen=True)
class Canonicalize(Pass):
    """Bring nodes into one normal form: order of operands, spelling of axes, one operator for one meaning."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Sweep until every node is in its form: one step may make room for another."""
        changed = False
        while _sweep(graph, ctx):
            changed = True
        return changed


def _sweep(graph: Graph, ctx: Context) -> bool:
    changed = False
    for g in open_graphs(graph):
        for node in g.nodes():
            step = STEPS.get(node.op)
            if step is None or not _has_known_form(node) or not step(node):
                continue
            ctx.count(f"canonical {node.op}")
            changed = True
    return changed


def _has_known_form(node: Node) -> bool:
    return is_current(node, node.op) or node.is_op("Constant")


def _constant_second(node: Node) -> bool:
    if len(node.inputs) != 2:
        return False
    left, right = node.inputs
    if left is None or right is None or left.constant is None or right.constant is not None:
        return False
    edit.set_inputs(node, (right, left))
    return True


def _turn_comparison(node: Node) -> bool:
    left, right = node.input(0), node.input(1)
    if left is None or right is None or left.constant is None or right.constant is not None:
        return False
    rewrite(node, _NAME, _TURNED[node.op], (right, left))
    return True


def _axis_of_last(node: Node) -> bool:
    """Write the last axis as -1, which is the default."""
    axis, data = node.attr("axis"), node.input(0)
    if axis is None or axis < 0 or data is None or data.rank is None or axis != data.rank - 1:
        return False
    edit.set_attribute(node, "axis", Attr("int", -1))
    return True


def _reduced_last(node: Node) -> bool:
    """Write the only axis of a reduction as -1 when it is the last."""
    data, axes = node.input(0), node.input(1)
    if not has_axes_input(node) or data is None or data.rank is None or axes is None or axes.constant is None:
        return False
    if axes.constant.shape != (1,) or known_ints(axes) != (data.rank - 1,):
        return False
    _set_axes(node, (-1,))
    return True


def _set_axes(node: Node, axes: tuple[int, ...]) -> None:
    assert node.graph is not None
    made = edit.add_constant(node.graph, Constant.of(axes, DType.I64), hint=f"{node.output.name}_axes")
    edit.set_input(node, 1, made)


def _squeezed_axes(node: Node) -> bool:
    """Write out the axes of a ``Squeeze`` of all dims of one."""
    data = node.input(0)
    shape = data.shape if data is not None else None
    if len(node.inputs) != 1 or shape is None or not all(isinstance(d, int) for d in shape) or 1 not in shape:
        return False
    _set_axes(node, tuple(i for i, d in enumerate(shape) if d == 1))
    return True


def _order_of_transpose(node: Node) -> bool:
    order = permutation(node)
    if node.attr("perm") is not None or order is None:
        return False
    edit.set_attribute(node, "perm", Attr("ints", order))
    return True


def _sum_of_two(node: Node) -> bool:
    if len(node.inputs) != 2 or None in node.inputs:
        return False
    rewrite(node, _NAME, "Add", node.inputs)
    return True


def _cast_like(node: Node) -> bool:
    data, like = node.input(0), node.input(1)
    if data is None or like is None or not like.dtype.code:
        return False
    attributes = {**node.attributes, "to": Attr("int", like.dtype.code)}
    rewrite(node, _NAME, "Cast", (data,), attributes)
    return True


def _constant_node(node: Node) -> bool:
    constant = _constant_of(node)
    if constant is None or not node.output.is_used:
        return False
    replace_by_constant(node.output, constant)
    return True


def _constant_of(node: Node) -> Constant | None:
    """Return what a ``Constant`` node holds, ``None`` for the sparse form."""
    ((name, attr), *rest) = node.attributes.items() or (("", None),)
    if rest or attr is None or name == "sparse_value":
        return None
    value: Value | object = attr.value
    if isinstance(value, Constant):
        return value
    kinds = {"float": DType.F32, "floats": DType.F32, "int": DType.I64, "ints": DType.I64}
    if attr.kind in kinds:
        return Constant.of(value, kinds[attr.kind])
    return Constant.from_array(np.asarray(value, dtype=object), DType.STRING)


STEPS: dict[str, Step] = {
    **dict.fromkeys(_COMMUTATIVE, _constant_second),
    **dict.fromkeys(_TURNED, _turn_comparison),
    **dict.fromkeys(_LAST_BY_DEFAULT, _axis_of_last),
    **dict.fromkeys(REDUCTIONS, _reduced_last),
    "Squeeze": _squeezed_axes,
    "Transpose": _order_of_transpose,
    "Sum": _sum_of_two,
    "CastLike": _cast_like,
    "Constant": _constant_node,
}
"""Operator of the default domain → the step that brings it into its normal form."""

"""Lower the rank of tensors below what a provider takes, by treating axes that stay side by side as one.

Theorems, for shapes that are known.

* ``Transpose``: axes of size one can stand anywhere, and axes that are neighbours, in the same order, before and after
  move as one.  So it is a ``Reshape``, a ``Transpose`` of the groups and a ``Reshape``.
* An elementwise operator does not know of axes but for broadcasting: neighbouring axes along which each operand is
  either whole or of size one are one axis.
* ``Softmax`` and its like along the last axis, and ``MatMul`` of operands with equal leading axes, do not know of the
  other axes at all.

The new ``Reshape`` meet those of the neighbours, and become one with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from compiler.ir.graph import Attr, Node, Value
from compiler.rewrite.transform import Context
from passes.legalize_nodes import added, reshaped
from passes.node_forms import is_current, let_stand_for, permutation

_ELEMENTWISE = frozenset(
    {"Abs", "Add", "And", "Cast", "Ceil", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater"}
    | {"GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max"}
    | {"Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign"}
    | {"Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "Where", "Xor"}
)
_ALONG_THE_LAST = ("Softmax", "LogSoftmax")

Sizes = tuple[int, ...]


def lower_rank(node: Node, ctx: Context, by: str) -> bool:
    """Rewrite a node with more axes than the provider takes; returns whether that was done."""
    constraints = getattr(ctx.target, "constraints", None)
    limit = constraints.max_rank if constraints is not None else None
    if limit is None or node.domain or len(node.outputs) != 1 or max(_ranks(node), default=0) <= limit:
        return False
    shapes = [_sizes(v) for v in (*node.inputs, node.output)]
    if any(s is None for s in shapes):
        return False
    made = _lowered(node, by, limit)
    if made is None:
        if not node.is_op("Reshape"):
            ctx.refuse(f"{node.op} keeps {max(_ranks(node))} axes, of which the target takes {limit}")
        return False
    ctx.count(f"{node.op} of fewer axes")
    let_stand_for(node, made)
    return True


def _ranks(node: Node) -> list[int]:
    return [v.rank for v in (*node.inputs, *node.outputs) if v is not None and v.rank is not None]


def _sizes(value: Value | None) -> Sizes | None:
    """Return the sizes of a value; those of an operand that is left out are none at all."""
    if value is None:
        return ()
    shape = value.shape
    if shape is None:
        return None
    sizes = tuple(d for d in shape if isinstance(d, int))
    return sizes if len(sizes) == len(shape) else None


def _lowered(node: Node, by: str, limit: int) -> Value | None:
    if is_current(node, "Transpose"):
        return _transposed(node, by, limit)
    if is_current(node, *_ELEMENTWISE):
        return _elementwise(node, by, limit)
    if is_current(node, *_ALONG_THE_LAST):
        return _along_the_last(node, by)
    return _product(node, by) if is_current(node, "MatMul") else None


def _known(value: Value | None) -> Sizes:
    sizes = _sizes(value)
    assert sizes is not None
    return sizes


def _transposed(node: Node, by: str, limit: int) -> Value | None:
    order, data = permutation(node), node.inputs[0]
    sizes = _known(data)
    if order is None or data is None:
        return None
    groups: list[list[int]] = []  # axes in the order of the result
    for axis in (a for a in order if sizes[a] != 1):
        before = groups[-1][-1] if groups else None
        if before is not None and all(sizes[a] == 1 for a in range(before + 1, axis)) and before < axis:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    if len(groups) > limit:
        return None
    places = sorted(range(len(groups)), key=lambda i: groups[i])
    merged = [math.prod(sizes[a] for a in groups[i]) for i in places]
    flat = reshaped(node, by, data, merged)
    rank_of = {place: i for i, place in enumerate(places)}
    perm = tuple(rank_of[i] for i in range(len(groups)))
    if perm != tuple(range(len(perm))):
        flat = added(node, by, "Transpose", [flat], {"perm": Attr("ints", perm)})
    return reshaped(node, by, flat, _known(node.output))


def _elementwise(node: Node, by: str, limit: int) -> Value | None:
    whole = _known(node.output)
    shapes = [(1,) * (len(whole) - len(_known(v))) + _known(v) for v in node.inputs]
    groups: list[list[int]] = []
    kinds: list[tuple[bool, ...]] = []
    for axis, size in enumerate(whole):
        if size == 1:
            continue
        kind = tuple(shape[axis] == 1 for shape in shapes)
        if kinds and kinds[-1] == kind:
            groups[-1].append(axis)
        else:
            groups.append([axis])
            kinds.append(kind)
    if len(groups) > limit:
        return None
    operands: list[Value | None] = []
    for value, shape in zip(node.inputs, shapes, strict=True):
        if value is None or math.prod(shape) == 1:
            operands.append(_scalar(node, by, value))
        else:
            operands.append(reshaped(node, by, value, _merged(shape, groups)))
    return reshaped(node, by, added(node, by, node.op, operands, node.attributes), whole)


def _scalar(node: Node, by: str, value: Value | None) -> Value | None:
    """Return an operand of one element without axes, unless it is the one that says how many there are."""
    if value is None or not value.rank or math.prod(_known(value)) != 1:
        return value
    return reshaped(node, by, value, ())


def _merged(shape: Sizes, groups: Sequence[Sequence[int]]) -> list[int]:
    return [math.prod(shape[a] for a in group) for group in groups]


def _along_the_last(node: Node, by: str) -> Value | None:
    data = node.inputs[0]
    sizes = _known(data)
    if data is None or node.attr("axis", -1) not in (-1, len(sizes) - 1):
        return None
    flat = reshaped(node, by, data, [math.prod(sizes[:-1]), sizes[-1]])
    return reshaped(node, by, added(node, by, node.op, [flat], {"axis": Attr("int", -1)}), sizes)


def _product(node: Node, by: str) -> Value | None:
    left, right = node.inputs[0], node.inputs[1]
    a, b = _known(left), _known(right)
    if left is None or right is None or len(a) < 3 or not (a[:-2] == b[:-2] or len(b) == 2):
        return None
    batch = math.prod(a[:-2])
    operands = [reshaped(node, by, left, [batch, *a[-2:]])]
    operands.append(right if len(b) == 2 else reshaped(node, by, right, [batch, *b[-2:]]))
    return reshaped(node, by, added(node, by, "MatMul", operands), _known(node.output))

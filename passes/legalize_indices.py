"""Narrow indices to 32 bits, and flatten them, where the provider wants that.

Theorem: an operator that picks elements along an axis of n elements takes indices from -n to n-1 only, so where n is
known and less than 2³¹ its indices fit into 32 bits.  A constant index below zero is written as what it stands for, n
more, since some converters do not know of it.

``GatherND`` without batch dims takes one place after the other, so that the leading dims of its indices are no more
than the shape of its result: they can be flattened, and the result be given its shape.
"""

from __future__ import annotations

import math

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dims import is_static
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Node, Value
from compiler.rewrite.transform import Context
from passes.legalize_nodes import added, reshaped, retargeted
from passes.node_forms import is_current, let_stand_for

_PICKING = ("Gather", "GatherElements", "ScatterElements")
"""Operators whose second operand holds indices along ``axis``, of 32 bits if one likes."""

_LIMIT = 1 << 31


def narrow_indices(node: Node, ctx: Context, by: str) -> bool:
    """Let an operator read 32-bit indices; returns whether it did not before."""
    constraints = getattr(ctx.target, "constraints", None)
    if constraints is None or not constraints.narrow_int64 or not is_current(node, *_PICKING):
        return False
    indices, size = node.input(1), _size(node)
    if indices is None or indices.dtype is not DType.I64:
        return False
    if size is None:
        ctx.refuse(f"{node.op}: the size of the axis is not known, so indices stay 64-bit")
        return False
    narrow = _constant(indices, size, node) or _cast(indices, node, by)
    ctx.count(f"{node.op} by 32-bit indices")
    retargeted(node, by, [node.inputs[0], narrow, *node.inputs[2:]], node.attributes)
    return True


def flatten_indices(node: Node, ctx: Context, by: str) -> bool:
    """Let ``GatherND`` read a matrix of indices if that runs and the indices as they are do not."""
    data, indices = node.input(0), node.input(1)
    if not is_current(node, "GatherND") or node.attr("batch_dims", 0) or data is None or indices is None:
        return False
    shape, whole = indices.shape, node.output.shape
    if shape is None or whole is None or len(shape) < 3 or not is_static((*shape, *whole)):
        return False
    if ctx.legality is None or not ctx.legality(node):
        return False
    sizes = [n for n in shape if isinstance(n, int)]
    flat = reshaped(node, by, indices, [math.prod(sizes[:-1]), sizes[-1]])
    gathered = added(node, by, "GatherND", [data, flat], node.attributes)
    let_stand_for(node, reshaped(node, by, gathered, [n for n in whole if isinstance(n, int)]))
    ctx.count("GatherND by a matrix of indices")
    return True


def _size(node: Node) -> int | None:
    """Return the number of elements along the axis, when it is known and small enough."""
    data = node.input(0)
    axis = node.attr("axis", 0)
    if data is None or data.shape is None or not -len(data.shape) <= axis < len(data.shape):
        return None
    size = data.shape[axis]
    return size if isinstance(size, int) and size < _LIMIT else None


def _constant(indices: Value, size: int, node: Node) -> Value | None:
    array = indices.array()
    if array is None or node.graph is None:
        return None
    wrapped = np.where(array < 0, array + size, array)
    if wrapped.size and (wrapped.min() < 0 or wrapped.max() >= size):
        return None  # such a model fails when it runs; that is not for us to change
    return edit.add_constant(
        node.graph, Constant.from_array(wrapped.astype(np.int32)), hint=f"{indices.name}/i32"
    )


def _cast(indices: Value, node: Node, by: str) -> Value:
    return added(node, by, "Cast", [indices], {"to": Attr("int", DType.I32.code)})

"""Inference for operators that move data without computing: reshapes, transposes, slices, gathers, padding."""

from __future__ import annotations

from compiler.ir.dims import Dim, Expr, ceil_div, floor_div, is_static, maximum
from compiler.ir.dtype import DType
from compiler.ir.facts import (
    Contents,
    at_least,
    known_contents,
    known_ints,
    known_scalar,
    nonnegative_dim,
)
from compiler.ir.graph import Node
from compiler.ir.infer_rules import (
    MICROSOFT,
    Contradiction,
    Scope,
    Types,
    attribute_constant,
    axis_index,
    axis_indices,
    dtype_at,
    integer,
    integers,
    list_length,
    number_list,
    operand,
    rule,
    static_list,
    tensor,
    with_dim,
)
from compiler.ir.types import Shape, TensorType


@rule("Reshape")
def reshape(node: Node, scope: Scope) -> Types:
    """Read the new dims from the contents of the shape operand; 0 copies, -1 takes what is left."""
    data = operand(node, 0)
    wanted = number_list(node, "shape", 1)
    if wanted is None:
        length = list_length(node, 1)
        return tensor(data.dtype, None if length is None else scope.fresh_shape(length))
    copies = integer(node, "allowzero", 0) == 0
    return tensor(data.dtype, _reshaped(data.shape, wanted, copies, scope))


def _reshaped(shape: Shape | None, wanted: Contents, copies: bool, scope: Scope) -> Shape:
    dims: list[Dim] = []
    for i, d in enumerate(wanted):
        if d == 0 and copies:
            dims.append(_copied(shape, i, scope))
        elif isinstance(d, int) and d < -1:
            raise Contradiction("a dim below -1")
        else:
            dims.append(d)
    if -1 not in dims:
        return _checked_count(shape, tuple(dims))
    if dims.count(-1) > 1:
        raise Contradiction("two dims of -1")
    at = dims.index(-1)
    rest = dims[:at] + dims[at + 1 :]
    dims[at] = scope.fresh() if shape is None else _remaining(shape, rest, scope)
    return tuple(dims)


def _copied(shape: Shape | None, index: int, scope: Scope) -> Dim:
    if shape is None:
        return scope.fresh()
    if index >= len(shape):
        raise Contradiction("a dim of 0 beyond the input's rank")
    return shape[index]


def _checked_count(shape: Shape | None, dims: Shape) -> Shape:
    if shape is None or not is_static(shape) or not is_static(dims):
        return dims
    if _count(shape) != _count(dims):
        raise Contradiction("reshaping to another number of elements")
    return dims


def _count(dims: Shape) -> int:
    count = 1
    for d in dims:
        count *= d if isinstance(d, int) else 0
    return count


def _remaining(shape: Shape, rest: list[Dim], scope: Scope) -> Dim:
    """Return the elements of ``shape`` divided by those of ``rest``; equal factors cancel first."""
    left = list(shape)
    right: list[Dim] = []
    for d in rest:
        if d in left and d != 0:
            left.remove(d)
        else:
            right.append(d)
    total, divisor = scope.product(left), scope.product(right)
    if divisor == 0 or (isinstance(total, int) and isinstance(divisor, int) and total % divisor):
        raise Contradiction("no dim fits in the place of -1")
    return scope.bounded(floor_div(total, divisor))


@rule("Transpose")
def transpose(node: Node, scope: Scope) -> Types:
    """Permute the dims; without ``perm`` reverse them."""
    data = operand(node, 0)
    shape, perm = data.shape, integers(node, "perm")
    if shape is None:
        return tensor(data.dtype, None if perm is None else scope.fresh_shape(len(perm)))
    if perm is None:
        return tensor(data.dtype, shape[::-1])
    if sorted(perm) != list(range(len(shape))):
        raise Contradiction("perm is no permutation of the axes")
    return tensor(data.dtype, tuple(shape[p] for p in perm))


@rule("Flatten")
def flatten(node: Node, scope: Scope) -> Types:
    """Multiply the dims before the axis, and those from the axis on."""
    data = operand(node, 0)
    if data.shape is None:
        return tensor(data.dtype, scope.fresh_shape(2))
    rank = len(data.shape)
    axis = integer(node, "axis", 1)
    if not -rank <= axis <= rank:
        raise Contradiction(f"axis {axis} of rank {rank}")
    axis = axis + rank if axis < 0 else axis
    return tensor(data.dtype, (scope.product(data.shape[:axis]), scope.product(data.shape[axis:])))


@rule("Squeeze")
def squeeze(node: Node, scope: Scope) -> Types:
    """Drop the named dims, or all that are 1."""
    data = operand(node, 0)
    shape = data.shape
    given = "axes" in node.attributes or node.input(1) is not None
    axes = static_list(node, "axes", 1) if given else None
    if shape is None or (given and axes is None):
        return tensor(data.dtype, None)
    if axes is None:
        return tensor(data.dtype, tuple(d for d in shape if d != 1) if is_static(shape) else None)
    dropped = set(axis_indices(axes, len(shape)))
    if any(isinstance(shape[a], int) and shape[a] != 1 for a in dropped):
        raise Contradiction("squeezing a dim that is not 1")
    return tensor(data.dtype, tuple(d for i, d in enumerate(shape) if i not in dropped))


@rule("Unsqueeze")
def unsqueeze(node: Node, scope: Scope) -> Types:
    """Insert dims of 1 at the named places of the result."""
    data = operand(node, 0)
    axes = static_list(node, "axes", 1)
    if data.shape is None or axes is None:
        length = list_length(node, 1)
        known = data.shape is not None and length is not None
        return tensor(data.dtype, scope.fresh_shape(len(data.shape or ()) + (length or 0)) if known else None)
    rank = len(data.shape) + len(axes)
    inserted = set(axis_indices(axes, rank))
    if len(inserted) != len(axes):
        raise Contradiction("an axis is inserted twice")
    dims = iter(data.shape)
    return tensor(data.dtype, tuple(1 if i in inserted else next(dims) for i in range(rank)))


@rule("ExpandDims", domain=MICROSOFT)
def expand_dims(node: Node, scope: Scope) -> Types:
    """Insert one dim of 1."""
    data = operand(node, 0)
    axis = known_scalar(node.input(1))
    if data.shape is None or not isinstance(axis, int):
        return tensor(data.dtype, None if data.shape is None else scope.fresh_shape(len(data.shape) + 1))
    at = axis_index(axis, len(data.shape) + 1)
    return tensor(data.dtype, (*data.shape[:at], 1, *data.shape[at:]))


@rule("Expand")
def expand(node: Node, scope: Scope) -> Types:
    """Broadcast the input with the wanted shape."""
    data = operand(node, 0)
    wanted = known_contents(node.input(1))
    if data.shape is None:
        return tensor(data.dtype, None)
    if wanted is None:
        length = list_length(node, 1)
        return tensor(data.dtype, None if length is None else scope.fresh_shape(max(length, len(data.shape))))
    return tensor(data.dtype, scope.broadcast(data.shape, wanted))


@rule("Tile")
def tile(node: Node, scope: Scope) -> Types:
    """Multiply each dim by its number of repeats."""
    data = operand(node, 0)
    if data.shape is None or len(node.inputs) != 2:
        return tensor(data.dtype, None)
    repeats = known_contents(node.input(1))
    if repeats is None:
        return tensor(data.dtype, scope.fresh_shape(len(data.shape)))
    if len(repeats) != len(data.shape):
        raise Contradiction("as many repeats as dims")
    return tensor(data.dtype, tuple(d * r for d, r in zip(data.shape, repeats, strict=True)))


@rule("Pad")
@rule("Pad", domain=MICROSOFT)
def pad(node: Node, scope: Scope) -> Types:
    """Add the pads before and after each named axis."""
    data = operand(node, 0)
    if data.shape is None:
        return tensor(data.dtype, None)
    rank = len(data.shape)
    pads = number_list(node, "paddings" if "paddings" in node.attributes else "pads", 1)
    axes = tuple(range(rank)) if node.input(3) is None else known_ints(node.input(3))
    if pads is None or axes is None:
        return tensor(data.dtype, scope.fresh_shape(rank))
    if len(pads) != 2 * len(axes):
        raise Contradiction("two pads for each axis")
    shape = data.shape
    for i, axis in enumerate(axis_index(a, rank) for a in axes):
        dim = shape[axis] + pads[i] + pads[len(axes) + i]
        shape = with_dim(shape, axis, dim if nonnegative_dim(dim) or isinstance(dim, Expr) else scope.fresh())
    return tensor(data.dtype, shape)


@rule("DepthToSpace", "SpaceToDepth")
def depth_and_space(node: Node, scope: Scope) -> Types:
    """Move blocks between channels and space."""
    data = operand(node, 0)
    block = integer(node, "blocksize", 0)
    if data.shape is None or len(data.shape) != 4 or block < 1:
        return tensor(data.dtype, None)
    n, c, h, w = data.shape
    if node.op == "DepthToSpace":
        return tensor(data.dtype, (n, floor_div(c, block * block), h * block, w * block))
    return tensor(data.dtype, (n, c * (block * block), floor_div(h, block), floor_div(w, block)))


@rule("Shape")
def shape_rule(node: Node, scope: Scope) -> Types:
    """Give a vector with an element for each dim from ``start`` to ``end``."""
    rank = operand(node, 0).rank
    if rank is None:
        return TensorType(DType.I64, (scope.fresh(),))
    start, end = integer(node, "start", 0), integer(node, "end", rank)
    return TensorType(DType.I64, (len(range(rank)[slice(start, end)]),))


@rule("Size")
def size(node: Node, scope: Scope) -> Types:
    """Give a scalar."""
    return TensorType(DType.I64, ())


@rule("ConstantOfShape")
def constant_of_shape(node: Node, scope: Scope) -> Types:
    """Read the dims from the contents of the operand."""
    value = attribute_constant(node, "value")
    dtype = DType.F32 if value is None else value.dtype
    dims = known_contents(operand(node, 0))
    if dims is None:
        length = list_length(node, 0)
        return tensor(dtype, None if length is None else scope.fresh_shape(length))
    if any(isinstance(d, int) and d < 0 for d in dims):
        raise Contradiction("a negative dim")
    return tensor(dtype, dims)


@rule("Range")
@rule("Range", domain=MICROSOFT)
def range_(node: Node, scope: Scope) -> Types:
    """Give a vector whose length follows from start, limit and step when these are integers."""
    dtype = next((d for d in (dtype_at(node, i) for i in range(3)) if d is not DType.UNKNOWN), DType.UNKNOWN)
    start, limit = known_scalar(node.input(0)), known_scalar(node.input(1))
    step = known_scalar(node.input(2)) if node.input(2) is not None else 1
    if not dtype.is_integer or start is None or limit is None or not isinstance(step, int) or step == 0:
        return tensor(dtype, (scope.fresh(),))
    length = ceil_div(limit - start, step) if step > 0 else ceil_div(start - limit, -step)
    return tensor(dtype, (length if at_least(length, 0) else maximum(length, 0),))


@rule("CenterCropPad")
def center_crop_pad(node: Node, scope: Scope) -> Types:
    """Give each named axis the wanted length."""
    data = operand(node, 0)
    wanted = known_contents(node.input(1))
    if data.shape is None or wanted is None:
        return tensor(data.dtype, None if data.shape is None else scope.fresh_shape(len(data.shape)))
    axes = axis_indices(integers(node, "axes") or range(len(data.shape)), len(data.shape))
    shape = data.shape
    for axis, dim in zip(axes, wanted, strict=True):
        shape = with_dim(shape, axis, dim)
    return tensor(data.dtype, shape)

"""Inference for operators that put tensors together and take them apart: concatenation, splits, slices, gathers."""

from __future__ import annotations

from compiler.ir.dims import Dim, ceil_div, floor_div, maximum
from compiler.ir.dtype import DType
from compiler.ir.facts import Contents, known_contents, nonnegative_dim, positive_dim
from compiler.ir.graph import Node
from compiler.ir.infer_rules import (
    MICROSOFT,
    Contradiction,
    Scope,
    Types,
    axis_index,
    dtype_at,
    integer,
    list_length,
    number_list,
    operand,
    rule,
    shape_of,
    smallest,
    static_list,
    tensor,
    unify,
    with_dim,
)
from compiler.ir.types import Shape

_FAR = 1 << 31
"""Slice bounds at or beyond this mean the end of the axis: no axis is that long and sliced in practice."""


@rule("Concat")
def concat(node: Node, scope: Scope) -> Types:
    """Add up the dims of the axis; the other dims are equal in all inputs that have elements."""
    dtype = next((i.dtype for i in node.inputs if i is not None and i.dtype is not DType.UNKNOWN), DType.UNKNOWN)
    shapes = [operand(node, i).shape for i in range(len(node.inputs))]
    known = [s for s in shapes if s is not None]
    if not known or any(len(s) != len(known[0]) for s in known):
        return tensor(dtype, None)
    rank = len(known[0])
    axis = axis_index(integer(node, "axis", 1), rank)
    if len(known) != len(shapes):
        return tensor(dtype, scope.fresh_shape(rank))
    return tensor(dtype, concat_shape(known, axis, scope))


def concat_shape(shapes: list[Shape], axis: int, scope: Scope) -> Shape:
    """Return the shape of a concatenation; inputs without elements do not count, as ONNX Runtime has it."""
    total: Dim = 0
    for shape in shapes:
        total = total + shape[axis]
    dims = [total if i == axis else _common([s[i] for s in shapes], shapes, scope) for i in range(len(shapes[0]))]
    return tuple(dims)


def _common(dims: list[Dim], shapes: list[Shape], scope: Scope) -> Dim:
    if all(d == dims[0] for d in dims):
        return dims[0]
    result: Dim | None = None
    for d, shape in zip(dims, shapes, strict=True):
        if not isinstance(d, int) or all(positive_dim(x) for x in shape):
            result = d if result is None else unify(result, d)
    return scope.fresh() if result is None else result


@rule("Split")
def split(node: Node, scope: Scope) -> Types:
    """Cut the axis into the given parts, or into equal ones of which the last may be smaller."""
    data = operand(node, 0)
    count = len(node.outputs)
    if data.shape is None:
        return [tensor(data.dtype, None)] * count
    axis = axis_index(integer(node, "axis", 0), len(data.shape))
    given = "split" in node.attributes or node.input(1) is not None
    parts = number_list(node, "split", 1) if given else _equal_parts(data.shape[axis], node)
    if parts is None:
        parts = tuple(scope.fresh() for _ in range(count))
    if len(parts) != count:
        raise Contradiction("as many parts as outputs")
    return [tensor(data.dtype, with_dim(data.shape, axis, p)) for p in parts]


def _equal_parts(dim: Dim, node: Node) -> Contents:
    count = integer(node, "num_outputs", len(node.outputs))
    if count != len(node.outputs) or count < 1:
        raise Contradiction("as many parts as outputs")
    if 0 < node.version < 18:
        return (floor_div(dim, count),) * count
    part = ceil_div(dim, count)
    return (part,) * (count - 1) + (dim - part * (count - 1),)


@rule("Slice")
def slice_(node: Node, scope: Scope) -> Types:
    """Cut each named axis from start to end in steps; bounds are clamped to the axis."""
    data = operand(node, 0)
    if data.shape is None:
        return tensor(data.dtype, None)
    starts, ends = number_list(node, "starts", 1), number_list(node, "ends", 2)
    axes = _slice_axes(node, starts or ends, len(data.shape))
    if axes is None:
        return tensor(data.dtype, scope.fresh_shape(len(data.shape)))
    steps: Contents | None = (1,) * len(axes) if node.input(4) is None else known_contents(node.input(4))
    shape = data.shape
    for i, axis in enumerate(axes):
        known = starts is not None and ends is not None and steps is not None
        length = _slice_length(shape[axis], starts[i], ends[i], steps[i]) if known else None  # type: ignore[index]  # known
        shape = with_dim(shape, axis, scope.fresh() if length is None else length)
    return tensor(data.dtype, shape)


def _slice_axes(node: Node, bounds: Contents | None, rank: int) -> list[int] | None:
    if "axes" in node.attributes or node.input(3) is not None:
        axes = static_list(node, "axes", 3)
        return None if axes is None else [axis_index(a, rank) for a in axes]
    count = len(bounds) if bounds is not None else list_length(node, 1)
    if count is None:
        return None
    if count > rank:
        raise Contradiction("more bounds than axes")
    return list(range(count))


def _slice_length(dim: Dim, start: Dim, end: Dim, step: Dim) -> Dim | None:
    """Return the length of a slice, ``None`` when it is not known; raises ``Contradiction`` for a step of 0."""
    if step == 0:
        raise Contradiction("a slice with a step of 0")
    if not isinstance(step, int):
        return None
    if step < 0:
        return _backward_length(dim, start, end, step)
    low = _from_front(start, dim)
    high = dim if isinstance(end, int) and end >= _FAR else _from_front(end, dim)
    if low is None or high is None:
        return None
    length = smallest(high, dim) - low  # a start beyond the axis needs no clamping: the length is negative then
    return ceil_div(length if nonnegative_dim(length) else maximum(length, 0), step)


def _from_front(bound: Dim, dim: Dim) -> Dim | None:
    """Return a bound counted from the front, at least 0; ``None`` when its sign is unknown."""
    if isinstance(bound, int) and bound < 0:
        shifted = dim + bound
        return shifted if nonnegative_dim(shifted) else maximum(shifted, 0)
    if nonnegative_dim(bound):
        return bound
    return maximum(bound, 0) if bound == dim - 1 else None


def _backward_length(dim: Dim, start: Dim, end: Dim, step: int) -> Dim | None:
    if not isinstance(start, int) or not isinstance(end, int) or end >= _FAR - 1:
        return None
    if not isinstance(dim, int):
        return dim if step == -1 and end <= -_FAR and (start == -1 or start >= _FAR - 1) else None
    if dim == 0:
        return None
    low = min(max(start + dim if start < 0 else start, 0), dim - 1)
    high = min(max(end + dim if end < 0 else end, -1), dim)
    return max(-((high - low) // -step), 0)


@rule("Gather")
def gather(node: Node, scope: Scope) -> Types:
    """Replace the axis by the dims of the indices."""
    data, indices = operand(node, 0), operand(node, 1)
    if data.shape is None or indices.shape is None:
        return tensor(data.dtype, None)
    axis = axis_index(integer(node, "axis", 0), len(data.shape))
    return tensor(data.dtype, data.shape[:axis] + indices.shape + data.shape[axis + 1 :])


@rule("GatherElements")
def gather_elements(node: Node, scope: Scope) -> Types:
    """Give an element for each index."""
    return tensor(dtype_at(node, 0), shape_of(node, 1))


@rule("GatherND")
@rule("GatherND", domain=MICROSOFT)
def gather_nd(node: Node, scope: Scope) -> Types:
    """Give a slice for each index tuple, the last dim of the indices being the length of the tuples."""
    data, indices = operand(node, 0), operand(node, 1)
    if data.shape is None or not indices.shape or not isinstance(indices.shape[-1], int):
        return tensor(data.dtype, None)
    batch = integer(node, "batch_dims", 0)
    depth = batch + indices.shape[-1]
    if batch < 0 or depth > len(data.shape):
        raise Contradiction("index tuples longer than the rank")
    return tensor(data.dtype, indices.shape[:-1] + data.shape[depth:])

"""Evaluation of operators that move constants without computing on them; see ``compiler.ir.evaluate``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from compiler.ir.constant import Array
from compiler.ir.graph import Node
from compiler.ir.types import TensorType

Arrays: TypeAlias = "Sequence[Array | None]"

LIMIT = 1 << 28
"""Bytes that a result may have unless the caller says otherwise."""


class Refusal(ValueError):
    """The node is not ours to evaluate; never leaves ``evaluate``."""


def operand(arrays: Arrays, index: int) -> Array:
    """Return an operand that must be there; raises ``Refusal``."""
    array = arrays[index] if index < len(arrays) else None
    if array is None:
        raise Refusal("a missing operand")
    return array


def optional(arrays: Arrays, index: int) -> Array | None:
    """Return an operand that may be missing."""
    return arrays[index] if index < len(arrays) else None


def int_list(node: Node, arrays: Arrays, name: str, index: int) -> tuple[int, ...] | None:
    """Return integers that are an attribute in old versions and an operand in new ones; ``None`` when absent."""
    if name in node.attributes:
        return tuple(int(v) for v in node.attr(name))
    array = optional(arrays, index)
    if array is None:
        return None
    if array.ndim > 1 or array.dtype.kind not in "iu":
        raise Refusal("not a list of integers")
    return tuple(int(v) for v in array.reshape(-1))


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front; raises ``Refusal`` when it is out of range."""
    if not -rank <= axis < rank:
        raise Refusal("an axis out of range")
    return axis % rank


def check_size(shape: Sequence[int], itemsize: int, limit: int) -> None:
    """Refuse a result that is larger than the limit, before anything is allocated."""
    if any(d < 0 for d in shape) or math.prod(shape) * itemsize > limit:
        raise Refusal("a result too large")


def broadcast_bytes(arrays: Sequence[Array], limit: int) -> None:
    """Refuse operands that do not broadcast, or to more than the limit."""
    check_size(np.broadcast_shapes(*(a.shape for a in arrays)), arrays[0].dtype.itemsize, limit)


def _identity(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    return [operand(arrays, 0)]


def _static_shape(node: Node, arrays: Arrays) -> tuple[int, ...]:
    """Return the shape of the first operand, which its type tells when its contents are not there."""
    array = optional(arrays, 0)
    if array is not None:
        return array.shape
    type_ = node.inputs[0].type if node.inputs and node.inputs[0] is not None else None
    if not isinstance(type_, TensorType) or not type_.is_static:
        raise Refusal("not static")
    return tuple(d for d in type_.shape if isinstance(d, int))


def _shape(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    shape = _static_shape(node, arrays)
    return [np.array(shape[slice(node.attr("start", 0), node.attr("end"))], np.int64)]


def _size(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    return [np.array(math.prod(_static_shape(node, arrays)), np.int64)]


def _reshape(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data, wanted = operand(arrays, 0), int_list(node, arrays, "shape", 1)
    if wanted is None:
        raise Refusal("no shape")
    copies = not node.attr("allowzero", 0)
    dims = [data.shape[i] if d == 0 and copies else d for i, d in enumerate(wanted)]
    if any(d < -1 for d in dims) or (-1 in dims and 0 in dims):
        raise Refusal("a shape that the runtime rejects")
    return [data.reshape(dims)]


def _flatten(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data, axis = operand(arrays, 0), node.attr("axis", 1)
    if not -data.ndim <= axis <= data.ndim:
        raise Refusal("an axis out of range")
    axis = axis + data.ndim if axis < 0 else axis
    return [data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))]


def _squeeze(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data, axes = operand(arrays, 0), int_list(node, arrays, "axes", 1)
    if axes is None:
        return [np.squeeze(data)]
    return [np.squeeze(data, tuple(dict.fromkeys(axis_of(a, data.ndim) for a in axes)))]


def _unsqueeze(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data, axes = operand(arrays, 0), int_list(node, arrays, "axes", 1)
    if axes is None:
        raise Refusal("no axes")
    return [np.expand_dims(data, axes)]


def _transpose(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data = operand(arrays, 0)
    if data.nbytes > limit:
        raise Refusal("a result too large")
    return [np.transpose(data, node.attr("perm")).copy()]


def _concat(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    parts = [operand(arrays, i) for i in range(len(arrays))]
    if any(p.dtype != parts[0].dtype for p in parts) or sum(p.nbytes for p in parts) > limit:
        raise Refusal("parts of two types, or too large")
    axis = axis_of(node.attr("axis", 1), parts[0].ndim)
    return [np.concatenate(parts, axis)]


def _split(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data, count = operand(arrays, 0), len(node.outputs)
    axis = axis_of(node.attr("axis", 0), data.ndim)
    parts = int_list(node, arrays, "split", 1)
    if parts is None:
        part = -(-data.shape[axis] // count)
        parts = (part,) * (count - 1) + (data.shape[axis] - part * (count - 1),)
        if 0 < node.version < 18 and data.shape[axis] % count:
            raise Refusal("parts that are not equal")
    if len(parts) != count or min(parts) < 0 or sum(parts) != data.shape[axis] or data.nbytes > limit:
        raise Refusal("parts that do not fit")
    ends = np.cumsum(parts)[:-1].tolist()
    return [p.copy() for p in np.split(data, ends, axis)]


def _slice(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data = operand(arrays, 0)
    starts, ends = int_list(node, arrays, "starts", 1), int_list(node, arrays, "ends", 2)
    if starts is None or ends is None or len(starts) != len(ends) or data.nbytes > limit:
        raise Refusal("bounds that do not fit")
    axes = int_list(node, arrays, "axes", 3)
    axes = tuple(range(len(starts))) if axes is None else tuple(axis_of(a, data.ndim) for a in axes)
    steps = int_list(node, arrays, "steps", 4)
    steps = (1,) * len(starts) if steps is None else steps
    if len(set(axes)) != len(starts) or len(steps) != len(starts) or 0 in steps:
        raise Refusal("a step of zero, or an axis twice")
    cuts = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cuts[axis] = slice(start, end, step) if step > 0 else _backward(start, end, step, data.shape[axis])
    return [data[tuple(cuts)].copy()]


def _backward(start: int, end: int, step: int, dim: int) -> slice:
    """Return the slice from ``start`` down to ``end``, which ONNX clamps to -1, "before the first element".

    ONNX Runtime takes the greatest integer for -1 as well, against the standard: left to it.
    """
    if end in (2**31 - 1, 2**63 - 1):
        raise Refusal("backward to the greatest integer")
    first = min(max(start + dim if start < 0 else start, 0), dim - 1)
    last = min(max(end + dim if end < 0 else end, -1), dim - 1)
    return slice(first, last if last >= 0 else None, step) if dim else slice(0, 0, 1)


def _gather(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data, indices = operand(arrays, 0), operand(arrays, 1)
    axis = axis_of(node.attr("axis", 0), data.ndim)
    _check_indices(indices, data.shape[axis])
    check_size((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), data.dtype.itemsize, limit)
    return [np.take(data, indices, axis)]


def _check_indices(indices: Array, dim: int) -> None:
    if indices.dtype not in (np.int32, np.int64) or np.any(indices < -dim) or np.any(indices >= dim):
        raise Refusal("an index out of range")


def _gather_elements(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data, indices = operand(arrays, 0), operand(arrays, 1)
    axis = axis_of(node.attr("axis", 0), data.ndim)
    _check_indices(indices, data.shape[axis])
    cut = tuple(slice(None) if i == axis else slice(0, n) for i, n in enumerate(indices.shape))
    check_size(indices.shape, data.dtype.itemsize, limit)
    return [np.take_along_axis(data[cut], indices, axis)]


def _expand(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data, wanted = operand(arrays, 0), int_list(node, arrays, "shape", 1)
    if wanted is None:
        raise Refusal("no shape")
    shape = np.broadcast_shapes(data.shape, wanted)
    check_size(shape, data.dtype.itemsize, limit)
    return [np.broadcast_to(data, shape).copy()]


def _tile(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data, repeats = operand(arrays, 0), int_list(node, arrays, "repeats", 1)
    if len(arrays) != 2 or repeats is None or len(repeats) != data.ndim or min((*repeats, 0)) < 0:
        raise Refusal("repeats that do not fit")
    check_size([d * r for d, r in zip(data.shape, repeats, strict=True)], data.dtype.itemsize, limit)
    return [np.tile(data, repeats)]


def _constant_of_shape(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    shape = int_list(node, arrays, "shape", 0)
    value = node.attr("value")
    fill = np.zeros(1, np.float32) if value is None else value.array()
    if shape is None or fill.size != 1 or fill.dtype.kind in "OSU":
        raise Refusal("not one number")
    check_size(shape, fill.dtype.itemsize, limit)
    return [np.full(shape, fill.reshape(-1)[0], fill.dtype)]


def _range(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    bounds = [operand(arrays, i) for i in range(3)]
    dtype = bounds[0].dtype
    if any(b.dtype != dtype or b.size != 1 for b in bounds) or dtype.kind != "i" or dtype.itemsize < 2:
        raise Refusal("not integers")
    start, stop, step = (int(b.reshape(-1)[0]) for b in bounds)
    if step == 0 or max(abs(start), abs(stop), abs(step)) >= 1 << 52:
        raise Refusal("a step of zero, or numbers that the runtime does not count exactly")
    length = max(-((start - stop) // step), 0)
    check_size((length,), dtype.itemsize, limit)
    return [(np.arange(length, dtype=np.int64) * step + start).astype(dtype)]


def _pad(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data, pads = operand(arrays, 0), int_list(node, arrays, "pads", 1)
    axes = int_list(node, arrays, "axes", 3)
    axes = tuple(range(data.ndim)) if axes is None else tuple(axis_of(a, data.ndim) for a in axes)
    if node.attr("mode", "constant") != "constant" or pads is None or len(pads) != 2 * len(axes):
        raise Refusal("pads that do not fit")
    if min((*pads, 0)) < 0 or len(set(axes)) != len(axes) or "value" in node.attributes:
        raise Refusal("negative pads, or a value of an old version")
    widths = [(0, 0)] * data.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[len(axes) + i])
    fill = optional(arrays, 2)
    if fill is not None and (fill.size != 1 or fill.dtype != data.dtype):
        raise Refusal("not one number")
    shape = [d + a + b for d, (a, b) in zip(data.shape, widths, strict=True)]
    check_size(shape, data.dtype.itemsize, limit)
    result = np.full(shape, 0 if fill is None else fill.reshape(-1)[0], data.dtype)
    result[tuple(slice(a, a + d) for d, (a, _) in zip(data.shape, widths, strict=True))] = data
    return [result]


def _non_zero(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data = operand(arrays, 0)
    if data.ndim == 0 or data.size * data.ndim * 8 > limit or data.dtype.isbuiltin != 1:
        raise Refusal("a scalar, or too large")
    return [np.array(np.nonzero(data), np.int64).reshape(data.ndim, -1)]


EVALUATIONS: dict[str, Callable[[Node, Arrays, int], Sequence[Array]]] = {
    "Identity": _identity,
    "Shape": _shape,
    "Size": _size,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Pad": _pad,
    "NonZero": _non_zero,
}
"""Data movement by operator of the default domain."""

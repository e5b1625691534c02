"""What rules about normalization ask of axes, weights and shapes.

The functions refuse (``Refusal``) with the value at fault, so that rules can use them in ``guard`` and ``constants``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.constant import Array
from compiler.ir.graph import Value
from compiler.rewrite import Match, Refusal

PER_CHANNEL = tuple(
    (f"B,{inner},N", f"B,N,{inner}", f"[0,{rank - 1},{','.join(map(str, range(1, rank - 1)))}]", weight)
    for rank, inner in ((3, "L"), (4, "H,W"), (5, "D,H,W"))
    for weight in ("N" + ",1" * (rank - 2), "1,N" + ",1" * (rank - 2))
)
"""Forms of a weight per channel: dims with channels last and first, the permutation between, dims of the weight."""


def reduced_axes(m: Match, data: str, *operands: str) -> tuple[int, ...]:
    """Return the axes that every reduction in a form reduces, sorted and counted from the front.

    ``operands`` name the ``axes`` operands; refuses unless all of them say the same.
    """
    rank = m[data].rank
    if rank is None:
        raise Refusal(f"the rank of %{data} is not known")
    found = {tuple(sorted(a % rank for a in m.ints(name) or ())) for name in operands}
    axes = found.pop()
    if found or not axes:
        raise Refusal(f"the reductions are over {axes} and {' and '.join(map(str, sorted(found)))}")
    return axes


def count_of_last(m: Match, data: str, axes: Sequence[int]) -> int:
    """Return how many axes these are; refuses unless they are the last ones."""
    rank = m[data].rank
    assert rank is not None
    if tuple(axes) != tuple(range(rank - len(axes), rank)):
        raise Refusal(f"axes {tuple(axes)} of rank {rank} are not the last ones")
    return len(axes)


def static_dims(value: Value, axes: Sequence[int]) -> tuple[int, ...]:
    """Return dims of a value as numbers; refuses symbolic ones."""
    shape = value.shape or ()
    found = []
    for axis in axes:
        dim = shape[axis]
        if not isinstance(dim, int):
            raise Refusal(f"the normalized dim is symbolic: {dim}")
        found.append(dim)
    return tuple(found)


def epsilon(m: Match) -> float:
    """Return the number ``%e``, 0 when the form adds none."""
    return float(m.scalar("e")) if m.get("e") is not None else 0.0


def ones(value: Value, axes: Sequence[int]) -> Array:
    """Return a scale of ones over some axes of a value, of its element type; refuses axes without elements.

    ONNX Runtime's kernels of norms fail on rows of nothing, which operators that are written out do not.
    """
    dims = static_dims(value, axes)
    if 0 in dims:
        raise Refusal(f"there is nothing to normalize: the dims are {list(dims)}")
    return np.ones(dims, value.dtype.numpy)


def is_all(array: Array, number: float) -> bool:
    """True when every element is the number."""
    return bool(np.all(array == number))


def finite(array: Array) -> Array:
    """Return a computed weight; refuses one that is not finite, which says something else than its factors."""
    if not np.all(np.isfinite(array)):
        raise Refusal("the weight would not be finite")
    return array


def spread(weight: Array, shape: tuple[int, ...]) -> Array:
    """Return a weight with the shape of what is normalized; refuses one that is larger or does not fit."""
    beyond = max(weight.ndim - len(shape), 0)
    trimmed = weight.reshape(weight.shape[beyond:]) if all(d == 1 for d in weight.shape[:beyond]) else weight
    try:
        return np.ascontiguousarray(np.broadcast_to(trimmed, shape))
    except ValueError as error:
        raise Refusal(f"a weight of shape {weight.shape} does not scale {shape}") from error


def channels_last(rank: int) -> tuple[list[int], list[int]]:
    """Return the permutation that moves axis 1 to the end, and the one that moves it back."""
    return [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]


def channel_vector(weight: Value, axis: int, rank: int, size: int) -> list[int]:
    """Return the shape ``[size]`` for a weight that differs along one axis only; refuses any other weight.

    The weight broadcasts to a tensor of the given rank whose dim at ``axis`` is ``size``.
    """
    shape = weight.shape
    if shape is None or len(shape) > rank:
        raise Refusal(f"%{weight.name} does not broadcast to rank {rank}")
    at = axis - (rank - len(shape))
    if at < 0 or shape[at] != size or any(d != 1 for i, d in enumerate(shape) if i != at):
        raise Refusal(f"%{weight.name}: {weight.type} is not one number per index of axis {axis}")
    return [size]

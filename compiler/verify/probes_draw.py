"""Draw values for inputs: arrays of any element type, sequences, maps, optionals.

A *manner* says how: ``normal`` and ``structured`` (positive floats, padded masks) are what the model expects,
``large`` and ``edges`` (zeros, tiny, large and negative values) what it may get, ``special`` adds NaN and
infinities; ``ones``, ``zeros`` and ``small`` are for models that refuse other integers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.types import MapType, OptionalType, SequenceType, SparseType, TensorType, Type, UnrankedType
from compiler.verify.probes_bindings import Binding, size_of
from compiler.verify.probes_roles import Role

Array = npt.NDArray[Any]

LIMIT = 64 << 20
"""Elements that an input may have; a probe with more is not made."""

_DRAWN = 262139
"""Numbers drawn for one input; a larger input repeats them."""

_WORDS = ("a", "b", "hello", "monday", "1", "2.5", "")
_SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan, 1e30, -1e30, 1e-30, 0.5, 1.5, -2.5)
_EDGES = (0.0, -0.0, 1e-6, -1e-6, 1.0, -1.0, 30.0, -30.0, 0.5, -2.5)

_BOTH_WAYS = ("normal", "structured")
"""The manners of the first two probes."""


class CannotDraw(Exception):
    """There is no value of this type, or it would be too large."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An input as probes see it: what is fed there."""

    name: str
    """Name of the input."""
    type: Type
    """Its type."""
    role: Role
    """What its values mean."""
    default: Constant | None = None
    """The initializer of an input that may be left out."""


def draw(slot: Slot, binding: Binding, manner: str, seed: int) -> Any:
    """Return a value for an input; equal arguments give equal values.  Raises ``CannotDraw``."""
    rng = np.random.default_rng([seed, zlib.crc32(slot.name.encode()), zlib.crc32(manner.encode())])
    value = _value(slot.type, slot.role, binding, manner, rng)
    return _flag(value, slot, seed) if manner in _BOTH_WAYS and _is_flag(value, slot.role) else value


def _is_flag(value: Any, role: Role) -> bool:
    """True for a single boolean that masks nothing: it chooses a branch."""
    return isinstance(value, np.ndarray) and value.dtype == bool and value.size == 1 and role.kind != "mask"


def _flag(value: Array, slot: Slot, seed: int) -> Array:
    """Return a flag that neighbouring seeds set and clear, so that the first two probes take both branches."""
    return np.full_like(value, (zlib.crc32(slot.name.encode()) + seed) % 2 == 1)


def _value(type_: Type, role: Role, binding: Binding, manner: str, rng: np.random.Generator) -> Any:
    if isinstance(type_, SequenceType):
        return [_value(type_.element, role, binding, manner, rng) for _ in range(3)]
    if isinstance(type_, OptionalType):
        return _value(type_.element, role, binding, manner, rng)
    if isinstance(type_, MapType):
        keys: list[Any] = ["a", "b"] if type_.key is DType.STRING else [1, 2]
        return {k: float(rng.standard_normal()) for k in keys}
    if isinstance(type_, TensorType):
        shape = tuple(size_of(d, binding) for d in type_.shape)
    elif isinstance(type_, UnrankedType):
        shape = (binding.get("", 2),) * 2
    else:
        kind = "a sparse tensor" if isinstance(type_, SparseType) else f"a value of type {type_}"
        raise CannotDraw(f"{kind} cannot be made")
    if math.prod(shape) > LIMIT:
        raise CannotDraw(f"{math.prod(shape)} elements are more than a check should need")
    return _tensor(type_.dtype, shape, role, binding, manner, rng)


def _tensor(
    dtype: DType, shape: tuple[int, ...], role: Role, binding: Binding, manner: str, rng: np.random.Generator
) -> Array:
    if dtype is DType.UNKNOWN:
        raise CannotDraw("its element type is not known")
    if dtype is DType.STRING:
        words = np.array(role.words or _WORDS, dtype=object)
        return np.asarray(words[rng.integers(0, len(words), size=shape)], dtype=object).reshape(shape)
    if dtype is DType.BOOL:
        return _bools(shape, role, manner, rng)
    if dtype.is_integer:
        return _integers(dtype, shape, role, binding, manner, rng)
    if dtype in (DType.C64, DType.C128):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    return _floats(dtype, shape, role, binding, manner, rng)


def _bools(shape: tuple[int, ...], role: Role, manner: str, rng: np.random.Generator) -> Array:
    if role.kind == "mask" or manner in ("ones", "zeros"):
        return _mask(shape, manner, rng).astype(bool)
    return np.asarray(rng.integers(0, 2, size=shape) == 1)


def _mask(shape: tuple[int, ...], manner: str, rng: np.random.Generator) -> Array:
    """Ones, and in the structured manner padding at the end of every row; the first place is never masked."""
    if manner == "zeros":
        return np.zeros(shape, np.int64)
    mask = np.ones(shape, np.int64)
    if manner in ("ones", "normal") or not shape or shape[-1] < 2:
        return mask
    kept = rng.integers(1, shape[-1], size=shape[:-1], endpoint=True)
    return np.asarray(np.arange(shape[-1]) < np.maximum(kept, shape[-1] // 2)[..., None], np.int64)


def _floats(
    dtype: DType, shape: tuple[int, ...], role: Role, binding: Binding, manner: str, rng: np.random.Generator
) -> Array:
    with np.errstate(all="ignore"):
        if role.kind == "mask":
            return _mask(shape, manner, rng).astype(np.float64).astype(dtype.numpy)
        if role.kind in _INTEGRAL:
            return np.asarray(_INTEGRAL[role.kind](shape, role, binding, rng), np.float64).astype(dtype.numpy)
        if role.kind == "scale":
            return _scales(shape).astype(dtype.numpy)
        limits = (-4.0, 4.0) if dtype in (DType.F4E2M1,) else None
        values = _reals(shape, role, manner, rng)
        return np.asarray(np.clip(values, *limits) if limits else values).astype(dtype.numpy)


def _scales(shape: tuple[int, ...]) -> Array:
    values = np.full(shape, 2.0)
    if len(shape) == 1 and shape[0] > 2:
        values[:2] = 1.0
    return values


def _reals(shape: tuple[int, ...], role: Role, manner: str, rng: np.random.Generator) -> Array:
    size = math.prod(shape)
    if size > _DRAWN:  # a prime number of values, repeated: nothing in a model repeats with that period
        return np.resize(_reals((_DRAWN,), role, manner, rng), shape)
    if manner == "structured" or (role.kind in ("image", "probability") and manner == "normal"):
        return rng.uniform(0.05, 1.0, size=shape)
    values = np.asarray(rng.standard_normal(shape))
    if manner == "large":
        return values * 50.0
    pool = {"special": _SPECIAL, "edges": _EDGES}.get(manner)
    if pool is None:
        return values
    chosen = np.asarray(pool)[rng.integers(0, len(pool), size=shape)]
    return np.where(rng.integers(0, 4, size=shape) == 0, chosen, values)


def _integers(
    dtype: DType, shape: tuple[int, ...], role: Role, binding: Binding, manner: str, rng: np.random.Generator
) -> Array:
    fixed = {"ones": (1, 2), "zeros": (0, 1), "small": (0, 2), "mid": (1, 9)}.get(manner)
    if fixed is not None:
        return rng.integers(*fixed, size=shape).astype(dtype.numpy)
    if role.kind == "mask":
        return _mask(shape, manner, rng).astype(dtype.numpy)
    if role.kind in _INTEGRAL:
        return np.asarray(_INTEGRAL[role.kind](shape, role, binding, rng)).reshape(shape).astype(dtype.numpy)
    if dtype.bits <= 8:
        signed = dtype.text.startswith("i")
        low = -(1 << (dtype.bits - 1)) if signed else 0
        drawn = rng.integers(low, low + (1 << dtype.bits), size=shape)
        return drawn.astype(np.int16).astype(np.int8 if signed else np.uint8).astype(dtype.numpy)
    return rng.integers(0, 5, size=shape).astype(dtype.numpy)


def _index(shape: tuple[int, ...], role: Role, binding: Binding, rng: np.random.Generator) -> Array:
    bound = 2 if role.bound is None else size_of(role.bound, binding)
    return np.asarray(rng.integers(0, max(1, bound), size=shape))


def _positions(shape: tuple[int, ...], role: Role, binding: Binding, rng: np.random.Generator) -> Array:
    count = math.prod(shape)
    return (np.arange(count) % max(1, shape[-1] if shape else 1)).reshape(shape)


def _length(shape: tuple[int, ...], role: Role, binding: Binding, rng: np.random.Generator) -> Array:
    return np.full(shape, 2 if role.bound is None else size_of(role.bound, binding))


def _segment(shape: tuple[int, ...], role: Role, binding: Binding, rng: np.random.Generator) -> Array:
    return np.asarray(rng.integers(0, 2, size=shape))


def _exact(shape: tuple[int, ...], role: Role, binding: Binding, rng: np.random.Generator) -> Array:
    values = [size_of(v, binding) if not isinstance(v, int) else v for v in role.values or (1,)]
    return np.resize(np.asarray(values), shape)


def _nonzero(shape: tuple[int, ...], role: Role, binding: Binding, rng: np.random.Generator) -> Array:
    return np.asarray(rng.integers(1, 7, size=shape))


def _sections(shape: tuple[int, ...], role: Role, binding: Binding, rng: np.random.Generator) -> Array:
    count = max(1, math.prod(shape))
    total = count if role.bound is None else size_of(role.bound, binding)
    parts = np.full(count, total // count)
    parts[-1] += total - int(parts.sum())
    return parts.reshape(shape) if shape else parts[0]


_INTEGRAL: dict[str, Callable[[tuple[int, ...], Role, Binding, np.random.Generator], Array]] = {
    "index": _index,
    "positions": _positions,
    "length": _length,
    "segment": _segment,
    "exact": _exact,
    "nonzero": _nonzero,
    "sections": _sections,
}
"""Role → how its integers are drawn."""

"""Numbers for test data: signs, zeros, large and special values, or what a rule's ``domain`` asks for.

The words of ``domain`` are those of ``passes/README.md``; here stands what each of them means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.ir.constant import Array
from compiler.ir.dtype import DType

PLAIN, WIDE, SPECIAL = "plain", "wide", "special"
MODES = (*(PLAIN,) * 10, *(WIDE,) * 3, *(SPECIAL,) * 3)
"""How an instance's numbers are drawn: around one; over several magnitudes; with infinities and NaN, integers at the
ends of their range."""


class BadDomain(Exception):
    """A word of ``domain`` means nothing, or does not fit the shape."""


def draw(random: np.random.Generator, shape: tuple[int, ...], dtype: DType, mode: str = PLAIN) -> Array:
    """Return numbers of any size and sign."""
    if dtype is DType.BOOL:
        return np.asarray(random.random(shape) < 0.5)
    if dtype.is_integer:
        return _integers(random, shape, dtype, mode)
    numbers = random.standard_normal(shape)
    if mode == WIDE:
        low, high = (-1, 1) if dtype is DType.F16 else (-3, 3)
        numbers = numbers * 10.0 ** random.uniform(low, high, shape)
    numbers = np.where(random.random(shape) < 0.06, np.round(numbers), numbers)
    return _special(random, numbers, dtype) if mode == SPECIAL else np.asarray(numbers).astype(dtype.numpy)


def _special(random: np.random.Generator, numbers: Array, dtype: DType) -> Array:
    specials = random.choice(np.array([np.nan, np.inf, -np.inf, -0.0, 100.0, -1e-3]), numbers.shape)
    return np.asarray(np.where(random.random(numbers.shape) < 0.15, specials, numbers)).astype(dtype.numpy)


def _integers(random: np.random.Generator, shape: tuple[int, ...], dtype: DType, mode: str) -> Array:
    limits = np.iinfo(dtype.numpy)
    if mode == PLAIN:
        return random.integers(max(-3, limits.min), 5, shape).astype(dtype.numpy)
    numbers = random.integers(limits.min, limits.max, shape, dtype=dtype.numpy, endpoint=True)
    if mode == SPECIAL:
        ends = random.choice(np.array([limits.min, limits.max], dtype.numpy), shape)
        numbers = np.where(random.random(shape) < 0.3, ends, numbers)
    return np.asarray(numbers)


Number = Callable[[str], int]
"""Reads a number, or the name of a dim."""


def draw_within(words: str, random: np.random.Generator, shape: tuple[int, ...], dtype: DType, number: Number) -> Array:
    """Return numbers that a rule's ``domain`` describes; raises ``BadDomain``."""
    with np.errstate(over="ignore"):  # a number may be too large for a narrow type
        return _within(words, random, shape, dtype, number)


def _within(words: str, random: np.random.Generator, shape: tuple[int, ...], dtype: DType, number: Number) -> Array:
    if "|" in words:
        words = words.split("|")[random.integers(words.count("|") + 1)]
    made = _WORDS.get(words)
    if made is not None:
        return np.asarray(made(random, shape, dtype)).astype(dtype.numpy)
    low, dots, high = words.partition("..")
    try:
        if not dots:
            return np.full(shape, float(words)).astype(dtype.numpy)
    except ValueError:
        raise BadDomain(f"there is no word {words!r}") from None
    if dtype.is_integer:
        start, stop = number(low), number(high)
        if stop <= start and 0 not in shape:
            raise BadDomain(f"nothing lies within {words}")
        return random.integers(start, max(stop, start + 1), shape).astype(dtype.numpy)
    return random.uniform(float(low), float(high), shape).astype(dtype.numpy)


def _positive(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    return random.integers(1, 4, shape) if dtype.is_integer else random.uniform(0.1, 3, shape)


def _finite(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    return draw(random, shape, dtype, WIDE if random.random() < 0.25 else PLAIN)


def _nonnegative(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    return np.abs(_finite(random, shape, dtype))


def _zeros(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    return np.zeros(shape)


def _ones(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    return np.ones(shape)


def _range(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape or (1,)).reshape(shape)


def _permutation(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    return random.permuted(_range(random, shape, dtype), axis=-1) if shape else np.zeros(shape)


def _causal(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    if len(shape) < 2:
        raise BadDomain("a causal mask has two dims at least")
    return _as_mask(np.tril(np.ones(shape, bool)), dtype)


def _mask(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    seen = random.random(shape) < 0.6
    if shape and shape[-1]:
        seen[..., 0] = True
    return _as_mask(seen, dtype)


def _as_mask(seen: Array, dtype: DType) -> Any:
    return np.where(seen, 0.0, -np.inf) if dtype.is_float else seen


def _rotary(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Any:
    if not shape or shape[-1] % 2:  # one column for each angle, not two
        return random.uniform(-1, 1, shape)
    half = random.uniform(-1, 1, (*shape[:-1], shape[-1] // 2))
    return np.concatenate([half, half], axis=-1) if random.random() < 0.5 else np.repeat(half, 2, axis=-1)


_WORDS: dict[str, Callable[[np.random.Generator, tuple[int, ...], DType], Any]] = {
    "positive": _positive,
    "nonnegative": _nonnegative,
    "finite": _finite,
    "zeros": _zeros,
    "ones": _ones,
    "range": _range,
    "permutation": _permutation,
    "causal": _causal,
    "mask": _mask,
    "rotary": _rotary,
}

SIZES = (2, 3, 1, 4, 2, 3, 1, 5, 2, 3, 4, 2, 3, 1, 6, 0)
"""Sizes of dims, simplest first; the numbers of times say how often."""


STATIC = "static"
"""What stands before the sizes of a dim that must be a number, since the rule computes with it."""


def sizes_within(words: str) -> tuple[int, ...]:
    """Return the sizes that a rule's ``domain`` allows a dim: ``8``, ``8,16``, ``even``, ``2..6``, ``static 2,4``."""
    words = words.removeprefix(STATIC).strip()
    if words == "even":
        return (2, 4, 6, 8)
    low, dots, high = words.partition("..")
    try:
        return tuple(range(int(low), int(high) + 1)) if dots else tuple(int(w) for w in words.split(","))
    except ValueError:
        raise BadDomain(f"there is no word {words!r} for dims") from None

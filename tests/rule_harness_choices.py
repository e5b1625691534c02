"""Decisions drawn from bytes: what makes an instance of a rule a function of a short text.

Hypothesis draws the bytes, a failure is reproduced by them, and ``smaller`` shrinks them.  The first option of every
decision is the simplest one, and zero bytes decide for it.  When the bytes are used up, a generator seeded by them
goes on, so that a rule with many variables is still drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

LENGTH = 64
"""Bytes of one instance."""


class Choices:
    """A source of decisions."""

    def __init__(self, data: bytes) -> None:
        """Decide by these bytes."""
        self._data = data
        self._next = 0
        self._rest = random.Random(data)

    def below(self, count: int) -> int:
        """Return an integer from 0 to ``count - 1``; 0 is the simplest."""
        if count <= 1:
            return 0
        if self._next >= len(self._data):
            return self._rest.randrange(count)
        self._next += 1
        return self._data[self._next - 1] % count

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options; the first is the simplest."""
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        """Return true in about ``percent`` of 100 cases; false is the simpler one."""
        return self.below(100) >= 100 - percent

    def permutation(self, count: int) -> tuple[int, ...]:
        """Return an order of ``0 .. count - 1``; the simplest is the order itself."""
        left = list(range(count))
        return tuple(left.pop(self.below(len(left))) for _ in range(count))

    def generator(self) -> np.random.Generator:
        """Return a generator of numbers, which takes two bytes."""
        return np.random.default_rng(self.below(256) << 8 | self.below(256))


def derived(data: bytes, number: int) -> bytes:
    """Return the bytes themselves for number 0, else others that follow from them."""
    return random.Random(data + bytes([number])).randbytes(len(data)) if number else data


def smaller(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """Return simpler bytes for which ``fails`` still holds: as many zeros as can be had, the rest small."""
    for keep in range(0, len(data), 8):
        cut = data[:keep] + bytes(len(data) - keep)
        if fails(cut):
            data = cut
            break
    for at in range(len(data)):
        data = _least_byte(data, at, fails)
    return data


def _least_byte(data: bytes, at: int, fails: Callable[[bytes], bool]) -> bytes:
    """Return the bytes with one of them as small as bisection finds."""
    low = 0
    while low < data[at]:
        middle = (low + data[at]) // 2 if low else 0
        changed = data[:at] + bytes([middle]) + data[at + 1 :]
        if fails(changed):
            data = changed
        else:
            low = middle + 1
    return data

"""What the rules about the scores of attention share: numbers that hide scores, texts, and data to test with."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from compiler.ir.constant import Array
from compiler.rewrite import Match

HIDDEN = -1e4
"""The largest number that counts as hiding a score: its exponential vanishes beside any score above -9896."""

LOST = -1e30
"""A score below 1e22 that is added to this number is lost in rounding, in every type of eight exponent bits or more."""

PRODUCT = """
    %s = MatMul(%q, %k)
    optional %t = Mul|Div(%s, %c)
"""
"""Scores ``%t``, scaled or not."""

CAPPED = """
    %h = Tanh(%d)
    %t = Mul(%h, scalar %c)
"""
"""Scores ``%t`` with a soft cap."""

SMALL = {"q": "-3..3", "k": "-3..3", "m": "-9..9", "n": "-9..9"}
"""Test data: scores that a ``Softmax`` does not turn into differences that no rounding explains."""


def lowest(m: Match) -> float:
    """Return the largest negative number of the type ``T``."""
    return float(ml_dtypes.finfo(m.dtype("T").numpy).min)  # type: ignore[no-untyped-call]  # it has no stubs


def neighbour(m: Match) -> float:
    """Return the number of the type ``T`` above the lowest one."""
    dtype = m.dtype("T").numpy
    return float(np.nextafter(np.array(lowest(m), dtype), np.array(0, dtype)))


def loses(number: float, m: Match) -> bool:
    """True when ``LOST`` is lost beside a negative number of the type ``T``, as scores are beside ``LOST``."""
    dtype = m.dtype("T").numpy
    with np.errstate(over="ignore"):
        large, small = np.array(number, dtype), np.array(LOST, dtype)
        return bool(large < 0 and large + small == large)


def factor(m: Match) -> Array:
    """Return what the optional statement ``%t = Mul|Div(%s, scalar %c)`` multiplies by, one where it is left out."""
    number = float(m.scalar("c")) if m.has("t") else 1.0
    return np.array(1 / number if m.has("t") and m.node("t").op == "Div" else number, m.dtype("T").numpy)


def swap(rank: int) -> tuple[int, ...]:
    """Return the order of axes that swaps the last two."""
    return (*range(rank - 2), rank - 1, rank - 2)

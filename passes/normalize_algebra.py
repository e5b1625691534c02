"""Bring powers, reciprocals and chains of constants into the forms that other rules are written for.

Decisions:

* ``Pow`` with an exponent of two or three is a product: kernels multiply faster than they tell exponents apart.
* ``pow(x, 1/2)`` differs from ``sqrt(x)`` at minus infinity (infinity, and NaN) and in the sign of a root of ``-0.0``;
  so ``x`` must come from operators whose results are not negative, and a root of ``-0.0`` may become ``-0.0``.  Where
  that would change an infinity (the exponent minus one half) ``x`` must not be ``-0.0`` either.
* Constants are combined in float64 and rounded once.  A product that would overflow, vanish or lose digits below the
  normal numbers is refused; so is a sum of constants that cancel, since ``(x + c) - c`` may be meant to round ``x``.
* A constant of several elements that something else reads stays: it would be stored twice.
* Division by a constant is left to ``optimize``: many forms of normalization and attention are written with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.constant import Array
from compiler.ir.graph import Value
from compiler.rewrite import FLOATS, Match, Rule
from passes.nearness import SMALLEST_NORMAL
from passes.signs import Sign, sign_of


class SquareByProduct(Rule):
    """``pow(x, 2) = x x``."""

    stage = "canonical"
    before = "%y: T[*S] = Pow(%x: T[*S], 2.0)"
    after = "%y = Mul(%x, %x)"
    types = {"T": FLOATS}


class CubeByProducts(Rule):
    """``pow(x, 3) = x (x x)``."""

    stage = "canonical"
    before = "%y: T[*S] = Pow(%x: T[*S], 3.0)"
    after = """
        %q = Mul(%x, %x)
        %y = Mul(%x, %q)
    """
    types = {"T": FLOATS}


class ReciprocalByName(Rule):
    """``pow(x, -1)`` and ``1 / x`` are ``Reciprocal(x)``."""

    stage = "canonical"
    before = ("%y: T[*S] = Pow(%x: T[*S], -1.0)", "%y: T[*S] = Div(1.0, %x: T[*S])")
    after = "%y = Reciprocal(%x)"
    types = {"T": FLOATS}


class RootByName(Rule):
    """``pow(x, 1/2) = sqrt(x)`` where ``x`` is not negative."""

    stage = "canonical"
    before = "%y: T[*S] = Pow(%x: T[*S], 0.5)"
    after = "%y = Sqrt(%x)"
    types = {"T": FLOATS}
    domain = {"x": "positive"}

    def guard(self, m: Match) -> str | None:
        """Refuse a base that may be negative."""
        return None if sign_of(m["x"]) is not Sign.UNKNOWN else f"%{m['x'].name} may be minus infinity"


class ReciprocalRootByName(Rule):
    """``pow(x, -1/2) = 1 / sqrt(x)`` where ``x`` is not negative and not ``-0.0``."""

    stage = "canonical"
    before = "%y: T[*S] = Pow(%x: T[*S], -0.5)"
    after = """
        %r = Sqrt(%x)
        %y = Reciprocal(%r)
    """
    types = {"T": FLOATS}
    domain = {"x": "positive"}

    def guard(self, m: Match) -> str | None:
        """Refuse a base that may be negative, or ``-0.0``."""
        return None if sign_of(m["x"]) is Sign.POSITIVE else f"%{m['x'].name} may be negative or -0.0"


class MergeFactors(Rule):
    """``(x a) b = x (a b)`` for constants, and likewise with a division in place of one product."""

    stage = "canonical"
    before = (
        """
        %m = Mul(%x, const %a: T)
        %y = Mul(%m, const %b: T)
        """,
        """
        %m = Div(%x, const %a: T)
        %y = Mul(%m, const %b: T)
        """,
        """
        %m = Mul(%x, const %a: T)
        %y = Div(%m, const %b: T)
        """,
    )
    after = "%y = Mul(%x, const %c)"
    types = {"T": FLOATS}
    domain = {"a": "positive", "b": "positive"}

    def guard(self, m: Match) -> str | None:
        """Refuse constants whose product is no normal number, or would be stored besides them."""
        product = _product(m)
        with np.errstate(all="ignore"):
            finite = np.isfinite(product.astype(m["a"].dtype.numpy))
        lost = (product != 0) & (np.abs(product) < SMALLEST_NORMAL[m["a"].dtype])
        if not bool(np.all(finite)) or bool(np.any(lost)):
            return f"the product of the constants is {product.reshape(-1)[:3].tolist()}"
        return _stored_twice(m["a"], m["b"])

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the product."""
        return {"c": _product(m).astype(m["a"].dtype.numpy)}


def _product(m: Match) -> Array:
    """Return the one factor that stands for both, in float64."""
    a, b = m.array("a").astype(np.float64), m.array("b").astype(np.float64)
    with np.errstate(all="ignore"):
        if m.form == 0:
            return np.asarray(a * b)
        return np.asarray(b / a if m.form == 1 else a / b)


class MergeShifts(Rule):
    """``(x + a) + b = x + (a + b)`` for constants that do not cancel."""

    stage = "canonical"
    before = """
        %m = Add(%x, const %a: T)
        %y = Add(%m, const %b: T)
    """
    after = "%y = Add(%x, const %c)"
    types = {"T": FLOATS}
    domain = {"a": "positive", "b": "positive"}

    def guard(self, m: Match) -> str | None:
        """Refuse constants that cancel, whose sum is not finite, or that would be stored besides it."""
        a, b, total = _summands(m)
        with np.errstate(all="ignore"):
            finite = np.isfinite(total.astype(m["a"].dtype.numpy))
        if not bool(np.all(finite)):
            return "the sum of the constants is not finite"
        if bool(np.any(np.abs(total) < np.maximum(np.abs(a), np.abs(b)) / 2)):
            return "the constants cancel: adding them one after the other may be meant to round"
        return _stored_twice(m["a"], m["b"])

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the sum."""
        return {"c": _summands(m)[2].astype(m["a"].dtype.numpy)}


def _summands(m: Match) -> tuple[Array, Array, Array]:
    a, b = m.array("a").astype(np.float64), m.array("b").astype(np.float64)
    return a, b, np.asarray(a + b)


def _stored_twice(a: Value, b: Value) -> str | None:
    """Return why the constants cannot be combined: one is larger than both, or is read elsewhere too."""
    for one, other in ((a, b), (b, a)):
        assert one.constant is not None
        assert other.constant is not None
        if one.constant.size > 1 and (len(one.uses) > 1 or one.is_output):
            return f"%{one.name} is read elsewhere too"
        if one.constant.size > 1 and other.constant.size > 1 and one.shape != other.shape:
            return f"%{one.name} and %{other.name} are of different shapes"
    return None

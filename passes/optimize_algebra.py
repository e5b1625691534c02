"""Algebra that pays on every target: fewer operators, or cheaper ones, for the same numbers.

Decisions:

* A division by a constant is a product with its reciprocal: one rounding more, and half the time where division is not
  pipelined.  It comes after raising, since exporters write divisions where operators are recognised by them.
* ``y (1/x)`` becomes ``y / x`` for tensors of one shape only: the reciprocal of a small tensor saves divisions.
* ``exp(log(x))`` and ``relu(x)`` are ``x`` where ``x`` is not negative.  ``log(exp(x))`` is left alone: it is infinite
  where the exponential overflows.
* An ``Expand`` in front of an elementwise operator that broadcasts anyway is dropped when the result's type does not
  change; the ``Expand`` stays for others that read it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import FLOATS, NUMBERS, Match, Rule
from passes.nearness import SMALLEST_NORMAL
from passes.signs import Sign, sign_of


class MultiplyByReciprocal(Rule):
    """``x / c = x (1/c)`` for a constant ``c``, with one rounding more."""

    before = "%y = Div(%x, const %c: T)"
    after = "%y = Mul(%x, const %r)"
    types = {"T": FLOATS}
    domain = {"c": "positive"}

    def guard(self, m: Match) -> str | None:
        """Refuse a divisor that is zero, not finite, or so large or small that digits are lost; or that is shared."""
        c, least = np.abs(m.array("c").astype(np.float64)), SMALLEST_NORMAL[m["c"].dtype]
        if not bool(np.all((c >= least) & (c <= 1 / least))):
            return f"the divisor is {m.array('c').reshape(-1)[:3].tolist()}"
        shared = c.size > 1 and (len(m["c"].uses) > 1 or m["c"].is_output)
        return f"%{m['c'].name} is read elsewhere too, and would be stored twice" if shared else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the reciprocal, rounded once."""
        c = m.array("c")
        return {"r": (1.0 / c.astype(np.float64)).astype(c.dtype)}


class DivideOnce(Rule):
    """``y (1/x) = y / x`` for tensors of one shape."""

    before = """
        %r = Reciprocal(%x: T[*S])
        %y = Mul(%r, %z: T[*S])
    """
    after = "%y = Div(%z, %x)"
    types = {"T": FLOATS}


class SubtractNegated(Rule):
    """``z + (-x) = z - x``."""

    before = """
        %n = Neg(%x)
        %y = Add(%n, %z: T)
    """
    after = "%y = Sub(%z, %x)"
    types = {"T": NUMBERS}


class AddDoublyNegated(Rule):
    """``z - (-x) = z + x``."""

    before = """
        %n = Neg(%x)
        %y = Sub(%z: T, %n)
    """
    after = "%y = Add(%z, %x)"
    types = {"T": NUMBERS}


class DropExpOfLog(Rule):
    """``exp(log(x)) = x`` where ``x`` is not negative."""

    before = """
        %l = Log(%x)
        %y: T = Exp(%l)
    """
    after = "%y = Identity(%x)"
    types = {"T": FLOATS}
    domain = {"x": "nonnegative"}

    def guard(self, m: Match) -> str | None:
        """Refuse an operand that may be negative: its logarithm is NaN."""
        return None if sign_of(m["x"]) is not Sign.UNKNOWN else "the operand may be negative"


class DropRelu(Rule):
    """``relu(x) = x`` and ``|x| = x`` where ``x`` is not negative; the sign of a zero may change."""

    before = "%y: T = Relu|Abs(%x)"
    after = "%y = Identity(%x)"
    types = {"T": FLOATS}
    domain = {"x": "nonnegative"}

    def guard(self, m: Match) -> str | None:
        """Refuse an operand that may be negative."""
        return None if sign_of(m["x"]) is not Sign.UNKNOWN else "the operand may be negative"


class AbsByName(Rule):
    """``sqrt(x x) = |x|``, also where the square overflowed or vanished."""

    before = """
        %q: T = Mul(%x, %x)
        %y = Sqrt(%q)
    """
    after = "%y = Abs(%x)"
    types = {"T": FLOATS}


class DropShiftOfSoftmax(Rule):
    """``softmax(x - m) = softmax(x)`` for an ``m`` that does not vary along the axis.

    Where ``m`` is infinite the left side is NaN, and the right side is not.
    """

    before = """
        %d = Sub(%x: T[*S,N], %m: T[*S,1])
        %y = Softmax(%d)
    """
    after = "%y = Softmax(%x)"
    types = {"T": FLOATS}
    domain = {"x": "-9..9", "m": "-9..9"}


class SwapBranches(Rule):
    """A choice by ``not c`` is the choice by ``c`` with its branches exchanged."""

    before = """
        %n = Not(%c)
        %y = Where(%n, %a, %b)
    """
    after = "%y = Where(%c, %b, %a)"


class ChooseOnce(Rule):
    """A choice within the branch of a choice by the same condition is decided already."""

    before = """
        %i: T[*S] = Where(%c, %a, %_)
        %y: T[*S] = Where(%c, %i, %b)
    """
    after = "%y = Where(%c, %a, %b)"
    types = {"T": NUMBERS}


class OneHotByCast(Rule):
    """One where ``c`` holds and zero elsewhere is ``Cast(c)``."""

    before = "%y: T[*S] = Where(%c: bool[*S], 1.0, 0.0)"
    after = "%y = Cast(%c) {to = $to}"
    types = {"T": NUMBERS}

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the element type of the numbers."""
        return {"to": m.dtype("T").code}


class _Expanded(Rule):
    """What the rules about ``Expand`` have in common."""

    types = {"T": NUMBERS}
    shared = "%e"


class AddWithoutExpand(_Expanded):
    """``Add`` broadcasts by itself."""

    before = """
        %e = Expand(%x, %_)
        %y: T[*S] = Add(%e, %z: T[*S])
    """
    after = "%y = Add(%x, %z)"


class MultiplyWithoutExpand(_Expanded):
    """``Mul`` broadcasts by itself."""

    before = """
        %e = Expand(%x, %_)
        %y: T[*S] = Mul(%e, %z: T[*S])
    """
    after = "%y = Mul(%x, %z)"


class SubtractWithoutExpand(_Expanded):
    """``Sub`` broadcasts by itself."""

    before = """
        %e = Expand(%x, %_)
        %y: T[*S] = Sub(%z: T[*S], %e)
    """
    after = "%y = Sub(%z, %x)"


class DivideWithoutExpand(_Expanded):
    """``Div`` broadcasts by itself."""

    before = """
        %e = Expand(%x, %_)
        %y: T[*S] = Div(%z: T[*S], %e)
    """
    after = "%y = Div(%z, %x)"


class ChooseWithoutExpand(_Expanded):
    """``Where`` broadcasts its condition by itself, when a branch has the shape of the result."""

    before = """
        %e = Expand(%c, %_)
        %y: T[*S] = Where(%e, %a, %b: T[*S])
    """
    after = "%y = Where(%c, %a, %b)"

"""Raise piecewise activations that are written out with ``Max``, ``Min``, ``Where`` or two ``Relu``.

Decisions:

* ``Min(Max(x, l), h)`` is ``Clip`` for all ``l`` and ``h``, as the operator is defined; ``Max(Min(x, h), l)`` is so
  when ``l`` is at most ``h``: otherwise it gives ``l``, and ``Clip`` gives ``h``.
* ``Max(x, l)`` alone is ``Relu`` when ``l`` is zero, and otherwise stays: ONNX Runtime's ``Clip`` without an upper
  bound turns infinity into the largest number.
* At zero both branches of an activation agree, so it does not matter whether a condition includes it.
* A NaN is no reason to choose another activation: where a condition sends it to a branch of zeros, it becomes zero.
* A slope between zero and one is what makes ``Max(x, a x)`` a ``LeakyRelu``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, NUMBERS, Match, Rule
from passes.nearness import UP_TO_SINGLE, other_number

_BRANCHES = (
    """
    %c = Greater|GreaterOrEqual(%x: T[*S], 0.0)
    %y: T[*S] = Where(%c, %x, %n)
    """,
    """
    %c = Less|LessOrEqual(%x: T[*S], 0.0)
    %y: T[*S] = Where(%c, %n, %x)
    """,
)
"""``%y`` is ``%x`` where that is positive, ``%n`` elsewhere."""


class RaiseRelu(Rule):
    """``max(x, 0)``, also written as zero where ``x`` is negative, is ``Relu(x)``."""

    stage = "raise"
    before = ("%y: T[*S] = Max(%x: T[*S], 0.0)", _BRANCHES[1].replace("%n", "0.0"))
    after = "%y = Relu(%x)"
    types = {"T": FLOATS}


class RaiseClip(Rule):
    """``min(max(x, l), h)`` is ``Clip(x, l, h)``; so is ``max(min(x, h), l)`` when ``l <= h``."""

    stage = "raise"
    before = (
        """
        %a = Max(%x: T[*S], scalar %l)
        %y: T[*S] = Min(%a, scalar %h)
        """,
        """
        %a = Min(%x: T[*S], scalar %h)
        %y: T[*S] = Max(%a, scalar %l)
        """,
        """
        %a = Relu(%x: T[*S])
        %y: T[*S] = Min(%a, scalar %h)
        """,
    )
    after = "%y = Clip(%x, const %low, const %high)"
    types = {"T": NUMBERS}
    domain = {"l": "-2..-1", "h": "1..2"}

    def guard(self, m: Match) -> str | None:
        """Refuse bounds that are not numbers, and a lower one above the upper one where that one was last."""
        low, high = _bounds(m)
        if np.isnan(low) or np.isnan(high):
            return f"the bounds are {low} and {high}"
        return f"the lower bound {low} is above {high}" if m.form == 1 and low > high else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the bounds as tensors without axes."""
        low, high = _bounds(m)
        return _limits(m, low, high)


def _bounds(m: Match) -> tuple[Any, Any]:
    return m.scalar("l") if m.get("l") is not None else 0, m.scalar("h")


def _limits(m: Match, low: Any, high: Any) -> dict[str, Any]:
    dtype = m.dtype("T").numpy
    return {"low": np.asarray(low, dtype), "high": np.asarray(high, dtype)}


class MergeClips(Rule):
    """``clip(clip(x, a, b), c, d)`` is ``clip(x, clip(a, c, d), clip(b, c, d))``, since clipping is monotonous."""

    stage = "raise"
    before = """
        %k = Clip(%x, scalar %a: T[], scalar %b: T[])
        %y: T = Clip(%k, scalar %c: T[], scalar %d: T[])
    """
    after = "%y = Clip(%x, const %low, const %high)"
    types = {"T": NUMBERS}
    domain = {"a": "-3..-1", "b": "1..3", "c": "-2..0", "d": "0..2"}

    def guard(self, m: Match) -> str | None:
        """Refuse bounds that are not in order."""
        a, b, c, d = (m.scalar(name) for name in "abcd")
        return None if a <= b and c <= d else f"the bounds are {a} and {b}, then {c} and {d}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the bounds of both."""
        a, b, c, d = (m.scalar(name) for name in "abcd")
        return _limits(m, min(max(a, c), d), min(max(b, c), d))


class MergeReluWithClip(Rule):
    """``relu`` before or after ``clip(x, l, h)`` is a ``Clip`` whose bounds are not negative."""

    stage = "raise"
    before = (
        """
        %k = Relu(%x)
        %y: T = Clip(%k, scalar %l: T[], scalar %h: T[])
        """,
        """
        %k = Clip(%x, scalar %l: T[], scalar %h: T[])
        %y: T = Relu(%k)
        """,
    )
    after = "%y = Clip(%x, const %low, const %high)"
    types = {"T": FLOATS}
    domain = {"l": "-1..0", "h": "1..2"}

    def guard(self, m: Match) -> str | None:
        """Refuse bounds that are not in order, and an upper bound below zero."""
        low, high = m.scalar("l"), m.scalar("h")
        return None if low <= high >= 0 else f"the bounds are {low} and {high}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the bounds, the lower one raised to zero."""
        return _limits(m, max(m.scalar("l"), 0.0), m.scalar("h"))


class RaiseLeakyRelu(Rule):
    """``x`` where it is positive and ``a x`` elsewhere is ``LeakyRelu(x)``; ``max(x, a x)`` when ``0 <= a <= 1``."""

    stage = "raise"
    before = (
        *(f"%n: T[*S] = Mul(%x, scalar %a) {text}" for text in _BRANCHES),
        """
        %n: T[*S] = Mul(%x: T[*S], scalar %a)
        %y = Max(%x, %n)
        """,
    )
    after = "%y = LeakyRelu(%x) {alpha = %a}"
    types = {"T": UP_TO_SINGLE}
    domain = {"a": "0.1..0.9"}

    def guard(self, m: Match) -> str | None:
        """Refuse a slope that is not finite; for ``Max`` one that is not between zero and one."""
        slope = m.scalar("a")
        fits = 0 <= slope <= 1 if m.form == len(_BRANCHES) else math.isfinite(slope)
        return None if fits else f"the slope is {slope}"


class RaiseLeakyReluOfTwo(Rule):
    """``relu(x) + b relu(-x)`` is ``LeakyRelu(x)`` with the slope ``-b``, and so is a difference, with ``b``."""

    stage = "raise"
    before = tuple(
        f"""
        %p = Relu(%x: T[*S])
        %n = Neg(%x)
        %q = Relu(%n)
        %r: T[*S] = Mul(%q, scalar %b)
        %y = {op}(%p, %r)
        """
        for op in ("Add", "Sub")
    )
    after = "%y = LeakyRelu(%x) {alpha = $alpha}"
    types = {"T": UP_TO_SINGLE}
    domain = {"b": "positive"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the slope."""
        return {"alpha": float(m.scalar("b")) * (-1 if m.node("y").op == "Add" else 1)}


class RaisePRelu(Rule):
    """``x`` where it is positive and ``w x`` elsewhere is ``PRelu(x, w)``, when ``w`` broadcasts to ``x``."""

    stage = "raise"
    before = tuple(f"%n: T[*S] = Mul(%x, %w) {text}" for text in _BRANCHES)
    after = "%y = PRelu(%x, %w)"
    types = {"T": FLOATS}
    domain = {"w": "-3..3"}


class RaiseThresholdedRelu(Rule):
    """``x`` where it is greater than ``t`` and zero elsewhere is ``ThresholdedRelu(x)``.

    So it is for a ``t`` of zero: ``Relu`` would keep a NaN, which this makes zero.
    """

    stage = "raise"
    before = """
        %c = Greater(%x: T[*S], scalar %t)
        %y: T[*S] = Where(%c, %x, 0.0)
    """
    after = "%y = ThresholdedRelu(%x) {alpha = %t}"
    types = {"T": UP_TO_SINGLE}
    domain = {"t": "positive"}


class RaiseElu(Rule):
    """``x`` where it is positive and ``a (exp(x) - 1)`` elsewhere is ``Elu(x)``."""

    stage = "raise"
    before = tuple(
        f"""
        {exponential}
        {difference}
        %n: T[*S] = Mul(%d, scalar %a)
        {text}
        """
        for exponential in ("%e = Exp(%x)", "%m: T[*S] = Min(%x, 0.0) %e = Exp(%m)")
        for difference in ("%d = Sub(%e, 1.0)", "%d = Add(%e, -1.0)")
        for text in _BRANCHES
    )
    after = "%y = Elu(%x) {alpha = %a}"
    types = {"T": UP_TO_SINGLE}
    domain = {"a": "positive"}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is not finite."""
        return None if math.isfinite(m.scalar("a")) else f"the factor is {m.scalar('a')}"


class RaiseUnitElu(Rule):
    """``x`` where it is positive and ``exp(x) - 1`` elsewhere is ``Elu(x)``."""

    stage = "raise"
    before = tuple(
        f"{exponential} {difference} {text}"
        for exponential in ("%e = Exp(%x)", "%m: T[*S] = Min(%x, 0.0) %e = Exp(%m)")
        for difference in ("%n = Sub(%e, 1.0)", "%n = Add(%e, -1.0)")
        for text in _BRANCHES
    )
    after = "%y = Elu(%x) {alpha = 1.0}"
    types = {"T": FLOATS}


class RaiseSelu(Rule):
    """A multiple of ``Elu(x)`` is ``Selu(x)``, for every ``alpha`` and ``gamma``."""

    stage = "raise"
    before = """
        %e = Elu(%x: T[*S]) {alpha = $alpha}
        %y: T[*S] = Mul(%e, scalar %g)
    """
    after = "%y = Selu(%x) {alpha = $alpha, gamma = %g}"
    types = {"T": UP_TO_SINGLE}
    domain = {"g": "positive", "alpha": "0.1..3"}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is not finite."""
        return None if math.isfinite(m.scalar("g")) else f"the factor is {m.scalar('g')}"


class RaiseCelu(Rule):
    """``x`` where it is positive and ``a (exp(x/a) - 1)`` elsewhere is ``Celu(x)``."""

    stage = "raise"
    before = tuple(
        f"""
        %q: T[*S] = Div(%x, scalar %a)
        %e = Exp(%q)
        %d = Sub(%e, 1.0)
        %n: T[*S] = Mul(%d, scalar %b)
        {text}
        """
        for text in _BRANCHES
    )
    after = "%y = Celu(%x) {alpha = %a}"
    types = {"T": frozenset({DType.F32})}
    domain = {"a": "2..2", "b": "2..2"}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is not the divisor, and one that is not positive."""
        return other_number(m, {"b": m.scalar("a")}) if m.scalar("a") > 0 else f"the divisor is {m.scalar('a')}"


class RaiseSoftsign(Rule):
    """``x / (1 + |x|)`` is ``Softsign(x)``."""

    stage = "raise"
    before = """
        %a = Abs(%x)
        %d: T = Add(%a, 1.0)
        %y = Div(%x, %d)
    """
    after = "%y = Softsign(%x)"
    types = {"T": FLOATS}

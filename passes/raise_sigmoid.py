"""Raise ``Sigmoid`` and ``Swish`` that are written out with exponentials or with ``Tanh``.

Decisions:

* A gated linear unit, ``a sigmoid(b)`` with two halves of a ``Split``, has no operator; ``a swish(b)`` is ``Swish`` and
  a product.
* Where ``exp(x)`` overflows the written form may be NaN; the raised operator gives the limit there.
* A factor of an argument goes into ``alpha`` of ``Swish``.  Attributes are single precision: numbers of ``f64`` graphs
  do not go there.
"""

from __future__ import annotations

import math
from typing import Any

from compiler.rewrite import FLOATS, Match, Rule
from passes.nearness import UP_TO_SINGLE

_NEGATED = ("%n = Neg(%x: T)", "%n = Mul(%x: T, scalar %c)")
"""Ways to write ``-k x``."""


class _Logistic(Rule):
    """What the rules about ``1 + exp(-k x)`` have in common."""

    stage = "raise"
    types = {"T": FLOATS}
    domain = {"c": "-3..-0.1"}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is not finite."""
        return None if math.isfinite(_steepness(m)) else f"%c is {m.scalar('c')}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the factor, which is one (and vanishes later) behind ``Neg``."""
        return {"k": m.dtype("T").numpy.type(_steepness(m))}


def _steepness(m: Match) -> float:
    return 1.0 if m.get("c") is None else -float(m.scalar("c"))


class RaiseSigmoid(_Logistic):
    """``1 / (1 + exp(-k x))`` is ``Sigmoid(k x)``."""

    before = tuple(
        f"""
        {negated}
        %e = Exp(%n)
        %d = Add(%e, 1.0)
        %y = Reciprocal(%d)
        """
        for negated in _NEGATED
    )
    after = """
        %m = Mul(%x, const %k)
        %y = Sigmoid(%m)
    """


class RaiseSigmoidOfDivisor(_Logistic):
    """``q / (1 + exp(-k x))`` is ``q sigmoid(k x)``."""

    before = tuple(
        f"""
        {negated}
        %e = Exp(%n)
        %d = Add(%e, 1.0)
        %y = Div(%q, %d)
        """
        for negated in _NEGATED
    )
    after = """
        %m = Mul(%x, const %k)
        %s = Sigmoid(%m)
        %y = Mul(%q, %s)
    """


class SigmoidByName(Rule):
    """``(1 + tanh(x/2)) / 2`` is ``Sigmoid(x)``.

    It is done before ``MoveScaleOutOfGate`` takes the half away.
    """

    stage = "canonical"
    before = tuple(
        f"""
        %h = {argument}
        %t = Tanh(%h)
        {half}
        """
        for argument in ("Mul(%x, 0.5)", "Div(%x, 2.0)")
        for half in ("%s = Add(%t, 1.0)  %y: T = Mul(%s, 0.5)", "%s = Mul(%t, 0.5)  %y: T = Add(%s, 0.5)")
    )
    after = "%y = Sigmoid(%x)"
    types = {"T": FLOATS}


class RaiseSigmoidOfQuotient(Rule):
    """``exp(x) / (1 + exp(x))`` is ``Sigmoid(x)``, which is one where the exponential overflows."""

    stage = "raise"
    before = """
        %e = Exp(%x)
        %d: T = Add(%e, 1.0)
        %y = Div(%e, %d)
    """
    after = "%y = Sigmoid(%x)"
    types = {"T": FLOATS}
    domain = {"x": "-9..9"}


class RaiseSwish(Rule):
    """``x sigmoid(x)`` is ``Swish(x)``, also called SiLU.

    Definition: ONNX operator ``Swish``, version 24.
    """

    stage = "raise"
    before = """
        %s = Sigmoid(%x)
        %y: T = Mul(%x, %s)
    """
    after = "%y = Swish(%x)"
    types = {"T": FLOATS}


class RaiseScaledSwish(Rule):
    """``x sigmoid(a x)`` is ``Swish(x)`` of that ``alpha``; with 1.702 it approximates ``Gelu``."""

    stage = "raise"
    before = """
        %a: T[*S] = Mul|Div(%x: T[*S], scalar %c)
        %s = Sigmoid(%a)
        %y = Mul(%x, %s)
    """
    after = "%y = Swish(%x) {alpha = $alpha}"
    types = {"T": UP_TO_SINGLE}
    domain = {"c": "positive"}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is not finite."""
        return None if math.isfinite(_slope(m, "a")) else f"the factor is {_slope(m, 'a')}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the factor inside of the sigmoid."""
        return {"alpha": _slope(m, "a")}


def _slope(m: Match, made: str) -> float:
    """Return what ``Mul`` or ``Div`` by ``%c`` multiplies by; one when the form lacks it."""
    if not m.has(made):
        return 1.0
    number = float(m.scalar("c"))
    if m.node(made).op == "Mul":
        return number
    return 1.0 / number if number else math.inf


class RaiseTanhSwish(Rule):
    """``x (1 + tanh(a x))`` is ``2 Swish(x)`` with an ``alpha`` of ``2 a``, since it is ``2 x sigmoid(2 a x)``."""

    stage = "raise"
    before = """
        optional %u: T[*S] = Mul|Div(%x: T[*S], scalar %c)
        %t: T = Tanh(%u)
        %e = Add(%t, 1.0)
        %y = Mul(%x, %e)
    """
    after = """
        %w = Swish(%x) {alpha = $alpha}
        %y = Mul(%w, 2.0)
    """
    types = {"T": UP_TO_SINGLE}
    domain = {"c": "0.3..3"}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is zero or not finite."""
        return None if 0 < abs(_slope(m, "u")) < math.inf else f"the factor is {_slope(m, 'u')}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the factor inside of the sigmoid."""
        return {"alpha": 2 * _slope(m, "u")}


class MoveScaleOutOfSwish(Rule):
    """``Swish(c x)`` is ``c Swish(x)`` with ``c`` times the ``alpha``."""

    stage = "canonical"
    before = """
        %a: T[*S] = Mul(%x: T[*S], scalar %c)
        %y = Swish(%a) {alpha = $alpha}
    """
    after = """
        %s = Swish(%x) {alpha = $scaled}
        %y = Mul(%s, %c)
    """
    types = {"T": UP_TO_SINGLE}
    domain = {"c": "positive", "alpha": "0.1..3"}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is zero or not finite."""
        return None if 0 < abs(m.scalar("c")) < math.inf else f"%c is {m.scalar('c')}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the factor inside of the sigmoid."""
        return {"scaled": m.attr("alpha") * m.scalar("c")}


class RaiseTanh(Rule):
    """``2 sigmoid(x) - 1`` is ``tanh(x/2)``, which keeps the digits that the difference loses near zero."""

    stage = "raise"
    before = (
        """
        %s = Sigmoid(%x: T)
        %d = Mul(%s, 2.0)
        %y = Sub(%d, 1.0)
        """,
        """
        %s = Sigmoid(%x: T)
        %d = Mul(%s, 2.0)
        %y = Add(%d, -1.0)
        """,
    )
    after = """
        %h = Mul(%x, 0.5)
        %y = Tanh(%h)
    """
    types = {"T": FLOATS}

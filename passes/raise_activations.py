"""Raise smooth activations that are written out: ``Sigmoid``, ``Swish``, ``Softplus``, ``Mish``, ``HardSwish``, ...

Decisions:

* A gated linear unit, ``a sigmoid(b)`` with two halves of a ``Split``, has no operator; ``a swish(b)`` is ``Swish`` and
  a product.
* The raised operator is defined wherever the written form is, and in places where that overflowed (``exp(x)`` of a
  large ``x``) it gives the limit in place of a NaN or an infinity.
* ``Log(Add(Exp(x), 1))`` alone stays: it is the faster form, and only its wrong overflow speaks for ``Softplus``.
  Inside of ``Mish``, and in its stable forms, it is raised.
* Attributes are single precision: numbers of ``f64`` graphs do not go there.
"""

from __future__ import annotations

import math
from typing import Any

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Rule
from passes.nearness import FEW_DIGITS, is_near, other_number

UP_TO_SINGLE = FLOATS - {DType.F64}
"""Types whose numbers an attribute holds."""

_SOFTPLUS = """
    %a = Exp(%x)
    %b = Add(%a, 1.0)
    %p = Log(%b)
"""


class RaiseSigmoid(Rule):
    """``1 / (1 + exp(-x))`` and ``(1 + tanh(x/2)) / 2`` are ``Sigmoid(x)``."""

    stage = "raise"
    before = (
        """
        %n = Neg(%x)
        %e = Exp(%n)
        %d: T = Add(%e, 1.0)
        %y = Reciprocal(%d)
        """,
        """
        %n = Mul(%x, -1.0)
        %e = Exp(%n)
        %d: T = Add(%e, 1.0)
        %y = Reciprocal(%d)
        """,
        """
        %h = Mul(%x, 0.5)
        %t = Tanh(%h)
        %s = Add(%t, 1.0)
        %y: T = Mul(%s, 0.5)
        """,
        """
        %h = Mul(%x, 0.5)
        %t = Tanh(%h)
        %s = Mul(%t, 0.5)
        %y: T = Add(%s, 0.5)
        """,
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
    """``x sigmoid(x)``, written so or ``x / (1 + exp(-x))``, is ``Swish(x)``, also called SiLU.

    Definition: ONNX operator ``Swish``, version 24.
    """

    stage = "raise"
    before = (
        """
        %s = Sigmoid(%x)
        %y: T = Mul(%x, %s)
        """,
        """
        %n = Neg(%x)
        %e = Exp(%n)
        %d: T = Add(%e, 1.0)
        %y = Div(%x, %d)
        """,
        """
        %n = Mul(%x, -1.0)
        %e = Exp(%n)
        %d: T = Add(%e, 1.0)
        %y = Div(%x, %d)
        """,
    )
    after = "%y = Swish(%x)"
    types = {"T": FLOATS}


class RaiseScaledSwish(Rule):
    """``x sigmoid(a x)`` is ``Swish(x)`` of that ``alpha``; with 1.702 it approximates ``Gelu``."""

    stage = "raise"
    before = (
        """
        %a: T[*S] = Mul(%x: T[*S], scalar %c)
        %s = Sigmoid(%a)
        %y = Mul(%x, %s)
        """,
        """
        %a: T[*S] = Mul(%x: T[*S], scalar %n)
        %e = Exp(%a)
        %d = Add(%e, 1.0)
        %y = Div(%x, %d)
        """,
    )
    after = "%y = Swish(%x) {alpha = $alpha}"
    types = {"T": UP_TO_SINGLE}
    domain = {"c": "positive", "n": "-3..-0.1"}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is not finite."""
        return None if math.isfinite(_slope(m)) else f"the factor is {_slope(m)}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the factor inside of the sigmoid."""
        return {"alpha": _slope(m)}


def _slope(m: Match) -> float:
    return float(m.scalar("c")) if m.get("c") is not None else -float(m.scalar("n"))


class RaiseSoftplus(Rule):
    """``max(x, 0) + log(1 + exp(-|x|))`` is ``Softplus(x)``."""

    stage = "raise"
    before = """
        %a = Abs(%x)
        %n = Neg(%a)
        %e = Exp(%n)
        %u: T = Add(%e, 1.0)
        %l = Log(%u)
        %r = Relu(%x)
        %y = Add(%r, %l)
    """
    after = "%y = Softplus(%x)"
    types = {"T": FLOATS}
    domain = {"x": "-9..9"}


class RaiseMish(Rule):
    """``x tanh(softplus(x))`` is ``Mish(x)``.

    Definition: ONNX operator ``Mish``, version 18.
    """

    stage = "raise"
    before = tuple(
        f"""
        {softplus}
        %t = Tanh(%p)
        %y: T = Mul(%x, %t)
        """
        for softplus in ("%p = Softplus(%x)", _SOFTPLUS)
    )
    after = "%y = Mish(%x)"
    types = {"T": FLOATS}


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


class RaiseHardSigmoid(Rule):
    """``clip(a x + b, 0, 1)`` is ``HardSigmoid(x)``."""

    stage = "raise"
    before = (
        """
        %m: T[*S] = Mul|Div(%x: T[*S], scalar %a)
        %s: T[*S] = Add(%m, scalar %b)
        %y = Clip(%s, 0.0, 1.0)
        """,
        """
        %s: T[*S] = Add(%x: T[*S], scalar %b)
        %y = Clip(%s, 0.0, 1.0)
        """,
    )
    after = "%y = HardSigmoid(%x) {alpha = $alpha, beta = %b}"
    types = {"T": UP_TO_SINGLE}
    domain = {"a": "positive", "b": "-3..3"}

    def guard(self, m: Match) -> str | None:
        """Refuse a line that is not finite."""
        finite = math.isfinite(_incline(m)) and math.isfinite(m.scalar("b"))
        return None if finite else f"the line is {_incline(m):g} x + {m.scalar('b'):g}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the slope of the line."""
        return {"alpha": _incline(m)}


def _incline(m: Match) -> float:
    if m.get("a") is None:
        return 1.0
    number = float(m.scalar("a"))
    if m.node("m").op == "Mul":
        return number
    return 1.0 / number if number else math.inf


class RaiseHardSigmoidOfQuotient(Rule):
    """``clip(x + b, 0, c) / c`` is ``HardSigmoid(x)``; with ``b = 3`` and ``c = 6`` it is that of ``HardSwish``."""

    stage = "raise"
    before = tuple(
        f"""
        %s: T[*S] = Add(%x: T[*S], scalar %b)
        %k = Clip(%s, 0.0, scalar %c)
        %y: T[*S] = {quotient}
        """
        for quotient in ("Div(%k, scalar %d)", "Mul(%k, scalar %f)")
    )
    after = "%y = HardSigmoid(%x) {alpha = $alpha, beta = $beta}"
    types = {"T": UP_TO_SINGLE}
    rtol = FEW_DIGITS
    domain = {"b": "-3..3", "c": "6..6", "d": "6..6", "f": "0.166666..0.166667"}

    def guard(self, m: Match) -> str | None:
        """Refuse a bound that is not positive, and a divisor that is not the bound."""
        bound = float(m.scalar("c"))
        if not (0 < bound < math.inf and math.isfinite(m.scalar("b"))):
            return f"the bound is {bound:g}, the shift {m.scalar('b'):g}"
        return other_number(m, {"d": bound, "f": 1 / bound})

    def constants(self, m: Match) -> dict[str, Any]:
        """Return slope and height of the line."""
        return {"alpha": 1 / m.scalar("c"), "beta": m.scalar("b") / m.scalar("c")}


class RaiseHardSwish(Rule):
    """``x clip(x + 3, 0, 6) / 6`` is ``HardSwish(x)``, whatever is divided first."""

    stage = "raise"
    before = (
        """
        %h = HardSigmoid(%x) {alpha = $alpha, beta = $beta}
        %y: T = Mul(%x, %h)
        """,
        """
        %s: T[*S] = Add(%x: T[*S], 3.0)
        %k = Clip(%s, 0.0, 6.0)
        %p = Mul(%x, %k)
        %y: T[*S] = Mul(%p, scalar %f)
        """,
        """
        %s: T[*S] = Add(%x: T[*S], 3.0)
        %k = Clip(%s, 0.0, 6.0)
        %p = Mul(%x, %k)
        %y: T[*S] = Div(%p, 6.0)
        """,
        """
        %s: T[*S] = Add(%x: T[*S], 3.0)
        %k = Clip(%s, 0.0, 6.0)
        %p: T[*S] = Mul(%x, scalar %f)
        %y = Mul(%p, %k)
        """,
        """
        %s: T[*S] = Add(%x: T[*S], 3.0)
        %k = Clip(%s, 0.0, 6.0)
        %p: T[*S] = Div(%x, 6.0)
        %y = Mul(%p, %k)
        """,
    )
    after = "%y = HardSwish(%x)"
    types = {"T": FLOATS}
    rtol = FEW_DIGITS
    domain = {"f": "0.166666..0.166667", "alpha": "0.1666666..0.1666667", "beta": "0.5..0.5"}

    def guard(self, m: Match) -> str | None:
        """Refuse another factor than one sixth, and another ``HardSigmoid``."""
        for name, meant in (("alpha", 1 / 6), ("beta", 0.5)):
            found = m.attr(name)
            if found is not None and not is_near(float(found), meant, m.dtype("T")):
                return f"{name} is {found}, not {meant:g}"
        return other_number(m, {"f": 1 / 6})

"""Raise activations that are written out: ``Softplus``, ``Mish``, ``HardSigmoid`` and ``HardSwish``.

Decisions:

* ``Log(Add(Exp(x), 1))`` alone stays: it is the faster form, and only its wrong overflow speaks for ``Softplus``.
  Inside of ``Mish``, and in its stable forms, it is raised.
* Attributes are single precision: numbers of ``f64`` graphs do not go there.
"""

from __future__ import annotations

import math
from typing import Any

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Rule
from passes.nearness import FEW_DIGITS, UP_TO_SINGLE, is_near, other_number

_SOFTPLUS = """
    %a = Exp(%x)
    %b = Add(%a, 1.0)
    %p = Log(%b)
"""


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


class RaiseSoftplusOfThreshold(Rule):
    """``Softplus(x)`` is ``x`` above a threshold from where on the two are the same number."""

    stage = "raise"
    before = """
        %p: T[*S] = Softplus(%x)
        %c = Greater|GreaterOrEqual(%x, scalar %t)
        %y: T[*S] = Where(%c, %x, %p)
    """
    after = "%y = Softplus(%x)"
    types = {"T": FLOATS}
    domain = {"t": "40..50", "x": "-80..80"}

    def guard(self, m: Match) -> str | None:
        """Refuse a threshold at which the difference, ``exp(-t)``, is more than rounding."""
        threshold = float(m.scalar("t"))
        rounding = {DType.F64: 2.0**-53, DType.F32: 2.0**-24}.get(m.dtype("T"), 2.0**-11)
        fits = threshold > 0 and math.exp(-threshold) <= rounding * threshold
        return None if fits else f"the threshold is {threshold:g}"


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
        %m: T[*S] = Mul|Div(%s, scalar %a)
        %y = Clip(%m, 0.0, 1.0)
        """,
        """
        %s: T[*S] = Add(%x: T[*S], scalar %b)
        %y = Clip(%s, 0.0, 1.0)
        """,
    )
    after = "%y = HardSigmoid(%x) {alpha = $alpha, beta = $beta}"
    types = {"T": UP_TO_SINGLE}
    domain = {"a": "positive", "b": "-3..3"}

    def guard(self, m: Match) -> str | None:
        """Refuse a line that is not finite."""
        slope, height = _line(m)
        return None if math.isfinite(slope) and math.isfinite(height) else f"the line is {slope:g} x + {height:g}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return slope and height of the line."""
        slope, height = _line(m)
        return {"alpha": slope, "beta": height}


def _line(m: Match) -> tuple[float, float]:
    height = float(m.scalar("b"))
    if m.get("a") is None:
        return 1.0, height
    number = float(m.scalar("a"))
    slope = number if m.node("m").op == "Mul" else 1.0 / number if number else math.inf
    return slope, height * slope if m.form == 1 else height


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

"""Raise the Gaussian error linear unit, ``x Φ(x)``, to ``Gelu``, however its parts are ordered and its numbers written.

Decisions:

* What is recognised is the gate, ``x (1 + erf(x/√2))``, which is twice the operator.  The half that belongs to it may
  stand before, inside or behind: ``MoveScaleOutOfGate`` moves it behind, where it meets the two and both vanish
  (``MergeFactors``).  If another tool folded the half into a weight, one ``Mul`` by two stays, and five operators go.
* The tanh form differs by its polynomial only, ``√(2/π) (x + 0.044715 x³)``; a table of polynomials makes its forms.
* Numbers with four digits (``0.7071``) are taken for the irrational ones that were meant.  The result may then differ
  by 2e-5 of its size; the operator is what the writer approximated.
"""

from __future__ import annotations

import math
from typing import Any

from compiler.rewrite import FLOATS, Match, Rule
from passes.nearness import FEW_DIGITS, other_number

_COEFFICIENT = 0.044715
_SLOPE = math.sqrt(2 / math.pi)
_ERF_GATE = """
    %g = Erf(%u)
    %e: T[*S] = Add(%g, 1.0)
    %y: T[*S] = Mul(%x: T[*S], %e)
"""
_TANH_GATE = _ERF_GATE.replace("Erf", "Tanh")
_SIGMOID_GATE = """
    %g: T[*S] = Sigmoid(%u)
    %y: T[*S] = Mul(%x: T[*S], %g)
"""

_CUBES = (
    "%q = Mul(%x, %x)  %r = Mul(%x, %q)  %t = Mul(%r, scalar %c)",  # (x x²) c
    "%q = Mul(%x, %x)  %r = Mul(%q, scalar %c)  %t = Mul(%x, %r)",  # x (x² c)
    "%q = Mul(%x, %x)  %r = Mul(%x, scalar %c)  %t = Mul(%q, %r)",  # x² (x c)
    "%q = Mul(%x, scalar %c)  %r = Mul(%x, %q)  %t = Mul(%x, %r)",  # ((x c) x) x
)
_SQUARES = (
    "%q = Mul(%x, %x)  %t = Mul(%q, scalar %c)",
    "%q = Mul(%x, scalar %c)  %t = Mul(%x, %q)",
)
_POLYNOMIALS = (
    *(f"{cube}  %v = Add(%x, %t)  %u = Mul(%v, scalar %s)" for cube in _CUBES),
    *(f"{square}  %v = Add(%t, 1.0)  %w = Mul(%x, scalar %s)  %u = Mul(%w, %v)" for square in _SQUARES),
    *(f"{square}  %v = Add(%t, 1.0)  %w = Mul(%x, %v)  %u = Mul(%w, scalar %s)" for square in _SQUARES),
    *(f"{square}  %v = Add(%t, 1.0)  %w = Mul(%v, scalar %s)  %u = Mul(%x, %w)" for square in _SQUARES),
    *(f"{cube}  %v = Mul(%x, scalar %s)  %u = Add(%v, %t)".replace("%c", "%p") for cube in _CUBES),
    *(f"{square}  %v = Add(%t, scalar %s)  %u = Mul(%x, %v)".replace("%c", "%p") for square in _SQUARES),
)
"""Ways to write ``%u = s (x + c x³)``; ``%p`` is the product of ``s`` and ``c``."""


class MoveScaleOutOfGate(Rule):
    """For a gate ``e = 1 + g``: ``(c x) e = c (x e)`` and ``x (c e) = c (x e)``.

    Both sides cost the same; a scale that stands behind the gate can be merged with what follows.
    """

    stage = "canonical"
    before = (
        """
        %g = Erf|Tanh(%u)
        %e: T[*S] = Add(%g, 1.0)
        %a: T[*S] = Mul|Div(%x, scalar %c)
        %y: T[*S] = Mul(%a, %e)
        """,
        """
        %g = Erf|Tanh(%u)
        %e = Add(%g, 1.0)
        %a: T[*S] = Mul|Div(%e, scalar %c)
        %y: T[*S] = Mul(%a, %x: T[*S])
        """,
    )
    after = """
        %p = Mul(%x, %e)
        %y = Mul(%p, const %f)
    """
    types = {"T": FLOATS}
    domain = {"c": "positive"}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is zero or not finite, and a constant ``x``, which can be merged with it."""
        if m["x"].constant is not None:
            return f"%{m['x'].name} is a constant"
        return None if 0 < abs(_factor(m)) < math.inf else f"%c is {m.scalar('c')}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the factor, which is the reciprocal of a divisor."""
        array = m.array("c")
        return {"f": array.dtype.type(_factor(m)).reshape(array.shape)}


def _factor(m: Match) -> float:
    number = float(m.scalar("c"))
    if m.node("a").op == "Mul":
        return number
    return 1.0 / number if number else math.inf


class MoveScaleOutOfShiftedGate(Rule):
    """``c g + c = c (1 + g)``: the gate with the half inside of its sum."""

    stage = "canonical"
    before = """
        %g = Erf|Tanh(%u)
        %a: T[*S] = Mul(%g, scalar %c)
        %e: T[*S] = Add(%a, scalar %d)
    """
    after = """
        %p = Add(%g, 1.0)
        %e = Mul(%p, %c)
    """
    types = {"T": FLOATS}
    domain = {"c": "0.5..0.5", "d": "0.5..0.5"}

    def guard(self, m: Match) -> str | None:
        """Refuse a shift that is not the factor."""
        return None if m.scalar("c") == m.scalar("d") != 0 else f"%c is {m.scalar('c')}, %d is {m.scalar('d')}"


class FactorOutOfGate(Rule):
    """``x + x g = x (1 + g)``."""

    stage = "canonical"
    before = """
        %g: T[*S] = Erf|Tanh(%u)
        %p = Mul(%x: T[*S], %g)
        %y = Add(%p, %x)
    """
    after = """
        %e = Add(%g, 1.0)
        %y = Mul(%x, %e)
    """
    types = {"T": FLOATS}
    domain = {"x": "-9..9"}


class RaiseGelu(Rule):
    """``x (1 + erf(x/√2))`` is ``2 Gelu(x)``.

    Definition: ONNX operator ``Gelu``, version 20, ``approximate = "none"``.
    """

    stage = "raise"
    before = (f"%u = Mul(%x, scalar %k) {_ERF_GATE}", f"%u = Div(%x, scalar %d) {_ERF_GATE}")
    after = """
        %h = Gelu(%x)
        %y = Mul(%h, 2.0)
    """
    types = {"T": FLOATS}
    rtol = FEW_DIGITS
    domain = {"k": "0.70710..0.70711", "d": "1.41421..1.41422"}

    def guard(self, m: Match) -> str | None:
        """Refuse another number than the root of one half, or than that of two to divide by."""
        return other_number(m, {"k": math.sqrt(0.5), "d": math.sqrt(2)})


class RaiseTanhGelu(Rule):
    """``x (1 + tanh(√(2/π) (x + 0.044715 x³)))`` is ``2 Gelu(x)`` in its approximation by ``Tanh``.

    Definition: ONNX operator ``Gelu``, version 20, ``approximate = "tanh"``.
    """

    stage = "raise"
    before = tuple(polynomial + _TANH_GATE for polynomial in _POLYNOMIALS)
    after = """
        %h = Gelu(%x) {approximate = "tanh"}
        %y = Mul(%h, 2.0)
    """
    types = {"T": FLOATS}
    shared = "%q"
    rtol = FEW_DIGITS
    domain = {"c": "0.044715..0.0447155", "s": "0.79788..0.79789", "p": "0.035677..0.0356775"}

    def guard(self, m: Match) -> str | None:
        """Refuse another polynomial."""
        return other_number(m, {"c": _COEFFICIENT, "s": _SLOPE, "p": _SLOPE * _COEFFICIENT})


class RaiseSigmoidGelu(Rule):
    """``x sigmoid(2 u)`` is ``x (1 + tanh(u)) / 2``, the approximation of ``Gelu`` by ``Tanh``."""

    stage = "raise"
    before = tuple(polynomial + _SIGMOID_GATE for polynomial in _POLYNOMIALS)
    after = '%y = Gelu(%x) {approximate = "tanh"}'
    types = {"T": FLOATS}
    shared = "%q"
    rtol = FEW_DIGITS
    domain = {"c": "0.044715..0.0447155", "s": "1.59576..1.59577", "p": "0.071354..0.071355"}

    def guard(self, m: Match) -> str | None:
        """Refuse another polynomial."""
        return other_number(m, {"c": _COEFFICIENT, "s": 2 * _SLOPE, "p": 2 * _SLOPE * _COEFFICIENT})

"""One fusion: all that a plugin of rules consists of, besides its ``pyproject.toml``."""

from __future__ import annotations

from compiler.rewrite import NUMBERS, Rule


class DropSignAndMagnitude(Rule):
    """The sign of a number times its magnitude is the number: ``sign(x) |x| = x``.

    Saves three kernels.  Holds for infinities and NaN, and for the least integer, whose magnitude wraps around twice.
    """

    before = """
        %s: T[*S] = Sign(%x: T[*S])
        %m = Abs(%x)
        %y = Mul(%s, %m)
    """
    after = "%y = Identity(%x)"
    types = {"T": NUMBERS}

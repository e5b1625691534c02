"""Lower softmax and its logarithm, and the logarithm of a sum of exponentials, to what kernels compute fastest.

Decisions:

* Softmax over the channels of an image transposes it in and out; the same over the rows of a matrix does not.
* ``ReduceLogSumExp`` takes one element after another; maximum, exponential and sum are vectorised.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import FLOATS, Match, Rule
from passes.lower_activations import Vectorised, few_elements

_PIXELS = """
    %channels = Shape(%x) {{start = 0, end = 2}}
    %sides = Shape(%x) {{start = 2}}
    %pixels = ReduceProd(%sides, [0])
    %matrix = Concat(%channels, %pixels) {{axis = 0}}
    %r = Reshape(%x, %matrix) {{allowzero = 1}}
    %s = {op}(%r) {{axis = 1}}
    %shape = Shape(%x)
    %y = Reshape(%s, %shape) {{allowzero = 1}}
"""
"""An operator along the second axis of an image, done to the matrix of its pixels; static shapes fold."""


class _OverPixels(Rule):
    """What the rules have in common that make a matrix of an image."""

    stage = "lower"
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Refuse what is a matrix already, or an image of one pixel, which need not be transposed."""
        sides = m.run("S")
        if len(sides) < 2 or all(d == 1 for d in sides):
            return f"there are no pixels behind the channels: {list(map(str, sides))}"
        return few_elements(m["x"])


class SoftmaxOverRows(_OverPixels):
    """Softmax over the channels of an image is softmax over the rows of the matrix of its pixels."""

    before = "%y = Softmax(%x: T[N,C,*S]) {axis = 1}"
    after = _PIXELS.format(op="Softmax")


class LogSoftmaxOverRows(_OverPixels):
    """Log-softmax over the channels of an image is that over the rows of the matrix of its pixels."""

    before = "%y = LogSoftmax(%x: T[N,C,*S]) {axis = 1}"
    after = _PIXELS.format(op="LogSoftmax")


class VectoriseReduceLogSumExp(Vectorised):
    """``log sum exp(x) = m + log sum exp(x - m)`` for the maximum ``m``.

    An infinite maximum is replaced by the largest number, so that sums of nothing but minus infinity, and those with an
    infinity, come out as defined.
    """

    before = "%y = ReduceLogSumExp(%x: T, %axes)"
    after = """
        %m = ReduceMax(%x, %axes)
        %f = Clip(%m, const %low, const %high)
        %d = Sub(%x, %f)
        %e = Exp(%d)
        %s = ReduceSum(%e, %axes)
        %l = Log(%s)
        %y = Add(%l, %f)
    """
    domain = {"axes": "-1..0"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the smallest and the largest number."""
        dtype = m.dtype("T").numpy
        largest = dtype.type(np.finfo(dtype).max)
        return {"low": -largest, "high": largest}

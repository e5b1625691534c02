"""Define activations by what they abbreviate, in the forms that runtimes know best.

These are used where a target lacks the operator, and they are the oracle for rules that make it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler.rewrite import FLOATS, Match, Rule

_GELU_TANH_SCALE = math.sqrt(2 / math.pi)


class DefineGelu(Rule):
    """Gelu is ``x (1 + erf(x / sqrt 2)) / 2``."""

    stage = "expand"
    before = "%y = Gelu(%x: T)"
    after = """
        %d = Div(%x, 1.4142135623730951)
        %e = Erf(%d)
        %p = Add(%e, 1.0)
        %m = Mul(%x, %p)
        %y = Mul(%m, 0.5)
    """
    types = {"T": FLOATS}


class DefineTanhGelu(Rule):
    """The approximation of Gelu is ``x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))) / 2``."""

    stage = "expand"
    before = '%y = Gelu(%x: T){approximate = "tanh"}'
    after = """
        %c = Pow(%x, 3.0)
        %s = Mul(%c, 0.044715)
        %i = Add(%x, %s)
        %a = Mul(%i, const %scale)
        %t = Tanh(%a)
        %p = Add(%t, 1.0)
        %m = Mul(%x, %p)
        %y = Mul(%m, 0.5)
    """
    types = {"T": FLOATS}

    def constants(self, m: Match) -> dict[str, Any]:
        """The scale of the argument."""
        return {"scale": np.asarray(_GELU_TANH_SCALE, m.dtype("T").numpy)}


class DefineMicrosoftGelu(Rule):
    """The Gelu of ``com.microsoft`` is the standard's, not approximated."""

    stage = "expand"
    before = "%y = com.microsoft::Gelu(%x: T)"
    after = "%y = Gelu(%x)"
    types = {"T": FLOATS}


class DefineBiasGelu(Rule):
    """BiasGelu is the Gelu of a sum."""

    stage = "expand"
    before = "%y = com.microsoft::BiasGelu(%x: T[*S,N], %b: T[N])"
    after = """
        %s = Add(%x, %b)
        %y = Gelu(%s)
    """
    types = {"T": FLOATS}


class DefineFastGelu(Rule):
    """FastGelu is the approximation of Gelu by ``tanh``."""

    stage = "expand"
    before = "%y = com.microsoft::FastGelu(%x: T)"
    after = '%y = Gelu(%x){approximate = "tanh"}'
    types = {"T": FLOATS}


class DefineBiasFastGelu(Rule):
    """FastGelu with a bias is the approximation of Gelu of a sum."""

    stage = "expand"
    before = "%y = com.microsoft::FastGelu(%x: T[*S,N], %b: T[N])"
    after = """
        %s = Add(%x, %b)
        %y = Gelu(%s){approximate = "tanh"}
    """
    types = {"T": FLOATS}


class DefineQuickGelu(Rule):
    """QuickGelu is ``x sigmoid(alpha x)``; ``alpha`` is 1.702 unless it is given."""

    stage = "expand"
    before = "%y = com.microsoft::QuickGelu(%x: T){alpha = $alpha}"
    after = """
        %a = Mul(%x, const %factor)
        %s = Sigmoid(%a)
        %y = Mul(%x, %s)
    """
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Leave the plain form to the rule for it."""
        return "alpha is 1" if m.attr("alpha") == 1.0 else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The factor before the sigmoid."""
        alpha = m.attr("alpha")
        return {"factor": np.asarray(1.702 if alpha is None else alpha, m.dtype("T").numpy)}


class DefineSiluOfQuickGelu(Rule):
    """QuickGelu with ``alpha`` 1 is ``x sigmoid(x)``."""

    stage = "expand"
    before = "%y = com.microsoft::QuickGelu(%x: T){alpha = 1.0}"
    after = """
        %s = Sigmoid(%x)
        %y = Mul(%x, %s)
    """
    types = {"T": FLOATS}


class DefineSwish(Rule):
    """Swish is ``x sigmoid(alpha x)``."""

    stage = "expand"
    before = "%y = Swish(%x: T){alpha = $alpha}"
    after = """
        %a = Mul(%x, const %factor)
        %s = Sigmoid(%a)
        %y = Mul(%x, %s)
    """
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Leave the plain form to the rule for it."""
        return "alpha is 1" if m.attr("alpha") == 1.0 else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The factor before the sigmoid."""
        return {"factor": np.asarray(m.attr("alpha"), m.dtype("T").numpy)}


class DefineSilu(Rule):
    """Swish with ``alpha`` 1 is ``x sigmoid(x)``."""

    stage = "expand"
    before = "%y = Swish(%x: T)"
    after = """
        %s = Sigmoid(%x)
        %y = Mul(%x, %s)
    """
    types = {"T": FLOATS}


class DefineMish(Rule):
    """Mish is ``x tanh(log(1 + exp(x)))``."""

    stage = "expand"
    before = "%y = Mish(%x: T)"
    after = """
        %s = Softplus(%x)
        %t = Tanh(%s)
        %y = Mul(%x, %t)
    """
    types = {"T": FLOATS}


class DefineHardSwish(Rule):
    """HardSwish is ``x`` times a hard sigmoid of slope 1/6."""

    stage = "expand"
    before = "%y = HardSwish(%x: T)"
    after = """
        %s = HardSigmoid(%x){alpha = 0.16666667, beta = 0.5}
        %y = Mul(%x, %s)
    """
    types = {"T": FLOATS}


class DefineBiasSplitGelu(Rule):
    """BiasSplitGelu is the left half of a sum times the Gelu of its right half."""

    stage = "expand"
    before = "%y = com.microsoft::BiasSplitGelu(%x: T[*S,N], %b: T[N])"
    after = """
        %s = Add(%x, %b)
        %l, %r = Split(%s){axis = -1, num_outputs = 2}
        %g = Gelu(%r)
        %y = Mul(%l, %g)
    """
    types = {"T": FLOATS}
    domain = {"N": "even"}

    def guard(self, m: Match) -> str | None:
        """The halves are equal."""
        width = m.size("N")
        return f"the width {width} is odd" if width % 2 else None


class DefineBiasAdd(Rule):
    """BiasAdd is the sum of three."""

    stage = "expand"
    before = "%y = com.microsoft::BiasAdd(%x: T[*S,N], %b: T[N], %r: T[*S,N])"
    after = """
        %s = Add(%x, %b)
        %y = Add(%s, %r)
    """
    types = {"T": FLOATS}


class DefineBiasSoftmax(Rule):
    """BiasSoftmax over the last axis is the softmax of a sum.

    Its attribute says how the bias is laid out against the data; a bias whose dims are those of the data, or 1, leaves
    no doubt.
    """

    stage = "expand"
    before = "%y = com.microsoft::BiasSoftmax(%x: T[*S,N], %b: T){axis = $axis, is_inner_broadcast = $inner}"
    after = """
        %s = Add(%x, %b)
        %y = Softmax(%s)
    """
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """The axis is the last one, and the bias has the rank of the data and broadcasts to it."""
        shape, bias = m["x"].shape or (), m["b"].shape
        axis = 1 if m.attr("axis") is None else m.attr("axis")
        if axis % len(shape) != len(shape) - 1:
            return f"the axis {axis} is not the last one"
        if bias is None or len(bias) != len(shape):
            return f"the bias is {m['b'].type}"
        if any(b not in (1, d) for b, d in zip(bias, shape, strict=True)):
            return f"the bias {m['b'].type} may not broadcast to {m['x'].type}"
        return None

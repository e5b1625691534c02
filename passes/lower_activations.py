"""Lower activations to what a runtime's kernels compute fastest.

Decisions:

* Kernels that take one element after another (``Elu``, ``Selu``, ``Softplus``, and ``Mish``, which is made of the last)
  are slower than several vectorised ones.  The forms here lose no digits against the kernels: ``Elu`` and ``Selu``
  compute ``exp(x) - 1`` themselves, and ``Softplus`` needs the part of ``log(1 + e)`` that the sum rounds away.
* Each node costs as much as some thousand elements, so for tensors known to be smaller the one operator stays.
* ``Gelu`` and ``HardSwish`` stay: the fused operators of other domains are the same kernels.  Where a bias is added
  first, one operator can do both.
"""

from __future__ import annotations

import math
from typing import Any

from compiler.ir.dtype import DType
from compiler.ir.graph import Value
from compiler.rewrite import FLOATS, Match, Rule

_SINGLE = frozenset({DType.F32, DType.F64})
"""Types in which ``exp(20)`` squared is finite."""

_FEW = 2048
"""Elements below which one slow kernel costs less than several fast ones with their nodes."""


def few_elements(value: Value) -> str | None:
    """Return why a tensor is too small to be worth more nodes; ``None`` when it is not known to be."""
    shape = value.shape or ()
    sizes = [d for d in shape if isinstance(d, int)]
    if len(sizes) < len(shape) or value.shape is None or math.prod(sizes) >= _FEW:
        return None
    return f"%{value.name} has {math.prod(sizes)} elements, too few for more nodes"


# Fused operators ---------------------------------------------------------------------------------


class FuseSwish(Rule):
    """``Swish(x)`` is ``QuickGelu(x)``, which has a kernel of its own.

    Definition: ONNX Runtime, ``contrib_ops/cpu/activations.h``.
    """

    stage = "lower"
    before = "%y = Swish(%x: T) {alpha = $alpha}"
    after = "%y = com.microsoft::QuickGelu(%x) {alpha = $alpha}"
    types = {"T": FLOATS}


class FuseBiasGelu(Rule):
    """``Gelu(x + b)`` with a vector ``b`` is ``BiasGelu(x, b)``.

    Definition: ONNX Runtime, ``contrib_ops/cpu/bert/bias_gelu.cc``.
    """

    stage = "lower"
    before = """
        %s: T[*S,N] = Add(%x: T[*S,N], %b: T[N])
        %y = Gelu(%s)
    """
    after = "%y = com.microsoft::BiasGelu(%x, %b)"
    types = {"T": FLOATS}


class FuseBiasTanhGelu(Rule):
    """``Gelu(x + b)`` in its approximation by ``Tanh``, with a vector ``b``, is ``FastGelu(x, b)``.

    Definition: ONNX Runtime, ``contrib_ops/cpu/bert/bias_gelu.cc``.
    """

    stage = "lower"
    before = """
        %s: T[*S,N] = Add(%x: T[*S,N], %b: T[N])
        %y = Gelu(%s) {approximate = "tanh"}
    """
    after = "%y = com.microsoft::FastGelu(%x, %b)"
    types = {"T": FLOATS}


class FuseGemmActivation(Rule):
    """An activation without parameters after ``Gemm`` is done by ``FusedGemm``.

    Definition: ONNX Runtime, ``contrib_ops/cpu/fused_gemm.cc``.
    """

    stage = "lower"
    before = """
        %g = Gemm(%a: T, %b, %c?) {alpha = $alpha, beta = $beta, transA = $ta, transB = $tb}
        %y = Relu|Sigmoid|Tanh|Softplus|Softsign(%g)
    """
    after = """
        %y = com.microsoft::FusedGemm(%a, %b, %c?)
            {alpha = $alpha, beta = $beta, transA = $ta, transB = $tb, activation = $activation}
    """
    types = {"T": FLOATS}
    domain = {"a": "-2..2", "b": "-2..2", "c": "-9..9"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the name of the activation."""
        return {"activation": m.node("y").op}


class FuseGemmSlope(Rule):
    """An activation with one parameter after ``Gemm`` is done by ``FusedGemm``."""

    stage = "lower"
    before = """
        %g = Gemm(%a: T, %b, %c?) {alpha = $alpha, beta = $beta, transA = $ta, transB = $tb}
        %y = LeakyRelu|Elu|ThresholdedRelu(%g) {alpha = $slope}
    """
    after = """
        %y = com.microsoft::FusedGemm(%a, %b, %c?)
            {alpha = $alpha, beta = $beta, transA = $ta, transB = $tb,
             activation = $activation, activation_alpha = $slope}
    """
    types = {"T": FLOATS}

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the name of the activation."""
        return {"activation": m.node("y").op}


class FuseGemmHardSigmoid(Rule):
    """``HardSigmoid`` after ``Gemm`` is done by ``FusedGemm``."""

    stage = "lower"
    before = """
        %g = Gemm(%a: T, %b, %c?) {alpha = $alpha, beta = $beta, transA = $ta, transB = $tb}
        %y = HardSigmoid(%g) {alpha = $slope, beta = $height}
    """
    after = """
        %y = com.microsoft::FusedGemm(%a, %b, %c?)
            {alpha = $alpha, beta = $beta, transA = $ta, transB = $tb,
             activation = "HardSigmoid", activation_alpha = $slope, activation_beta = $height}
    """
    types = {"T": FLOATS}


# Vectorised forms --------------------------------------------------------------------------------


class Vectorised(Rule):
    """What the rules have in common that write several vectorised operators for one slow one."""

    stage = "lower"
    types = {"T": _SINGLE}

    def guard(self, m: Match) -> str | None:
        """Refuse a tensor that is known to be small."""
        return few_elements(m["x"])


class VectoriseMish(Vectorised):
    """``Mish(x) = x n / (n + 2)`` with ``n = e (e + 2)`` and ``e = exp(x)``, since ``tanh(log(1 + e)) = n / (n + 2)``.

    Above 20 the quotient is one, also when the exponent stays 20; ``n`` is as accurate as ``e`` for all ``x`` below.
    """

    before = "%y = Mish(%x: T)"
    after = """
        %m = Min(%x, 20.0)
        %e = Exp(%m)
        %f = Add(%e, 2.0)
        %n = Mul(%e, %f)
        %d = Add(%n, 2.0)
        %q = Div(%n, %d)
        %y = Mul(%x, %q)
    """


class VectoriseSoftplus(Vectorised):
    """``Softplus(x) = max(x, 0) + log(1 + e)`` with ``e = exp(-|x|)``.

    ``u = 1 + e`` is rounded; what the sum lost, ``e - (u - 1)``, is exact, and added to the logarithm it keeps the
    result accurate where ``e`` is far below one.
    """

    before = "%y = Softplus(%x: T)"
    after = """
        %a = Abs(%x)
        %n = Neg(%a)
        %e = Exp(%n)
        %u = Add(%e, 1.0)
        %d = Sub(%u, 1.0)
        %lost = Sub(%e, %d)
        %l = Log(%u)
        %p = Add(%l, %lost)
        %r = Relu(%x)
        %y = Add(%r, %p)
    """
    domain = {"x": "-80..80"}


class VectoriseElu(Vectorised):
    """``Elu(x) = max(x, 0) + a (exp(min(x, 0)) - 1)``."""

    before = "%y = Elu(%x: T) {alpha = $alpha}"
    after = """
        %m = Min(%x, 0.0)
        %e = Exp(%m)
        %d = Sub(%e, 1.0)
        %n = Mul(%d, const %a)
        %r = Relu(%x)
        %y = Add(%r, %n)
    """
    domain = {"alpha": "0.1..2"}

    def guard(self, m: Match) -> str | None:
        """Leave a factor of one to the rule that spares the product."""
        return "alpha is 1" if m.attr("alpha") == 1.0 else super().guard(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the factor."""
        return {"a": m.dtype("T").numpy.type(m.attr("alpha"))}


class VectoriseUnitElu(Vectorised):
    """``Elu(x) = max(x, 0) + (exp(min(x, 0)) - 1)``; ``Celu`` of the same parameter is the same."""

    before = ("%y = Elu(%x: T) {alpha = 1.0}", "%y = Celu(%x: T) {alpha = 1.0}")
    after = """
        %m = Min(%x, 0.0)
        %e = Exp(%m)
        %d = Sub(%e, 1.0)
        %r = Relu(%x)
        %y = Add(%r, %d)
    """


class VectoriseSelu(Vectorised):
    """``Selu(x) = g max(x, 0) + g a (exp(min(x, 0)) - 1)``."""

    before = "%y = Selu(%x: T) {alpha = $alpha, gamma = $gamma}"
    after = """
        %m = Min(%x, 0.0)
        %e = Exp(%m)
        %d = Sub(%e, 1.0)
        %n = Mul(%d, const %a)
        %r = Relu(%x)
        %p = Mul(%r, const %g)
        %y = Add(%p, %n)
    """
    domain = {"alpha": "0.1..2", "gamma": "0.1..2"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Return both factors."""
        number = m.dtype("T").numpy.type
        return {"a": number(m.attr("alpha") * m.attr("gamma")), "g": number(m.attr("gamma"))}

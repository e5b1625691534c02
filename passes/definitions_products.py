"""Define fused matrix products by transposes, a product, a factor and an activation."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import FLOATS, Match, Refusal, Rule


def _order(rank: int, flipped: bool, batch: bool) -> list[int]:
    """Return the axes of an operand in the order that ``MatMul`` wants.

    With ``batch`` the rows come before the batch dims; ``flipped`` then says that the columns do.
    """
    if rank < 2:
        return list(range(rank))
    order = [*range(1, rank - 1), 0, rank - 1] if batch else list(range(rank))
    return [*order[:-2], order[-1], order[-2]] if flipped else order


class DefineFusedMatMul(Rule):
    """FusedMatMul is a factor times the product of its operands, each transposed if so said."""

    stage = "expand"
    before = """
        %y = com.microsoft::FusedMatMul|TransposeMatMul(%a: T, %b: T){
            alpha = $alpha, transA = $ta, transB = $tb, transBatchA = $ba, transBatchB = $bb}
    """
    after = """
        %l = Transpose(%a){perm = $left}
        %r = Transpose(%b){perm = $right}
        %p = MatMul(%l, %r)
        %y = Mul(%p, const %factor)
    """
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Vectors are not transposed, and kernels then transpose nothing at all."""
        said = any(m.attr(name) for name in ("ta", "tb", "ba", "bb"))
        return "a vector is multiplied" if said and min(_rank(m, "a"), _rank(m, "b")) < 2 else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The orders of axes, and the factor."""
        alpha = m.attr("alpha")
        return {
            "left": _order(_rank(m, "a"), bool(m.attr("ta")), bool(m.attr("ba"))),
            "right": _order(_rank(m, "b"), bool(m.attr("tb")), bool(m.attr("bb"))),
            "factor": np.asarray(1.0 if alpha is None else alpha, m.dtype("T").numpy),
        }


def _rank(m: Match, name: str) -> int:
    rank = m[name].rank
    if rank is None:
        raise Refusal(f"the rank of %{name} is not known")
    return rank


_GEMM = "%g = Gemm(%a, %b, %c?){alpha = $alpha, beta = $beta, transA = $ta, transB = $tb}\n"


def _gemm(activation: str, *parameters: str) -> str:
    """Return a FusedGemm of an activation, whose parameters it calls ``$p`` and ``$q``."""
    stated = [f"activation_{name} = ${letter}" for name, letter in zip(parameters, "pq", strict=False)]
    stated = [f'activation = "{activation}"', *stated, "alpha = $alpha, beta = $beta, transA = $ta, transB = $tb"]
    return f"%y = com.microsoft::FusedGemm(%a: T[I,J], %b: T[K,L], %c?: T){{{', '.join(stated)}}}"


class _GemmThen(Rule):
    """What the definitions of a Gemm and an activation share."""

    stage = "expand"
    types = {"T": FLOATS}
    domain = {"I": "3", "J": "3", "K": "3", "L": "3", "p": "0.1..2", "q": "0.1..2"}  # square, whatever is transposed


class DefineGemmOfRelu(_GemmThen):
    """FusedGemm of a ``Relu`` is a ``Gemm`` and then that."""

    before = _gemm("Relu")
    after = _GEMM + "%y = Relu(%g)"


class DefineGemmOfSigmoid(_GemmThen):
    """FusedGemm of a ``Sigmoid`` is a ``Gemm`` and then that."""

    before = _gemm("Sigmoid")
    after = _GEMM + "%y = Sigmoid(%g)"


class DefineGemmOfTanh(_GemmThen):
    """FusedGemm of a ``Tanh`` is a ``Gemm`` and then that."""

    before = _gemm("Tanh")
    after = _GEMM + "%y = Tanh(%g)"


class DefineGemmOfSoftplus(_GemmThen):
    """FusedGemm of a ``Softplus`` is a ``Gemm`` and then that.

    A target without a kernel of ``Softplus`` runs ``log(exp(x) + 1)``, the standard's definition, which overflows.
    """

    before = _gemm("Softplus")
    after = _GEMM + "%y = Softplus(%g)"
    domain = dict.fromkeys("abc", "-1..1")


class DefineGemmOfSoftsign(_GemmThen):
    """FusedGemm of a ``Softsign`` is a ``Gemm`` and then that."""

    before = _gemm("Softsign")
    after = _GEMM + "%y = Softsign(%g)"


class DefineGemmOfLeakyRelu(_GemmThen):
    """FusedGemm of a ``LeakyRelu`` is a ``Gemm`` and then that."""

    before = _gemm("LeakyRelu", "alpha")
    after = _GEMM + "%y = LeakyRelu(%g){alpha = $p}"


class DefineGemmOfElu(_GemmThen):
    """FusedGemm of an ``Elu`` is a ``Gemm`` and then that."""

    before = _gemm("Elu", "alpha")
    after = _GEMM + "%y = Elu(%g){alpha = $p}"


class DefineGemmOfThresholdedRelu(_GemmThen):
    """FusedGemm of a ``ThresholdedRelu`` is a ``Gemm`` and then that."""

    before = _gemm("ThresholdedRelu", "alpha")
    after = _GEMM + "%y = ThresholdedRelu(%g){alpha = $p}"


class DefineGemmOfHardSigmoid(_GemmThen):
    """FusedGemm of a ``HardSigmoid`` is a ``Gemm`` and then that."""

    before = _gemm("HardSigmoid", "alpha", "beta")
    after = _GEMM + "%y = HardSigmoid(%g){alpha = $p, beta = $q}"


class DefineGemmOfSelu(_GemmThen):
    """FusedGemm of a ``Selu`` is a ``Gemm`` and then that."""

    before = _gemm("Selu", "alpha", "gamma")
    after = _GEMM + "%y = Selu(%g){alpha = $p, gamma = $q}"

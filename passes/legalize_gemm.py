"""Define ``Gemm`` by a product, a factor and a sum, for providers that take it in its plainest form only."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import FLOATS, Match, Rule


class DefineGemmWithSum(Rule):
    """Gemm is a factor times the product of its operands, each transposed if so said, plus a factor times the third."""

    stage = "expand"
    before = "%y = Gemm(%a: T[I,J], %b: T[K,L], %c: T){alpha = $alpha, beta = $beta, transA = $ta, transB = $tb}"
    after = """
        %l = Transpose(%a){perm = $left}
        %r = Transpose(%b){perm = $right}
        %p = MatMul(%l, %r)
        %s = Mul(%p, const %factor)
        %d = Mul(%c, const %share)
        %y = Add(%s, %d)
    """
    types = {"T": FLOATS}
    domain = {"I": "3", "J": "3", "K": "3", "L": "3"}  # square, whatever is transposed

    def constants(self, m: Match) -> dict[str, Any]:
        """The orders of axes, and the factors."""
        return _constants(m) | {"share": _factor(m, "beta")}


class DefineGemmAlone(Rule):
    """Gemm of two operands is a factor times their product, each transposed if so said."""

    stage = "expand"
    before = "%y = Gemm(%a: T[I,J], %b: T[K,L]){alpha = $alpha, beta = $beta, transA = $ta, transB = $tb}"
    after = """
        %l = Transpose(%a){perm = $left}
        %r = Transpose(%b){perm = $right}
        %p = MatMul(%l, %r)
        %y = Mul(%p, const %factor)
    """
    types = {"T": FLOATS}
    domain = {"I": "3", "J": "3", "K": "3", "L": "3"}

    def constants(self, m: Match) -> dict[str, Any]:
        """The orders of axes, and the factor."""
        return _constants(m)


def _constants(m: Match) -> dict[str, Any]:
    return {
        "left": [1, 0] if m.attr("ta") else [0, 1],
        "right": [1, 0] if m.attr("tb") else [0, 1],
        "factor": _factor(m, "alpha"),
    }


def _factor(m: Match, name: str) -> Any:
    stated = m.attr(name)
    return np.asarray(1.0 if stated is None else stated, m.dtype("T").numpy)

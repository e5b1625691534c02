"""Bring matrix products into the form that costs least on every target: one product with a constant matrix.

Decisions:

* A product of constants is computed once, where that needs no more multiplications per row of data than before.  Two
  narrow factors of a wide matrix stay two.
* A weight that something else reads too is not changed: the model would hold it twice.
* Considered and rejected, since measured on ONNX Runtime to gain nothing or lose: one product for several projections
  of one input (0.94 to 0.98), a product of three dims and its bias as ``Gemm`` between reshapes (0.94 to 1.0), a
  product over one element as ``Mul`` (0.95), pointwise convolutions of images between transposes (1.0).
"""

from __future__ import annotations

from typing import Any

from compiler.ir.constant import Array
from compiler.rewrite import FLOATS, Match, Rule
from passes.affine import is_shared
from passes.weights import computed, more_work, product, shape_of

_FLOAT = {"T": FLOATS}


class RaiseGemm(Rule):
    """A product of two matrices plus a vector is ``Gemm``."""

    stage = "raise"
    before = """
        %m: T[M,N] = MatMul(%x: T[M,K], %w: T[K,N])
        %y: T[M,N] = Add(%m, const %b: T[N])
    """
    after = "%y = Gemm(%x, %w, %b)"
    types = _FLOAT


class DropLeadingOneOfWeight(Rule):
    """A constant matrix with leading dims of one multiplies as the matrix does; runtimes prepack only the latter."""

    stage = "canonical"
    before = (
        "%y: T[*S,M,N] = MatMul(%x: T[*S,M,K], const %w: T[1,K,N])",
        "%y: T[*S,M,N] = MatMul(%x: T[*S,M,K], const %w: T[1,1,K,N])",
    )
    after = "%y = MatMul(%x, const %v)"
    types = _FLOAT

    def guard(self, m: Match) -> str | None:
        """Refuse a weight that others read."""
        return "the weight is shared" if is_shared(m["w"]) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The matrix itself."""
        shape = shape_of(m["w"])[-2:]
        return {"v": computed(shape, lambda w: w.reshape(shape), m["w"])}


def _both(m: Match) -> str | None:
    """Return why two weights should not become one."""
    return more_work(m, m.size("K"), m.size("R"), m.size("N"))


class MergeProducts(Rule):
    """``(x V) W = x (V W)`` where the product of the constants is no larger than both."""

    before = """
        %m = MatMul(%x, const %v: T[K,R])
        %y = MatMul(%m, const %w: T[R,N])
    """
    after = "%y = MatMul(%x, const %vw)"
    types = _FLOAT

    def guard(self, m: Match) -> str | None:
        """Refuse what would be more work."""
        return _both(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """The product, in float64, rounded once."""
        shape = (m.size("K"), m.size("N"))
        return {"vw": computed(shape, product, m["v"], m["w"])}


class MergeBiasedProducts(Rule):
    """``(x V + b) W = x (V W) + b W`` where the product of the constants is no larger than both."""

    before = """
        %m = MatMul(%x, const %v: T[K,R])
        %a = Add(%m, const %b: T[R])
        %y = MatMul(%a, const %w: T[R,N])
    """
    after = """
        %p = MatMul(%x, const %vw)
        %y = Add(%p, const %bw)
    """
    types = _FLOAT

    def guard(self, m: Match) -> str | None:
        """Refuse what would be more work."""
        return _both(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """The products, in float64, rounded once."""
        inner, outer = m.size("K"), m.size("N")
        return {
            "vw": computed((inner, outer), product, m["v"], m["w"]),
            "bw": computed((outer,), product, m["b"], m["w"]),
        }


class MergeGemms(Rule):
    """``(x V + b) W + c = x (V W) + (b W + c)`` where the product of the constants is no larger than both."""

    before = """
        %m: T[M,R] = Gemm(%x: T[M,K], const %v, const %b: T[R]) {transB = $first}
        %y: T[M,N] = Gemm(%m, const %w, const %c: T[N]) {transB = $second}
    """
    after = "%y = Gemm(%x, const %vw, const %bc)"
    types = _FLOAT

    def guard(self, m: Match) -> str | None:
        """Refuse what would be more work."""
        return _both(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """The products, in float64, rounded once."""
        first, second = bool(m.attr("first")), bool(m.attr("second"))

        def weight(v: Array, w: Array) -> Array:
            return product(v.T if first else v, w.T if second else w)

        def bias(w: Array, b: Array, c: Array) -> Array:
            return product(b, w.T if second else w) + c

        return {
            "vw": computed((m.size("K"), m.size("N")), weight, m["v"], m["w"]),
            "bc": computed((m.size("N"),), bias, m["w"], m["b"], m["c"]),
        }


class _Pointwise(Rule):
    """What the rules about convolutions of one element between transposes have in common."""

    types = _FLOAT

    def guard(self, m: Match) -> str | None:
        """Refuse strides and padding, and a weight that others read."""
        if any(s != 1 for s in m.attr("strides") or ()) or any(m.attr("pads") or ()):
            return "the convolution strides or pads"
        return "the weight is shared" if is_shared(m["w"]) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The weight as a matrix that is multiplied from the right."""
        outputs, inputs, _ = shape_of(m["w"])
        return {"v": computed((inputs, outputs), lambda w: w[:, :, 0].T, m["w"])}


class MultiplyPointwise(_Pointwise):
    """A convolution of one element over rows between two transposes is a ``MatMul`` without them."""

    before = """
        %t = Transpose(%x: T[N,L,C]) {perm = [0, 2, 1]}
        %c: T[N,M,L] = Conv(%t, const %w: T[M,C,1])
            {auto_pad = $auto, dilations = $dilations, kernel_shape = $kernel, pads = $pads, strides = $strides}
        %y = Transpose(%c) {perm = [0, 2, 1]}
    """
    after = "%y = MatMul(%x, const %v)"
    shared = "%t"


class MultiplyBiasedPointwise(_Pointwise):
    """The same with a bias, which is added."""

    before = """
        %t = Transpose(%x: T[N,L,C]) {perm = [0, 2, 1]}
        %c: T[N,M,L] = Conv(%t, const %w: T[M,C,1], %b: T[M])
            {auto_pad = $auto, dilations = $dilations, kernel_shape = $kernel, pads = $pads, strides = $strides}
        %y = Transpose(%c) {perm = [0, 2, 1]}
    """
    after = """
        %p = MatMul(%x, const %v)
        %y = Add(%p, %b)
    """
    shared = "%t"

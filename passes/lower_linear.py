"""Lower matrix products and convolutions with what stands around them to ``com.microsoft`` operators.

ONNX Runtime makes most of these itself when it loads a model, so that they gain nothing by cost.  A transpose that puts
the last axis before others can be split in two, of which one half moves whole rows and the other is free in
``FusedMatMul``: that gains on a product alone, and nothing before a softmax.

Vectors are left alone: ONNX Runtime 1.32 multiplies a transposed matrix and a vector wrongly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import Match, Rule

_KERNELS = {"T": frozenset({DType.F32, DType.F64})}


class _Scaled(Rule):
    """What the rules about scaled products have in common."""

    stage = "lower"
    types = _KERNELS

    @staticmethod
    def factor(m: Match) -> float:
        """Return what the product is multiplied by."""
        if m.get("c") is None:
            return 1.0
        return float(m.scalar("c")) if m.node("y").op == "Mul" else 1.0 / float(m.scalar("c"))


def _no_attribute(m: Match) -> str | None:
    """Return why the factor cannot be an attribute, which is single precision."""
    if not m.scalar("c"):
        return "the number is zero"
    factor = _Scaled.factor(m)
    rounds = m.dtype("T") is DType.F64 and float(np.float32(factor)) != factor
    return f"the factor {factor!r} is no number of single precision" if rounds else None


_SCALE = "%y: T[*R,M,N] = Mul|Div(%m, scalar %c)\n"
_FUSED = "%y = com.microsoft::FusedMatMul(%p, %q) {transA = $left, transB = $right, alpha = $alpha}"


class FuseScale(_Scaled):
    """A product of matrices, transposed or not, times a number is one ``FusedMatMul``."""

    before = (
        """
        optional %a = Transpose(%p) {perm = $first}
        optional %b = Transpose(%q) {perm = $second}
        %m = MatMul(%a: T[*S,M,K], %b: T[*U,K,N])
    """
        + _SCALE
    )
    after = _FUSED
    domain = {"c": "0.5..2"}

    def guard(self, m: Match) -> str | None:
        """Refuse transposes of other axes than the last two, and factors that are no attributes."""
        return _other_transpose(m) or _no_attribute(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """Which operands are transposed, and the factor."""
        return {"left": int(m.has("a")), "right": int(m.has("b")), "alpha": self.factor(m)}


class FuseTransposes(_Scaled):
    """A product of transposed matrices is one ``FusedMatMul``."""

    before = (
        """
        %a = Transpose(%p) {perm = $first}
        optional %b = Transpose(%q) {perm = $second}
        %y = MatMul(%a: T[*S,M,K], %b: T[*U,K,N])
        """,
        """
        %b = Transpose(%q) {perm = $second}
        %y = MatMul(%p: T[*S,M,K], %b: T[*U,K,N])
        """,
    )
    after = _FUSED

    def guard(self, m: Match) -> str | None:
        """Refuse transposes of other axes than the last two."""
        return _other_transpose(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """Which operands are transposed."""
        return {"left": int(m.has("a")), "right": int(m.has("b")), "alpha": 1.0}


def _other_transpose(m: Match) -> str | None:
    """Return which transpose exchanges other axes than the last two."""
    for name, perm in (("a", "first"), ("b", "second")):
        order = m.attr(perm) if m.has(name) else (1, 0)
        last = len(order) - 1
        if tuple(order) != (*range(last - 1), last, last - 1):
            return f"the transpose is {list(order)}"
    return None


_HEADS = "%k = Transpose(%x: T[B,N,H,D]) {perm = [0, 2, 3, 1]}\n"
_ROWS_OF_HEADS = """
    %h = Transpose(%x) {perm = [0, 2, 1, 3]}
    %y = com.microsoft::FusedMatMul(%q, %h) {transB = 1, alpha = $alpha}
"""


class FuseTransposeOfHeads(_Scaled):
    """A product with heads that are split off and transposed takes the heads as rows, and transposes in the kernel."""

    before = _HEADS + "%y = MatMul(%q: T[*S,M,D], %k)"
    after = _ROWS_OF_HEADS

    def constants(self, m: Match) -> dict[str, Any]:
        """The factor."""
        return {"alpha": self.factor(m)}


class FuseScaleAndTransposeOfHeads(FuseTransposeOfHeads):
    """The same, times a number."""

    before = _HEADS + "%m = MatMul(%q: T[*S,M,D], %k)\n" + _SCALE
    after = _ROWS_OF_HEADS
    domain = {"c": "0.5..2"}

    def guard(self, m: Match) -> str | None:
        """Refuse division by zero, and numbers that attributes do not hold."""
        return _no_attribute(m)


_CONV = (
    "%c = Conv(%x: T, const %w, %b?) {auto_pad = $auto, dilations = $dilations, group = $group, "
    "kernel_shape = $kernel, pads = $pads, strides = $strides}\n"
)
_WINDOW = (
    "auto_pad = $auto, dilations = $dilations, group = $group, kernel_shape = $kernel, pads = $pads, strides = $strides"
)


class FuseActivationIntoConv(Rule):
    """An activation after ``Conv`` is part of ``FusedConv``; layouts of convolutions take both alike."""

    stage = "lower"
    before = (
        _CONV + "%y = Relu|Sigmoid|Tanh(%c)",
        _CONV + "%y = LeakyRelu(%c) {alpha = $slope}",
        _CONV + "%y = HardSigmoid(%c) {alpha = $slope, beta = $shift}",
        _CONV + "%y = Clip(%c, scalar %low, scalar %high)",
    )
    after = (
        "%y = com.microsoft::FusedConv(%x, %w, %b?) {" + _WINDOW + ", activation = $name, activation_params = $params}"
    )
    types = {"T": frozenset({DType.F32})}

    def constants(self, m: Match) -> dict[str, Any]:
        """The activation's name and its parameters."""
        found = [m.attr(n) for n in ("slope", "shift") if m.binds_attribute(n)]
        found += [m.scalar(n) for n in ("low", "high") if m.get(n) is not None]
        return {"name": m.node("y").op, "params": [float(p) for p in found] or None}

"""Write group and instance norms with kernels that runtimes have.

ONNX Runtime has no kernel for ``GroupNormalization`` on processors and writes it out in some thirty nodes; here it is
an instance norm of the groups.  Scale and bias per channel are then a ``BatchNormalization`` of mean 0 and variance 1,
which reads and writes the data once.  Tolerances: kernels of instance norms take the mean into the bias, which loses
digits where the variance is near zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.constant import Array
from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Rule
from passes.norm_axes import is_all


class ExpandGroupNormalization(Rule):
    """A group norm is an instance norm of its groups, and then a scale and a bias for each channel."""

    stage = "expand"
    before = """
        %y = GroupNormalization(%x: T[N,C,*S], %w: T[C], %b: T[C]){
            epsilon = $e, num_groups = $g, stash_type = $t}
    """
    after = """
        %r = Reshape(%x, const %groups)
        %i = InstanceNormalization(%r, const %one, const %zero){epsilon = $e}
        %shape = Shape(%x)
        %q = Reshape(%i, %shape)
        %y = BatchNormalization(%q, %w, %b, const %mean, const %variance){epsilon = 0.0}
    """
    types = {"T": frozenset({DType.F32, DType.F64})}
    domain = {"x": "permutation"}
    rtol = 1e-3

    def guard(self, m: Match) -> str | None:
        """Groups have several channels, and scale or bias say something."""
        return _why_not_affine(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """The shape of the groups, ones and zeros for each group, and mean and variance for each channel."""
        mean = np.zeros(m.size("C"), m.dtype("T").numpy)
        return {**_of_groups(m), "mean": mean, "variance": np.ones_like(mean)}


class ExpandGroupNormalizationInHalf(Rule):
    """A group norm is an instance norm of its groups, times a scale and plus a bias for each channel."""

    stage = "expand"
    before = """
        %y = GroupNormalization(%x: T[N,C,*S], %w: T[C], %b: T[C]){
            epsilon = $e, num_groups = $g, stash_type = $t}
    """
    after = """
        %r = Reshape(%x, const %groups)
        %i = InstanceNormalization(%r, const %one, const %zero){epsilon = $e}
        %shape = Shape(%x)
        %q = Reshape(%i, %shape)
        %w1 = Reshape(%w, const %column)
        %b1 = Reshape(%b, const %column)
        %m = Mul(%q, %w1)
        %y = Add(%m, %b1)
    """
    types = {"T": frozenset({DType.F16, DType.BF16})}
    domain = {"x": "permutation"}
    rtol = 1e-3

    def guard(self, m: Match) -> str | None:
        """Groups have several channels, and scale or bias say something."""
        return _why_not_affine(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """The shapes, and ones and zeros for each group."""
        return {**_of_groups(m), "column": np.array([-1] + [1] * len(m.run("S")))}


class ExpandPlainGroupNormalization(Rule):
    """A group norm with scale ones and bias zeros is an instance norm of its groups."""

    stage = "expand"
    before = """
        %y = GroupNormalization(%x: T[N,C,*S], const %w: T[C], const %b: T[C]){
            epsilon = $e, num_groups = $g, stash_type = $t}
    """
    after = """
        %r = Reshape(%x, const %groups)
        %i = InstanceNormalization(%r, const %one, const %zero){epsilon = $e}
        %shape = Shape(%x)
        %y = Reshape(%i, %shape)
    """
    types = {"T": FLOATS}
    domain = {"w": "ones", "b": "zeros", "x": "permutation"}
    rtol = 1e-3

    def guard(self, m: Match) -> str | None:
        """Scale and bias say nothing, and groups have several channels."""
        if m.attr("g") == m.dim("C"):
            return "each channel is a group"
        return None if _is_plain(m) else "it has a scale or bias"

    def constants(self, m: Match) -> dict[str, Any]:
        """The shape of the groups, and ones and zeros for each."""
        return _of_groups(m)


class ExpandGroupNormalizationOfChannels(Rule):
    """A group norm of single channels is an instance norm."""

    stage = "expand"
    before = "%y = GroupNormalization(%x: T[N,C,*S], %w: T[C], %b: T[C]){epsilon = $e, num_groups = C, stash_type = $t}"
    after = "%y = InstanceNormalization(%x, %w, %b){epsilon = $e}"
    types = {"T": FLOATS}
    domain = {"x": "permutation", "w": "positive"}
    rtol = 1e-3


class ExpandInstanceNormalization(Rule):
    """An instance norm is what its definition says: mean and variance over all axes after the channels.

    The standard has no such definition that a runtime could use, and kernels are there for few element types.
    """

    stage = "expand"
    before = "%y = InstanceNormalization(%x: T[N,C,*S], %w: T[C], %b: T[C]){epsilon = $e}"
    after = """
        %m = ReduceMean(%x, const %axes){keepdims = 1}
        %d = Sub(%x, %m)
        %q = Mul(%d, %d)
        %v = ReduceMean(%q, const %axes){keepdims = 1}
        %p = Add(%v, const %epsilon)
        %s = Sqrt(%p)
        %n = Div(%d, %s)
        %w1 = Reshape(%w, const %column)
        %b1 = Reshape(%b, const %column)
        %t = Mul(%n, %w1)
        %y = Add(%t, %b1)
    """
    types = {"T": FLOATS}
    domain = {"x": "permutation", "w": "positive"}
    rtol = 1e-3

    def constants(self, m: Match) -> dict[str, Any]:
        """The axes, the epsilon as a number of the type, and the shape of one weight per channel."""
        inner = len(m.run("S"))
        epsilon = np.array(m.attr("e"), m.dtype("T").numpy)
        return {"axes": np.arange(2, inner + 2), "epsilon": epsilon, "column": np.array([-1] + [1] * inner)}


def _is_plain(m: Match) -> bool:
    scale, bias = m["w"].array(), m["b"].array()
    return scale is not None and bias is not None and is_all(scale, 1) and is_all(bias, 0)


def _why_not_affine(m: Match) -> str | None:
    if m.attr("g") == m.dim("C"):
        return "each channel is a group"
    return "scale and bias are ones and zeros" if _is_plain(m) else None


def _of_groups(m: Match) -> dict[str, Array]:
    one = np.ones(m.attr("g"), m.dtype("T").numpy)
    return {"groups": np.array([0, m.attr("g"), -1]), "one": one, "zero": np.zeros_like(one)}

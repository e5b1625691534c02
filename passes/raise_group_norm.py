"""Recognise instance and group normalization, and absorb what belongs to them.

Instance norm is layer norm over all axes after the channels, with one scale and bias per channel; group norm the same
over groups of channels.  Exporters write a group norm as an instance norm of the groups between two reshapes, and its
scale and bias behind it.

Decisions: an instance norm with scale ones and bias zeros, followed by a factor per channel, is raised to a group norm
with one channel per group, since that is how group norms of that kind are written; both mean the same, and ``expand``
makes an instance norm of it where that is better.  Tolerances: kernels of instance norms take the mean into the bias,
which loses digits where the variance is near zero; definitions of group norms subtract the square of the mean, which
loses them too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.constant import Array
from compiler.rewrite import FLOATS, Match, Refusal, Rule
from passes.norm_axes import PER_CHANNEL, channel_vector, epsilon, finite, is_all

_SPATIAL = (("L", "[2]"), ("H,W", "[2,3]"), ("D,H,W", "[2,3,4]"))
"""Dims after the channels, and their axes."""

_ROOTS = ("%y: T[N,C,{dims}] = Div(%d, %s)", "%i = Reciprocal(%s)\n        %y: T[N,C,{dims}] = Mul(%d, %i)")
"""Ways to divide by the deviation."""


class RaiseInstanceNormalization(Rule):
    """Raise a norm that is written out over all axes after the channels into ``InstanceNormalization``.

    Scale and bias become ones and zeros.
    """

    stage = "raise"
    before = tuple(
        f"""
        %m = ReduceMean(%x: T[N,C,{dims}], {axes}){{keepdims = 1}}
        %d = Sub(%x, %m)
        %q = Mul(%d, %d)
        %v = ReduceMean(%q, {axes}){{keepdims = 1}}
        optional %p = Add(%v, scalar %e)
        %s = Sqrt(%p)
        {root.format(dims=dims)}
        """
        for dims, axes in _SPATIAL
        for root in _ROOTS
    )
    after = "%y = InstanceNormalization(%x, const %one, const %zero){epsilon = $epsilon}"
    types = {"T": FLOATS}
    domain = {"e": "0.001..0.1", "x": "permutation"}
    rtol = 1e-3

    def guard(self, m: Match) -> str | None:
        """One last axis of known size makes it a layer norm."""
        known = len(m["x"].shape or ()) == 3 and isinstance(m.dim("L"), int)
        return "one last axis of known size makes it a layer norm" if known else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Ones and zeros for each channel."""
        one = np.ones(m.size("C"), m.dtype("T").numpy)
        return {"one": one, "zero": np.zeros_like(one), "epsilon": epsilon(m)}


def _group_size(m: Match) -> int:
    """Return the number of channels in a group; refuses groups that do not part the channels evenly."""
    channels, groups = m.size("C"), m.size("G")
    if groups < 1 or channels % groups:
        raise Refusal(f"{channels} channels do not part into {groups} groups")
    return channels // groups


class RaiseGroupNormalization(Rule):
    """Raise an instance norm of groups of channels between two reshapes into ``GroupNormalization``.

    The reshapes keep the order of elements, so row ``g`` of ``[N, G, ...]`` holds the channels of group ``g``.
    """

    stage = "raise"
    before = """
        %r: T[N,G,*U] = Reshape(%x: T[N,C,*S], %_){allowzero = $z1}
        %i = InstanceNormalization(%r, const %s: T[G], const %b: T[G]){epsilon = $e}
        %y: T[N,C,*S] = Reshape(%i, %_){allowzero = $z2}
    """
    after = "%y = GroupNormalization(%x, const %scale, const %bias){epsilon = $e, num_groups = G}"
    types = {"T": FLOATS}
    domain = {"N": "1..4", "C": "4,8", "G": "2,4", "x": "permutation", "s": "positive"}
    rtol = 1e-3

    def constants(self, m: Match) -> dict[str, Any]:
        """Scale and bias of a group, for each of its channels."""
        size = _group_size(m)
        return {"scale": np.repeat(m.array("s"), size), "bias": np.repeat(m.array("b"), size)}


class RaiseGroupNormalizationOfRows(Rule):
    """Raise a layer norm of flattened groups of channels, with scale ones, into ``GroupNormalization``."""

    stage = "raise"
    before = """
        %r: T[N,G,M] = Reshape(%x: T[N,C,*S], %_){allowzero = $z1}
        %i = LayerNormalization(%r, const %one: T[M], _){axis = -1, epsilon = $e, stash_type = $t}
        %y: T[N,C,*S] = Reshape(%i, %_){allowzero = $z2}
    """
    after = "%y = GroupNormalization(%x, const %scale, const %bias){epsilon = $e, num_groups = G}"
    types = {"T": FLOATS}
    domain = {"N": "1..4", "C": "4,8", "G": "2,4", "one": "ones", "x": "permutation"}
    rtol = 1e-3

    def guard(self, m: Match) -> str | None:
        """The scale is ones, and a group has several channels: rows of one channel are normalized best as they are."""
        if _group_size(m) == 1:
            return "a group is one channel"
        return None if is_all(m.array("one"), 1) else "the scale is not all ones"

    def constants(self, m: Match) -> dict[str, Any]:
        """Ones and zeros for each channel."""
        one = np.ones(m.size("C"), m.dtype("T").numpy)
        return {"scale": one, "bias": np.zeros_like(one)}


class RaiseGroupNormalizationOfChannels(Rule):
    """An instance norm with scale ones and bias zeros, times a factor per channel, is a group norm."""

    stage = "raise"
    before = tuple(
        f"""
        %i = InstanceNormalization(%x: T[{data}], const %one: T[N], const %zero: T[N]){{epsilon = $e}}
        %y: T[{data}] = Mul(%i, %w: T[{weight}])
        """
        for _, data, _, weight in PER_CHANNEL
    )
    after = """
        %v = Reshape(%w, [-1])
        %y = GroupNormalization(%x, %v, %zero){epsilon = $e, num_groups = N}
    """
    types = {"T": FLOATS}
    domain = {"B": "1..4", "one": "ones", "zero": "zeros", "x": "permutation"}
    rtol = 1e-3

    def guard(self, m: Match) -> str | None:
        """Scale and bias are ones and zeros."""
        return None if is_all(m.array("one"), 1) and is_all(m.array("zero"), 0) else "it has a scale or bias"


class AbsorbScaleOfGroupNormalization(Rule):
    """A constant factor per channel behind a group norm with constant weights is part of them."""

    stage = "raise"
    before = """
        %n = GroupNormalization(%x: T[N,C,*S], const %s, const %b){epsilon = $e, num_groups = $g, stash_type = $t}
        %y: T[N,C,*S] = Mul(%n, const %w: T)
    """
    after = "%y = GroupNormalization(%x, const %scale, const %bias){epsilon = $e, num_groups = $g, stash_type = $t}"
    types = {"T": FLOATS}
    domain = {"N": "1..4", "x": "permutation"}
    rtol = 1e-3

    def constants(self, m: Match) -> dict[str, Any]:
        """Scale and bias times the factor."""
        factor = _per_channel(m, "w")
        return {"scale": finite(m.array("s") * factor), "bias": finite(m.array("b") * factor)}


class AbsorbBiasOfGroupNormalization(Rule):
    """A constant per channel added to a group norm with a constant bias is part of that bias."""

    stage = "raise"
    before = """
        %n = GroupNormalization(%x: T[N,C,*S], %s, const %b){epsilon = $e, num_groups = $g, stash_type = $t}
        %y: T[N,C,*S] = Add(%n, const %c: T)
    """
    after = "%y = GroupNormalization(%x, %s, const %bias){epsilon = $e, num_groups = $g, stash_type = $t}"
    types = {"T": FLOATS}
    domain = {"N": "1..4", "x": "permutation"}
    rtol = 1e-3

    def constants(self, m: Match) -> dict[str, Any]:
        """The sum of bias and constant."""
        return {"bias": finite(m.array("b") + _per_channel(m, "c"))}


def _per_channel(m: Match, name: str) -> Array:
    """Return a constant as a vector of one number per channel; refuses any other."""
    array = m.array(name)
    if array.size == 1:
        return array.reshape(1)
    return array.reshape(channel_vector(m[name], 1, len(m.run("S")) + 2, m.size("C")))


class AbsorbScaleOfInstanceNormalization(Rule):
    """A constant factor per channel behind an instance norm with constant weights is part of them."""

    stage = "raise"
    before = """
        %n = InstanceNormalization(%x: T[N,C,*S], const %s, const %b){epsilon = $e}
        %y: T[N,C,*S] = Mul(%n, const %w: T)
    """
    after = "%y = InstanceNormalization(%x, const %scale, const %bias){epsilon = $e}"
    types = {"T": FLOATS}
    domain = {"x": "permutation"}
    rtol = 1e-3

    def guard(self, m: Match) -> str | None:
        """It has a scale or bias of its own; without, it is a group norm."""
        return "it is a group norm" if is_all(m.array("s"), 1) and is_all(m.array("b"), 0) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Scale and bias times the factor."""
        factor = _per_channel(m, "w")
        return {"scale": finite(m.array("s") * factor), "bias": finite(m.array("b") * factor)}


class AbsorbBiasOfInstanceNormalization(Rule):
    """A constant per channel added to an instance norm with a constant bias is part of that bias."""

    stage = "raise"
    before = """
        %n = InstanceNormalization(%x: T[N,C,*S], %s, const %b){epsilon = $e}
        %y: T[N,C,*S] = Add(%n, const %c: T)
    """
    after = "%y = InstanceNormalization(%x, %s, const %bias){epsilon = $e}"
    types = {"T": FLOATS}
    domain = {"x": "permutation", "s": "positive"}
    rtol = 1e-3

    def constants(self, m: Match) -> dict[str, Any]:
        """The sum of bias and constant."""
        return {"bias": finite(m.array("b") + _per_channel(m, "c"))}

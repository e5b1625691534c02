"""Absorb into a layer norm what belongs to it: scale, bias, factors, and the casts of mixed precision.

Each rule is a theorem about ``LayerNormalization``, whoever made it.  A weight that is computed is absorbed only where
the norm has none yet; constants are folded into constants.
"""

from __future__ import annotations

from typing import Any

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Rule
from passes.norm_axes import PER_CHANNEL, finite, is_all, spread, static_dims


class AbsorbScaleOfLayerNormalization(Rule):
    """A layer norm with a scale of ones and no bias, times a weight, is the layer norm with that weight."""

    stage = "raise"
    before = """
        %n = LayerNormalization(%x: T[*S], const %one: T[*W]){axis = $a, epsilon = $e, stash_type = $t}
        %y: T[*S] = Mul(%n, %w: T[*W])
    """
    after = "%y = LayerNormalization(%x, %w){axis = $a, epsilon = $e, stash_type = $t}"
    types = {"T": FLOATS}
    domain = {"one": "ones"}

    def guard(self, m: Match) -> str | None:
        """The scale is ones."""
        return None if is_all(m.array("one"), 1) else "the scale is not all ones"


class AbsorbFactorOfLayerNormalization(Rule):
    """A constant factor after a layer norm with constant weights is part of its scale and bias.

    The factor is one number, or one number per normalized element.
    """

    stage = "raise"
    before = """
        %n = LayerNormalization(%x: T[*S], const %s: T[*W], const %b?){axis = $a, epsilon = $e, stash_type = $t}
        %y: T[*S] = Mul(%n, const %f: T)
    """
    after = "%y = LayerNormalization(%x, const %scale, const %bias?){axis = $a, epsilon = $e, stash_type = $t}"
    types = {"T": FLOATS}

    def constants(self, m: Match) -> dict[str, Any]:
        """Scale and bias times the factor."""
        factor = spread(m.array("f"), m.array("s").shape)
        made = {"scale": finite(m.array("s") * factor)}
        if m.get("b") is not None:
            made["bias"] = finite(m.array("b") * factor)
        return made


class AbsorbBiasOfLayerNormalization(Rule):
    """A layer norm without bias, plus a weight, is the layer norm with that bias."""

    stage = "raise"
    before = """
        %n = LayerNormalization(%x: T[*S], %s: T[*W], _){axis = $a, epsilon = $e, stash_type = $t}
        %y: T[*S] = Add(%n, %b: T[*W])
    """
    after = "%y = LayerNormalization(%x, %s, %b){axis = $a, epsilon = $e, stash_type = $t}"
    types = {"T": FLOATS}


class AbsorbShiftOfLayerNormalization(Rule):
    """A constant added to a layer norm is part of its bias.

    The constant is one number, or one number per normalized element.
    """

    stage = "raise"
    before = """
        %n = LayerNormalization(%x: T[*S], %s: T[*W], const %b?){axis = $a, epsilon = $e, stash_type = $t}
        %y: T[*S] = Add(%n, const %c: T)
    """
    after = "%y = LayerNormalization(%x, %s, const %bias){axis = $a, epsilon = $e, stash_type = $t}"
    types = {"T": FLOATS}

    def constants(self, m: Match) -> dict[str, Any]:
        """The sum of bias and constant."""
        shift = spread(m.array("c"), static_dims(m["s"], range(len(m.run("W")))))
        return {"bias": finite(shift if m.get("b") is None else m.array("b") + shift)}


class AbsorbCastsOfLayerNormalization(Rule):
    """A half-precision layer norm between casts to f32 and back is a layer norm that computes in f32.

    ``stash_type = 1`` says just that.  The weights are rounded to the half type, once: a relative error of one unit.
    """

    stage = "raise"
    before = """
        %u: f32[*S] = Cast(%x: H[*S]){to = 1}
        %n = LayerNormalization(%u, const %s: f32, const %b?: f32){axis = $a, epsilon = $e}
        %y: H[*S] = Cast(%n){to = $to}
    """
    after = "%y = LayerNormalization(%x, const %scale, const %bias?){axis = $a, epsilon = $e, stash_type = 1}"
    types = {"H": frozenset({DType.F16, DType.BF16})}
    rtol = 4e-3

    def constants(self, m: Match) -> dict[str, Any]:
        """The weights in the half type."""
        half = m.dtype("H").numpy
        made = {"scale": finite(m.array("s").astype(half))}
        if m.get("b") is not None:
            made["bias"] = finite(m.array("b").astype(half))
        return made


class AbsorbScaleOfLayerNormalizationOverChannels(Rule):
    """A factor per channel behind the transpose that follows a layer norm is the scale of the norm."""

    stage = "raise"
    before = tuple(
        f"""
        %n = LayerNormalization(%x: T[{last}], const %one: T[N]){{axis = -1, epsilon = $e, stash_type = $t}}
        %u: T[{first}] = Transpose(%n){{perm = {perm}}}
        %y: T[{first}] = Mul(%u, %w: T[{weight}])
        """
        for last, first, perm, weight in PER_CHANNEL
    )
    after = """
        %v = Reshape(%w, [-1])
        %z = LayerNormalization(%x, %v){axis = -1, epsilon = $e, stash_type = $t}
        %y = Transpose(%z){perm = $perm}
    """
    types = {"T": FLOATS}
    domain = {"one": "ones"}

    def guard(self, m: Match) -> str | None:
        """The scale is ones."""
        return None if is_all(m.array("one"), 1) else "the scale is not all ones"

    def constants(self, m: Match) -> dict[str, Any]:
        """The permutation of the form."""
        return {"perm": m.node("u").attr("perm")}


class AbsorbBiasOfLayerNormalizationOverChannels(Rule):
    """A shift per channel behind the transpose that follows a layer norm is the bias of the norm."""

    stage = "raise"
    before = tuple(
        f"""
        %n = LayerNormalization(%x: T[{last}], %s: T[N], _){{axis = -1, epsilon = $e, stash_type = $t}}
        %u: T[{first}] = Transpose(%n){{perm = {perm}}}
        %y: T[{first}] = Add(%u, %b: T[{weight}])
        """
        for last, first, perm, weight in PER_CHANNEL
    )
    after = """
        %v = Reshape(%b, [-1])
        %z = LayerNormalization(%x, %s, %v){axis = -1, epsilon = $e, stash_type = $t}
        %y = Transpose(%z){perm = $perm}
    """
    types = {"T": FLOATS}

    def constants(self, m: Match) -> dict[str, Any]:
        """The permutation of the form."""
        return {"perm": m.node("u").attr("perm")}

"""Recognise root mean square normalization however it is written out, and absorb what belongs to it.

It is ``x / sqrt(mean(x * x) + epsilon) * scale`` over the last axes.  As for layer norms, one rule recognises the part
before the scale, and others absorb scale and casts.  An epsilon that is missing is 0: exporters drop one that is lost
in the rounding of the mean.

Decisions: squares and roots stand in the normal form of the stage ``canonical``.  ``x / max(|x|, epsilon)`` times a
factor is one too, with ``|x|`` the Euclidean norm; without a factor it stays, since no form of it is faster.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Rule
from passes.norm_axes import (
    PER_CHANNEL,
    channels_last,
    count_of_last,
    epsilon,
    finite,
    is_all,
    ones,
    reduced_axes,
    spread,
)


class RaiseRmsNormalization(Rule):
    """Raise a root mean square norm that is written out over the last axes into ``RMSNormalization``.

    Source: the function body of ``RMSNormalization`` in the ONNX operator definitions.  A constant scale may stand
    anywhere before the division.
    """

    stage = "raise"
    before = (
        """
        %q = Mul(%x: T[*S], %x)
        %m = ReduceMean(%q, const %a){keepdims = 1}
        optional %p = Add(%m, scalar %e)
        %r = Sqrt(%p)
        optional %g = Mul(%x, const %w)
        %y: T[*S] = Div(%g, %r)
        """,
        """
        %q = Mul(%x: T[*S], %x)
        %m = ReduceMean(%q, const %a){keepdims = 1}
        optional %p = Add(%m, scalar %e)
        %r = Sqrt(%p)
        %i = Reciprocal(%r)
        optional %g = Mul(%i, const %w)
        %y: T[*S] = Mul(%x, %g)
        """,
        """
        %q = Mul(%x: T[*S], %x)
        %m = ReduceMean(%q, const %a){keepdims = 1}
        optional %p = Add(%m, scalar %e)
        %r = Sqrt(%p)
        %i = Reciprocal(%r)
        %g = Mul(%x, const %w)
        %y: T[*S] = Mul(%g, %i)
        """,
    )
    after = "%y = RMSNormalization(%x, const %scale){axis = $axis, epsilon = $epsilon}"
    types = {"T": FLOATS}
    domain = {"e": "0.00001..0.1"}

    def guard(self, m: Match) -> str | None:
        """The mean is over the last axes."""
        count_of_last(m, "x", reduced_axes(m, "x", "a"))
        return None

    def constants(self, m: Match) -> dict[str, Any]:
        """The scale is the weight, or ones."""
        axes = reduced_axes(m, "x", "a")
        scale = ones(m["x"], axes)
        if m.get("w") is not None:
            scale = spread(m.array("w"), scale.shape)
        return {"scale": scale, "axis": -len(axes), "epsilon": epsilon(m)}


class RaiseRmsNormalizationOverChannels(Rule):
    """Raise a root mean square norm over channels that are not last: move them to the end and back."""

    stage = "raise"
    before = (
        """
        %q = Mul(%x: T[N,C,L,*S], %x)
        %m = ReduceMean(%q, [1]){keepdims = 1}
        optional %p = Add(%m, scalar %e)
        %r = Sqrt(%p)
        %y: T[N,C,L,*S] = Div(%x, %r)
        """,
        """
        %q = Mul(%x: T[N,C,L,*S], %x)
        %m = ReduceMean(%q, [1]){keepdims = 1}
        optional %p = Add(%m, scalar %e)
        %r = Sqrt(%p)
        %i = Reciprocal(%r)
        %y: T[N,C,L,*S] = Mul(%x, %i)
        """,
    )
    after = """
        %t = Transpose(%x){perm = $there}
        %n = RMSNormalization(%t, const %scale){axis = -1, epsilon = $epsilon}
        %y = Transpose(%n){perm = $back}
    """
    types = {"T": FLOATS}
    domain = {"e": "0.00001..0.1"}

    def constants(self, m: Match) -> dict[str, Any]:
        """The scale is ones; the permutations move the axis."""
        there, back = channels_last(len(m.run("S")) + 3)
        return {"scale": ones(m["x"], [1]), "there": there, "back": back, "epsilon": epsilon(m)}


class RaiseScaledUnitVector(Rule):
    """Raise ``x / max(c * |x|, e) * w`` over the last axis into ``RMSNormalization`` with scale ``w / (c * sqrt(N))``.

    ``|x|`` is ``sqrt(N * mean(x * x))``, finite; ``max`` may be ``+`` as well.  With ``epsilon = (e / c)^2 / N`` both
    sides agree where ``c * |x|`` is not near ``e``, and both give zeros for zeros; in between they differ by up to
    ``sqrt(2)``.  So ``e`` must be a guard against division by zero (at most 1e-6) and not a part of the model.
    """

    stage = "raise"
    before = (
        """
        %l = ReduceL2(%x: T[*S,N], [-1]){keepdims = 1}
        optional %k = Mul(%l, scalar %c)
        optional %g = Clip|Max|Add(%k, scalar %e)
        optional %f = Expand(%g, %_)
        %n: T[*S,N] = Div(%x, %f)
        %y: T[*S,N] = Mul(%n, const %w)
        """,
    )
    after = "%y = RMSNormalization(%x, const %scale){axis = -1, epsilon = $epsilon}"
    types = {"T": frozenset({DType.F32, DType.F64})}
    domain = {"e": "0.0000000001..0.000001", "c": "positive", "x": "positive"}
    rtol = 1e-5

    def guard(self, m: Match) -> str | None:
        """The bound is positive and at most 1e-6, or missing; its square is a normal number; the factor is positive."""
        if _factor(m) <= 0:
            return f"the factor of the norm is {_factor(m)}"
        if m.size("N") == 0:
            return "there is nothing to normalize"
        if m.get("e") is None:
            return None
        e = m.scalar("e")
        return None if 1e-18 < e <= 1e-6 else f"the bound of the norm is {e}"

    def constants(self, m: Match) -> dict[str, Any]:
        """The weight over the root of the number of elements and the factor."""
        size, factor = m.size("N"), _factor(m)
        scale = spread(m.array("w"), (size,)).astype(np.float64) / (math.sqrt(size) * factor)
        return {"scale": finite(scale.astype(m.dtype("T").numpy)), "epsilon": (epsilon(m) / factor) ** 2 / size}


def _factor(m: Match) -> float:
    return float(m.scalar("c")) if m.get("c") is not None else 1.0


class AbsorbScaleOfRmsNormalization(Rule):
    """A root mean square norm with a scale of ones, times a weight, is the norm with that weight."""

    stage = "raise"
    before = """
        %n = RMSNormalization(%x: T[*S], const %one: T[*W]){axis = $a, epsilon = $e, stash_type = $t}
        %y: T[*S] = Mul(%n, %w: T[*W])
    """
    after = "%y = RMSNormalization(%x, %w){axis = $a, epsilon = $e, stash_type = $t}"
    types = {"T": FLOATS}
    domain = {"one": "ones"}

    def guard(self, m: Match) -> str | None:
        """The scale is ones."""
        return None if is_all(m.array("one"), 1) else "the scale is not all ones"


class AbsorbFactorOfRmsNormalization(Rule):
    """A constant factor after a root mean square norm with a constant scale is part of that scale.

    The factor is one number, or one number per normalized element.
    """

    stage = "raise"
    before = """
        %n = RMSNormalization(%x: T[*S], const %s: T[*W]){axis = $a, epsilon = $e, stash_type = $t}
        %y: T[*S] = Mul(%n, const %f: T)
    """
    after = "%y = RMSNormalization(%x, const %scale){axis = $a, epsilon = $e, stash_type = $t}"
    types = {"T": FLOATS}

    def constants(self, m: Match) -> dict[str, Any]:
        """The product of scale and factor."""
        scale = m.array("s")
        return {"scale": finite(scale * spread(m.array("f"), scale.shape))}


class AbsorbCastsOfRmsNormalization(Rule):
    """A half-precision root mean square norm between casts to f32 and back is one that computes in f32.

    ``stash_type = 1`` says just that.  The scale is rounded to the half type, once: a relative error of one unit of it.
    """

    stage = "raise"
    before = """
        %u: f32[*S] = Cast(%x: H[*S]){to = 1}
        %n = RMSNormalization(%u, const %s: f32){axis = $a, epsilon = $e}
        %y: H[*S] = Cast(%n){to = $to}
    """
    after = "%y = RMSNormalization(%x, const %scale){axis = $a, epsilon = $e, stash_type = 1}"
    types = {"H": frozenset({DType.F16, DType.BF16})}
    rtol = 4e-3

    def constants(self, m: Match) -> dict[str, Any]:
        """The scale in the half type."""
        return {"scale": finite(m.array("s").astype(m.dtype("H").numpy))}


class AbsorbScaleOfRmsNormalizationOverChannels(Rule):
    """A factor per channel behind the transpose that follows a root mean square norm is the scale of the norm."""

    stage = "raise"
    before = tuple(
        f"""
        %n = RMSNormalization(%x: T[{last}], const %one: T[N]){{axis = -1, epsilon = $e, stash_type = $t}}
        %u: T[{first}] = Transpose(%n){{perm = {perm}}}
        %y: T[{first}] = Mul(%u, %w: T[{weight}])
        """
        for last, first, perm, weight in PER_CHANNEL
    )
    after = """
        %v = Reshape(%w, [-1])
        %z = RMSNormalization(%x, %v){axis = -1, epsilon = $e, stash_type = $t}
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

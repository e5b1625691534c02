"""Recognise layer normalization however it is written out, and absorb what belongs to it.

Layer normalization is ``(x - mean) / sqrt(var + epsilon) * scale + bias``, with ``mean`` and ``var`` over the last axes.
One rule recognises the part before the affine map, with a scale of ones; others absorb scale, bias and the casts of mixed
precision.  So each of them is one theorem, whatever the others found.

Decisions:

* ``stash_type`` stays 1 (computed in f32), as exporters write it; for f64 kernels compute in f64 anyway.
* Squares are ``Mul(d, d)`` here: the stage ``canonical`` writes ``Pow(d, 2)`` and the spellings of the root that way.
* An epsilon that is missing is 0: exporters drop one that is lost in the rounding of the variance.
* Means over any other axis never become a norm over the last one: that axis is moved to the end and back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Rule
from passes.norm_axes import (
    channel_vector,
    count_of_last,
    epsilon,
    is_all,
    ones,
    only_axis_before_last,
    reduced_axes,
    spread,
    static_dims,
    to_last,
)


def _instance_like(m: Match, axes: tuple[int, ...]) -> bool:
    return len(axes) > 1 and axes[0] == 2 and m["x"].rank == axes[-1] + 1


class RaiseLayerNormalization(Rule):
    """Raise a layer norm that is written out over the last axes into ``LayerNormalization``.

    Source: the function body of ``LayerNormalization`` in the ONNX operator definitions.  A constant scale may stand
    anywhere before the division; the shift is absorbed by ``AbsorbBiasOfLayerNormalization``.
    """

    stage = "raise"
    before = (
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 1}
        %d = Sub(%x, %m)
        %q = Mul(%d, %d)
        %v = ReduceMean(%q, const %b){keepdims = 1}
        optional %p = Add(%v, scalar %e)
        %s = Sqrt(%p)
        optional %g = Mul(%d, const %w)
        %y: T[*S] = Div(%g, %s)
        """,
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 1}
        %d = Sub(%x, %m)
        %q = Mul(%d, %d)
        %v = ReduceMean(%q, const %b){keepdims = 1}
        optional %p = Add(%v, scalar %e)
        %s = Sqrt(%p)
        %i = Reciprocal(%s)
        optional %g = Mul(%i, const %w)
        %y: T[*S] = Mul(%d, %g)
        """,
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 1}
        %d = Sub(%x, %m)
        %q = Mul(%d, %d)
        %v = ReduceMean(%q, const %b){keepdims = 1}
        optional %p = Add(%v, scalar %e)
        %s = Sqrt(%p)
        %i = Reciprocal(%s)
        %g = Mul(%d, const %w)
        %y: T[*S] = Mul(%g, %i)
        """,
    )
    after = "%y = LayerNormalization(%x, const %scale){axis = $axis, epsilon = $epsilon}"
    types = {"T": FLOATS}
    domain = {"e": "0.00001..0.1"}

    def guard(self, m: Match) -> str | None:
        """The means are over the last axes; several axes after the second are an instance norm."""
        axes = reduced_axes(m, "x", "a", "b")
        count_of_last(m, "x", axes)
        return f"axes {axes} make it an instance norm" if _instance_like(m, axes) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The scale is the weight, or ones."""
        axes = reduced_axes(m, "x", "a", "b")
        scale = ones(m["x"], axes)
        if m.get("w") is not None:
            scale = spread(m.array("w"), scale.shape)
        return {"scale": scale, "axis": -len(axes), "epsilon": epsilon(m)}


class RaiseLayerNormalizationOfMoments(Rule):
    """Raise a layer norm whose variance is the mean square less the squared mean.

    The difference of two large numbers loses digits that ``LayerNormalization`` keeps, hence the tolerance.
    """

    stage = "raise"
    before = (
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 1}
        %q = Mul(%x, %x)
        %u = ReduceMean(%q, const %b){keepdims = 1}
        %k = Mul(%m, %m)
        %v = Sub(%u, %k)
        optional %c = Clip|Max(%v, 0.0)
        %p = Add(%c, scalar %e)
        %s = Sqrt(%p)
        %d = Sub(%x, %m)
        %y: T[*S] = Div(%d, %s)
        """,
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 1}
        %q = Mul(%x, %x)
        %u = ReduceMean(%q, const %b){keepdims = 1}
        %k = Mul(%m, %m)
        %v = Sub(%u, %k)
        optional %c = Clip|Max(%v, 0.0)
        %p = Add(%c, scalar %e)
        %s = Sqrt(%p)
        %i = Reciprocal(%s)
        optional %g = Mul(%i, const %w)
        %d = Sub(%x, %m)
        %y: T[*S] = Mul(%d, %g)
        """,
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 1}
        %q = Mul(%x, %x)
        %u = ReduceMean(%q, const %b){keepdims = 1}
        %k = Mul(%m, %m)
        %v = Sub(%u, %k)
        %c = Relu(%v)
        %p = Add(%c, scalar %e)
        %s = Sqrt(%p)
        %d = Sub(%x, %m)
        %y: T[*S] = Div(%d, %s)
        """,
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 1}
        %q = Mul(%x, %x)
        %u = ReduceMean(%q, const %b){keepdims = 1}
        %k = Mul(%m, %m)
        %v = Sub(%u, %k)
        %c = Relu(%v)
        %p = Add(%c, scalar %e)
        %s = Sqrt(%p)
        %i = Reciprocal(%s)
        optional %g = Mul(%i, const %w)
        %d = Sub(%x, %m)
        %y: T[*S] = Mul(%d, %g)
        """,
    )
    after = "%y = LayerNormalization(%x, const %scale){axis = $axis, epsilon = %e}"
    types = {"T": FLOATS}
    rtol = 1e-3
    domain = {"e": "0.001..0.1"}

    def guard(self, m: Match) -> str | None:
        """The means are over the last axes; several axes after the second are an instance norm."""
        axes = reduced_axes(m, "x", "a", "b")
        count_of_last(m, "x", axes)
        return f"axes {axes} make it an instance norm" if _instance_like(m, axes) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The scale is the weight, or ones."""
        axes = reduced_axes(m, "x", "a", "b")
        scale = ones(m["x"], axes)
        if m.get("w") is not None:
            scale = spread(m.array("w"), scale.shape)
        return {"scale": scale, "axis": -len(axes)}


class RaiseLayerNormalizationOfFactors(Rule):
    """Raise ``x * g + (bias - mean * g)`` with ``g = scale / sqrt(var + epsilon)`` into ``LayerNormalization``.

    It is the affine map of the normalized data, with the mean taken into the shift.
    """

    stage = "raise"
    before = """
        %m = ReduceMean(%x: T[*S,N], [-1]){keepdims = 1}
        %d = Sub(%x, %m)
        %q = Mul(%d, %d)
        %v = ReduceMean(%q, [-1]){keepdims = 1}
        %p = Add(%v, scalar %e)
        %s = Sqrt(%p)
        %i = Reciprocal(%s)
        %g = Mul(%i, %w: T[N])
        %a = Mul(%x, %g)
        %h = Mul(%m, %g)
        %c = Sub(%b: T[N], %h)
        %y: T[*S,N] = Add(%a, %c)
    """
    after = "%y = LayerNormalization(%x, %w, %b){axis = -1, epsilon = %e}"
    types = {"T": FLOATS}
    domain = {"e": "0.001..0.1"}


class RaiseLayerNormalizationOverAxis(Rule):
    """Raise a layer norm over an axis before the last: move the axis to the end, normalize, move it back.

    A layer norm over the channels of images is written like that.  The two transposes cost less than the passes over the
    data that they save.
    """

    stage = "raise"
    before = (
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 1}
        %d = Sub(%x, %m)
        %q = Mul(%d, %d)
        %v = ReduceMean(%q, const %b){keepdims = 1}
        optional %p = Add(%v, scalar %e)
        %s = Sqrt(%p)
        %y: T[*S] = Div(%d, %s)
        """,
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 1}
        %d = Sub(%x, %m)
        %q = Mul(%d, %d)
        %v = ReduceMean(%q, const %b){keepdims = 1}
        optional %p = Add(%v, scalar %e)
        %s = Sqrt(%p)
        %i = Reciprocal(%s)
        %y: T[*S] = Mul(%d, %i)
        """,
    )
    after = """
        %t = Transpose(%x){perm = $there}
        %n = LayerNormalization(%t, const %scale){axis = -1, epsilon = $epsilon}
        %y = Transpose(%n){perm = $back}
    """
    types = {"T": FLOATS}
    domain = {"e": "0.00001..0.1"}

    def constants(self, m: Match) -> dict[str, Any]:
        """The scale is ones; the permutations move the axis."""
        axes = reduced_axes(m, "x", "a", "b")
        axis = only_axis_before_last(m, "x", axes)
        there, back = to_last(axis, len(m.run("S")))
        return {"scale": ones(m["x"], axes), "there": there, "back": back, "epsilon": epsilon(m)}


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
        made = {"scale": m.array("s") * factor}
        if m.get("b") is not None:
            made["bias"] = m.array("b") * factor
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
        return {"bias": shift if m.get("b") is None else m.array("b") + shift}


class AbsorbCastsOfLayerNormalization(Rule):
    """A half-precision layer norm between casts to f32 and back is a layer norm that computes in f32.

    ``stash_type = 1`` says just that.  The weights are rounded to the half type, once: a relative error of one unit of it.
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
        made = {"scale": m.array("s").astype(half)}
        if m.get("b") is not None:
            made["bias"] = m.array("b").astype(half)
        return made


class AbsorbScaleOfLayerNormalizationOverAxis(Rule):
    """A factor per channel behind the transpose that follows a layer norm is the scale of the norm."""

    stage = "raise"
    before = """
        %n = LayerNormalization(%x: T[*S], const %one: T[N]){axis = -1, epsilon = $e, stash_type = $t}
        %u: T[*U] = Transpose(%n){perm = $p}
        %y: T[*U] = Mul(%u, %w: T)
    """
    after = """
        %v = Reshape(%w, const %vector)
        %n = LayerNormalization(%x, %v){axis = -1, epsilon = $e, stash_type = $t}
        %y = Transpose(%n){perm = $p}
    """
    types = {"T": FLOATS}
    domain = {"one": "ones"}

    def guard(self, m: Match) -> str | None:
        """The scale is ones."""
        return None if is_all(m.array("one"), 1) else "the scale is not all ones"

    def constants(self, m: Match) -> dict[str, Any]:
        """The shape that makes the weight a vector."""
        rank = len(m.run("S"))
        return {"vector": np.array(channel_vector(m["w"], list(m.attr("p")).index(rank - 1), rank, m.size("N")))}


class AbsorbBiasOfLayerNormalizationOverAxis(Rule):
    """A shift per channel behind the transpose that follows a layer norm is the bias of the norm."""

    stage = "raise"
    before = """
        %n = LayerNormalization(%x: T[*S], %s: T[N], _){axis = -1, epsilon = $e, stash_type = $t}
        %u: T[*U] = Transpose(%n){perm = $p}
        %y: T[*U] = Add(%u, %b: T)
    """
    after = """
        %v = Reshape(%b, const %vector)
        %n = LayerNormalization(%x, %s, %v){axis = -1, epsilon = $e, stash_type = $t}
        %y = Transpose(%n){perm = $p}
    """
    types = {"T": FLOATS}

    def constants(self, m: Match) -> dict[str, Any]:
        """The shape that makes the bias a vector."""
        rank = len(m.run("S"))
        return {"vector": np.array(channel_vector(m["b"], list(m.attr("p")).index(rank - 1), rank, m.size("N")))}

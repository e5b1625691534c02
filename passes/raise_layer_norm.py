"""Recognise layer normalization however it is written out.

Layer normalization is ``(x - mean) / sqrt(var + epsilon) * scale + bias``, with ``mean`` and ``var`` over the last
axes.  What is recognised here is the part before the affine map, with a scale of ones; ``absorb_layer_norm`` does the
rest.  So each rule is one theorem, whatever the others found.

Decisions:

* ``stash_type`` stays 1 (computed in f32), as exporters write it; for f64 kernels compute in f64 anyway.
* Squares are ``Mul(d, d)`` here: the stage ``canonical`` writes ``Pow(d, 2)`` and the spellings of the root that way.
* An epsilon that is missing is 0: exporters drop one that is lost in the rounding of the variance.
* Means over any other axis never become a norm over the last one: that axis is moved to the end and back.
"""

from __future__ import annotations

from typing import Any

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Rule
from passes.norm_axes import channels_last, count_of_last, epsilon, ones, reduced_axes, spread


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

    The difference of two large numbers loses digits that ``LayerNormalization`` keeps, hence the tolerance; in half
    precision it loses all.
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
    types = {"T": frozenset({DType.F32, DType.F64})}
    rtol = 1e-3
    domain = {"e": "0.001..0.1", "x": "permutation"}

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

    It is the affine map of the normalized data, with the mean taken into the shift, which loses digits that
    ``LayerNormalization`` keeps.
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
    domain = {"e": "0.001..0.1", "x": "permutation", "w": "positive"}
    rtol = 1e-4


class RaiseLayerNormalizationOverChannels(Rule):
    """Raise a layer norm over channels that are not last: move them to the end, normalize, move them back.

    A layer norm over the channels of images is written like that.  The two transposes cost less than the passes over
    the data that they save.
    """

    stage = "raise"
    before = (
        """
        %m = ReduceMean(%x: T[N,C,L,*S], [1]){keepdims = 1}
        %d = Sub(%x, %m)
        %q = Mul(%d, %d)
        %v = ReduceMean(%q, [1]){keepdims = 1}
        optional %p = Add(%v, scalar %e)
        %s = Sqrt(%p)
        %y: T[N,C,L,*S] = Div(%d, %s)
        """,
        """
        %m = ReduceMean(%x: T[N,C,L,*S], [1]){keepdims = 1}
        %d = Sub(%x, %m)
        %q = Mul(%d, %d)
        %v = ReduceMean(%q, [1]){keepdims = 1}
        optional %p = Add(%v, scalar %e)
        %s = Sqrt(%p)
        %i = Reciprocal(%s)
        %y: T[N,C,L,*S] = Mul(%d, %i)
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
        there, back = channels_last(len(m.run("S")) + 3)
        return {"scale": ones(m["x"], [1]), "there": there, "back": back, "epsilon": epsilon(m)}

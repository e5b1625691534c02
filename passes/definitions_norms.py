"""Define norms by means, variances and roots, and fused norms by the sum and the norm that they fuse.

The standard's own definitions flatten the data, count the axes at run time and cast to single precision whatever comes;
these are written for what models hold: data in single precision, or in half precision computed in single.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Refusal, Rule

_SINGLE = frozenset({DType.F32})
_HALF = frozenset({DType.F16, DType.BF16})

_SKIP_EPSILON = 1e-12
"""What a fused norm adds under the root when it does not say."""


class _Norm(Rule):
    """What definitions of norms share: the axes from ``axis`` on, and parameters that do not enlarge the result."""

    stage = "expand"

    def guard(self, m: Match) -> str | None:
        """Parameters broadcast to the data, and not the data to them."""
        rank = m["x"].rank
        for value in (m["w"], m.get("b")):
            if value is not None and (rank is None or value.rank is None or value.rank > rank):
                return f"the parameter {value.type} may be larger than {m['x'].type}"
        return None

    def constants(self, m: Match) -> dict[str, Any]:
        """The axes, the number under the root, and the element types to compute in and to give."""
        rank, axis = m["x"].rank, m.attr("axis")
        if rank is None:
            raise Refusal("the rank is not known")
        return {
            "axes": np.arange((-1 if axis is None else axis) % rank, rank),
            "e": np.asarray(m.attr("epsilon"), np.float32),
            "single": DType.F32.code,
            "given": m.dtype("T").code,
        }


class DefineLayerNormalization(_Norm):
    """A layer norm is what the data are off their mean, over the standard deviation, times a scale and plus a bias."""

    before = "%y = LayerNormalization(%x: T, %w: T, %b?: T){axis = $axis, epsilon = $epsilon}"
    after = """
        %m = ReduceMean(%x, const %axes)
        %d = Sub(%x, %m)
        %s = Pow(%d, 2.0)
        %v = ReduceMean(%s, const %axes)
        %p = Add(%v, const %e)
        %r = Sqrt(%p)
        %n = Div(%d, %r)
        %t = Mul(%n, %w)
        optional %y = Add(%t, %b?)
    """
    types = {"T": _SINGLE}


class DefineHalfLayerNormalization(_Norm):
    """A layer norm of half-precision data is computed in single precision up to the scale."""

    before = "%y = LayerNormalization(%x: T, %w: T, %b?: T){axis = $axis, epsilon = $epsilon}"
    after = """
        %c = Cast(%x){to = $single}
        %m = ReduceMean(%c, const %axes)
        %d = Sub(%c, %m)
        %s = Pow(%d, 2.0)
        %v = ReduceMean(%s, const %axes)
        %p = Add(%v, const %e)
        %r = Sqrt(%p)
        %n = Div(%d, %r)
        %h = Cast(%n){to = $given}
        %t = Mul(%h, %w)
        optional %y = Add(%t, %b?)
    """
    types = {"T": _HALF}


class DefineRmsNormalization(_Norm):
    """An RMS norm is the data over the root of their mean square, times a scale."""

    before = "%y = RMSNormalization(%x: T, %w: T){axis = $axis, epsilon = $epsilon}"
    after = """
        %s = Mul(%x, %x)
        %v = ReduceMean(%s, const %axes)
        %p = Add(%v, const %e)
        %r = Sqrt(%p)
        %n = Div(%x, %r)
        %y = Mul(%n, %w)
    """
    types = {"T": _SINGLE}


class DefineHalfRmsNormalization(_Norm):
    """An RMS norm of half-precision data is computed in single precision up to the scale."""

    before = "%y = RMSNormalization(%x: T, %w: T){axis = $axis, epsilon = $epsilon}"
    after = """
        %c = Cast(%x){to = $single}
        %s = Mul(%c, %c)
        %v = ReduceMean(%s, const %axes)
        %p = Add(%v, const %e)
        %r = Sqrt(%p)
        %n = Div(%c, %r)
        %h = Cast(%n){to = $given}
        %y = Mul(%h, %w)
    """
    types = {"T": _HALF}


class DefineSimplifiedLayerNormalization(Rule):
    """ONNX Runtime's simplified layer norm is the standard's RMS norm."""

    stage = "expand"
    before = "%y = SimplifiedLayerNormalization@1(%x: T, %w: T){axis = $axis, epsilon = $epsilon, stash_type = $stash}"
    after = "%y = RMSNormalization(%x, %w){axis = $from, epsilon = $epsilon}"
    types = {"T": FLOATS - {DType.BF16}}

    def guard(self, m: Match) -> str | None:
        """It computes in single precision, as it does by default, and says what it adds under the root."""
        if m.attr("stash") not in (None, DType.F32.code):
            return f"it computes in the type of code {m.attr('stash')}"
        return "it does not say what it adds under the root" if m.attr("epsilon") is None else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The first axis, which is the last one unless it is given."""
        return {"from": -1 if m.attr("axis") is None else m.attr("axis")}


class _SkipNorm(Rule):
    """What definitions of a norm of a sum share: what they add under the root."""

    stage = "expand"

    def constants(self, m: Match) -> dict[str, Any]:
        """What is added under the root."""
        return {"e": _SKIP_EPSILON if m.attr("epsilon") is None else m.attr("epsilon")}


class DefineSkipLayerNormalization(_SkipNorm):
    """SkipLayerNormalization is the layer norm of a sum, which it also gives."""

    before = (
        "%y = com.microsoft::SkipLayerNormalization(%x: T, %r: T, %w: T, %b?: T, %c?: T){epsilon = $epsilon}",
        "%y, _, _, %s = com.microsoft::SkipLayerNormalization(%x: T, %r: T, %w: T, %b?: T, %c?: T){epsilon = $epsilon}",
    )
    after = """
        %a = Add(%x, %r)
        optional %s = Add(%a, %c?)
        %y = LayerNormalization(%s, %w, %b?){epsilon = $e}
    """
    types = {"T": FLOATS}


class DefineSkipSimplifiedLayerNormalization(_SkipNorm):
    """SkipSimplifiedLayerNormalization is the RMS norm of a sum, which it also gives."""

    before = (
        "%y = com.microsoft::SkipSimplifiedLayerNormalization(%x: T, %r: T, %w: T, %c?: T){epsilon = $epsilon}",
        """%y, _, _, %s = com.microsoft::SkipSimplifiedLayerNormalization(%x: T, %r: T, %w: T, %c?: T){
            epsilon = $epsilon}""",
    )
    after = """
        %a = Add(%x, %r)
        optional %s = Add(%a, %c?)
        %y = RMSNormalization(%s, %w){epsilon = $e}
    """
    types = {"T": FLOATS}


def _embedding(rest: str) -> tuple[str, ...]:
    """Return the forms in which outputs are wanted: the norm, the sum besides, the lengths besides, or all."""
    tables = "%v: T[V,H], %p: T[M,H], %g?: T[G,H], %w: T[H], %b: T[H]"
    attributes = "{epsilon = $epsilon, mask_index_type = $index}"
    call = f"com.microsoft::EmbedLayerNormalization(%i: i32[B,S], %j?: i32[B,S], {tables}, {rest}){attributes}"
    return tuple(f"{outputs} = {call}" for outputs in ("%y, _", "%y, _, %s", "%y, %l", "%y, %l, %s"))


class _EmbedLayerNormalization(_SkipNorm):
    """What the definitions of embeddings share: kinds of sentence come with their table, and tokens are counted."""

    def guard(self, m: Match) -> str | None:
        """Kinds of sentence and their table are both there, or neither is."""
        both = (m.get("j") is None) == (m.get("g") is None)
        return None if both else "a table of kinds of sentence without the kinds, or the other way round"

    def constants(self, m: Match) -> dict[str, Any]:
        """What is added under the root, the mark of a token, and the type to count in."""
        return {**super().constants(m), "counted": DType.I32.code, "one": np.asarray(1, np.int32)}


class DefineEmbedLayerNormalization(_EmbedLayerNormalization):
    """EmbedLayerNormalization is the layer norm of the sum of embeddings of words, places and kinds of sentence.

    Places count from 0. The second output counts the tokens of each row that the mask marks by 1.
    """

    before = _embedding("%k?: i32[B,S]")
    after = """
        %we = Gather(%v, %i){axis = 0}
        %n = Shape(%i){start = 1, end = 2}
        %pe = Slice(%p, [0], %n, [0])
        %wp = Add(%we, %pe)
        %ge = Gather(%g?, %j?){axis = 0}
        optional %s = Add(%wp, %ge?)
        %y = LayerNormalization(%s, %w, %b){epsilon = $e}
        %o = Equal(%k?, const %one)
        %c = Cast(%o?){to = $counted}
        %l = ReduceSum(%c?, [1]){keepdims = 0}
    """
    types = {"T": FLOATS}
    domain = {"i": "0..V", "j": "0..G", "M": "8"}


class DefineEmbedLayerNormalizationAtPlaces(_EmbedLayerNormalization):
    """EmbedLayerNormalization that is told the places looks them up."""

    before = _embedding("%k?: i32[B,S], %q: i32")
    after = """
        %we = Gather(%v, %i){axis = 0}
        %pe = Gather(%p, %q){axis = 0}
        %wp = Add(%we, %pe)
        %ge = Gather(%g?, %j?){axis = 0}
        optional %s = Add(%wp, %ge?)
        %y = LayerNormalization(%s, %w, %b){epsilon = $e}
        %o = Equal(%k?, const %one)
        %c = Cast(%o?){to = $counted}
        %l = ReduceSum(%c?, [1]){keepdims = 0}
    """
    types = {"T": FLOATS}
    domain = {"i": "0..V", "j": "0..G", "q": "0..M"}

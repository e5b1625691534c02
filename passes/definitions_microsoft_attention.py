"""Define the attention operators of ``com.microsoft`` by the standard's ``Attention``, one feature at a time.

``Attention`` with packed weights becomes ``MultiHeadAttention``; biases, masks of keys and packed operands are taken
off that one, and what is left is ``Attention`` of rows that hold their heads side by side.

A row whose keys are all hidden by minus infinity is NaN in these operators and zero in the standard's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import FLOATS, Match, Refusal, Rule

_ATTRIBUTES = "num_heads = H, scale = $scale, mask_filter_value = $filter, unidirectional = $causal"
_ROWS = "%q: T[B,S,W], %k: T[B,N,W], %v: T[B,N,V]"
_HEADS_APART = "%q: T[B,S,W], %k: T[B,H,N,D], %v: T[B,H,N,D]"
_CACHE = "%ck: T[B,H,P,D], %cv: T[B,H,P,D]"
_SIZES = {"H": "2", "W": "8", "V": "8", "D": "4", "S": "3", "N": "3", "P": "2", "A": "1", "C": "2"}
_NUMBERS = dict.fromkeys(("q", "k", "v", "ck", "cv", "a", "b", "x", "w", "c"), "-2..2")
_USUAL = {**_SIZES, **_NUMBERS, "m": "0..2", "scale": "0.1..2", "filter": "-4..-3"}
"""Sizes that go together, and usual numbers."""


def _forms(operands: str, rest: str) -> tuple[str, ...]:
    """Return MultiHeadAttention of some operands alone, with the present besides, and with a past.

    ``rest`` are bias and mask of keys, with ``L`` for the number of keys in all.
    """
    alone = f"com.microsoft::MultiHeadAttention({operands}, {rest}, %a?: T[A,C,S,L]){{{_ATTRIBUTES}}}".replace(
        "L]", "N]"
    )
    behind = f"com.microsoft::MultiHeadAttention({operands}, {rest}, %a?: T[A,C,S,L], {_CACHE}){{{_ATTRIBUTES}}}"
    return f"%y = {alone}", f"%y, %pk, %pv = {alone}", f"%y, %pk, %pv = {behind}".replace("L]", "N+P]")


def _apart(rest: str) -> str:
    """Return MultiHeadAttention of keys and values whose heads are apart."""
    return f"%y = com.microsoft::MultiHeadAttention({_HEADS_APART}, {rest}, %a?: T[A,C,S,N]){{{_ATTRIBUTES}}}"


class _Heads(Rule):
    """What definitions of attention by heads share."""

    stage = "expand"
    types = {"T": FLOATS}
    domain = _USUAL


class DefineMultiHeadAttentionWithBias(_Heads):
    """The bias is that of queries, keys and values, side by side."""

    before = _forms(_ROWS, "%b: T[2*W+V], %m?: i32[B,L]")
    after = f"""
        %bq, %bk, %bv = Split(%b, [W,W,V]){{axis = 0}}
        %qb = Add(%q, %bq)
        %kb = Add(%k, %bk)
        %vb = Add(%v, %bv)
        %y, %pk, %pv = com.microsoft::MultiHeadAttention(%qb, %kb, %vb, _, %m?, %a?, %ck?, %cv?){{{_ATTRIBUTES}}}
    """


class DefineMultiHeadAttentionWithBiasOfQueries(_Heads):
    """Keys and values whose heads are apart take no bias: the first part of it is that of the queries."""

    before = _apart("%b: T[3*W], %m?: i32[B,N]")
    after = f"""
        %bq = Slice(%b, [0], [W], [0])
        %qb = Add(%q, %bq)
        %y = com.microsoft::MultiHeadAttention(%qb, %k, %v, _, %m?, %a?){{{_ATTRIBUTES}}}
    """


class _Mask(_Heads):
    """What definitions of masks of keys share: what is added where a key is hidden."""

    def constants(self, m: Match) -> dict[str, Any]:
        """Zero, and what is added where a key is hidden."""
        hidden, dtype = m.attr("filter"), m.dtype("T").numpy
        return {
            "zero": np.asarray(0, dtype),
            "hidden": np.asarray(-10000.0 if hidden is None else hidden, dtype),
        }


_BIASED = f"""
        optional %t = Add(%u, %a?)
        %s = Expand(%t, [1,1,S,1])
        %y, %pk, %pv = com.microsoft::MultiHeadAttention(%q, %k, %v, _, _, %s, %ck?, %cv?){{{_ATTRIBUTES}}}
"""
_SHOWN = """
        %shown = Greater(%m, 0)
        %h = Where(%shown, const %zero, const %hidden)
"""


class DefineMultiHeadAttentionWithPadding(_Mask):
    """A mask of keys, one row for each of the batch, adds to the scores of hidden keys."""

    before = (*_forms(_ROWS, "_, %m: i32[B,L]"), _apart("_, %m: i32[B,N]"))
    after = f"""{_SHOWN}
        %u = Unsqueeze(%h, [1, 2]){_BIASED}
    """


class DefineMultiHeadAttentionWithMask(_Mask):
    """A mask of keys for each query adds to the scores of hidden keys."""

    before = (*_forms(_ROWS, "_, %m: i32[B,S,L]"), _apart("_, %m: i32[B,S,N]"))
    after = f"""{_SHOWN}
        %u = Unsqueeze(%h, [1]){_BIASED}
    """


class DefineMultiHeadAttentionWithLengths(_Mask):
    """Numbers of keys, one for each row of the batch, hide the keys behind them."""

    before = _forms(_ROWS, "_, %m: i32[B]")
    after = f"""
        %n = Shape(%k){{start = 1, end = 2}}
        %p = Shape(%ck?){{start = 2, end = 3}}
        optional %l = Add(%n, %p?)
        %l0 = Squeeze(%l)
        %places = Range(0, %l0, 1)
        %counts = Cast(%m){{to = $index}}
        %count = Unsqueeze(%counts, [1])
        %shown = Less(%places, %count)
        %h = Where(%shown, const %zero, const %hidden)
        %u = Unsqueeze(%h, [1, 2]){_BIASED}
    """
    domain = {**_USUAL, "m": "1..4"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Zero, what is added where a key is hidden, and the type of places."""
        return {**super().constants(m), "index": 7}


class DefineMultiHeadAttention(_Heads):
    """MultiHeadAttention of plain operands is ``Attention`` of rows that hold their heads side by side."""

    before = _forms(_ROWS, "_, _")
    after = """
        %y, %pk, %pv = Attention(%q, %k, %v, %a?, %ck?, %cv?){
            q_num_heads = H, kv_num_heads = H, scale = $factor, is_causal = $frontier}
    """

    def guard(self, m: Match) -> str | None:
        """A causal mask counts from the end of the keys, which is from their start when they are as many as queries."""
        if m.attr("causal") and m.dim("S") != m.dim("N"):
            return f"{m.dim('S')} causal queries have {m.dim('N')} keys"
        return None

    def constants(self, m: Match) -> dict[str, Any]:
        """The scale unless it is the default, and whether there is a frontier."""
        return {"factor": m.attr("scale") or None, "frontier": int(bool(m.attr("causal")))}


class DefineMultiHeadAttentionToHeadsApart(_Heads):
    """Keys and values whose heads are apart are attended to by queries whose heads are."""

    before = _apart("_, _")
    after = """
        %q4 = Reshape(%q, [B,S,H,-1])
        %qt = Transpose(%q4){perm = [0,2,1,3]}
        %y4 = Attention(%qt, %k, %v, %a?){scale = $factor, is_causal = $frontier}
        %yt = Transpose(%y4){perm = [0,2,1,3]}
        %y = Reshape(%yt, [B,S,-1])
    """

    def guard(self, m: Match) -> str | None:
        """A causal mask counts from the end of the keys."""
        if m.attr("causal") and m.dim("S") != m.dim("N"):
            return f"{m.dim('S')} causal queries have {m.dim('N')} keys"
        return None

    def constants(self, m: Match) -> dict[str, Any]:
        """The scale unless it is the default, and whether there is a frontier."""
        return {"factor": m.attr("scale") or None, "frontier": int(bool(m.attr("causal")))}


class DefineMultiHeadAttentionOfPacked(_Heads):
    """Queries, keys and values packed head by head are split."""

    before = (
        "%y = com.microsoft::MultiHeadAttention("
        f"%x: T[B,S,H,3,D], _, _, %b?: T, %m?: i32[B,S], %a?: T[A,C,S,S]){{{_ATTRIBUTES}}}"
    )
    after = f"""
        %q4, %k4, %v4 = Split(%x){{axis = 3, num_outputs = 3}}
        %q = Reshape(%q4, [B,S,-1])
        %k = Reshape(%k4, [B,S,-1])
        %v = Reshape(%v4, [B,S,-1])
        %y = com.microsoft::MultiHeadAttention(%q, %k, %v, %b?, %m?, %a?){{{_ATTRIBUTES}}}
    """


class DefineMultiHeadAttentionToPacked(_Heads):
    """Keys and values packed head by head are split."""

    before = (
        "%y = com.microsoft::MultiHeadAttention("
        f"%q: T[B,S,W], %x: T[B,N,H,2,D], _, _, %m?: i32[B,N], %a?: T[A,C,S,N]){{{_ATTRIBUTES}}}"
    )
    after = f"""
        %k4, %v4 = Split(%x){{axis = 3, num_outputs = 2}}
        %k = Reshape(%k4, [B,N,-1])
        %v = Reshape(%v4, [B,N,-1])
        %y = com.microsoft::MultiHeadAttention(%q, %k, %v, _, %m?, %a?){{{_ATTRIBUTES}}}
    """


_PROJECTED = "%x: T[B,S,I], %w: T[I,J], %b?: T[J]"
_PACKED_ATTRIBUTES = f"{_ATTRIBUTES}, qkv_hidden_sizes = $sizes"


def _projecting(outputs: str, rest: str) -> str:
    """Return attention that projects its input, with a mask of keys, a cache and a bias of the scores."""
    return f"{outputs} = com.microsoft::Attention({_PROJECTED}, {rest}){{{_PACKED_ATTRIBUTES}}}"


class DefinePackedAttention(_Heads):
    """Attention with packed weights projects its input to queries, keys and values; its cache is packed too."""

    before = tuple(
        form
        for mask in ("_", "%m: i32[B,L]", "%m: i32[B]", "%m: i32[B,S,L]")
        for form in (
            _projecting("%y", f"{mask}, _, %a?: T[A,C,S,L]").replace("L]", "S]"),
            _projecting("%y, %z", f"{mask}, _, %a?: T[A,C,S,L]").replace("L]", "S]"),
            _projecting("%y, %z", f"{mask}, %c: T[2,B,H,P,D], %a?: T[A,C,S,L]").replace("L]", "S+P]"),
        )
    )
    after = f"""
        %p = MatMul(%x, %w)
        optional %r = Add(%p, %b?)
        %q, %k, %v = Split(%r, const %parts){{axis = 2}}
        %c1, %c2 = Split(%c?){{axis = 0, num_outputs = 2}}
        %ck = Squeeze(%c1?, [0])
        %cv = Squeeze(%c2?, [0])
        %y, %pk, %pv = com.microsoft::MultiHeadAttention(%q, %k, %v, _, %m?, %a?, %ck?, %cv?){{{_ATTRIBUTES}}}
        %z1 = Unsqueeze(%pk, [0])
        %z2 = Unsqueeze(%pv, [0])
        %z = Concat(%z1, %z2){{axis = 0}}
    """
    domain = {**_USUAL, "J": "24", "m": "1..2"}

    def constants(self, m: Match) -> dict[str, Any]:
        """The widths of queries, keys and values."""
        width, sizes = m.size("J"), m.attr("sizes")
        if sizes is None and width % 3:
            raise Refusal(f"the width {width} is no multiple of 3")
        return {"parts": np.array(sizes if sizes is not None else [width // 3] * 3)}

"""Bring ``Attention`` into the form that is cheapest: heads side by side, as projections make and take them.

``Attention`` of three dims, ``[B,S,H*D]`` with the numbers of heads, reads and writes heads in place, so that no
``Transpose`` is left around it.  ``MultiHeadAttention`` of ``com.microsoft`` takes the same rows.  Its kernel goes over
the scores in tiles that stay in the cache, which pays where rows are many; the cost model knows how many.

Decision: masks stay with ``Attention`` unless they are constants, since a row whose keys are all hidden is zero there
and NaN in the other.  Causal attention stays too: the tiles do not take it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Rule

_HANDED_ON = "scale = $scale, softcap = $softcap, softmax_precision = $precision, is_causal = $causal"


class AttendWithoutSplitHeads(Rule):
    """Let ``Attention`` read and write the heads of a row side by side, rather than transpose them to the front."""

    before = f"""
        %qt = Transpose(%q: T[B,S,H,D]){{perm = [0,2,1,3]}}
        %kt = Transpose(%k: T[B,N,G,D]){{perm = [0,2,1,3]}}
        %vt = Transpose(%v: T[B,N,G,E]){{perm = [0,2,1,3]}}
        %y = Attention(%qt, %kt, %vt, %m?){{{_HANDED_ON}}}
    """
    after = f"""
        %q3 = Reshape(%q, [B,S,H*D])
        %k3 = Reshape(%k, [B,N,G*D])
        %v3 = Reshape(%v, [B,N,G*E])
        %y3 = Attention(%q3, %k3, %v3, %m?){{{_HANDED_ON}, q_num_heads = H, kv_num_heads = G}}
        %y4 = Reshape(%y3, [B,S,H,E])
        %y = Transpose(%y4){{perm = [0,2,1,3]}}
    """
    shared = "%qt %kt %vt"
    types = {"T": FLOATS}
    domain = {"scale": "0.1..2", "H": "2,4", "G": "2,1"}


class AttendToCacheWithoutSplitHeads(Rule):
    """Let ``Attention`` with a cache read and write the heads of a row side by side."""

    before = f"""
        %qt = Transpose(%q: T[B,S,H,D]){{perm = [0,2,1,3]}}
        %kt = Transpose(%k: T[B,N,G,D]){{perm = [0,2,1,3]}}
        %vt = Transpose(%v: T[B,N,G,E]){{perm = [0,2,1,3]}}
        %y, %pk, %pv = Attention(%qt, %kt, %vt, %m?, %ck, %cv){{{_HANDED_ON}}}
    """
    after = f"""
        %q3 = Reshape(%q, [B,S,H*D])
        %k3 = Reshape(%k, [B,N,G*D])
        %v3 = Reshape(%v, [B,N,G*E])
        %y3, %pk, %pv = Attention(%q3, %k3, %v3, %m?, %ck, %cv){{{_HANDED_ON}, q_num_heads = H, kv_num_heads = G}}
        %y4 = Reshape(%y3, [B,S,H,E])
        %y = Transpose(%y4){{perm = [0,2,1,3]}}
    """
    shared = "%qt %kt %vt"
    types = {"T": FLOATS}
    domain = {"scale": "0.1..2", "H": "2,4", "G": "2,1"}


_ROWS = "%q: T[B,S,W], %k: T[B,N,W], %v: T[B,N,V]"
_SIZES = {"H": "2", "W": "8", "V": "8"}
_OURS = "num_heads = H, scale = $scale, mask_filter_value = $filter, unidirectional = $causal"
_SINGLE = {"T": frozenset({DType.F32})}


class AttendInTiles(Rule):
    """Attention of rows, in which each query head has a key head of its own, is ``MultiHeadAttention``.

    Definition: ONNX Runtime, ``contrib_ops/cpu/bert/multihead_attention.cc``.
    """

    stage = "lower"
    before = f"%y = Attention({_ROWS}) {{q_num_heads = H, kv_num_heads = H, scale = $scale}}"
    after = "%y = com.microsoft::MultiHeadAttention(%q, %k, %v) {num_heads = H, scale = $scale}"
    types = _SINGLE
    domain = {**_SIZES, "scale": "0.1..2"}


class AttendInTilesWithMask(Rule):
    """With a mask that hides no row, attention of rows is ``MultiHeadAttention`` whose scores have a bias."""

    stage = "lower"
    before = f"%y = Attention({_ROWS}, const %m: T[1,C,S,N]) {{q_num_heads = H, kv_num_heads = H, scale = $scale}}"
    after = "%y = com.microsoft::MultiHeadAttention(%q, %k, %v, _, _, %m) {num_heads = H, scale = $scale}"
    types = _SINGLE
    domain = {**_SIZES, "scale": "0.1..2", "C": "1,2"}

    def guard(self, m: Match) -> str | None:
        """Refuse a mask that hides all keys of a row, and one that is not made of numbers."""
        largest = m.array("m").max(axis=-1, initial=-np.inf)
        odd = np.argwhere(~np.isfinite(largest))
        return f"the mask leaves row {odd[0].tolist()} nothing, or is no number there" if odd.size else None


class AddBiasesWithinAttention(Rule):
    """Vectors that are added to queries, keys and values are the bias of ``MultiHeadAttention``."""

    stage = "lower"
    before = f"""
        %qb: T[B,S,W] = Add(%q: T[B,S,W], const %a: T[W])
        optional %kb: T[B,N,W] = Add(%k: T[B,N,W], const %b: T[W])
        %vb: T[B,N,V] = Add(%v: T[B,N,V], const %c: T[V])
        %y = com.microsoft::MultiHeadAttention(%qb, %kb, %vb, _, _, %m?) {{{_OURS}}}
    """
    after = f"%y = com.microsoft::MultiHeadAttention(%q, %k, %v, const %bias, _, %m?) {{{_OURS}}}"
    types = _SINGLE
    domain = {**_SIZES, "scale": "0.1..2", "filter": "-4..-3"}

    def constants(self, m: Match) -> dict[str, Any]:
        """The vectors one after the other, zeros for keys without one."""
        keys = m.array("b") if m.has("kb") else np.zeros_like(m.array("a"))
        return {"bias": np.concatenate([m.array("a"), keys, m.array("c")])}

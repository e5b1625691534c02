"""Bring ``Attention`` into the form that is cheapest: heads side by side, as projections make and take them.

``Attention`` of three dims, ``[B,S,H*D]`` with the numbers of heads, reads and writes heads in place, so that no
``Transpose`` is left around it.
"""

from __future__ import annotations

from compiler.rewrite import FLOATS, Rule

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

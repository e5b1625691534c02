"""Attend to a long sequence without projecting it, where there are few queries.

The scores ``Q (X V)ᵀ`` are ``(Q Vᵀ) Xᵀ``, and the result ``P (X W)`` is ``(P X) W``, for each head.  So a sequence that
is projected to keys and values only for one attention is not projected at all; instead, queries and results are as wide
as the sequence, for each head.  That is less work as long as there are fewer queries times heads than the projections
are wide.

Decisions:

* All sizes but the batch must be known, and multiply-adds must be clearly fewer, since narrow products are slower.
* A bias of the keys adds one number to all scores of a query, which softmax does not see: it is dropped.  That of the
  values is added to the result, since the rows of ``P`` sum to one; so nothing may be hidden from a query.
* Products, not ``Attention`` of one head: the runtime spreads an attention over threads by heads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler.ir.constant import Array
from compiler.ir.dtype import DType
from compiler.rewrite import Match, Rule
from passes.affine import is_shared
from passes.weights import computed, shape_of

_CLEARLY = 1.3
"""How many times fewer multiply-adds there must be."""


class AttendBeforeProjection(Rule):
    """Attention to projections of a sequence is attention of projected queries to the sequence, projected."""

    stage = "lower"
    before = """
        %k0: T[B,S,E] = MatMul(%x: T[B,S,F], const %wk: T[F,E])
        optional %k = Add(%k0, const %bk: T[E])
        %v0: T[B,S,V] = MatMul(%x, const %wv: T[F,V])
        optional %v = Add(%v0, const %bv: T[V])
        %y = Attention(%q: T[B,L,E], %k, %v) {q_num_heads = $heads, kv_num_heads = $groups, scale = $scale}
    """
    after = """
        %q4 = Reshape(%q, const %split)
        %qh = Transpose(%q4) {perm = [0, 2, 1, 3]}
        %qx = MatMul(%qh, const %a)
        %rows = Reshape(%qx, const %stack)
        %t = Transpose(%x) {perm = [0, 2, 1]}
        %s = MatMul(%rows, %t)
        %p = Softmax(%s)
        %px = MatMul(%p, %x)
        %ph = Reshape(%px, const %unstack)
        %h = MatMul(%ph, const %c)
        %yh = Transpose(%h) {perm = [0, 2, 1, 3]}
        %y3 = Reshape(%yh, const %join)
        optional %y = Add(%y3, %bv?)
    """
    types = {"T": frozenset({DType.F32, DType.F64})}
    domain = {
        "S": "static 12,20",
        "L": "static 1,2",
        "E": "16",
        "V": "16,24",
        "F": "3..6",
        "heads": "2",
        "groups": "2",
        "scale": "positive",
    }

    def guard(self, m: Match) -> str | None:
        """Refuse heads that share keys, weights that are shared, and what is not clearly less work."""
        heads = m.attr("heads")
        if heads != m.attr("groups"):
            return f"{heads} heads share {m.attr('groups')} heads of keys"
        if m.attr("scale") is not None and m.attr("scale") <= 0:
            return f"the scale is {m.attr('scale')}"
        if is_shared(m["wk"]) or is_shared(m["wv"]):
            return "a weight is shared"
        keys, queries, inner, wide = (m.size(n) for n in "SLFE")
        wide += m.size("V")
        now = keys * wide * (inner + queries)
        then = queries * inner * (wide + 2 * heads * keys)
        return None if now > _CLEARLY * then else f"{then} multiply-adds in place of {now}"

    def constants(self, m: Match) -> dict[str, Any]:
        """The weights of each head, those of the keys transposed and scaled, and shapes with heads or without."""
        heads, queries, inner = m.attr("heads"), m.size("L"), m.size("F")
        size, wide = m.size("E") // heads, m.size("V") // heads
        scale = 1 / math.sqrt(size) if m.attr("scale") is None else m.attr("scale")

        def of_keys(w: Array) -> Array:
            found: Array = w.reshape(inner, heads, size).transpose(1, 2, 0) * np.float64(scale)
            return found

        return {
            "a": computed((heads, size, inner), of_keys, m["wk"]),
            "c": computed((heads, inner, wide), lambda w: w.reshape(inner, heads, wide).swapaxes(0, 1), m["wv"]),
            "split": np.asarray([0, queries, heads, size]),
            "stack": np.asarray([0, heads * queries, inner]),
            "unstack": np.asarray([0, heads, queries, inner]),
            "join": np.asarray([0, queries, shape_of(m["wv"])[1]]),
        }

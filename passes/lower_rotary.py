"""Bring ``RotaryEmbedding`` into the form that is cheapest: partial rotation inside, heads never moved.

The operator takes ``[B,N,S,H]``, or ``[B,S,N*H]`` with the number of heads.  In the second form nothing needs to be
transposed before it, and the ``Transpose`` that follows usually cancels with that of ``Attention``.
"""

from __future__ import annotations

from compiler.ir.dtype import DType
from compiler.rewrite import Rule

_ROTATED = frozenset({DType.F16, DType.BF16, DType.F32})


class AbsorbUnrotatedColumns(Rule):
    """Rotate the first columns where they lie, rather than cut them off and put them back."""

    stage = "raise"
    before = (
        """
        %a: T[B,N,S,2*K] = Slice(%x: T[B,N,S,H], [0], %_, [-1], [1])
        %b = Slice(%x, [2*K], [9223372036854775807], [-1], [1])
        %r = RotaryEmbedding(%a, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs}
        %y: T[B,N,S,H] = Concat(%r, %b){axis = -1}
        """,
        """
        %a: T[B,N,S,2*K], %b = Split(%x: T[B,N,S,H], %_){axis = -1, num_outputs = $n}
        %r = RotaryEmbedding(%a, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs}
        %y: T[B,N,S,H] = Concat(%r, %b){axis = -1}
        """,
    )
    after = "%y = RotaryEmbedding(%x, %c, %s){interleaved = $pairs, rotary_embedding_dim = 2*K}"
    types = {"T": _ROTATED}


class AbsorbUnrotatedColumnsBeforeHeads(Rule):
    """Rotate the first columns where they lie, in a tensor whose positions stand before its heads."""

    stage = "raise"
    before = (
        """
        %a: T[B,S,N,2*K] = Slice(%x: T[B,S,N,H], [0], %_, [-1], [1])
        %b = Slice(%x, [2*K], %_, [-1], [1])
        %t = Transpose(%a){perm = [0,2,1,3]}
        %r = RotaryEmbedding(%t, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs}
        %u = Transpose(%r){perm = [0,2,1,3]}
        %y: T[B,S,N,H] = Concat(%u, %b){axis = -1}
        """,
        """
        %a: T[B,S,N,2*K], %b = Split(%x: T[B,S,N,H], %_){axis = -1, num_outputs = $n}
        %t = Transpose(%a){perm = [0,2,1,3]}
        %r = RotaryEmbedding(%t, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs}
        %u = Transpose(%r){perm = [0,2,1,3]}
        %y: T[B,S,N,H] = Concat(%u, %b){axis = -1}
        """,
    )
    after = """
        %t2 = Transpose(%x){perm = [0,2,1,3]}
        %r2 = RotaryEmbedding(%t2, %c, %s){interleaved = $pairs, rotary_embedding_dim = 2*K}
        %y = Transpose(%r2){perm = [0,2,1,3]}
    """
    types = {"T": _ROTATED}


class RotateBeforeTranspose(Rule):
    """Rotate rows of all heads side by side, and bring the heads to the front afterwards."""

    stage = "optimize"
    before = (
        """
        %t = Transpose(%x: T[B,S,N,H]){perm = [0,2,1,3]}
        %y = RotaryEmbedding(%t, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs, rotary_embedding_dim = 2*K}
        """,
        """
        %t = Transpose(%x: T[B,S,N,H]){perm = [0,2,1,3]}
        %y: T[B,N,S,2*K] = RotaryEmbedding(%t, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs}
        """,
    )
    after = """
        %f = Reshape(%x, [B,S,N*H])
        %r = RotaryEmbedding(%f, %c, %s){interleaved = $pairs, rotary_embedding_dim = 2*K, num_heads = N}
        %u = Reshape(%r, [B,S,N,H])
        %y = Transpose(%u){perm = [0,2,1,3]}
    """
    types = {"T": _ROTATED}

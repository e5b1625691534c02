"""Bring ``RotaryEmbedding`` into the form that is cheapest: heads stay where projections put them.

The operator takes ``[B,N,S,H]``, or ``[B,S,N*H]`` with the number of heads.  In the second form nothing needs to be
transposed before it, and the ``Transpose`` that follows usually cancels with that of ``Attention``.
"""

from __future__ import annotations

from compiler.ir.dtype import DType
from compiler.rewrite import Match, Rule

_ROTATED = frozenset({DType.F16, DType.BF16, DType.F32})


class RotateBeforeTranspose(Rule):
    """Rotate rows of all heads side by side, and bring the heads to the front afterwards."""

    stage = "optimize"
    before = (
        """
        %t = Transpose(%x: T[B,S,N,H]){perm = [0,2,1,3]}
        %y = RotaryEmbedding(%t, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs, rotary_embedding_dim = $columns}
        """,
        """
        %t = Transpose(%x: T[B,S,N,H]){perm = [0,2,1,3]}
        %y: T[B,N,S,2*K] = RotaryEmbedding(%t, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs}
        """,
    )
    after = """
        %f = Reshape(%x, [B,S,N*H])
        %r = RotaryEmbedding(%f, %c, %s){interleaved = $pairs, rotary_embedding_dim = $columns, num_heads = N}
        %u = Reshape(%r, [B,S,N,H])
        %y = Transpose(%u){perm = [0,2,1,3]}
    """
    types = {"T": _ROTATED}
    domain = {"K": "2", "H": "4,4,8", "columns": "4"}

    def guard(self, m: Match) -> str | None:
        """Refuse angles that are not those of half the columns that are rotated."""
        columns = m.attr("columns")
        wrong = columns is not None and (columns == 0 or columns != m.dim("K") * 2)
        return f"{columns} columns are rotated by {m.dim('K')} angles" if wrong else None

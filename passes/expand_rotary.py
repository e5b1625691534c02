"""Write ``RotaryEmbedding`` in older operators, for targets that have no kernel of it.

The halves are rotated apart: one ``Split``, four products, a difference and a sum at half width, which is less than
what exporters write.
"""

from __future__ import annotations

from compiler.ir.dtype import DType
from compiler.rewrite import Match, Rule

_ROTATED = frozenset({DType.F16, DType.BF16, DType.F32})

_TURN = """
    %c4 = Unsqueeze(%c, [1])
    %s4 = Unsqueeze(%s, [1])
    %ac = Mul(%a, %c4)
    %bs = Mul(%b, %s4)
    %bc = Mul(%b, %c4)
    %as = Mul(%a, %s4)
    %re = Sub(%ac, %bs)
    %im = Add(%bc, %as)
    """
"""Text that rotates ``a`` and ``b`` by the angles of every position."""


class ExpandRotary(Rule):
    """Rotate halves: ``(a, b)`` becomes ``(a*c - b*s, b*c + a*s)``."""

    stage = "expand"
    before = "%y = RotaryEmbedding(%x: T[B,N,S,2*H], %c: T[B,S,H], %s: T[B,S,H]){interleaved = 0}"
    after = "%a, %b = Split(%x, [H,H]){axis = -1}" + _TURN + "%y = Concat(%re, %im){axis = -1}"
    types = {"T": _ROTATED}


class ExpandPartialRotary(Rule):
    """Rotate the halves of the first columns, and put the others behind them."""

    stage = "expand"
    before = """
        %y: T[B,N,S,D] = RotaryEmbedding(%x: T[B,N,S,D], %c: T[B,S,H], %s: T[B,S,H])
            {interleaved = 0, rotary_embedding_dim = R}
    """
    after = "%a, %b, %p = Split(%x, [H,H,D-2*H]){axis = -1}" + _TURN + "%y = Concat(%re, %im, %p){axis = -1}"
    types = {"T": _ROTATED}
    domain = {"H": "2", "R": "4", "D": "6,8,4"}

    def guard(self, m: Match) -> str | None:
        """Refuse angles that are not those of half the columns that are rotated."""
        columns = m.dim("R")
        wrong = columns == 0 or columns != m.dim("H") * 2
        return f"{columns} columns are rotated by {m.dim('H')} angles" if wrong else None


class ExpandRotaryOfPairs(Rule):
    """Rotate neighbours, and put them side by side again."""

    stage = "expand"
    before = "%y = RotaryEmbedding(%x: T[B,N,S,2*H], %c: T[B,S,H], %s: T[B,S,H]){interleaved = 1}"
    after = (
        """
        %a = Slice(%x, [0], [9223372036854775807], [-1], [2])
        %b = Slice(%x, [1], [9223372036854775807], [-1], [2])
        """
        + _TURN
        + """
        %left = Unsqueeze(%re, [-1])
        %right = Unsqueeze(%im, [-1])
        %pairs = Concat(%left, %right){axis = -1}
        %y = Reshape(%pairs, [B,N,S,2*H])
        """
    )
    types = {"T": _ROTATED}

"""Define ONNX Runtime's rotary embedding by the standard's, and that of rows by that of heads apart.

Rows are not transposed where that can be avoided: their halves are rotated where they lie.
"""

from __future__ import annotations

from typing import Any

from compiler.rewrite import FLOATS, Match, Refusal, Rule

_ATTRIBUTES = (
    "interleaved = $pairs, num_heads = $heads, rotary_embedding_dim = $part, "
    "scale = $scale, is_packed_batching = $packed"
)


class _Rotary(Rule):
    """What the definitions share: what the standard's operator does not have is not asked for."""

    stage = "expand"
    types = {"T": FLOATS}
    domain = {"W": "4", "V": "8", "R": "2", "M": "8", "S": "2..5", "p": "0..3", "heads": "2..3", "part": "0..1"}

    def guard(self, m: Match) -> str | None:
        """Kernels ignore the scale, and packed rows are laid out otherwise."""
        if m.attr("packed"):
            return "the batch is packed"
        if m.attr("part") and m.attr("part") != 2 * m.size("R"):
            return f"{m.attr('part')} columns are rotated by cosines of width {m.size('R')}"
        return None if m.attr("scale") in (None, 1.0) else f"scale = {m.attr('scale')}"

    def constants(self, m: Match) -> dict[str, Any]:
        """The number of heads, which may follow from the width of the cosines, and the axis of the places."""
        count, rank = m.attr("heads"), m["x"].rank
        if rank == 3 and not count:
            count = _heads(m)
        return {"count": count if rank == 3 else None, "start": (rank or 0) - 2, "end": (rank or 0) - 1}


def _heads(m: Match) -> int:
    """Return the number of heads when the cosines are half as wide as a head."""
    width, half = m["x"].shape, m.size("R")
    hidden = width[-1] if width is not None else None
    if not isinstance(hidden, int) or m.attr("part") or not half or hidden % (2 * half):
        raise Refusal(f"the heads of {m['x'].type} are not told by cosines of width {half}")
    return hidden // (2 * half)


def _forms(places: str) -> tuple[str, ...]:
    """Return the forms of data with their heads apart and side by side, with places like these."""
    rest = f"{places}, %c: T[M,R], %s: T[M,R]){{{_ATTRIBUTES}}}"
    return tuple(f"%y = com.microsoft::RotaryEmbedding(%x: T{data}, {rest}" for data in ("[B,N,S,W]", "[B,S,V]"))


class DefineRotaryAtPlaces(_Rotary):
    """With a place for each row, the operators are one but for the order of their operands."""

    before = _forms("%p: i64[B,S]")
    after = """
        %y = RotaryEmbedding(%x, %c, %s, %p){interleaved = $pairs, num_heads = $count, rotary_embedding_dim = $part}
    """


class DefineRotaryFromPlace(_Rotary):
    """With one place, the rows stand at that and those behind it."""

    before = (*_forms("%p: i64[1]"), *_forms("%p: i64[]"))
    after = """
        %n = Shape(%x){start = $start, end = $end}
        %n0 = Squeeze(%n)
        %row = Range(0, %n0, 1)
        %places = Add(%row, %p)
        %one = Unsqueeze(%places, [0])
        %all = Expand(%one, [B,1])
        %y = RotaryEmbedding(%x, %c, %s, %all){interleaved = $pairs, num_heads = $count, rotary_embedding_dim = $part}
    """


# The standard's ----------------------------------------------------------------------------------

_STATED = "interleaved = $pairs, num_heads = $heads, rotary_embedding_dim = $part"


class DefineRotaryByPlaces(Rule):
    """With a place for each row, cosines and sines are looked up."""

    stage = "expand"
    before = (
        f"%y = RotaryEmbedding(%x: T[B,N,S,W], %c: T[M,R], %s: T[M,R], %p: i64[B,S]){{{_STATED}}}",
        f"%y = RotaryEmbedding(%x: T[B,S,V], %c: T[M,R], %s: T[M,R], %p: i64[B,S]){{{_STATED}}}",
    )
    after = f"""
        %cp = Gather(%c, %p){{axis = 0}}
        %sp = Gather(%s, %p){{axis = 0}}
        %y = RotaryEmbedding(%x, %cp, %sp){{{_STATED}}}
    """
    types = {"T": FLOATS}
    domain = {"W": "4", "V": "8", "R": "2", "p": "0..M", "heads": "2..3", "part": "0..1"}


class DefineRotaryOfRows(Rule):
    """Heads that lie side by side in rows are rotated where they lie."""

    stage = "expand"
    before = "%y = RotaryEmbedding(%x: T[B,S,W], %c: T[B,S,R], %s: T[B,S,R]){num_heads = N}"
    after = """
        %x4 = Reshape(%x, [B,S,N,-1])
        %cu = Unsqueeze(%c, [2])
        %su = Unsqueeze(%s, [2])
        %a, %b = Split(%x4){axis = -1, num_outputs = 2}
        %ac = Mul(%a, %cu)
        %bs = Mul(%b, %su)
        %first = Sub(%ac, %bs)
        %bc = Mul(%b, %cu)
        %as = Mul(%a, %su)
        %second = Add(%bc, %as)
        %r = Concat(%first, %second){axis = -1}
        %y = Reshape(%r, [B,S,W])
    """
    types = {"T": FLOATS}
    domain = {"W": "8", "N": "2", "R": "2"}

    def guard(self, m: Match) -> str | None:
        """Cosines are half as wide as a head."""
        width, half = m.size("W"), m.size("R") * m.size("N")
        return None if width == 2 * half else f"rows of {width} have {m.size('N')} heads, and cosines {m.size('R')}"


class DefineRotaryOfRowsApart(Rule):
    """What is rotated in part, or by neighbours, is rotated with its heads apart."""

    stage = "expand"
    before = f"%y = RotaryEmbedding(%x: T[B,S,W], %c: T[B,S,R], %s: T[B,S,R]){{{_STATED.replace('$heads', 'N')}}}"
    after = """
        %x4 = Reshape(%x, [B,S,N,-1])
        %xt = Transpose(%x4){perm = [0,2,1,3]}
        %r = RotaryEmbedding(%xt, %c, %s){interleaved = $pairs, rotary_embedding_dim = $part}
        %rt = Transpose(%r){perm = [0,2,1,3]}
        %y = Reshape(%rt, [B,S,W])
    """
    types = {"T": FLOATS}
    domain = {"W": "8", "N": "2", "R": "2", "part": "0..1"}

    def guard(self, m: Match) -> str | None:
        """It is one of the two."""
        return None if m.attr("part") or m.attr("pairs") else "whole heads are rotated by halves"

"""Define ``GroupQueryAttention`` by ``Attention``: split what is packed, write out rotation, join the cache.

The operator keeps a cache that may be longer than what is in it, and is told for each row of the batch how many keys
there are in all.  So what is new goes behind what is there, row by row, and each query sees the keys up to its own.

Left as they are: sinks, soft maxima with one more term, quantized caches, scores as a result, norms of query and key.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Rule

_REST = "num_heads = H, kv_num_heads = G, scale = $scale, softcap = $softcap, local_window_size = $window"
_TURNED = f"{_REST}, do_rotary = $rotary, rotary_interleaved = $pairs"
_ROWS = "%q: T[B,S,W], %k: T[B,S,U], %v: T[B,S,U]"
_CACHE = "%ck: T[B,G,P,D], %cv: T[B,G,P,D]"
_COUNTS = "%n: i32[B], %t: i32[*O]"
_OUTPUTS = ("%y", "%y, %pk, %pv")
_STATEFUL = _OUTPUTS[1:]
"""A cache is handed on: kernels ignore one that is not."""
_NUMBERS = dict.fromkeys(("q", "k", "v", "ck", "cv", "c", "s", "x", "a"), "-2..2")
_USUAL = {
    **_NUMBERS,
    "H": "2",
    "G": "1",
    "W": "32",
    "U": "16",
    "D": "16",
    "X": "64",
    "R": "8",
    "A": "1",
    "C": "2",
    "O": "[] [1]",
}
_USUAL |= {"scale": "0.1..2", "softcap": "1..3", "window": "2..4", "rotary": "1..2"}
_PROMPT = {**_USUAL, "S": "3", "t": "3..4", "n": "2..3", "M": "8"}
"""A prompt: all keys are new."""
_STEP = {**_USUAL, "S": "1", "P": "4", "t": "4..5", "n": "3..4", "M": "8"}
"""One token behind three in a cache of four."""


def _forms(outputs: tuple[str, ...], operands: str, attributes: str) -> tuple[str, ...]:
    return tuple(f"{o} = com.microsoft::GroupQueryAttention({operands}){{{attributes}}}" for o in outputs)


class _Grouped(Rule):
    """What definitions of attention by groups share."""

    stage = "expand"
    types = {"T": FLOATS}
    domain = _PROMPT


class DefineGroupQueryAttentionOfPacked(_Grouped):
    """Queries, keys and values that stand side by side are split."""

    before = (
        *_forms(_OUTPUTS, f"%x: T[B,S,X], _, _, _, _, {_COUNTS}, %c?: T[M,R], %s?: T[M,R]", _TURNED),
        *_forms(_STATEFUL, f"%x: T[B,S,X], _, _, {_CACHE}, {_COUNTS}, %c?: T[M,R], %s?: T[M,R]", _TURNED),
    )
    after = f"""
        %q, %k, %v = Split(%x, const %parts){{axis = 2}}
        %y, %pk, %pv = com.microsoft::GroupQueryAttention(%q, %k, %v, %ck?, %cv?, %n, %t, %c?, %s?){{{_TURNED}}}
    """

    def constants(self, m: Match) -> dict[str, Any]:
        """The widths of queries, keys and values."""
        heads, groups = m.size("H"), m.size("G")
        size = m.size("X") // (heads + 2 * groups)
        return {"parts": np.array([heads * size, groups * size, groups * size])}


# Rotation ----------------------------------------------------------------------------------------

_TURN = """
        %qr = RotaryEmbedding(%q, %c, %s, %places){interleaved = $pairs, num_heads = H, rotary_embedding_dim = $part}
        %kr = RotaryEmbedding(%k, %c, %s, %places){interleaved = $pairs, num_heads = G, rotary_embedding_dim = $part}
"""


class _Rotation(_Grouped):
    """What definitions of rotation share: how many columns of a head are rotated."""

    def guard(self, m: Match) -> str | None:
        """It is wanted."""
        return None if m.attr("rotary") else "nothing is rotated"

    def constants(self, m: Match) -> dict[str, Any]:
        """The columns that are rotated, 0 for all, and the type of places."""
        rotated = 2 * m.size("R")
        whole = rotated == m.size("W") // m.size("H")
        return {"part": 0 if whole else rotated, "index": DType.I64.code, "pairs": m.attr("pairs") or 0}


class DefineGroupQueryAttentionOfRotated(_Rotation):
    """Queries and keys are rotated by their places, which follow those of the cache."""

    before = (
        *_forms(_OUTPUTS, f"{_ROWS}, _, _, {_COUNTS}, %c: T[M,R], %s: T[M,R]", _TURNED),
        *_forms(_STATEFUL, f"{_ROWS}, {_CACHE}, {_COUNTS}, %c: T[M,R], %s: T[M,R]", _TURNED),
    )
    after = f"""
        %sn = Shape(%q){{start = 1, end = 2}}
        %s0 = Squeeze(%sn)
        %row = Range(0, %s0, 1)
        %last = Cast(%n){{to = $index}}
        %count = Add(%last, 1)
        %old = Sub(%count, %sn)
        %begin = Max(%old, 0)
        %column = Unsqueeze(%begin, [1])
        %places = Add(%column, %row){_TURN}
        %y, %pk, %pv = com.microsoft::GroupQueryAttention(%qr, %kr, %v, %ck?, %cv?, %n, %t){{{_REST}}}
    """


class DefineGroupQueryAttentionAtPlace(_Rotation):
    """One query and key of each row are rotated by the places that are given; of several, kernels take the first."""

    before = _forms(_STATEFUL, f"{_ROWS}, {_CACHE}, {_COUNTS}, %c: T[M,R], %s: T[M,R], %places: i64[B,S]", _TURNED)
    after = f"""{_TURN}
        %y, %pk, %pv = com.microsoft::GroupQueryAttention(%qr, %kr, %v, %ck?, %cv?, %n, %t){{{_REST}}}
    """
    domain = {**_STEP, "places": "0..8"}

    def guard(self, m: Match) -> str | None:
        """There is one."""
        return super().guard(m) or (None if m.dim("S") == 1 else f"the places of {m.dim('S')} rows are given")


# Prompts -----------------------------------------------------------------------------------------

_NO_WINDOW = (None, -1)


class DefineGroupQueryAttention(_Grouped):
    """Without a cache it is causal ``Attention`` of heads that share keys."""

    before = _forms(_OUTPUTS, f"{_ROWS}, _, _, {_COUNTS}, _, _, _, %a?: T[A,C,S,S]", _REST)
    after = """
        %y, %pk, %pv = Attention(%q, %k, %v, %a?){
            q_num_heads = H, kv_num_heads = G, is_causal = 1, scale = $factor, softcap = $cap}
    """
    domain = {name: words for name, words in _PROMPT.items() if name != "window"}

    def guard(self, m: Match) -> str | None:
        """Keys are hidden from earlier queries only."""
        return None if m.attr("window") in _NO_WINDOW else "keys far back are hidden too"

    def constants(self, m: Match) -> dict[str, Any]:
        """Scale and soft cap."""
        return {"factor": m.attr("scale") or None, "cap": m.attr("softcap") or 0.0}


_NEAR = """
        %ago = Sub(%rows, %all)
        %near = Less(%ago, const %far)
        %seen = LessOrEqual(%all, %rows)
        %visible = And(%seen, %near)
"""


class _Window(_Grouped):
    """What definitions with a window share: how far back queries see; without a window, as far as there is."""

    def constants(self, m: Match) -> dict[str, Any]:
        """Scale, soft cap, how many keys a query sees, the type of places, and zero."""
        window = m.attr("window")
        return {
            "factor": m.attr("scale") or None,
            "cap": m.attr("softcap") or 0.0,
            "far": np.asarray(2**62 if window in _NO_WINDOW else window),
            "index": DType.I64.code,
            "zero": np.asarray(0, m.dtype("T").numpy),
        }


class DefineGroupQueryAttentionInWindow(_Window):
    """With a window, each query sees that many keys, its own the last."""

    before = _forms(_OUTPUTS, f"{_ROWS}, _, _, {_COUNTS}", _REST)
    after = f"""
        %sn = Shape(%q){{start = 1, end = 2}}
        %s0 = Squeeze(%sn)
        %all = Range(0, %s0, 1)
        %rows = Unsqueeze(%all, [1]){_NEAR}
        %y, %pk, %pv = Attention(%q, %k, %v, %visible){{
            q_num_heads = H, kv_num_heads = G, scale = $factor, softcap = $cap}}
    """

    def guard(self, m: Match) -> str | None:
        """There is a window."""
        return "no key is far back" if m.attr("window") in _NO_WINDOW else None


# Caches ------------------------------------------------------------------------------------------


class DefineGroupQueryAttentionToCache(_Window):
    """What is new goes behind what is in the cache, row by row, and each query sees the keys up to its own.

    Key ``j`` of a row is that of the cache while ``j`` is less than what is in it, then a new one, then zero.
    """

    before = _forms(_STATEFUL, f"{_ROWS}, {_CACHE}, {_COUNTS}", _REST)
    after = f"""
        %sn = Shape(%q){{start = 1, end = 2}}
        %pn = Shape(%ck){{start = 2, end = 3}}
        %total = Cast(%t){{to = $index}}
        %length = Max(%pn, %total)
        %l0 = Squeeze(%length)
        %s0 = Squeeze(%sn)
        %all = Range(0, %l0, 1)
        %row = Range(0, %s0, 1)
        %last = Cast(%n){{to = $index}}
        %count = Add(%last, 1)
        %old = Sub(%count, %sn)
        %begin = Max(%old, 0)
        %column = Unsqueeze(%begin, [1])

        %behind = Sub(%all, %column)
        %new = Add(%behind, %pn)
        %room = Add(%pn, %sn)
        %end = Sub(%room, 1)
        %at = Min(%new, %end)
        %kept = Less(%all, %column)
        %from = Where(%kept, %all, %at)
        %from4 = Unsqueeze(%from, [1, 3])
        %index = Expand(%from4, [1,G,1,D])
        %used = Add(%column, %sn)
        %there = Less(%all, %used)
        %filled = Unsqueeze(%there, [1, 3])

        %k4 = Reshape(%k, [B,S,G,-1])
        %kt = Transpose(%k4){{perm = [0,2,1,3]}}
        %kj = Concat(%ck, %kt){{axis = 2}}
        %kg = GatherElements(%kj, %index){{axis = 2}}
        %pk = Where(%filled, %kg, const %zero)
        %v4 = Reshape(%v, [B,S,G,-1])
        %vt = Transpose(%v4){{perm = [0,2,1,3]}}
        %vj = Concat(%cv, %vt){{axis = 2}}
        %vg = GatherElements(%vj, %index){{axis = 2}}
        %pv = Where(%filled, %vg, const %zero)

        %own = Add(%column, %row)
        %rows = Unsqueeze(%own, [2]){_NEAR}
        %mask = Unsqueeze(%visible, [1])
        %q4 = Reshape(%q, [B,S,H,-1])
        %qt = Transpose(%q4){{perm = [0,2,1,3]}}
        %y4 = Attention(%qt, %pk, %pv, %mask){{scale = $factor, softcap = $cap}}
        %yt = Transpose(%y4){{perm = [0,2,1,3]}}
        %y = Reshape(%yt, [B,S,-1])
    """
    domain = _STEP

"""Raise rotary position embeddings that are written out into ``RotaryEmbedding``.

Two things vary: how the rotation is spelled, and where its positions and heads stand.  A spelling is a text (below); an
order of dims is a class.  ``RotaryEmbedding`` reads each cosine once, so of angles that are written over the full width
one half is taken, which needs a proof that the columns come twice (``repeated_columns``); ``push_slices`` moves the cut
up to where the angles are computed.

Spellings, for halves ``(a, b)`` of the last axis and for pairs of neighbours alike:

* written: ``x * cos + join(-b, a) * sin``, angles of full width;
* direct: ``join(a * cos - b * sin, b * cos + a * sin)``, angles of half width, as complex products are exported.

``normal_rotary`` brings other ways to take columns apart into these.  In the texts, ``<x>`` are the dims of the rotated
tensor and ``<c>`` those of the angles, both without the last.

Considered and rejected: ``position_ids`` as the raised form.  Exporters gather or compute the angles once for all
layers, and an index out of range means different things to ``Gather`` and to ``RotaryEmbedding``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import Match, Rule
from passes.repeated_columns import why_not_repeated

_ROTATED = frozenset({DType.F16, DType.BF16, DType.F32})
"""Element types that ``RotaryEmbedding`` is defined for."""

_TO_THE_END = (1 << 63) - 1

_HALVES = (
    """
    %a: T[<x>,H] = Slice(%x: T[<x>,2*H], [0], %_, [-1], [1])
    %b: T[<x>,H] = Slice(%x, [H], %_, [-1], [1])
    """,
    """
    %a: T[<x>,H], %b: T[<x>,H] = Split(%x: T[<x>,2*H], %_){axis = -1, num_outputs = $n}
    """,
)
_PAIRS = """
    %a: T[<x>,H] = Slice(%x: T[<x>,2*H], [0], %_, [-1], [2])
    %b: T[<x>,H] = Slice(%x, [1], %_, [-1], [2])
    """

_JOIN_NEGATED = """
    %n = Neg(%b)
    %r = Concat(%n, %a){axis = -1}
    """
_INTERLEAVE_NEGATED = tuple(
    f"""
    {negated}
    %right: T[<x>,H,1] = Unsqueeze(%a, [-1])
    %pairs: T[<x>,H,2] = Concat(%left, %right){{axis = -1}}
    %r: T[<x>,2*H] = Reshape(%pairs, %_){{allowzero = $z}}
    """
    for negated in (
        "%n = Neg(%b)\n %left: T[<x>,H,1] = Unsqueeze(%n, [-1])",
        "%n: T[<x>,H,1] = Unsqueeze(%b, [-1])\n %left = Neg(%n)",
    )
)

_WRITTEN = """
    %u = Mul(%x, %c: T[<c>,2*H])
    %w = Mul(%r, %s: T[<c>,2*H])
    %y: T[<x>,2*H] = Add(%u, %w)
    """
_DIRECT = """
    %ac = Mul(%a, %c: T[<c>,H])
    %bs = Mul(%b, %s: T[<c>,H])
    %bc = Mul(%b, %c)
    %as = Mul(%a, %s)
    %re: T[<x>,H] = Sub(%ac, %bs)
    %im = Add(%bc, %as)
    """

_JOIN = "%y: T[<x>,2*H] = Concat(%re, %im){axis = -1}"
_INTERLEAVE = """
    %left: T[<x>,H,1] = Unsqueeze(%re, [-1])
    %right: T[<x>,H,1] = Unsqueeze(%im, [-1])
    %z: T[<x>,H,2] = Concat(%left, %right){axis = -1}
    """

_COLUMNS = (
    *(halves + _JOIN_NEGATED + _WRITTEN for halves in _HALVES),
    *(halves + _DIRECT + _JOIN for halves in _HALVES),
    *(_PAIRS + interleaved + _WRITTEN for interleaved in _INTERLEAVE_NEGATED),
)
"""Texts that end in rotated columns ``%y``."""

_STACKED = _PAIRS + _DIRECT + _INTERLEAVE
"""Text that ends in rotated columns in pairs, ``%z``; exporters merge the ``Reshape`` that joins them with the next."""


def _columns(x: str, c: str) -> tuple[str, ...]:
    return tuple(text.replace("<x>", x).replace("<c>", c) for text in _COLUMNS)


def _stacked(x: str, c: str) -> str:
    return _STACKED.replace("<x>", x).replace("<c>", c)


_ANGLES = """
    %c1 = Slice(%c, [0], const %end, [-1], const %step)
    %s1 = Slice(%s, [0], const %end, [-1], const %step)
    %c2 = Reshape(%c1, const %flat)
    %s2 = Reshape(%s1, const %flat)
    %c3 = Expand(%c2, [B,S,1])
    %s3 = Expand(%s2, [B,S,1])
    """
"""Text that makes ``[B,S,H]`` of the angles, one column for each."""

_DATA = {"c": "rotary", "s": "rotary", "H": "static 2,1,4"}
"""What angles are like: known to come twice where they are of full width, and of a known width."""

_TURN = "RotaryEmbedding({}, %c3, %s3){{interleaved = $interleaved}}\n"


class _Rotation(Rule):
    """What all orders of dims share: the proof of repeated columns, and how the angles are cut.

    ``P`` are the dims of the angles before those of their positions, ``Q``: as many as the tensor has, or one.
    """

    stage = "raise"
    types = {"T": _ROTATED}
    domain = _DATA
    batch: ClassVar[int] = 0
    """Axis of the rotated tensor along which angles may differ, besides positions."""

    def guard(self, m: Match) -> str | None:
        """Refuse angles that differ among heads, or whose columns are not known to come twice."""
        rank, own = m["x"].rank or 0, m["c"].rank or 0
        for i, dim in enumerate(m.run("P")):
            if dim != 1 and i + rank - own != self.batch:
                return f"the angles vary along axis {i + rank - own}, which has no positions: {dim}"
        if m.dim("Q") == 1 != m.dim("S") or m.dim("H") == 0:
            return "the angles do not depend on positions" if m.dim("H") else "there are no columns"
        if not m.has("w"):
            return None
        pairs = m.has("pairs")
        return why_not_repeated(m["c"], pairs=pairs) or why_not_repeated(m["s"], pairs=pairs) or None

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute where the angles are cut, their dims, and whether columns are rotated with their neighbours."""
        half, positions, pairs = m.size("H"), m.dim("Q"), m.has("pairs")
        shared = all(d == 1 for d in m.run("P"))
        return {
            "end": np.asarray([half if m.has("w") and not pairs else _TO_THE_END]),
            "step": np.asarray([2 if m.has("w") and pairs else 1]),
            "flat": np.asarray([1 if shared else 0, positions if isinstance(positions, int) else -1, half]),
            "interleaved": int(pairs or m.has("z")),
        }


class RaiseRotary(_Rotation):
    """Raise a rotation of ``[B,N,S,D]``, heads before positions, into ``RotaryEmbedding``.

    With ``c = cos``, ``s = sin`` of the angle of a column: ``(a, b)`` becomes ``(a*c - b*s, b*c + a*s)``.
    Definition: ONNX operator ``RotaryEmbedding``, version 23.
    """

    before = _columns("B,N,S", "*P,Q")
    after = _ANGLES + "%y = " + _TURN.format("%x")
    domain = {**_DATA, "P": "[] [1] [1,1] [B,1]"}


class RaiseRotaryOfPairs(_Rotation):
    """Raise a rotation of ``[B,N,S,D]`` whose results stand in pairs."""

    before = _stacked("B,N,S", "*P,Q")
    after = _ANGLES + "%y = " + _TURN.format("%x") + "%z = Reshape(%y, [B,N,S,H,2])"


class RaiseRotaryOfPairsToHalves(_Rotation):
    """Raise a rotation of pairs of ``[B,N,S,D]`` whose results stand in halves: that of halves made of the pairs."""

    before = (_PAIRS + _DIRECT + _JOIN).replace("<x>", "B,N,S").replace("<c>", "*P,Q")
    after = _ANGLES + "%h = Concat(%a, %b){axis = -1}\n %y = " + _TURN.format("%h")


_BESIDE = ("%y = Concat(%p, %re, %im){axis = -1}", "%y = Concat(%re, %im, %p){axis = -1}")
"""Texts that put other columns before or behind those that were rotated."""


def _beside(other: str, x: str, c: str) -> tuple[str, ...]:
    texts = (_HALVES[0] + _DIRECT + other, _HALVES[1] + _DIRECT + other)
    return tuple(text.replace("<x>", x).replace("<c>", c) for text in texts)


class RaiseRotaryBehindOthers(_Rotation):
    """Raise a rotation of ``[B,N,S,D]`` whose results are put behind other columns."""

    before = _beside(_BESIDE[0], "B,N,S", "*P,Q")
    after = _ANGLES + "%r = " + _TURN.format("%x") + "%y = Concat(%p, %r){axis = -1}"


class RaiseRotaryBeforeOthers(_Rotation):
    """Raise a rotation of ``[B,N,S,D]`` whose results are put before other columns."""

    before = _beside(_BESIDE[1], "B,N,S", "*P,Q")
    after = _ANGLES + "%r = " + _TURN.format("%x") + "%y = Concat(%r, %p){axis = -1}"


class RaiseRotaryOfPairsToHalvesBehindOthers(_Rotation):
    """Raise a rotation of pairs of ``[B,N,S,D]`` whose results stand in halves behind other columns."""

    before = (_PAIRS + _DIRECT + _BESIDE[0]).replace("<x>", "B,N,S").replace("<c>", "*P,Q")
    after = _ANGLES + "%h = Concat(%a, %b){axis = -1}\n %r = " + _TURN.format("%h") + "%y = Concat(%p, %r){axis = -1}"


_HEADS_FIRST = "%xt = Transpose(%x){perm = [0,2,1,3]}\n %yt = " + _TURN.format("%xt")


class RaiseRotaryBeforeHeads(_Rotation):
    """Raise a rotation of ``[B,S,N,D]``, positions before heads, into ``RotaryEmbedding``."""

    before = _columns("B,S,N", "*P,Q,1")
    after = _ANGLES + _HEADS_FIRST + "%y = Transpose(%yt){perm = [0,2,1,3]}"
    domain = {**_DATA, "P": "[] [1] [B]"}


class RaiseRotaryOfPairsBeforeHeads(_Rotation):
    """Raise a rotation of ``[B,S,N,D]`` whose results stand in pairs."""

    before = _stacked("B,S,N", "*P,Q,1")
    after = _ANGLES + _HEADS_FIRST + "%y = Transpose(%yt){perm = [0,2,1,3]}\n %z = Reshape(%y, [B,S,N,H,2])"


_BATCH_FIRST = "%xt = Transpose(%x){perm = [1,2,0,3]}\n %yt = " + _TURN.format("%xt")


class RaiseRotaryTimeFirst(_Rotation):
    """Raise a rotation of ``[S,B,N,D]``, positions first, into ``RotaryEmbedding``."""

    batch = 1
    before = _columns("S,B,N", "*P,Q,1,1")
    after = _ANGLES + _BATCH_FIRST + "%y = Transpose(%yt){perm = [2,0,1,3]}"
    domain = {**_DATA, "P": "[]"}


class RaiseRotaryOfPairsTimeFirst(_Rotation):
    """Raise a rotation of ``[S,B,N,D]`` whose results stand in pairs."""

    batch = 1
    before = _stacked("S,B,N", "*P,Q,1,1")
    after = _ANGLES + _BATCH_FIRST + "%y = Transpose(%yt){perm = [2,0,1,3]}\n %z = Reshape(%y, [S,B,N,H,2])"


_ONE_BATCH = _ANGLES.replace("[B,S,1]", "[1,S,1]")


class RaiseRotaryWithoutBatch(_Rotation):
    """Raise a rotation of ``[N,S,D]`` into ``RotaryEmbedding`` of one batch."""

    batch = -1
    before = _columns("N,S", "*P,Q")
    after = _ONE_BATCH + "%xt = Unsqueeze(%x, [0])\n %yt = " + _TURN.format("%xt") + "%y = Squeeze(%yt, [0])"
    domain = {**_DATA, "P": "[] [1]"}


class RaiseRotaryBeforeHeadsWithoutBatch(_Rotation):
    """Raise a rotation of ``[S,N,D]`` into ``RotaryEmbedding`` of one batch."""

    batch = -1
    before = _columns("S,N", "*P,Q,1")
    after = (
        _ONE_BATCH
        + """
        %xu = Unsqueeze(%x, [0])
        %xt = Transpose(%xu){perm = [0,2,1,3]}
        %yt = """
        + _TURN.format("%xt")
        + """
        %yu = Transpose(%yt){perm = [0,2,1,3]}
        %y = Squeeze(%yu, [0])
        """
    )
    domain = {**_DATA, "P": "[]"}


class RaiseRotaryOfStack(_Rotation):
    """Raise a rotation of ``[B,S,G,N,D]``, heads of several tensors in one, into one ``RotaryEmbedding``."""

    before = _columns("B,S,G,N", "*P,Q,1,1")
    after = (
        _ANGLES
        + """
        %xm = Reshape(%x, [B,S,G*N,2*H])
        %xt = Transpose(%xm){perm = [0,2,1,3]}
        %yt = """
        + _TURN.format("%xt")
        + """
        %ym = Transpose(%yt){perm = [0,2,1,3]}
        %y = Reshape(%ym, [B,S,G,N,2*H])
        """
    )
    domain = {**_DATA, "P": "[] [1] [B]"}


# Columns that are not rotated ------------------------------------------------------------------


class _UnrotatedColumns(Rule):
    """What the rules below have in common: rotating no column is written as rotating all."""

    stage = "raise"
    types = {"T": _ROTATED}

    def guard(self, m: Match) -> str | None:
        """Refuse when there is nothing to rotate."""
        return "no column is rotated" if m.dim("R") == 0 else None


class AbsorbUnrotatedColumns(_UnrotatedColumns):
    """Rotate the first columns where they lie, rather than cut them off and put them back."""

    before = (
        """
        %a: T[B,N,S,R] = Slice(%x: T[B,N,S,H], [0], %_, [-1], [1])
        %b = Slice(%x, [R], [9223372036854775807], [-1], [1])
        %r: T[B,N,S,2*K] = RotaryEmbedding(%a, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs}
        %y: T[B,N,S,H] = Concat(%r, %b){axis = -1}
        """,
        """
        %a: T[B,N,S,R], %b = Split(%x: T[B,N,S,H], %_){axis = -1, num_outputs = $n}
        %r: T[B,N,S,2*K] = RotaryEmbedding(%a, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs}
        %y: T[B,N,S,H] = Concat(%r, %b){axis = -1}
        """,
    )
    after = "%y = RotaryEmbedding(%x, %c, %s){interleaved = $pairs, rotary_embedding_dim = R}"


class AbsorbUnrotatedColumnsBeforeHeads(_UnrotatedColumns):
    """Rotate the first columns where they lie, in a tensor whose positions stand before its heads."""

    before = (
        """
        %a: T[B,S,N,R] = Slice(%x: T[B,S,N,H], [0], %_, [-1], [1])
        %b = Slice(%x, [R], %_, [-1], [1])
        %t = Transpose(%a){perm = [0,2,1,3]}
        %r: T[B,N,S,2*K] = RotaryEmbedding(%t, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs}
        %u = Transpose(%r){perm = [0,2,1,3]}
        %y: T[B,S,N,H] = Concat(%u, %b){axis = -1}
        """,
        """
        %a: T[B,S,N,R], %b = Split(%x: T[B,S,N,H], %_){axis = -1, num_outputs = $n}
        %t = Transpose(%a){perm = [0,2,1,3]}
        %r: T[B,N,S,2*K] = RotaryEmbedding(%t, %c: T[B,S,K], %s: T[B,S,K]){interleaved = $pairs}
        %u = Transpose(%r){perm = [0,2,1,3]}
        %y: T[B,S,N,H] = Concat(%u, %b){axis = -1}
        """,
    )
    after = """
        %t2 = Transpose(%x){perm = [0,2,1,3]}
        %r2 = RotaryEmbedding(%t2, %c, %s){interleaved = $pairs, rotary_embedding_dim = R}
        %y = Transpose(%r2){perm = [0,2,1,3]}
    """

"""Move cuts of the last axis up to where the columns are made, so that nothing is computed that is cut away.

Raising a rotation takes one half of angles that were written out in full; these rules carry the cut through what made
them, until it meets the ``Concat`` that doubled them, and vanishes.  Each rule is exact, and does not more work than
before: what is moved over a cut has no other reader, or is a constant.
"""

from __future__ import annotations

from compiler.ir.facts import known_ints
from compiler.rewrite import FLOATS, NUMBERS, Match, Rule


class WriteSliceSteps(Rule):
    """A ``Slice`` without steps has steps of one."""

    stage = "canonical"
    before = "%y: T = Slice(%x, %from: i64[1], %to, %axes, _)"
    after = "%y = Slice(%x, %from, %to, %axes, [1])"
    types = {"T": NUMBERS}


class SliceBeforeCos(Rule):
    """Columns of cosines are the cosines of columns."""

    stage = "canonical"
    before = """
        %u: T[*S,D] = Cos(%x)
        %y: T[*S,H] = Slice(%u, %from, %to, [-1], %by)
    """
    after = """
        %v = Slice(%x, %from, %to, [-1], %by)
        %y = Cos(%v)
    """
    types = {"T": FLOATS}


class SliceBeforeSin(Rule):
    """Columns of sines are the sines of columns."""

    stage = "canonical"
    before = """
        %u: T[*S,D] = Sin(%x)
        %y: T[*S,H] = Slice(%u, %from, %to, [-1], %by)
    """
    after = """
        %v = Slice(%x, %from, %to, [-1], %by)
        %y = Sin(%v)
    """
    types = {"T": FLOATS}


class SliceBeforeNeg(Rule):
    """Columns of what is negated are the negated columns."""

    stage = "canonical"
    before = """
        %u: T[*S,D] = Neg(%x)
        %y: T[*S,H] = Slice(%u, %from, %to, [-1], %by)
    """
    after = """
        %v = Slice(%x, %from, %to, [-1], %by)
        %y = Neg(%v)
    """
    types = {"T": FLOATS}


class SliceBeforeCast(Rule):
    """Columns of a cast tensor are cast columns."""

    stage = "canonical"
    before = """
        %u: T[*S,D] = Cast(%x: U){to = $to, saturate = $saturate, round_mode = $mode}
        %y: T[*S,H] = Slice(%u, %from, %to, [-1], %by)
    """
    after = """
        %v = Slice(%x, %from, %to, [-1], %by)
        %y = Cast(%v){to = $to, saturate = $saturate, round_mode = $mode}
    """
    types = {"T": NUMBERS, "U": NUMBERS}


class SliceBeforeScale(Rule):
    """Columns of a product with a number, or with one factor for each row, are products of columns."""

    stage = "canonical"
    before = (
        """
        %u: T[*S,D] = Mul(%x: T[*S,D], scalar %f)
        %y: T[*S,H] = Slice(%u, %from, %to, [-1], %by)
        """,
        """
        %u: T[*S,D] = Mul(%x: T[*S,D], %f: T[*R,1])
        %y: T[*S,H] = Slice(%u, %from, %to, [-1], %by)
        """,
    )
    after = """
        %v = Slice(%x, %from, %to, [-1], %by)
        %y = Mul(%v, %f)
    """
    types = {"T": FLOATS}


class SliceBeforeUnsqueeze(Rule):
    """Columns are cut before new axes are put in front of them."""

    stage = "canonical"
    before = """
        %u: T[*U,D] = Unsqueeze(%x: T[*S,D], %axes)
        %y: T[*U,H] = Slice(%u, %from, %to, [-1], %by)
    """
    after = """
        %v = Slice(%x, %from, %to, [-1], %by)
        %y = Unsqueeze(%v, %axes)
    """
    types = {"T": NUMBERS}

    def guard(self, m: Match) -> str | None:
        """Refuse a new last axis."""
        axes, rank = known_ints(m["axes"]), m["u"].rank or 1
        return None if axes is not None and all(a % rank != rank - 1 for a in axes) else f"the last axis is new: {axes}"


class SliceTableBeforeGather(Rule):
    """Rows are picked from a constant table that has only the columns that are wanted."""

    stage = "canonical"
    before = """
        %u: T = Gather(const %table: T[M,D], %rows){axis = 0}
        %y: T = Slice(%u, %from, %to, [-1], %by)
    """
    after = """
        %v = Slice(%table, %from, %to, [-1], %by)
        %y = Gather(%v, %rows){axis = 0}
    """
    types = {"T": FLOATS}


class SliceTableBeforeRows(Rule):
    """Rows are cut from a constant table that has only the columns that are wanted."""

    stage = "canonical"
    before = """
        %u: T = Slice(const %table: T[M,D], %first, %last, [0], %every)
        %y: T = Slice(%u, %from, %to, [-1], %by)
    """
    after = """
        %v = Slice(%table, %from, %to, [-1], %by)
        %y = Slice(%v, %first, %last, [0], %every)
    """
    types = {"T": FLOATS}


class SliceOfConcat(Rule):
    """The first parts of a ``Concat`` are cut out before it."""

    stage = "canonical"
    before = (
        """
        %u = Concat(%a: T[*S,H], %b){axis = -1}
        %y: T[*S,H] = Slice(%u, [0], %_, [-1], [1])
        """,
        """
        %u: T[*S,2*H] = Tile(%a: T[*S,H], %_)
        %y: T[*S,H] = Slice(%u, [0], %_, [-1], [1])
        """,
    )
    after = "%y = Identity(%a)"
    shared = "%u"
    types = {"T": NUMBERS}


class SliceOfConcatOfFour(Rule):
    """The first two of four parts of a ``Concat`` are put together without the others."""

    stage = "canonical"
    before = """
        %u = Concat(%a: T[*S,G], %b: T[*S,H], %_, %_){axis = -1}
        %y: T[*S,G+H] = Slice(%u, [0], %_, [-1], [1])
    """
    after = "%y = Concat(%a, %b){axis = -1}"
    types = {"T": NUMBERS}


class SliceOfConcatOfSix(Rule):
    """The first three of six parts of a ``Concat`` are put together without the others."""

    stage = "canonical"
    before = """
        %u = Concat(%a: T[*S,G], %b: T[*S,H], %c: T[*S,I], %_, %_, %_){axis = -1}
        %y: T[*S,G+H+I] = Slice(%u, [0], %_, [-1], [1])
    """
    after = "%y = Concat(%a, %b, %c){axis = -1}"
    types = {"T": NUMBERS}


class SliceOfRepeated(Rule):
    """Every second column of columns that were written twice in turn are the columns."""

    stage = "canonical"
    before = (
        """
        %n: T[*S,H,1] = Unsqueeze(%a: T[*S,H], [-1])
        %e: T[*S,H,2] = Expand(%n, %_)
        %u: T[*S,2*H] = Reshape(%e, %_){allowzero = $z}
        %y: T[*S,H] = Slice(%u, [0], %_, [-1], [2])
        """,
        """
        %n: T[*S,H,1] = Unsqueeze(%a: T[*S,H], [-1])
        %e: T[*S,H,2] = Tile(%n, %_)
        %u: T[*S,2*H] = Reshape(%e, %_){allowzero = $z}
        %y: T[*S,H] = Slice(%u, [0], %_, [-1], [2])
        """,
        """
        %n: T[*S,H,1] = Unsqueeze(%a: T[*S,H], [-1])
        %e: T[*S,H,2] = Concat(%n, %_){axis = -1}
        %u: T[*S,2*H] = Reshape(%e, %_){allowzero = $z}
        %y: T[*S,H] = Slice(%u, [0], %_, [-1], [2])
        """,
    )
    after = "%y = Identity(%a)"
    shared = "%n %e %u"
    types = {"T": NUMBERS}

"""Recognise that each element of a batch picks one row of its own: ``GatherND`` with one batch dim.

Exporters count through the batch, either beside the indices or times the rows that each element has.  Written with a
batch dim it is plain which axis is picked from, so that ``hoist-rows`` can carry it upwards.
"""

from __future__ import annotations

import numpy as np

from compiler.rewrite import FLOATS, INTEGERS, NUMBERS, Match, Rule


class RaiseRowOfEach(Rule):
    """``GatherND`` by pairs of a batch element and a row picks one row of each element."""

    stage = "raise"
    before = (
        """
        %i: i64[B,2] = Concat(const %batch: i64[B,1], %rows: i64[B,1]){axis = -1}
        %y = GatherND(%x: T[B,S,*R], %i)
        """,
        """
        %r: i64[B] = Range(0, %_, 1)
        %batch: i64[B,1] = Unsqueeze(%r, [1])
        %i: i64[B,2] = Concat(%batch, %rows: i64[B,1]){axis = -1}
        %y = GatherND(%x: T[B,S,*R], %i)
        """,
    )
    after = "%y = GatherND(%x, %rows){batch_dims = 1}"
    shared = "%r %batch %i"
    types = {"T": NUMBERS}
    domain = {"batch": "range", "rows": "0..S", "B": "1..4", "S": "1..5"}

    def guard(self, m: Match) -> str | None:
        """Refuse when the first of each pair does not count through the batch."""
        if m.form == 1:
            return None
        found = np.reshape(m.array("batch"), -1)
        return None if np.array_equal(found, np.arange(found.size)) else f"the batch is {found.tolist()}"


class RaiseRowOfEachFlat(Rule):
    """``Gather`` from all rows at once, by the greatest of each element plus those before it, picks one of each.

    The index of a greatest element lies within the rows, so that it cannot reach into another element of the batch.
    """

    stage = "raise"
    before = (
        """
        %f: T[B*S,C] = Flatten(%x: T[B,S,C]){axis = 2}
        %a: i64[B] = ArgMax(%k: U[B,S]){axis = -1, keepdims = 0, select_last_index = $last}
        %r: i64[B] = Range(0, %_, 1)
        %m: i64[B] = Mul(%r, [S])
        %i: i64[B] = Add(%a, %m)
        %y = Gather(%f, %i){axis = 0}
        """,
        """
        %f: T[B*S,C] = Reshape(%x: T[B,S,C], %_){allowzero = $z}
        %a: i64[B] = ArgMax(%k: U[B,S]){axis = -1, keepdims = 0, select_last_index = $last}
        %r: i64[B] = Range(0, %_, 1)
        %m: i64[B] = Mul(%r, [S])
        %i: i64[B] = Add(%a, %m)
        %y = Gather(%f, %i){axis = 0}
        """,
        """
        %f: T[B*S,C] = Flatten(%x: T[B,S,C]){axis = 2}
        %a: i64[B] = ArgMax(%k: U[B,S]){axis = -1, keepdims = 0, select_last_index = $last}
        %i: i64[B] = Add(%a, const %m)
        %y = Gather(%f, %i){axis = 0}
        """,
    )
    after = """
        %n = Unsqueeze(%a, [1])
        %y = GatherND(%x, %n){batch_dims = 1}
    """
    shared = "%f %a %r %m %i"
    types = {"T": FLOATS, "U": INTEGERS}
    domain = {"B": "1..4", "S": "1..5"}

    def guard(self, m: Match) -> str | None:
        """Refuse constants that are not the rows before each element."""
        if m.form != 2:
            return None
        found, rows = np.reshape(m.array("m"), -1), m.size("S")
        before = np.arange(m.size("B")) * rows
        return None if np.array_equal(found, before) else f"{found.tolist()} are not multiples of {rows}"

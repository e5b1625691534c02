"""Bring the ways in which exporters take columns apart into one form, so that ``raise_rotary`` knows one of each.

The form is a ``Slice`` of the last axis: halves by its start, neighbours by its step.  Exporters also give the parts an
axis of their own and pick from it.  And rows that are picked by an index of one number are a ``Gather``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import NUMBERS, Match, Rule

_TO_THE_END = (1 << 63) - 1


class GatherRowsByOneIndex(Rule):
    """``GatherND`` by indices of one number is ``Gather`` along the first axis."""

    stage = "canonical"
    before = """
        %i: i64 = Unsqueeze(%rows, [-1])
        %y: T = GatherND(%table, %i){batch_dims = 0}
    """
    after = "%y = Gather(%table, %rows){axis = 0}"
    shared = "%i"
    types = {"T": NUMBERS}


_NEIGHBOURS = "%v: T[A,B,C,H,2] = Reshape(%x, %_){allowzero = $z}"
_HALVES = "%v: T[A,B,C,2,H] = Reshape(%x, %_){allowzero = $z}"


class _Parts(Rule):
    """What the rules below have in common: the second form is that of halves."""

    stage = "canonical"
    types = {"T": NUMBERS}
    shared = "%v"

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute where a part begins and ends, and how far its columns are apart."""
        half, part = m.size("H"), self.part(m)
        first, end, step, axis = part, _TO_THE_END, 2, -1
        if m.form == 1:
            first, end, step, axis = part * half, half if part == 0 else _TO_THE_END, 1, -2
        return {"from": np.array([first]), "to": np.array([end]), "by": np.array([step]), "axis": np.array([axis])}

    def part(self, m: Match) -> int:
        """Return which of the two parts is taken."""
        return 0


class PickColumns(_Parts):
    """Of columns that stand in pairs or in halves, ``Gather`` picks those that a ``Slice`` cuts out."""

    before = (
        _NEIGHBOURS + "%y: T[A,B,C,H] = Gather(%v, scalar %i){axis = -1}",
        _HALVES + "%y: T[A,B,C,H] = Gather(%v, scalar %i){axis = -2}",
    )
    after = """
        %r = Reshape(%x, [A,B,C,2*H])
        %y = Slice(%r, const %from, const %to, [-1], const %by)
    """
    domain = {"i": "0..2"}

    def part(self, m: Match) -> int:
        """Return which of the two parts is taken."""
        return int(m.scalar("i")) % 2


class CutColumns(_Parts):
    """Of columns that stand in pairs or in halves, a ``Slice`` of their axis takes those of a ``Slice`` of all."""

    before = (
        _NEIGHBOURS + "%y: T[A,B,C,H,1] = Slice(%v, const %i: i64[1], %_, [-1], [1])",
        _HALVES + "%y: T[A,B,C,1,H] = Slice(%v, const %i: i64[1], %_, [-2], [1])",
    )
    after = """
        %r = Reshape(%x, [A,B,C,2*H])
        %s = Slice(%r, const %from, const %to, [-1], const %by)
        %y = Unsqueeze(%s, const %axis)
    """
    domain = {"i": "0..2"}

    def part(self, m: Match) -> int:
        """Return which of the two parts is taken; a start before the first is the first."""
        start = int(m.scalar("i"))
        return max(start + 2, 0) if start < 0 else start


class SplitColumns(_Parts):
    """Of columns that stand in pairs or in halves, ``Split`` gives those of two ``Slice`` of all."""

    before = (
        _NEIGHBOURS + "%y: T[A,B,C,H,1], %z: T[A,B,C,H,1] = Split(%v, %_){axis = -1, num_outputs = $n}",
        _HALVES + "%y: T[A,B,C,1,H], %z: T[A,B,C,1,H] = Split(%v, %_){axis = -2, num_outputs = $n}",
    )
    after = """
        %r = Reshape(%x, [A,B,C,2*H])
        %s = Slice(%r, const %from, const %to, [-1], const %by)
        %t = Slice(%r, const %middle, [9223372036854775807], [-1], const %by)
        %y = Unsqueeze(%s, const %axis)
        %z = Unsqueeze(%t, const %axis)
    """

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute where the parts begin and end, and how far their columns are apart."""
        return {**super().constants(m), "middle": np.array([1 if m.form == 0 else m.size("H")])}


class CountInIntegers(Rule):
    """A range of floating-point numbers up to a whole number is counted in integers, whose number is known then.

    For fewer than 2^24 numbers, which single precision tells apart; beyond that the range would repeat numbers.
    """

    stage = "canonical"
    before = """
        %l = Cast(%n: i64[]){to = 1}
        %y: f32 = Range(0.0, %l, 1.0)
    """
    after = """
        %r = Range(0, %n, 1)
        %y = Cast(%r){to = 1}
    """
    shared = "%l"
    domain = {"n": "0..9"}

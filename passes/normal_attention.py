"""Bring the scores of attention into one form, so that ``RaiseAttention`` is one rule.

The form is a ``Softmax`` over the last axis of a product with one factor, and a product with the values behind it.
Exporters scale rows of the scores, share queries in a batch, shift scores, or keep keys in columns.  ``normal_masks``
does the same for what is added to the scores, ``normal_batches`` for their shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import FLOATS, Match, Rule
from passes.attention_scores import SMALL, factor, swap


class ScaleQueries(Rule):
    """Scale the rows of the queries instead of those of the scores, ``(q k) * f`` with one factor a row."""

    stage = "raise"
    before = """
        %s: T[*P,S,N] = MatMul(%q: T[*P,S,D], %k)
        %t: T[*P,S,N] = Mul(%s, %f: T[*F,1])
        optional %a = Add(%t, %m)
        %p = Softmax(%a)
    """
    after = """
        %r = Mul(%q, %f)
        %z = MatMul(%r, %k)
        optional %b = Add(%z, %m?)
        %p = Softmax(%b)
    """
    types = {"T": FLOATS}
    domain = {"f": "positive", **SMALL}

    def guard(self, m: Match) -> str | None:
        """Leave one constant number to the attribute ``scale``."""
        constant = m["f"].constant
        return "the factor is one constant" if constant is not None and constant.size == 1 else None


class ExpandQueries(Rule):
    """Repeat queries that a batch of keys shares: ``Attention`` has one batch for both."""

    stage = "raise"
    before = """
        %s = MatMul(%q: T[1,H,S,D], %k: T[B,H,D,N])
        optional %t = Mul|Div(%s, scalar %c)
        optional %a = Add(%t, %m)
        %p: T[B,H,S,N] = Softmax(%a)
    """
    after = """
        %x = Expand(%q, [B,H,S,D])
        %r = MatMul(%x, %k)
        optional %u = Mul(%r, const %f)
        optional %b = Add(%u, %m?)
        %p = Softmax(%b)
    """
    types = {"T": FLOATS}
    domain = {"c": "positive", "B": "2..3", **SMALL}

    def guard(self, m: Match) -> str | None:
        """Refuse a batch of one."""
        return "the batch is one" if m.dim("B") == 1 else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the factor of the scores."""
        return {"f": factor(m)}


class DropShiftOfScores(Rule):
    """Drop the largest score that is subtracted from a row: a ``Softmax`` does not change with it.

    Factors before and behind, which undo each other, only kept half precision in range.
    """

    stage = "raise"
    before = (
        """
        %d = Mul|Div(%t: T, scalar %c)
        %m = ReduceMax(%d, [-1]) {keepdims = 1}
        %s = Sub(%d, %m)
        %x = Mul|Div(%s, scalar %f)
        %p = Softmax(%x)
        """,
        """
        %d = Mul|Div(%t: T, scalar %c)
        %a = ReduceMax(%d, [-1]) {keepdims = 0}
        %m = Unsqueeze(%a, [-1])
        %s = Sub(%d, %m)
        %x = Mul|Div(%s, scalar %f)
        %p = Softmax(%x)
        """,
    )
    after = "%p = Softmax(%t)"
    types = {"T": FLOATS}
    domain = {"t": "-9..9", "c": "4..4", "f": "4..4"}

    def guard(self, m: Match) -> str | None:
        """Refuse factors that do not undo each other."""
        before, behind = _power(m, "d", "c"), _power(m, "x", "f")
        return None if np.isclose(before * behind, 1, rtol=1e-6) else f"the factors are {before:g} and {behind:g}"


def _power(m: Match, result: str, constant: str) -> float:
    """Return what a ``Mul`` or ``Div`` by a constant multiplies by."""
    number = float(m.scalar(constant))
    return number if m.node(result).op == "Mul" else 1 / number if number else np.inf


class TakeSoftmaxOfRows(Rule):
    """Take the ``Softmax`` of rows: over columns it is that of the transposed scores."""

    stage = "raise"
    before = """
        %s = MatMul(%k: T[*P,N,D], %q: T[*P,D,S])
        optional %t = Mul|Div(%s, scalar %c)
        %p: T[*P,N,S] = Softmax(%t) {axis = -2}
    """
    after = """
        %x = Transpose(%q) {perm = $swap}
        %z = Transpose(%k) {perm = $swap}
        %r = MatMul(%x, %z)
        optional %u = Mul(%r, const %f)
        %w = Softmax(%u)
        %p = Transpose(%w) {perm = $swap}
    """
    types = {"T": FLOATS}
    domain = {"c": "positive", **SMALL}

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the order of axes that swaps the last two, and the factor of the scores."""
        return {"swap": swap(len(m.run("P")) + 2), "f": factor(m)}


class TransposeResult(Rule):
    """Compute ``p vᵀ`` and transpose it where ``v pᵀ`` is written: probabilities stand on the left of a product."""

    stage = "raise"
    before = """
        %p: T[*P,S,N] = Softmax(%a)
        %t = Transpose(%p) {perm = $swap}
        %y = MatMul(%v: T[*P,E,N], %t)
    """
    after = """
        %w = Softmax(%a)
        %x = Transpose(%v) {perm = $swap}
        %r = MatMul(%w, %x)
        %y = Transpose(%r) {perm = $swap}
    """
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Refuse any other order of the axes."""
        order = tuple(m.attr("swap") or ())
        return None if order == swap(len(m.run("P")) + 2) else f"the axes are ordered {order}"

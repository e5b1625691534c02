"""Compute fewer numbers where only some of them are gathered.

Relative positions are looked up in a product with an embedding of every distance there is; short sequences read a few
of them.  Which ones is known when the indices are, that is, for sequences of known length.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import NUMBERS, Match, Rule

_MOST_KEPT = 0.75
"""Share of the columns above which slicing them is not worth while."""


class GatherFromFewerColumns(Rule):
    """What is gathered from a range of a product's columns is gathered from a product with that range."""

    before = """
        %p: T[*S,M,N] = MatMul(%a, %b: T[*R,K,N])
        %y = GatherElements(%p, const %i: I[*S,M,G]) {axis = -1}
    """
    after = """
        %c = Slice(%b, const %first, const %last, [-1])
        %q = MatMul(%a, %c)
        %y = GatherElements(%q, const %j) {axis = -1}
    """
    types = {"T": NUMBERS, "I": frozenset({DType.I32, DType.I64})}
    domain = {"i": "1..3", "N": "4..9"}

    def guard(self, m: Match) -> str | None:
        """Refuse indices that read most of the columns, none at all, or outside."""
        columns = m.size("N")
        first, last = _range(m)
        if not 0 <= first < last <= columns:
            return f"columns {first} to {last} of {columns} are read"
        return f"{last - first} of {columns} columns are read" if last - first > _MOST_KEPT * columns else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The range, and the indices from its start."""
        first, last = _range(m)
        columns, index = m.size("N"), m.array("i")
        counted = np.where(index < 0, index + columns, index) - first
        return {"first": [first], "last": [last], "j": counted.astype(index.dtype)}


def _range(m: Match) -> tuple[int, int]:
    """Return the first column that is read, and the one behind the last."""
    index, columns = m.array("i"), m.size("N")
    if index.size == 0:
        return 0, 0
    counted = np.where(index < 0, index + columns, index)
    return int(counted.min()), int(counted.max()) + 1

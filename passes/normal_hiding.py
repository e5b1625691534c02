"""Hide scores by a number that ONNX Runtime's ``Attention`` does not take for minus infinity."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.constant import Array
from compiler.ir.graph import Value
from compiler.rewrite import FLOATS, Match, Rule
from passes.attention_scores import lowest, neighbour


class _HideByNeighbour(Rule):
    """Hide by the number next to the lowest one.

    ONNX Runtime's ``Attention`` takes a row that is nowhere above the lowest number for one of minus infinity, and
    gives zero where ``Softmax`` weighs all keys alike.  One unit in the last place avoids it.
    Source: onnxruntime/core/providers/cpu/llm/attention.cc.
    """

    stage = "raise"
    types = {"T": FLOATS}
    rtol = 2.0**-10
    domain = {"lo": "-3.4028235e38..-3.4028235e38"}

    def guard(self, m: Match) -> str | None:
        """Refuse any other number, and readers that could tell it from its neighbour."""
        if m.scalar("lo") != lowest(m):
            return f"{m.scalar('lo'):g} is not the lowest number"
        return _other_reader(m["y"])

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the neighbour."""
        return {"near": np.array(neighbour(m), m.dtype("T").numpy)}


class HideByNeighbourOtherwise(_HideByNeighbour):
    """Hide by the neighbour of the lowest number where a condition does not hold."""

    before = "%y = Where(%c, %x: T, scalar %lo)"
    after = "%y = Where(%c, %x, const %near)"


class HideByNeighbourWhere(_HideByNeighbour):
    """Hide by the neighbour of the lowest number where a condition holds."""

    before = "%y = Where(%c, scalar %lo, %x: T)"
    after = "%y = Where(%c, const %near, %x)"


class HideByNeighbourTimes(_HideByNeighbour):
    """Hide by the neighbour of the lowest number where a mask of zeros and ones is multiplied by it."""

    before = "%y = Mul(%x: T, scalar %lo)"
    after = "%y = Mul(%x, const %near)"


class HideByNeighbourAdded(Rule):
    """Hide by the neighbour of the lowest number in the rows of a constant mask that are nowhere above the lowest.

    All that such a row shows is shifted by the same, which a ``Softmax`` does not see; other rows stay.
    """

    stage = "raise"
    before = """
        %a = Add(%t, const %m: T)
        %p = Softmax(%a)
    """
    after = """
        %b = Add(%t, const %near)
        %p = Softmax(%b)
    """
    types = {"T": FLOATS}
    domain = {"m": "-3.4028235e38..-3.4028235e38", "t": "-9..9"}

    def guard(self, m: Match) -> str | None:
        """Refuse a mask that shows something in every row, or hides by another number."""
        return None if _hidden_rows(m).any() else "no row is nowhere above the lowest number"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the mask with the neighbour in these rows."""
        mask = m.array("m")
        near = mask.dtype.type(neighbour(m))
        return {"near": np.where(_hidden_rows(m) & (mask == lowest(m)), near, mask)}


def _hidden_rows(m: Match) -> Array:
    """Return whether the largest number of each row is the lowest of its type, with a last axis of one."""
    mask = m.array("m")
    rows = mask.reshape(1) if mask.ndim == 0 else mask
    found = np.asarray(rows.max(axis=-1, keepdims=True, initial=-np.inf) == lowest(m))
    return found.reshape(()) if mask.ndim == 0 else found


_CARRIERS = frozenset(
    {"Add", "Concat", "Expand", "Max", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze", "Where"}
)
"""Operators that pass a mask on."""

_READERS = 64
"""Readers of a mask that are looked at; a mask that has more is left alone."""


def _other_reader(value: Value) -> str | None:
    """Return which reader of a mask is no ``Softmax`` and no ``Attention``, directly or behind what passes it on."""
    todo, seen = [value], 0
    while todo:
        for node in dict.fromkeys(todo.pop().users()):
            seen += 1
            if seen > _READERS:
                return f"it has more than {_READERS} readers"
            if node.is_op(*_CARRIERS):
                todo.extend(node.outputs)
            elif not node.is_op("Softmax", "Attention"):
                return f"{node.qualified} reads it"
    return None

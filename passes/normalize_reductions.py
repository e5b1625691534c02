"""Let reductions keep the dims that a view puts back: statistics then broadcast against the data they are of.

Exporters write a variance that keeps its dims as one that does not, and a view.  The axes are the last ones, or the
channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import NUMBERS, Match, Rule

_VIEWS = ("Reshape(%m, %_){allowzero = $z}", "Unsqueeze(%m, %_)")
"""Ways to put dims of one back."""

_AXES = (
    ([-1], "T[*S,N]", "T[*S]", "T[*S,1]"),
    ([-2, -1], "T[*S,N,M]", "T[*S]", "T[*S,1,1]"),
    ([-3, -2, -1], "T[*S,N,M,K]", "T[*S]", "T[*S,1,1,1]"),
    ([1], "T[A,N,B,*S]", "T[A,B,*S]", "T[A,1,B,*S]"),
)
"""Axes, type of the data, and types of the reduction without and with its dims."""


def _forms(op: str) -> tuple[str, ...]:
    return tuple(
        f"""
        %m: {without} = {op}(%x: {data}, {axes}){{keepdims = 0}}
        %y: {kept} = {view}
        """
        for axes, data, without, kept in _AXES
        for view in _VIEWS
    )


def _axes(m: Match) -> dict[str, Any]:
    return {"axes": np.array(_AXES[m.form // len(_VIEWS)][0])}


class KeepDimsOfMean(Rule):
    """A mean whose reduced dims a view puts back as ones is a mean that keeps its dims."""

    stage = "canonical"
    before = _forms("ReduceMean")
    after = "%y = ReduceMean(%x, const %axes){keepdims = 1}"
    types = {"T": NUMBERS}

    def constants(self, m: Match) -> dict[str, Any]:
        """The axes of the form."""
        return _axes(m)


class KeepDimsOfSum(Rule):
    """A sum whose reduced dims a view puts back as ones is a sum that keeps its dims."""

    stage = "canonical"
    before = _forms("ReduceSum")
    after = "%y = ReduceSum(%x, const %axes){keepdims = 1}"
    types = {"T": NUMBERS}

    def constants(self, m: Match) -> dict[str, Any]:
        """The axes of the form."""
        return _axes(m)

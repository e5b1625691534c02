"""Let reductions keep the dims that a view puts back: statistics then broadcast against the data they are of."""

from __future__ import annotations

from compiler.ir.types import Shape
from compiler.rewrite import NUMBERS, Match, Rule


class KeepDimsOfMean(Rule):
    """A mean whose reduced dims a view puts back as ones is a mean that keeps its dims."""

    stage = "canonical"
    before = (
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 0}
        %y: T[*U] = Reshape(%m, %_){allowzero = $z}
        """,
        """
        %m = ReduceMean(%x: T[*S], const %a){keepdims = 0}
        %y: T[*U] = Unsqueeze(%m, %_)
        """,
    )
    after = "%y = ReduceMean(%x, %a){keepdims = 1}"
    types = {"T": NUMBERS}

    def guard(self, m: Match) -> str | None:
        """The view has ones at the reduced axes."""
        return _why_not_kept(m)


class KeepDimsOfSum(Rule):
    """A sum whose reduced dims a view puts back as ones is a sum that keeps its dims."""

    stage = "canonical"
    before = (
        """
        %m = ReduceSum(%x: T[*S], const %a){keepdims = 0}
        %y: T[*U] = Reshape(%m, %_){allowzero = $z}
        """,
        """
        %m = ReduceSum(%x: T[*S], const %a){keepdims = 0}
        %y: T[*U] = Unsqueeze(%m, %_)
        """,
    )
    after = "%y = ReduceSum(%x, %a){keepdims = 1}"
    types = {"T": NUMBERS}

    def guard(self, m: Match) -> str | None:
        """The view has ones at the reduced axes."""
        return _why_not_kept(m)


def _why_not_kept(m: Match) -> str | None:
    shape, axes = m.run("S"), m.ints("a")
    if not axes:
        return "it is reduced over all axes"
    reduced = {a % len(shape) for a in axes}
    kept: Shape = tuple(1 if i in reduced else d for i, d in enumerate(shape))
    viewed = m.run("U")
    return None if viewed == kept else f"the view is {list(map(str, viewed))}, not {list(map(str, kept))}"

"""Bring what hides and shifts the scores of attention into one form: one mask, added to the scores.

Exporters write a mask by ``Where`` on the scores, subtract it, multiply by it, clamp the sum, or add several things one
after the other.

Decisions:

* A number that is put in the place of hidden scores becomes one that is added.  For minus infinity that is the same.  A
  finite number is replaced by one so large that a score added to it is lost in rounding: so hidden keys weigh nothing,
  and a row that is hidden altogether still weighs all keys alike, as before.
* What is added on top of hidden scores must not matter: either the number that hides loses it, or it hides by more.
* These rules stand in the stage ``raise``, since each does its work with a ``Softmax`` in sight only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.ir.facts import scalar_constant
from compiler.ir.graph import Value
from compiler.rewrite import FLOATS, Match, Rule
from passes.attention_scores import CAPPED, HIDDEN, LOST, PRODUCT, SMALL, loses, neighbour


class AddWhatHides(Rule):
    """Hide scores by adding to them: ``Where(c, lowest, scores)`` is ``scores + Where(c, lowest, 0)`` in a ``Softmax``.

    The mask has the dims of the condition, which seldom are all those of the scores.  Scores must lie above -9896 and
    below 1e22; see the module for rows that are hidden altogether.
    """

    stage = "raise"
    before = (
        """
        %w = Where(%h, scalar %lo, %t: T)
        optional %a = Add(%w, %m)
        %p: T = Softmax(%a)
        """,
        """
        %w = Where(%h, %t: T, scalar %lo)
        optional %a = Add(%w, %m)
        %p: T = Softmax(%a)
        """,
    )
    after = """
        %z = Where(%h, const %yes, const %no)
        optional %b = Add(%z, %m?)
        %u = Add(%t, %b)
        %p = Softmax(%u)
    """
    types = {"T": FLOATS}
    domain = {"lo": "-1e38..-1e31", "m": "-3..3", "t": "-9..9"}

    def guard(self, m: Match) -> str | None:
        """Refuse a number that does not hide, and one that a sum behind it could bring back."""
        number = m.scalar("lo")
        if m["t"].constant is not None or (m.has("a") and _is_product(m["m"]) and not _is_product(m["t"])):
            return "it is a mask itself"
        if any(n.is_op("Where") and n.inputs[0] is m["h"] for n in m["p"].users()):
            return "the probabilities are hidden by the same condition"
        if np.isneginf(number):
            return None
        if not number <= HIDDEN:
            return f"{number:g} does not hide scores"
        if m.dtype("T") is DType.F16:
            return f"scores added to {number:g} are not lost in f16"
        return f"{number:g} is added to" if m.has("a") and number > LOST and not _hides_more(m) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute what is added where the condition holds, and where it does not."""
        hidden = np.array(max(min(m.scalar("lo"), LOST), neighbour(m)), m.dtype("T").numpy)
        hidden = hidden if m.scalar("lo") > -np.inf else np.full_like(hidden, -np.inf)
        shown = np.zeros_like(hidden)
        return {"yes": shown, "no": hidden} if m.form else {"yes": hidden, "no": shown}


def _hides_more(m: Match) -> bool:
    """True for a mask of zeros and of a number beside which all that a rule here puts for hidden scores is lost."""
    node = m["m"].node
    if node is None or not node.is_op("Where", "Mul"):
        return False
    numbers = [scalar_constant(v) for v in node.inputs]
    found = [n for n in numbers if n is not None and loses(n, m)]
    return len(found) == 1 and (node.op == "Mul" or 0 in numbers)


class HideWithoutExpanding(Rule):
    """Let ``Where`` broadcast a condition that is expanded to the shape of the scores."""

    stage = "canonical"
    before = (
        """
        %s = Shape(%t)
        %e = Expand(%c, %s)
        %y = Where(%e, %x, %t)
        """,
        """
        %s = Shape(%x)
        %e = Expand(%c, %s)
        %y = Where(%e, %x, %t)
        """,
    )
    after = "%y = Where(%c, %x, %t)"
    shared = "%s %e"


class HideAgainByAdding(Rule):
    """Hide scores once: zeroing hidden probabilities makes whole hidden rows zero, as minus infinity and a guard do."""

    stage = "raise"
    before = """
        %a = Where(%h, scalar %lo, %t: T)
        %p = Softmax(%a)
        %y = Where(%h, 0.0, %p)
    """
    after = """
        %z = Where(%h, const %hidden, 0.0)
        %u = Add(%t, %z)
        %w = Softmax(%u)
        %n = IsNaN(%w)
        %y = Where(%n, 0.0, %w)
    """
    types = {"T": FLOATS}
    domain = {"lo": "-1e38..-1e31", "t": "-9..9"}

    def guard(self, m: Match) -> str | None:
        """Refuse a number that does not hide."""
        return None if m.scalar("lo") <= HIDDEN else f"{m.scalar('lo'):g} does not hide scores"

    def constants(self, m: Match) -> dict[str, Any]:
        """Hide by minus infinity."""
        return {"hidden": np.array(-np.inf, m.dtype("T").numpy)}


class AddMasksFirst(Rule):
    """Add masks to each other before they are added to the scores, which are at least as large as their sum."""

    stage = "raise"
    before = tuple(
        scores
        + """
        %a = Add(%t, %m)
        optional %e = Add(%a, %i)
        optional %g = Add(%e, %j)
        %b = Add(%g, %n)
        %p: T = Softmax(%b)
        """
        for scores in (PRODUCT, CAPPED)
    )
    after = """
        optional %two = Add(%m, %i?)
        optional %three = Add(%two, %j?)
        %mask = Add(%three, %n)
        %x = Add(%t, %mask)
        %p = Softmax(%x)
    """
    types = {"T": FLOATS}
    domain = {"c": "positive", **SMALL, "i": "-9..9", "j": "-9..9"}


_MULTIPLIED = """
    %s = MatMul(%q, %k)
    optional %t = Mul|Div(%s, %c)
    %x = Mul(%t, const %b)
    %a = Add(%x, const %m)
"""


class MultiplyByMask(Rule):
    """Add a mask where scores are multiplied by zeros and ones, and a large negative number is put for the zeros.

    ``w * b + (1 - b) * lo`` is ``Where(b, w, lo)`` for a constant ``b`` of zeros and ones, or of zeros and the factor
    of the scores; a row that is hidden altogether weighs all keys alike before and after.
    """

    stage = "raise"
    before = (
        _MULTIPLIED + "%p: T = Softmax(%a)",
        _MULTIPLIED + "%n = Mul(%i, scalar %lo)\n %g = Add(%a, %n)\n %p: T = Softmax(%g)",
        _MULTIPLIED + "%n = Where(%h, 0.0, scalar %lo)\n %g = Add(%a, %n)\n %p: T = Softmax(%g)",
    )
    after = """
        %u = Mul(%t, const %f)
        %r = Add(%u, const %mask)
        optional %z = Add(%r, %n?)
        %p = Softmax(%z)
    """
    types = {"T": FLOATS}
    shared = "%n"
    domain = {**SMALL, "b": "ones", "m": "zeros", "lo": "-3e38..-1e38", "i": "zeros"}

    def guard(self, m: Match) -> str | None:
        """Refuse anything but zeros and ones, and a sum that does not hide exactly where they are zero."""
        shown, added = m.array("b"), m.array("m")
        if m.dtype("T") is DType.F16 or shown.size == 1:
            return "scores are not lost in f16" if shown.size > 1 else "the factor is one number"
        if m.form and not loses(m.scalar("lo"), m):
            return f"{m.scalar('lo'):g} may hide by as little"
        most = float(shown.max(initial=0))
        if not most > 0 or not ((shown == 0) | (shown == most)).all():
            return "the factors are not zeros and one positive number"
        if np.broadcast_shapes(shown.shape, added.shape) != added.shape:
            return f"factors of {list(shown.shape)}, and {list(added.shape)} is added"
        wrong = np.where(shown == 0, ~(added <= HIDDEN), added != 0)
        return f"{int(wrong.sum())} elements are hidden and shown" if wrong.any() else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the factor of the scores that are shown, and a mask in which the others are lost."""
        dtype, shown = m.dtype("T").numpy, m.array("b")
        hidden = np.broadcast_to(shown == 0, np.broadcast_shapes(shown.shape, m.array("m").shape))
        return {"f": np.array(shown.max(), dtype), "mask": np.where(hidden, LOST, 0).astype(dtype)}


class AddNegatedMask(Rule):
    """Add the opposite of a mask that is subtracted from the scores."""

    stage = "raise"
    before = """
        %a = Sub(%t, %m)
        optional %b = Add(%a, %n)
        %p: T = Softmax(%b)
    """
    after = """
        %o = Neg(%m)
        %r = Add(%t, %o)
        optional %x = Add(%r, %n?)
        %p = Softmax(%x)
    """
    types = {"T": FLOATS}
    domain = {"t": "-9..9", **SMALL}

    def guard(self, m: Match) -> str | None:
        """Leave the largest score to other rules."""
        node = m["m"].node
        return "the largest score is subtracted" if node is not None and node.is_op("ReduceMax") else None


class ClampMask(Rule):
    """Clamp a mask instead of the scores that it was added to: a score is lost beside the number that clamps."""

    stage = "raise"
    before = """
        %a = Add(%t, %m)
        %x = Max(%a, scalar %lo)
        %p: T = Softmax(%x)
    """
    after = """
        %o = Max(%m, const %least)
        %b = Add(%t, %o)
        %p = Softmax(%b)
    """
    types = {"T": FLOATS}
    domain = {"lo": "-1e38..-1e31", "m": "-3..3", "t": "-9..9"}

    def guard(self, m: Match) -> str | None:
        """Refuse a number beside which scores are not lost, and scores in the place of the mask."""
        if m.dtype("T") is DType.F16 or not m.scalar("lo") <= LOST:
            return f"scores are not lost beside {m.scalar('lo'):g} in {m.dtype('T')}"
        return "the mask is a product" if _is_product(m["m"]) and not _is_product(m["t"]) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Clamp at a number that ONNX Runtime's ``Attention`` does not take for a mark."""
        return {"least": np.array(max(m.scalar("lo"), neighbour(m)), m.dtype("T").numpy)}


def _is_product(value: Value) -> bool:
    """True for a matrix product, scaled or not."""
    node = value.node
    if node is not None and node.is_op("Mul", "Div") and node.inputs[0] is not None:
        node = node.inputs[0].node
    return node is not None and node.is_op("MatMul")


class ScaleBeforeMask(Rule):
    """Scale scores and mask apart: ``c * (q k + m)`` is ``c * q k + c * m``."""

    stage = "raise"
    before = """
        %s = MatMul(%q, %k)
        %a = Add(%s, %m)
        %x = Mul|Div(%a, scalar %c)
        optional %b = Add(%x, %n)
        %p: T = Softmax(%b)
    """
    after = """
        %t = Mul(%s, const %f)
        %o = Mul(%m, const %f)
        optional %r = Add(%o, %n?)
        %z = Add(%t, %r)
        %p = Softmax(%z)
    """
    types = {"T": FLOATS}
    domain = {"c": "positive", **SMALL}

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the factor."""
        number = m.scalar("c")
        return {"f": np.array(number if m.node("x").op == "Mul" else 1 / number, m.dtype("T").numpy)}

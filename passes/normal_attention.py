"""Bring the scores of attention into one form, so that ``RaiseAttention`` is one rule.

The form is ``Softmax(scale * q k + mask)`` over the last axis, then a product with the values: one factor, one thing
added, four dims or three.  Exporters write a mask by ``Where`` on the scores, subtract it, add several things one after
the other, scale rows of the scores, reshape scores between two batched products, or keep keys in the columns of what
they take the ``Softmax`` of.

Decisions:

* A number that is put in the place of hidden scores becomes one that is added.  For minus infinity that is the same.  A
  finite number is replaced by one so large that a score added to it is lost in rounding: so hidden keys weigh nothing,
  and a row that is hidden altogether still weighs all keys alike, as before.
* These rules stand in the stage ``raise``, since each does its work with a ``Softmax`` in sight only.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from compiler.ir.constant import Array
from compiler.ir.dtype import DType
from compiler.ir.facts import scalar_constant
from compiler.ir.graph import Value
from compiler.rewrite import FLOATS, Match, Rule

_HIDDEN = -1e4
"""The largest number that counts as hiding a score: its exponential vanishes beside any score above -9896."""

_LOST = -1e30
"""A score below 1e22 that is added to this number is lost in rounding, in every type of eight exponent bits or more."""

_PRODUCT = """
    %s = MatMul(%q, %k)
    optional %t = Mul|Div(%s, %c)
"""
_SMALL = {"q": "-3..3", "k": "-3..3", "m": "-9..9", "n": "-9..9"}
"""Test data: scores that a ``Softmax`` does not turn into differences that no rounding explains."""

_CAPPED = """
    %h = Tanh(%d)
    %t = Mul(%h, scalar %c)
"""


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
        if any(n.is_op("Where") and n.inputs[0] is m["h"] for n in m["p"].users()):
            return "the probabilities are hidden by the same condition"
        if np.isneginf(number):
            return None
        if not number <= _HIDDEN:
            return f"{number:g} does not hide scores"
        if m.dtype("T") is DType.F16:
            return f"scores added to {number:g} are not lost in f16"
        return f"{number:g} is added to" if m.has("a") and number > _LOST and not _hides_more(m["m"]) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute what is added where the condition holds, and where it does not."""
        hidden = np.array(max(min(m.scalar("lo"), _LOST), _neighbour(m)), m.dtype("T").numpy)
        hidden = hidden if m.scalar("lo") > -np.inf else np.full_like(hidden, -np.inf)
        shown = np.zeros_like(hidden)
        return {"yes": shown, "no": hidden} if m.form else {"yes": hidden, "no": shown}


def _hides_more(mask: Value) -> bool:
    """True for a mask of zeros and of a number that is lower than any that a rule here puts for hidden scores."""
    node = mask.node
    if node is None or not node.is_op("Where", "Mul"):
        return False
    numbers = [scalar_constant(v) for v in node.inputs]
    found = [n for n in numbers if n is not None and n < _LOST]
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
        if m.dtype("T") is DType.F16 or not m.scalar("lo") <= _LOST:
            return f"scores are not lost beside {m.scalar('lo'):g} in {m.dtype('T')}"
        return "the mask is a product" if _is_product(m["m"]) and not _is_product(m["t"]) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Clamp at a number that ONNX Runtime's ``Attention`` does not take for a mark."""
        return {"least": np.array(max(m.scalar("lo"), _neighbour(m)), m.dtype("T").numpy)}


def _is_product(value: Value) -> bool:
    """True for a matrix product, scaled or not."""
    node = value.node
    if node is not None and node.is_op("Mul", "Div") and node.inputs[0] is not None:
        node = node.inputs[0].node
    return node is not None and node.is_op("MatMul")


class _HideByNeighbour(Rule):
    """Hide by the number next to the lowest one.

    ONNX Runtime's ``Attention`` takes a row that is nowhere above the lowest number for one of minus infinity, and gives
    zero where ``Softmax`` weighs all keys alike.  One unit in the last place avoids it.
    Source: onnxruntime/core/providers/cpu/llm/attention.cc.
    """

    stage = "raise"
    types = {"T": FLOATS}
    rtol = 2.0**-10
    domain = {"lo": "-3.4028235e38..-3.4028235e38"}

    def guard(self, m: Match) -> str | None:
        """Refuse any other number, and readers that could tell it from its neighbour."""
        if m.scalar("lo") != _lowest(m):
            return f"{m.scalar('lo'):g} is not the lowest number"
        return _other_reader(m["y"])

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the neighbour."""
        return {"near": np.array(_neighbour(m), m.dtype("T").numpy)}


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


def _lowest(m: Match) -> float:
    return float(ml_dtypes.finfo(m.dtype("T").numpy).min)


def _neighbour(m: Match) -> float:
    """Return the number above the lowest one."""
    dtype = m.dtype("T").numpy
    return float(np.nextafter(np.array(_lowest(m), dtype), np.array(0, dtype)))


_CARRIERS = frozenset("Add Concat Expand Reshape Slice Squeeze Transpose Unsqueeze Where Max".split())
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


class HideAgainByAdding(Rule):
    """Hide scores once: zeroing hidden probabilities leaves whole hidden rows zero, as minus infinity and a guard do."""

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
        return None if m.scalar("lo") <= _HIDDEN else f"{m.scalar('lo'):g} does not hide scores"

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
        for scores in (_PRODUCT, _CAPPED)
    )
    after = """
        optional %two = Add(%m, %i?)
        optional %three = Add(%two, %j?)
        %mask = Add(%three, %n)
        %x = Add(%t, %mask)
        %p = Softmax(%x)
    """
    types = {"T": FLOATS}
    domain = {"c": "positive", **_SMALL, "i": "-9..9", "j": "-9..9"}


_MULTIPLIED = """
    %s = MatMul(%q, %k)
    optional %t = Mul|Div(%s, %c)
    %x = Mul(%t, const %b)
    %a = Add(%x, const %m)
"""


class MultiplyByMask(Rule):
    """Add a mask where scores are multiplied by zeros and ones, and a large negative number is put for the zeros.

    ``w * b + (1 - b) * lo`` is ``Where(b, w, lo)`` for a constant ``b`` of zeros and ones, or of zeros and the factor of
    the scores; a row that is hidden altogether weighs all keys alike before and after.
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
    domain = {**_SMALL, "b": "ones", "m": "zeros", "lo": "-1e38..-1e31", "i": "zeros"}

    def guard(self, m: Match) -> str | None:
        """Refuse anything but zeros and ones, and a sum that does not hide exactly where they are zero."""
        shown, added = m.array("b"), m.array("m")
        if m.dtype("T") is DType.F16 or shown.size == 1:
            return "scores are not lost in f16" if shown.size > 1 else "the factor is one number"
        if m.form and not m.scalar("lo") < _LOST:
            return f"{m.scalar('lo'):g} may hide by as little"
        factor = float(shown.max(initial=0))
        if not factor > 0 or not ((shown == 0) | (shown == factor)).all():
            return "the factors are not zeros and one positive number"
        if np.broadcast_shapes(shown.shape, added.shape) != added.shape:
            return f"factors of {list(shown.shape)}, and {list(added.shape)} is added"
        wrong = np.where(shown == 0, ~(added <= _HIDDEN), added != 0)
        return f"{int(wrong.sum())} elements are hidden and shown" if wrong.any() else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the factor of the scores that are shown, and a mask in which the others are lost."""
        dtype, shown = m.dtype("T").numpy, m.array("b")
        hidden = np.broadcast_to(shown == 0, np.broadcast_shapes(shown.shape, m.array("m").shape))
        return {"f": np.array(shown.max(), dtype), "mask": np.where(hidden, _LOST, 0).astype(dtype)}


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
    domain = {"t": "-9..9", **_SMALL}

    def guard(self, m: Match) -> str | None:
        """Leave the largest score to other rules."""
        node = m["m"].node
        return "the largest score is subtracted" if node is not None and node.is_op("ReduceMax") else None


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
    domain = {"c": "positive", **_SMALL}

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the factor."""
        number = m.scalar("c")
        return {"f": np.array(number if m.node("x").op == "Mul" else 1 / number, m.dtype("T").numpy)}


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
    domain = {"f": "positive", **_SMALL}

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
    domain = {"c": "positive", "B": "2..3", **_SMALL}

    def guard(self, m: Match) -> str | None:
        """Refuse a batch of one."""
        return "the batch is one" if m.dim("B") == 1 else None

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the factor of the scores."""
        return {"f": _factor(m)}


class DropShiftOfScores(Rule):
    """Drop the largest score that is subtracted from a row: a ``Softmax`` does not change with it.

    Factors before and behind, which undo each other, only kept half precision in range.
    """

    stage = "raise"
    before = """
        %d = Mul|Div(%t: T, scalar %c)
        %m = ReduceMax(%d, [-1]) {keepdims = 1}
        %s = Sub(%d, %m)
        %x = Mul|Div(%s, scalar %f)
        %p = Softmax(%x)
    """
    after = "%p = Softmax(%t)"
    types = {"T": FLOATS}
    domain = {"t": "-9..9", "c": "4..4", "f": "4..4"}

    def guard(self, m: Match) -> str | None:
        """Refuse factors that do not undo each other."""
        first, second = (float(m.scalar(c)) ** (1 if m.node(v).op == "Mul" else -1) for v, c in (("d", "c"), ("x", "f")))
        return None if np.isclose(first * second, 1, rtol=1e-6) else f"the factors are {first:g} and {second:g}"


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
    domain = {"c": "positive", **_SMALL}

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the order of axes that swaps the last two, and the factor of the scores."""
        return {"swap": _swap(len(m.run("P")) + 2), "f": _factor(m)}


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
        order, swap = m.attr("swap"), _swap(len(m.run("P")) + 2)
        return None if order is not None and tuple(order) == swap else f"the axes are ordered {order}"


def _factor(m: Match) -> Array:
    """Return what ``%t`` is multiplied by, if it is there."""
    number = m.scalar("c") if m.has("t") else 1.0
    return np.array(1 / number if m.has("t") and m.node("t").op == "Div" else number, m.dtype("T").numpy)


def _swap(rank: int) -> tuple[int, ...]:
    """Return the order of axes that swaps the last two."""
    return (*range(rank - 2), rank - 1, rank - 2)


# Reshapes ----------------------------------------------------------------------------------------


class SplitBatchBeforeProduct(Rule):
    """Split the batch of the operands of a batched product where that of its result is split: reshapes meet there."""

    stage = "raise"
    before = """
        %s: T[B*H,S,N] = MatMul(%q: T[B*H,S,D], %k: T[B*H,F,N])
        %y: T[B,H,S,N] = Reshape(%s, %_) {allowzero = $z}
    """
    after = """
        %x = Reshape(%q, [B,H,S,D])
        %r = Reshape(%k, [B,H,F,N])
        %y = MatMul(%x, %r)
    """
    types = {"T": FLOATS}
    domain = {"D": "1..5"}


class SplitBatchBeforeScale(Rule):
    """Split the batch of scores before they are scaled."""

    stage = "raise"
    before = """
        %s = MatMul(%q: T[B*H,S,D], %k: T[B*H,D,N])
        %t = Mul|Div(%s, scalar %c)
        %y: T[B,H,S,N] = Reshape(%t, %_) {allowzero = $z}
    """
    after = """
        %x = Reshape(%s, [B,H,S,N])
        %y = Mul(%x, const %f)
    """
    types = {"T": FLOATS}
    domain = {"c": "positive"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the factor."""
        return {"f": _factor(m)}


class SplitBatchBeforeMask(Rule):
    """Split the batch of scores and of what is added to them before the sum."""

    stage = "raise"
    before = """
        %s = MatMul(%q: T[B*H,S,D], %k: T[B*H,D,N])
        optional %t = Mul|Div(%s, scalar %c)
        %a: T[B*H,S,W] = Add(%t, %m: T[B*H,R,L])
        %y: T[B,H,S,W] = Reshape(%a, %_) {allowzero = $z}
    """
    after = """
        %x = Reshape(%t, [B,H,S,N])
        %o = Reshape(%m, [B,H,R,L])
        %y = Add(%x, %o)
    """
    types = {"T": FLOATS}


class SplitBatchBeforeSoftmax(Rule):
    """Split the batch of scores before a ``Softmax`` over their last axis."""

    stage = "raise"
    before = """
        %p: T[B*H,S,N] = Softmax(%a)
        %y: T[B,H,S,N] = Reshape(%p, %_) {allowzero = $z}
    """
    after = """
        %x = Reshape(%a, [B,H,S,N])
        %y = Softmax(%x)
    """
    types = {"T": FLOATS}


class MergeBatchAfterProduct(Rule):
    """Merge the batch and the heads of scores after the product with the values instead of before the ``Softmax``."""

    stage = "raise"
    before = """
        %r: T[B*H,S,N] = Reshape(%a: T[B,H,S,N], %_) {allowzero = $z}
        %p = Softmax(%r)
        %y: T[B*H,S,E] = MatMul(%p, %v: T[B*H,L,E])
    """
    after = """
        %w = Softmax(%a)
        %x = Reshape(%v, [B,H,L,E])
        %u = MatMul(%w, %x)
        %y = Reshape(%u, [B*H,S,E])
    """
    types = {"T": FLOATS}
    domain = {"E": "1..5"}


class AddMaskOfWindows(Rule):
    """Add a mask of ``M`` windows to scores whose batch holds ``B`` images of ``M`` windows, without reshaping them.

    The mask is repeated for each image; it has no heads of its own, or the reshape of the scores costs as much.
    """

    stage = "raise"
    before = """
        %s: T[B*M,H,S,N] = MatMul(%q: T[B*M,H,S,D], %k)
        optional %t = Mul|Div(%s, %c)
        optional %d = Add(%t, %o)
        %r: T[B,M,H,S,N] = Reshape(%d, %_) {allowzero = $z}
        %a: T[B,M,H,S,N] = Add(%r, %m: T[U,M,V,S,N])
        optional %g = Add(%a, %i: T[U,M,V,S,N])
        %y: T[B*M,H,S,N] = Reshape(%g, %_) {allowzero = $e}
    """
    after = """
        %batch = Shape(%q) {start = 0, end = 1}
        %images = Div(%batch, [M])
        %shape = Concat(%images, [1,1,1,1]) {axis = 0}
        optional %sum = Add(%m, %i?)
        %each = Expand(%sum, %shape)
        %mask = Reshape(%each, [B*M,V,S,N])
        %y = Add(%d, %mask)
    """
    types = {"T": FLOATS}


class AddPositionsOfAxes(Rule):
    """Add what depends on the rows and on the columns of an image to scores of its pixels, without reshaping the scores."""

    stage = "raise"
    before = """
        %s: T[P,S,N] = MatMul(%q, %k)
        optional %t = Mul|Div(%s, %c)
        %r: T[P,A,B,C,D] = Reshape(%t, %_) {allowzero = $z}
        %a: T[P,A,B,C,D] = Add(%r, %m: T[P,A,B,C,1])
        %g: T[P,A,B,C,D] = Add(%a, %n: T[P,A,B,1,D])
        %y: T[P,S,N] = Reshape(%g, %_) {allowzero = $e}
    """
    after = """
        %sum = Add(%m, %n)
        %mask = Reshape(%sum, [P,S,N])
        %y = Add(%t, %mask)
    """
    types = {"T": FLOATS}


class SwapBeforeSplitting(Rule):
    """Split the batch of a matrix before its rows and columns are swapped: then two reshapes meet, and often vanish."""

    stage = "canonical"
    before = """
        %b: T[B*H,D,S] = Transpose(%x: T[B*H,S,D]) {perm = [0, 2, 1]}
        %y: T[B,H,D,S] = Reshape(%b, %_) {allowzero = $z}
    """
    after = """
        %r = Reshape(%x, [B,H,S,D])
        %y = Transpose(%r) {perm = [0, 1, 3, 2]}
    """
    types = {"T": FLOATS}


class UnsqueezeMatrix(Rule):
    """Write ``Unsqueeze`` for an ``Expand`` that gives a matrix two leading dims of one: no element is copied."""

    stage = "canonical"
    before = "%y: T[1,1,S,N] = Expand(%x: T[S,N], %_)"
    after = "%y = Unsqueeze(%x, [0,1])"
    types = {"T": FLOATS}


class UnsqueezeMatrices(Rule):
    """Write ``Unsqueeze`` for an ``Expand`` that gives matrices one leading dim of one."""

    stage = "canonical"
    before = "%y: T[1,H,S,N] = Expand(%x: T[H,S,N], %_)"
    after = "%y = Unsqueeze(%x, [0])"
    types = {"T": FLOATS}

"""Raise ``Softmax`` and ``LogSoftmax`` that are written out with exponentials and sums.

Decisions:

* The maximum need not be subtracted in the written form: ``Softmax`` does not change when its input is shifted.  Where
  ``exp`` overflowed or every term vanished the written form was NaN, and the operator is not.
* ``Log(ReduceSum(Exp(x)))`` is not raised to ``ReduceLogSumExp``: kernels of that operator are slower than the three
  that are written, and what differs is their overflow only.
"""

from __future__ import annotations

from typing import Any

from compiler.rewrite import FLOATS, Match, Rule

_SHIFTED = """
    %m = ReduceMax(%x, const %a)
    %d: T[*S] = Sub(%x: T[*S], %m)
    %e = Exp(%d)
    %s = ReduceSum(%e, const %b)
"""
_PLAIN = """
    %e: T[*S] = Exp(%x)
    %s = ReduceSum(%e, const %b)
"""


_QUOTIENTS = ("%y = Div(%e, %s)", "%r = Reciprocal(%s)  %y = Mul(%e, %r)")


class _AlongOneAxis(Rule):
    """What the rules have in common: reductions along one axis, the same one."""

    stage = "raise"
    types = {"T": FLOATS}
    domain = {"a": "-1..0", "b": "-1..0"}

    def guard(self, m: Match) -> str | None:
        """Refuse reductions along several axes or along different ones."""
        found = _axes(m)
        return None if found else f"the axes are {[m.ints(n) for n in 'ab' if m.get(n) is not None]}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Return the axis."""
        return {"axis": _axes(m)[0]}


def _axes(m: Match) -> list[int]:
    """Return the axis that all reductions go along, nothing when there are several."""
    rank = m["x"].rank
    lists = [m.ints(name) for name in ("a", "b") if m.get(name) is not None]
    if not rank or any(axes is None or len(axes) != 1 for axes in lists):
        return []
    found = sorted({axes[0] % rank for axes in lists if axes is not None})
    return [found[0] if found[0] < rank - 1 else -1] if len(found) == 1 else []


class RaiseSoftmax(_AlongOneAxis):
    """``exp(x - max x) / sum exp(x - max x)`` is ``Softmax(x)``."""

    before = tuple(_SHIFTED + quotient for quotient in _QUOTIENTS)
    after = "%y = Softmax(%x) {axis = $axis}"


class RaiseUnshiftedSoftmax(_AlongOneAxis):
    """``exp(x) / sum exp(x)`` is ``Softmax(x)``, which has a value also where an exponential overflows."""

    before = tuple(_PLAIN + quotient for quotient in _QUOTIENTS)
    after = "%y = Softmax(%x) {axis = $axis}"
    domain = {**_AlongOneAxis.domain, "x": "-9..9"}


class RaiseUnshiftedLogSoftmax(_AlongOneAxis):
    """``x - log sum exp(x)`` is ``LogSoftmax(x)``, which has a value also where an exponential overflows."""

    before = _PLAIN + "%l = Log(%s)  %y: T[*S] = Sub(%x, %l)"
    after = "%y = LogSoftmax(%x) {axis = $axis}"
    domain = {**_AlongOneAxis.domain, "x": "-9..9"}


class RaiseLogSoftmax(_AlongOneAxis):
    """``x - max x - log sum exp(x - max x)`` is ``LogSoftmax(x)``."""

    before = (
        _SHIFTED + "%l = Log(%s)  %y = Sub(%d, %l)",
        """
        %l = ReduceLogSumExp(%x, const %b)
        %y: T[*S] = Sub(%x: T[*S], %l)
        """,
    )
    after = "%y = LogSoftmax(%x) {axis = $axis}"
    domain = {**_AlongOneAxis.domain, "x": "-9..9"}


class RaiseLogOfSoftmax(Rule):
    """``log(softmax(x))`` is ``LogSoftmax(x)``, which stays finite where the probability underflows."""

    stage = "raise"
    before = """
        %s = Softmax(%x: T) {axis = $axis}
        %y = Log(%s)
    """
    after = "%y = LogSoftmax(%x) {axis = $axis}"
    types = {"T": FLOATS}
    domain = {"x": "-9..9"}

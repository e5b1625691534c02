"""Say which sign the elements of a value have, as far as the operators that make it tell.

Theorems about roots and logarithms hold for numbers that are not negative only; sums of squares, variances and results
of ``Exp`` or ``Relu`` are such numbers whatever the inputs of the model are.  A NaN may be anywhere: every theorem that
asks here keeps it.

``-0.0`` counts as ``NOT_NEGATIVE``, not as ``POSITIVE``; ``0.0``, say an ``Exp`` that underflows, is ``POSITIVE``:
theorems only must tell it from ``-0.0``.
"""

from __future__ import annotations

import enum

import numpy as np

from compiler.ir.facts import scalar_constant
from compiler.ir.graph import Node, Value

_REACH = 8
"""Producers that are followed upwards."""

_SMALL = 1 << 16
"""Elements up to which the contents of a constant are looked at."""

_POSITIVE = frozenset({"Abs", "Exp", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Sigmoid", "Softmax", "Softplus"})
"""Operators whose results are positive whatever they read; sums over nothing are ``0.0``."""

_NOT_NEGATIVE = frozenset({"HardSigmoid", "Relu"})
"""Operators whose results are not negative, and may be ``-0.0``."""

_KEEPING = (
    frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMean", "ReduceSum", "Sqrt"})
    | frozenset({"Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"})
    | frozenset({"Unsqueeze"})
)
"""Operators whose results have the sign of their first operand; the maximum of nothing is minus infinity."""

_ALL_OPERANDS = frozenset({"Add", "Concat", "Div", "Max", "Mean", "Min", "Mul", "Sum"})
"""Operators whose results have a sign when all operands have one."""


class Sign(enum.IntEnum):
    """What is known of all elements of a value."""

    UNKNOWN = 0
    NOT_NEGATIVE = 1
    POSITIVE = 2


def sign_of(value: Value | None, reach: int = _REACH) -> Sign:
    """Return what is known of the sign of a float tensor's elements, NaN aside."""
    if value is None or not value.dtype.is_float:
        return Sign.UNKNOWN
    if value.constant is not None:
        return _of_constant(value)
    node = value.node
    if node is None or node.domain or reach == 0:
        return Sign.UNKNOWN
    if node.op in _POSITIVE:
        return Sign.POSITIVE
    if node.op in _NOT_NEGATIVE:
        return Sign.NOT_NEGATIVE
    if node.op in _KEEPING:
        return sign_of(node.input(0), reach - 1)
    if node.op == "Clip":
        least, most = (_of_number(scalar_constant(node.input(i))) for i in (1, 2))
        return least if node.input(2) is None else min(least, most)  # the upper bound wins where they cross
    if node.op == "Reciprocal":
        return Sign.POSITIVE if sign_of(node.input(0), reach - 1) is Sign.POSITIVE else Sign.UNKNOWN
    return _of_operands(node, reach) if node.op in _ALL_OPERANDS else Sign.UNKNOWN


def _of_operands(node: Node, reach: int) -> Sign:
    if node.op == "Mul" and node.input(0) is node.input(1):
        return Sign.POSITIVE
    signs = [sign_of(i, reach - 1) for i in node.inputs]
    least, greatest = min(signs), max(signs)
    if node.op == "Div":
        return least if signs[1] is Sign.POSITIVE else Sign.UNKNOWN
    if node.op in ("Add", "Sum"):
        return greatest if least else Sign.UNKNOWN
    return least


def _of_number(number: float | None) -> Sign:
    if number is None or not number >= 0:
        return Sign.UNKNOWN
    return Sign.POSITIVE if number > 0 else Sign.NOT_NEGATIVE


def _of_constant(value: Value) -> Sign:
    constant = value.constant
    if constant is None or not constant.is_readable or not 0 < constant.size <= _SMALL:
        return Sign.UNKNOWN
    array = constant.array()
    if not bool(np.all(array >= 0)):
        return Sign.UNKNOWN
    return Sign.NOT_NEGATIVE if bool(np.any(np.signbit(array))) else Sign.POSITIVE

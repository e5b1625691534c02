"""Facts: what analysis knows of a value beyond its type.

A fact holds in every execution.  Symbols stand for dims, so they are never negative; that is what sign facts
rest on. Facts that need the graph (sign, constants) are computed when asked for; the symbolic contents of
small integer tensors are kept on the values by ``compiler.ir.infer``.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np

from compiler.ir.dims import Dim, Expr, Func, Monomial
from compiler.ir.dtype import DType
from compiler.ir.graph import Value
from compiler.ir.schema import operator_names
from compiler.ir.types import Shape

Contents = tuple[Dim, ...]
"""Elements of a tensor in row-major order."""

CONTENTS_LIMIT = 64
"""Elements up to which contents are known."""

_CONTENT_DTYPES = frozenset({DType.I64, DType.I32, DType.BOOL, DType.F32, DType.F64, DType.U8, DType.I8})

_EXACT = {DType.F32: 1 << 24, DType.F64: 1 << 53}
"""Magnitudes up to which every integer is exact in a floating-point type."""


def known_contents(value: Value | None) -> Contents | None:
    """Return the elements of a small tensor of rank 0 or 1 as dims, ``None`` when they are not known.

    Booleans are 0 and 1.  Floating-point tensors have contents only when all elements are exact integers.
    """
    return None if value is None or (value.rank or 0) > 1 else known_elements(value)


def known_elements(value: Value | None) -> Contents | None:
    """Return the elements of a small tensor of any rank as ``known_contents`` does, in row-major order."""
    if value is None or value.contents is not None:
        return None if value is None else value.contents
    constant = value.constant
    if constant is None or constant.dtype not in _CONTENT_DTYPES:
        return None
    if constant.size > CONTENTS_LIMIT or not constant.is_readable:
        return None
    array = constant.array()
    if constant.dtype in _EXACT and not _is_integral(array, _EXACT[constant.dtype]):
        return None
    return tuple(int(x) for x in array.reshape(-1).tolist())


def _is_integral(array: np.ndarray[Any, Any], limit: int) -> bool:
    return bool(np.all(np.isfinite(array)) and np.all(np.abs(array) <= limit) and np.all(array == np.trunc(array)))


def known_ints(value: Value | None) -> tuple[int, ...] | None:
    """Return the elements of a small integer tensor when all of them are numbers."""
    contents = known_contents(value)
    if contents is None or not all(isinstance(c, int) for c in contents):
        return None
    return tuple(c for c in contents if isinstance(c, int))


def known_scalar(value: Value | None) -> Dim | None:
    """Return the only element of an integer tensor, ``None`` when it is not known or there are several."""
    contents = known_contents(value)
    return contents[0] if contents is not None and len(contents) == 1 else None


def scalar_constant(value: Value | None) -> Any:
    """Return the only element of a constant as a Python number, ``None`` when there is no such constant.

    The shape may be ``[]``, ``[1]``, ``[1,1]`` and so on.
    """
    if value is None or value.constant is None or not value.constant.is_readable or value.constant.size != 1:
        return None
    return None if value.constant.dtype is DType.STRING else value.constant.item()


def element_count(shape: Shape | None) -> int | None:
    """Return the number of elements, ``None`` when a dim is not static."""
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    return math.prod(d for d in shape if isinstance(d, int))


def nonnegative_dim(dim: Dim) -> bool:
    """True when the dim is certainly not negative, given that symbols are not."""
    if isinstance(dim, int):
        return dim >= 0
    low = _bound(dim, lower=True)
    return low is not None and low >= 0


def _bound(dim: Dim, *, lower: bool) -> int | None:
    """Return a number that the dim is never below (above), ``None`` when there is none; symbols are not negative."""
    if isinstance(dim, int):
        return dim
    total = 0
    for monomial, coefficient in dim.terms:
        factor = _monomial_bound(monomial, lower=lower == (coefficient > 0))
        if factor is None:
            return None
        total += coefficient * factor
    return total


def _monomial_bound(monomial: Monomial, *, lower: bool) -> int | None:
    """Return a bound of a product; a product of factors that may be negative has none, a single factor may have."""
    if len(monomial) == 1 and monomial[0][1] == 1:
        return _atom_bound(monomial[0][0], lower=lower)
    result = 1
    for atom, power in monomial:
        low, bound = _atom_bound(atom, lower=True), _atom_bound(atom, lower=lower)
        if low is None or low < 0 or bound is None:
            return None
        result *= bound**power
    return result


def _atom_bound(atom: str | Func, *, lower: bool) -> int | None:
    if isinstance(atom, str):
        return 0 if lower else None
    if atom.name in ("min", "max"):
        return _extreme_bound(atom, lower=lower)
    left, right = atom.args
    if atom.name == "%":
        return _remainder_bound(right, lower=lower)
    bound = _bound(left, lower=lower)
    if bound is not None and _is_positive(right):
        return bound // right
    return 0 if lower and bound is not None and bound >= 0 and nonnegative_dim(right) else None


def _remainder_bound(divisor: Dim, *, lower: bool) -> int | None:
    if lower:
        return 0 if nonnegative_dim(divisor) else None
    return divisor - 1 if _is_positive(divisor) else None


def _is_positive(dim: Dim) -> TypeGuard[int]:
    return isinstance(dim, int) and dim > 0


def _extreme_bound(atom: Func, *, lower: bool) -> int | None:
    bounds = [_bound(a, lower=lower) for a in atom.args]
    known = [b for b in bounds if b is not None]
    pick = min if atom.name == "min" else max
    each_bounds = (atom.name == "max") == lower  # a maximum is at least each operand, a minimum at most
    return pick(known) if known and (each_bounds or len(known) == len(bounds)) else None


def positive_dim(dim: Dim) -> bool:
    """True when the dim is certainly greater than zero."""
    return nonnegative_dim(dim - 1) if isinstance(dim, Expr) else dim > 0


def at_least(left: Dim, right: Dim) -> bool:
    """True when ``left >= right`` in every execution."""
    return left == right or nonnegative_dim(left - right)


_NONNEGATIVE_OPS = operator_names("""
        Abs Relu Sigmoid Softmax Exp Sqrt Shape Size NonZero HardSigmoid Softplus ReduceL1 ReduceL2
        ReduceSumSquare ArgMax ArgMin SequenceLength And Or Not Xor Equal Less Greater LessOrEqual
        GreaterOrEqual IsNaN IsInf
""")
_SIGN_KEEPING_OPS = operator_names("""
        Identity Reshape Flatten Transpose Squeeze Unsqueeze Expand Tile Gather GatherElements GatherND
        Slice Split MaxPool AveragePool GlobalAveragePool GlobalMaxPool ReduceMax ReduceMin ReduceMean
        ReduceSum
""")
_CONSTANT_SCAN = 1 << 16
"""Elements up to which a constant is read to learn its sign."""


def nonnegative(value: Value, *, depth: int = 4) -> bool:
    """True when certainly no element is negative in any execution; NaN does not count as negative.

    Looks through at most ``depth`` operators.  ``-0.0`` counts as not negative.
    """
    if value.contents is not None:
        return all(nonnegative_dim(c) for c in value.contents)
    if value.constant is not None:
        return _is_nonnegative_constant(value)
    node = value.node
    if node is None or node.domain or depth <= 0:
        return False
    if node.op in _NONNEGATIVE_OPS:
        return value.dtype.is_float or node.op not in (
            "Abs",
            "ReduceL1",
            "ReduceSumSquare",
        )  # integers wrap around
    if node.op in ("Mul", "Add", "ReduceSum", "ReduceMean") and not value.dtype.is_float:
        return False
    if node.op == "Mul" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]:
        return True
    if node.op in ("Mul", "Add", "Max", "Concat"):
        return len(node.inputs) <= 4 and all(i is not None and nonnegative(i, depth=depth - 1) for i in node.inputs)
    if node.op not in _SIGN_KEEPING_OPS or not node.inputs or node.inputs[0] is None:
        return False
    return nonnegative(node.inputs[0], depth=depth - 1)


def _is_nonnegative_constant(value: Value) -> bool:
    constant = value.constant
    if constant is None or not constant.is_readable or constant.size > _CONSTANT_SCAN:
        return False
    if not (constant.dtype.is_float or constant.dtype.is_integer) or constant.dtype.bits < 8:
        return False
    return not bool(np.any(constant.array() < 0))

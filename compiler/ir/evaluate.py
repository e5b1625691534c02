"""Evaluation of operators on constants, bit for bit as ONNX Runtime does it, in this process.

Only what can be had exactly: data movement, integers and booleans with C semantics, and float32 and float64
operations that IEEE 754 defines to the last bit.  Everything else (float16, transcendental functions,
reductions of floats) is for ONNX Runtime's own kernels, in a child process.  ``None`` always means: not ours
to evaluate.

No result is computed before its size is known and within ``limit``.  What ONNX Runtime rejects is refused
(indices out of range, division by zero), so that a model that fails keeps failing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from compiler.ir import evaluate_movement as movement
from compiler.ir.constant import Array
from compiler.ir.dtype import DType
from compiler.ir.evaluate_movement import LIMIT, Arrays, Refusal, broadcast_bytes, operand
from compiler.ir.facts import element_count
from compiler.ir.graph import Node

Evaluation: TypeAlias = Callable[[Node, Arrays, int], "Sequence[Array]"]

_INTEGERS = frozenset("iu")
_REFUSALS = (ArithmeticError, IndexError, TypeError, ValueError)  # ``Refusal`` is a ``ValueError``


def evaluate(node: Node, arrays: Sequence[Array | None], *, limit: int = LIMIT) -> list[Array] | None:
    """Return the outputs of a node for its operands, ``None`` when they are not ours to compute.

    ``arrays`` are the operands in order, ``None`` where one is missing.  No result is larger than ``limit``
    bytes.
    """
    found = None if node.domain else EVALUATIONS.get(node.op)
    if found is None or any(a is not None and a.dtype.kind in "OSU" for a in arrays):
        return None
    try:
        with np.errstate(all="ignore"):
            results = [np.asarray(r) for r in found(node, arrays, limit)]
    except _REFUSALS:
        return None
    return results if len(results) == len(node.outputs) else None


def output_bytes_bound(node: Node) -> int | None:
    """Return how many bytes the outputs of a node take at most, from types alone; ``None`` when nothing bounds them."""
    sizes = [_static_bytes(o.dtype, element_count(o.shape)) for o in node.outputs if not o.absent]
    if all(s is not None for s in sizes):
        return sum(s for s in sizes if s is not None)
    bound = None if node.domain else _BOUNDS.get(node.op)
    return None if bound is None else bound(node)


def _static_bytes(dtype: DType, count: int | None) -> int | None:
    return None if count is None or dtype.bits == 0 else dtype.packed_bytes(count)


def _input_bytes(node: Node) -> int | None:
    """Bound a selection by what it selects from."""
    data = node.inputs[0] if node.inputs else None
    return None if data is None else _static_bytes(data.dtype, element_count(data.shape))


def _non_zero_bytes(node: Node) -> int | None:
    data = node.inputs[0] if node.inputs else None
    count = None if data is None else element_count(data.shape)
    return None if data is None or count is None else 8 * count * max(data.rank or 0, 1)


def _unique_bytes(node: Node) -> int | None:
    data, size = node.inputs[0] if node.inputs else None, _input_bytes(node)
    count = None if data is None else element_count(data.shape)
    return None if size is None or count is None else size + 24 * count


def _range_bytes(node: Node) -> int | None:
    bounds = [None if v is None else v.array() for v in node.inputs]
    numbers = [float(b.reshape(-1)[0]) for b in bounds if b is not None and b.size == 1 and b.dtype.kind in "iuf"]
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or numbers[2] == 0:
        return None
    length = (numbers[1] - numbers[0]) / numbers[2]
    return _static_bytes(node.outputs[0].dtype, max(math.ceil(length), 0) + 1) if math.isfinite(length) else None


_BOUNDS: dict[str, Callable[[Node], int | None]] = {
    "Slice": _input_bytes,
    "Split": _input_bytes,
    "Compress": _input_bytes,
    "Squeeze": _input_bytes,
    "NonZero": _non_zero_bytes,
    "Unique": _unique_bytes,
    "Range": _range_bytes,
}


# Element by element ------------------------------------------------------------------------------


def _pair(node: Node, arrays: Arrays, limit: int) -> tuple[Array, Array]:
    """Return two operands of one type that broadcast within the limit."""
    left, right = operand(arrays, 0), operand(arrays, 1)
    if len(arrays) != 2 or left.dtype != right.dtype or "broadcast" in node.attributes:
        raise Refusal("operands of two types, or one-way broadcasting of old versions")
    broadcast_bytes([left, right], limit)
    return left, right


def _is_exact(array: Array, *, floats: bool) -> bool:
    """True for integers of whole bytes, and for float32 and float64 if these are welcome."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    return (kind in _INTEGERS and _is_native(array)) or (floats and kind == "f" and size in (4, 8))


def _is_native(array: Array) -> bool:
    return array.dtype.isbuiltin == 1


def _arithmetic(function: Callable[[Array, Array], Array]) -> Evaluation:
    def run(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
        left, right = _pair(node, arrays, limit)
        if not _is_exact(left, floats=True):
            raise Refusal("not exact")
        return [function(left, right)]

    return run


def _divide(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    left, right = _pair(node, arrays, limit)
    if left.dtype.kind == "f" and _is_exact(left, floats=True):
        return [left / right]
    _check_divisor(left, right)
    quotient = left // right
    rounded_down = (left % right != 0) & ((left < 0) != (right < 0))
    return [quotient + rounded_down.astype(left.dtype)]


def _check_divisor(left: Array, right: Array) -> None:
    """Refuse what C leaves undefined: division by zero, and of the least number by -1."""
    if not _is_exact(left, floats=False) or np.any(right == 0):
        raise Refusal("division by zero")
    if left.dtype.kind == "i" and np.any(right == -1) and np.any(left == np.iinfo(left.dtype).min):
        raise Refusal("a quotient out of range")


def _modulo(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    left, right = _pair(node, arrays, limit)
    _check_divisor(left, right)
    if node.attr("fmod", 0) and left.itemsize == 8:
        raise Refusal("fmod of 64 bits")  # releases of ONNX Runtime differ: some compute it in float64
    return [np.fmod(left, right) if node.attr("fmod", 0) else np.mod(left, right)]


def _comparison(function: Callable[[Array, Array], Array]) -> Evaluation:
    def run(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
        left, right = _pair(node, arrays, limit)
        if left.dtype != np.bool_ and not _is_exact(left, floats=True):
            raise Refusal("not exact")
        return [function(left, right)]

    return run


def _logical(function: Callable[[Array, Array], Array]) -> Evaluation:
    def run(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
        left, right = _pair(node, arrays, limit)
        if left.dtype != np.bool_:
            raise Refusal("not booleans")
        return [function(left, right)]

    return run


def _not(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data = operand(arrays, 0)
    if data.dtype != np.bool_:
        raise Refusal("not booleans")
    return [~data]


def _unary(function: Callable[[Array], Array], *, integers: bool) -> Evaluation:
    def run(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
        data = operand(arrays, 0)
        if not _is_exact(data, floats=True) or (data.dtype.kind != "f" and not integers) or data.nbytes > limit:
            raise Refusal("not exact")
        return [function(data)]

    return run


def _extreme(function: Callable[[Array, Array], Array]) -> Evaluation:
    def run(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
        operands = [operand(arrays, i) for i in range(len(arrays))]
        result = operands[0]
        if not all(_is_exact(a, floats=False) and a.dtype == result.dtype for a in operands):
            raise Refusal("not exact")
        broadcast_bytes(operands, limit)
        for a in operands[1:]:
            result = function(result, a)
        return [result]

    return run


def _where(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    condition, left, right = (operand(arrays, i) for i in range(3))
    if condition.dtype != np.bool_ or left.dtype != right.dtype:
        raise Refusal("operands of two types")
    broadcast_bytes([left, condition, right], limit)
    result = np.where(condition, left, right)
    if left.dtype.kind not in "biu" and np.any((result == 0) & np.signbit(result)):
        raise Refusal("the runtime loses the sign of some zeros")
    return [result]


def _cast(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
    data = operand(arrays, 0)
    code = node.attr("to")
    dtype = DType.from_code(code) if isinstance(code, int) else DType.UNKNOWN
    if dtype.bits < 8 or data.size * dtype.numpy.itemsize > limit:
        raise Refusal("packed, unknown or too large")
    if data.dtype == dtype.numpy:
        return [data]
    if not _is_exact_cast(data, dtype.numpy):
        raise Refusal("rounding is the runtime's")
    return [data.astype(dtype.numpy)]


def _is_exact_cast(data: Array, target: np.dtype[np.generic]) -> bool:
    """True when a cast gives the same on every machine: no rounding but from float64 to float32, no overflow."""
    plain = [np.bool_, np.float32, np.float64, *(np.dtype(c) for c in "bhilqBHILQ")]
    if data.dtype not in plain or target not in plain:
        return False
    if data.dtype.kind == "f" and target.kind in "iu":
        limit = 2.0 ** (8 * target.itemsize - 1)
        return target.kind == "i" and target.itemsize >= 4 and bool(np.all(np.abs(data) < limit))
    if data.dtype.kind in "iu" and target.kind == "f":
        exact = 1 << (24 if target.itemsize == 4 else 53)
        return data.size == 0 or (int(data.max()) <= exact and int(data.min()) >= -exact)
    return True


# Reductions --------------------------------------------------------------------------------------


def _is_small(function: np.ufunc, data: Array) -> bool:
    """True when no order of steps leaves the numbers that float32 (for int64: float64) holds exactly.

    ONNX Runtime sums ``int32`` in floating point; a sum that does not fit is not what wrapping around gives.
    """
    magnitudes = np.abs(data.astype(np.float64))
    bound = np.prod(np.maximum(magnitudes, 1)) if function is np.multiply else np.sum(magnitudes)
    return bool(bound < (1 << 24 if data.dtype == np.int32 else 1 << 53)) or function in (np.maximum, np.minimum)


def _reduction(function: np.ufunc) -> Evaluation:
    def run(node: Node, arrays: Arrays, limit: int) -> Sequence[Array]:
        data = operand(arrays, 0)
        axes = movement.int_list(node, arrays, "axes", 1)
        if data.dtype not in (np.int32, np.int64) or data.size == 0 or not _is_small(function, data):
            raise Refusal("not exact, or nothing to reduce")
        if not axes and node.attr("noop_with_empty_axes", 0):
            return [data]
        chosen = tuple(dict.fromkeys(movement.axis_of(a, data.ndim) for a in axes)) if axes else None
        keep = bool(node.attr("keepdims", 1))
        dtype = None if function in (np.maximum, np.minimum) else data.dtype
        return [function.reduce(data, axis=chosen, dtype=dtype, keepdims=keep)]

    return run


EVALUATIONS: dict[str, Evaluation] = {
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _divide,
    "Mod": _modulo,
    "Equal": _comparison(np.equal),
    "Less": _comparison(np.less),
    "Greater": _comparison(np.greater),
    "LessOrEqual": _comparison(np.less_equal),
    "GreaterOrEqual": _comparison(np.greater_equal),
    "And": _logical(np.logical_and),
    "Or": _logical(np.logical_or),
    "Xor": _logical(np.logical_xor),
    "Not": _not,
    "Neg": _unary(np.negative, integers=True),
    "Abs": _unary(np.abs, integers=True),
    "Sqrt": _unary(np.sqrt, integers=False),
    "Floor": _unary(np.floor, integers=False),
    "Ceil": _unary(np.ceil, integers=False),
    "Max": _extreme(np.maximum),
    "Min": _extreme(np.minimum),
    "Where": _where,
    "Cast": _cast,
    "ReduceSum": _reduction(np.add),
    "ReduceProd": _reduction(np.multiply),
    "ReduceMax": _reduction(np.maximum),
    "ReduceMin": _reduction(np.minimum),
    **movement.EVALUATIONS,
}
"""What can be evaluated, by operator of the default domain."""

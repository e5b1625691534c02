"""Cliffs in the model's data: element types, weights, and what the file claims about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler.analysis.cliffs import Entries, Scene
from compiler.analysis.patterns import producer
from compiler.ir.constant import Array, Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Node
from compiler.ir.schema import operator_names
from compiler.ir.sidefile import is_missing
from compiler.ir.types import TensorType, Type, dtype_of

ENTRIES = Entries()

_PIECE = 1 << 18
"""Bytes that are scanned at a time, so that the scratch buffer stays in the cache."""

_SCANNED = 4 << 30
"""Bytes of weights that are read at most."""

_BITS: dict[DType, tuple[Any, int]] = {DType.F32: (np.uint32, 23), DType.F64: (np.uint64, 52)}
"""Element type → unsigned type of the same width, bits of the mantissa."""


@ENTRIES.whole(
    name="denormal weights",
    why="each multiplication with a number below 1.2e-38 takes a hundred cycles: models became 10 to 30 times slower",
    do="ampc compile sets them to zero (flush-denormals); session.set_denormal_as_zero = 1 does so at run time",
)
def _denormals(scene: Scene) -> Iterator[str]:
    left = _SCANNED
    for graph in scene.model.graph.all_graphs():
        for value in graph.constants:
            constant = value.constant
            if constant is None or constant.dtype not in _BITS or constant.nbytes > left:
                continue
            if not constant.is_readable or is_missing(constant):
                continue
            left -= constant.nbytes
            count = count_denormals(constant)
            if count:
                yield f"%{value.name}: {count} of {constant.size}"


def count_denormals(constant: Constant) -> int:
    """Return the number of denormals of an f32 or f64 constant; most pieces take two operations."""
    unsigned, mantissa = _BITS[constant.dtype]
    bits = constant.array().reshape(-1).view(unsigned)
    step = _PIECE // bits.itemsize
    normal = unsigned(1 << (mantissa + 1))
    scratch: Array = np.empty(min(step, bits.size), unsigned)
    count = 0
    for start in range(0, bits.size, step):
        piece = bits[start : start + step]
        doubled = np.add(piece, piece, out=scratch[: piece.size])  # drops the sign
        if doubled.min() < normal:
            count += int(np.count_nonzero((doubled != 0) & (doubled < normal)))
    return count


@ENTRIES.whole(
    name="initializers that callers may override",
    why="they are inputs with defaults, so nothing that depends on them can be folded or packed",
    do="remove them from the graph's inputs (keep_initializers_as_inputs=False when exporting)",
)
def _overridable(scene: Scene) -> Iterator[str]:
    yield from (f"%{v.name}: {v.type}" for v in scene.model.graph.inputs if v.default is not None)


@ENTRIES.whole(
    name="value_info that contradicts the graph",
    why="the file claims other types than the operators give; tools that believe it break the model",
    do="export again, or delete value_info: ampc does not read it",
)
def _stale(scene: Scene) -> Iterator[str]:
    for value, declared in scene.declared.items():
        if _contradicts(declared, value.type):
            yield f"%{value.name}: claimed {declared}, is {value.type}"


def _contradicts(declared: Type, inferred: Type) -> bool:
    said, found = dtype_of(declared), dtype_of(inferred)
    if said.code and found.code and said is not found:
        return True
    if not isinstance(declared, TensorType) or not isinstance(inferred, TensorType):
        return False
    if len(declared.shape) != len(inferred.shape):
        return True
    pairs = zip(declared.shape, inferred.shape, strict=True)
    return any(isinstance(d, int) and isinstance(i, int) and d != i for d, i in pairs)


_COMPUTES = operator_names("""
        MatMul Gemm Conv ConvTranspose Add Sub Mul Div Pow Sqrt Exp Softmax LayerNormalization Relu Sigmoid Tanh Erf
        ReduceMean ReduceSum LSTM GRU Einsum
""")


@ENTRIES.at(
    *_COMPUTES,
    name="arithmetic in f64",
    why="it moves twice the bytes and does half the operations of f32 at a time",
    do="export in f32, unless the model needs the precision",
)
def _double(node: Node, scene: Scene) -> str | None:
    big = node.output.rank is None or node.output.rank > 0
    return "" if node.output.dtype is DType.F64 and big else None


def _converts_floats(node: Node | None) -> bool:
    """True for a conversion between different floating-point types."""
    if node is None or not node.is_op("Cast"):
        return False
    source = node.input(0)
    if source is None or source.dtype is node.output.dtype:
        return False
    return source.dtype.is_float and node.output.dtype.is_float


@ENTRIES.at(
    name="islands between casts",
    why="a few nodes compute in another float type than all around them; the two casts often cost more than they save",
    do="let them compute in the type around them, or widen the island",
)
def _island(node: Node, scene: Scene) -> str | None:
    if not node.outputs or node.is_op("Cast") or not node.output.dtype.is_float:
        return None
    made = [i.node for i in node.inputs if i is not None and i.constant is None and i.dtype.is_float]
    users = node.output.users()
    if not made or not users or node.output.is_output:
        return None
    inside = all(_converts_floats(m) for m in made) and all(_converts_floats(u) for u in users)
    outer = producer(made[0], 0) if made[0] is not None else None
    return f"in {node.output.dtype}" if inside and outer is not users[0] else None

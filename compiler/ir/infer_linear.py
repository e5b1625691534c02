"""Inference for matrix products, with and without quantization, and for ``Einsum``."""

from __future__ import annotations

from collections import Counter

from compiler.ir.dims import Dim
from compiler.ir.dtype import DType
from compiler.ir.graph import Node
from compiler.ir.infer_elementwise import first_dtype
from compiler.ir.infer_rules import (
    MICROSOFT,
    Contradiction,
    Scope,
    Types,
    dtype_at,
    dtype_attribute,
    integer,
    operand,
    rule,
    shape_of,
    tensor,
    text,
    unify,
)
from compiler.ir.types import Shape


def matmul_shape(left: Shape | None, right: Shape | None, scope: Scope) -> Shape | None:
    """Return the shape of a matrix product as numpy defines it; raises ``Contradiction``."""
    if left is None or right is None:
        return None
    if not left or not right:
        raise Contradiction("a scalar in a matrix product")
    unify(left[-1], right[-2] if len(right) > 1 else right[0])
    batch = scope.broadcast(left[:-2], right[:-2])
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else ()
    return (*batch, *rows, *columns)


@rule("MatMul")
def matmul(node: Node, scope: Scope) -> Types:
    """Multiply matrices, broadcasting the batch dims."""
    return tensor(first_dtype(node, 0, 1), matmul_shape(operand(node, 0).shape, operand(node, 1).shape, scope))


@rule("MatMulInteger")
def matmul_integer(node: Node, scope: Scope) -> Types:
    """Multiply matrices of bytes into 32-bit integers."""
    return tensor(DType.I32, matmul_shape(operand(node, 0).shape, operand(node, 1).shape, scope))


@rule("MatMulInteger16", domain=MICROSOFT)
def matmul_integer16(node: Node, scope: Scope) -> Types:
    """Multiply matrices of 16-bit integers into 32-bit ones."""
    return matmul_integer(node, scope)


@rule("QLinearMatMul")
def quantized_matmul(node: Node, scope: Scope) -> Types:
    """Multiply quantized matrices; the output's zero point gives the element type."""
    return tensor(dtype_at(node, 7), matmul_shape(shape_of(node, 0), shape_of(node, 3), scope))


@rule("MatMulIntegerToFloat", "DynamicQuantizeMatMul", domain=MICROSOFT)
def matmul_to_float(node: Node, scope: Scope) -> Types:
    """Multiply bytes and scale; the scale of ``A`` (or ``A`` itself) gives the element type."""
    dtype = first_dtype(node, 2) if node.op == "MatMulIntegerToFloat" else first_dtype(node, 0)
    return tensor(dtype, matmul_shape(shape_of(node, 0), shape_of(node, 1), scope))


@rule("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", domain=MICROSOFT)
def fused_matmul(node: Node, scope: Scope) -> Types:
    """Multiply matrices that may be transposed first, or have a leading batch dim moved to the end."""
    dtype = first_dtype(node, 0, 1)
    if integer(node, "transBatchA", 0) or integer(node, "transBatchB", 0):
        rank = max(len(operand(node, i).shape or ()) for i in (0, 1))
        return tensor(dtype, scope.fresh_shape(rank) if operand(node, 0).shape and operand(node, 1).shape else None)
    left = _swapped(operand(node, 0).shape, integer(node, "transA", 0))
    right = _swapped(operand(node, 1).shape, integer(node, "transB", 0))
    return tensor(dtype, matmul_shape(left, right, scope))


def _swapped(shape: Shape | None, swap: int) -> Shape | None:
    if shape is None or not swap or len(shape) < 2:
        return shape
    return (*shape[:-2], shape[-1], shape[-2])


@rule("Gemm")
def gemm(node: Node, scope: Scope) -> Types:
    """Multiply two matrices that may be transposed."""
    return tensor(first_dtype(node, 0, 1, 2), _gemm_shape(node, 1, scope))


@rule("FusedGemm", "GemmFastGelu", domain=MICROSOFT)
def fused_gemm(node: Node, scope: Scope) -> Types:
    """Multiply two matrices and apply an activation."""
    return gemm(node, scope)


@rule("QGemm", domain=MICROSOFT)
def quantized_gemm(node: Node, scope: Scope) -> Types:
    """Multiply quantized matrices; with an output scale the output is quantized, without it is float."""
    dtype = dtype_at(node, 8) if node.input(8) is not None else DType.F32
    return tensor(dtype, _gemm_shape(node, 3, scope))


def _gemm_shape(node: Node, right_index: int, scope: Scope) -> Shape:
    rows, inner = _gemm_sides(operand(node, 0).shape, integer(node, "transA", 0), scope)
    deep, columns = _gemm_sides(operand(node, right_index).shape, integer(node, "transB", 0), scope)
    unify(inner, deep)
    return (rows, columns)


def _gemm_sides(shape: Shape | None, swap: int, scope: Scope) -> tuple[Dim, Dim]:
    if shape is None or len(shape) != 2:  # ONNX Runtime takes a vector for a matrix of one row
        return scope.fresh(), scope.fresh()
    return (shape[1], shape[0]) if swap else (shape[0], shape[1])


@rule("MatMulNBits", "MatMulBnb4", "MatMulFpQ4", domain=MICROSOFT)
def matmul_packed(node: Node, scope: Scope) -> Types:
    """Multiply by a packed ``K x N`` matrix whose size the attributes tell."""
    data = operand(node, 0)
    if not data.shape or node.op == "MatMulFpQ4":
        return tensor(data.dtype, None)
    inner, columns = integer(node, "K", -1), integer(node, "N", -1)
    forward = integer(node, "transB", 1) != 0
    return tensor(data.dtype, (*data.shape[:-1], columns if forward else inner))


@rule("GemmFloat8", domain=MICROSOFT)
def gemm_float8(node: Node, scope: Scope) -> Types:
    """Multiply two matrices of 8-bit floats."""
    return tensor(dtype_attribute(node, "dtype", DType.F32), _gemm_shape(node, 1, scope))


@rule("Einsum")
def einsum(node: Node, scope: Scope) -> Types:
    """Read the output's labels from the equation."""
    count = len(node.inputs)
    dtype = first_dtype(node, *range(count))
    equation = text(node, "equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    labels = terms.split(",")
    shapes = [operand(node, i).shape for i in range(count)]
    if len(labels) != count:
        raise Contradiction("as many terms as operands")
    known = [s for s in shapes if s is not None]
    if len(known) != count:
        return tensor(dtype, scope.fresh_shape(len(result)) if arrow and "." not in result else None)
    dims, ellipsis = _einsum_dims(labels, known, scope)
    if not arrow:
        counts = Counter(c for term in labels for c in term if c != ".")
        result = "..." * ("." in terms) + "".join(sorted(c for c, n in counts.items() if n == 1))
    before, dots, after = result.partition("...")
    return tensor(dtype, (*(dims[c] for c in before), *(ellipsis if dots else ()), *(dims[c] for c in after)))


def _einsum_dims(labels: list[str], shapes: list[Shape], scope: Scope) -> tuple[dict[str, Dim], Shape]:
    """Return the dim of each label and the dims that the ellipsis stands for."""
    dims: dict[str, Dim] = {}
    ellipsis: Shape = ()
    for term, shape in zip(labels, shapes, strict=True):
        before, dots, after = term.partition("...")
        hidden = len(shape) - len(before) - len(after)
        if hidden < 0 or (hidden and not dots):
            raise Contradiction("a term for another rank")
        if dots:
            ellipsis = scope.broadcast(ellipsis, shape[len(before) : len(before) + hidden])
        named = (*shape[: len(before)], *shape[len(before) + hidden :])
        for label, dim in zip(before + after, named, strict=True):
            dims[label] = scope.broadcast_dim(dims[label], dim) if label in dims else dim
    return dims, ellipsis


@rule("Det")
def determinant(node: Node, scope: Scope) -> Types:
    """Drop the two dims of the matrices."""
    shape = operand(node, 0).shape
    return tensor(dtype_at(node, 0), None if shape is None else shape[:-2])

"""Inference for reductions, selections whose size depends on data, and quantization."""

from __future__ import annotations

from compiler.ir.dims import Dim
from compiler.ir.dtype import DType
from compiler.ir.facts import known_scalar
from compiler.ir.graph import Node
from compiler.ir.infer_elementwise import first_dtype
from compiler.ir.infer_rules import (
    MICROSOFT,
    Contradiction,
    Scope,
    Types,
    axis_index,
    axis_indices,
    dtype_at,
    dtype_attribute,
    integer,
    integers,
    operand,
    rule,
    shape_of,
    static_list,
    tensor,
    with_dim,
)
from compiler.ir.types import Shape, TensorType


@rule(
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
def reduction(node: Node, scope: Scope) -> Types:
    """Drop the named axes, or make them 1; without axes reduce all, unless told to do nothing."""
    data = operand(node, 0)
    keep = integer(node, "keepdims", 1) != 0
    given = "axes" in node.attributes or node.input(1) is not None
    axes = static_list(node, "axes", 1) if given else ()
    if axes == () and integer(node, "noop_with_empty_axes", 0):
        return data.type
    if data.shape is None:
        return tensor(data.dtype, () if axes == () and not keep else None)
    if axes is None:
        return tensor(data.dtype, scope.fresh_shape(len(data.shape)) if keep else None)
    return tensor(data.dtype, _reduced(data.shape, axes or tuple(range(len(data.shape))), keep))


def _reduced(shape: Shape, axes: tuple[int, ...], keep: bool) -> Shape:
    gone = set(axis_indices(axes, len(shape)))
    if keep:
        return tuple(1 if i in gone else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in gone)


@rule("ReduceSumInteger", domain=MICROSOFT)
def reduce_sum_integer(node: Node, scope: Scope) -> Types:
    """Sum bytes into 32-bit integers."""
    shape = shape_of(node, 0)
    axes = integers(node, "axes")
    known = shape is not None and axes is not None
    return tensor(DType.I32, _reduced(shape or (), axes or (), integer(node, "keepdims", 1) != 0) if known else None)


@rule("ArgMax", "ArgMin")
def arg_extreme(node: Node, scope: Scope) -> Types:
    """Drop the axis, or make it 1."""
    shape = operand(node, 0).shape
    axes = (integer(node, "axis", 0),)
    keep = integer(node, "keepdims", 1) != 0
    return tensor(DType.I64, None if shape is None else _reduced(shape, axes, keep))


@rule("TopK")
def top_k(node: Node, scope: Scope) -> Types:
    """Give the axis ``k`` elements."""
    data = operand(node, 0)
    if data.shape is None:
        return [tensor(data.dtype, None), tensor(DType.I64, None)]
    k: Dim | None = integer(node, "k", 0) if "k" in node.attributes else known_scalar(node.input(1))
    axis = axis_index(integer(node, "axis", -1), len(data.shape))
    shape = with_dim(data.shape, axis, scope.fresh() if k is None else k)
    return [tensor(data.dtype, shape), tensor(DType.I64, shape)]


@rule("OneHot")
def one_hot(node: Node, scope: Scope) -> Types:
    """Insert an axis of ``depth`` elements."""
    shape = operand(node, 0).shape
    dtype = dtype_at(node, 2)
    if shape is None:
        return tensor(dtype, None)
    axis = axis_index(integer(node, "axis", -1), len(shape) + 1)
    depth = known_scalar(node.input(1))
    return tensor(dtype, (*shape[:axis], scope.fresh() if depth is None else depth, *shape[axis:]))


@rule("NonZero")
def non_zero(node: Node, scope: Scope) -> Types:
    """Give an index for each axis (one for a scalar) of each element that is not zero."""
    rank = operand(node, 0).rank
    return TensorType(DType.I64, (rank or scope.fresh(), scope.fresh()))


@rule("Compress")
def compress(node: Node, scope: Scope) -> Types:
    """Keep some slices of the axis; without axis, some elements."""
    data = operand(node, 0)
    if "axis" not in node.attributes:
        return tensor(data.dtype, (scope.fresh(),))
    if data.shape is None:
        return tensor(data.dtype, None)
    axis = axis_index(integer(node, "axis", 0), len(data.shape))
    return tensor(data.dtype, with_dim(data.shape, axis, scope.fresh()))


@rule("Unique")
def unique(node: Node, scope: Scope) -> Types:
    """Give the distinct slices, and vectors of indices."""
    data = operand(node, 0)
    count = scope.fresh()
    shape: Shape | None = (count,)
    if "axis" in node.attributes:
        axis = axis_index(integer(node, "axis", 0), len(data.shape)) if data.shape is not None else 0
        shape = None if data.shape is None else with_dim(data.shape, axis, count)
    chosen = TensorType(DType.I64, (count,))
    return [tensor(data.dtype, shape), chosen, TensorType(DType.I64, (scope.fresh(),)), chosen]


@rule("NonMaxSuppression")
def non_max_suppression(node: Node, scope: Scope) -> Types:
    """Give batch, class and box for each selected box."""
    return TensorType(DType.I64, (scope.fresh(), 3))


@rule("SequenceLength")
def sequence_length(node: Node, scope: Scope) -> Types:
    """Give a scalar."""
    return TensorType(DType.I64, ())


@rule("RandomNormal", "RandomUniform")
def random(node: Node, scope: Scope) -> Types:
    """Read the shape from the attribute."""
    return tensor(dtype_attribute(node, "dtype", DType.F32), integers(node, "shape"))


@rule("Multinomial")
def multinomial(node: Node, scope: Scope) -> Types:
    """Draw ``sample_size`` indices for each row."""
    shape = operand(node, 0).shape
    rows: Dim = shape[0] if shape is not None and len(shape) == 2 else scope.fresh()
    return TensorType(dtype_attribute(node, "dtype", DType.I32), (rows, integer(node, "sample_size", 1)))


# Quantization ------------------------------------------------------------------------------------


@rule("QuantizeLinear")
@rule("QuantizeLinear", domain=MICROSOFT)
def quantize(node: Node, scope: Scope) -> Types:
    """Keep the shape; zero point or attribute give the element type, or else it is ``u8``."""
    stated = dtype_attribute(node, "output_dtype", DType.U8)
    dtype = dtype_at(node, 2) if node.input(2) is not None else stated
    return tensor(dtype, operand(node, 0).shape)


@rule("DequantizeLinear")
@rule("DequantizeLinear", domain=MICROSOFT)
def dequantize(node: Node, scope: Scope) -> Types:
    """Keep the shape; the scale gives the element type."""
    return tensor(dtype_attribute(node, "output_dtype", first_dtype(node, 1)), operand(node, 0).shape)


@rule("DynamicQuantizeLinear")
def dynamic_quantize(node: Node, scope: Scope) -> Types:
    """Give bytes of the same shape, and scalars."""
    return [tensor(DType.U8, operand(node, 0).shape), TensorType(DType.F32, ()), TensorType(DType.U8, ())]


@rule("QLinearConcat", domain=MICROSOFT)
def quantized_concat(node: Node, scope: Scope) -> Types:
    """Concatenate every third operand from the third on; the output's zero point gives the element type."""
    from compiler.ir.infer_slicing import concat_shape

    shapes = [operand(node, i).shape for i in range(2, len(node.inputs), 3)]
    known = [s for s in shapes if s is not None]
    if not known or len(known) != len(shapes) or any(len(s) != len(known[0]) for s in known):
        return tensor(dtype_at(node, 1), None)
    axis = axis_index(integer(node, "axis", 0), len(known[0]))
    return tensor(dtype_at(node, 1), concat_shape(known, axis, scope))


@rule("QLinearReduceMean", domain=MICROSOFT)
def quantized_mean(node: Node, scope: Scope) -> Types:
    """Drop the named axes of quantized data, or make them 1."""
    shape, axes = operand(node, 0).shape, integers(node, "axes")
    keep = integer(node, "keepdims", 1) != 0
    if shape is None:
        return tensor(dtype_at(node, 0), None)
    return tensor(dtype_at(node, 0), _reduced(shape, axes or tuple(range(len(shape))), keep))


@rule("GatherBlockQuantized", domain=MICROSOFT)
def gather_quantized(node: Node, scope: Scope) -> Types:
    """Gather rows of packed data, unpack and scale them; the scales give the element type."""
    data, indices = operand(node, 0), operand(node, 1)
    if data.shape is None or indices.shape is None:
        return tensor(dtype_at(node, 2), None)
    if not data.shape:
        raise Contradiction("gathering from a scalar")
    return tensor(dtype_at(node, 2), scope.fresh_shape(len(data.shape) + len(indices.shape) - 1))

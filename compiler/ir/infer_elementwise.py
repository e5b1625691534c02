"""Inference for operators that work element by element, and for those that keep the shape of their input."""

from __future__ import annotations

from compiler.ir.dtype import DType
from compiler.ir.graph import Node
from compiler.ir.infer_rules import (
    MICROSOFT,
    Contradiction,
    Scope,
    Types,
    axis_index,
    dtype_at,
    dtype_attribute,
    integer,
    operand,
    rule,
    shape_of,
    tensor,
    type_of,
)
from compiler.ir.schema import operator_names
from compiler.ir.types import Shape, TensorType, Type, UnknownType, UnrankedType

SAME_TYPE = operator_names("""
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh CumProd CumSum Elu Erf Exp
    Floor Gelu HardSigmoid HardSwish Hardmax Identity LRN LeakyRelu Log LogSoftmax LpNormalization
    MeanVarianceNormalization Mish Neg Not Reciprocal Relu Round Scatter ScatterElements ScatterND Selu
    Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh TensorScatter
    ThresholdedRelu Trilu InstanceNormalization GroupNormalization ReverseSequence RotaryEmbedding
    Affine ImageScaler ParametricSoftplus Scale ScaledTanh MemcpyFromHost MemcpyToHost
""")
"""Operators whose only output has the type of their first input."""

MICROSOFT_SAME_TYPE = operator_names("""
    Gelu QuickGelu BiasGelu FastGelu RotaryEmbedding GemmaRotaryEmbedding QLinearSigmoid
    QLinearLeakyRelu QLinearSoftmax Inverse Trilu BiasSoftmax GroupNorm QOrderedGelu ScaledSiLU
    IsAllFinite SampleOp RMSNormRotary ComplexMul ComplexMulConj
""")


@rule(*SAME_TYPE)
def same_type(node: Node, scope: Scope) -> Types:
    """Give the output the type of the first input."""
    return operand(node, 0).type


_NOT_UNARY = frozenset({"IsAllFinite", "GemmaRotaryEmbedding", "RMSNormRotary", "ComplexMul", "ComplexMulConj"})


@rule(*(op for op in MICROSOFT_SAME_TYPE if op not in _NOT_UNARY), domain=MICROSOFT)
def same_type_microsoft(node: Node, scope: Scope) -> Types:
    """Give the output the type of the first input."""
    return operand(node, 0).type


@rule("IsInf", "IsNaN")
def predicate(node: Node, scope: Scope) -> Types:
    """Give a boolean for each element."""
    return _retyped(operand(node, 0).type, DType.BOOL)


def _retyped(type_: Type, dtype: DType) -> Type:
    return TensorType(dtype, type_.shape) if isinstance(type_, TensorType) else UnrankedType(dtype)


def broadcast_operands(node: Node, scope: Scope, count: int) -> Shape | None:
    """Return the shape that the first operands broadcast to, ``None`` when a rank is unknown."""
    shapes = []
    for i in range(count):
        shape = operand(node, i).shape
        if shape is None:
            return None
        shapes.append(shape)
    if not shapes:
        raise Contradiction("nothing to broadcast")
    return scope.broadcast(*shapes)


def _binary_shape(node: Node, scope: Scope) -> Shape | None:
    if len(node.inputs) != 2:
        raise Contradiction("a binary operator has two operands")
    if "broadcast" in node.attributes:  # one-way broadcasting of versions 1 to 6
        return shape_of(node, 0)
    return broadcast_operands(node, scope, 2)


def first_dtype(node: Node, *indices: int) -> DType:
    """Return the first element type that is known among operands that share it."""
    for i in indices:
        dtype = dtype_at(node, i)
        if dtype is not DType.UNKNOWN:
            return dtype
    return DType.UNKNOWN


@rule("Add", "Sub", "Mul", "Div", "Mod", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "PRelu")
def binary(node: Node, scope: Scope) -> Types:
    """Broadcast two operands of one element type."""
    return tensor(first_dtype(node, 0, 1), _binary_shape(node, scope))


@rule("Pow")
def power(node: Node, scope: Scope) -> Types:
    """Broadcast; the base gives the element type."""
    return tensor(dtype_at(node, 0), _binary_shape(node, scope))


@rule("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor")
def comparison(node: Node, scope: Scope) -> Types:
    """Broadcast; the result is boolean."""
    return tensor(DType.BOOL, _binary_shape(node, scope))


@rule("Max", "Min", "Sum", "Mean")
def variadic(node: Node, scope: Scope) -> Types:
    """Broadcast any number of operands of one element type."""
    count = len(node.inputs)
    return tensor(first_dtype(node, *range(count)), broadcast_operands(node, scope, count))


@rule("Where")
def where(node: Node, scope: Scope) -> Types:
    """Broadcast condition and both choices."""
    return tensor(first_dtype(node, 1, 2), broadcast_operands(node, scope, 3))


@rule("Cast")
def cast(node: Node, scope: Scope) -> Types:
    """Keep the shape and change the element type."""
    return _retyped(operand(node, 0).type, dtype_attribute(node, "to", DType.UNKNOWN))


@rule("CastLike")
def cast_like(node: Node, scope: Scope) -> Types:
    """Keep the shape and take the element type of the second operand."""
    return _retyped(operand(node, 0).type, dtype_at(node, 1))


@rule("Dropout")
def dropout(node: Node, scope: Scope) -> Types:
    """Keep the type; the mask is boolean since version 10."""
    data = operand(node, 0).type
    return [data, data if 0 < node.version < 10 else _retyped(data, DType.BOOL)]


@rule("Bernoulli", "RandomNormalLike", "RandomUniformLike", "EyeLike")
def like(node: Node, scope: Scope) -> Types:
    """Keep the shape; the attribute ``dtype`` gives the element type, or else the input."""
    data = operand(node, 0).type
    return _retyped(data, dtype_attribute(node, "dtype", dtype_at(node, 0)))


@rule("BatchNormalization")
def batch_normalization(node: Node, scope: Scope) -> Types:
    """Keep the input's type; the statistics have one element for each channel."""
    statistics = [type_of(node, 3), type_of(node, 4)] * 2
    return [operand(node, 0).type, *statistics]


def _statistics_shape(node: Node, index: int = 0) -> Shape | None:
    shape = shape_of(node, index)
    if shape is None:
        return None
    axis = axis_index(integer(node, "axis", -1), len(shape))
    return shape[:axis] + (1,) * (len(shape) - axis)


@rule("LayerNormalization")
def layer_normalization(node: Node, scope: Scope) -> Types:
    """Keep the type; mean and inverse deviation have 1 for the normalised dims."""
    shape = _statistics_shape(node)
    statistics = tensor(dtype_attribute(node, "stash_type", DType.F32), shape)
    return [operand(node, 0).type, statistics, statistics]


@rule("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(node: Node, scope: Scope) -> Types:
    """Keep the shape; the scale gives the element type."""
    dtype = first_dtype(node, 1, 0)
    return [_retyped(operand(node, 0).type, dtype), tensor(DType.F32, _statistics_shape(node))]


@rule("BitCast")
def bit_cast(node: Node, scope: Scope) -> Types:
    """Change the element type to one of the same width, which keeps the shape."""
    data = operand(node, 0).type
    dtype = dtype_attribute(node, "to", DType.UNKNOWN)
    if isinstance(data, UnknownType) or dtype.bits == 0 or dtype.bits != dtype_at(node, 0).bits:
        return UnrankedType(dtype)
    return _retyped(data, dtype)


# Operators of ONNX Runtime -----------------------------------------------------------------------


@rule("BiasAdd", "BiasSplitGelu", domain=MICROSOFT)
def bias_add(node: Node, scope: Scope) -> Types:
    """Keep the shape of ``X``, whose last dim ``BiasSplitGelu`` halves."""
    shape = operand(node, 0).shape
    if shape is None or node.op == "BiasAdd":
        return operand(node, 0).type
    return tensor(dtype_at(node, 0), (*shape[:-1], shape[-1] // 2))


@rule("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def quantized_binary(node: Node, scope: Scope) -> Types:
    """Broadcast ``A`` and ``B``, which are operands 0 and 3."""
    left, right = operand(node, 0).shape, operand(node, 3).shape
    shape = None if left is None or right is None else scope.broadcast(left, right)
    return tensor(first_dtype(node, 0, 3), shape)


@rule("QLinearWhere", domain=MICROSOFT)
def quantized_where(node: Node, scope: Scope) -> Types:
    """Broadcast condition, ``X`` and ``Y``, which are operands 0, 1 and 4."""
    shapes = [operand(node, i).shape for i in (0, 1, 4)]
    known = [s for s in shapes if s is not None]
    return tensor(first_dtype(node, 1, 4), scope.broadcast(*known) if len(known) == 3 else None)


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_normalization(node: Node, scope: Scope) -> Types:
    """Keep the type of the input, of which the last output is the sum with ``skip``."""
    data = operand(node, 0).type
    shape = shape_of(node, 0)
    statistics = tensor(DType.F32, None if not shape else (*shape[:-1], 1))
    return [data, statistics, statistics, data]

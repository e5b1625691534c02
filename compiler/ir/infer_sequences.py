"""Inference for sequences and optional values, and the join of types that control flow brings together."""

from __future__ import annotations

from compiler.ir.dims import Dim
from compiler.ir.dtype import DType
from compiler.ir.graph import Node
from compiler.ir.infer_rules import (
    Contradiction,
    Scope,
    Types,
    axis_index,
    dtype_attribute,
    integer,
    operand,
    rule,
    tensor,
    type_of,
    with_dim,
)
from compiler.ir.types import (
    UNKNOWN,
    OptionalType,
    SequenceType,
    Shape,
    TensorType,
    Type,
    UnrankedType,
)


def join(left: Type, right: Type, scope: Scope) -> Type:
    """Return a type that contains both: what differs becomes unknown."""
    if left == right:
        return left
    if isinstance(left, SequenceType) and isinstance(right, SequenceType):
        return SequenceType(join(left.element, right.element, scope))
    if isinstance(left, OptionalType) and isinstance(right, OptionalType):
        return OptionalType(join(left.element, right.element, scope))
    if not isinstance(left, TensorType | UnrankedType) or not isinstance(right, TensorType | UnrankedType):
        return UNKNOWN
    dtype = left.dtype if left.dtype is right.dtype else DType.UNKNOWN
    if isinstance(left, UnrankedType) or isinstance(right, UnrankedType) or len(left.shape) != len(right.shape):
        return UnrankedType(dtype)
    return TensorType(dtype, tuple(_join_dim(a, b, scope) for a, b in zip(left.shape, right.shape, strict=True)))


def _join_dim(left: Dim, right: Dim, scope: Scope) -> Dim:
    return left if left == right else scope.fresh()


def element_of(type_: Type) -> Type:
    """Return the type of a sequence's elements, unknown when it is no sequence."""
    return type_.element if isinstance(type_, SequenceType) else UNKNOWN


@rule("SequenceConstruct")
def sequence_construct(node: Node, scope: Scope) -> Types:
    """Give a sequence of what all operands are."""
    element = operand(node, 0).type
    for i in range(1, len(node.inputs)):
        element = join(element, operand(node, i).type, scope)
    return SequenceType(element)


@rule("SequenceEmpty")
def sequence_empty(node: Node, scope: Scope) -> Types:
    """Give a sequence whose elements have any rank."""
    return SequenceType(UnrankedType(dtype_attribute(node, "dtype", DType.F32)))


@rule("SequenceAt")
def sequence_at(node: Node, scope: Scope) -> Types:
    """Give an element; its dims may differ from those of other elements."""
    return _renamed(element_of(operand(node, 0).type), scope)


def _renamed(type_: Type, scope: Scope) -> Type:
    """Return the type with symbols replaced: two elements of a sequence need not agree in them."""
    if not isinstance(type_, TensorType):
        return type_
    return TensorType(type_.dtype, tuple(d if isinstance(d, int) else scope.fresh() for d in type_.shape))


@rule("SequenceInsert")
def sequence_insert(node: Node, scope: Scope) -> Types:
    """Give a sequence of what the elements and the new one are."""
    return SequenceType(join(element_of(operand(node, 0).type), operand(node, 1).type, scope))


@rule("SequenceErase")
def sequence_erase(node: Node, scope: Scope) -> Types:
    """Keep the type of the sequence."""
    return operand(node, 0).type


@rule("SplitToSequence")
def split_to_sequence(node: Node, scope: Scope) -> Types:
    """Give the axis of the elements an unknown dim; without ``split`` it is 1, or dropped."""
    data = operand(node, 0)
    if data.shape is None:
        return SequenceType(tensor(data.dtype, None))
    axis = axis_index(integer(node, "axis", 0), len(data.shape))
    if node.input(1) is not None:
        return SequenceType(tensor(data.dtype, with_dim(data.shape, axis, scope.fresh())))
    if integer(node, "keepdims", 1):
        return SequenceType(tensor(data.dtype, with_dim(data.shape, axis, 1)))
    return SequenceType(tensor(data.dtype, data.shape[:axis] + data.shape[axis + 1 :]))


@rule("ConcatFromSequence")
def concat_from_sequence(node: Node, scope: Scope) -> Types:
    """Join the elements along an axis, or along a new one."""
    element = element_of(operand(node, 0).type)
    if not isinstance(element, TensorType):
        return UnrankedType(element.dtype) if isinstance(element, UnrankedType) else UNKNOWN
    shape: Shape = tuple(d if isinstance(d, int) else scope.fresh() for d in element.shape)
    axis = integer(node, "axis", 0)
    if integer(node, "new_axis", 0):
        at = axis_index(axis, len(shape) + 1)
        return tensor(element.dtype, (*shape[:at], scope.fresh(), *shape[at:]))
    return tensor(element.dtype, with_dim(shape, axis_index(axis, len(shape)), scope.fresh()))


@rule("Optional")
def optional(node: Node, scope: Scope) -> Types:
    """Wrap the operand; without one, nothing is known of the element."""
    return OptionalType(type_of(node, 0))


@rule("OptionalGetElement")
def optional_get_element(node: Node, scope: Scope) -> Types:
    """Unwrap an optional value; other values stay as they are."""
    type_ = operand(node, 0).type
    return type_.element if isinstance(type_, OptionalType) else type_


@rule("OptionalHasElement")
def optional_has_element(node: Node, scope: Scope) -> Types:
    """Give a boolean scalar."""
    return TensorType(DType.BOOL, ())


def sliced(type_: Type, axis: int) -> Type:
    """Return the type of one slice along an axis; raises ``Contradiction`` when there is no such axis."""
    if not isinstance(type_, TensorType):
        return type_ if isinstance(type_, UnrankedType) else UNKNOWN
    if not type_.shape:
        raise Contradiction("a scalar has no slices")
    at = axis_index(axis, len(type_.shape))
    return TensorType(type_.dtype, type_.shape[:at] + type_.shape[at + 1 :])


def stacked(type_: Type, axis: int, count: Dim, *, exact: bool, scope: Scope) -> Type:
    """Return the type of ``count`` tensors stacked along an axis.

    Unless ``exact``, only rank and count are kept: of no tensors at all, ONNX Runtime makes up the other
    dims.
    """
    if not isinstance(type_, TensorType):
        return type_ if isinstance(type_, UnrankedType) else UNKNOWN
    dims = type_.shape if exact else scope.fresh_shape(len(type_.shape))
    at = axis_index(axis, len(dims) + 1)
    return TensorType(type_.dtype, (*dims[:at], count, *dims[at:]))

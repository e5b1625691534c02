"""Inference by the ONNX standard's own functions, for the operators that ampc has no rule for.

One node at a time: its operands' types are written as protobufs, the schema's inference function runs, and
its answer is read back.  Expressions travel as names and come back as themselves; names that the function
makes up become fresh symbols.  It costs some 50 µs, so operators that occur often have rules of their own.

Without such a function the element type still follows from the type variables that operands and outputs
share.
"""

from __future__ import annotations

from typing import Any

from compiler.ir.constant import Constant
from compiler.ir.dims import Dim, Expr
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Node
from compiler.ir.infer_rules import DIM_LIMIT, Scope
from compiler.ir.schema import Schema, node_schema
from compiler.ir.types import (
    UNKNOWN,
    OptionalType,
    SequenceType,
    SparseType,
    TensorType,
    Type,
    UnknownType,
    UnrankedType,
)

_DATA_LIMIT = 1024
"""Elements up to which a constant operand is handed to the inference function."""


def infer_by_standard(node: Node, scope: Scope) -> list[Type]:
    """Return the types that the node's schema gives its outputs; unknown ones where it gives none."""
    definition = node_schema(node)
    if definition is None or definition.deprecated:
        return [UNKNOWN] * len(node.outputs)
    inferred = _run(node, definition, scope)
    return [
        _dtype_only(node, definition, i) if isinstance(type_, UnknownType) else type_
        for i, type_ in enumerate(inferred)
    ]


def _run(node: Node, definition: Schema, scope: Scope) -> list[Type]:
    unknown: list[Type] = [UNKNOWN] * len(node.outputs)
    if not definition.source.has_type_and_shape_inference_function:
        return unknown
    if any(v is not None and isinstance(v.type, UnknownType) for v in node.inputs) or node.graphs():
        return unknown
    import onnx.shape_inference

    names: dict[str, Expr] = {}
    types = {f"i{i}": _to_proto(v.type, names) for i, v in enumerate(node.inputs) if v is not None}
    constants = [None if v is None else v.constant for v in node.inputs]
    data = {f"i{i}": _tensor(c) for i, c in enumerate(constants) if c is not None and _is_small(c)}
    try:
        found = onnx.shape_inference.infer_node_outputs(
            definition.source, _node_proto(node), types, data, opset_imports=_opsets(node)
        )
    except Exception:  # whatever the function trips over, nothing is known
        return unknown
    return [_from_proto(found[f"o{i}"], names, scope) if f"o{i}" in found else UNKNOWN for i in range(len(unknown))]


def _opsets(node: Node) -> list[Any]:
    import onnx

    definition = node_schema(node)
    newest = onnx.defs.onnx_opset_version()
    version = node.version or (definition.since_version if definition is not None else 0) or newest
    opsets = [onnx.helper.make_opsetid(node.domain, version)]
    return opsets if not node.domain else [*opsets, onnx.helper.make_opsetid("", newest)]


def _is_small(constant: Constant | None) -> bool:
    return constant is not None and constant.is_readable and constant.dtype.bits > 0 and constant.size <= _DATA_LIMIT


def _tensor(constant: Constant) -> Any:
    import onnx

    proto = onnx.TensorProto(data_type=constant.dtype.code, dims=constant.shape)
    proto.raw_data = bytes(constant.raw())
    return proto


def _node_proto(node: Node) -> Any:
    import onnx

    names = ["" if v is None else f"i{i}" for i, v in enumerate(node.inputs)]
    outputs = ["" if v.absent else f"o{i}" for i, v in enumerate(node.outputs)]
    proto = onnx.helper.make_node(node.op, names, outputs, domain=node.domain)
    for name, attr in node.attributes.items():
        made = _attribute_proto(name, attr)
        if made is not None:
            proto.attribute.append(made)
    return proto


_PLAIN_KINDS = {
    "int": "INT", "float": "FLOAT", "string": "STRING", "ints": "INTS", "floats": "FLOATS", "strings": "STRINGS",
}  # fmt: skip


def _attribute_proto(name: str, attr: Attr) -> Any:
    import onnx

    if attr.kind == "tensor":
        return onnx.helper.make_attribute(name, _tensor(attr.value)) if _is_small(attr.value) else None
    if attr.kind == "type":
        return onnx.helper.make_attribute(name, attr.value)
    if attr.kind not in _PLAIN_KINDS:
        return None
    kind = getattr(onnx.AttributeProto, _PLAIN_KINDS[attr.kind])
    return onnx.helper.make_attribute(name, attr.value, attr_type=kind)


def _to_proto(type_: Type, names: dict[str, Expr]) -> Any:
    import onnx

    proto = onnx.TypeProto()
    if isinstance(type_, SequenceType):
        proto.sequence_type.elem_type.CopyFrom(_to_proto(type_.element, names))
    elif isinstance(type_, OptionalType):
        proto.optional_type.elem_type.CopyFrom(_to_proto(type_.element, names))
    elif isinstance(type_, TensorType | UnrankedType | SparseType):
        target = proto.sparse_tensor_type if isinstance(type_, SparseType) else proto.tensor_type
        target.elem_type = type_.dtype.code
        if isinstance(type_, TensorType):
            target.shape.SetInParent()
            for dim in type_.shape:
                _add_dim(target.shape, dim, names)
    return proto


def _add_dim(shape: Any, dim: Dim, names: dict[str, Expr]) -> None:
    if isinstance(dim, int):
        shape.dim.add().dim_value = dim
        return
    name = f"ampc_{dim.text}"
    names[name] = dim
    shape.dim.add().dim_param = name


def _from_proto(proto: Any, names: dict[str, Expr], scope: Scope) -> Type:
    kind = proto.WhichOneof("value")
    if kind == "sequence_type":
        return SequenceType(_from_proto(proto.sequence_type.elem_type, names, scope))
    if kind == "optional_type":
        return OptionalType(_from_proto(proto.optional_type.elem_type, names, scope))
    if kind != "tensor_type":
        return UNKNOWN
    dtype = DType.from_code(proto.tensor_type.elem_type)
    if not proto.tensor_type.HasField("shape"):
        return UnrankedType(dtype)
    return TensorType(dtype, tuple(_from_dim(d, names, scope) for d in proto.tensor_type.shape.dim))


def _from_dim(dim: Any, names: dict[str, Expr], scope: Scope) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if 0 <= dim.dim_value < DIM_LIMIT else scope.fresh()
    return names.get(dim.dim_param) or scope.fresh()


def _dtype_only(node: Node, definition: Schema, index: int) -> Type:
    """Return a tensor of unknown rank when the type variable of an output tells its element type."""
    formal = definition.formal_output(index)
    if formal is None:
        return UNKNOWN
    constraint = definition.source.type_constraints
    texts = next((c.allowed_type_strs for c in constraint if c.type_param_str == formal.type_str), [formal.type_str])
    if not all(t.startswith("tensor(") for t in texts):
        return UNKNOWN
    allowed = definition.allowed(formal)
    if len(allowed) == 1:
        return UnrankedType(next(iter(allowed)))
    for i, value in enumerate(node.inputs):
        given = definition.formal_input(i)
        shared = given is not None and given.type_str == formal.type_str and given.homogeneous
        if shared and value is not None and value.dtype is not DType.UNKNOWN:
            return UnrankedType(value.dtype)
    return UnrankedType(DType.UNKNOWN)

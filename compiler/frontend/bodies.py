"""The standard's definitions of operators by others, as small models of the IR.

A definition is a template: its inputs are the operands that the node has, with their element types and ranks and fresh
dims, its outputs the results that the node has. Definitions that depend on the node (``Attention``) are made by the
schema for these types. Like any model they are lifted to the newest forms, so what they hold looks like what exporters
write. Templates are kept: ten thousand ``Swish`` of one type have one.

``opsets[""]`` of a template is the opset in which the standard wrote the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compiler.errors import AmpcError, UnsupportedError
from compiler.frontend.attributes import KINDS
from compiler.frontend.lift import lift
from compiler.frontend.load import load_model
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Model, Node, Value
from compiler.ir.infer import infer
from compiler.ir.schema import Schema, node_schema
from compiler.ir.types import TensorType, UnrankedType

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TypeProto

DEFINITION = "ampc.definition"
"""Domain of the function that stands for a definition while it is read."""

_CODES = {kind: code for code, (kind, _) in KINDS.items()}
_PLAIN = frozenset({"int", "float", "string", "ints", "floats", "strings"})
_IR_VERSION = 10

_RANK_DECIDES = frozenset({"Attention", "RotaryEmbedding"})
"""Operators whose definition depends on the ranks of their operands; they take an unknown rank for 4."""


class FunctionBodies:
    """Finds definitions; one for each compilation, since templates are kept."""

    def __init__(self, *, read: Callable[[ModelProto], Model] = load_model) -> None:
        """Start without templates; ``read`` turns a model into the IR."""
        self._read = read
        self._templates: dict[Any, Model | str] = {}

    def __call__(self, node: Node) -> Model | str:
        """Return the definition of a node, or why there is none."""
        key = (node.domain, node.op, node.version, _attribute_key(node), _operand_key(node), _result_key(node))
        found = self._templates.get(key)
        if found is None:
            found = self._templates[key] = self._make(node)
        return found

    def _make(self, node: Node) -> Model | str:
        schema = node_schema(node)
        if schema is None or not schema.has_function:
            return f"nothing defines {node.qualified}"
        reason = _why_unsuited(node)
        if reason:
            return f"the definition of {node.op} cannot be had: {reason}"
        try:
            model = self._read(_as_model(node, schema))
            lift(model)
            infer(model.graph)
            lift(model)
        except AmpcError as error:
            return f"the definition of {node.op} cannot be read: {error.what}"
        return model


def _attribute_key(node: Node) -> Any:
    return tuple(sorted((name, a.kind, str(a.value)) for name, a in node.attributes.items()))


def _operand_key(node: Node) -> Any:
    return tuple(None if v is None else (v.dtype, v.rank) for v in node.inputs)


def _result_key(node: Node) -> Any:
    return tuple(v.absent for v in node.outputs)


def _why_unsuited(node: Node) -> str:
    """Return why a node cannot be shown to its schema, ``""`` when it can."""
    for i, value in enumerate(node.inputs):
        if value is not None and (
            value.dtype is DType.UNKNOWN or not isinstance(value.type, TensorType | UnrankedType)
        ):
            return f"operand {i} is no tensor of a known type"
        if value is not None and value.rank is None and node.op in _RANK_DECIDES:
            return f"the rank of operand {i} is not known"
    kinds = [a.kind for a in node.attributes.values() if a.kind not in _PLAIN]
    return f"it has an attribute of kind {kinds[0]}" if kinds else ""


# The way through a model -------------------------------------------------------------------------


def _as_model(node: Node, schema: Schema) -> ModelProto:
    """Return a model that calls a node's definition as a function."""
    from onnx import helper

    call = _call(node, schema)
    function = _function(call, node, schema)
    version = next((int(o.version) for o in function.opset_import if not o.domain), schema.since_version)
    function.domain, function.name = call.domain, call.op_type = DEFINITION, "Definition"
    inputs = [
        helper.make_value_info(name, _type(value, i))
        for i, (name, value) in enumerate(zip(call.input, node.inputs, strict=True))
        if value is not None
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in call.output if name]
    graph = helper.make_graph([call], node.op, inputs, outputs)
    imports = [helper.make_opsetid("", version), helper.make_opsetid(DEFINITION, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION, functions=[function])


def _call(node: Node, schema: Schema) -> NodeProto:
    """Return the node as a protobuf, with every default written out: definitions refer to attributes by name."""
    from onnx import helper

    inputs = ["" if v is None else f"in{i}" for i, v in enumerate(node.inputs)]
    outputs = ["" if v.absent else f"out{i}" for i, v in enumerate(node.outputs)]
    call = helper.make_node(node.op, inputs, outputs, name="")
    given = dict(node.attributes)
    for name, spec in schema.attributes.items():
        if spec.default is not None and spec.kind in _PLAIN:
            given.setdefault(name, Attr(spec.kind, spec.default))
    call.attribute.extend(_attribute(name, attr) for name, attr in sorted(given.items()))
    return call


def _attribute(name: str, attr: Attr) -> AttributeProto:
    from onnx import helper

    value = list(attr.value) if attr.kind.endswith("s") else attr.value
    made: AttributeProto = helper.make_attribute(name, value, attr_type=_CODES[attr.kind])
    return made


def _function(call: NodeProto, node: Node, schema: Schema) -> FunctionProto:
    """Return the schema's definition of a call."""
    from onnx import FunctionProto

    if schema.source.has_function:
        data = schema.source.get_function_with_opset_version(node.version)
    else:
        types = [b"" if v is None else _type(v, i).SerializeToString() for i, v in enumerate(node.inputs)]
        versions = [v for v in schema.source.context_dependent_function_opset_versions if v <= node.version]
        data = schema.source.get_context_dependent_function_with_opset_version(
            max(versions), call.SerializeToString(), types
        )
    function = FunctionProto()
    function.ParseFromString(data)
    if not function.node:
        raise UnsupportedError(f"the schema of {node.op} makes none for these types")
    return function


def _type(value: Value, index: int) -> TypeProto:
    """Return the element type and the rank of an operand."""
    from onnx import helper

    dims = None if value.rank is None else [f"d{index}_{k}" for k in range(value.rank)]
    return helper.make_tensor_type_proto(value.dtype.code, dims)

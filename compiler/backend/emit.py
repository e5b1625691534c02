"""IR → ONNX: a ModelProto that says what the graph says, in one opset version, with the user's interface untouched.

Weights are not copied: the protobuf holds stubs, and a ``PayloadTable`` says what they stand for (``backend.write``
streams them).  ``to_proto`` gives a complete ModelProto for callers in memory.

``value_info`` is not written: runtimes infer it, and what is not there cannot go stale.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.backend.lower import Form, Plan, plan
from compiler.errors import UnsupportedError
from compiler.ir.constant import Constant
from compiler.ir.dims import Dim, is_fresh
from compiler.ir.dtype import DType
from compiler.ir.garbage import collection_paused
from compiler.ir.graph import Attr, Graph, Model, Node, Value
from compiler.ir.splice import PayloadTable
from compiler.ir.text_fields import readable_text
from compiler.ir.types import (
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    TensorType,
    Type,
    UnrankedType,
)
from compiler.ir.wire import DEPTH

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

_STUB_BYTES = 1024
"""Constants of at least this size are written as stubs."""

_KIND_CODES = {
    "float": (1, "f"), "int": (2, "i"), "string": (3, "s"), "tensor": (4, "t"), "graph": (5, "g"),
    "floats": (6, "floats"), "ints": (7, "ints"), "strings": (8, "strings"), "tensors": (9, "tensors"),
    "graphs": (10, "graphs"), "sparse": (11, "sparse_tensor"), "sparses": (12, "sparse_tensors"),
    "type": (13, "tp"), "types": (14, "type_protos"),
}  # fmt: skip

_DEEPEST = DEPTH // 3
"""Levels of nested graphs that protobuf can read: each takes three messages (node, attribute, graph)."""

OLDEST_IR = 4
"""IR version from which initializers need not be inputs."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the receiving runtime takes: bounds of the default domain's opset version, and of the IR version."""

    min_opset: int = 0
    max_opset: int = 10_000
    usual_opset: int = 10_000
    """Highest opset version that is emitted unless a node cannot be said in it."""
    max_ir: int = 10_000


def emit(model: Model, table: PayloadTable | None = None, *, limits: Limits | None = None) -> ModelProto:
    """Return the model as a protobuf whose big tensors are stubs of ``table``.

    Without a table nothing is a stub.  Raises ``UnsupportedError`` when no opset version within ``limits`` can say it.
    """
    bounds = limits or Limits()
    with collection_paused(), readable_text():
        chosen = plan(model, low=bounds.min_opset, high=bounds.max_opset, usual=bounds.usual_opset)
        return _Emitter(model, table, chosen, bounds).model()


def to_proto(model: Model, *, limits: Limits | None = None) -> ModelProto:
    """Return the model as a complete ModelProto; all weights are copied into it."""
    from compiler.backend.write import materialize

    table = payload_table(model)
    return materialize(emit(model, table, limits=limits), table)


def payload_table(model: Model) -> PayloadTable:
    """Return the table that a model must be emitted with: its file's, if it came from one."""
    return getattr(model.extra, "table", None) or PayloadTable()


class _Emitter:
    def __init__(self, model: Model, table: PayloadTable | None, chosen: Plan, limits: Limits) -> None:
        self.ir = model
        self.table = table
        self.version = chosen.version
        self.forms = chosen.forms
        self.limits = limits
        self.domains: dict[str, int] = {}

    def model(self) -> ModelProto:
        from onnx import ModelProto

        proto = ModelProto()
        source = getattr(self.ir.extra, "proto", None)
        if source is not None:
            _copy_header(source, proto)
        for f in self.ir.functions:
            proto.functions.add().CopyFrom(f)
        self.graph(self.ir.graph, proto.graph)
        for key, value in self.ir.metadata.items():
            proto.metadata_props.add(key=key, value=value)
        imports = dict(self.ir.opsets)
        if "" in imports or "" in self.domains:
            imports[""] = self.version
        for domain, version in self.domains.items():
            imports.setdefault(domain, version)
        for domain, version in imports.items():
            proto.opset_import.add(domain=domain, version=version)
        proto.ir_version = self.ir_version(imports)
        return proto

    def ir_version(self, imports: dict[str, int]) -> int:
        """The source's IR version, raised to what initializers and the opset need, within the runtime's limit."""
        from onnx import helper

        needed = OLDEST_IR
        known = [(d, v) for d, v in imports.items() if d in ("", "ai.onnx.ml") and v > 0]
        if known and imports.get("", 0) > self.ir.opsets.get("", 0):
            ids = [helper.make_opsetid(d, v) for d, v in known]
            needed = max(needed, int(helper.find_min_ir_version_for(ids, True)))
        return min(max(self.ir.ir_version, needed), max(self.limits.max_ir, OLDEST_IR))

    def graph(self, graph: Graph, proto: GraphProto, depth: int = 0) -> None:
        """Write a graph; ``depth`` is the number of graphs around it."""
        if depth > _DEEPEST:
            raise UnsupportedError(f"graphs are nested more than {_DEEPEST} levels deep, which no file can hold")
        source = graph.extra
        proto.name = graph.name
        if source is not None:
            if source.HasField("doc_string"):
                proto.doc_string = source.doc_string
            proto.quantization_annotation.extend(source.quantization_annotation)
            proto.metadata_props.extend(source.metadata_props)
        for value in graph.inputs:
            self.value_info(value, proto.input.add())
            if value.default is not None:
                self.tensor(value.name, value.default, proto.initializer.add())
        needed: set[Value] = set(graph.outputs)
        for node in graph.nodes():
            form = self.forms[node]
            self.node(node, form, proto.node.add(), depth)
            needed.update([v for v in form.inputs if v is not None and v.constant is not None])
        for value in graph.constants:
            if value in needed or any(n.graph is not graph for n, _ in value.uses):
                self.constant(value, proto)
        for index, value in enumerate(graph.outputs):
            self.output(value, index, source, proto.output.add())

    def output(self, value: Value, index: int, source: GraphProto | None, proto: ValueInfoProto) -> None:
        """Write the declaration of a graph output: the source's, where it has one of that name there."""
        if value.is_input and source is not None and index < len(source.output):
            declared = source.output[index]
            if declared.name == value.name:
                proto.CopyFrom(declared)
                return
        self.value_info(value, proto)

    def constant(self, value: Value, proto: GraphProto) -> None:
        constant = value.constant
        assert constant is not None
        if isinstance(value.type, SparseType):
            sparse = proto.sparse_initializer.add()
            sparse.CopyFrom(constant.opaque)
            sparse.values.name = value.name
        else:
            self.tensor(value.name, constant, proto.initializer.add())

    def tensor(self, name: str, constant: Constant, proto: TensorProto) -> None:
        if constant.opaque is not None:
            proto.CopyFrom(constant.opaque)
            proto.name = name
            return
        proto.name = name
        proto.data_type = constant.dtype.code
        proto.dims.extend(constant.shape)
        if constant.dtype is DType.STRING:
            proto.string_data.extend(s.encode() if isinstance(s, str) else bytes(s) for s in constant.array().flat)
        elif self.table is not None and constant.nbytes >= _STUB_BYTES:
            self.table.stub(proto, constant.raw())
        else:
            proto.raw_data = bytes(constant.raw())

    def node(self, node: Node, form: Form, proto: NodeProto, depth: int) -> None:
        """Write a node in a form; ``depth`` is that of its graph."""
        proto.op_type = form.op
        if node.name:
            proto.name = node.name
        if node.domain:
            proto.domain = node.domain
            if node.domain not in self.domains:
                self.domains[node.domain] = max(node.version, 1)
        elif "" not in self.domains:
            self.domains[""] = self.version
        proto.input.extend([v.name if v is not None else "" for v in form.inputs])
        if form.op == "Loop" or node.domain:
            proto.input.extend([""] * (_least_inputs(node) - len(form.inputs)))
        proto.output.extend([v.name for v in node.outputs])
        if form.attributes:
            for name, attr in form.attributes.items():
                self.attribute(name, attr, proto.attribute.add(), depth)
        if node.extra is not None:
            _copy_extras(node.extra, proto)

    def attribute(self, name: str, attr: Attr, proto: AttributeProto, depth: int) -> None:
        """Write an attribute of a node; ``depth`` is that of the node's graph."""
        code, field = _KIND_CODES[attr.kind]
        proto.name = name
        proto.type = code  # type: ignore[assignment]  # the enumeration's numbers
        kind, value = attr.kind, attr.value
        if kind in ("int", "float"):
            setattr(proto, field, value)
        elif kind in ("ints", "floats"):
            getattr(proto, field).extend(value)
        elif kind == "string":
            proto.s = _bytes(value)
        elif kind == "strings":
            proto.strings.extend(_bytes(v) for v in value)
        elif kind == "tensor":
            self.tensor(_tensor_name(value), value, proto.t)
        elif kind == "tensors":
            for t in value:
                self.tensor(_tensor_name(t), t, proto.tensors.add())
        elif kind == "graph":
            self.graph(value, proto.g, depth + 1)
        elif kind == "graphs":
            for g in value:
                self.graph(g, proto.graphs.add(), depth + 1)
        elif kind in ("sparse", "type"):
            getattr(proto, field).CopyFrom(value)
        else:
            getattr(proto, field).extend(value)

    def value_info(self, value: Value, proto: ValueInfoProto) -> None:
        if value.declared is not None:
            proto.CopyFrom(value.declared)
            proto.name = value.name
            return
        proto.name = value.name
        write_type(value.type, proto.type)


def _tensor_name(constant: Constant) -> str:
    return constant.opaque.name if constant.opaque is not None else ""


def _copy_header(source: ModelProto, proto: ModelProto) -> None:
    for field in ("producer_name", "producer_version", "domain", "doc_string"):
        if source.HasField(field):
            setattr(proto, field, getattr(source, field))
    if source.HasField("model_version"):
        proto.model_version = source.model_version
    if "configuration" in source.DESCRIPTOR.fields_by_name:
        proto.configuration.extend(source.configuration)


def _least_inputs(node: Node) -> int:
    """Return how many inputs to write: a ``Loop`` counts missing ones, and operators beyond the standard may."""
    if not node.domain:
        return 2
    return len(node.extra.input) if node.extra is not None and node.extra.op_type == node.op else 0


def _copy_extras(source: NodeProto, proto: NodeProto) -> None:
    if source.doc_string:
        proto.doc_string = source.doc_string
    if source.metadata_props:
        proto.metadata_props.extend(source.metadata_props)
    if source.overload:
        proto.overload = source.overload
    if _configurable() and source.device_configurations:
        proto.device_configurations.extend(source.device_configurations)
    documented = {a.name: a.doc_string for a in source.attribute if a.doc_string}
    if documented:
        for a in proto.attribute:
            if a.name in documented:
                a.doc_string = documented[a.name]


@functools.cache
def _configurable() -> bool:
    """Return whether the installed onnx knows device configurations."""
    from onnx import NodeProto

    return "device_configurations" in NodeProto.DESCRIPTOR.fields_by_name


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def write_type(type_: Type, proto: Any) -> None:
    """Write an IR type into a TypeProto; made-up symbols become dims without a name."""
    if isinstance(type_, UnrankedType):
        proto.tensor_type.elem_type = type_.dtype.code
    elif isinstance(type_, TensorType):
        proto.tensor_type.elem_type = type_.dtype.code
        _write_shape(type_.shape, proto.tensor_type.shape)
    elif isinstance(type_, SparseType):
        proto.sparse_tensor_type.elem_type = type_.dtype.code
        _write_shape(type_.shape, proto.sparse_tensor_type.shape)
    elif isinstance(type_, SequenceType):
        proto.sequence_type.elem_type.SetInParent()
        write_type(type_.element, proto.sequence_type.elem_type)
    elif isinstance(type_, OptionalType):
        proto.optional_type.elem_type.SetInParent()
        write_type(type_.element, proto.optional_type.elem_type)
    elif isinstance(type_, MapType):
        proto.map_type.key_type = type_.key.code
        write_type(type_.value, proto.map_type.value_type)


def _write_shape(shape: tuple[Dim, ...], proto: Any) -> None:
    proto.SetInParent()
    for dim in shape:
        d = proto.dim.add()
        if isinstance(dim, int):
            d.dim_value = dim
        elif not is_fresh(dim) and dim.is_symbol:
            d.dim_param = dim.terms[0][0][0][0]  # a symbol's only atom is its name

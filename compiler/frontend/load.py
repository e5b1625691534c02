"""ONNX → IR, without loss: the model as written, before any old operator form is lifted.

``load_model`` reads a file (mapped, weights stay there) or takes a ``ModelProto`` (which it does not change).  It checks
what everything later relies on (one definition for each name, no cycles, arity, data sizes), so that a malformed model
ends here with the name of the node.  Declared types of graph inputs are trusted, since the runtime enforces them;
``value_info`` and declared outputs are not, since nobody does.

``Constant`` nodes become constants.  Calls of model-local functions are inlined (``frontend.functions``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import ModelError, UnsupportedError
from compiler.frontend.files import ExternalFiles, open_regular
from compiler.frontend.order import in_order
from compiler.frontend.tensors import TensorReader, type_of
from compiler.frontend.wire import read_skeleton
from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Loc, Model, Node, Value
from compiler.ir.splice import PayloadTable
from compiler.ir.types import SparseType, TensorType

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

_KINDS = {
    1: ("float", "f"), 2: ("int", "i"), 3: ("string", "s"), 4: ("tensor", "t"), 5: ("graph", "g"),
    6: ("floats", "floats"), 7: ("ints", "ints"), 8: ("strings", "strings"), 9: ("tensors", "tensors"),
    10: ("graphs", "graphs"), 11: ("sparse", "sparse_tensor"), 12: ("sparses", "sparse_tensors"),
    13: ("type", "tp"), 14: ("types", "type_protos"),
}  # fmt: skip
"""AttributeProto.type → (kind in the IR, field of the protobuf)."""


@dataclass(slots=True)
class Source:
    """What the frontend hands to the backend untouched."""

    proto: ModelProto
    """The model that was read, tensors possibly as stubs."""
    table: PayloadTable | None = None
    """What the stubs stand for."""
    path: Path | None = None
    """The file, when the model came from one."""
    files: list[Path] = field(default_factory=list)
    """External data files that were opened."""
    overridable: list[str] = field(default_factory=list)
    """Initializers that are also graph inputs, so that callers may override them."""


def load_model(source: str | os.PathLike[str] | ModelProto, *, folder: Path | None = None) -> Model:
    """Load a model file or ModelProto into the IR; ``folder`` is where a ModelProto's external data lies.

    Raises ``InputError`` for what is no file to read, ``ModelError`` for a malformed or hostile model, and
    ``UnsupportedError`` for a model that is fine but more than the IR holds.
    """
    if not isinstance(source, str | os.PathLike):
        external = ExternalFiles(folder) if folder is not None else None
        return _Loader(TensorReader(None, external), Source(source)).model()
    path = Path(source)
    skeleton = read_skeleton(open_regular(path), where=str(path))
    external = ExternalFiles(path.absolute().parent, model=path.absolute())
    origin = Source(skeleton.model, skeleton.table, path)
    model = _Loader(TensorReader(skeleton.payload, external), origin).model()
    origin.files = external.paths()
    return model


class Scope:
    """Names that are visible: those of a graph and of the graphs around it."""

    __slots__ = ("names", "parent")

    def __init__(self, parent: Scope | None = None) -> None:
        self.names: dict[str, Value | None] = {}
        self.parent = parent

    def find(self, name: str) -> Value | None:
        """Return the innermost value of that name; raises ``KeyError``."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        raise KeyError(name)

    def sees(self, name: str) -> bool:
        """True when the name is visible here."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return True
            scope = scope.parent
        return False


class _Loader:
    def __init__(self, reader: TensorReader, source: Source) -> None:
        from compiler.frontend.functions import FunctionTable

        self.reader = reader
        self.source = source
        self.proto = source.proto
        self.result = Model(ir_version=int(self.proto.ir_version), extra=source)
        self.functions = FunctionTable(self)

    def model(self) -> Model:
        proto, model = self.proto, self.result
        if proto.training_info:
            raise ModelError(
                "the model carries training information",
                why="ampc compiles for inference; what training adds would be lost or wrong afterwards",
                hint="export the model for inference, or delete training_info",
            )
        if not proto.HasField("graph"):
            raise ModelError("the model has no graph", hint="is this an ONNX model, and all of it?")
        model.opsets = _opsets(proto)
        model.metadata = {p.key: p.value for p in proto.metadata_props}
        self._register_functions()
        graph = edit.new_graph(proto.graph.name, model)
        model.graph = graph
        self.fill(graph, proto.graph, Scope(), model.opsets)
        model.functions = self.functions.kept()
        return model

    def _register_functions(self) -> None:
        for f in self.proto.functions:
            self.functions.add(f)

    # Graphs --------------------------------------------------------------------------------------

    def fill(
        self, graph: Graph, proto: GraphProto, scope: Scope, opsets: dict[str, int], *, prefix: str = "", bindings: Any = None
    ) -> None:
        """Read inputs, initializers, nodes and outputs of a graph; ``prefix`` and ``bindings`` as for ``add``."""
        where = f"graph {proto.name!r}"
        graph.extra = proto
        initializers = self._initializers(proto, where)
        self._inputs(graph, proto, scope, initializers, where, prefix)
        for name, (constant, type_) in initializers.items():
            if constant is not None:
                self._define_constant(graph, scope, name, constant, where, type_, prefix)
        for node in in_order(proto, where):
            self.add(graph, node, scope, opsets, prefix=prefix, bindings=bindings)
        for info in proto.output:
            edit.add_output(graph, self._output(graph, info, scope, where))

    def _initializers(self, proto: GraphProto, where: str) -> dict[str, tuple[Constant | None, Any]]:
        found: dict[str, tuple[Constant | None, Any]] = {}
        for tensor in proto.initializer:
            if not tensor.name or tensor.name in found:
                raise ModelError(f"initializer {tensor.name!r} occurs twice or has no name", where=where)
            constant = self.reader.constant(tensor, where)
            found[tensor.name] = (constant, None)
        for sparse in proto.sparse_initializer:
            name = sparse.values.name
            if not name or name in found:
                raise ModelError(f"sparse initializer {name!r} occurs twice or has no name", where=where)
            if sparse.values.data_location == 1 or sparse.indices.data_location == 1:
                raise ModelError(f"sparse initializer {name!r} keeps its data in another file", where=where)
            dims = tuple(int(d) for d in sparse.dims)
            dtype = DType.from_code(sparse.values.data_type)
            found[name] = (Constant(dtype, dims, opaque=sparse), SparseType(dtype, dims))
        return found

    def _inputs(
        self, graph: Graph, proto: GraphProto, scope: Scope, initializers: dict[str, Any], where: str, prefix: str
    ) -> None:
        for info in proto.input:
            if not info.name or info.name in scope.names:
                raise ModelError(f"graph input {info.name!r} occurs twice or has no name", where=where)
            if info.name in initializers and (graph.owner is not None or self.result.ir_version < 4):
                continue  # a constant: before IR version 4 every initializer had to be listed as an input
            value = self._value(graph, scope, info.name, prefix)
            value.type = type_of(info.type, self.result)
            value.declared = info
            edit.add_input(graph, value)
            scope.names[info.name] = value
            if info.name in initializers:
                value.default = initializers[info.name][0]
                initializers[info.name] = (None, None)
                self.source.overridable.append(info.name)

    def _value(self, graph: Graph, scope: Scope, name: str, prefix: str = "") -> Value:
        """Make a value; a name that would hide one of an enclosing graph, or is a function's own, is replaced."""
        if prefix:
            return Value(self.result.fresh_name(prefix + name))
        if scope.parent is not None and scope.parent.sees(name):
            if graph.owner is not None and graph.owner.domain:
                raise UnsupportedError(
                    f"{name!r} in graph {graph.name!r} hides a name of an enclosing graph",
                    where=_describe(graph.owner),
                )
            return Value(self.result.fresh_name(name))
        return Value(self.result.claim(name))

    def _define_constant(
        self, graph: Graph, scope: Scope, name: str, constant: Constant, where: str, type_: Any, prefix: str
    ) -> None:
        if name in scope.names:
            raise ModelError(f"{name!r} is defined twice", where=where)
        value = self._value(graph, scope, name, prefix)
        value.type = type_ or TensorType(constant.dtype, constant.shape)
        scope.names[name] = edit.attach_constant(graph, value, constant)

    def _output(self, graph: Graph, info: Any, scope: Scope, where: str) -> Value:
        if not scope.sees(info.name):
            raise ModelError(
                f"graph output {info.name!r} is produced by nothing",
                where=where,
                hint="export the model again, or remove the output",
            )
        value = scope.find(info.name)
        if value is None or (value.graph is not graph and graph.owner is None):
            raise ModelError(f"graph output {info.name!r} is produced by nothing", where=where)
        if value.graph is not graph:
            raise UnsupportedError(f"output {info.name!r} of a nested graph belongs to an enclosing graph", where=where)
        if value.declared is None:
            value.declared = info
        return value

    # Nodes ---------------------------------------------------------------------------------------

    def add(
        self, graph: Graph, proto: NodeProto, scope: Scope, opsets: dict[str, int], *, prefix: str = "", bindings: Any = None
    ) -> None:
        """Append one node (or constant, or inlined call) to a graph.

        ``prefix`` goes before the names of nodes and values of inlined functions, ``bindings`` gives the attributes
        that the call passed.
        """
        domain = _domain(proto.domain)
        if self.functions.inlines(domain, proto.op_type, proto.overload):
            self.functions.inline(graph, proto, scope, opsets, prefix=prefix, bindings=bindings)
            return
        where = _where(proto, prefix)
        attributes = list(self._bound(proto, bindings, where))
        if proto.op_type == "Constant" and not domain and len(attributes) == 1 and len(proto.output) == 1:
            constant = self._constant_node(attributes[0], where)
            if constant is not None:
                self._define(graph, scope, proto.output[0], constant, where, prefix)
                return
        node = Node(
            proto.op_type,
            tuple(self._operand(name, scope, where) for name in _without_trailing(proto.input)),
            (),
            domain=domain,
            version=opsets.get(domain, 0),
            name=prefix + proto.name if proto.name else "",
        )
        if prefix:
            node.loc = Loc((prefix + (proto.name or proto.op_type),))
        node.extra = proto
        node.graph = graph  # nested graphs look for their owner's place while they are read
        node.attributes = {a.name: self._attribute(a, node, scope, opsets, where, prefix, bindings) for a in attributes}
        node.graph = None
        node.outputs = tuple(self._result(graph, scope, name, where, prefix) for name in proto.output)
        edit.attach(graph, node)

    def _define(self, graph: Graph, scope: Scope, name: str, constant: Constant, where: str, prefix: str) -> None:
        value = self._result(graph, scope, name, where, prefix)
        value.type = TensorType(constant.dtype, constant.shape)
        edit.attach_constant(graph, value, constant)

    def _operand(self, name: str, scope: Scope, where: str) -> Value | None:
        if not name:
            return None
        try:
            return scope.find(name)
        except KeyError:
            raise ModelError(
                f"{name!r} is read but never defined", where=where, hint="export the model again; the graph is broken"
            ) from None

    def _result(self, graph: Graph, scope: Scope, name: str, where: str, prefix: str) -> Value:
        if not name:
            return Value("")
        if name in scope.names:
            raise ModelError(f"{name!r} is defined twice", where=where, hint="every value needs a name of its own")
        value = self._value(graph, scope, name, prefix)
        value.graph = graph
        scope.names[name] = value
        return value

    def _bound(self, proto: NodeProto, bindings: Any, where: str) -> Any:
        for a in proto.attribute:
            if not a.ref_attr_name:
                yield a
            elif bindings is None:
                raise ModelError(f"attribute {a.name!r} refers to {a.ref_attr_name!r} outside of a function", where=where)
            elif (bound := bindings.get(a.ref_attr_name)) is not None:
                yield _renamed(bound, a.name)

    def _constant_node(self, a: AttributeProto, where: str) -> Constant | None:
        if a.name == "value" and _kind(a, where) == "tensor":
            return self.reader.constant(a.t, where)
        made = {
            "value_float": (lambda: a.f, DType.F32), "value_floats": (lambda: list(a.floats), DType.F32),
            "value_int": (lambda: a.i, DType.I64), "value_ints": (lambda: list(a.ints), DType.I64),
        }.get(a.name)  # fmt: skip
        return Constant.of(made[0](), made[1]) if made is not None else None

    def _attribute(
        self, a: AttributeProto, node: Node, scope: Scope, opsets: dict[str, int], where: str, prefix: str, bindings: Any
    ) -> Attr:
        kind = _kind(a, where)
        field_name = next(f for k, f in _KINDS.values() if k == kind)
        value = getattr(a, field_name)
        if kind in ("int", "float"):
            return Attr(kind, value)
        if kind in ("ints", "floats"):
            return Attr(kind, tuple(value))
        if kind == "string":
            return Attr(kind, _text(value))
        if kind == "strings":
            return Attr(kind, tuple(_text(v) for v in value))
        if kind == "tensor":
            return Attr(kind, self.reader.constant(value, where))
        if kind == "tensors":
            return Attr(kind, tuple(self.reader.constant(t, where) for t in value))
        if kind == "graph":
            return Attr(kind, self._nested(value, node, scope, opsets, prefix, bindings))
        if kind == "graphs":
            return Attr(kind, tuple(self._nested(g, node, scope, opsets, prefix, bindings) for g in value))
        return Attr(kind, tuple(value) if kind.endswith("s") and kind != "sparse" else value)

    def _nested(
        self, proto: GraphProto, owner: Node, scope: Scope, opsets: dict[str, int], prefix: str, bindings: Any
    ) -> Graph:
        if prefix and owner.domain:
            raise UnsupportedError(f"{owner.op} with a nested graph inside a function", where=_describe(owner))
        graph = edit.new_graph(proto.name, self.result, owner)
        self.fill(graph, proto, Scope(scope), opsets, prefix=prefix, bindings=bindings)
        return graph


def _opsets(proto: ModelProto) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = _domain(entry.domain)
        if found.get(domain, entry.version) != entry.version:
            raise UnsupportedError(f"domain {domain or 'ai.onnx'!r} is imported in two versions")
        found[domain] = int(entry.version)
    if "" not in found and proto.ir_version < 3:
        found[""] = 1
    return found


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _kind(a: AttributeProto, where: str) -> str:
    if a.type in _KINDS:
        return _KINDS[a.type][0]
    filled = [k for k, f in _KINDS.values() if (a.HasField(f) if not f.endswith("s") or f == "s" else len(getattr(a, f)))]
    if len(filled) != 1:
        raise ModelError(f"attribute {a.name!r} has no type", where=where)
    return filled[0]


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _renamed(a: AttributeProto, name: str) -> AttributeProto:
    if a.name == name:
        return a
    copy = type(a)()
    copy.CopyFrom(a)
    copy.name = name
    return copy


def _without_trailing(names: Any) -> list[str]:
    found = list(names)
    while found and not found[-1]:
        found.pop()
    return found


def _where(proto: NodeProto, prefix: str) -> str:
    first = next((o for o in proto.output if o), "")
    name = f" {prefix + proto.name!r}" if proto.name else (f" that makes {first!r}" if first else "")
    return f"node{name} ({proto.domain + '::' if proto.domain else ''}{proto.op_type})"


def _describe(node: Node) -> str:
    return f"node {node.name!r} ({node.qualified})"

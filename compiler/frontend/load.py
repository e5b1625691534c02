"""ONNX → IR, without loss: the model as written, before any old operator form is lifted.

``load_model`` reads a file (mapped, weights stay there) or takes a ``ModelProto`` (which it does not change).  It
checks what everything later relies on (one definition for each name, no cycles, data sizes), so that a malformed
model ends here with the name of the node.  Declared types of graph inputs are trusted, since the runtime enforces
them; ``value_info`` and declared outputs are not, since nobody does.

``Constant`` nodes become constants.  Calls of model-local functions are inlined (``frontend.functions``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import ModelError, UnsupportedError
from compiler.frontend.attributes import (
    GRAPH,
    GRAPHS,
    PLAIN,
    TENSOR,
    TENSORS,
    Bindings,
    bound,
    code_of,
    spelled_constant,
)
from compiler.frontend.files import ExternalFiles, open_regular
from compiler.frontend.functions import FunctionTable
from compiler.frontend.order import definitions, in_order
from compiler.frontend.scope import Place, Scope
from compiler.frontend.tensors import TensorReader, type_of, without_contradiction
from compiler.frontend.wire import read_skeleton
from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.garbage import collection_paused
from compiler.ir.graph import Attr, Graph, Loc, Model, Node, Value
from compiler.ir.splice import PayloadTable
from compiler.ir.text_fields import readable_text
from compiler.ir.types import SparseType, TensorType, Type, UnrankedType

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto


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


@dataclass(frozen=True, slots=True)
class Frame:
    """What the nodes of one graph, or of one inlined call, have in common."""

    graph: Graph
    """Where the nodes go."""
    scope: Scope
    """What they see."""
    opsets: dict[str, int]
    """Opset imports that give them their meaning."""
    prefix: str = ""
    """What goes before the names of nodes and values of an inlined call."""
    bindings: Bindings = None
    """Attributes that the call passed; ``None`` outside of functions."""


class _Loader:
    """Reads one model."""

    def __init__(self, reader: TensorReader, source: Source) -> None:
        self.reader = reader
        self.source = source
        self.proto = source.proto
        self.result = Model(ir_version=int(self.proto.ir_version), extra=source)
        self.functions = FunctionTable(self)

    def model(self) -> Model:
        """Read everything."""
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
        for f in proto.functions:
            self.functions.add(f)
        with collection_paused(), readable_text():
            model.graph = edit.new_graph(proto.graph.name, model)
            self.fill(model.graph, proto.graph, None, model.opsets)
        return model

    # Graphs --------------------------------------------------------------------------------------

    def fill(
        self,
        graph: Graph,
        proto: GraphProto,
        around: Scope | None,
        opsets: dict[str, int],
        *,
        prefix: str = "",
        bindings: Bindings = None,
    ) -> None:
        """Read inputs, initializers, nodes and outputs of a graph; the rest is as in ``Frame``."""
        where = f"graph {proto.name!r}"
        graph.extra = proto
        initializers = self._initializers(proto, where)
        makes = definitions(proto.node)
        own = () if prefix else (*(i.name for i in proto.input), *initializers, *makes)
        self.result.reserve(own)
        frame = Frame(graph, Scope(around, own), opsets, prefix, bindings)
        self._inputs(frame, proto, initializers, where)
        for name, (constant, type_) in initializers.items():
            self._define_initializer(frame, name, constant, type_, where)
        for node in in_order(proto.node, makes, where):
            self.add(frame, node)
        for info in proto.output:
            edit.add_output(graph, self._output(frame, info, where))

    def _initializers(self, proto: GraphProto, where: str) -> dict[str, tuple[Constant, Type]]:
        found: dict[str, tuple[Constant, Type]] = {}
        for tensor in proto.initializer:
            name = _new_name(tensor, found, where)
            constant = self.reader.constant(tensor, where)
            found[name] = (constant, TensorType(constant.dtype, constant.shape))
        for sparse in proto.sparse_initializer:
            name = _new_name(sparse.values, found, where)
            if sparse.values.data_location == 1 or sparse.indices.data_location == 1:
                raise ModelError(f"sparse initializer {name!r} keeps its data in another file", where=where)
            dims = tuple(int(d) for d in sparse.dims)
            dtype = DType.from_code(sparse.values.data_type)
            found[name] = (Constant(dtype, dims, opaque=sparse), SparseType(dtype, dims))
        return found

    def _inputs(
        self, frame: Frame, proto: GraphProto, initializers: dict[str, tuple[Constant, Type]], where: str
    ) -> None:
        graph, scope = frame.graph, frame.scope
        for info in proto.input:
            name = info.name
            if not name or name in scope.names:
                raise ModelError(
                    f"graph input {name!r} occurs twice or has no name",
                    where=where,
                    hint="every input needs a name of its own",
                )
            if name in initializers and (graph.owner is not None or self.result.ir_version < 4):
                continue  # a constant: before IR version 4 every initializer had to be listed as an input
            value = self.value(frame, name)
            declared = type_of(info.type, self.result)
            value.type = _enforced(declared) if graph.owner is None else declared
            value.declared = info
            edit.add_input(graph, value)
            scope.names[name] = value
            if name in initializers:
                self._make_overridable(value, *initializers.pop(name), where)

    def _make_overridable(self, value: Value, default: Constant, type_: Type, where: str) -> None:
        if isinstance(type_, SparseType):
            raise UnsupportedError(f"the sparse initializer {value.name!r} is an input too", where=where)
        value.default = default
        value.type = without_contradiction(value.type, default, value.name, where)
        self.source.overridable.append(value.name)

    def value(self, frame: Frame, name: str) -> Value:
        """Make a value; a name that would hide one of an enclosing graph, or is a function's own, is replaced."""
        if frame.prefix:
            return Value(self.result.fresh_name(frame.prefix + name))
        around = frame.scope.parent
        if around is not None and around.sees(name):
            owner = frame.graph.owner
            if owner is not None and owner.domain:
                raise UnsupportedError(
                    f"{name!r} in graph {frame.graph.name!r} hides a name of an enclosing graph",
                    where=f"node {owner.name!r} ({owner.qualified})",
                )
            return Value(self.result.fresh_name(name))
        return Value(self.result.claim(name))

    def _define_initializer(self, frame: Frame, name: str, constant: Constant, type_: Type, where: str) -> None:
        if name in frame.scope.names:
            raise ModelError(f"{name!r} is defined twice", where=where)
        value = self.value(frame, name)
        value.type = type_
        frame.scope.names[name] = edit.attach_constant(frame.graph, value, constant)

    def _output(self, frame: Frame, info: ValueInfoProto, where: str) -> Value:
        graph, scope = frame.graph, frame.scope
        value = scope.names.get(info.name)
        if value is None and scope.parent is not None and scope.sees(info.name):
            raise UnsupportedError(f"output {info.name!r} of a nested graph belongs to an enclosing graph", where=where)
        if value is None or value.graph is not graph:
            raise ModelError(
                f"graph output {info.name!r} is produced by nothing",
                where=where,
                hint="export the model again, or remove the output",
            )
        if value.declared is None:
            value.declared = info
        return value

    # Nodes ---------------------------------------------------------------------------------------

    def add(self, frame: Frame, proto: NodeProto) -> None:
        """Append one node (or constant, or inlined call) to a graph."""
        domain: Any = normal_domain(proto.domain)
        op: Any = proto.op_type
        if self.functions.inlines(frame, domain, op, proto):
            self.functions.inline(frame, proto)
            return
        place = Place(proto, frame.prefix)
        if op.__class__ is bytes or domain.__class__ is bytes:  # what protobuf gives for what is no text
            raise ModelError("the name of an operator is not UTF-8", where=f"node {proto.name!r}")
        attributes = list(bound(proto, frame.bindings, place)) if proto.attribute else []
        if op == "Constant" and not domain and self._is_constant(frame, proto, attributes, place):
            return
        node = Node(
            op,
            tuple([self.operand(name, frame.scope, place) for name in _without_trailing(proto.input)]),
            (),
            domain=domain,
            version=frame.opsets.get(domain, 0),
            name=frame.prefix + proto.name if proto.name else "",
        )
        node.extra = proto
        if frame.prefix:
            node.loc = Loc((frame.prefix + (proto.name or op),))
            node.extra = self._as_if_written_here(proto, domain, frame.opsets)
        node.graph = frame.graph  # nested graphs look for their owner's place while they are read
        node.attributes = {a.name: self._attribute(a, node, frame, place) for a in attributes}
        node.graph = None
        node.outputs = tuple([self._result(frame, name, place) for name in proto.output])
        edit.attach(frame.graph, node)

    def _as_if_written_here(self, proto: NodeProto, domain: str, opsets: dict[str, int]) -> NodeProto:
        """Return what to carry through of a function's node: not its form, when that is of another version."""
        if self.result.opsets.get(domain) == opsets.get(domain):
            return proto
        kept = type(proto)(doc_string=proto.doc_string, overload=proto.overload)
        kept.metadata_props.extend(proto.metadata_props)
        return kept

    def _is_constant(self, frame: Frame, proto: NodeProto, attributes: list[AttributeProto], place: Place) -> bool:
        """Define the constant that a ``Constant`` node makes; false when it must stay a node."""
        if len(attributes) != 1 or len(proto.output) != 1 or not proto.output[0]:
            return False
        a = attributes[0]
        if a.name == "value" and code_of(a, place) == TENSOR:
            constant: Constant | None = self.reader.constant(a.t, str(place))
        else:
            constant = spelled_constant(a)
        if constant is None:
            return False
        value = self._result(frame, proto.output[0], place)
        value.type = TensorType(constant.dtype, constant.shape)
        edit.attach_constant(frame.graph, value, constant)
        return True

    def operand(self, name: str, scope: Scope, place: Place) -> Value | None:
        """Return the value that a node reads under a name; raises ``ModelError`` when there is none."""
        if not name:
            return None
        try:
            return scope.names[name] if name in scope.names else scope.find(name)
        except KeyError:
            raise ModelError(
                f"{name!r} is read but never defined",
                where=str(place),
                hint="export the model again; the graph is broken",
            ) from None

    def _result(self, frame: Frame, name: str, place: Place) -> Value:
        if not name:
            return Value("")
        if name in frame.scope.names:
            raise ModelError(f"{name!r} is defined twice", where=str(place), hint="every value needs a name of its own")
        value = self.value(frame, name)
        value.graph = frame.graph
        frame.scope.names[name] = value
        return value

    def _attribute(self, a: AttributeProto, node: Node, frame: Frame, place: Place) -> Attr:
        plain = PLAIN.get(a.type)
        if plain is not None:
            return plain(a)
        code = code_of(a, place)
        if code == TENSOR:
            return Attr("tensor", self.reader.constant(a.t, str(place)))
        if code == TENSORS:
            return Attr("tensors", tuple(self.reader.constant(t, str(place)) for t in a.tensors))
        if code == GRAPH:
            return Attr("graph", self._nested(a.g, node, frame))
        if code == GRAPHS:
            return Attr("graphs", tuple(self._nested(g, node, frame) for g in a.graphs))
        return PLAIN[code](a)

    def _nested(self, proto: GraphProto, owner: Node, frame: Frame) -> Graph:
        if frame.prefix and owner.domain:
            raise UnsupportedError(f"{owner.op} with a nested graph inside a function", where=f"node {owner.name!r}")
        graph = edit.new_graph(proto.name, self.result, owner)
        self.fill(graph, proto, frame.scope, frame.opsets, prefix=frame.prefix, bindings=frame.bindings)
        return graph


def _enforced(type_: Type) -> Type:
    """Return what the runtime enforces of an input's type: where it is declared a scalar, any shape is accepted."""
    if isinstance(type_, TensorType) and not type_.shape:
        return UnrankedType(type_.dtype)
    return type_


def _opsets(proto: ModelProto) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = normal_domain(entry.domain)
        if found.get(domain, entry.version) != entry.version:
            raise UnsupportedError(f"domain {domain or 'ai.onnx'!r} is imported in two versions")
        found[domain] = int(entry.version)
    if "" not in found and proto.ir_version < 3:
        found[""] = 1
    return found


def normal_domain(domain: str) -> str:
    """Return a domain as the IR names it: the default one is ``""``."""
    return "" if domain == "ai.onnx" else domain


def _new_name(tensor: TensorProto, found: dict[str, Any], where: str) -> str:
    if not tensor.name or tensor.name in found:
        raise UnsupportedError(
            f"initializer {tensor.name!r} occurs twice or has no name",
            where=where,
            hint="every initializer needs a name of its own",
        )
    return tensor.name


def _without_trailing(names: Any) -> list[str]:
    found = list(names)
    while found and not found[-1]:
        found.pop()
    return found

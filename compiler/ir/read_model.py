"""From the syntax tree to a graph: names are looked up, types and constants are made, nodes are put in place."""

from __future__ import annotations

from typing import Any

from compiler.errors import InputError, nearest
from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dims import Dim, is_static
from compiler.ir.dtype import DType
from compiler.ir.grammar import Grammar
from compiler.ir.graph import Attr, Graph, Loc, Model, Node, Value
from compiler.ir.printer import default_version, implied_name
from compiler.ir.sidefile import ContentsSource, missing_constant
from compiler.ir.spelling import Opaque, read_contents, read_float
from compiler.ir.syntax import (
    Attribute,
    Contents,
    DimList,
    GraphSyntax,
    Literal,
    Operand,
    Output,
    Run,
    Statement,
    Tensor,
    TypeSyntax,
)
from compiler.ir.types import (
    UNKNOWN,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    TensorType,
    Type,
    UnrankedType,
)


def type_of_syntax(syntax: TypeSyntax, grammar: Grammar) -> Type:
    """Return the type that the syntax says; raises ``ParseError`` for variables of rules."""
    if syntax.arguments:
        return _wrapped(syntax, grammar)
    if syntax.bare:
        if syntax.head == "?":
            return UNKNOWN
        hint = f"write {syntax.head}[] for a scalar, {syntax.head}[*] for a tensor of unknown rank"
        raise grammar.error(f"the type {syntax.head} has no dims", syntax.at, hint=hint)
    dtype = _element_type(syntax, grammar)
    return UnrankedType(dtype) if syntax.dims is None else TensorType(dtype, _shape(syntax, grammar))


def _wrapped(syntax: TypeSyntax, grammar: Grammar) -> Type:
    first = syntax.arguments[0]
    if syntax.head == "map":
        return MapType(_element_type(first, grammar), type_of_syntax(syntax.arguments[1], grammar))
    inner = type_of_syntax(first, grammar)
    if syntax.head == "sparse":
        if not isinstance(inner, TensorType):
            raise grammar.error("sparse is a type of a tensor", first.at)
        return SparseType(inner.dtype, inner.shape)
    return SequenceType(inner) if syntax.head == "seq" else OptionalType(inner)


def _element_type(syntax: TypeSyntax, grammar: Grammar) -> DType:
    try:
        return DType.from_text(syntax.head)
    except KeyError:
        hint = nearest(syntax.head, [d.text for d in DType])
        raise grammar.error(f"{syntax.head!r} is no element type", syntax.at, hint=hint) from None


def _shape(syntax: TypeSyntax, grammar: Grammar) -> tuple[Dim, ...]:
    dims: list[Dim] = []
    for dim in syntax.dims or ():
        if isinstance(dim, Run):
            raise grammar.error("only rules have runs of dims", syntax.at)
        dims.append(dim)
    return tuple(dims)


class Builder:
    """Makes the graph of a model; one use."""

    def __init__(self, model: Model, grammar: Grammar, *, form: int, side: ContentsSource | None) -> None:
        """Take the model with its header; ``form`` is the version of default-domain operators not written out."""
        self.model = model
        self.grammar = grammar
        self.form = form
        self.side = side
        self.visible: dict[str, Value] = {}
        self.types: dict[int, Type] = {}

    def main(self, syntax: GraphSyntax) -> None:
        """Make the main graph."""
        self.model.graph = self._graph(syntax, None)

    def _graph(self, syntax: GraphSyntax, owner: Node | None) -> Graph:
        graph = edit.new_graph(syntax.name, self.model, owner)
        before = len(self.visible)
        for p in syntax.inputs:
            value = edit.add_input(graph, self._define(p.name, p.type, p.at))
            value.default = self._constant(p.type, p.default) if p.default is not None else None
        for c in syntax.constants:
            edit.attach_constant(graph, self._define(c.name, c.type, c.at), self._constant(c.type, c.contents))
        for statement in syntax.statements:
            self._node(graph, statement)
        self._outputs(graph, syntax)
        for name in list(self.visible)[before:] if owner is not None else ():
            del self.visible[name]
        return graph

    def _define(self, name: str, type_: TypeSyntax | None, at: int) -> Value:
        if not name:
            raise self.grammar.error("a value needs a name", at)
        if name in self.visible:
            raise self.grammar.error(f"{name!r} is defined twice", at)
        value = Value(self.model.claim(name), self._type(type_))
        self.visible[name] = value
        return value

    def _type(self, syntax: TypeSyntax | None) -> Type:
        if syntax is None:
            return UNKNOWN
        known = self.types.get(id(syntax))  # the tree is alive as long as this object
        if known is None:
            known = self.types[id(syntax)] = type_of_syntax(syntax, self.grammar)
        return known

    def _outputs(self, graph: Graph, syntax: GraphSyntax) -> None:
        if [o.name for o in syntax.outputs] != [r.name for r in syntax.returns]:
            raise self.grammar.error("the graph returns other values than it says here", syntax.at)
        for output in syntax.outputs:
            value = self._value(output)
            if output.type is not None and self._type(output.type) != value.type:
                raise self.grammar.error(f"%{output.name} has the type {value.type}", output.at)
            edit.add_output(graph, value)

    def _value(self, operand: Operand | Output) -> Value:
        value = self.visible.get(operand.name)
        if value is None:
            close = nearest(operand.name, sorted(self.visible)) if 0 < len(self.visible) < 1000 else ""
            raise self.grammar.error(f"%{operand.name} is not defined before this", operand.at, hint=close)
        return value

    # Nodes ---------------------------------------------------------------------------------------

    def _node(self, graph: Graph, s: Statement) -> None:
        if s.optional or s.alternatives:
            raise self.grammar.error("only rules have optional and alternative parts", s.at)
        version = default_version(s.domain, self.model.opsets, self.form) if s.version is None else s.version
        loc = s.loc if s.loc is not None else Loc()
        name = s.name if s.name is not None else implied_name(loc)
        inputs = tuple(self._operand(i) for i in s.inputs)
        node = Node(s.op, inputs, (), domain=s.domain, version=version, name=name, loc=loc)
        node.attributes = {n: self._attribute(a, node) for n, a in s.attributes.items()}
        node.outputs = tuple(Value("") if o is None else self._define(o.name, o.type, o.at) for o in s.outputs)
        edit.attach(graph, node)

    def _operand(self, operand: Operand | Literal | DimList | None) -> Value | None:
        if operand is None:
            return None
        named = isinstance(operand, Operand) and not (operand.constant or operand.optional)
        if not isinstance(operand, Operand) or not named or operand.type is not None:
            raise self.grammar.error("an operand is the name of a value; only rules write more", operand.at)
        return self._value(operand)

    def _attribute(self, a: Attribute, node: Node) -> Attr:
        if a.kind in ("variable", "operand", "dim"):
            raise self.grammar.error("only rules have variables", a.at)
        if not a.kind.endswith("s"):
            return Attr(a.kind, self._attribute_value(a.kind, a.value, node))
        return Attr(a.kind, tuple(self._attribute_value(a.kind[:-1], v, node) for v in a.value))

    def _attribute_value(self, kind: str, value: Any, node: Node) -> Any:
        if kind == "float":
            return read_attribute_float(value)
        if kind == "tensor":
            assert isinstance(value, Tensor)
            return self._constant(value.type, value.contents)
        if kind == "graph":
            return self._graph(value, node)
        return Opaque(value) if kind in ("type", "sparse") else value

    # Constants -----------------------------------------------------------------------------------

    def _constant(self, type_: TypeSyntax | None, contents: Contents) -> Constant:
        if type_ is None:
            raise self.grammar.error("contents need a type", contents.at)
        dtype, shape = self._static(type_)
        if contents.kind == "opaque":
            return Constant(dtype, shape, opaque=Opaque(contents.value))
        if dtype is DType.UNKNOWN:
            raise self.grammar.error("contents need an element type", type_.at)
        if contents.kind == "digest":
            return self._stored(contents.value, dtype, shape, contents.at)
        try:
            return read_contents(dtype, shape, contents.value)
        except (ValueError, OverflowError) as e:
            raise self.grammar.error(f"these are no contents of {dtype}{list(shape)}: {e}", contents.at) from None

    def _static(self, syntax: TypeSyntax) -> tuple[DType, tuple[int, ...]]:
        type_ = type_of_syntax(syntax, self.grammar)
        shape = type_.shape if isinstance(type_, TensorType | SparseType) else None
        if shape is None or not is_static(shape):
            raise self.grammar.error("a constant is a tensor whose dims are numbers", syntax.at)
        assert isinstance(type_, TensorType | SparseType)
        return type_.dtype, tuple(int(d) for d in shape if isinstance(d, int))

    def _stored(self, digits: str, dtype: DType, shape: tuple[int, ...], at: int) -> Constant:
        if self.side is None:
            return missing_constant(digits, dtype, shape)
        try:
            found = self.side.find(digits, dtype, shape)
        except InputError as e:
            raise self.grammar.error(e.what, at) from None
        if found is None:
            raise self.grammar.error(f"the side file does not hold #{digits}", at)
        return found


def read_attribute_float(text: str) -> float:
    """Return a float attribute as a float of float32 precision."""
    return float(read_float(text, DType.F32))

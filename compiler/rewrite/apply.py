"""Make the nodes of a rule's ``after`` at a match, check them, and put them in the place of what matched.

Nothing in the graph changes until everything is known to be right: the new nodes are built outside of it, their types
are inferred there, and compared with the types of what they replace.  Only then they are put in, before the last node
that matched; where a kept value has readers above that place, these move below it, unless that would close a cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dims import Dim, Expr, is_fresh
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Model, Node, Value
from compiler.ir.infer import infer_detached
from compiler.ir.schema import schema
from compiler.ir.spelling import read_contents
from compiler.ir.syntax import Attribute, DimList, Literal, Operand, Statement
from compiler.ir.types import UNKNOWN, TensorType, Type, UnknownType, UnrankedType
from compiler.rewrite.match import Match, Refusal, _is_int, _numbers, plain_attribute
from compiler.rewrite.order import Order
from compiler.rewrite.pattern import ANY


@dataclass(slots=True)
class Replacement:
    """Nodes that stand in no graph yet, the constants that they read, and what they give for the rule's outputs."""

    nodes: list[Node] = field(default_factory=list)
    constants: list[tuple[Value, Constant]] = field(default_factory=list)
    values: dict[str, Value | None] = field(default_factory=dict)
    hints: dict[Value, str] = field(default_factory=dict)
    """Names for values that are new, before they are made unique."""

    def constant(self, made: Constant, hint: str) -> Value:
        """Add a constant and return its value."""
        value = Value(hint, TensorType(made.dtype, made.shape))
        value.constant = made
        self.constants.append((value, made))
        return value


class _Builder:
    """Builds one replacement; one use."""

    def __init__(self, match: Match, model: Model) -> None:
        self.match = match
        self.model = model
        self.made = Replacement()
        self.computed = match.rule.constants(match)
        self.wanted = self._wanted()

    def build(self) -> Replacement:
        for statement in self.match.rule.replacement.statements:
            if any(o is not None and o.name in self.wanted for o in statement.outputs):
                self._statement(statement)
        return self.made

    def _wanted(self) -> set[str]:
        """Return the values that are needed where this form matched: not every form has all of the rule's outputs."""
        found = {name for name in self.outputs if self.match.get(name) is not None}
        for s in reversed(self.match.rule.replacement.statements):
            if any(o is not None and o.name in found for o in s.outputs):
                found.update(o.name for o in s.inputs if isinstance(o, Operand))
        return found

    def _statement(self, s: Statement) -> None:
        inputs = [self._named(w) if isinstance(w, Operand) else None for w in s.inputs]
        if self._falls_away(s, inputs):  # before anything is made for its other operands
            passed_on = next((v for v in inputs if v is not None), None) if s.optional else None
            self.made.values.update((o.name, passed_on) for o in s.outputs if o is not None)
            return
        inputs = [self._operand(s, i, w) for i, w in enumerate(s.inputs)]
        if s.op == "Identity" and not s.domain and s.outputs[0] is not None and s.outputs[0].name in self.outputs:
            self.made.values[s.outputs[0].name] = inputs[0]
            return
        while inputs and inputs[-1] is None:
            inputs.pop()
        version = s.version or (edit.latest_version(self.model) if not s.domain else 1)
        outputs = tuple(Value(self._result_name(s, i)) for i in range(len(s.outputs)))
        node = Node(s.op, tuple(inputs), outputs, self._attributes(s), domain=s.domain, version=version)
        for i, (out, written) in enumerate(zip(outputs, s.outputs, strict=True)):
            out.node, out.index = node, i
            if written is not None and not out.absent:
                self.made.values[written.name] = out
                self._declare(written.name, written.type, out)
        infer_detached(node, self.model)
        self.made.nodes.append(node)

    def _result_name(self, s: Statement, index: int) -> str:
        """Return the name of a result, ``""`` for one that nothing needs and the operator need not give."""
        written = s.outputs[index]
        if written is None or written.name in self.wanted:
            return "" if written is None else written.name
        definition = schema(s.domain, s.op, s.version or edit.latest_version(self.model))
        formal = definition.formal_output(index) if definition is not None else None
        return "" if definition is None or (formal is not None and formal.option == "optional") else written.name

    def _falls_away(self, s: Statement, inputs: Sequence[Value | None]) -> bool:
        """True when an operand that the operator cannot do without is ``%m?`` and not there."""
        missing = [i for i, (w, v) in enumerate(zip(s.inputs, inputs, strict=True)) if v is None and _may_miss(w)]
        definition = schema(s.domain, s.op, s.version or edit.latest_version(self.model)) if missing else None
        formals = [definition.formal_input(i) for i in missing] if definition is not None else []
        return any(f is not None and f.option == "single" for f in formals)

    @property
    def outputs(self) -> frozenset[str]:
        return self.match.rule.outputs

    def _declare(self, name: str, written: Any, out: Value) -> None:
        old = self.match.get(name) if name in self.outputs else None
        if old is not None:
            out.type, out.contents = UNKNOWN, old.contents

    # Operands ------------------------------------------------------------------------------------

    def _operand(self, s: Statement, index: int, written: Operand | Literal | DimList | None) -> Value | None:
        if written is None:
            return None
        if isinstance(written, Operand):
            return self._named(written)
        if isinstance(written, DimList):
            return self._dims(s, written)
        return self._literal(s, index, written)

    def _named(self, written: Operand) -> Value | None:
        name = written.name
        if name in self.made.values:
            value = self.made.values[name]
            if value is None and not written.optional:
                raise Refusal(f"%{name} is missing here")
            return value
        if name in self.computed and name not in self.match.rule.bound:
            made = self.computed[name]
            made = made if isinstance(made, Constant) else Constant.from_array(made)
            self.made.values[name] = self.made.constant(made, name)
            return self.made.values[name]
        value = self.match.get(name)
        if value is None and not written.optional and name not in self.match.rule.may_be_missing:
            raise Refusal(f"%{name} is missing here")
        return value

    def _literal(self, s: Statement, index: int, written: Literal) -> Value:
        dtype = self._literal_dtype(s, index, written)
        shape = (len(written.scalars),) if written.nested else ()
        return self.made.constant(read_contents(dtype, shape, _numbers(written)), "const")

    def _literal_dtype(self, s: Statement, index: int, written: Literal) -> DType:
        """Return the element type that an operand must have to go with the node's other operands."""
        siblings = [(i, self._named(o)) for i, o in enumerate(s.inputs) if isinstance(o, Operand) and o.name != ANY]
        dtypes = [(i, v.dtype) for i, v in siblings if v is not None and v.dtype is not DType.UNKNOWN]
        definition = schema(s.domain, s.op, s.version or edit.latest_version(self.model))
        formal = definition.formal_input(index) if definition is not None else None
        if definition is None or formal is None:
            return DType.I64 if written.nested and all(map(_is_int, written.scalars)) else _first(dtypes)
        for i, dtype in dtypes:
            other = definition.formal_input(i)
            if other is not None and other.type_str == formal.type_str and formal.homogeneous:
                return dtype
        allowed = definition.allowed(formal)
        return _first(dtypes) if _first(dtypes) in allowed and len(allowed) > 2 else DType.I64

    def _dims(self, s: Statement, written: DimList) -> Value:
        data = next((self._named(o) for o in s.inputs if isinstance(o, Operand)), None)
        dims = [self.match.evaluate(d) for d in written.dims]
        parts: list[int | Value] = []
        for i, dim in enumerate(dims):
            parts.append(self._dim(s.op, i, dim, data, len(dims), inferred=-1 in parts or -1 in dims))
        return self._shape(parts)

    def _dim(self, op: str, index: int, dim: Dim, data: Value | None, rank: int, *, inferred: bool) -> int | Value:
        here = data.shape[index] if data is not None and data.shape is not None and index < len(data.shape) else None
        if isinstance(dim, int):
            if dim == 0 and op == "Reshape" and here != 0:
                raise Refusal("a dim of the shape is 0")
            return dim
        if dim == here and op == "Reshape":
            return 0
        if dim == here and op == "Expand" and data is not None and data.rank == rank:
            return 1
        if op == "Reshape" and not inferred:
            return -1
        return self._measured(dim)

    def _measured(self, dim: Expr) -> Value:
        """Return a tensor of one element, the dim, read from the shape of a value that has it.

        An input of the model comes first: it is the same for all rewrites, and what they replace gets no further use.
        """
        for value in (*self.model.graph.inputs, *self.match.leaves()):
            if value.shape is not None and dim in value.shape:
                axis = value.shape.index(dim)
                attributes = {"start": Attr("int", axis), "end": Attr("int", axis + 1)}
                return self._make("Shape", [value], attributes)
        raise Refusal(f"no operand has the dim {dim}")

    def _shape(self, parts: list[int | Value]) -> Value:
        if all(isinstance(p, int) for p in parts):
            return self.made.constant(Constant.of(parts, DType.I64), "shape")
        operands = [p if isinstance(p, Value) else self._number(p) for p in parts]
        return self._make("Concat", operands, {"axis": Attr("int", 0)}) if len(operands) > 1 else operands[0]

    def _number(self, dim: int) -> Value:
        return self.made.constant(Constant.of([dim], DType.I64), "dim")

    def _make(self, op: str, inputs: Sequence[Value], attributes: dict[str, Attr]) -> Value:
        out = Value(op.lower())
        node = Node(op, tuple(inputs), (out,), attributes, version=edit.latest_version(self.model))
        out.node = node
        infer_detached(node, self.model)
        self.made.nodes.append(node)
        return out

    # Attributes ----------------------------------------------------------------------------------

    def _attributes(self, s: Statement) -> dict[str, Attr]:
        made = {}
        for name, written in s.attributes.items():
            value = self._attribute_value(written)
            if isinstance(value, Attr):
                made[name] = value
            elif value is not None:
                made[name] = _typed(s, name, value)
        return made

    def _attribute_value(self, written: Attribute) -> Any:
        if written.kind == "variable":
            if written.value in self.computed and not self.match.binds_attribute(written.value):
                return self.computed[written.value]
            return self.match.attribute(written.value)
        if written.kind == "operand":
            operand: Operand = written.value
            if operand.optional and self.match.get(operand.name) is None:
                return None
            return self.match.scalar(operand.name)
        if written.kind != "dim":
            return plain_attribute(written)
        dim = self.match.evaluate(written.value)
        if not isinstance(dim, int):
            raise Refusal(f"{written.value} is symbolic: {dim}")
        return dim


def _may_miss(written: Operand | Literal | DimList | None) -> bool:
    return isinstance(written, Operand) and written.optional


def _first(dtypes: Sequence[tuple[int, DType]]) -> DType:
    return dtypes[0][1] if dtypes else DType.F32


def _typed(s: Statement, name: str, value: Any) -> Attr:
    """Return the attribute of the kind that the schema says, or that the value has."""
    definition = schema(s.domain, s.op, s.version or edit.NEWEST)
    spec = definition.attributes.get(name) if definition is not None else None
    plain: Any = tuple(value) if isinstance(value, list | tuple | np.ndarray) else value
    kind = spec.kind if spec is not None else _kind_of(plain)
    if kind not in ("int", "float", "ints", "floats"):
        return Attr(kind, plain)
    number = int if kind.startswith("int") else lambda v: float(np.float32(v))
    if not kind.endswith("s"):
        return Attr(kind, number(plain))
    return Attr(kind, tuple(number(v) for v in (plain if isinstance(plain, tuple) else (plain,))))


def _kind_of(value: Any) -> str:
    if isinstance(value, tuple):
        return (_kind_of(value[0]) if value else "int") + "s"
    kinds = {bool: "int", int: "int", float: "float", str: "string", Constant: "tensor"}
    return kinds.get(type(value), "float" if isinstance(value, np.floating) else "int")


def build(match: Match, model: Model) -> Replacement:
    """Return the replacement of a match; raises ``Refusal`` when it cannot be had, seen, or would change a type."""
    made = _Builder(match, model).build()
    for name in sorted(match.rule.outputs):
        old, new = match.get(name), made.values.get(name)
        if old is None:
            continue
        if new is None:
            raise Refusal(f"%{name} would be missing")
        reason = type_change(old.type, new.type)
        if reason:
            raise Refusal(f"%{name} would change its type: {reason}")
        _check_visible(match, old, new, made)
    return made


def _check_visible(match: Match, old: Value, new: Value, made: Replacement) -> None:
    """Refuse to make in a nested graph what stood in an outer one and is read, or returned, outside of the nested."""
    graph = match.root.graph
    if old.graph is graph or new.node not in made.nodes:
        return
    matched = match.nodes()
    homes = [user.graph for user in old.users() if user not in matched] + [g for g, _ in old.returned]
    if not all(_is_within(home, graph) for home in homes):
        raise Refusal(f"%{old.name} is read outside of the nested graph in which it would be made")


def _is_within(inner: Graph | None, graph: Graph | None) -> bool:
    while inner is not None and inner is not graph:
        inner = inner.owner.graph if inner.owner is not None else None
    return inner is graph


def type_change(old: Type, new: Type) -> str:
    """Return how a type differs from one that it must stand for, ``""`` when it does not; unknown parts agree."""
    if old == new or isinstance(old, UnknownType) or isinstance(new, UnknownType):
        return ""
    if not isinstance(old, TensorType | UnrankedType) or not isinstance(new, TensorType | UnrankedType):
        return f"{old} to {new}"
    if old.dtype is not new.dtype and DType.UNKNOWN not in (old.dtype, new.dtype):
        return f"{old} to {new}"
    if isinstance(old, UnrankedType) or isinstance(new, UnrankedType):
        return ""
    same = len(old.shape) == len(new.shape) and all(map(_same_dim, old.shape, new.shape))
    return "" if same else f"{old} to {new}"


def _same_dim(old: Dim, new: Dim) -> bool:
    return old == new or _is_open(old) or _is_open(new)


def _is_open(dim: Dim) -> bool:
    """True for a dim that says nothing, or depends on one that says nothing."""
    return is_fresh(dim) or (isinstance(dim, Expr) and "?" in dim.text)


# Putting it in place -----------------------------------------------------------------------------


def put(match: Match, made: Replacement, order: Order) -> list[Node]:
    """Put a replacement into the graph and erase what it replaces; return the new nodes.

    Raises ``Refusal``, with nothing changed, when the new nodes would have to stand both before and after another.
    """
    rule, root = match.rule, match.root
    graph = root.graph
    assert graph is not None
    matched = [n for n in match.nodes() if n.graph is graph]
    anchor = max(matched, key=order.label)
    below = _below(match, made, matched, anchor, order)
    loc = edit.merge_locs(match.nodes(), rule.name)
    for value, constant in made.constants:
        value.constant = None
        value.name = graph.model.fresh_name(value.name)
        edit.attach_constant(graph, value, constant)
    prefix = root.output.name
    old_names = {name: match.get(name) for name in rule.outputs}
    for node in made.nodes:
        for out in node.outputs:
            if not out.absent:
                out.name = graph.model.fresh_name(f"{prefix}_{out.name}" if out.name not in old_names else prefix)
        node.loc = loc
        if node.domain:
            edit.import_domain(graph.model, node.domain, node.version)
        edit.attach(graph, node, before=anchor)
        order.insert(node)
    for node in below:
        edit.move_before(node, anchor)
        order.move(node)
    _replace_outputs(match, made)
    _erase(match, order)
    _give_names(old_names, made)
    return made.nodes


def _replace_outputs(match: Match, made: Replacement) -> None:
    for name in sorted(match.rule.outputs):
        old, new = match.get(name), made.values.get(name)
        if old is None or new is None or old is new:
            continue
        if new.node in made.nodes:
            new.type = old.type if not isinstance(old.type, UnknownType) else new.type
            new.contents = old.contents
        edit.replace(old, new)


def _erase(match: Match, order: Order) -> None:
    """Erase matched nodes that nothing reads any more, readers before what they read."""
    nodes = [n for n in match.nodes() if n.graph is match.root.graph or n.graph is not None]
    nodes.sort(key=lambda n: order.label(n) if n in order else -1, reverse=True)
    for node in dict.fromkeys(nodes):
        if node.graph is not None and not any(o.is_used for o in node.outputs):
            edit.erase(node)
            order.forget(node)


def _give_names(old: dict[str, Value | None], made: Replacement) -> None:
    """Let new values take the names of those that they stand for."""
    for name in sorted(old):
        value, new = old[name], made.values.get(name)
        if value is None or new is None or new.node not in made.nodes:
            continue
        if value.node is not None and value.node.graph is None and not new.returned and value.name != new.name:
            edit.rename(new, value.name)
        if value.node is not None and value.index == 0 and new.index == 0 and new.node is not None:
            new.node.name = value.node.name


def _below(match: Match, made: Replacement, matched: list[Node], anchor: Node, order: Order) -> list[Node]:
    """Return the nodes above the anchor that read what the rule keeps, in order; they must move below it."""
    limit, removed = order.label(anchor), set(matched)
    found: dict[Node, None] = {}
    todo: list[Node] = []
    for name in sorted(match.rule.outputs):
        value = match.get(name)
        if value is not None:
            todo.extend(_readers(value, anchor))
    while todo:
        node = todo.pop()
        if node in found or node in removed or order.label(node) > limit:
            continue
        found[node] = None
        for out in node.outputs:
            todo.extend(_readers(out, anchor))
    if found:
        _check_acyclic(made, found, removed)
    return sorted(found, key=order.label)


def _readers(value: Value, anchor: Node) -> list[Node]:
    """Return the nodes of the anchor's graph that read a value, themselves or in their nested graphs."""
    graph = anchor.graph
    found = []
    for user in value.users():
        node: Node | None = user
        while node is not None and node.graph is not graph:
            node = node.graph.owner if node.graph is not None else None
        if node is not None:
            found.append(node)
    return found


def _check_acyclic(made: Replacement, below: dict[Node, None], removed: set[Node]) -> None:
    new = set(made.nodes)
    for node in made.nodes:
        for value in node.inputs:
            maker = value.node if value is not None else None
            if maker is not None and maker not in new and maker in below:
                raise Refusal(f"%{value.name if value else ''} depends on what the rewrite keeps: a cycle")

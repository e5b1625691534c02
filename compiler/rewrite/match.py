"""Find a form in a graph: backwards from a root node, with backtracking over the order of commutative operands.

Statements that the root does not reach backwards are found forwards, among the users of values that are bound already.
The engine's own conditions are checked here too: what the rewrite removes must have no other use.

A ``Trace`` is told of every attempt that failed, and how far it had come; without one that costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from compiler.ir.dims import Dim, substitute
from compiler.ir.dtype import DType
from compiler.ir.facts import known_contents, known_ints, scalar_constant
from compiler.ir.graph import Attr, Node, Value
from compiler.ir.schema import attribute, node_schema
from compiler.ir.spelling import Number, read_contents
from compiler.ir.syntax import Attribute, DimList, Literal, Operand, Statement
from compiler.ir.types import Shape
from compiler.rewrite.pattern import ANY, COMMUTATIVE, Pattern
from compiler.rewrite.surroundings import may_match_here
from compiler.rewrite.unify import Allowed, Binding

if TYPE_CHECKING:
    from compiler.ir.constant import Array
    from compiler.rewrite.rule import Rule

_EPSILONS = 4
"""Units of rounding by which a constant may differ from the number in a rule."""

_ROUNDING = {DType.F16: 2.0**-10, DType.BF16: 2.0**-7, DType.F32: 2.0**-23, DType.F64: 2.0**-23}
"""Relative rounding of an element type; exporters write f64 constants that went through f32."""

Pair = tuple[Operand | Literal | DimList | None, Value | None, Node, int]
"""What a rule writes as an operand, the value there, the node that reads it, and its position."""


class Refusal(Exception):
    """A rule's hook found that it does not apply; the text says why."""


class Trace(Protocol):
    """Is told of attempts that failed."""

    def miss(self, pattern: Pattern, binding: Binding, statement: int, place: Node | Value | None, reason: str) -> None:
        """Take note that a statement (its position) did not match at a place, after ``binding.nodes`` did."""


class Match:
    """One place where a form matched: what its variables stand for."""

    __slots__ = ("_binding", "pattern", "root", "rule", "target")

    def __init__(self, rule: Rule, pattern: Pattern, root: Node, binding: Binding, target: Any = None) -> None:
        self.rule = rule
        self.pattern = pattern
        self.root = root
        self.target = target
        self._binding = binding

    @property
    def form(self) -> int:
        """Which text of ``before`` matched."""
        return self.pattern.index

    def __getitem__(self, name: str) -> Value:
        """Return the value that ``%name`` stands for; raises ``KeyError`` when the form does not bind it."""
        value = self._binding.values[self.pattern.stands_for.get(name, name)]
        if value is None:
            raise KeyError(name)
        return value

    def get(self, name: str) -> Value | None:
        """Return the value that ``%name`` stands for, ``None`` when it is missing here.

        The result of an optional statement that the form leaves out is the operand that it passes on.
        """
        return self._binding.values.get(self.pattern.stands_for.get(name, name))

    def node(self, name: str) -> Node:
        """Return the matched node that makes ``%name``."""
        return self._binding.nodes[self.pattern.defined[name][0]]

    def leaves(self) -> list[Value]:
        """Return the values that the form reads and does not make, in order of appearance."""
        found = [self._binding.values.get(name) for name in self.pattern.leaves]
        return [v for v in found if v is not None]

    def has(self, name: str) -> bool:
        """True when the form has a statement that defines ``%name`` (an optional one may be left out)."""
        return name in self.pattern.defined

    def nodes(self) -> list[Node]:
        """Return the matched nodes in the order of the statements."""
        return [self._binding.nodes[i] for i in sorted(self._binding.nodes)]

    def binds_dim(self, name: str) -> bool:
        """True when the form binds a dim of that name."""
        return name in self._binding.dims

    def dim(self, name: str) -> Dim:
        """Return the dim that a name stands for."""
        return self._binding.dims[name]

    def evaluate(self, dim: Dim) -> Dim:
        """Return a dim of the rule in terms of the model's."""
        return substitute(dim, self._binding.dims)

    def size(self, name: str) -> int:
        """Return the number that a dim stands for; raises ``Refusal`` when it is symbolic."""
        dim = self._binding.dims[name]
        if not isinstance(dim, int):
            raise Refusal(f"{name} is symbolic: {dim}")
        return dim

    def run(self, name: str) -> Shape:
        """Return the dims that a run stands for."""
        return self._binding.runs[name]

    def dtype(self, name: str) -> DType:
        """Return the element type that a type variable stands for."""
        return self._binding.dtypes[name]

    def binds_type(self, name: str) -> bool:
        """True when the form binds a type variable of that name."""
        return name in self._binding.dtypes

    def scalar(self, name: str) -> Any:
        """Return the only element of the constant ``%name`` as a Python number; raises ``Refusal`` without one."""
        number = scalar_constant(self.get(name))
        if number is None:
            raise Refusal(f"%{name} is not a constant of one element")
        return number

    def array(self, name: str) -> Array:
        """Return the contents of the constant ``%name``; raises ``Refusal`` when it is none."""
        value = self.get(name)
        array = value.array() if value is not None else None
        if array is None:
            raise Refusal(f"%{name} is not a constant")
        return array

    def ints(self, name: str) -> tuple[int, ...] | None:
        """Return the elements of a small integer tensor when all are known."""
        return known_ints(self.get(name))

    def attr(self, name: str) -> Any:
        """Return the plain value of the attribute that ``$name`` stands for, ``None`` when it is not set."""
        found = self._binding.attributes.get(name)
        return found.value if isinstance(found, Attr) else found

    def attribute(self, name: str) -> Attr | None:
        """Return the attribute that ``$name`` stands for with its kind, ``None`` when it is not set."""
        found = self._binding.attributes.get(name)
        return found if isinstance(found, Attr) else None

    def binds_attribute(self, name: str) -> bool:
        """True when the form binds ``$name``."""
        return name in self._binding.attributes


class Matcher:
    """Tries one form at one node after another."""

    __slots__ = ("accept", "allowed", "b", "forward", "outputs", "pattern", "root", "shared", "trace")

    def __init__(self, pattern: Pattern, allowed: Allowed, outputs: frozenset[str], shared: frozenset[str]) -> None:
        """Take the form, what type variables allow, and the values that are kept or may have other users."""
        self.pattern = pattern
        self.allowed = allowed
        self.outputs = outputs
        self.shared = shared
        self.trace: Trace | None = None
        self.b = Binding()
        self.accept: Callable[[Binding], str] = _accept_all
        self.forward = pattern.unreached
        self.root = pattern.root

    def match(self, root: Node, accept: Callable[[Binding], str], trace: Trace | None = None) -> Binding | None:
        """Return the bindings of the first way to match that ``accept`` does not give a reason against."""
        self.b, self.accept, self.trace = Binding(), accept, trace
        return self.b if self._node(self.root, root, ()) else None

    def _miss(self, statement: int, place: Node | Value | None, reason: str) -> bool:
        if self.trace is not None:
            self.trace.miss(self.pattern, self.b, statement, place, reason)
        return False

    # Goals: a linked list of (pair, rest) --------------------------------------------------------

    def _solve(self, goals: Any) -> bool:
        while goals:
            (written, value, node, index), goals = goals
            at = self.pattern.defined.get(written.name) if isinstance(written, Operand) else None
            if at is None or value is None:
                if not self._leaf(written, value, node, index):
                    return False
                continue
            bound = self.b.values.get(written.name)
            if bound is not None:
                if bound is not value:
                    return self._miss(at[0], value, f"%{written.name} is %{bound.name} elsewhere")
                continue
            if value.node is None or value.index != at[1]:
                return self._miss(at[0], value, self._expected(at[0]) + f", found {_describe(value)}")
            return self._node(at[0], value.node, goals)
        return self._next_forward()

    def _expected(self, statement: int) -> str:
        return "expected " + " or ".join(sorted(self.pattern.operators[statement]))

    def _node(self, index: int, node: Node, goals: Any) -> bool:
        """Match a statement with a node, then solve the goals that this adds."""
        s, b = self.pattern.statements[index], self.b
        if node.qualified not in self.pattern.operators[index]:
            return self._miss(index, node, self._expected(index) + f", found {node.qualified}")
        if self.trace is None and index != self.root and not may_match_here(self.pattern, index, node):
            return False  # the engine has looked around the root already
        b.bind(b.nodes, index, node)
        reason = self._outputs(s, node) or self._attributes(s, node)
        if reason:
            return self._miss(index, node, reason)
        pairs = self._pairs(s, node)
        if pairs is None:
            return self._miss(index, node, "it has other numbers of operands")
        if node.op not in COMMUTATIVE or node.domain or len(pairs) < 2 or pairs[0][1] is pairs[1][1]:
            return self._solve(_push(pairs, goals))
        mark = len(b.trail)
        if self._solve(_push(pairs, goals)):
            return True
        b.undo(mark)
        (left, x, _, _), (right, y, _, _) = pairs[0], pairs[1]
        return self._solve(_push([(left, y, node, 1), (right, x, node, 0), *pairs[2:]], goals))

    def _outputs(self, s: Statement, node: Node) -> str:
        for k, out in enumerate(node.outputs):
            written = s.outputs[k] if k < len(s.outputs) else None
            if written is None or written.name == ANY:
                if written is None and out.is_used:
                    return f"output {k} is used"
                continue
            self.b.bind(self.b.values, written.name, None if out.absent else out)
            if out.absent:
                continue
            reason = self.b.unify_type(written.type, out, self.allowed) if written.type is not None else ""
            reason = reason or self._other_uses(written.name, out)
            if reason:
                return f"%{written.name} ({_describe(out)}): {reason}"
        if len([o for o in s.outputs if o is not None]) > len(node.outputs):
            return "it has fewer outputs"
        return ""

    def _other_uses(self, name: str, value: Value) -> str:
        """Return why a value cannot go, ``""`` when it can or need not."""
        if name in self.outputs or name in self.shared:
            return ""
        if value.returned:
            return "it is an output of the graph"
        return "" if len(value.uses) <= self.pattern.reads.get(name, 0) else "it has other users"

    def _pairs(self, s: Statement, node: Node) -> list[Pair] | None:
        if any(v is not None for v in node.inputs[len(s.inputs) :]):
            return None
        return [(w, node.input(i), node, i) for i, w in enumerate(s.inputs)]

    # Leaves --------------------------------------------------------------------------------------

    def _leaf(self, written: Operand | Literal | DimList | None, value: Value | None, node: Node, index: int) -> bool:
        reason = self._leaf_reason(written, value, node, index)
        if reason and self.trace is not None:
            at = next((i for i, n in self.b.nodes.items() if n is node), self.pattern.root)
            return self._miss(at, node, f"operand {index}: {reason}")
        return not reason

    def _leaf_reason(
        self, written: Operand | Literal | DimList | None, value: Value | None, node: Node, index: int
    ) -> str:
        if written is None:
            return "" if value is None else f"{_describe(value)} is there, none was expected"
        if isinstance(written, Operand):
            return (_may_add_dims(value, node) if written.scalar else "") or self._named(written, value)
        if value is None:
            return "it is missing"
        if isinstance(written, DimList):
            return self._dim_list(written, value)
        return ("" if written.nested else _may_add_dims(value, node)) or literal_mismatch(written, value, node, index)

    def _named(self, written: Operand, value: Value | None) -> str:
        b, name = self.b, written.name
        if name == ANY:
            return ""
        if value is None and not written.optional:
            return f"%{name} is missing"
        if name in b.values:
            return "" if b.values[name] is value else f"%{name} stands for another value"
        b.bind(b.values, name, value)
        if value is None:
            return ""
        if written.constant and (value.constant is None or not value.constant.is_readable):
            return f"{_describe(value)} is no constant"
        if written.scalar and value.constant is not None and value.constant.size != 1:
            return f"{_describe(value)} has {value.constant.size} elements, one was expected"
        reason = b.unify_type(written.type, value, self.allowed) if written.type is not None else ""
        return f"{_describe(value)}: {reason}" if reason else ""

    def _dim_list(self, written: DimList, value: Value) -> str:
        contents = known_contents(value)
        if contents is None or len(contents) != len(written.dims):
            return f"the contents of {_describe(value)} are not [{', '.join(map(str, written.dims))}]"
        return self.b._unify_dims(written.dims, contents)

    # Attributes ----------------------------------------------------------------------------------

    def _attributes(self, s: Statement, node: Node) -> str:
        for name, written in s.attributes.items():
            reason = self._attribute(name, written, node)
            if reason:
                return reason
        for name, found in node.attributes.items():
            if name not in s.attributes and not _is_default(node, name, found):
                return f"{name} = {found.value}, and the rule expects the default"
        return ""

    def _attribute(self, name: str, written: Attribute, node: Node) -> str:
        found = node.attributes.get(name)
        value = attribute(node, name)
        if written.kind == "variable":
            actual = found if found is not None or value is None else _attr_of_default(node, name, value)
            bound = self.b.attributes.get(written.value, _NOTHING)
            if bound is _NOTHING:
                self.b.bind(self.b.attributes, written.value, actual)
                return ""
            return "" if bound == actual else f"${written.value} has another value"
        if written.kind == "dim":
            return "" if isinstance(value, int) and not self.b._unify_dim(written.value, value) else f"{name} = {value}"
        expected = plain_attribute(written)
        if _equal_attributes(name, expected, value, node):
            return ""
        return f"{name} = {value}, not {expected}"

    # The rest ------------------------------------------------------------------------------------

    def _next_forward(self) -> bool:
        """Match a statement that no operand led to, or finish."""
        index = next((i for i in self.forward if i not in self.b.nodes), None)
        if index is None:
            return self._finish()
        for node in self._candidates(index):
            mark = len(self.b.trail)
            if node not in self.b.nodes.values() and self._node(index, node, ()):
                return True
            self.b.undo(mark)
        return self._miss(index, None, self._expected(index) + " among the users")

    def _candidates(self, index: int) -> Iterator[Node]:
        s = self.pattern.statements[index]
        for operand in s.inputs:
            value = self.b.values.get(operand.name) if isinstance(operand, Operand) else None
            if value is not None:
                graph = self.b.nodes[self.pattern.root].graph
                wanted = self.pattern.operators[index]
                yield from (n for n in value.users() if n.graph is graph and n.qualified in wanted)
                return

    def _finish(self) -> bool:
        reason = self.b.check_expressions() or self.accept(self.b)
        return not reason or self._miss(self.pattern.root, self.b.nodes[self.pattern.root], reason)


_NOTHING = object()


def _accept_all(_binding: Binding) -> str:
    return ""


def _push(pairs: list[Pair], goals: Any) -> Any:
    for pair in reversed(pairs):
        goals = (pair, goals)
    return goals


def _describe(value: Value) -> str:
    if value.constant is not None:
        return f"the constant %{value.name}: {value.type}"
    return f"%{value.name}: {value.type}" if value.node is None else f"{value.node.qualified} %{value.name}"


def _is_default(node: Node, name: str, found: Attr) -> bool:
    definition = node_schema(node)
    spec = definition.attributes.get(name) if definition is not None else None
    return spec is not None and spec.default is not None and _equal_attributes(name, spec.default, found.value, node)


def _attr_of_default(node: Node, name: str, value: Any) -> Attr:
    definition = node_schema(node)
    assert definition is not None
    return Attr(definition.attributes[name].kind, value)


def plain_attribute(written: Attribute) -> Any:
    """Return the plain value of an attribute that a rule writes out."""
    if written.kind == "float":
        return float(written.value)
    if written.kind == "floats":
        return tuple(float(v) for v in written.value)
    return written.value


def _equal_attributes(name: str, expected: Any, value: Any, node: Node) -> bool:
    if isinstance(expected, float) and isinstance(value, int | float):
        return math.isclose(expected, value, rel_tol=1e-6, abs_tol=1e-30)
    if expected == value:
        return True
    if name == "axis" and isinstance(expected, int) and isinstance(value, int):
        rank = _axis_rank(node)
        return rank is not None and rank > 0 and expected % rank == value % rank
    return False


def _axis_rank(node: Node) -> int | None:
    """Return the rank that axes of a node count in."""
    value = node.output if node.op == "Unsqueeze" else node.input(0)
    return value.rank if value is not None else None


def _may_add_dims(value: Value | None, node: Node) -> str:
    """Return why a constant of one element may not stand for a number: ``[1]`` gives a result of no dims one."""
    if value is None or value.constant is None or not value.constant.shape or node.outputs[0].rank is not None:
        return ""
    return f"{_describe(value)} has dims, and it is not known whether {_describe(node.outputs[0])} has them without it"


def literal_mismatch(written: Literal, value: Value, node: Node, index: int) -> str:
    """Return why a value does not hold the numbers that a rule writes, ``""`` when it does."""
    if written.nested and all(_is_int(s) for s in written.scalars):
        return _int_list_mismatch(tuple(int(str(s), 0) for s in written.scalars), value, node, index)
    constant = value.constant
    if constant is None or not constant.is_readable or constant.dtype is DType.STRING:
        return f"{_describe(value)} is no constant"
    if constant.size != len(written.scalars):
        return f"{_describe(value)} has {constant.size} elements, {len(written.scalars)} were expected"
    found = constant.array().reshape(-1)
    expected = read_contents(DType.F64, found.shape, _numbers(written)).array()
    rounding = _ROUNDING.get(constant.dtype, 0.0) * _EPSILONS
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.isclose(found.astype(np.float64), expected, rtol=rounding, atol=0.0, equal_nan=True)
    return "" if bool(close.all()) else f"the constant is {found.tolist()}, not {expected.tolist()}"


def _numbers(written: Literal) -> list[Any]:
    spelled = {"true": "1", "false": "0"}
    return [Number(spelled.get(str(s), str(s))) for s in written.scalars]


def _is_int(scalar: Any) -> bool:
    return isinstance(scalar, Number) and scalar.lstrip("-").isdigit()


def _int_list_mismatch(expected: tuple[int, ...], value: Value, node: Node, index: int) -> str:
    contents = known_contents(value)
    if contents is None:
        return f"the contents of {_describe(value)} are not known"
    if contents == expected:
        return ""
    definition = node_schema(node)
    formal = definition.formal_input(index) if definition is not None else None
    rank = _axis_rank(node)
    axes = [c % rank for c in contents if isinstance(c, int)] if rank else []
    if rank and formal is not None and formal.name == "axes" and axes == [e % rank for e in expected]:
        return ""
    return f"the contents are {list(map(str, contents))}, not {list(expected)}"

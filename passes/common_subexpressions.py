"""Compute once what is computed twice.

Values are numbered; a node's key is its operator, version, attributes and the numbers of its operands,
missing ones and absent outputs included.  Small integer tensors whose symbolic contents are known are
numbered by these, so that two ways to compute the same shape become one.

Decisions:

* A nested graph may read what an enclosing graph computed before its owner; siblings never see each other.
  The table is one dictionary with a log per open graph.  Graphs of operators other than the standard's are
  scopes of their own.
* Never merged: random, opaque and impure operators, operators with nested graphs, ``Identity`` (it keeps
  names), and ``DequantizeLinear`` (execution providers want one for each reader).
* An attribute that says what the standard assumes without it says nothing.
* Operands of commutative operators are sorted: IEEE addition and multiplication commute exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from compiler.ir import edit
from compiler.ir.dims import is_static
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.ir.schema import is_pure, node_schema
from compiler.ir.types import TensorType
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import is_open, unused

_NEVER = frozenset({"Identity", "DequantizeLinear"})
_COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"})
_SMALL = 1024
"""Bytes up to which a constant is known by its contents rather than by itself."""


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Merge nodes that compute the same from the same operands, and values with the same known contents."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Number everything first, nested graphs right after what comes before their owner; then merge at once."""
        merged: dict[Node, list[Node]] = {}
        pairs: dict[Value, Value] = {}
        roots = [graph]
        while roots:
            table = _Table(pairs)
            for node in _walk(roots.pop(), table):
                if not node.attributes or not (nested := node.graphs()):
                    _visit(node, table, merged, ctx)
                elif node.domain and is_open(node):
                    roots.extend(reversed(nested))
        for kept, others in merged.items():
            edit.set_loc(kept, edit.merge_locs([kept, *others], self.name))
        edit.replace_all(list(pairs.items()))
        erased = [n for others in merged.values() for n in others]
        erased += [old.node for old in pairs if old.node is not None]
        for node in dict.fromkeys(erased):
            if unused(node):
                edit.erase(node)
        return bool(merged or pairs)


@dataclass(slots=True)
class _Table:
    """What is visible at one place: nodes and values by key, and the keys that each open graph added."""

    pairs: dict[Value, Value]
    """Values that stand for others once all are known."""
    known: dict[Hashable, Node | Value] = field(default_factory=dict)
    numbers: dict[Hashable, int] = field(default_factory=dict)
    log: list[list[Hashable]] = field(default_factory=list)

    def enter(self) -> None:
        """Open a graph."""
        self.log.append([])

    def leave(self) -> None:
        """Forget what the innermost open graph added."""
        for key in self.log.pop():
            del self.known[key]

    def add(self, key: Hashable, entry: Node | Value) -> None:
        """Record what is known under a key until the graph is left."""
        self.known[key] = entry
        self.log[-1].append(key)

    def stands_for(self, kept: Value, other: Value) -> None:
        """Record that a value equals an earlier one, or what that one equals itself."""
        self.numbers[other] = self.number(kept)
        if other.is_used:
            self.pairs[other] = self.pairs.get(kept, kept)

    def number(self, value: Value | None) -> int:
        """Return the number of a value, -1 for a missing operand; equal small constants have one number."""
        if value is None:
            return -1
        constant = value.constant
        key: Hashable = value
        if constant is not None and constant.is_readable and constant.nbytes <= _SMALL:
            key = constant.digest()
        return self.numbers.setdefault(key, len(self.numbers))


def _walk(graph: Graph, table: _Table) -> Iterator[Node]:
    """Yield the nodes in order, those nested in a node right after it, keeping the table's scopes."""
    stack = [_scope(graph, table)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            table.leave()
            continue
        yield node
        if not node.domain and node.attributes:
            stack.extend(_scope(nested, table) for nested in reversed(node.graphs()))


def _scope(graph: Graph, table: _Table) -> Iterator[Node]:
    table.enter()
    yield from graph.nodes()


def _visit(node: Node, table: _Table, merged: dict[Node, list[Node]], ctx: Context) -> None:
    if (not node.domain and node.op in _NEVER) or not is_pure(node):
        return
    key = _key(node, table)
    earlier = table.known.get(key) if key is not None else None
    if isinstance(earlier, Node):
        for out, kept in zip(node.outputs, earlier.outputs, strict=True):
            table.stands_for(kept, out)
        merged.setdefault(earlier, []).append(node)
        ctx.count(f"merge {node.op}")
        return
    if key is not None:
        table.add(key, node)
    _merge_contents(node, table, ctx)


def _key(node: Node, table: _Table) -> Hashable | None:
    """Return what nodes that compute the same have in common, ``None`` when that cannot be told."""
    attributes = []
    definition = node_schema(node) if node.attributes else None
    for name in sorted(node.attributes):
        spelled = _spelling(node.attributes[name])
        if spelled is None:
            return None
        formal = definition.attributes.get(name) if definition is not None else None
        if formal is None or formal.default is None or formal.default != node.attributes[name].value:
            attributes.append((name, spelled))
    operands = [table.number(v) for v in node.inputs]
    if not node.domain and node.op in _COMMUTATIVE:
        operands.sort()
    present = tuple(not o.absent for o in node.outputs)
    return node.domain, node.op, node.version, tuple(operands), present, tuple(attributes)


def _spelling(attr: Attr) -> Hashable | None:
    """Return an attribute's kind and value such that equal spellings mean equal bits."""
    if attr.kind in ("int", "ints", "string", "strings"):
        return attr.kind, attr.value
    if attr.kind in ("float", "floats"):
        numbers = (attr.value,) if attr.kind == "float" else tuple(attr.value)
        return attr.kind, struct.pack(f"<{len(numbers)}d", *numbers)
    if attr.kind == "tensor" and attr.value.is_readable:
        return attr.kind, attr.value.digest()
    return None


def _merge_contents(node: Node, table: _Table, ctx: Context) -> None:
    """Let outputs whose symbolic contents were computed before be the earlier values."""
    for out in node.outputs:
        key = _contents_key(out)
        earlier = table.known.get(key) if key is not None else None
        if isinstance(earlier, Value):
            table.stands_for(earlier, out)
            ctx.count("merge equal contents")
        elif key is not None:
            table.add(key, out)


def _contents_key(value: Value) -> Hashable | None:
    if value.contents is None or not value.is_used or is_static(value.contents):
        return None
    kind = value.type
    if (
        not isinstance(kind, TensorType)
        or not kind.is_static
        or not (kind.dtype.is_integer or kind.dtype is DType.BOOL)
    ):
        return None
    return kind.dtype, kind.shape, value.contents

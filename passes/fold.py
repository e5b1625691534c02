"""Compute at compile time what depends on constants only, as long as the model does not grow for it.

The pass selects first, from types alone: no result is computed whose size is not bounded.  Then it evaluates
what it can in this process and everything else in one call of the runtime's own kernels.

Decisions:

* A part of the graph that depends on constants only is taken as a whole.  It stores the values that others
  read, and frees the constants that nobody else reads; the difference is its growth.  A transposed weight
  that is also read as it is frees nothing.  Results of at most 1 KiB are always worth it, and growth beyond
  that is paid from ``budget``.
* An operator whose result is larger than all its operands together by more than ``growth`` (``Expand``,
  ``Tile``, ``Range``, ``ConstantOfShape``, a broadcast) is not folded: the runtime makes the tensor when it
  loads the model. ``Cast`` may grow as far as the budget goes.
* ``QuantizeLinear`` and ``DequantizeLinear`` of weights stay: fusions look for them, and the weights stay
  small.
* Inputs with a default value are no constants, since callers may override them.
* What fails to evaluate (an index out of range, say) is left alone: the model fails at run time as it did
  before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.evaluate import evaluate, output_bytes_bound
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.schema import is_pure
from compiler.ir.types import TensorType
from compiler.rewrite.transform import Context, Evaluator, Pass
from passes.node_forms import open_graphs, replace_by_constant, unused
from passes.sizes import parse_bytes

_NEVER = frozenset({"Identity", "Constant", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_SMALL = 1024
"""Bytes up to which a result is always worth storing."""

_LEAST_LIMIT = 1 << 20
"""Bytes that any result may take in memory: selection has bounded what it takes in a file."""

_CALLS = 64
"""Calls of the runtime that a pass may make to find out which nodes fail."""


@dataclass(frozen=True)
class Fold(Pass):
    """Compute what depends on constants only.

    ``budget`` bounds by how much the model may grow in total, ``growth`` by how much one operator may add to
    the size of its operands.
    """

    budget: str = "16MiB"
    growth: str = "1MiB"

    def __post_init__(self) -> None:
        """Refuse options that are no sizes, before anything runs."""
        self._limits()

    def _limits(self) -> tuple[int, int]:
        return (
            parse_bytes(self.budget, where=f"option budget of {self.name}"),
            parse_bytes(self.growth, where=f"option growth of {self.name}"),
        )

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Select, evaluate, and put constants in place of what was computed."""
        selection = _Selection(*self._limits(), ctx)
        for g in open_graphs(graph):
            for node in g.nodes():
                selection.consider(node)
        groups = selection.affordable()
        pending = _evaluate_here([n for group in groups for n in group], ctx)
        changed = pending.folded
        if pending.nodes and ctx.evaluate is not None:
            left = [[n for n in group if n in pending.nodes] for group in groups]
            changed += _evaluate_there([group for group in left if group], ctx.evaluate, ctx)
        return changed > 0


# Selection ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Selection:
    """Nodes that depend on constants only, with the bytes of their results."""

    budget: int
    growth: int
    ctx: Context
    sizes: dict[Node, int] = field(default_factory=dict)

    def consider(self, node: Node) -> None:
        """Add a node when all its operands are known and its result is small enough."""
        if not all(v is None or self._is_known(v) for v in node.inputs) or not _may_fold(node):
            return
        size = _result_bytes(node)
        if size is None:
            self.ctx.refuse(f"fold {node.op}: the size of the result is not known")
            return
        operands = sum(_bytes(v) or 0 for v in dict.fromkeys(node.inputs) if v is not None)
        limit = self.budget if node.op == "Cast" else self.growth
        if size > _SMALL and size - operands > limit:
            self.ctx.refuse(f"fold {node.op}: the result is much larger than its operands")
            return
        self.sizes[node] = size

    def _is_known(self, value: Value) -> bool:
        if value.constant is not None:
            return value.constant.is_readable and value.constant.dtype is not DType.STRING
        return value.node in self.sizes

    def affordable(self) -> list[list[Node]]:
        """Return the groups of nodes that belong together, in order, as far as the budget goes."""
        accepted = []
        for group in self._groups():
            if self._pay(group):
                accepted.append(group)
                continue
            self._drop(group)
            kept = self._without_inflation(group)
            for part in self._groups(kept):
                if self._pay(part):
                    accepted.append(part)
                else:
                    self._drop(part)
                    self.ctx.refuse("fold: constants that are read elsewhere too would be stored twice")
        return accepted

    def _drop(self, group: Iterable[Node]) -> None:
        for node in group:
            self.sizes.pop(node, None)

    def _groups(self, nodes: Sequence[Node] | None = None) -> list[list[Node]]:
        """Return the nodes that feed each other or share a large constant, by their first members."""
        members = list(self.sizes) if nodes is None else list(nodes)
        joined = _Partition(members)
        readers: dict[Value, Node] = {}
        for node in members:
            for value in node.inputs:
                if value is None:
                    continue
                if value.node is not None:
                    joined.join(value.node, node)
                elif (_bytes(value) or 0) > _SMALL:
                    joined.join(readers.setdefault(value, node), node)
        return joined.groups()

    def _pay(self, group: Sequence[Node]) -> bool:
        """Take what a group adds to the model from the budget, and return whether there was enough."""
        inside = set(group)
        stored = sum(
            s for n in group for o in n.outputs if _is_read_outside(o, inside) and (s := _bytes(o) or 0) > _SMALL
        )
        constants = dict.fromkeys(v for n in group for v in n.inputs if v is not None and v.constant is not None)
        freed = sum(s for v in constants if (s := _bytes(v) or 0) > _SMALL and not _is_read_outside(v, inside))
        cost = max(0, stored - freed)
        if cost > self.budget:
            return False
        self.budget -= cost
        return True

    def _without_inflation(self, group: Sequence[Node]) -> list[Node]:
        """Select a group again, without nodes that make much of little and what depends on these."""
        kept: dict[Node, int] = {}
        for node in group:
            size = _result_bytes(node) or 0
            operands = sum(_bytes(v) or 0 for v in dict.fromkeys(node.inputs) if v is not None)
            known = all(v is None or v.constant is not None or v.node in kept for v in node.inputs)
            if known and size <= max(operands, _SMALL):
                kept[node] = size
        self.sizes.update(kept)
        return list(kept)


class _Partition:
    """Disjoint groups of nodes."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._parent = {n: n for n in nodes}

    def _root(self, node: Node) -> Node:
        parent = self._parent
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def join(self, left: Node, right: Node) -> None:
        """Make one group of the groups of two nodes; a node that is in none changes nothing."""
        if left in self._parent:
            self._parent[self._root(right)] = self._root(left)

    def groups(self) -> list[list[Node]]:
        """Return the groups in order of their first members, the nodes of each in order."""
        found: dict[Node, list[Node]] = {}
        for node in self._parent:
            found.setdefault(self._root(node), []).append(node)
        return list(found.values())


def _may_fold(node: Node) -> bool:
    if node.domain or node.op in _NEVER or not node.inputs or unused(node) or not is_pure(node):
        return False
    if node.attributes and node.graphs():
        return False
    return all(o.absent or o.dtype not in (DType.STRING, DType.UNKNOWN) for o in node.outputs)


def _result_bytes(node: Node) -> int | None:
    """Return how many bytes the results take at most, ``None`` when nothing bounds them."""
    sizes = [_bytes(o) for o in node.outputs if not o.absent]
    known = [s for s in sizes if s is not None]
    return sum(known) if len(known) == len(sizes) else output_bytes_bound(node)


def _bytes(value: Value) -> int | None:
    """Return how many bytes a value takes in a file, ``None`` when its shape is not static."""
    if value.constant is not None:
        return value.constant.nbytes
    if not isinstance(value.type, TensorType):
        return None
    dims = [d for d in value.type.shape if isinstance(d, int)]
    return value.dtype.packed_bytes(math.prod(dims)) if len(dims) == len(value.type.shape) else None


def _is_read_outside(value: Value, inside: set[Node]) -> bool:
    return value.is_output or any(node not in inside for node, _ in value.uses)


# Evaluation --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pending:
    """Nodes that this process cannot evaluate, and how many results it has put into the graph."""

    nodes: dict[Node, None] = field(default_factory=dict)
    folded: int = 0


def _evaluate_here(nodes: Sequence[Node], ctx: Context) -> _Pending:
    """Evaluate nodes one after the other, and replace the results that others read."""
    pending = _Pending()
    results: dict[Value, Constant] = {}
    done: list[Node] = []
    for node in nodes:
        computed = _compute(node, results)
        if computed is None:
            pending.nodes[node] = None
            continue
        results.update(zip(node.outputs, computed, strict=True))
        done.append(node)
    pending.folded = _put_in_place(done, results, ctx)
    return pending


def _compute(node: Node, results: dict[Value, Constant]) -> list[Constant] | None:
    operands = [None if v is None else v.constant or results.get(v) for v in node.inputs]
    if any(c is None and v is not None for c, v in zip(operands, node.inputs, strict=True)):
        return None
    limit = max(_LEAST_LIMIT, 8 * (_result_bytes(node) or 0))  # in memory, packed elements take a byte each
    arrays = evaluate(node, [None if c is None else c.array() for c in operands], limit=limit)
    if arrays is None or len(arrays) != len(node.outputs):
        return None
    computed = [Constant.from_array(a, o.dtype) for a, o in zip(arrays, node.outputs, strict=True)]
    fits = all(o.absent or _fits(c, o) for c, o in zip(computed, node.outputs, strict=True))
    return computed if fits else None


def _fits(constant: Constant, value: Value) -> bool:
    """True when a result is of the type that inference found."""
    if constant.dtype is not value.dtype or constant.array().dtype != value.dtype.numpy:
        return False
    shape = value.shape
    if shape is None:
        return True
    pairs = zip(constant.shape, shape, strict=False)
    return len(shape) == len(constant.shape) and all(not isinstance(d, int) or d == n for n, d in pairs)


def _put_in_place(nodes: Sequence[Node], results: dict[Value, Constant], ctx: Context) -> int:
    """Replace the results that others read by constants, erase the nodes, and free the operands."""
    inside = set(nodes)
    operands = dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v.constant is not None)
    wanted = [o for n in nodes for o in n.outputs if o in results and _is_read_outside(o, inside)]
    for value in wanted:
        if value.is_used:
            replace_by_constant(value, results[value])
    for node in reversed(nodes):
        ctx.count(f"fold {node.op}")
        if node.graph is not None and unused(node):
            edit.erase(node)
    for value in operands:
        if value.graph is not None and not value.is_used:
            edit.erase_constant(value)
    return len(wanted)


def _evaluate_there(groups: list[list[Node]], run: Evaluator, ctx: Context) -> int:
    """Evaluate groups of nodes by the runtime: all at once, or by halves where something fails."""
    todo, folded, calls = [groups], 0, 0
    while todo and calls < _CALLS:
        batch = todo.pop()
        nodes = [n for group in batch for n in group]
        inside = set(nodes)
        wanted = [o for n in nodes for o in n.outputs if _is_read_outside(o, inside)]
        answer = run(nodes, wanted)
        calls += 1
        if not isinstance(answer, str) and all(map(_fits, answer, wanted)):
            folded += _put_in_place(nodes, dict(zip(wanted, answer, strict=True)), ctx)
        elif len(batch) > 1:
            half = len(batch) // 2
            todo += [batch[half:], batch[:half]]
        else:
            ctx.refuse(f"fold {nodes[0].op}: {answer if isinstance(answer, str) else 'a result of another type'}")
    return folded

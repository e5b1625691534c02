"""Check the invariants of graphs: what ``compiler.ir.graph`` promises and every pass may rely on.

One walk in program order, linear in the size of the model, nested graphs on a stack: a value is visible from its
definition to the end of its graph.  The walk collects problems as text only when it finds one, so that checking a
graph of 100,000 nodes after each pass costs a fraction of a second.

``verify_changes`` looks only at what a journal says was touched; the order of nodes is beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from compiler.errors import InvariantError
from compiler.ir.constant import Constant
from compiler.ir.dims import Expr
from compiler.ir.dtype import DType
from compiler.ir.edit import Journal
from compiler.ir.graph import Attr, Graph, Model, Node, Value
from compiler.ir.types import SparseType, TensorType


def verify(graph_or_model: Graph | Model) -> None:
    """Raise ``InvariantError`` when an invariant does not hold; a nested graph stands for the model it is in."""
    root = graph_or_model.graph if isinstance(graph_or_model, Model) else graph_or_model
    while root.owner is not None and root.owner.graph is not None:
        root = root.owner.graph
    _Verifier(root).run()


def verify_changes(journal: Journal) -> None:
    """Raise ``InvariantError`` when a node that the journal touched breaks an invariant that can be seen locally."""
    for node in journal.inserted:
        _check(node.graph is not None, node, "is recorded as inserted and stands in no graph")
        _check_local(node)
    for node in journal.modified:
        if node not in journal.erased:
            _check_local(node)
    for node in journal.erased:
        _check(node.graph is None, node, "is recorded as erased and stands in a graph")


def _check_local(node: Node) -> None:
    _check_attributes(node)
    enclosing = _enclosing(node)
    for i, value in enumerate(node.inputs):
        if value is None:
            continue
        _check((node, i) in value.uses, node, f"reads {value!r}, whose use list does not know it")
        _check(value.graph in enclosing, node, f"reads {value!r}, which is not visible here")
        _check(value.node is None or value.node.graph is not None, node, f"reads {value!r}, whose node was erased")
    for i, value in enumerate(node.outputs):
        _check_output(node, i, value)


def _enclosing(node: Node) -> dict[Graph | None, None]:
    found: dict[Graph | None, None] = {}
    graph = node.graph
    while graph is not None:
        found[graph] = None
        graph = graph.parent
    return found


def _fail(subject: object, why: str, graph: Graph | None = None) -> InvariantError:
    where = f"{subject!r}" + (f" in graph {graph.name!r}" if graph is not None else "")
    origin = f" from {subject.loc}" if isinstance(subject, Node) and subject.loc.names else ""
    return InvariantError(
        "the graph is broken", where=where + origin, why=why, hint="this is a bug in ampc; please report it"
    )


def _check(holds: bool, node: Node, why: str) -> None:
    if not holds:
        raise _fail(node, f"the node {why}", node.graph)


class _Verifier:
    """One walk over a root graph."""

    def __init__(self, root: Graph) -> None:
        self.root = root
        self.visible: set[Value] = set()
        self.names: dict[str, Value] = {}
        self.values: list[Value] = []
        self.reads = 0
        self.returns = 0
        self.recorded = 0
        self.recorded_returns = 0

    def run(self) -> None:
        """Check everything."""
        if self.root.owner is not None:
            raise _fail(self.root.owner, "the node owns a graph and stands in none itself")
        self._open(self.root)
        stack = [(self.root, self._walk(self.root))]
        while stack:
            graph, walk = stack[-1]
            nested = next(walk, None)
            if nested is None:
                self._close(graph)
                stack.pop()
            else:
                self._open(nested)
                stack.append((nested, self._walk(nested)))
        self._check_totals()

    def _walk(self, graph: Graph) -> Iterator[Graph]:
        """Check the nodes in order; yield nested graphs to be checked before going on."""
        visible, count, previous = self.visible, 0, None
        node = graph._first
        while node is not None:
            if node.graph is not graph or node.previous is not previous or count >= graph.node_count:
                raise self._broken_list(graph, node, count)
            for i, value in enumerate(node.inputs):
                if value is None:
                    continue
                if value not in visible:
                    raise self._undefined(value, node, graph)
                if (node, i) not in value.uses:
                    raise _fail(value, f"its use list lacks operand {i} of {node!r}", graph)
                self.reads += 1
            if node.attributes:
                _check_attributes(node)
                yield from node.graphs()
            for i, value in enumerate(node.outputs):
                _check_output(node, i, value)
                if value.name:
                    visible.add(value)
                    self.recorded += len(value.uses)
                    self.recorded_returns += len(value.returned)
            previous, node, count = node, node.next, count + 1
        if graph._last is not previous or count != graph.node_count:
            raise _fail(previous, f"the list of nodes ends after {count}, {graph.node_count} are recorded", graph)

    # Graphs --------------------------------------------------------------------------------------

    def _open(self, graph: Graph) -> None:
        if graph.model is not self.root.model:
            raise _fail(graph.owner, f"graph {graph.name!r} belongs to another model")
        for i, value in enumerate(graph.inputs):
            if value.node is not None or value.constant is not None or value.index != i or not value.name:
                raise _fail(value, f"it is input {i} and says that it is something else", graph)
            if value.default is not None:
                _check_default(value, value.default, graph)
            self._define(value, graph)
        for value in graph.constants:
            if value.constant is None or value.node is not None or not value.name:
                raise _fail(value, "it stands among the constants and is none", graph)
            _check_constant(value, value.constant, graph)
            self._define(value, graph)
        self._claim_names(graph)

    def _define(self, value: Value, graph: Graph) -> None:
        if value.graph is not graph:
            raise _fail(value, "it says that it is of another graph", graph)
        if value in self.visible:
            raise _fail(value, "it is defined twice", graph)
        _check_type(value, graph)
        self.visible.add(value)
        self.recorded += len(value.uses)
        self.recorded_returns += len(value.returned)

    def _claim_names(self, graph: Graph) -> None:
        names = self.names
        for value in _defined(graph):
            if value.name in names and value.name:
                raise _fail(value, f"the name is that of {names[value.name]!r} too", graph)
            names[value.name] = value

    def _close(self, graph: Graph) -> None:
        for i, value in enumerate(graph.outputs):
            if value not in self.visible:
                raise _fail(value, f"it is output {i} of the graph and not defined in it", graph)
            if (graph, i) not in value.returned:
                raise _fail(value, f"it does not know that it is output {i}", graph)
        self.returns += len(graph.outputs)
        if graph is self.root:
            return
        for value in _defined(graph):
            self.visible.discard(value)
            self.names.pop(value.name, None)

    # Errors --------------------------------------------------------------------------------------

    def _check_totals(self) -> None:
        """Compare use lists with operands: each operand was found in its list, so equal numbers mean equal sets."""
        if self.recorded == self.reads and self.recorded_returns == self.returns:
            return
        for graph in self.root.all_graphs():
            for value in _defined(graph):
                for node, i in value.uses:
                    if node.graph is None or node.input(i) is not value:
                        raise _fail(value, f"its use list names operand {i} of {node!r}, which is another", graph)
                for sub, i in value.returned:
                    if i >= len(sub.outputs) or sub.outputs[i] is not value:
                        raise _fail(value, f"it says that it is output {i} of {sub.name!r}, and is not", graph)
        raise _fail(self.root.name, "use lists name nodes that are not in the model")

    def _undefined(self, value: Value, node: Node, graph: Graph) -> InvariantError:
        if value.absent:
            return _fail(node, "it reads an output that is absent", graph)
        if value.node is not None and value.node.graph is graph:
            return _fail(node, f"it reads {value!r}, which is defined after it", graph)
        if value.node is not None and value.node.graph is None:
            return _fail(node, f"it reads {value!r}, whose node was erased", graph)
        return _fail(node, f"it reads {value!r}, which is not visible here", graph)

    def _broken_list(self, graph: Graph, node: Node, count: int) -> InvariantError:
        if node.graph is not graph:
            return _fail(node, "it is in the list of nodes and says that it is of another graph", graph)
        if count >= graph.node_count:
            return _fail(node, f"the list of nodes goes on after {count} nodes, or in circles", graph)
        return _fail(node, "the node before it in the list does not know it", graph)


def _defined(graph: Graph) -> Iterator[Value]:
    """Yield the values that a graph defines, in order, absent ones left out."""
    yield from graph.inputs
    yield from graph.constants
    node, count = graph._first, 0
    while node is not None and count < graph.node_count:
        for value in node.outputs:
            if value.name:
                yield value
        node, count = node.next, count + 1


def _check_output(node: Node, index: int, value: Value) -> None:
    if value.node is not node or value.index != index or value.graph is not node.graph:
        raise _fail(value, f"it is output {index} of {node!r} and says that it is something else", node.graph)
    if value.constant is not None or value.default is not None:
        raise _fail(value, "it is computed by a node and is a constant too", node.graph)
    if not value.name:
        _check(not value.is_used, node, f"does not make its output {index}, and somebody uses that")
    _check_type(value, node.graph)


def _check_type(value: Value, graph: Graph | None) -> None:
    if not isinstance(value.type, TensorType):
        return
    for dim in value.type.shape:
        if (dim.__class__ is int and dim >= 0) or dim.__class__ is Expr:
            continue
        raise _fail(value, f"its dim {dim!r} is below zero, or neither an int nor an Expr", graph)


def _check_default(value: Value, default: Constant, graph: Graph) -> None:
    if value.dtype is not default.dtype:
        raise _fail(value, f"its default is of type {default.dtype}", graph)


def _check_constant(value: Value, constant: Constant, graph: Graph) -> None:
    type_ = value.type
    if not isinstance(type_, TensorType | SparseType):
        raise _fail(value, "it is a constant and its type is not that of a tensor", graph)
    if (type_.dtype, type_.shape) != (constant.dtype, constant.shape) and constant.dtype is not DType.UNKNOWN:
        raise _fail(value, f"its contents are {constant.dtype}{list(constant.shape)}", graph)


# Attributes --------------------------------------------------------------------------------------


def _is_int(value: Any) -> bool:
    return value.__class__ is int and -(1 << 63) <= value < 1 << 63


_FITS: dict[str, Callable[[Any], bool]] = {
    "int": _is_int,
    "float": lambda v: isinstance(v, float),
    "string": lambda v: isinstance(v, str | bytes),
    "tensor": lambda v: isinstance(v, Constant),
    "graph": lambda v: isinstance(v, Graph),
    "sparse": lambda v: v is not None,
    "type": lambda v: v is not None,
}
"""Kind of an attribute → whether a value is of that kind."""


def _check_attributes(node: Node) -> None:
    for name, attr in node.attributes.items():
        if not _attribute_fits(attr):
            raise _fail(node, f"attribute {name} says {attr.kind!r} and holds {attr.value!r}", node.graph)
        if attr.kind in ("graph", "graphs"):
            graphs = attr.value if attr.kind == "graphs" else (attr.value,)
            _check(all(g.owner is node for g in graphs), node, f"does not own the graph of its attribute {name}")
    nested = node.graphs()
    _check(len(set(nested)) == len(nested), node, "has one graph in two attributes")


def _attribute_fits(attr: Attr) -> bool:
    single = _FITS.get(attr.kind)
    if single is not None:
        return single(attr.value)
    element = _FITS.get(attr.kind[:-1])
    return (
        element is not None and attr.kind.endswith("s") and type(attr.value) is tuple and all(map(element, attr.value))
    )

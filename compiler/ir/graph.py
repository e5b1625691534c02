"""The graph: typed SSA values, nodes in order, nested graphs, and the model around them.

Read-only for everyone but ``compiler.ir.edit``: the methods here answer questions, that module makes changes.

Invariants (``compiler.ir.verify`` checks them): a value is an input, a constant, or the output of one node; every use
is recorded on the value it uses, nested graphs included; nodes stand in topological order; names are unique within a
graph and do not hide a name of an enclosing graph.

Decisions: nodes form a doubly linked list, so that insertion and removal cost the same anywhere in a graph of 100,000
nodes.  A missing optional input is ``None``; an output that is not wanted is a value without a name (``absent``).
Attributes keep their ONNX kind, since an empty list does not tell it.  ``Node.version`` is the opset version of the
node's domain whose definition gives the node its meaning: lifted nodes carry the newest version that ampc knows,
nodes that cannot be lifted the version of their model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from compiler.ir.constant import Array, Constant
from compiler.ir.dims import Dim, Expr, symbol
from compiler.ir.dtype import DType
from compiler.ir.types import UNKNOWN, Shape, TensorType, Type, dtype_of


@dataclass(frozen=True, slots=True, eq=True)
class Attr:
    """An attribute: its ONNX kind and its value.

    ``kind`` is one of ``int float string tensor graph sparse type`` or the plural of these for lists.  Values are
    ``int``, ``float`` (of float32 precision), ``str`` (``bytes`` when not UTF-8), ``Constant``, ``Graph``, an opaque
    protobuf for sparse and type, and tuples of these for lists.
    """

    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class Loc:
    """Where a node comes from: names of the user's nodes, and the rewrites that made it, newest first."""

    names: tuple[str, ...] = ()
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        escaped = [n.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for n in self.names]
        quoted = ", ".join(f'"{n}"' for n in escaped)
        return f"{' < '.join(self.by)}: {quoted}" if self.by else quoted


class Value:
    """A typed SSA name: a graph input, a constant, or an output of a node.

    ``contents`` is what analysis knows of a small integer tensor's elements, in row-major order: dims, possibly
    symbolic.  ``declared`` is the model's own ValueInfoProto of an input or output, emitted unchanged.
    ``default`` is the initializer of an input that callers may override: it is not a constant.
    ``uses`` are the operands (node, index) that read the value, ``returned`` the graph outputs (graph, index) that
    return it.
    """

    __slots__ = (
        "constant", "contents", "declared", "default", "graph", "index", "metadata", "name", "node", "returned",
        "type", "uses",
    )  # fmt: skip

    def __init__(self, name: str, type_: Type = UNKNOWN) -> None:
        self.name = name
        self.type: Type = type_
        self.node: Node | None = None
        self.index = 0
        self.graph: Graph | None = None
        self.constant: Constant | None = None
        self.contents: tuple[Dim, ...] | None = None
        self.uses: dict[tuple[Node, int], None] = {}
        self.returned: dict[tuple[Graph, int], None] = {}
        self.declared: Any = None
        self.default: Constant | None = None
        self.metadata: Any = None

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"

    @property
    def absent(self) -> bool:
        """True for an optional output that is not wanted."""
        return not self.name

    @property
    def is_input(self) -> bool:
        """True for an input of a graph (nested ones included)."""
        return self.node is None and self.constant is None and not self.absent

    @property
    def is_output(self) -> bool:
        """True when the value is an output of its graph or of a nested graph."""
        return bool(self.returned)

    @property
    def is_used(self) -> bool:
        """True when a node reads the value or a graph returns it."""
        return bool(self.uses) or bool(self.returned)

    @property
    def dtype(self) -> DType:
        """Element type; ``DType.UNKNOWN`` when it is not known or the value is no tensor."""
        return dtype_of(self.type)

    @property
    def shape(self) -> Shape | None:
        """Dims when the value is a tensor of known rank, else ``None``."""
        return self.type.shape if isinstance(self.type, TensorType) else None

    @property
    def rank(self) -> int | None:
        """Number of dims when known, else ``None``."""
        return len(self.type.shape) if isinstance(self.type, TensorType) else None

    def array(self) -> Array | None:
        """Return the constant's contents, ``None`` when the value is no readable constant."""
        return self.constant.array() if self.constant is not None and self.constant.is_readable else None

    def users(self) -> list[Node]:
        """Return the nodes that read the value, each once, in order of their first use."""
        return list(dict.fromkeys(node for node, _ in self.uses))


class Node:
    """An application of an operator.

    ``domain`` is ``""`` for the default ONNX domain.  ``name`` is the user's node name (kept), ``loc`` its origin.
    ``extra`` holds what is carried through untouched (doc string, metadata, overload, device configurations).
    """

    __slots__ = (
        "attributes", "domain", "extra", "graph", "inputs", "loc", "name", "next", "op", "outputs", "previous",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        op: str,
        inputs: tuple[Value | None, ...],
        outputs: tuple[Value, ...],
        attributes: dict[str, Attr] | None = None,
        *,
        domain: str = "",
        version: int = 0,
        name: str = "",
        loc: Loc | None = None,
    ) -> None:
        self.op = op
        self.domain = domain
        self.version = version
        self.inputs = inputs
        self.outputs = outputs
        self.attributes = attributes or {}
        self.name = name
        self.loc = loc or Loc((name,) if name else ())
        self.graph: Graph | None = None
        self.previous: Node | None = None
        self.next: Node | None = None
        self.extra: Any = None

    def __repr__(self) -> str:
        outs = ", ".join(f"%{o.name}" for o in self.outputs)
        ins = ", ".join(f"%{i.name}" if i else "_" for i in self.inputs)
        return f"{outs} = {self.qualified}({ins})"

    @property
    def qualified(self) -> str:
        """The operator with its domain, ``com.microsoft::Gelu``; the default domain is not written."""
        return f"{self.domain}::{self.op}" if self.domain else self.op

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    def input(self, index: int) -> Value | None:
        """Return an input, ``None`` when it is missing or beyond the end."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute's plain value, or ``default`` when the node does not set it."""
        found = self.attributes.get(name)
        return default if found is None else found.value

    def is_op(self, *ops: str) -> bool:
        """True when the node is one of these operators of the default domain."""
        return not self.domain and self.op in ops

    def graphs(self) -> list[Graph]:
        """Return the nested graphs of the node, in attribute order."""
        found: list[Graph] = []
        for a in self.attributes.values():
            if a.kind == "graph":
                found.append(a.value)
            elif a.kind == "graphs":
                found.extend(a.value)
        return found


class Graph:
    """Nodes in topological order, inputs, outputs and constants; nested when ``owner`` is a node.

    ``owners`` are the nodes that hold nested graphs, so that a model without any is not searched for them.
    """

    __slots__ = (
        "_first", "_last", "constants", "extra", "inputs", "model", "name", "node_count", "outputs", "owner", "owners",
    )  # fmt: skip

    def __init__(self, name: str, model: Model, owner: Node | None = None) -> None:
        self.name = name
        self.model = model
        self.owner = owner
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.constants: dict[Value, None] = {}
        self.node_count = 0
        self.owners: dict[Node, None] = {}
        self.extra: Any = None
        self._first: Node | None = None
        self._last: Node | None = None

    def nodes(self) -> Iterator[Node]:
        """Yield the nodes in order; the graph may be changed meanwhile, erased nodes are passed over."""
        node = self._first
        while node is not None:
            yield node
            node = node.next
            while node is not None and node.graph is not self:
                node = node.next

    def reversed_nodes(self) -> Iterator[Node]:
        """Yield the nodes from the last to the first; the graph may be changed meanwhile."""
        node = self._last
        while node is not None:
            yield node
            node = node.previous
            while node is not None and node.graph is not self:
                node = node.previous

    def __len__(self) -> int:
        return self.node_count

    @property
    def parent(self) -> Graph | None:
        """The enclosing graph, ``None`` for the main graph."""
        return self.owner.graph if self.owner is not None else None

    def all_graphs(self) -> Iterator[Graph]:
        """Yield this graph and all nested ones, outer before inner, in node order."""
        todo = [self]
        while todo:
            graph = todo.pop()
            yield graph
            if graph.owners:
                nested = [g for n in graph.nodes() if n in graph.owners for g in n.graphs()]
                todo.extend(reversed(nested))

    def all_nodes(self) -> Iterator[Node]:
        """Yield the nodes of this graph and of all nested ones."""
        for graph in self.all_graphs():
            yield from graph.nodes()


@dataclass(slots=True)
class Model:
    """A graph with what surrounds it: opset imports, versions, metadata, and functions carried through.

    ``opsets`` are the imports of the source; ``extra`` is whatever the frontend must hand to the backend untouched.
    """

    graph: Graph = None  # type: ignore[assignment]  # set by the builder right after construction
    opsets: dict[str, int] = field(default_factory=dict)
    ir_version: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    functions: tuple[Any, ...] = ()
    extra: Any = None
    journal: Any = None
    _names: dict[str, int] = field(default_factory=dict)
    _suffixes: dict[str, int] = field(default_factory=dict)
    _fresh_dims: int = 0

    def claim(self, name: str) -> str:
        """Record a name as taken and return it."""
        self._names[name] = self._names.get(name, 0) + 1
        return name

    def is_taken(self, name: str) -> int:
        """Return how often a name was claimed anywhere in the model."""
        return self._names.get(name, 0)

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names that will be claimed later from being made up for others."""
        for name in names:
            self._names.setdefault(name, 0)

    def fresh_name(self, hint: str) -> str:
        """Claim and return a name that nothing in the model has, derived from ``hint``."""
        name, count = hint, self._suffixes.get(hint, 0)
        while name in self._names or not name:
            count += 1
            name = f"{hint}_{count}"
        self._suffixes[hint] = count
        return self.claim(name)

    def fresh_dim(self) -> Expr:
        """Return a symbol that stands for a dim of which nothing is known."""
        self._fresh_dims += 1
        return symbol(f"?{self._fresh_dims}")

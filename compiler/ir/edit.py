"""The one module that changes graphs.

Every change is a handful of primitive steps (``ir.steps``), and each step that runs while the model has a ``Journal``
is recorded with its inverse: a transaction is undone by playing the journal backwards, and what a pass touched is read
from it.

Contract of every function: the graph is valid before, and valid after.  Names of the user's values survive: when a
value that a graph returns is replaced, the replacement takes its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compiler.ir.constant import Constant
from compiler.ir.graph import Attr, Graph, Loc, Model, Node, Value
from compiler.ir.journal import Journal, begin, commit, record, rollback
from compiler.ir.steps import (
    add_uses,
    attach,
    detach,
    erase,
    link,
    nested,
    rename,
    rewire,
    rewire_at,
    set_attribute,
    set_contents,
    set_input,
    set_inputs,
    set_output,
    set_type,
    unlink,
)
from compiler.ir.types import UNKNOWN, TensorType, Type, UnknownType, UnrankedType

__all__ = [
    "NEWEST",
    "Journal",
    "add_constant",
    "add_input",
    "add_node",
    "add_output",
    "add_uses",
    "adopt",
    "adopt_constant",
    "attach",
    "attach_constant",
    "begin",
    "commit",
    "detach",
    "drop_output",
    "erase",
    "erase_constant",
    "import_domain",
    "latest_version",
    "link",
    "merge_locs",
    "move_before",
    "needs_carrier",
    "nested",
    "new_graph",
    "record",
    "refine",
    "release_outputs",
    "rename",
    "replace",
    "replace_all",
    "replaced",
    "rewire",
    "rewire_at",
    "rollback",
    "set_attribute",
    "set_contents",
    "set_input",
    "set_inputs",
    "set_loc",
    "set_output",
    "set_type",
    "transfer",
    "transfer_constant",
    "unknown_value",
    "unlink",
]


def add_node(
    graph: Graph,
    op: str,
    inputs: Sequence[Value | None],
    types: Sequence[Type],
    attributes: dict[str, Attr] | None = None,
    *,
    domain: str = "",
    version: int = 0,
    before: Node | None = None,
    names: Sequence[str] = (),
    hint: str = "",
    loc: Loc | None = None,
) -> Node:
    """Make a node with fresh output values of the given types and put it into the graph.

    ``names`` are hints for the outputs' names (an empty one makes the output absent only when its type is unknown and
    ``names`` was given); without them they derive from ``hint`` or the operator.
    """
    model = graph.model
    outputs = []
    for i, type_ in enumerate(types):
        wanted = names[i] if i < len(names) else f"{hint or op}" + (f"_out{i}" if i else "")
        outputs.append(Value(model.fresh_name(wanted), type_))
    kept = list(inputs)
    while kept and kept[-1] is None:
        kept.pop()
    node = Node(op, tuple(kept), tuple(outputs), attributes, domain=domain, version=version, loc=loc)
    return attach(graph, node, before=before)


def add_constant(graph: Graph, constant: Constant, *, hint: str = "const") -> Value:
    """Add a constant to a graph and return its value."""
    dims = constant.shape
    value = Value(graph.model.fresh_name(hint), TensorType(constant.dtype, dims))
    return attach_constant(graph, value, constant)


def attach_constant(graph: Graph, value: Value, constant: Constant) -> Value:
    """Make an unattached value a constant of the graph, under its own name."""
    value.constant, value.graph = constant, graph
    graph.constants[value] = None
    record(graph.model, lambda: graph.constants.__delitem__(value))
    return value


def erase_constant(value: Value) -> None:
    """Remove a constant that nothing uses."""
    graph = value.graph
    assert graph is not None
    assert not value.is_used, f"erasing the constant {value!r} which is in use"
    _remember_constants(graph)
    del graph.constants[value]
    record(graph.model, lambda: graph.constants.__setitem__(value, None))


def _remember_constants(graph: Graph) -> None:
    if (journal := graph.model.journal) is not None and graph not in journal.constants_before:
        journal.constants_before[graph] = dict(graph.constants)


def replace(old: Value, new: Value) -> None:
    """Let every use of ``old`` read ``new`` instead, the graphs' outputs included.

    ``new`` must be visible wherever ``old`` is.  Where a graph returns ``old``, the name that it returns stays the
    same: ``new`` takes the name if it is a node's output of the same graph that is not returned itself, otherwise an
    ``Identity`` carries it.
    """
    if old is new:
        return
    graph = old.graph
    assert graph is not None
    for node, index in list(old.uses):
        rewire_at(node, index, new)
    replaced(old, new)
    if old.returned:
        _replace_outputs(graph, old, new)


def replace_all(pairs: Sequence[tuple[Value, Value]]) -> None:
    """Replace many values (the first of each pair), none of which stands for another one.

    Does what ``replace`` does for each pair, but changes each reader once, however many of its operands change.
    """
    standing = dict(pairs)
    for node in dict.fromkeys(node for old, _ in pairs for node, _ in old.uses):
        rewire(node, tuple(standing.get(v, v) if v is not None else None for v in node.inputs))
    for old, new in pairs:
        replaced(old, new)
        if old.returned and old.graph is not None:
            _replace_outputs(old.graph, old, new)


def replaced(old: Value, new: Value) -> None:
    """Record that one value stands for another from now on."""
    if old.graph is not None and (journal := old.graph.model.journal) is not None:
        journal.replaced.append((old, new))


def _replace_outputs(home: Graph, old: Value, new: Value) -> None:
    """Return ``new`` wherever ``old`` is returned, under the name that is returned now."""
    standing: dict[Graph, Value] = {}
    for graph, index in list(old.returned):
        if graph not in standing:
            standing[graph] = _returnable(graph, old, new)
            if graph is home:
                _swap_names(old, standing[graph])
                _set_declared(standing[graph], old.declared)
        set_output(graph, index, standing[graph])


def _returnable(graph: Graph, old: Value, new: Value) -> Value:
    """Return ``new``, or an ``Identity`` of it where the graph cannot return it under another name."""
    if graph is old.graph and not _must_keep_name(new, graph):
        return new
    version = latest_version(graph.model)
    return add_node(graph, "Identity", [new], [new.type], names=[old.name], version=version, loc=_origin(old)).output


def _set_declared(value: Value, declared: object) -> None:
    before = value.declared
    value.declared = declared
    if value.graph is not None:
        record(value.graph.model, lambda: setattr(value, "declared", before))


def needs_carrier(old: Value, new: Value) -> bool:
    """True when replacing ``old`` by ``new`` would leave an ``Identity`` behind to keep the name of an output."""
    home = old.graph
    assert home is not None
    return any(graph is not home or _must_keep_name(new, home) for graph, _ in old.returned)


def _must_keep_name(value: Value, graph: Graph) -> bool:
    return value.node is None or value.graph is not graph or value.is_output


def _swap_names(old: Value, new: Value) -> None:
    kept = old.name
    rename(old, new.name)
    rename(new, kept)


def _origin(value: Value) -> Loc:
    return value.node.loc if value.node is not None else Loc()


def latest_version(model: Model) -> int:
    """Return the version that nodes of the default domain get when a pass makes them."""
    return max(model.opsets.get("", 0), NEWEST)


NEWEST = 26
"""The opset version of the default domain in whose forms lifted and new nodes are written."""


def move_before(node: Node, anchor: Node) -> None:
    """Move a node within its graph to stand before another one; operands must be defined there."""
    graph = node.graph
    assert graph is not None
    assert anchor.graph is graph
    after = node.next
    while after is not None and after.graph is not graph:
        after = after.next
    _move(node, graph, anchor)
    record(graph.model, lambda: _move(node, graph, after))


def transfer(node: Node, anchor: Node) -> None:
    """Move a node, with its outputs and nested graphs, out of its graph to stand before ``anchor`` in another one."""
    source, target = node.graph, anchor.graph
    assert source is not None
    assert target is not None
    after = node.next
    while after is not None and after.graph is not source:
        after = after.next
    _move(node, target, anchor)
    record(target.model, lambda: _move(node, source, after))


def _move(node: Node, graph: Graph, before: Node | None) -> None:
    unlink(node)
    link(graph, node, before)
    for out in node.outputs:
        out.graph = graph


def transfer_constant(value: Value, graph: Graph) -> None:
    """Move a constant, with its name and uses, into another graph."""
    source = value.graph
    assert source is not None
    _remember_constants(source)
    _move_constant(value, graph)
    record(graph.model, lambda: _move_constant(value, source))


def _move_constant(value: Value, graph: Graph) -> None:
    assert value.graph is not None
    del value.graph.constants[value]
    graph.constants[value] = None
    value.graph = graph


def set_loc(node: Node, loc: Loc) -> None:
    """Change where a node comes from."""
    old = node.loc
    node.loc = loc
    if node.graph is not None:
        record(node.graph.model, lambda: setattr(node, "loc", old))


def merge_locs(nodes: Iterable[Node], by: str) -> Loc:
    """Return the origin of a node that replaces ``nodes``: their names, each once, and the rewrite's name first."""
    names: dict[str, None] = {}
    rewrites: dict[str, None] = {by: None}
    for n in nodes:
        names.update(dict.fromkeys(n.loc.names))
        rewrites.update(dict.fromkeys(n.loc.by))
    return Loc(tuple(names), tuple(rewrites))


def refine(value: Value, type_: Type) -> None:
    """Change a value's type to one that says more; a type that says less is ignored."""
    if isinstance(type_, UnknownType):
        return
    if isinstance(type_, UnrankedType) and not isinstance(value.type, UnknownType | UnrankedType):
        return
    set_type(value, type_)


def new_graph(name: str, model: Model, owner: Node | None = None) -> Graph:
    """Return an empty graph that belongs to a model."""
    return Graph(name, model, owner)


def add_input(graph: Graph, value: Value) -> Value:
    """Append an input to a graph that is being built."""
    value.graph, value.index = graph, len(graph.inputs)
    graph.inputs.append(value)
    return value


def add_output(graph: Graph, value: Value) -> None:
    """Append an output to a graph that is being built."""
    value.returned[(graph, len(graph.outputs))] = None
    graph.outputs.append(value)


def unknown_value(name: str) -> Value:
    """Return a value of which nothing is known yet."""
    return Value(name, UNKNOWN)


def drop_output(node: Node, index: int) -> None:
    """Make an output that nothing uses absent; for graphs that are being built."""
    value = node.outputs[index]
    assert not value.is_used, f"{value!r} is in use"
    assert value.graph is None or value.graph.model.journal is None, "a transaction is open"
    value.name, value.type = "", UNKNOWN


def import_domain(model: Model, domain: str, version: int) -> None:
    """Import a domain that the model does not import yet."""
    if domain not in model.opsets:
        model.opsets[domain] = version
        record(model, lambda: model.opsets.__delitem__(domain))


def adopt(graph: Graph, node: Node) -> None:
    """Move a node, with its outputs and nested graphs, out of another model to the end of a graph.

    The other model's graph is used up: undoing the change does not bring the node back there.
    """
    detach(node)
    for sub in nested(node):
        sub.model = graph.model
        for value in _all_values(sub):
            graph.model.claim(value.name)
    for out in node.outputs:
        if not out.absent:
            graph.model.claim(out.name)
    attach(graph, node)


def adopt_constant(graph: Graph, value: Value) -> None:
    """Move a constant, under its own name, out of another model to a graph."""
    assert value.graph is not None
    assert value.constant is not None
    del value.graph.constants[value]
    graph.model.claim(value.name)
    attach_constant(graph, value, value.constant)


def release_outputs(graph: Graph) -> list[Value]:
    """Let a graph that is used up return nothing any more, and give what it returned."""
    outputs = list(graph.outputs)
    for i, value in enumerate(outputs):
        value.returned.pop((graph, i), None)
    graph.outputs = []
    return outputs


def _all_values(graph: Graph) -> Iterable[Value]:
    yield from graph.inputs
    yield from graph.constants
    for node in graph.nodes():
        yield from (out for out in node.outputs if not out.absent)

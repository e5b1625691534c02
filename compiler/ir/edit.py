"""The one module that changes graphs.

Every change is a handful of primitive steps, and each step that runs while the model has a ``Journal`` is recorded
with its inverse: a transaction is undone by playing the journal backwards, and what a pass touched is read from it.

Contract of every function: the graph is valid before, and valid after.  Names of the user's values survive: when a
value that a graph returns is replaced, the replacement takes its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from compiler.ir.constant import Constant
from compiler.ir.dims import Dim
from compiler.ir.graph import Attr, Graph, Loc, Model, Node, Value
from compiler.ir.types import UNKNOWN, TensorType, Type, UnknownType, UnrankedType


@dataclass(slots=True)
class Journal:
    """What changed since the journal was opened.

    ``inserted``, ``erased`` and ``modified`` are nodes in the order in which they were touched; a node that only reads
    a replacement is not modified.  ``inputs_before`` are the operands that an older node had before any change, and
    ``replaced`` are pairs (old value, value that took its uses).  ``constants_before`` is the order of a graph's
    constants before the first of them went.
    """

    undo: list[Callable[[], None]] = field(default_factory=list)
    inserted: dict[Node, None] = field(default_factory=dict)
    erased: dict[Node, Graph] = field(default_factory=dict)
    modified: dict[Node, None] = field(default_factory=dict)
    inputs_before: dict[Node, tuple[Value | None, ...]] = field(default_factory=dict)
    attributes_before: dict[Node, dict[str, Attr]] = field(default_factory=dict)
    replaced: list[tuple[Value, Value]] = field(default_factory=list)
    outputs_before: dict[Graph, list[Value]] = field(default_factory=dict)
    constants_before: dict[Graph, dict[Value, None]] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """True when any step was recorded."""
        return bool(self.undo)

    def rollback(self) -> None:
        """Undo every step, newest first."""
        while self.undo:
            self.undo.pop()()
        for graph, order in self.constants_before.items():
            graph.constants = {value: None for value in order if value in graph.constants}


def begin(model: Model) -> Journal:
    """Open a journal on the model; transactions do not nest."""
    assert model.journal is None, "a transaction is already open"
    model.journal = Journal()
    return model.journal  # type: ignore[no-any-return]


def commit(model: Model) -> Journal:
    """Close the journal and keep the changes."""
    journal: Journal = model.journal
    model.journal = None
    return journal


def rollback(model: Model) -> None:
    """Undo everything since ``begin`` and close the journal."""
    journal: Journal = model.journal
    model.journal = None
    journal.rollback()


def _record(model: Model, undo: Callable[[], None]) -> None:
    if model.journal is not None:
        model.journal.undo.append(undo)


# Primitive steps ---------------------------------------------------------------------------------


def _link(graph: Graph, node: Node, before: Node | None) -> None:
    previous = before.previous if before is not None else graph._last
    node.previous, node.next, node.graph = previous, before, graph
    if previous is not None:
        previous.next = node
    else:
        graph._first = node
    if before is not None:
        before.previous = node
    else:
        graph._last = node
    graph.node_count += 1


def _unlink(node: Node) -> None:
    graph = node.graph
    assert graph is not None
    if node.previous is not None:
        node.previous.next = node.next
    else:
        graph._first = node.next
    if node.next is not None:
        node.next.previous = node.previous
    else:
        graph._last = node.previous
    graph.node_count -= 1
    node.graph = None  # next/previous stay, so that a running iteration finds its way


def _add_uses(node: Node) -> None:
    for i, value in enumerate(node.inputs):
        if value is not None:
            value.uses[(node, i)] = None


def _drop_uses(node: Node) -> None:
    for i, value in enumerate(node.inputs):
        if value is not None:
            value.uses.pop((node, i), None)


def _nested(node: Node) -> list[Graph]:
    return [sub for g in node.graphs() for sub in g.all_graphs()] if node.attributes else []


def _attach(graph: Graph, node: Node, before: Node | None) -> None:
    _link(graph, node, before)
    _add_uses(node)
    for sub in _nested(node):
        for n in sub.nodes():
            _add_uses(n)
        for i, v in enumerate(sub.outputs):
            v.returned[(sub, i)] = None


def _detach(node: Node) -> None:
    _drop_uses(node)
    for sub in _nested(node):
        for n in sub.nodes():
            _drop_uses(n)
        for i, v in enumerate(sub.outputs):
            v.returned.pop((sub, i), None)
    _unlink(node)


def attach(graph: Graph, node: Node, *, before: Node | None = None) -> Node:
    """Put a finished node (with its outputs) into a graph, at the end or before another node."""
    model = graph.model
    for i, out in enumerate(node.outputs):
        out.node, out.index, out.graph = node, i, graph
    _attach(graph, node, before)
    if model.journal is not None:
        model.journal.inserted[node] = None
        _record(model, lambda: _detach(node))
    return node


def erase(node: Node) -> None:
    """Take a node out of its graph; none of its outputs may be in use."""
    graph = node.graph
    assert graph is not None
    assert not any(o.is_used for o in node.outputs), f"erasing {node!r} whose outputs are in use"
    model, after = graph.model, node.next
    while after is not None and after.graph is not graph:
        after = after.next
    _detach(node)
    journal = model.journal
    if journal is None:
        return
    if node in journal.inserted:
        del journal.inserted[node]

        def restore() -> None:
            journal.inserted[node] = None
            _attach(graph, node, after)

        _record(model, restore)
        return
    journal.erased[node] = graph
    _record(model, lambda: _attach(graph, node, after))


def set_input(node: Node, index: int, value: Value | None) -> None:
    """Change one operand of a node; operands beyond the end are filled with missing ones."""
    inputs = list(node.inputs) + [None] * (index + 1 - len(node.inputs))
    inputs[index] = value
    set_inputs(node, inputs)


def set_inputs(node: Node, inputs: Sequence[Value | None]) -> None:
    """Change all operands of a node; trailing missing ones are dropped."""
    new = list(inputs)
    while new and new[-1] is None:
        new.pop()
    old = node.inputs
    if tuple(new) == old:
        return
    _rewire(node, tuple(new))
    if node.graph is not None and (journal := node.graph.model.journal) is not None and node not in journal.inserted:
        journal.modified[node] = None


def _rewire(node: Node, inputs: tuple[Value | None, ...]) -> None:
    old = node.inputs
    _assign_inputs(node, inputs)
    if node.graph is not None and (journal := node.graph.model.journal) is not None:
        if node not in journal.inserted:
            journal.inputs_before.setdefault(node, old)
        _record(node.graph.model, lambda: _assign_inputs(node, old))


def _rewire_at(node: Node, index: int, value: Value | None) -> None:
    """Change one operand that is there; nodes may have tens of thousands, so the others are not looked at."""
    old = node.inputs[index]
    before = node.inputs
    _assign_input(node, index, value)
    if node.graph is not None and (journal := node.graph.model.journal) is not None:
        if node not in journal.inserted:
            journal.inputs_before.setdefault(node, before)
        _record(node.graph.model, lambda: _assign_input(node, index, old))


def _assign_input(node: Node, index: int, value: Value | None) -> None:
    old = node.inputs[index]
    inputs = list(node.inputs)
    inputs[index] = value
    node.inputs = tuple(inputs)
    if node.graph is None:
        return
    if old is not None:
        old.uses.pop((node, index), None)
    if value is not None:
        value.uses[node, index] = None


def _assign_inputs(node: Node, inputs: tuple[Value | None, ...]) -> None:
    if node.graph is None:
        node.inputs = inputs
        return
    _drop_uses(node)
    node.inputs = inputs
    _add_uses(node)


def set_attribute(node: Node, name: str, attr: Attr | None) -> None:
    """Set or (with ``None``) remove an attribute that holds no graph."""
    old = dict(node.attributes)
    new = dict(old)
    if attr is None:
        new.pop(name, None)
    else:
        new[name] = attr
    node.attributes = new
    if node.graph is not None and (journal := node.graph.model.journal) is not None:
        if node not in journal.inserted:
            journal.modified[node] = None
            journal.attributes_before.setdefault(node, old)
        _record(node.graph.model, lambda: setattr(node, "attributes", old))


def set_type(value: Value, type_: Type) -> None:
    """Change what is known of a value's type."""
    if value.type == type_:
        return
    old = value.type
    value.type = type_
    if value.graph is not None:
        _record(value.graph.model, lambda: setattr(value, "type", old))


def set_contents(value: Value, contents: tuple[Dim, ...] | None) -> None:
    """Change what is known of the elements of a small integer tensor."""
    if value.contents == contents:
        return
    old = value.contents
    value.contents = contents
    if value.graph is not None:
        _record(value.graph.model, lambda: setattr(value, "contents", old))


def rename(value: Value, name: str) -> None:
    """Give a value another name; the name must be free or just given up."""
    old = value.name
    value.name = name
    if value.graph is not None:
        value.graph.model.claim(name)
        _record(value.graph.model, lambda: setattr(value, "name", old))


def set_output(graph: Graph, index: int, value: Value) -> None:
    """Let a graph return another value at one of its outputs."""
    old = graph.outputs[index]
    if graph.model.journal is not None:
        graph.model.journal.outputs_before.setdefault(graph, list(graph.outputs))
    _assign_output(graph, index, value)
    _record(graph.model, lambda: _assign_output(graph, index, old))


def _assign_output(graph: Graph, index: int, value: Value) -> None:
    graph.outputs[index].returned.pop((graph, index), None)
    graph.outputs[index] = value
    value.returned[(graph, index)] = None


# Compound changes --------------------------------------------------------------------------------


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
    _record(graph.model, lambda: graph.constants.__delitem__(value))
    return value


def erase_constant(value: Value) -> None:
    """Remove a constant that nothing uses."""
    graph = value.graph
    assert graph is not None
    assert not value.is_used, f"erasing the constant {value!r} which is in use"
    _remember_constants(graph)
    del graph.constants[value]
    _record(graph.model, lambda: graph.constants.__setitem__(value, None))


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
        _rewire_at(node, index, new)
    replaced(old, new)
    if old.returned:
        _replace_outputs(graph, old, new)


def replace_all(pairs: Sequence[tuple[Value, Value]]) -> None:
    """Replace many values (the first of each pair), none of which stands for another one.

    Does what ``replace`` does for each pair, but changes each reader once, however many of its operands change.
    """
    standing = dict(pairs)
    for node in dict.fromkeys(node for old, _ in pairs for node, _ in old.uses):
        _rewire(node, tuple(standing.get(v, v) if v is not None else None for v in node.inputs))
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
        _record(value.graph.model, lambda: setattr(value, "declared", before))


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
    _record(graph.model, lambda: _move(node, graph, after))


def transfer(node: Node, anchor: Node) -> None:
    """Move a node, with its outputs and nested graphs, out of its graph to stand before ``anchor`` in another one."""
    source, target = node.graph, anchor.graph
    assert source is not None
    assert target is not None
    after = node.next
    while after is not None and after.graph is not source:
        after = after.next
    _move(node, target, anchor)
    _record(target.model, lambda: _move(node, source, after))


def _move(node: Node, graph: Graph, before: Node | None) -> None:
    _unlink(node)
    _link(graph, node, before)
    for out in node.outputs:
        out.graph = graph


def transfer_constant(value: Value, graph: Graph) -> None:
    """Move a constant, with its name and uses, into another graph."""
    source = value.graph
    assert source is not None
    _remember_constants(source)
    _move_constant(value, graph)
    _record(graph.model, lambda: _move_constant(value, source))


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
        _record(node.graph.model, lambda: setattr(node, "loc", old))


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
        _record(model, lambda: model.opsets.__delitem__(domain))


def adopt(graph: Graph, node: Node) -> None:
    """Move a node, with its outputs and nested graphs, out of another model to the end of a graph.

    The other model's graph is used up: undoing the change does not bring the node back there.
    """
    _detach(node)
    for sub in _nested(node):
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

"""Shape and type inference: fills ``Value.type`` and ``Value.contents`` of everything that nodes compute.

Types come from declared inputs of the main graph, from constants, and from rules (``infer_rules``);
``value_info`` is never looked at.  Inference does not fail: what cannot be found out is unknown, and a node
that contradicts itself has unknown outputs.

Decisions:

* A type that a value already has is a fact, since rewriting keeps what values are.  Inferring again therefore
  refines and never forgets, and keeps symbols that stand for unknown dims: a second run changes nothing.
* Inputs of nested graphs are recomputed from what the owning node passes in; what the model declares of them
  is not enforced by ONNX Runtime.
* What a ``Loop`` carries is first assumed to keep its shape; dims that the body turns out to change become
  unknown. These trial runs leave no trace.  Loops nested deeper than two carry tensors of unknown rank.
* Graphs are walked by generators on an explicit stack, so nesting may be as deep as memory allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# The imports below register the rules of their families.
from compiler.ir import (
    edit,
    infer_attention,
    infer_blocked,
    infer_elementwise,
    infer_linear,
    infer_movement,
    infer_reduction,
    infer_sequences,
    infer_slicing,
    infer_spatial,
)
from compiler.ir.dims import Dim, Expr, is_fresh
from compiler.ir.dtype import DType
from compiler.ir.facts import Contents
from compiler.ir.graph import Graph, Model, Node, Value
from compiler.ir.infer_contents import CONTENT_RULES, contents_of
from compiler.ir.infer_control import CONTROL, Job, is_well_formed
from compiler.ir.infer_rules import RULES, Scope
from compiler.ir.infer_sequences import join
from compiler.ir.schema_inference import infer_by_standard
from compiler.ir.types import UNKNOWN, SequenceType, TensorType, Type, UnknownType, UnrankedType

FAMILIES = (
    infer_attention, infer_blocked, infer_elementwise, infer_linear, infer_movement, infer_reduction, infer_sequences,
    infer_slicing, infer_spatial,
)  # fmt: skip
"""Modules whose rules are in the registry."""

_RANK_LIMIT = 128
_TRIAL_DEPTH = 2

_TROUBLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What rules raise on nodes that are not well formed; ``Contradiction`` is a ``ValueError``."""


def infer(graph: Graph) -> None:
    """Find types and contents of all values of a graph and of the graphs nested in it; raises nothing."""
    run = _Run(graph.model)
    _drive(run.graph(graph))


def infer_nodes(nodes: Iterable[Node]) -> None:
    """Find types and contents of the outputs of some nodes, given in topological order; their users are not visited."""
    run: _Run | None = None
    for node in nodes:
        if node.graph is None:
            continue
        run = run or _Run(node.graph.model)
        _drive(run.node(node))


def infer_detached(node: Node, model: Model) -> None:
    """Find types and contents of the outputs of a node without nested graphs that stands in no graph yet."""
    _Run(model).plain(node)


def _drive(job: Job) -> None:
    stack = [job]
    while stack:
        inner = next(stack[-1], None)
        if inner is None:
            stack.pop()
        else:
            stack.append(inner)


class _Run:
    """One run of inference.

    While ``trial`` is a list, changes are written there to be undone, and earlier facts count for nothing.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.scope = Scope(model)
        self.mark = newest_symbol(model)
        self.trial: list[tuple[Value, Type, Contents | None]] | None = None
        self.depth = 0

    # Graphs and nodes ----------------------------------------------------------------------------

    def graph(self, graph: Graph) -> Job:
        """Infer a graph: constants first, then node after node."""
        for value in graph.constants:
            if value.constant is not None and isinstance(value.type, UnknownType | UnrankedType):
                edit.set_type(value, TensorType(value.constant.dtype, value.constant.shape))
        for node in graph.nodes():
            if _has_graphs(node):
                yield self.node(node)
            else:
                self.plain(node)

    def node(self, node: Node) -> Job:
        """Infer a node, with the graphs that are nested in it."""
        control = CONTROL.get(node.op) if not node.domain else None
        if not _has_graphs(node):
            self.plain(node)
        elif control is not None and is_well_formed(node):
            yield control(self, node)
        else:
            for graph in node.graphs():
                yield self.graph(graph)
            self.plain(node)

    def plain(self, node: Node) -> None:
        """Infer the outputs of a node by its rule, or else by its schema."""
        try:
            found = RULES.get((node.domain, node.op))
            types = infer_by_standard(node, self.scope) if found is None else found(node, self.scope)
        except _TROUBLE:
            types = UNKNOWN
        self.set_outputs(node, types if isinstance(types, Sequence) else [types])

    def set_outputs(self, node: Node, types: Sequence[Type]) -> None:
        """Write the types of a node's outputs, and the contents that follow."""
        for i, value in enumerate(node.outputs):
            if value.absent:
                continue
            self.set_type(value, types[i] if i < len(types) else UNKNOWN)
            if node.op in CONTENT_RULES:
                self.set_contents(value, _contents(node, i, value.type))

    # Values --------------------------------------------------------------------------------------

    def set_type(self, value: Value, type_: Type) -> None:
        """Write a type, merged with the facts that are known already."""
        type_ = self.bounded(type_)
        if self.trial is not None:
            self.trial.append((value, value.type, value.contents))
            value.type, value.contents = type_, None
            return
        edit.set_type(value, _merge(type_, value.type, self.mark))

    def set_contents(self, value: Value, contents: Contents | None) -> None:
        """Write contents; what is known is not forgotten."""
        if self.trial is not None:
            value.contents = contents
        elif contents is not None:
            edit.set_contents(value, contents)

    def set_input(self, value: Value, type_: Type) -> None:
        """Write the type of a nested graph's input: only symbols that stand for unknown dims are kept."""
        type_ = self.bounded(type_)
        if self.trial is not None:
            self.trial.append((value, value.type, value.contents))
            value.type, value.contents = type_, None
            return
        edit.set_type(value, _with_old_symbols(type_, value.type, self.mark))
        edit.set_contents(value, None)

    def bounded(self, type_: Type) -> Type:
        """Return the type with dims that are too large to be of use replaced by symbols."""
        if not isinstance(type_, TensorType):
            return type_
        if len(type_.shape) > _RANK_LIMIT:
            return UnrankedType(type_.dtype)
        for d in type_.shape:
            if not isinstance(d, int) or not 0 <= d < 1 << 62:
                return TensorType(type_.dtype, tuple(map(self.scope.bounded, type_.shape)))
        return type_

    # Trials --------------------------------------------------------------------------------------

    def carried(
        self, graph: Graph, offset: int, inputs: Sequence[Type], outputs: Sequence[Value], out: list[Type]
    ) -> Job:
        """Find types that hold for carried values in every iteration of a body, and append them to ``out``.

        ``inputs`` are types on entry, for the body's inputs from ``offset`` on; the other inputs have their
        types.
        """
        mark = newest_symbol(self.model)
        types = list(inputs)
        for _ in range(2 if self.depth < _TRIAL_DEPTH else 0):
            previous, self.trial = self.trial, []
            self.depth += 1
            for value, type_ in zip(graph.inputs[offset:], types, strict=False):
                self.set_input(value, type_)
            yield self.graph(graph)
            produced = [value.type for value in outputs]
            _restore(self.trial)
            self.trial = previous
            self.depth -= 1
            widened = [_widen(t, p, mark, self.scope) for t, p in zip(types, produced, strict=False)]
            if widened == types:
                out.extend(types)
                return
            types = widened
        out.extend(_unranked(t) for t in types)


def newest_symbol(model: Model) -> int:
    """Return a number such that symbols made up from now on have greater ones."""
    return int(model.fresh_dim().text[1:])


def _restore(trial: list[tuple[Value, Type, Contents | None]]) -> None:
    while trial:
        value, type_, contents = trial.pop()
        value.type, value.contents = type_, contents


def _has_graphs(node: Node) -> bool:
    return any(a.kind in ("graph", "graphs") for a in node.attributes.values())


def _contents(node: Node, index: int, type_: Type) -> Contents | None:
    try:
        return contents_of(node, index, type_)
    except _TROUBLE:
        return None


# Merging -----------------------------------------------------------------------------------------


def _is_new(dim: Dim, mark: int) -> bool:
    """True when a symbol occurs in the dim that was made up after ``mark``."""
    if isinstance(dim, int) or "?" not in dim.text:
        return False
    return any(s[:1] == "?" and s[1:].isdigit() and int(s[1:]) > mark for s in dim.symbols())


def _merge(new: Type, old: Type, mark: int) -> Type:
    """Return what two types of one value say together; where they disagree the new one holds."""
    if new is old or isinstance(old, UnknownType):
        return new
    if isinstance(new, UnknownType):
        return old
    if isinstance(new, SequenceType) and isinstance(old, SequenceType):
        return SequenceType(_merge(new.element, old.element, mark))
    if not isinstance(new, TensorType | UnrankedType) or not isinstance(old, TensorType | UnrankedType):
        return new
    dtype = old.dtype if new.dtype is DType.UNKNOWN else new.dtype
    if isinstance(old, UnrankedType) or dtype is not (dtype if old.dtype is DType.UNKNOWN else old.dtype):
        return new if new.dtype is dtype else _with_dtype(new, dtype)
    if isinstance(new, UnrankedType):
        return TensorType(dtype, old.shape)
    if len(new.shape) != len(old.shape):
        return new
    return TensorType(dtype, tuple(_merge_dim(n, o, mark) for n, o in zip(new.shape, old.shape, strict=True)))


def _with_dtype(type_: TensorType | UnrankedType, dtype: DType) -> Type:
    return TensorType(dtype, type_.shape) if isinstance(type_, TensorType) else UnrankedType(dtype)


def _merge_dim(new: Dim, old: Dim, mark: int) -> Dim:
    if isinstance(new, int) or new == old:
        return new
    if isinstance(old, int) or _is_new(new, mark):
        return old
    return old if "?" in new.text and "?" not in old.text else new


def _with_old_symbols(new: Type, old: Type, mark: int) -> Type:
    if not isinstance(new, TensorType) or not isinstance(old, TensorType) or len(new.shape) != len(old.shape):
        return new
    taken = {d.text for d in new.shape if isinstance(d, Expr)}
    pairs = zip(new.shape, old.shape, strict=True)
    return TensorType(
        new.dtype,
        tuple(o if is_fresh(o) and str(o) not in taken and _is_new(n, mark) else n for n, o in pairs),
    )


def _widen(type_: Type, produced: Type, mark: int, scope: Scope) -> Type:
    """Return a type that contains both, keeping the symbols that stand for dims that change anyway."""
    if isinstance(type_, TensorType) and isinstance(produced, TensorType) and len(type_.shape) == len(produced.shape):
        pairs = zip(type_.shape, produced.shape, strict=True)
        dims = tuple(t if t == p or (is_fresh(t) and _is_new(t, mark)) else scope.fresh() for t, p in pairs)
        return TensorType(type_.dtype if type_.dtype is produced.dtype else DType.UNKNOWN, dims)
    return join(type_, produced, scope)


def _unranked(type_: Type) -> Type:
    return UnrankedType(type_.dtype) if isinstance(type_, TensorType | UnrankedType) else UNKNOWN

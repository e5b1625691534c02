"""Inference for control flow: ``If``, ``Loop``, ``Scan`` and ``SequenceMap``, whose bodies are graphs.

Each is a job: a generator that yields the work on nested graphs and goes on when that is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

from compiler.ir.dims import Dim
from compiler.ir.dtype import DType
from compiler.ir.facts import Contents, known_contents, known_scalar, nonnegative_dim, positive_dim
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.infer_rules import Contradiction, Scope, axis_index, integers, unify
from compiler.ir.infer_sequences import element_of, join, sliced, stacked
from compiler.ir.types import UNKNOWN, SequenceType, TensorType, Type, UnrankedType

Job: TypeAlias = "Iterator[Any]"
"""Work on a graph or node; yields the jobs that must be done before it goes on."""


class Run(Protocol):
    """What jobs need of the engine."""

    scope: Scope

    def graph(self, graph: Graph) -> Job:
        """Infer a graph."""
        ...

    def set_outputs(self, node: Node, types: Sequence[Type]) -> None:
        """Write the types of a node's outputs."""
        ...

    def set_contents(self, value: Value, contents: Contents | None) -> None:
        """Write contents."""
        ...

    def set_input(self, value: Value, type_: Type) -> None:
        """Write the type of a nested graph's input."""
        ...

    def carried(
        self, graph: Graph, offset: int, inputs: Sequence[Type], outputs: Sequence[Value], out: list[Type]
    ) -> Job:
        """Find types that hold for carried values in every iteration."""
        ...


def is_well_formed(node: Node) -> bool:
    """True when a control-flow node has its graphs, and as many operands and results as these need."""
    if node.op == "If":
        branches = [node.attr("then_branch"), node.attr("else_branch")]
        return all(isinstance(b, Graph) and len(b.outputs) == len(node.outputs) for b in branches)
    body = node.attr("body")
    if not isinstance(body, Graph):
        return False
    if node.op == "Loop":
        fits = len(body.inputs) == len(node.inputs) and len(body.outputs) == len(node.outputs) + 1
        return fits and 2 <= len(node.inputs) <= len(body.outputs) + 1
    if node.op == "SequenceMap":
        return 0 < len(body.inputs) == len(node.inputs) and len(body.outputs) == len(node.outputs)
    scans = node.attr("num_scan_inputs")
    new = node.version == 0 or node.version >= 9
    fits = len(body.inputs) == len(node.inputs) and len(body.outputs) == len(node.outputs)
    return new and fits and isinstance(scans, int) and 0 < scans <= len(node.inputs) <= len(node.outputs) + scans


def _if(run: Run, node: Node) -> Job:
    """Give each output what both branches say of it."""
    branches = [node.attr("then_branch"), node.attr("else_branch")]
    for branch in branches:
        yield run.graph(branch)
    pairs = list(zip(branches[0].outputs, branches[1].outputs, strict=True))
    run.set_outputs(node, [join(a.type, b.type, run.scope) for a, b in pairs])
    for value, (left, right) in zip(node.outputs, pairs, strict=True):
        contents = known_contents(left)
        if contents is not None and contents == known_contents(right):
            run.set_contents(value, contents)


def _loop(run: Run, node: Node) -> Job:
    """Give carried outputs types that hold in every iteration, and stack the others."""
    body: Graph = node.attr("body")
    count = len(node.inputs) - 2
    run.set_input(body.inputs[0], _counter(body.inputs[0]))
    run.set_input(body.inputs[1], UnrankedType(DType.BOOL))
    entry = [UNKNOWN if v is None else v.type for v in node.inputs[2:]]
    types: list[Type] = []
    yield run.carried(body, 2, entry, body.outputs[1 : 1 + count], types)
    for value, type_ in zip(body.inputs[2:], types, strict=True):
        run.set_input(value, type_)
    yield run.graph(body)
    trips, runs = _trips(node, body)
    exact = runs and trips is not None and positive_dim(trips)
    steps = trips if trips is not None and _goes_on(body) and runs else run.scope.fresh()
    scans = [_outside(v.type, run.scope) for v in body.outputs[1 + count :]]
    stacks = [stacked(t, 0, steps, exact=exact, scope=run.scope) for t in scans]
    run.set_outputs(node, [*(_result(t, e, run.scope) for t, e in zip(types, entry, strict=True)), *stacks])


def _counter(value: Value) -> Type:
    """Return the type of the iteration number, which ONNX Runtime makes a scalar or a vector as the body declares."""
    declared = value.type
    if isinstance(declared, TensorType) and declared.shape in ((), (1,)):
        return TensorType(DType.I64, declared.shape)
    return UnrankedType(DType.I64)


def _trips(node: Node, body: Graph) -> tuple[Dim | None, bool]:
    """Return the greatest number of iterations, and whether the condition on entry is certainly true."""
    runs = node.inputs[1] is None or known_scalar(node.inputs[1]) == 1
    trips = known_scalar(node.inputs[0])
    return (trips if trips is not None and nonnegative_dim(trips) else None), runs


def _goes_on(body: Graph) -> bool:
    """True when the body's condition stays what it was on entry, or is certainly true."""
    condition = body.outputs[0]
    if known_contents(condition) == (1,):
        return True
    while condition.node is not None and condition.node.is_op("Identity") and condition.node.inputs[0] is not None:
        condition = condition.node.inputs[0]
    return condition is body.inputs[1]


def _outside(type_: Type, scope: Scope) -> Type:
    """Return the type with symbols that were made up replaced: inside a body they change with each iteration."""
    if isinstance(type_, SequenceType):
        return SequenceType(_outside(type_.element, scope))
    if not isinstance(type_, TensorType):
        return type_
    dims = tuple(d if isinstance(d, int) or "?" not in d.text else scope.fresh() for d in type_.shape)
    return TensorType(type_.dtype, dims)


def _result(carried: Type, entry: Type, scope: Scope) -> Type:
    """Return the type of a carried value after the loop: dims that did not change are still those on entry."""
    if carried == entry:
        return entry
    if isinstance(carried, TensorType) and isinstance(entry, TensorType) and len(carried.shape) == len(entry.shape):
        pairs = zip(carried.shape, entry.shape, strict=True)
        return TensorType(carried.dtype, tuple(c if c == e else scope.fresh() for c, e in pairs))
    return _outside(carried, scope)


def _scan(run: Run, node: Node) -> Job:
    """Slice the scanned operands, carry the states, and stack the results."""
    body: Graph = node.attr("body")
    scans = node.attr("num_scan_inputs")
    states = len(node.inputs) - scans
    entry = [UNKNOWN if v is None else v.type for v in node.inputs]
    steps, slices = _slices(node, entry[states:], run.scope)
    for value, type_ in zip(body.inputs[states:], slices, strict=True):
        run.set_input(value, type_)
    types: list[Type] = []
    yield run.carried(body, 0, entry[:states], body.outputs[:states], types)
    for value, type_ in zip(body.inputs[:states], types, strict=True):
        run.set_input(value, type_)
    yield run.graph(body)
    results = [_result(t, e, run.scope) for t, e in zip(types, entry[:states], strict=True)]
    run.set_outputs(node, results + _stacks(node, body.outputs[states:], steps, run.scope))


def _slices(node: Node, types: list[Type], scope: Scope) -> tuple[Dim, list[Type]]:
    """Return the number of steps and the types of the slices; what is malformed is unknown."""
    steps: Dim = scope.fresh()
    try:
        axes = integers(node, "scan_input_axes") or (0,) * len(types)
        for type_, axis in zip(types, axes, strict=True):
            if isinstance(type_, TensorType):
                steps = unify(steps, type_.shape[axis_index(axis, len(type_.shape))])
        return steps, [sliced(t, a) for t, a in zip(types, axes, strict=True)]
    except (Contradiction, ValueError):
        return scope.fresh(), [UNKNOWN] * len(types)


def _stacks(node: Node, outputs: Sequence[Value], steps: Dim, scope: Scope) -> list[Type]:
    exact = isinstance(steps, int) and steps > 0
    types = [_outside(v.type, scope) for v in outputs]
    try:
        axes = integers(node, "scan_output_axes") or (0,) * len(types)
        return [stacked(t, a, steps, exact=exact, scope=scope) for t, a in zip(types, axes, strict=True)]
    except (Contradiction, ValueError):
        return [UNKNOWN] * len(types)


def _sequence_map(run: Run, node: Node) -> Job:
    """Run the body on elements of the operands that are sequences, and make sequences of the results."""
    body: Graph = node.attr("body")
    for value, given in zip(body.inputs, node.inputs, strict=True):
        type_ = UNKNOWN if given is None else given.type
        element = element_of(type_) if isinstance(type_, SequenceType) else type_
        run.set_input(value, _outside(element, run.scope))
    yield run.graph(body)
    run.set_outputs(node, [SequenceType(_outside(v.type, run.scope)) for v in body.outputs])


CONTROL: dict[str, Callable[[Run, Node], Job]] = {
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
    "SequenceMap": _sequence_map,
}
"""Jobs by operator of the default domain."""

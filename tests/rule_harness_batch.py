"""Many instances of one form in one model, which share nothing: the engine runs once, and the runtime twice.

A session costs half a millisecond however small its model is; that is why instances travel together.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from compiler.backend.emit import Limits, to_proto
from compiler.errors import CompilerError, UnsupportedError
from compiler.frontend.bodies import FunctionBodies
from compiler.ir import edit
from compiler.ir.dims import Dim, substitute
from compiler.ir.graph import Model, Value
from compiler.ir.infer import infer
from compiler.ir.types import TensorType
from compiler.ir.verify import verify
from compiler.rewrite import Context, Rule
from compiler.rewrite.engine import Engine
from compiler.rewrite.legal import Legality
from compiler.rewrite.pattern import Pattern
from passes.expand import Expand
from targets import load_target
from tests.rule_harness_instance import Instance, draw_instance

LIMITS = Limits(max_opset=26, max_ir=13)
"""What the installed runtime takes."""

OPSET = 18
"""Opset of the models: nodes that need a newer one raise it, as in a user's model."""


RAISED = ("canonical", "raise")
"""Stages whose rules make operators of the standard whether the target runs these or not."""


class RuleRaises(Exception):
    """A rule raised an exception, or left a graph that breaks an invariant."""


@dataclass
class Batch:
    """Instances, and the model of them before and after the rule was applied."""

    rule: Rule
    instances: list[Instance]
    undrawable: list[str]
    """Why bytes gave no instance."""
    before: onnx.ModelProto
    after: onnx.ModelProto
    """What the rule made."""
    runnable: onnx.ModelProto
    """The same as the runtime gets it."""
    fired: list[Instance]
    """Instances that the rule rewrote."""
    refusals: dict[str, int]
    """Why the rule refused, and how often."""
    types: dict[str, Any]
    """Output → its type after the rewrite."""
    model: Model
    """The model as the rule left it."""
    complaint: str = ""
    """What the engine had to say of the rule as a whole, such as that it rewrites what it made again and again."""


def assemble(rule: Rule, pattern: Pattern, data: Sequence[bytes]) -> tuple[Model, list[Instance], list[str]]:
    """Return a model of the instances that bytes stand for, the instances, and why some bytes stand for none."""
    model = Model(opsets={"": OPSET, "com.microsoft": 1}, ir_version=10)
    model.graph = edit.new_graph("rule", model)
    instances, undrawable = [], []
    for i, part in enumerate(data):
        made = draw_instance(rule, pattern, part, model, f"i{i}_")
        if isinstance(made, str):
            undrawable.append(made)
        else:
            instances.append(made)
            _attach(made, model)
    infer(model.graph)
    return model, instances, undrawable


def apply(rule: Rule, model: Model, *, trace: Any = None) -> Context:
    """Apply a rule wherever it fits and is legal on the CPU, and check the graph."""
    ctx = Context(target=cpu(), legality=legality())
    try:
        changed = Engine([rule], ctx, trace=trace).run(model.graph)
        infer(model.graph)
        verify(model)
    except Exception as error:  # whatever a rule raises is its fault
        raise RuleRaises(f"{type(error).__name__}: {error}") from error
    assert changed == bool(ctx.rewrites), "the engine does not say the truth about changes"
    return ctx


def run_batch(rule: Rule, pattern: Pattern, data: Sequence[bytes]) -> Batch:
    """Draw instances, and apply the rule to all of them."""
    try:
        model, instances, undrawable = assemble(rule, pattern, data)
        before = to_proto(model, limits=LIMITS)
    except UnsupportedError as error:  # types that the standard allows in versions that no kernel has
        sayable = [part for part in data if can_be_said(rule, pattern, part)]
        model, instances, undrawable = assemble(rule, pattern, sayable)
        undrawable += [str(error)] * (len(data) - len(sayable))
        before = to_proto(model, limits=LIMITS)
    ctx = apply(rule, model)
    try:
        after = to_proto(model, limits=LIMITS) if ctx.rewrites else before
    except UnsupportedError as error:
        raise RuleRaises(f"no opset can say what the rule makes: {error}") from error
    fired = [i for i in instances if i.root.graph is None]
    stats = ctx.rules.get(rule.name)
    refusals = dict(stats.refusals) if stats is not None else {}
    types = {v.name: v.type for v in model.graph.outputs}
    complaint = "; ".join(ctx.refusals)
    return Batch(rule, instances, undrawable, before, after, after, fired, refusals, types, model, complaint)


def can_be_said(rule: Rule, pattern: Pattern, data: bytes) -> bool:
    """True when an instance can be written in an opset that the runtime takes."""
    try:
        to_proto(assemble(rule, pattern, [data])[0], limits=LIMITS)
    except UnsupportedError:
        return False
    return True


@functools.cache
def cpu() -> Any:
    """Return the target that the oracle is."""
    return load_target("cpu")


@functools.cache
def legality() -> Legality:
    """Return what it runs; all models of the harness are of one opset."""
    return Legality.of(cpu(), opset=OPSET, bodies=FunctionBodies())


def _attach(instance: Instance, model: Model) -> None:
    graph = model.graph
    for value in instance.inputs:
        edit.add_input(graph, _claimed(value, model))
    for value in instance.constants:
        assert value.constant is not None
        edit.attach_constant(graph, _claimed(value, model), value.constant)
    for node in instance.nodes:
        for out in node.outputs:
            if not out.absent:
                _claimed(out, model)
        edit.attach(graph, node)
    for value in instance.outputs:
        edit.add_output(graph, value)


def _claimed(value: Value, model: Model) -> Value:
    model.claim(value.name)
    return value


def part_of(proto: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
    """Return the part of a model that computes some of its outputs."""
    wanted = set(outputs)
    makers = {name: node for node in proto.graph.node for name in node.output}
    needed, todo = set(wanted), list(wanted)
    while todo:
        node = makers.get(todo.pop())
        new = [] if node is None else [name for name in node.input if name and name not in needed]
        needed.update(new)
        todo.extend(new)
    part = onnx.ModelProto(ir_version=proto.ir_version)
    part.opset_import.extend(proto.opset_import)
    part.graph.name = proto.graph.name
    part.graph.node.extend(n for n in proto.graph.node if any(name in needed for name in n.output))
    part.graph.initializer.extend(t for t in proto.graph.initializer if t.name in needed)
    part.graph.input.extend(i for i in proto.graph.input if i.name in needed)
    part.graph.output.extend(o for o in proto.graph.output if o.name in wanted)
    return part


def type_fault(type_: Any, array: Any, numbers: dict[str, Dim]) -> str:
    """Return how an array contradicts the type that the IR gives it, ``""`` when it does not."""
    if not isinstance(type_, TensorType):
        return f"the type {type_} is no tensor's"
    if type_.dtype.numpy != array.dtype:
        return f"the type says {type_}, the data is {array.dtype}"
    if len(type_.shape) != array.ndim:
        return f"the type says {type_}, the data has the shape {array.shape}"
    for dim, size in zip(type_.shape, array.shape, strict=True):
        number = substitute(dim, numbers)
        if isinstance(number, int) and number != size:
            return f"the type says {type_}, where {dim} is {number}; the data has the shape {array.shape}"
    return ""


def taken_apart(batch: Batch) -> onnx.ModelProto | None:
    """Return the result with the standard's definitions in the place of raised operators that have no kernel.

    That is what a target gets; ``None`` when the rule's stage is a later one, or nothing has to be taken apart.
    """
    if batch.rule.stage not in RAISED:
        return None
    ctx = Context(target=cpu(), legality=legality())
    try:
        return to_proto(batch.model, limits=LIMITS) if Expand().run(batch.model.graph, ctx) else None
    except CompilerError as error:
        raise RuleRaises(f"the definition of what {batch.rule.name} makes: {error}") from error


@dataclass
class Tally:
    """What became of the instances of a form."""

    drawn: int = 0
    fired: int = 0
    checked: int = 0
    """Fired instances whose results were compared."""
    done: set[bytes] = field(default_factory=set)
    """What the instances that were compared in the current batch were drawn from."""
    undrawable: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    unrunnable: dict[str, int] = field(default_factory=dict)
    """Why neither oracle ran an instance."""

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.drawn += len(batch.instances)
        self.fired += len(batch.fired)
        for reason in batch.undrawable:
            self.undrawable[reason] = self.undrawable.get(reason, 0) + 1
        for reason, count in batch.refusals.items():
            self.refusals[reason] = self.refusals.get(reason, 0) + count

    def not_run(self, reason: str) -> None:
        """Count an instance that proves nothing."""
        self.unrunnable[reason] = self.unrunnable.get(reason, 0) + 1

    def __str__(self) -> str:
        """Say it in a few lines, the most frequent reasons only."""
        tried = self.drawn + sum(self.undrawable.values())
        lines = [f"{tried} instances: {self.drawn} drawn, {self.fired} rewritten, {self.checked} compared"]
        for title in ("undrawable", "refusals", "unrunnable"):
            reasons = sorted(getattr(self, title).items(), key=lambda item: -item[1])[:4]
            lines += [f"  {title}: {count} x {reason}" for reason, count in reasons]
        return "\n".join(lines)


def is_lack(reason: str) -> bool:
    """Return whether the runtime's reason is that it was built without something."""
    return "not implemented" in reason.lower().replace("_", " ")

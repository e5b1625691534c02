"""Draw instances of a rule's form: element types, dims, attributes and data, so that every statement is a real node.

No rule brings code of its own.  A value whose type the rule does not write gets one that its operator allows, and
inference decides whether it fits; an attempt that contradicts itself is made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compiler.ir.constant import Array
from compiler.ir.dims import Dim
from compiler.ir.dtype import DType
from compiler.ir.edit import NEWEST
from compiler.ir.graph import Model, Node, Value
from compiler.ir.schema import operator_names
from compiler.ir.spelling import Number, read_contents
from compiler.ir.syntax import DimList, Literal, Operand, Output
from compiler.ir.types import TensorType, Type
from compiler.rewrite import Rule
from compiler.rewrite.match import _numbers
from compiler.rewrite.pattern import ANY, COMMUTATIVE, Pattern
from tests.rule_harness_attributes import draw_variables, vary_defaults, written_attributes
from tests.rule_harness_choices import Choices
from tests.rule_harness_draft import Draft, Undrawable
from tests.rule_harness_dtypes import ElementTypes, classes
from tests.rule_harness_formals import formals_of
from tests.rule_harness_operands import shape_value, structural
from tests.rule_harness_shapes import align, propose
from tests.rule_harness_site import APART, BROADCASTING, Site, written_type
from tests.rule_harness_values import MODES, PLAIN, SPECIAL

ATTEMPTS = 6
"""Attempts to draw an instance before it counts as undrawable."""

_NONZERO = {"Div": 1, "Mod": 1}
"""Operand that must not be zero when it is an integer: the runtime would end with a signal."""

_POSITIVE = {"BatchNormalization": 4, "QuantizeLinear": 1, "DequantizeLinear": 1}
"""Operand that is a variance or a scale."""


_LAST = {"Attention": 3, "FusedConv": 3}
"""Operand that follows from all others: a mask as wide as cache and keys; what a convolution is added to."""

_KEPT = APART | operator_names("""
        Concat DepthToSpace Expand Flatten Gather GatherElements Reshape Shape Slice SpaceToDepth Split Squeeze Tile
        Transpose Trilu Unsqueeze
""")
"""Operators each of whose results comes from one element of every operand."""


@dataclass(eq=False)
class Instance:
    """One drawn instance: nodes that stand in no graph yet, and the data of its inputs."""

    data: bytes
    """What it was drawn from."""
    prefix: str
    nodes: list[Node]
    inputs: list[Value]
    constants: list[Value]
    outputs: list[Value]
    """What the rule replaces, and with it interior values that are read elsewhere too."""
    names: tuple[str, ...]
    """The names of the outputs; a rewrite hands them on to other values."""
    types: tuple[Type, ...]
    """The types of the outputs."""
    replaced: int
    """How many of the outputs, from the first on, the rule replaces."""
    feeds: Mapping[str, Array]
    numbers: Mapping[str, Dim]
    """Symbols → what they are in the data."""
    root: Node
    dtypes: tuple[DType, ...]
    """Element types of all values, for tolerances."""
    spoiled: bool = False
    """Whether an interior value is an output, so that the rule must not apply or must keep it."""
    signature: tuple[str, ...] = field(default=())
    """What decides whether a runtime has kernels: operators with element types."""


def draw_instance(rule: Rule, pattern: Pattern, data: bytes, model: Model, prefix: str) -> Instance | str:
    """Return an instance of a form, or why there is none."""
    choices = Choices(data)
    reason = ""
    for number in range(ATTEMPTS):
        try:
            return _attempt(rule, pattern, choices, data, model, prefix, number)
        except Undrawable as error:
            reason = str(error)
    return reason


def _attempt(
    rule: Rule, pattern: Pattern, choices: Choices, data: bytes, model: Model, prefix: str, number: int
) -> Instance:
    random = choices.generator()
    dynamic, mode = choices.chance(50 if number < 2 else 15), choices.pick(MODES)  # what fails may fail by its symbols
    if mode == SPECIAL and not _keeps_elements_apart(rule, pattern):
        mode = PLAIN
    dtypes = ElementTypes(classes(pattern, tuple(sorted(rule.types.items()))), choices)
    draft = Draft(rule, pattern, choices, model, prefix, dtypes, mode, dynamic, random)
    draft.resized_by_sizes = choices.chance(40)
    made = [_draw_statement(draft, i) for i in range(len(pattern.statements))]
    reason = draft.env.check_expressions()
    if reason:
        raise Undrawable(reason)
    return _finished(draft, made, data)


def _keeps_elements_apart(rule: Rule, pattern: Pattern) -> bool:
    """True when no operator mixes elements: kernels that sum do not agree on infinities and NaN, nor promise to."""
    statements = (*pattern.statements, *rule.replacement.statements)
    return all(not s.domain and op in _KEPT for s in statements for op in (s.op, *s.alternatives))


def _finished(draft: Draft, made: Sequence[Node], data: bytes) -> Instance:
    rule, choices = draft.rule, draft.choices
    outputs = [draft.values[name] for name in draft.pattern.defined if name in rule.outputs]
    interior = [draft.values[name] for name in draft.pattern.defined if name not in rule.outputs]
    spoiled = bool(interior) and choices.chance(4)
    if spoiled:
        outputs.append(choices.pick(interior))
    values = dict.fromkeys(v for n in draft.nodes for v in (*n.inputs, *n.outputs) if v is not None and not v.absent)
    kept = [v for v in outputs if v is not None]
    return Instance(
        data, draft.prefix, draft.nodes, draft.inputs, draft.constants, kept, tuple(v.name for v in kept),
        tuple(v.type for v in kept), len(kept) - spoiled, draft.feeds, draft.numbers, made[-1],
        tuple(v.dtype for v in values), spoiled, _signature(draft),
    )  # fmt: skip


def _signature(draft: Draft) -> tuple[str, ...]:
    operands = (",".join("_" if v is None else str(v.dtype) for v in n.inputs) for n in draft.nodes)
    return tuple(f"{n.qualified}@{n.version}({o})" for n, o in zip(draft.nodes, operands, strict=True))


# One statement -----------------------------------------------------------------------------------


def _draw_statement(draft: Draft, index: int) -> Node:
    statement = draft.pattern.statements[index]
    op = draft.choices.pick((statement.op, *statement.alternatives))
    site = Site(draft, index, statement, op, formals_of(statement, op), [None] * len(statement.inputs))
    site.attributes = written_attributes(site)
    for k in range(len(statement.inputs)):
        if not _draw_known(site, k):
            site.pending.append(k)
    for k in list(site.pending):
        if structural(site, k) is None and k != _LAST.get(op):
            _draw_leaf(site, k)
    draw_variables(site)
    if _LAST.get(op) in site.pending:
        _draw_leaf(site, _LAST[op])
    _draw_literals(site)
    for k in list(site.pending):
        _draw_structural(site, k)
    vary_defaults(site)
    return _settle(site)


def _draw_known(site: Site, k: int) -> bool:
    """Set an operand that needs no decision about its dims; return whether that is so."""
    draft, written = site.draft, site.statement.inputs[k]
    if not isinstance(written, Operand):
        return True
    if written.name in draft.values:
        site.operands[k] = draft.values[written.name]
        return True
    if written.name in draft.pattern.defined and written.name not in draft.values:
        raise Undrawable(f"%{written.name} is read before it is made")
    if _is_left_out(site, k, written):
        draft.values[written.name] = None
        return True
    typed = written.type if written.type is not None and not written.type.bare else None
    typed = typed or written_type(draft.pattern, written.name)
    if typed is None or structural(site, k) is not None:
        return False
    align(site, k, typed)
    shape = draft.shape(typed)
    if shape is None:
        return False
    site.operands[k] = _leaf(site, k, written, shape)
    return True


def _is_left_out(site: Site, k: int, written: Operand) -> bool:
    if written.name == ANY:
        formal = site.formals.input(k) if site.formals is not None else None
        needed = structural(site, k) is not None and not site.op.startswith("Reduce")
        return not needed and formal is not None and formal.optional and site.choices.chance(70)
    return written.optional and site.choices.chance(35)


def _draw_leaf(site: Site, k: int) -> None:
    written = site.statement.inputs[k]
    assert isinstance(written, Operand)
    if written.name in site.draft.values and written.name != ANY:  # an earlier operand of this node
        site.operands[k] = site.draft.values[written.name]
    elif written.scalar:
        site.operands[k] = _leaf(site, k, written, site.choices.pick(((), (), (1,))))
    else:
        shape = propose(site, k)
        site.operands[k] = _leaf(site, k, written, site.static(shape) if written.constant else shape)
    site.pending.remove(k)


def _leaf(site: Site, k: int, written: Operand, shape: tuple[Dim, ...]) -> Value:
    dtype = site.dtype(k)
    integer = dtype.is_integer
    within = "positive" if _POSITIVE.get(site.op) == k or (integer and _NONZERO.get(site.op) == k) else ""
    if written.scalar and not within and not integer and dtype is not DType.BOOL:
        within = site.choices.pick(("0.01..2", "positive", "-2..2"))
    return site.draft.leaf(written.name, dtype, shape, constant=written.constant, within=within)


def _draw_structural(site: Site, k: int) -> None:
    written = site.statement.inputs[k]
    assert isinstance(written, Operand)
    made = structural(site, k)
    assert made is not None
    words = site.draft.rule.domain.get(written.name)
    if words:
        shape = site.draft.shape(written.type) if written.type is not None else None
        site.operands[k] = _leaf(site, k, written, (1,) if shape is None and not written.scalar else shape or ())
    else:
        site.operands[k] = made(site, k)
    site.pending.remove(k)
    if written.name != ANY:
        site.draft.values[written.name] = site.operands[k]


def _draw_literals(site: Site) -> None:
    for k, written in enumerate(site.statement.inputs):
        if isinstance(written, DimList):
            site.operands[k] = shape_value(site.draft, [d for w in written.dims for d in site.draft.evaluate(w)])
        elif isinstance(written, Literal):
            site.operands[k] = _literal(site, k, written)


def _literal(site: Site, k: int, written: Literal) -> Value:
    dtype = site.dtype(k)
    shape: tuple[int, ...] = (len(written.scalars),) if written.nested else ()
    known = site.known(k)
    if not written.nested and site.op in BROADCASTING and any(known) and site.choices.chance(25):
        shape = (1,)
    array = _contents(dtype, shape, written)
    formal = site.formals.input(k) if site.formals is not None else None
    if formal is not None and formal.name == "axes" and known and site.choices.chance(30):
        rank = len(known[0]) + (array.size if site.op == "Unsqueeze" else 0)
        array = np.where(array < 0, array + rank, array - rank)
    return site.draft.constant(array.astype(dtype.numpy), dtype, "lit")


def _contents(dtype: DType, shape: tuple[int, ...], written: Literal) -> Array:
    """Return the numbers that a rule writes in an element type that has them: ``1.0`` may be an integer."""
    numbers = _numbers(written)
    if not dtype.is_float:
        numbers = [Number(str(n).removesuffix(".0")) for n in numbers]
    try:
        return read_contents(dtype, shape, numbers).array()
    except ValueError as error:
        raise Undrawable(f"{dtype} does not hold {numbers}: {error}") from error


def _settle(site: Site) -> Node:
    """Make the node, and unify what the rule writes of its types with what it has."""
    draft, statement = site.draft, site.statement
    inputs = list(site.operands)
    while inputs and inputs[-1] is None:
        inputs.pop()
    if site.op in COMMUTATIVE and not statement.domain and len(inputs) == 2 and draft.choices.chance(40):
        inputs.reverse()
    outputs = tuple(Value(_result_name(draft, o, i)) for i, o in enumerate(statement.outputs))
    version = statement.version or (1 if statement.domain else NEWEST)
    name = f"{draft.prefix}node{len(draft.nodes)}"
    node = Node(
        site.op, tuple(inputs), outputs, dict(site.attributes), domain=statement.domain, version=version, name=name
    )
    draft.add(node)
    for k, operand in enumerate(statement.inputs):
        if isinstance(operand, Operand):
            _unify(draft, operand, site.operands[k])
    for k, output in enumerate(statement.outputs):
        if output is not None and output.name != ANY:
            draft.values[output.name] = outputs[k]
            _unify(draft, output, outputs[k])
    return node


def _result_name(draft: Draft, output: Output | None, index: int) -> str:
    if output is None:
        return ""
    return f"{draft.prefix}{output.name}" if output.name != ANY else f"{draft.prefix}any{len(draft.nodes)}_{index}"


def _unify(draft: Draft, written: Operand | Output, value: Value | None) -> None:
    if written.type is None or value is None:
        return
    assert isinstance(value.type, TensorType)
    reason = draft.env.unify_type(written.type, value, draft.rule.types)
    if reason:
        raise Undrawable(f"%{written.name}: {value.type}: {reason}")


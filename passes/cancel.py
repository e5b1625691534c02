"""Cancel and merge neighbours that undo each other: transposes, reshapes, casts, splits and concatenations.

Decisions:

* Two reshapes become one only where that holds for zero-size tensors too: a zero in the target copies a dim,
  so it must be provably the same dim in both places.
* Casts cancel when the type in the middle holds every value of the first (``f16`` in ``f32``, ``i32`` in
  ``f64``). Values out of range of the last type are left to the kernels: float → float → integer is never
  merged.
* Views cancel through operators on single elements too, such as the activation between two convolutions over rows.
* A transpose moves through elementwise operators only where it meets another one, so that there are fewer
  afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from compiler.ir import edit
from compiler.ir.dtype import DType
from compiler.ir.facts import known_ints
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.ir.types import TensorType
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import erase_unused, is_current, let_stand_for, open_graphs, permutation, same_type

Step: TypeAlias = Callable[[Node], str]
"""Rewrites a node if it can, and returns the name of the rewrite, ``""`` when there was nothing to do."""

_REACH = 8
"""Operators through which a transpose looks for another one, and reshapes for an equal shape."""

_SHAPE_ONLY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")

_UNARY = frozenset(
    {
        "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu",
        "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf",
        "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu",
        "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan",
        "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
_BINARY = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Pow", "Mod", "And", "Or", "Xor", "Equal", "Less", "LessOrEqual",
        "Greater", "GreaterOrEqual", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Max", "Min",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Cancel(Pass):
    """Cancel and merge neighbours that undo each other.

    Transposes (through elementwise operators too), reshapes and squeezes, exact chains of casts, and a
    ``Concat`` of the parts of a ``Split`` or the ``Split`` of a ``Concat``.
    """

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Sweep until nothing is left to cancel; every step removes a node or brings two closer."""
        changed = False
        while _sweep(graph, ctx):
            changed = True
        return changed


def _sweep(graph: Graph, ctx: Context) -> bool:
    changed = False
    for g in open_graphs(graph):
        for node in g.nodes():
            while (rewrite := _rewrite(node)) != "":
                ctx.count(rewrite)
                changed = True
    return changed


def _rewrite(node: Node) -> str:
    if node.graph is None or node.domain or not node.outputs or not node.output.is_used:
        return ""
    for step in _STEPS.get(node.op, ()):
        done = step(node) if is_current(node, node.op) else ""
        if done:
            return done
    return ""


def _producer(value: Value | None, *ops: str) -> Node | None:
    """Return the node that makes a value when it is one of the operators."""
    node = value.node if value is not None else None
    return node if node is not None and is_current(node, *ops) else None


def _bypass(node: Node, inner: Node, source: Value, by: str) -> None:
    """Let a node read the source of its producer directly."""
    edit.set_loc(node, edit.merge_locs([node, inner], by))
    edit.set_input(node, 0, source)
    erase_unused(inner.output)


# Transposes --------------------------------------------------------------------------------------


def _merge_transposes(node: Node) -> str:
    """Transposing twice is transposing once, or not at all."""
    inner = _producer(node.input(0), "Transpose")
    source = inner.input(0) if inner is not None else None
    if inner is None or source is None:
        return ""
    first, second = permutation(inner), permutation(node)
    if first is None or second is None or len(first) != len(second):
        return ""
    merged = tuple(first[axis] for axis in second)
    if merged == tuple(range(len(merged))):
        let_stand_for(node, source)
        erase_unused(inner.output)
        return "cancel-transposes"
    edit.set_attribute(node, "perm", Attr("ints", merged))
    _bypass(node, inner, source, "merge-transposes")
    return "merge-transposes"


def _cancel_through(node: Node) -> str:
    """A transpose after elementwise operators cancels with the opposite one before them."""
    order = permutation(node)
    if order is None:
        return ""
    chain: list[tuple[Node, int]] = []
    value = node.input(0)
    while value is not None and len(chain) <= _REACH:
        inner = _producer(value, "Transpose")
        if inner is not None:
            return _lift_chain(node, order, chain, inner)
        at = _data_operand(value, node)
        if at is None or value.node is None:
            return ""
        chain.append((value.node, at))
        value = value.node.inputs[at]
    return ""


def _data_operand(value: Value, reader: Node) -> int | None:
    """Return which operand of an elementwise producer is the tensor, ``None`` when nothing passes it."""
    node = value.node
    if node is None or node.domain or node.graph is not reader.graph:
        return None
    if value.is_output or len(value.uses) != 1:
        return None
    if not isinstance(value.type, TensorType) or value.contents is not None or len(node.outputs) != 1:
        return None
    if node.op in _UNARY and is_current(node, node.op):
        return 0
    if node.op not in _BINARY or not is_current(node, node.op) or len(node.inputs) != 2:
        return None
    single = [_is_single(i, value.type) for i in node.inputs]
    return single.index(False) if single.count(True) == 1 else None


def _is_single(operand: Value | None, result: TensorType) -> bool:
    """True for an operand of one element that broadcasts the same way whatever the order of the axes."""
    shape = operand.shape if operand is not None else None
    return shape is not None and len(shape) <= len(result.shape) and all(d == 1 for d in shape)


def _lift_chain(node: Node, order: tuple[int, ...], chain: list[tuple[Node, int]], inner: Node) -> str:
    opposite, source = permutation(inner), inner.input(0)
    if not chain or source is None or opposite is None or len(opposite) != len(order):
        return ""
    if tuple(opposite[axis] for axis in order) != tuple(range(len(order))):
        return ""
    operands = [element.inputs[at] for element, at in chain]
    if any(o is None or o.rank != len(order) for o in (*operands, chain[0][0].output)):
        return ""
    for element, _ in chain:
        kind = element.output.type
        assert isinstance(kind, TensorType)
        edit.set_type(element.output, TensorType(kind.dtype, tuple(kind.shape[axis] for axis in order)))
    last, at = chain[-1]
    edit.set_input(last, at, source)
    let_stand_for(node, chain[0][0].output)
    erase_unused(inner.output)
    return "cancel-transposes"


def _sink_equal_transposes(node: Node) -> str:
    """An operator on two tensors that are transposed alike is transposed afterwards, once."""
    if len(node.inputs) != 2 or node.graph is None or not isinstance(node.output.type, TensorType):
        return ""
    left, right = (_producer(i, "Transpose") for i in node.inputs)
    if left is None or right is None or not (_only_reader(left, node) and _only_reader(right, node)):
        return ""
    order, sources = permutation(left), (left.input(0), right.input(0))
    if order is None or order != permutation(right) or left is right or node.output.contents is not None:
        return ""
    if any(s is None or s.rank != len(order) for s in sources) or node.output.rank != len(order):
        return ""
    before = [0] * len(order)
    for i, axis in enumerate(order):
        before[axis] = i
    result = node.output.type
    raw = TensorType(result.dtype, tuple(result.shape[i] for i in before))
    loc, name = edit.merge_locs([node, left, right], "sink-transposes"), node.output.name
    made = edit.add_node(
        node.graph, node.op, sources, [raw], dict(node.attributes), version=node.version, before=node, loc=loc
    )
    made.name = node.name
    version = edit.latest_version(node.graph.model)
    perm = {"perm": Attr("ints", order)}
    last = edit.add_node(
        node.graph,
        "Transpose",
        [made.output],
        [result],
        perm,
        version=version,
        before=node,
        names=[name],
        loc=loc,
    )
    let_stand_for(node, last.output)
    erase_unused(left.output, right.output)
    return "sink-transposes"


def _only_reader(node: Node, reader: Node) -> bool:
    return node.graph is reader.graph and not node.output.is_output and node.output.users() == [reader]


# Reshapes ----------------------------------------------------------------------------------------


def _back_to_source(node: Node) -> str:
    """Operators that only change the shape keep the elements' order: the same shape is the same tensor."""
    inner = _producer(node.input(0), *_SHAPE_ONLY)
    for _ in range(_REACH):
        source = inner.input(0) if inner is not None else None
        if inner is None or source is None:
            return ""
        if same_type(source, node.output):
            let_stand_for(node, source)
            erase_unused(inner.output)
            return "cancel-reshapes"
        inner = _producer(source, *_SHAPE_ONLY)
    return ""


def _back_through(node: Node) -> str:
    """Operators on single elements do not care for the shape: a view before them that this one undoes is not needed."""
    chain: list[Node] = []
    value = node.input(0)
    while value is not None and value.node is not None and len(chain) <= _REACH:
        inner = _producer(value, *_SHAPE_ONLY)
        if inner is not None:
            return _lift_above_views(node, chain, inner)
        if value.node.op not in _UNARY or _data_operand(value, node) != 0:
            return ""
        chain.append(value.node)
        value = value.node.inputs[0]
    return ""


def _lift_above_views(node: Node, chain: list[Node], inner: Node) -> str:
    source = inner.input(0)
    if not chain or source is None or source.shape is None or source.shape != node.output.shape:
        return ""
    for element in chain:
        edit.set_type(element.output, TensorType(element.output.dtype, source.shape))
    edit.set_input(chain[-1], 0, source)
    let_stand_for(node, chain[0].output)
    erase_unused(inner.output)
    return "cancel-reshapes"


def _skip_reshape(node: Node) -> str:
    """A reshape to a constant shape does not care how its input was reshaped before."""
    shape = node.input(1)
    middle = node.input(0)
    inner = _producer(middle, *_SHAPE_ONLY)
    source = inner.input(0) if inner is not None else None
    if inner is None or source is None or shape is None or middle is None or shape.constant is None:
        return ""
    target = known_ints(shape)
    if target is None or not _copies_alike(target, node, source, middle):
        return ""
    _bypass(node, inner, source, "merge-reshapes")
    return "merge-reshapes"


def _copies_alike(target: tuple[int, ...], node: Node, source: Value, middle: Value) -> bool:
    if node.attr("allowzero", 0) or 0 not in target:
        return True
    before, after = source.shape, middle.shape
    if before is None or after is None:
        return False
    copied = [i for i, d in enumerate(target) if d == 0]
    return all(i < min(len(before), len(after)) and before[i] == after[i] for i in copied)


# Casts -------------------------------------------------------------------------------------------

_FLOAT_DIGITS = {DType.F16: 11, DType.BF16: 8, DType.F32: 24, DType.F64: 53}
"""Significant binary digits: every integer of at most as many digits is exact."""


def _holds_all(wide: DType, narrow: DType) -> bool:
    """True when every value of one type is a value of the other."""
    if wide is narrow:
        return True
    if DType.STRING in (wide, narrow) or wide is DType.BOOL:
        return False
    if narrow is DType.BOOL:
        return wide.is_integer or wide in _FLOAT_DIGITS
    if narrow.is_integer:
        digits = narrow.bits - (not narrow.text.startswith("u"))
        if wide.is_integer:
            room = wide.bits - (not wide.text.startswith("u"))
            return digits <= room and (narrow.text.startswith("u") or not wide.text.startswith("u"))
        return digits <= _FLOAT_DIGITS.get(wide, 0)
    exact = {DType.F16: (DType.F32, DType.F64), DType.BF16: (DType.F32, DType.F64), DType.F32: (DType.F64,)}
    return wide in exact.get(narrow, ())


def _merge_casts(node: Node) -> str:
    """A cast to a type that holds every value is undone by the cast back, and skipped by the next one."""
    inner = _producer(node.input(0), "Cast")
    source = inner.input(0) if inner is not None else None
    if inner is None or source is None:
        return ""
    first, middle, last = source.dtype, _target(inner), _target(node)
    if DType.UNKNOWN in (first, middle, last) or not _holds_all(middle, first):
        return ""
    if first is last:
        let_stand_for(node, source)
        erase_unused(inner.output)
        return "cancel-casts"
    if first.is_sub_byte or not _casts_alike(first, last):
        return ""
    _bypass(node, inner, source, "merge-casts")
    return "merge-casts"


def _target(cast: Node) -> DType:
    return DType.from_code(cast.attr("to", 0))


def _casts_alike(first: DType, last: DType) -> bool:
    """True when a cast gives the same whether it starts from the type or from a wider one."""
    if last in (DType.F32, DType.F64):
        return first.is_integer or first in _FLOAT_DIGITS or first is DType.BOOL
    if last in (DType.F16, DType.BF16):
        return _holds_all(DType.F32, first)
    return last.is_integer and not last.is_sub_byte and (first is DType.BOOL or first.is_integer)


# Splits and concatenations -----------------------------------------------------------------------


def _concat_of_split(node: Node) -> str:
    """Putting all parts of a split together again, in order, gives what was split."""
    split = _producer(node.input(0), "Split")
    source = split.input(0) if split is not None else None
    if split is None or source is None or source.rank is None or tuple(node.inputs) != split.outputs:
        return ""
    if node.attr("axis", 0) % source.rank != split.attr("axis", 0) % source.rank:
        return ""
    let_stand_for(node, source)
    erase_unused(split.output)
    return "cancel-split-concat"


def _split_of_concat(node: Node) -> str:
    """Splitting a concatenation where it was put together gives its parts."""
    concat = _producer(node.input(0), "Concat")
    rank = node.inputs[0].rank if node.inputs and node.inputs[0] is not None else None
    if concat is None or not rank or len(concat.inputs) != len(node.outputs):
        return ""
    if node.attr("axis", 0) % rank != concat.attr("axis", 0) % rank:
        return ""
    pairs = list(zip(node.outputs, concat.inputs, strict=True))
    if not all(i is not None and (o.absent or same_type(o, i)) for o, i in pairs):
        return ""
    for out, part in pairs:
        if part is not None and out.is_used:
            edit.replace(out, part)
    edit.erase(node)
    erase_unused(concat.output)
    return "cancel-concat-split"


_STEPS: dict[str, tuple[Step, ...]] = {
    "Transpose": (_merge_transposes, _cancel_through),
    "Reshape": (_back_to_source, _back_through, _skip_reshape),
    "Flatten": (_back_to_source, _back_through),
    "Squeeze": (_back_to_source, _back_through),
    "Unsqueeze": (_back_to_source, _back_through),
    "Cast": (_merge_casts,),
    "Concat": (_concat_of_split,),
    "Split": (_split_of_concat,),
    **dict.fromkeys(sorted(_BINARY), (_sink_equal_transposes,)),
}
"""Operator → what is tried on it, in this order."""

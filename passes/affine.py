"""Arithmetic shared by the passes that fold affine maps into the weights of linear operators.

A linear operator with a constant weight (``Conv``, ``ConvTranspose``, ``Gemm``, ``MatMul``) followed by
operators that map each channel ``c`` of its result to ``scale[c] * y + shift[c]`` is the same operator with a
scaled weight and another bias.  This module knows where the channels are in a weight, reads such maps from a
chain of operators, and puts one operator in place of the chain.

Decisions:

* Numbers are combined in float64 and rounded once, to the type of the weight.  A fold changes results by
  rounding only.
* A new weight is written straight into an array of its own type: numpy converts piece by piece, so that no
  float64 copy of a weight exists.  The old constant goes in the same step.
* A weight that something else reads is not folded: the model would hold it twice.  A bias may be duplicated,
  since it is one number per channel.  A chain that only shifts leaves the weight alone, whoever reads it.
* A result that is not finite is refused, and in f16 a channel that would sink below the normal numbers: its
  weights would lose the digits they have.
* The operator is built anew rather than changed in place: what its output meant before, it never means again,
  which is what comparisons of a graph before and after a pass rely on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Array, Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Loc, Node, Value
from passes.node_forms import erase_unused, is_current, rewrite

_WEIGHT_TYPES = frozenset({DType.F16, DType.BF16, DType.F32, DType.F64})

_BIAS_INDEX = 2
"""Operand of ``Conv``, ``ConvTranspose`` and ``Gemm`` that is added to the result."""

SHARED = "the weight is shared: folding would store it twice"
RETURNED = "a nested graph returns the result"
NOT_FINITE = "the folded weight or bias would not be finite"


@dataclass(frozen=True, slots=True)
class Affine:
    """The map ``y -> scale * y + shift`` of each channel; both arrays are float64 of shape ``[channels]``."""

    scale: Array
    shift: Array

    def then(self, after: Affine) -> Affine:
        """Return the map that applies this one first and ``after`` second."""
        with np.errstate(all="ignore"):  # what is not finite is refused later
            return Affine(self.scale * after.scale, self.shift * after.scale + after.shift)

    @property
    def only_shifts(self) -> bool:
        """True when no channel is scaled."""
        return bool(np.all(self.scale == 1.0))

    @property
    def only_scales(self) -> bool:
        """True when no channel is shifted."""
        return not np.any(self.shift)


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear operator with a constant weight, and where the channels of its result are.

    ``view`` is the shape in which the weight has axes of its own for output channels (two of them for a
    grouped ``ConvTranspose``); ``spread`` is the shape in which one number per channel broadcasts to
    ``view``.  ``inner`` is the number of dims that follow the channels in the result, ``rank`` the number of
    all dims, when known.
    """

    node: Node
    weight: Value
    view: tuple[int, ...]
    spread: tuple[int, ...]
    inner: int
    rank: int | None

    @property
    def channels(self) -> int:
        """Number of channels of the result."""
        return math.prod(self.spread)

    @property
    def dtype(self) -> DType:
        """Element type of weight, bias and result."""
        return self.weight.dtype

    @property
    def bias(self) -> Value | None:
        """The bias operand, when the operator has one and the node sets it."""
        return None if self.node.op == "MatMul" else self.node.input(_BIAS_INDEX)

    def channel_values(self, operand: Value) -> Array | None:
        """Return a constant as float64 ``[channels]`` when it broadcasts to the result along channels only.

        ``None`` when it is no constant, differs within a channel, or would enlarge the result.
        """
        array = operand.array()
        if array is None or operand.dtype is not self.dtype:
            return None
        if array.ndim > (1 if self.rank is None else self.rank):
            return None
        across = array.ndim - 1 - self.inner
        if any(d != 1 for i, d in enumerate(array.shape) if i != across) or array.size not in (1, self.channels):
            return None
        return np.broadcast_to(array.reshape(-1).astype(np.float64), (self.channels,))


Reader = Callable[[Linear, Node, Value], "Affine | str | None"]
"""Reads what a node does to a value: its map, a reason for refusing, or ``None`` for any other node."""


# Linear operators --------------------------------------------------------------------------------


def linear_of(node: Node) -> Linear | None:
    """Return a node as a linear operator, ``None`` when it is another one or its weight is no constant."""
    describe = _LINEAR.get(node.op)
    if describe is None or not is_current(node, node.op) or len(node.outputs) != 1:
        return None
    data, weight = node.input(0), node.input(1)
    if data is None or weight is None or weight.constant is None or not weight.constant.is_readable:
        return None
    if weight.dtype not in _WEIGHT_TYPES or weight.constant.size == 0:
        return None
    return describe(node, weight, weight.constant.shape)


def _conv(node: Node, weight: Value, shape: tuple[int, ...]) -> Linear | None:
    if len(shape) < 3:
        return None
    return Linear(node, weight, shape, (shape[0],) + (1,) * (len(shape) - 1), len(shape) - 2, len(shape))


def _conv_transpose(node: Node, weight: Value, shape: tuple[int, ...]) -> Linear | None:
    """The weight is ``[C_in, C_out / group, ...]``; its first axis holds one group after the other."""
    group = node.attr("group", 1)
    if len(shape) < 3 or group < 1 or shape[0] % group:
        return None
    inner = len(shape) - 2
    view = (group, shape[0] // group, *shape[1:])
    return Linear(node, weight, view, (group, 1, shape[1]) + (1,) * inner, inner, len(shape))


def _gemm(node: Node, weight: Value, shape: tuple[int, ...]) -> Linear | None:
    if len(shape) != 2:
        return None
    spread = (shape[0], 1) if node.attr("transB", 0) else (1, shape[1])
    return Linear(node, weight, shape, spread, 0, 2)


def _matmul(node: Node, weight: Value, shape: tuple[int, ...]) -> Linear | None:
    if len(shape) != 2:
        return None
    data = node.input(0)
    return Linear(node, weight, shape, (1, shape[1]), 0, data.rank if data is not None else None)


_LINEAR: dict[str, Callable[[Node, Value, tuple[int, ...]], Linear | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
"""Operator → function that describes a node, its weight and the weight's shape."""


# Chains of maps ----------------------------------------------------------------------------------


def only_reader(value: Value) -> Node | None:
    """Return the node of the same graph that reads a value, when it does so once and nothing else does."""
    if value.is_output or len(value.uses) != 1:
        return None
    ((node, _),) = value.uses
    return node if node.graph is value.graph else None


def chain(linear: Linear, read: Reader) -> tuple[list[tuple[Node, Affine]], str]:
    """Return the maps that follow an operator, and why the chain ended where that is a refusal."""
    steps: list[tuple[Node, Affine]] = []
    value = linear.node.output
    while (node := only_reader(value)) is not None:
        affine = read(linear, node, value)
        if not isinstance(affine, Affine):
            return steps, affine or ""
        steps.append((node, affine))
        value = node.output
    return steps, ""


def elementwise(linear: Linear, node: Node, value: Value) -> Affine | str | None:
    """Read ``Add``, ``Sub``, ``Mul`` or ``Div`` with a constant; ``constant / value`` is not affine."""
    if not is_current(node, "Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    constant_first = node.inputs[1] is value
    operand = node.inputs[0] if constant_first else node.inputs[1]
    if operand is None or (node.op == "Div" and constant_first):
        return None
    numbers = linear.channel_values(operand)
    if numbers is None:
        return None
    if not np.all(np.isfinite(numbers)):
        return "the constant operand is not finite"
    if node.op == "Div" and not np.all(numbers):
        return "the divisor has a zero"
    return _map(node.op, numbers, constant_first=constant_first)


def _map(op: str, numbers: Array, *, constant_first: bool) -> Affine:
    ones, zeros = np.ones_like(numbers), np.zeros_like(numbers)
    if op == "Add":
        return Affine(ones, numbers)
    if op == "Sub":
        return Affine(-ones, numbers) if constant_first else Affine(ones, -numbers)
    with np.errstate(all="ignore"):
        return Affine(numbers if op == "Mul" else 1.0 / numbers, zeros)


def total(steps: Sequence[tuple[Node, Affine]]) -> Affine:
    """Return the map of a whole chain, which has at least one step."""
    return functools.reduce(Affine.then, [affine for _, affine in steps])


# Folding -----------------------------------------------------------------------------------------


def fold(linear: Linear, steps: Sequence[tuple[Node, Affine]], by: str) -> str:
    """Put one operator in place of an operator and the maps that follow it; return why not, or nothing.

    A ``MatMul`` has no bias: an ``Add`` of one constant stays behind it when the maps shift.
    """
    affine, last = total(steps), steps[-1][0]
    if returned_elsewhere(last.output):
        return RETURNED
    if not affine.only_shifts and is_shared(linear.weight):
        return SHARED
    old_bias = bias_values(linear)
    if isinstance(old_bias, str):
        return old_bias
    with np.errstate(all="ignore"):
        bias = rounded(old_bias * affine.scale + affine.shift, linear.dtype)
    if isinstance(bias, str):
        return bias
    weight = None if affine.only_shifts else scaled(linear, affine.scale.reshape(linear.spread), linear.view)
    if isinstance(weight, str):
        return weight
    rebuild(linear, linear.node.inputs[0], last, weight, bias, by, [n for n, _ in steps])
    return ""


def returned_elsewhere(value: Value) -> bool:
    """True when a nested graph returns a value: replacing it would take an ``Identity`` there."""
    return any(g is not value.graph for g, _ in value.returned)


def is_shared(weight: Value) -> bool:
    """True when more than one operand, or a graph's output, reads a weight."""
    return weight.is_output or len(weight.uses) != 1


def bias_values(linear: Linear) -> Array | str:
    """Return what an operator adds to each channel, float64 ``[channels]``, or why that cannot be said."""
    bias = linear.bias
    if bias is None:
        return np.zeros(linear.channels)
    array = bias.array()
    if array is None:
        return "the bias is no constant"
    if any(d != 1 for d in array.shape[:-1]) or array.size not in (1, linear.channels):
        return "the bias differs within a channel"
    factor = linear.node.attr("beta", 1.0) if linear.node.op == "Gemm" else 1.0
    with np.errstate(all="ignore"):
        return np.broadcast_to(array.reshape(-1).astype(np.float64) * factor, (linear.channels,))


def rounded(values: Array, dtype: DType) -> Constant | str | None:
    """Return float64 ``[channels]`` as a constant, ``None`` when all are zero, or why one is not finite."""
    if not np.any(values):
        return None
    with np.errstate(all="ignore"):
        array = values.astype(dtype.numpy)
    if not np.all(np.isfinite(array)):
        return NOT_FINITE
    return Constant.from_array(array, dtype)


def scaled(linear: Linear, factor: Array, view: tuple[int, ...]) -> Constant | str:
    """Return the weight times a float64 ``factor`` that broadcasts to its shape ``view``, or why not."""
    constant = linear.weight.constant
    assert constant is not None
    array = constant.array().reshape(view)
    out = np.empty(view, array.dtype)
    with np.errstate(all="ignore"):
        np.multiply(array, factor, out=out, dtype=np.float64, casting="unsafe")
    largest = _largest(out, factor)
    if not np.all(np.isfinite(largest)):
        return NOT_FINITE
    if linear.dtype is DType.F16 and _sinks(_largest(array, factor), largest, factor):
        return "the folded weight would lose precision below the normal numbers of f16"
    return Constant.from_array(out.reshape(constant.shape), linear.dtype)


def _largest(array: Array, factor: Array) -> Array:
    """Return the largest magnitude under each element of ``factor``; NaN when there is one."""
    axes = tuple(i for i, d in enumerate(factor.shape) if d == 1)
    high = array.max(axis=axes, keepdims=True).astype(np.float64)
    low = array.min(axis=axes, keepdims=True).astype(np.float64)
    return np.asarray(np.maximum(high, -low))


def _sinks(before: Array, after: Array, factor: Array) -> bool:
    """True when all weights of a channel get smaller and end below the smallest normal number of f16."""
    normal = float(np.finfo(np.float16).smallest_normal)
    return bool(np.any((after < normal) & (after < before) & (factor != 0.0)))


def rebuild(
    linear: Linear,
    data: Value | None,
    last: Node,
    weight: Constant | None,
    bias: Constant | None,
    by: str,
    others: Sequence[Node],
) -> None:
    """Let a new operator give the output of ``last``, and erase the old one and the nodes ``others``.

    ``data`` is its first operand; ``weight`` is ``None`` when the old weight stays, ``bias`` when there is
    none. Constants that nothing reads any more go, and the new ones take their names.
    """
    old = linear.node
    graph, home = old.graph, linear.weight.graph
    assert graph is not None
    assert home is not None
    nodes = list(dict.fromkeys([old, *others]))
    operands = dict.fromkeys(i for n in nodes for i in n.inputs if i is not None and i.constant is not None)
    loc = edit.merge_locs(nodes, by)
    factor = linear.weight if weight is None else edit.add_constant(home, weight, hint=linear.weight.name)
    added = None
    if bias is not None:
        hint = linear.bias.name if linear.bias is not None else f"{old.name or old.output.name}/bias"
        added = edit.add_constant(graph, bias, hint=hint)
    product = _replace(old, data, last, factor, added, by, loc)
    erase_unused(*(n.output for n in reversed(nodes)))
    for operand in operands:
        if not operand.is_used:
            edit.erase_constant(operand)
    _take_name(product, old.output)
    _take_name(factor, linear.weight)
    _take_name(added, linear.bias)


def _replace(
    old: Node, data: Value | None, last: Node, weight: Value, bias: Value | None, by: str, loc: Loc
) -> Value | None:
    """Let a new operator give the output of ``last``; return the product when that is an ``Add`` to one."""
    if old.op == "MatMul" and bias is not None:
        product = old.output if weight is old.inputs[1] else _product(old, data, weight, last, by)
        edit.set_loc(rewrite(last, by, "Add", [product, bias]), loc)
        return product
    kept: dict[str, Attr] = {k: v for k, v in old.attributes.items() if k != "beta"}
    made = rewrite(last, by, old.op, [data, weight, bias], kept)
    made.name = old.name
    edit.set_loc(made, loc)
    return None


def _product(old: Node, data: Value | None, weight: Value, last: Node, by: str) -> Value:
    """Put a ``MatMul`` with another weight before the node ``last`` and return its result."""
    graph = old.graph
    assert graph is not None
    made = edit.add_node(
        graph,
        "MatMul",
        [data, weight],
        [old.output.type],
        version=edit.latest_version(graph.model),
        before=last,
        names=[old.output.name],
        loc=edit.merge_locs([old], by),
    )
    made.name = old.name
    return made.output


def _take_name(new: Value | None, old: Value | None) -> None:
    """Give a value the name of the one that it replaced, when that is gone."""
    if new is None or old is None or new is old or old.graph is None or old in old.graph.constants:
        return
    edit.rename(new, old.name)

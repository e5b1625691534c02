"""Replace computed shapes by constants, where analysis knows their contents.

Exporters compute every target of a ``Reshape`` from ``Shape``, ``Gather`` and ``Concat``, and nothing of it
remains when the dims are known, or are those of the tensor that is reshaped.

Decisions:

* A zero in the target of a ``Reshape`` copies a dim, and is exact for every input, empty ones included.
* ``-1`` is written for at most one dim, and only if all others are positive numbers: with a dim that may be
  zero, what ``-1`` stands for is undefined, and ONNX Runtime refuses to run it.
* A target of two dims, one for all dims before an axis and one for the rest, is what ``Flatten`` computes,
  for empty tensors too.
* The end of a ``Slice`` that is the dim itself becomes the largest integer, which the specification defines
  as the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dims import Dim, is_static, product
from compiler.ir.dtype import DType
from compiler.ir.facts import Contents, known_contents, known_ints
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.ir.types import TensorType
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import erase_unused, is_current, open_graphs, replace_by_constant, rewrite

_TO_THE_END = {DType.I64: (1 << 63) - 1, DType.I32: (1 << 31) - 1}
"""Type of a bound of ``Slice`` → the number that means the end."""


@dataclass(frozen=True)
class ShapeChains(Pass):
    """Replace computed shapes whose contents are known by constants.

    Integer tensors with known numbers become constants; targets of ``Reshape`` and ends of ``Slice`` that
    equal dims of the tensor at hand are written as zero, ``-1`` and "to the end".
    """

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Visit every node once, in order."""
        changed = False
        for g in open_graphs(graph):
            for node in g.nodes():
                changed |= _visit(node, ctx)
        return changed


def _visit(node: Node, ctx: Context) -> bool:
    if _make_constant(node):
        ctx.count("known contents")
        return True
    if is_current(node, "Reshape"):
        return _simplify_reshape(node, ctx)
    if is_current(node, "Slice") and (ends := _slice_ends(node)) is not None:
        _set_operand(node, 2, ends)
        ctx.count("end of Slice")
        return True
    return False


def _simplify_reshape(node: Node, ctx: Context) -> bool:
    data, target = node.input(0), node.input(1)
    if data is None or target is None or target.constant is not None or target.contents is None:
        return False
    if node.attr("allowzero", 0) or target.rank != 1:
        return False
    constant, axis = _reshape_target(data, target.contents), _flattened_axis(data, target.contents)
    if constant is not None:
        _set_operand(node, 1, constant)
        ctx.count("shape of Reshape")
    elif axis is not None:
        rewrite(node, "shape-chains", "Flatten", (data,), {"axis": Attr("int", axis)})
        erase_unused(target)
        ctx.count("Reshape to Flatten")
    else:
        ctx.refuse("shape of Reshape: several dims are unknown, or another may be zero")
    return constant is not None or axis is not None


def _make_constant(node: Node) -> bool:
    """Replace outputs whose contents are numbers; an ``Identity`` of a constant keeps a name and stays."""
    if node.is_op("Identity"):
        return False
    changed = False
    for out in node.outputs:
        constant = _constant_contents(out) if out.contents is not None and out.is_used else None
        if constant is not None:
            replace_by_constant(out, constant)
            changed = True
    return changed


def _constant_contents(value: Value) -> Constant | None:
    kind, contents = value.type, value.contents
    if contents is None or not isinstance(kind, TensorType) or not (kind.dtype is DType.BOOL or kind.dtype.is_integer):
        return None
    numbers = [d for d in contents if isinstance(d, int)]
    shape = tuple(d for d in kind.shape if isinstance(d, int))
    if len(numbers) != len(contents) or len(shape) != len(kind.shape) or math.prod(shape) != len(numbers):
        return None
    if not all(_in_range(n, kind.dtype) for n in numbers):
        return None
    return Constant.from_array(np.asarray(numbers, kind.dtype.numpy).reshape(shape), kind.dtype)


def _in_range(number: int, dtype: DType) -> bool:
    if dtype is DType.BOOL:
        return number in (0, 1)
    signed = not dtype.text.startswith("u")
    bits = dtype.bits - signed
    return -(1 << bits) * signed <= number < 1 << bits


def _set_operand(node: Node, index: int, constant: Constant) -> None:
    old = node.inputs[index]
    assert old is not None
    assert node.graph is not None
    edit.set_input(node, index, edit.add_constant(node.graph, constant, hint=f"{old.name}_known"))
    erase_unused(old)


def _reshape_target(data: Value, target: Contents) -> Constant | None:
    """Return a constant target that equals the computed one for every input."""
    written = [_same_index(d, i, data) for i, d in enumerate(target)]
    unknown = [i for i, d in enumerate(written) if d is None]
    if len(unknown) == 1 and all(isinstance(d, int) and d > 0 for i, d in enumerate(target) if i != unknown[0]):
        written[unknown[0]] = -1
        unknown = []
    return None if unknown else Constant.of(written, DType.I64)


def _same_index(dim: Dim, index: int, data: Value) -> int | None:
    """Return how a dim of the target is written, ``None`` when neither its number nor its source is known."""
    if isinstance(dim, int):
        return dim
    shape = data.shape
    return 0 if shape is not None and index < len(shape) and shape[index] == dim else None


def _flattened_axis(data: Value, target: Contents) -> int | None:
    """Return the axis at which a target of two dims cuts the dims of the tensor in two."""
    shape = data.shape
    if len(target) != 2 or shape is None:
        return None
    cuts = (i for i in range(len(shape) + 1) if (product(shape[:i]), product(shape[i:])) == target)
    return next(cuts, None)


def _slice_ends(node: Node) -> Constant | None:
    """Return constant ends that mean the same as the computed ones."""
    data, ends = node.input(0), node.input(2)
    if data is None or ends is None or ends.constant is not None or ends.dtype not in _TO_THE_END:
        return None
    contents, shape = known_contents(ends), data.shape
    if contents is None or shape is None or is_static(contents):
        return None
    axes = _axes(node, len(contents), len(shape))
    if axes is None or not _steps_forward(node):
        return None
    written = [d if isinstance(d, int) else None for d in contents]
    for i, axis in enumerate(axes):
        if written[i] is None and contents[i] == shape[axis]:
            written[i] = _TO_THE_END[ends.dtype]
    return None if None in written else Constant.of(written, ends.dtype)


def _axes(node: Node, count: int, rank: int) -> list[int] | None:
    """Return the axes of a ``Slice`` as indices, ``None`` when they are not known."""
    given = node.input(3)
    axes = tuple(range(count)) if given is None else known_ints(given)
    if axes is None or len(axes) != count or not all(-rank <= a < rank for a in axes):
        return None
    return [a % rank for a in axes]


def _steps_forward(node: Node) -> bool:
    steps = node.input(4)
    known = known_ints(steps)
    return steps is None or (known is not None and all(s > 0 for s in known))

"""Lift nodes of the default domain to the newest form, so that passes know one form of each operator.

A node that means the same in its own version and in the newest just takes the newest version number.  The others are
rewritten by the functions below: attributes become inputs, old defaults are written out.  A node that cannot be
lifted (an operator that was withdrawn, a meaning that has no newer spelling) keeps its version: passes see that, and
the backend emits the model in a version in which it is valid.

Models below opset 7 are carried as they are: broadcasting meant something else then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.forms import REDUCTIONS, history, keeps_form
from compiler.ir.garbage import collection_paused
from compiler.ir.graph import Attr, Graph, Model, Node, Value

OLDEST = 7
"""The lowest opset version whose operators are lifted."""

_FIRST_RESIZE = 10
"""The version of ``Resize`` that had but one rule where to take samples."""


def lift(model: Model) -> None:
    """Lift every node that can be lifted, nested graphs included."""
    newest = edit.latest_version(model)
    with collection_paused():
        for graph in list(model.graph.all_graphs()):
            for node in list(graph.nodes()):
                if not node.domain and OLDEST <= node.version < newest:
                    _lift(node, newest)


def _lift(node: Node, newest: int) -> None:
    if not history(node.op) or keeps_form(node, node.version, newest):
        node.version = newest
        return
    handler = _LIFTS.get(node.op)
    if handler is not None and handler(node):
        node.version = newest


def _constant(node: Node, values: Any, dtype: DType, hint: str) -> Value:
    graph = node.graph
    assert graph is not None
    array = np.asarray(values, dtype=dtype.numpy)
    name = node.name or (node.outputs[0].name if node.outputs else node.op)
    return edit.add_constant(graph, Constant.from_array(array, dtype), hint=f"{name}/{hint}")


def _move_to_inputs(node: Node, moves: Sequence[tuple[str, int]]) -> None:
    """Turn integer attributes into int64 inputs at the given positions; those that are not set stay missing."""
    for name, index in moves:
        values = node.attr(name)
        if values is not None:
            edit.set_input(node, index, _constant(node, values, DType.I64, name))
            edit.set_attribute(node, name, None)


def _axes(node: Node) -> bool:
    if len(node.inputs) != 1:
        return False
    _move_to_inputs(node, [("axes", 1)])
    return True


def _split(node: Node) -> bool:
    if len(node.inputs) == 1 and node.attr("split") is not None:
        _move_to_inputs(node, [("split", 1)])
    elif len(node.inputs) == 1:
        edit.set_attribute(node, "num_outputs", Attr("int", len(node.outputs)))
    return True


def _slice(node: Node) -> bool:
    if len(node.inputs) != 1:
        return False
    _move_to_inputs(node, [("starts", 1), ("ends", 2), ("axes", 3)])
    return True


def _top_k(node: Node) -> bool:
    if node.attr("k") is not None:
        edit.set_input(node, 1, _constant(node, [node.attr("k")], DType.I64, "k"))
        edit.set_attribute(node, "k", None)
    return len(node.inputs) == 2


def _clip(node: Node) -> bool:
    dtype = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else DType.UNKNOWN
    if dtype not in (DType.F16, DType.F32, DType.F64) or len(node.inputs) != 1:
        return False
    limits = {"min": float(np.finfo(np.float32).min), "max": float(np.finfo(np.float32).max)}
    if dtype is not DType.F32 and not {"min", "max"} <= set(node.attributes):
        return False  # the default limits of this type are those of the runtime's kernel
    for index, name in enumerate(("min", "max"), start=1):
        edit.set_input(node, index, _constant(node, node.attr(name, limits[name]), dtype, name))
        edit.set_attribute(node, name, None)
    return True


def _pad(node: Node) -> bool:
    dtype = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else DType.UNKNOWN
    if len(node.inputs) != 1 or dtype not in (DType.F16, DType.F32, DType.F64) or node.attr("pads") is None:
        return False
    value = node.attr("value", 0.0)
    _move_to_inputs(node, [("pads", 1)])
    edit.set_attribute(node, "value", None)
    if value or math.copysign(1.0, value) < 0:
        edit.set_input(node, 2, _constant(node, value, dtype, "value"))
    return True


def _dropout(node: Node) -> bool:
    if len(node.inputs) != 1:
        return False
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if mask is not None and not mask.absent:
        if mask.is_used:
            return False  # before version 10 of the type of the data; before version 12 nobody said what it is
        edit.drop_output(node, 1)
    ratio = node.attr("ratio", 0.5)
    edit.set_attribute(node, "ratio", None)
    edit.set_input(node, 1, _constant(node, ratio, DType.F32, "ratio"))
    return True


def _batch_normalization(node: Node) -> bool:
    if node.attr("spatial", 1) != 1 or sum(not o.absent for o in node.outputs) > 1:
        return False
    edit.set_attribute(node, "spatial", None)
    return True


def _softmax(node: Node) -> bool:
    """Before version 13 the dims from ``axis`` on were one; that is the same when all but one of them are 1."""
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    axis = node.attr("axis", 1)
    if shape is None or not -len(shape) <= axis < len(shape):
        return False
    wide = [i for i in range(axis % len(shape), len(shape)) if shape[i] != 1]
    if len(wide) > 1:
        return False
    only = wide[0] if wide else len(shape) - 1
    edit.set_attribute(node, "axis", Attr("int", only if only < len(shape) - 1 else -1))
    return True


def _grid_sample(node: Node) -> bool:
    mode = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}.get(node.attr("mode", "bilinear"))
    if mode is None:
        return False
    edit.set_attribute(node, "mode", Attr("string", mode))
    return True


def _roi_align(node: Node) -> bool:
    edit.set_attribute(node, "coordinate_transformation_mode", Attr("string", "output_half_pixel"))
    return True


def _dft(node: Node) -> bool:
    edit.set_input(node, 2, _constant(node, node.attr("axis", 1), DType.I64, "axis"))
    edit.set_attribute(node, "axis", None)
    return True


def _upsample(node: Node) -> bool:
    """``Upsample`` is ``Resize`` with the rule by which both took their samples before version 11."""
    if node.attr("scales") is not None:
        scales = _constant(node, node.attr("scales"), DType.F32, "scales")
    elif len(node.inputs) == 2 and node.inputs[1] is not None:
        scales = node.inputs[1]
    else:
        return False
    return _resample(node, scales)


def _resize(node: Node) -> bool:
    if node.version != _FIRST_RESIZE or len(node.inputs) != 2 or node.inputs[1] is None:
        return False
    return _resample(node, node.inputs[1])


def _resample(node: Node, scales: Value) -> bool:
    """Write ``Resize`` so that it takes its samples where version 10 did; known of enlargements only."""
    factors = scales.array()
    mode = node.attr("mode", "nearest")
    if factors is None or not (factors >= 1).all() or mode not in ("nearest", "linear"):
        return False
    node.op = "Resize"
    edit.set_attribute(node, "scales", None)
    edit.set_attribute(node, "mode", Attr("string", mode))
    edit.set_attribute(node, "coordinate_transformation_mode", Attr("string", "asymmetric"))
    if mode == "nearest":
        edit.set_attribute(node, "nearest_mode", Attr("string", "floor"))
    edit.set_inputs(node, [node.inputs[0], None, scales])
    return True


def _scatter(node: Node) -> bool:
    node.op = "ScatterElements"
    return True


_LIFTS: dict[str, Callable[[Node], bool]] = {
    **dict.fromkeys(("Squeeze", "Unsqueeze", *REDUCTIONS), _axes),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    "Split": _split,
    "Slice": _slice,
    "TopK": _top_k,
    "Clip": _clip,
    "Pad": _pad,
    "Dropout": _dropout,
    "BatchNormalization": _batch_normalization,
    "GridSample": _grid_sample,
    "RoiAlign": _roi_align,
    "Scatter": _scatter,
    "DFT": _dft,
    "Upsample": _upsample,
    "Resize": _resize,
}
"""Operator → function that rewrites a node of an older version in place, and says whether it could."""


def pinned(graph: Graph) -> list[Node]:
    """Return the nodes of the default domain that could not be lifted."""
    newest = edit.latest_version(graph.model)
    return [n for n in graph.all_nodes() if not n.domain and n.version < newest]

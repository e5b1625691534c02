"""Choose the opset version to emit, and write each node in the form of that version.

The rule: the model's own version if every node can be said in it, else the lowest that suffices.  Kernels match on the
version in which an operator was last defined, so a version is raised only when something needs it; the target bounds
the choice, and a model that is above its bound is written in an older version.  Lifted nodes that the old version
spells with attributes are written so again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.errors import UnsupportedError
from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.forms import (
    REDUCTIONS,
    Types,
    changed_meaning,
    fits,
    history,
    is_exceptional,
    keeps_form,
    parts,
    same_form,
)
from compiler.ir.graph import Attr, Model, Node, Value


@dataclass(slots=True)
class Form:
    """A node as one opset version writes it."""

    op: str
    inputs: Sequence[Value | None]
    attributes: dict[str, Attr]


@dataclass(slots=True)
class Plan:
    """An opset version of the default domain, and how each node is written in it."""

    version: int
    forms: dict[Node, Form]


def plan(model: Model, *, low: int = 0, high: int = 10_000, usual: int = 10_000) -> Plan:
    """Choose the version of the default domain to emit, within the target's bounds, and write each node in it.

    A version above ``usual`` is chosen only where a node needs it.

    Raises ``UnsupportedError`` when no single version can say all nodes.
    """
    nodes = list(model.graph.all_nodes())
    version = max(min(model.opsets.get("", 0), high, usual), low)
    if not version:
        version = 1 if any(not n.domain for n in nodes) else edit.NEWEST
    while True:
        chosen = Plan(version, {})
        version = max((_write(n, chosen) for n in nodes), default=version)
        if version == chosen.version:
            break
    if version > high:
        raise UnsupportedError(
            f"the model needs opset {version}, but the target takes at most {high}",
            hint="use another target, or disable the pass that made the newer operator",
        )
    return chosen


def _write(node: Node, chosen: Plan) -> int:
    """Write a node into a plan; return the lowest version, from that of the plan on, that can say it."""
    form = express(node, chosen.version)
    if form is not None:
        chosen.forms[node] = form
        return chosen.version
    for candidate in history(node.op):
        if candidate > chosen.version and express(node, candidate) is not None:
            return candidate
    raise UnsupportedError(
        f"{node.op} as it was in opset {node.version} cannot be written in opset {chosen.version} or later",
        where=f"node {node.name!r}",
        why="the model mixes operators that no single opset version has",
    )


def express(node: Node, version: int) -> Form | None:
    """Return the node in the form of an opset version of its domain, ``None`` when that version cannot say it."""
    if node.is_op("Identity") and (packed := _packed(node.inputs[0])) is not None:
        return Form("Constant", (), {"value": Attr("tensor", packed)})
    plain = Form(node.op, node.inputs, node.attributes)
    if node.domain or version == node.version or not history(node.op):
        return plain  # what ONNX does not define has no versions
    if version > node.version:
        return plain if keeps_form(node, node.version, version) else None
    if _reads_the_same(node, version) or _was_written_so(node, version):
        return plain
    handler = _LOWERINGS.get(node.op)
    return handler(node, version) if handler is not None else None


def _packed(value: Value | None) -> Constant | None:
    """Return a constant of 2 or 4 bits: ONNX Runtime has no ``Identity`` that would give it an output's name."""
    constant = value.constant if value is not None else None
    return constant if constant is not None and constant.dtype.is_sub_byte else None


def _reads_the_same(node: Node, version: int) -> bool:
    """True when the node, as it stands, means in the older version what it says."""
    types = _types(node.inputs)
    if is_exceptional(node):
        return keeps_form(node, version, node.version) and fits(node.op, version, *parts(node), types)
    return _is_plain(node.op, version, node.version, *parts(node), types)


@functools.lru_cache(maxsize=65536)
def _is_plain(
    op: str, version: int, written: int, attributes: frozenset[str], inputs: int, outputs: int, types: Types
) -> bool:
    if changed_meaning(op, version, written) and not same_form(op, version, written, attributes, inputs, outputs):
        return False
    return fits(op, version, attributes, inputs, outputs, types)


def _types(inputs: Sequence[Value | None]) -> Types:
    return tuple([v.dtype if v is not None else None for v in inputs])


def _was_written_so(node: Node, version: int) -> bool:
    """True when the model itself wrote the node so: runtimes take some types that the schemas do not list."""
    source = node.extra
    if source is None or node.graph is None or node.graph.model.opsets.get("") != version:
        return False
    names = {a.name for a in source.attribute}
    return (
        getattr(source, "op_type", "") == node.op
        and names == set(node.attributes)
        and len(source.input) >= len(node.inputs)
        and not changed_meaning(node.op, version, node.version)
    )


def _ints(value: Value | None) -> tuple[int, ...] | None:
    array = value.array() if value is not None else None
    return None if array is None or array.dtype.kind not in "iu" else tuple(array.reshape(-1).tolist())


def _as_attributes(
    node: Node, moves: dict[str, int], *, scalars: Sequence[str] = (), drop: Sequence[str] = ()
) -> Form | None:
    """Write constant inputs as attributes again; all inputs behind the first must be among ``moves``."""
    attributes = {k: v for k, v in node.attributes.items() if k not in drop}
    for name, index in moves.items():
        value = node.input(index)
        if value is None:
            continue
        ints = _ints(value)
        if ints is None:
            return None
        attributes[name] = Attr("int", ints[0]) if name in scalars else Attr("ints", ints)
    return Form(node.op, node.inputs[:1], attributes)


def _axes(node: Node, version: int) -> Form | None:
    if node.attr("noop_with_empty_axes", 0):
        return None
    form = _as_attributes(node, {"axes": 1}, drop=("noop_with_empty_axes",))
    if form is None:
        return None
    axes = form.attributes.get("axes", Attr("ints", (0,))).value
    if not axes and node.op not in REDUCTIONS:
        return None
    if not axes:
        del form.attributes["axes"]  # no axes are all axes
    if version < 11 and node.extra is None and any(a < 0 for a in axes):
        return None
    return _checked(form, node, version)


def _checked(form: Form, node: Node, version: int) -> Form | None:
    _, _, outputs = parts(node)
    attributes, types = frozenset(form.attributes), _types(form.inputs)
    return form if fits(form.op, version, attributes, len(form.inputs), outputs, types) else None


def _split(node: Node, version: int) -> Form | None:
    attributes = {k: v for k, v in node.attributes.items() if k != "num_outputs"}
    if len(node.inputs) == 1:
        if not _divides_evenly(node):
            return None
        return _checked(Form("Split", node.inputs, attributes), node, version)
    if version >= 13:
        return _checked(Form("Split", node.inputs, attributes), node, version)
    form = _as_attributes(node, {"split": 1}, drop=("num_outputs",))
    return form and _checked(form, node, version)


def _divides_evenly(node: Node) -> bool:
    source = node.extra
    if source is not None and getattr(source, "op_type", "") == "Split":
        return "num_outputs" not in {a.name for a in source.attribute}  # the model said so in the old form
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axis = node.attr("axis", 0)
    if shape is None or not -len(shape) <= axis < len(shape):
        return False
    size = shape[axis]
    return isinstance(size, int) and size % len(node.outputs) == 0


def _slice(node: Node, version: int) -> Form | None:
    if node.input(4) is not None and any(s != 1 for s in _ints(node.input(4)) or (0,)):
        return None
    form = _as_attributes(node, {"starts": 1, "ends": 2, "axes": 3})
    return form and _checked(form, node, version)


def _top_k(node: Node, version: int) -> Form | None:
    if node.attr("largest", 1) != 1 or node.attr("sorted", 1) != 1:
        return None
    if version >= 10:
        attributes = {k: v for k, v in node.attributes.items() if k not in ("largest", "sorted")}
        return _checked(Form("TopK", node.inputs, attributes), node, version)
    form = _as_attributes(node, {"k": 1}, scalars=("k",), drop=("largest", "sorted"))
    return form and _checked(form, node, version)


def _float(value: Value | None) -> float | None:
    """Return the only element of a float constant, if an attribute (of type float32) can hold it."""
    array = value.array() if value is not None and value.dtype.is_float else None
    if array is None or array.size != 1:
        return None
    element = float(array.reshape(-1)[0])
    return element if math.isnan(element) or float(np.float32(element)) == element else None


def _clip(node: Node, version: int) -> Form | None:
    low, high = _float(node.input(1)), _float(node.input(2))
    if low is None or high is None:
        return None
    attributes = {"min": Attr("float", low), "max": Attr("float", high)}
    return _checked(Form("Clip", node.inputs[:1], attributes), node, version)


def _pad(node: Node, version: int) -> Form | None:
    if node.input(3) is not None:
        return None
    value = 0.0 if node.input(2) is None else _float(node.input(2))
    form = _as_attributes(node, {"pads": 1})
    if form is None or value is None:
        return None
    if value or math.copysign(1.0, value) < 0:
        form.attributes["value"] = Attr("float", value)
    return _checked(form, node, version)


def _dropout(node: Node, version: int) -> Form | None:
    ratio = 0.5 if node.input(1) is None else _float(node.input(1))
    if ratio is None or node.input(2) is not None or node.attr("seed") is not None:
        return None
    if version < 12 and len(node.outputs) > 1 and not node.outputs[1].absent:
        return None
    return _checked(Form("Dropout", node.inputs[:1], {"ratio": Attr("float", ratio)}), node, version)


def _batch_normalization(node: Node, version: int) -> Form | None:
    if node.attr("training_mode", 0) or sum(not o.absent for o in node.outputs) > 1:
        return None
    attributes = {k: v for k, v in node.attributes.items() if k != "training_mode"}
    return _checked(Form(node.op, node.inputs, attributes), node, version)


def _softmax(node: Node, version: int) -> Form | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axis = node.attr("axis", -1)
    if not shape or not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    if any(d != 1 for d in shape[axis + 1 :]):
        return None
    attributes = {**node.attributes, "axis": Attr("int", axis)}
    return _checked(Form(node.op, node.inputs, attributes), node, version)


def _grid_sample(node: Node, version: int) -> Form | None:
    mode = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}.get(node.attr("mode", "linear"))
    if mode is None:
        return None
    return _checked(Form(node.op, node.inputs, {**node.attributes, "mode": Attr("string", mode)}), node, version)


def _roi_align(node: Node, version: int) -> Form | None:
    if node.attr("coordinate_transformation_mode", "half_pixel") != "output_half_pixel":
        return None
    attributes = {k: v for k, v in node.attributes.items() if k != "coordinate_transformation_mode"}
    return _checked(Form(node.op, node.inputs, attributes), node, version)


def _scatter(node: Node, version: int) -> Form | None:
    if "reduction" in node.attributes or not 9 <= version < 11:
        return None
    return Form("Scatter", node.inputs, node.attributes)


def _dft(node: Node, version: int) -> Form | None:
    axes = (-2,) if node.input(2) is None else _ints(node.input(2))
    if axes is None:
        return None
    attributes = {**node.attributes, "axis": Attr("int", axes[0])}
    operands = node.inputs[:2] if node.input(1) is not None else node.inputs[:1]
    return _checked(Form("DFT", operands, attributes), node, version)


def _resize(node: Node, version: int) -> Form | None:
    """Before version 11 there was one rule where to take samples, known of enlargements only."""
    mode = node.attr("mode", "nearest")
    rule = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "nearest":
        rule["nearest_mode"] = "floor"
    factors = node.inputs[2].array() if len(node.inputs) == 3 and node.inputs[2] is not None else None
    stated = {name: a.value for name, a in node.attributes.items()}
    if mode == "cubic" or stated != rule or factors is None or not factors.size or not (factors >= 1).all():
        return None
    attributes = {"mode": Attr("string", mode)}
    operands = [node.inputs[0], node.inputs[2]]
    if version == 10:
        return _checked(Form("Resize", operands, attributes), node, version)
    if version == 9:
        return _checked(Form("Upsample", operands, attributes), node, version)
    scales = tuple(factors.reshape(-1).tolist())
    return _checked(Form("Upsample", operands[:1], {**attributes, "scales": Attr("floats", scales)}), node, version)


_LOWERINGS: dict[str, Callable[[Node, int], Form | None]] = {
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
    "ScatterElements": _scatter,
    "DFT": _dft,
    "Resize": _resize,
}
"""Operator → function that writes a lifted node in the form of an older version, if that can say it."""

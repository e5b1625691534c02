"""Forms of operators over opset versions of the default domain: which version can say what a node says.

ONNX changes an operator by moving attributes to inputs, adding optional parts, widening types, and now and then by
changing what it means.  All but the last is read from the schemas; changes of meaning are listed here.

Lifting (frontend) rewrites a node into the newest form; lowering (backend) finds the version to emit.
"""

from __future__ import annotations

import functools
from typing import Any

from compiler.ir.dtype import DType
from compiler.ir.graph import Node

MEANING_CHANGED: dict[str, tuple[int, ...]] = {
    "Softmax": (13,), "LogSoftmax": (13,), "Hardmax": (13,),  # flattening to two dims became one axis
    "Resize": (11,), "Scan": (9,), "RoiAlign": (16,), "GroupNormalization": (21,), "DFT": (20,),
    "GridSample": (20,), "Split": (18,), "Upsample": (9,), "BatchNormalization": (14,), "Dropout": (12,),
}  # fmt: skip
"""Operator → versions in which the same attributes and inputs came to mean something else."""

_POOL_FIXED = 19
"""AveragePool's ``ceil_mode`` counts differently before this version."""

_ORT_TYPES = {
    DType.F32: "tensor(float)", DType.F64: "tensor(double)", DType.F16: "tensor(float16)", DType.BF16: "tensor(bfloat16)",
    DType.BOOL: "tensor(bool)", DType.STRING: "tensor(string)", DType.I8: "tensor(int8)", DType.I16: "tensor(int16)",
    DType.I32: "tensor(int32)", DType.I64: "tensor(int64)", DType.U8: "tensor(uint8)", DType.U16: "tensor(uint16)",
    DType.U32: "tensor(uint32)", DType.U64: "tensor(uint64)",
}  # fmt: skip


@functools.cache
def onnx_schema(op: str, version: int) -> Any:
    """Return the ONNX schema of a default-domain operator in force at a version, ``None`` when there is none."""
    from onnx import defs

    try:
        found = defs.get_schema(op, version, "")
    except defs.SchemaError:
        return None
    return None if found.deprecated else found


@functools.cache
def history(op: str) -> tuple[int, ...]:
    """Return the versions in which the operator was defined anew, oldest first."""
    from onnx import defs

    versions, version = [], 10_000
    while version > 0:
        try:
            version = defs.get_schema(op, version, "").since_version
        except defs.SchemaError:
            break
        versions.append(version)
        version -= 1
    return tuple(reversed(versions))


def changed_meaning(op: str, low: int, high: int) -> bool:
    """True when the meaning of the operator changed after version ``low`` and up to ``high``."""
    return any(low < v <= high for v in MEANING_CHANGED.get(op, ()))


@functools.lru_cache(maxsize=65536)
def fits(op: str, version: int, attributes: frozenset[str], inputs: int, outputs: int, types: tuple[DType, ...]) -> bool:
    """True when the operator as of ``version`` takes these attributes, numbers of inputs and outputs, and types."""
    s = onnx_schema(op, version)
    if s is None:
        return False
    if not attributes <= set(s.attributes) or not s.min_input <= inputs <= s.max_input or outputs > s.max_output:
        return False
    if any(a.required and name not in attributes for name, a in s.attributes.items()):
        return False
    for i, dtype in enumerate(types):
        if dtype in _ORT_TYPES and s.inputs:
            formal = s.inputs[min(i, len(s.inputs) - 1)]
            if not any(_ORT_TYPES[dtype] in t for t in formal.types):
                return False
    return True


@functools.lru_cache(maxsize=65536)
def same_form(op: str, old: int, new: int, attributes: frozenset[str], inputs: int, outputs: int) -> bool:
    """True when a node with these parts means the same in versions ``old`` and ``new`` (``old`` below ``new``)."""
    before, after = onnx_schema(op, old), onnx_schema(op, new)
    if before is None or after is None:
        return False
    if before.since_version == after.since_version:
        return True
    if changed_meaning(op, old, new) or not fits(op, new, attributes, inputs, outputs, ()):
        return False
    for name, a in before.attributes.items():
        if name in attributes:
            continue
        default = _default(a)
        if default is not None and (name not in after.attributes or _default(after.attributes[name]) != default):
            return False
    return True


def _default(attribute: Any) -> bytes | None:
    value = attribute.default_value
    return value.SerializeToString() if value.name or value.type else None


def parts(node: Node) -> tuple[frozenset[str], int, int]:
    """Return what decides a node's form: attribute names, number of inputs, number of outputs."""
    outputs = len(node.outputs)
    while outputs > 1 and node.outputs[outputs - 1].absent:
        outputs -= 1
    return frozenset(node.attributes), len(node.inputs), outputs


def keeps_form(node: Node, old: int, new: int) -> bool:
    """True when the node, written for version ``old``, means the same in the later version ``new``."""
    if node.op == "AveragePool" and node.attr("ceil_mode", 0) and old < _POOL_FIXED <= new:
        return False
    attributes, inputs, outputs = parts(node)
    if node.op == "BatchNormalization" and outputs == 1 and old >= 9 and old < 14 <= new:
        return fits(node.op, new, attributes, inputs, outputs, ())
    if node.op == "Split" and inputs == 2 and old >= 13:
        return True
    if node.op == "GridSample" and "mode" not in attributes:
        return True
    if node.op == "Resize" and node.attr("coordinate_transformation_mode") == "tf_half_pixel_for_nn" and old < 13 <= new:
        return False
    return same_form(node.op, old, new, attributes, inputs, outputs)

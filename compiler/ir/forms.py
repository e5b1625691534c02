"""Forms of operators over opset versions of the default domain: which version can say what a node says.

ONNX changes an operator by moving attributes to inputs, adding optional parts, widening types, and now and then by
changing what it means.  All but the last is read from the schemas; changes of meaning are listed here.

Lifting (frontend) rewrites a node into the newest form; lowering (backend) finds the version to emit.
"""

from __future__ import annotations

import functools

from compiler.ir.dtype import DType
from compiler.ir.graph import Node
from compiler.ir.schema import NEWEST_KNOWN, Schema, schema

MEANING_CHANGED: dict[str, tuple[int, ...]] = {
    "Softmax": (13,), "LogSoftmax": (13,), "Hardmax": (13,),  # flattening to two dims became one axis
    "Resize": (11,), "Scan": (9,), "RoiAlign": (16,), "GroupNormalization": (21,), "DFT": (20,),
    "GridSample": (20,), "Split": (18,), "Upsample": (9,), "BatchNormalization": (14,), "Dropout": (12,),
}  # fmt: skip
"""Operator → versions in which the same attributes and inputs came to mean something else."""

REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
"""Reductions: their ``axes`` were an attribute up to opset 17 (``ReduceSum``: 12), and are an input since."""

_POOL_FIXED = 19
"""AveragePool's ``ceil_mode`` counts differently before this version."""

Types = tuple[DType | None, ...]
"""Element types of operands; ``None`` for a missing one."""


def standard(op: str, version: int) -> Schema | None:
    """Return the schema of a default-domain operator in force at a version, ``None`` when there is none."""
    found = schema("", op, version)
    return None if found is None or found.deprecated else found


@functools.cache
def history(op: str) -> tuple[int, ...]:
    """Return the versions in which the operator was defined anew, oldest first; none for what ONNX does not define."""
    versions: list[int] = []
    found = schema("", op, NEWEST_KNOWN)
    while found is not None:
        versions.append(found.since_version)
        found = schema("", op, found.since_version - 1) if found.since_version > 1 else None
    return tuple(reversed(versions))


def changed_meaning(op: str, low: int, high: int) -> bool:
    """True when the meaning of the operator changed after version ``low`` and up to ``high``."""
    return any(low < v <= high for v in MEANING_CHANGED.get(op, ()))


@functools.lru_cache(maxsize=65536)
def fits(op: str, version: int, attributes: frozenset[str], inputs: int, outputs: int, types: Types) -> bool:
    """True when the operator as of ``version`` takes these attributes, numbers of inputs and outputs, and types.

    No ``types`` at all are types that nobody asks for.
    """
    s = standard(op, version)
    if s is None:
        return False
    if not attributes <= set(s.attributes) or not s.min_input <= inputs <= s.max_input or outputs > s.max_output:
        return False
    if any(a.required and name not in attributes for name, a in s.attributes.items()):
        return False
    return all(_takes(s, i, dtype) for i, dtype in enumerate(types))


def _takes(s: Schema, index: int, dtype: DType | None) -> bool:
    formal = s.formal_input(index)
    if dtype is None:
        return formal is None or formal.option != "single"
    if formal is None or dtype is DType.UNKNOWN:
        return True
    allowed = s.allowed(formal)
    return not allowed or dtype in allowed


@functools.lru_cache(maxsize=65536)
def same_form(op: str, old: int, new: int, attributes: frozenset[str], inputs: int, outputs: int) -> bool:
    """True when a node with these parts means the same in versions ``old`` and ``new`` (``old`` below ``new``)."""
    before, after = standard(op, old), standard(op, new)
    if before is None or after is None:
        return False
    if before.since_version == after.since_version:
        return True
    if changed_meaning(op, old, new) or not fits(op, new, attributes, inputs, outputs, ()):
        return False
    for name, a in before.attributes.items():
        if name in attributes or a.default is None:
            continue
        if name not in after.attributes or after.attributes[name].default != a.default:
            return False
    return True


_NO_ATTRIBUTES: frozenset[str] = frozenset()


def parts(node: Node) -> tuple[frozenset[str], int, int]:
    """Return what decides a node's form: attribute names, number of inputs, number of outputs."""
    outputs = len(node.outputs)
    while outputs > 1 and node.outputs[outputs - 1].absent:
        outputs -= 1
    return frozenset(node.attributes) if node.attributes else _NO_ATTRIBUTES, len(node.inputs), outputs


_EXCEPTIONAL = frozenset({"AveragePool", "BatchNormalization", "GridSample", "Resize", "Split"})


def is_exceptional(node: Node) -> bool:
    """True when more than the schemas decides about a node's form: what its attributes say."""
    return node.op in _EXCEPTIONAL


def _is_withdrawn_resize(node: Node) -> bool:
    return node.op == "Resize" and node.attr("coordinate_transformation_mode") == "tf_half_pixel_for_nn"


def keeps_form(node: Node, old: int, new: int) -> bool:
    """True when the node, written for version ``old``, means the same in the later version ``new``."""
    attributes, inputs, outputs = parts(node)
    if node.op not in _EXCEPTIONAL:
        return same_form(node.op, old, new, attributes, inputs, outputs)
    if node.op == "AveragePool" and node.attr("ceil_mode", 0) and old < _POOL_FIXED <= new:
        return False
    if node.op == "BatchNormalization" and outputs == 1 and old >= 9 and old < 14 <= new:
        return fits(node.op, new, attributes, inputs, outputs, ())
    if node.op == "Split" and inputs == 2 and old >= 13:
        return True
    if node.op == "GridSample" and "mode" not in attributes:
        return True
    if _is_withdrawn_resize(node) and old < 13 <= new:
        return False
    return same_form(node.op, old, new, attributes, inputs, outputs)

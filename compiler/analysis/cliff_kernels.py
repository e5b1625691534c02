"""Cliffs at kernels: operators, types and versions for which the target has none."""

from __future__ import annotations

from compiler.analysis.cliffs import Entries, Scene
from compiler.ir.dtype import DType
from compiler.ir.graph import Node
from compiler.ir.schema import Schema, schema

ENTRIES = Entries()

_TYPE_NAMES = {
    DType.F32: "float", DType.F64: "double", DType.F16: "float16", DType.BF16: "bfloat16", DType.I8: "int8",
    DType.I16: "int16", DType.I32: "int32", DType.I64: "int64", DType.U8: "uint8", DType.U16: "uint16",
    DType.U32: "uint32", DType.U64: "uint64", DType.BOOL: "bool", DType.STRING: "string", DType.C64: "complex64",
    DType.C128: "complex128", DType.I4: "int4", DType.U4: "uint4",
}  # fmt: skip
"""Element types by the names of ONNX; those that are not here are not asked for."""

_BETTER = {
    "Mish": "x·n/(n+2) with n = e·(e+2), e = exp(min(x, 20)) is 12 times faster",
    "GroupNormalization": "Reshape, InstanceNormalization, Mul, Add is 2.2 times faster",
    "Swish": "com.microsoft QuickGelu with alpha 1 is 2.8 times faster",
    "HardSwish": "fast after Conv only",
}


@ENTRIES.at(
    name="operator without a kernel, taken apart",
    why="the provider has no kernel of it, so ONNX Runtime runs its definition, node by node",
    do="use the faster form that is named, or an operator with a kernel",
)
def _expanded(node: Node, scene: Scene) -> str | None:
    reason = _missing(node, scene)
    definition = _definition(node, scene)
    if not reason or definition is None or not definition.has_function:
        return None
    return _BETTER.get(node.op, "")


@ENTRIES.at(
    name="half precision without a kernel",
    why="ONNX Runtime runs these nodes in f32 between casts, which is slower than an f32 model (2 to 4 times on CPUs)",
    do="compile the f32 model for this target",
)
def _half(node: Node, scene: Scene) -> str | None:
    reason = _missing(node, scene)
    return "" if reason and _half_only(node, scene) else None


@ENTRIES.at(
    name="no kernel: the model does not load",
    why="the provider has no kernel for the operator with these types, and the standard does not define it by others",
    do="convert to a type that has a kernel (f32), replace the operator, or choose another target",
    fatal=True,
)
def _fatal(node: Node, scene: Scene) -> str | None:
    reason = _missing(node, scene)
    definition = _definition(node, scene)
    if not reason or definition is None or definition.has_function or _half_only(node, scene):
        return None
    return reason if scene.on_cpu else None


@ENTRIES.at(
    name="operator that the provider does not run",
    why="it runs on the CPU instead; each change of provider copies tensors and splits the graph",
    do="replace the operator, or compile for a target that lowers it",
)
def _elsewhere(node: Node, scene: Scene) -> str | None:
    reason = _missing(node, scene)
    definition = _definition(node, scene)
    return reason if reason and not scene.on_cpu and not (definition and definition.has_function) else None


def _definition(node: Node, scene: Scene) -> Schema | None:
    """Return the definition in the version that the file imports, which is what the runtime looks up."""
    if node.domain:
        return None
    return schema("", node.op, scene.model.opsets.get("", 0) or node.version)


def _missing(node: Node, scene: Scene) -> str:
    """Return why a node has no kernel, ``""`` when it has one or nobody can tell."""
    definition = _definition(node, scene)
    if scene.kernels is None or definition is None or node.graphs():
        return ""
    types = _types(node, definition)
    if types is None:
        return ""
    return scene.kernels.supports("", node.op, definition.since_version, types).reason


def _half_only(node: Node, scene: Scene) -> bool:
    """True when f16 is the only obstacle, and the runtime casts around it."""
    definition = _definition(node, scene)
    types = _types(node, definition) if definition is not None else None
    if scene.kernels is None or definition is None or types is None or "tensor(float16)" not in types.values():
        return False
    return bool(scene.kernels.supports_through_float("", node.op, definition.since_version, types))


def _types(node: Node, definition: Schema) -> dict[str, str] | None:
    """Return ONNX's names of a node's types by type variable and formal name, ``None`` when one is not known."""
    found: dict[str, str] = {}
    pairs = [(definition.formal_input(i), v) for i, v in enumerate(node.inputs) if v is not None]
    pairs += [(definition.formal_output(i), v) for i, v in enumerate(node.outputs) if not v.absent]
    for formal, value in pairs:
        if formal is None or value.dtype not in _TYPE_NAMES:
            return None
        name = f"tensor({_TYPE_NAMES[value.dtype]})"
        found.setdefault(formal.type_str, name)
        found.setdefault(formal.name, name)
    return found

"""Count what ONNX Runtime does by itself when it loads the model, so that nobody expects a gain from doing it first.

Each entry counts the places where the pattern of one built-in optimization begins, by looking a few nodes around:
cheap, and near enough for a report.  Level 1 runs for every execution provider, levels 2 and 3 only for nodes that ONNX
Runtime's own kernels run: providers that compile whole subgraphs see the model after level 1.

Source: ``core/optimizer/graph_transformer_utils.cc`` of ONNX Runtime 1.31, and dumps of what it made of probe models.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from compiler.analysis.patterns import (
    ACTIVATIONS,
    decomposed_layer_norm,
    erf_gelu,
    feeds,
    is_scalar,
    only_user,
    producer,
    tail_of,
)
from compiler.ir.graph import Model, Node
from compiler.ir.schema import is_pure, operator_names
from compiler.ir.types import TensorType

OWN_KERNELS = ("CPUExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider", "WebGpuExecutionProvider")
"""Providers whose nodes ONNX Runtime optimizes beyond level 1."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """An optimization that ONNX Runtime does when it loads the model."""

    name: str
    """What becomes of what."""
    level: int
    """The optimization level that it belongs to."""
    count: int
    """Places where it applies."""


Test = Callable[[Node], bool]
_ENTRIES: list[tuple[str, int, tuple[str, ...], Test]] = []
"""Name, level, operators and test of every entry, in the order of this file."""


def _counts(name: str, *ops: str, level: int) -> Callable[[Test], Test]:
    def register(test: Test) -> Test:
        _ENTRIES.append((name, level, ops, test))
        return test

    return register


def built_in(model: Model, provider: str) -> tuple[BuiltIn, ...]:
    """Return the built-in optimizations that apply to a model on a provider, in the order of their levels."""
    found = dict.fromkeys(range(len(_ENTRIES)), 0)
    by_op: dict[str, list[int]] = {}
    for i, (_, level, ops, _test) in enumerate(_ENTRIES):
        if level == 1 or provider in OWN_KERNELS:
            for op in ops or ("",):
                by_op.setdefault(op, []).append(i)
    always = by_op.get("", [])
    for node in model.graph.all_nodes():
        for i in (*by_op.get(node.op, ()), *always):
            found[i] += _ENTRIES[i][3](node)
    repeated = _repeated(model)
    rows = [BuiltIn(_ENTRIES[i][0], _ENTRIES[i][1], n) for i, n in found.items() if n]
    rows += [BuiltIn("equal nodes computed once", 1, repeated)] if repeated else []
    return tuple(sorted(rows, key=lambda r: (r.level, -r.count, r.name)))


def _repeated(model: Model) -> int:
    """Count nodes that compute what an earlier one computes, tensors as attributes aside."""
    count = 0
    for graph in model.graph.all_graphs():
        seen: set[Hashable] = set()
        for node in graph.nodes():
            attributes = tuple(sorted((k, a.kind, a.value) for k, a in node.attributes.items() if _is_plain(a.kind)))
            if len(attributes) < len(node.attributes) or not is_pure(node):
                continue
            key = (node.qualified, node.version, node.inputs, attributes, len(node.outputs))
            count += key in seen
            seen.add(key)
    return count


def _is_plain(kind: str) -> bool:
    return kind.rstrip("s") in ("int", "float", "string")


# Level 1 -----------------------------------------------------------------------------------------


@_counts("constant expressions computed once", level=1)
def _folds(node: Node) -> bool:
    if node.is_op("Shape"):
        source = node.input(0)
        return source is not None and isinstance(source.type, TensorType) and source.type.is_static
    operands = [i for i in node.inputs if i is not None]
    constant = bool(operands) and all(i.constant is not None for i in operands)
    return constant and not node.is_op("DequantizeLinear") and is_pure(node)


@_counts("nodes that do nothing removed", "Identity", "Dropout", "Cast", level=1)
def _does_nothing(node: Node) -> bool:
    source = node.input(0)
    return not node.is_op("Cast") or (source is not None and source.type == node.output.type)


@_counts("Conv + BatchNormalization → Conv", "BatchNormalization", level=1)
def _conv_batch_norm(node: Node) -> bool:
    return feeds(node, 0, "Conv", "ConvTranspose")


@_counts("Conv + Add or Mul of constants → Conv", "Add", "Mul", level=1)
def _conv_scale(node: Node) -> bool:
    right = node.input(1)
    return feeds(node, 0, "Conv") and right is not None and right.constant is not None and not is_scalar(right)


@_counts("Pad into the Conv or pool after it", "Pad", level=1)
def _pad(node: Node) -> bool:
    user = only_user(node)
    return user is not None and user.is_op("Conv", "AveragePool", "MaxPool") and node.input(3) is None


@_counts("MatMul + Add of a bias → Gemm", "Add", level=1)
def _matmul_add(node: Node) -> bool:
    for index in (0, 1):
        other = node.input(1 - index)
        if feeds(node, index, "MatMul") and other is not None and other.constant is not None:
            made = node.inputs[index]
            return made is not None and (made.rank == 2 or (made.rank == 3 and _is_static(node)))
    return False


def _is_static(node: Node) -> bool:
    return isinstance(node.output.type, TensorType) and node.output.type.is_static


@_counts("Reshape by computed shapes → Reshape by a constant", "Reshape", level=1)
def _reshape(node: Node) -> bool:
    made = producer(node, 1)
    return made is not None and made.is_op("Concat")


@_counts("Gelu written as Div, Erf, Add, Mul, Mul → Gelu", "Erf", level=1)
def _gelu(node: Node) -> bool:
    return erf_gelu(node) == "Div"


@_counts("LayerNormalization written out with Pow → one node", "Div", level=1)
def _layer_norm(node: Node) -> bool:
    return decomposed_layer_norm(node) == "Pow" and tail_of(node) == ["Mul", "Add"]


@_counts("Transpose pushed through and cancelled, where it can be", "Transpose", level=1)
def _transposes(node: Node) -> bool:
    made = producer(node, 0)
    user = only_user(node)
    return (made is not None and made.is_op("Transpose")) or (user is not None and user.op in _PUSHED_THROUGH)


_PUSHED_THROUGH = operator_names("""
        Add Sub Mul Div Relu Sigmoid Tanh Clip Concat Split Pad Softmax Slice Gather Squeeze Unsqueeze Cast Erf Sqrt
        LeakyRelu QuantizeLinear DequantizeLinear ReduceMean ReduceSum ReduceMax Transpose Reshape Where
""")


# Levels 2 and 3 ----------------------------------------------------------------------------------


@_counts("Conv + activation → FusedConv", *ACTIVATIONS, "Clip", level=2)
def _conv_activation(node: Node) -> bool:
    made = producer(node, 0)
    if made is not None and made.is_op("BatchNormalization"):
        made = producer(made, 0)
    return made is not None and made.is_op("Conv") and node.op in (*_CONV_ACTIVATIONS, "Clip")


_CONV_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid")


@_counts("Gemm + activation → FusedGemm", *ACTIVATIONS, level=2)
def _gemm_activation(node: Node) -> bool:
    return feeds(node, 0, "Gemm")


@_counts("Add + LayerNormalization → SkipLayerNormalization", "LayerNormalization", level=2)
def _skip_layer_norm(node: Node) -> bool:
    return feeds(node, 0, "Add") and node.output.rank == 3


@_counts("x·sigmoid(x) → QuickGelu", "Mul", level=2)
def _silu(node: Node) -> bool:
    for index in (0, 1):
        made = producer(node, index)
        if made is not None and made.is_op("Sigmoid") and made.input(0) is node.input(1 - index):
            return True
    return False


@_counts("bias + Gelu → BiasGelu", "Gelu", level=2)
def _bias_gelu(node: Node) -> bool:
    made = producer(node, 0)
    return made is not None and made.is_op("Add") and any(i is not None and i.constant for i in made.inputs)


@_counts("Transpose or scale of a MatMul operand → FusedMatMul", "MatMul", level=2)
def _fused_matmul(node: Node) -> bool:
    found = [producer(node, i) for i in (0, 1)]
    return any(
        p is not None and (p.is_op("Transpose") or (p.is_op("Mul", "Div") and is_scalar(p.input(1)))) for p in found
    )


@_counts("DequantizeLinear around an operator → integer kernel", "Conv", "MatMul", "Gemm", "Add", "Mul", level=2)
def _quantized(node: Node) -> bool:
    made = [producer(node, i) for i in (0, 1)]
    return all(p is not None and p.is_op("DequantizeLinear") for p in made)


@_counts("DynamicQuantizeLinear + MatMulInteger → DynamicQuantizeMatMul", "MatMulInteger", level=2)
def _dynamic_quantized(node: Node) -> bool:
    made = producer(node, 0)
    return made is not None and made.is_op("DynamicQuantizeLinear") and len(made.outputs[0].users()) == 1


@_counts("Conv + residual Add + activation → FusedConv", "Add", level=3)
def _residual(node: Node) -> bool:
    user = only_user(node)
    return user is not None and user.is_op("Relu") and (feeds(node, 0, "Conv") or feeds(node, 1, "Conv"))

"""Cliffs at operators: forms that ONNX Runtime runs much slower than others that compute the same."""

from __future__ import annotations

import math

from compiler.analysis.cliffs import Entries, Scene
from compiler.analysis.patterns import decomposed_layer_norm, erf_gelu, producer, tail_of
from compiler.analysis.work import nodes_within
from compiler.ir.dtype import DType
from compiler.ir.facts import scalar_constant
from compiler.ir.graph import Node
from compiler.ir.schema import attribute, operator_names
from compiler.ir.types import TensorType

ENTRIES = Entries()

_LARGE = 1 << 16
"""Elements from which a kernel of one thread is worth a word."""


def _kernel_rank(node: Node) -> int | None:
    weights = node.input(1)
    return None if weights is None or weights.rank is None else weights.rank - 2


def _is_depthwise(node: Node) -> bool:
    return int(attribute(node, "group") or 1) > 1


@ENTRIES.at(
    "Conv",
    name="one-dimensional convolution",
    why="it never takes the blocked layout; Conv2d of height 1 is 5 times faster when depthwise, 1.1 when dense",
    do="reshape to [N,C,1,W] around it, or let a newer exporter do so",
)
def _conv1d(node: Node, scene: Scene) -> str | None:
    if _kernel_rank(node) != 1 or not scene.on_cpu:
        return None
    return "depthwise" if _is_depthwise(node) else ""


@ENTRIES.at(
    "Conv",
    name="convolution with dynamic weights",
    why="weights that are computed at run time are neither packed ahead nor laid out in blocks",
    do="make the weights constants: fold what computes them",
)
def _dynamic_weights(node: Node, scene: Scene) -> str | None:
    weights = node.input(1)
    if weights is None or weights.constant is not None:
        return None
    made = weights.node
    if made is not None and made.is_op("DequantizeLinear") and made.inputs[0] is not None and made.inputs[0].constant:
        source = producer(node, 0)
        return None if source is not None and source.is_op("DequantizeLinear") else "dequantized, for floats"
    return f"%{weights.name}"


@ENTRIES.at(
    "Conv",
    name="convolution over dynamic dims",
    why="unknown batch or spatial dims keep ONNX Runtime from planning memory and, on ARM, from fast layouts",
    do="fix the dims when exporting, or with SessionOptions.add_free_dimension_override_by_name",
)
def _dynamic_dims(node: Node, scene: Scene) -> str | None:
    source = node.input(0)
    if source is None:
        return None
    if not isinstance(source.type, TensorType):
        return "shape unknown"
    unknown = [d for i, d in enumerate(source.type.shape) if i != 1 and not isinstance(d, int)]
    return f"{source.type}" if unknown else None


@ENTRIES.at(
    "Conv",
    name="channels that do not fit the blocked layout",
    why="blocked kernels take input channels in multiples of 4, and groups that are depthwise or as wide as a block",
    do="pad channels with zeros (1.2 times faster for 30 → 32); repeat the input of a depthwise multiplier (2.2 times)",
)
def _channels(node: Node, scene: Scene) -> str | None:
    weights = node.input(1)
    if not (scene.on_cpu and scene.on_x86) or weights is None or weights.rank != 4 or weights.shape is None:
        return None
    outputs, inputs = weights.shape[0], weights.shape[1]
    group = int(attribute(node, "group") or 1)
    if not isinstance(outputs, int) or not isinstance(inputs, int):
        return None
    block = 16 if "avx512f" in scene.target.machine.isa else 8
    if group == 1:
        return f"{inputs} input channels" if inputs >= block and inputs % 4 else None
    if inputs == 1:
        return f"depthwise, multiplier {outputs // group}" if outputs > group else None
    narrow = inputs % block or (outputs // group) % block
    return f"{group} groups of {inputs} channels" if narrow else None


@ENTRIES.at(
    "BatchNormalization",
    name="BatchNormalization that nothing absorbs",
    why="without a Conv before it, it stays a kernel of one thread; on 3 dims it was 20 times slower than on 4",
    do="fold it into the layer before or after; reshape [N,C,L] to [N,C,L,1]",
)
def _batch_norm(node: Node, scene: Scene) -> str | None:
    made = producer(node, 0)
    if not scene.on_cpu or (made is not None and made.is_op("Conv", "ConvTranspose")):
        return None
    return "on 3 dims" if node.output.rank == 3 else ""


@ENTRIES.at(
    "Einsum",
    name="Einsum",
    why="it is taken apart at run time, every time; the same MatMul is 1.4 times faster",
    do="write it as Transpose, Reshape and MatMul",
)
def _einsum(node: Node, scene: Scene) -> str | None:
    return str(node.attr("equation", ""))


@ENTRIES.at(
    "Pow",
    name="Pow with exponent 0.5",
    why="only exponents 2 and 3 have fast kernels: Sqrt is 10 times faster",
    do="use Sqrt",
)
def _pow(node: Node, scene: Scene) -> str | None:
    return "" if scalar_constant(node.input(1)) == 0.5 else None


@ENTRIES.at(
    "Softmax",
    "LogSoftmax",
    name="Softmax along an axis that is not the last",
    why="it transposes in and out with one thread; ReduceMax, Sub, Exp, ReduceSum, Div is 6 times faster",
    do="put the axis last where the model can, or write it with reductions",
)
def _softmax(node: Node, scene: Scene) -> str | None:
    axis, rank = int(attribute(node, "axis")), node.output.rank
    if not scene.on_cpu or rank is None or node.version < 13:
        return None
    return f"axis {axis} of {rank}" if axis not in (-1, rank - 1) else None


@ENTRIES.at(
    "Resize",
    "Upsample",
    name="cubic Resize",
    why="the kernel is scalar and runs in one thread: two MatMul with constant matrices are 69 times faster",
    do="use linear, or multiply by interpolation matrices when the sizes are fixed",
)
def _resize(node: Node, scene: Scene) -> str | None:
    return "" if scene.on_cpu and attribute(node, "mode") == "cubic" else None


@ENTRIES.at(
    "Softplus",
    name="Mish, or Softplus, by its definition",
    why="Softplus is 40 times slower than Sigmoid, and Mish is made of it",
    do="write Mish as x·n/(n+2) with n = e·(e+2), e = exp(min(x, 20)): 12 times faster",
)
def _softplus(node: Node, scene: Scene) -> str | None:
    return "Mish" if tail_of(node) == ["Tanh", "Mul"] else ""


@ENTRIES.at(
    "Erf",
    name="Gelu in a form that ONNX Runtime does not recognize",
    why="scaled by Mul(x, 0.7071) instead of Div(x, sqrt 2) it stays five nodes; one Gelu is 1.7 times faster",
    do="export with opset 20, where Gelu is one operator",
)
def _erf_gelu(node: Node, scene: Scene) -> str | None:
    return "" if erf_gelu(node) == "Mul" else None


@ENTRIES.at(
    "Div",
    name="LayerNormalization in a form that ONNX Runtime does not recognize",
    why="squared by Mul, or without scale and bias, it stays a chain of nodes; one operator is 1.3 to 1.8 times faster",
    do="export with opset 17, where LayerNormalization is one operator",
)
def _layer_norm(node: Node, scene: Scene) -> str | None:
    form = decomposed_layer_norm(node)
    if form == "Mul":
        return "squared by Mul"
    return "no scale and bias" if form == "Pow" and tail_of(node) != ["Mul", "Add"] else None


@ENTRIES.at(
    "Loop",
    "Scan",
    "SequenceMap",
    name="loop",
    why="every iteration runs its nodes one by one, with the overhead of a small session; weights in it are not packed",
    do="export without it: unroll a few iterations, or use the operator (LSTM, GRU, CumSum) that it spells out",
)
def _loop(node: Node, scene: Scene) -> str | None:
    return f"{sum(nodes_within(g) for g in node.graphs())} nodes an iteration"


@ENTRIES.at(
    "ScatterElements",
    name="ScatterElements that adds",
    why="the kernel is scalar: 761 ms where 6 ms would do have been reported",
    do="use ScatterND, or a MatMul with a one-hot matrix",
)
def _scatter(node: Node, scene: Scene) -> str | None:
    return "" if attribute(node, "reduction") == "add" else None


@ENTRIES.at(
    *operator_names(
        "InstanceNormalization Slice Pad Tile Trilu CumSum OneHot ReverseSequence NonZero DFT LpNormalization"
    ),
    name="kernel of one thread on a large tensor",
    why="these kernels use one thread however many there are",
    do="do it to a smaller tensor: earlier, later, or folded into a neighbour",
)
def _one_thread(node: Node, scene: Scene) -> str | None:
    type_ = node.output.type
    if not scene.on_cpu or scene.threads < 2 or not isinstance(type_, TensorType):
        return None
    known = math.prod(d for d in type_.shape if isinstance(d, int))
    return str(type_) if known >= _LARGE else None


@ENTRIES.at(
    "MatMulNBits",
    name="MatMulNBits that computes in float",
    why="without accuracy_level 4 the weights are unpacked on every run: 4 times slower with 4 bits, 23 to 60 with 8",
    do="set accuracy_level to 4, and check the results: activations are then quantized to 8 bits",
)
def _nbits(node: Node, scene: Scene) -> str | None:
    level = int(node.attr("accuracy_level", 0))
    return f"{node.attr('bits', 4)} bits, accuracy_level {level}" if scene.on_cpu and level != 4 else None


@ENTRIES.at(
    "ConvInteger",
    name="convolution with dynamic quantization",
    why="ConvInteger has been seen 10 times slower than the float convolution",
    do="quantize convolutions statically, or leave them in f32",
)
def _conv_integer(node: Node, scene: Scene) -> str | None:
    return ""


@ENTRIES.at(
    *operator_names("MatMulInteger ConvInteger QLinearConv QLinearMatMul QGemm DequantizeLinear"),
    name="signed 8-bit activations on x86",
    why="x86 multiplies unsigned by signed; signed by signed is scalar code there, 5 to 17 times slower than f32",
    do="quantize activations to u8 (weights stay s8)",
)
def _signed(node: Node, scene: Scene) -> str | None:
    value = node.input(0)
    if value is None or value.constant is not None or value.dtype is not DType.I8:
        return None
    return f"%{value.name}" if scene.on_cpu and scene.on_x86 else None

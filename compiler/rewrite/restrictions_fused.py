"""Restrictions of the kernels of norms, activations, fused products and convolutions, and recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.ir.dtype import DType
from compiler.ir.graph import Node, Value
from compiler.rewrite.restrictions import CPU, EVERY, Condition, all_of, any_of, dim, has_rank, restricted, same, shaped

_BERT = "contrib_ops/cpu/bert"
_NORM = "core/providers/cpu/nn/layer_norm_helper.h"

_SKIP_NORM = "contrib_ops/cpu/skip_layer_norm_helper.h"


@restricted(
    "com.microsoft", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", provider=EVERY, source=_SKIP_NORM
)
def skip_norm(node: Node) -> Iterator[Condition]:
    """Rank 2 or 3, parameters of rank 1; only the skip may lack the batch; ``epsilon`` is not negative."""
    data, skip = node.input(0), node.input(1)
    yield node.attr("epsilon", 0.0) >= 0, f"epsilon is {node.attr('epsilon', 0.0):g}"
    yield has_rank(data, 2, 3), f"the rank of {shaped(data)} is neither 2 nor 3"
    yield has_rank(skip, 2, 3), f"the rank of the skip ({shaped(skip)}) is neither 2 nor 3"
    yield (
        same(dim(skip, -1), dim(data, -1)),
        f"the skip ({shaped(skip)}) differs from {shaped(data)} in the last two dims",
    )
    yield (
        same(dim(skip, -2), dim(data, -2)),
        f"the skip ({shaped(skip)}) differs from {shaped(data)} in the last two dims",
    )
    yield (
        _lacks_batch(data, skip),
        f"the skip ({shaped(skip)}) is not shaped as {shaped(data)}, with or without a batch",
    )
    for parameter in node.inputs[2:]:
        yield has_rank(parameter, 1), f"the rank of the parameter {shaped(parameter)} is not 1"


def _lacks_batch(data: Value | None, skip: Value | None) -> bool | None:
    if data is None or skip is None or data.rank is None or skip.rank is None:
        return None
    if data.rank == 2:
        return skip.rank == 2
    return skip.rank == 2 or any_of(same(dim(skip, 0), dim(data, 0)), same(dim(skip, 0), 1))


@restricted(
    "", "RMSNormalization", provider=EVERY, source="core/providers/cpu/nn/layer_norm.cc, onnx: its function body"
)
def rms_norm(node: Node) -> Iterator[Condition]:
    """Kernel and function body want one element type for data and scale."""
    data, scale = node.input(0), node.input(1)
    if data is None or scale is None or DType.UNKNOWN in (data.dtype, scale.dtype):
        return
    yield data.dtype is scale.dtype, f"{shaped(data)} and its scale ({shaped(scale)}) differ in element type"


@restricted("", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", provider=CPU, source=_NORM)
def norm(node: Node) -> Iterator[Condition]:
    """There is something to normalize."""
    data = node.input(0)
    shape = data.shape if data is not None else None
    yield 0 not in (shape or ())[node.attr("axis", -1) :], f"rows of {shaped(data)} are empty"


@restricted("com.microsoft", "EmbedLayerNormalization", provider=EVERY, source=f"{_BERT}/embed_layer_norm_helper.cc")
def embedding(node: Node) -> Iterator[Condition]:
    """Ids of rank 2; the second output must be there, if only in name."""
    yield has_rank(node.input(0), 2), f"the rank of the ids ({shaped(node.input(0))}) is not 2"
    yield len(node.outputs) > 1, "it needs at least two outputs, of which the second may be absent"


# Activations, matrix products, convolutions ------------------------------------------------------


@restricted("com.microsoft", "BiasGelu", "FastGelu", provider=EVERY, source=f"{_BERT}/bias_gelu_helper.h")
def biased_gelu(node: Node) -> Iterator[Condition]:
    """The bias is a vector as wide as the data."""
    data, bias = node.input(0), node.input(1)
    if bias is not None:
        yield has_rank(bias, 1), f"the rank of the bias ({shaped(bias)}) is not 1"
        yield same(dim(bias, 0), dim(data, -1)), f"the bias ({shaped(bias)}) is not as wide as {shaped(data)}"


_GEMM_ACTIVATIONS = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "Softplus": (),
    "Softsign": (),
    "LeakyRelu": ("activation_alpha",),
    "Elu": ("activation_alpha",),
    "ThresholdedRelu": ("activation_alpha",),
    "HardSigmoid": ("activation_alpha", "activation_beta"),
    "ScaledTanh": ("activation_alpha", "activation_beta"),
    "Selu": ("activation_alpha", "activation_gamma"),
}
"""Activations of ``FusedGemm``, and the attributes that each must state."""


@restricted("com.microsoft", "FusedGemm", provider=CPU, source="contrib_ops/cpu/fused_gemm.cc")
def fused_gemm(node: Node) -> Iterator[Condition]:
    """An activation of the list, with its parameters."""
    activation = node.attr("activation", "")
    yield activation in _GEMM_ACTIVATIONS, f"there is no activation {activation!r}"
    for name in _GEMM_ACTIVATIONS.get(activation, ()):
        yield name in node.attributes, f"the activation {activation} needs {name}"


_CONV_ACTIVATIONS = {"Relu": 0, "Sigmoid": 0, "Tanh": 0, "LeakyRelu": 1, "Clip": 2, "HardSigmoid": 2, "HardSwish": 2}
"""Activations of ``FusedConv``, and how many parameters each takes."""

_HARD_SWISH = [round(1 / 6, 5), 0.5]
"""The only parameters of ``HardSwish`` that kernels know."""


@restricted(
    "com.microsoft", "FusedConv", "NhwcFusedConv", provider=CPU, source="core/providers/cpu/fused_activation.cc"
)
def fused_conv(node: Node) -> Iterator[Condition]:
    """An activation of the list, with its parameters; what is added has the shape of the result."""
    activation, added = node.attr("activation", ""), node.input(3)
    parameters = len(node.attr("activation_params", ()))
    if activation:
        yield activation in _CONV_ACTIVATIONS, f"there is no activation {activation!r}"
        count = _CONV_ACTIVATIONS.get(activation, 0)
        yield parameters == count, f"the activation {activation} takes {count} parameters, not {parameters}"
    if activation == "HardSwish":
        stated = [round(p, 5) for p in node.attr("activation_params", ())]
        yield stated == _HARD_SWISH, f"the parameters {stated} of HardSwish are ignored"
    if added is not None and added.shape is not None and node.output.shape is not None:
        pairs = zip(added.shape, node.output.shape, strict=False)
        alike = added.rank == node.output.rank and all_of(*(same(a, b) for a, b in pairs))
        yield alike, f"what is added ({shaped(added)}) is not shaped as the result ({shaped(node.output)})"


@restricted("", "GRU", "LSTM", "RNN", provider=CPU, source="core/providers/cpu/rnn/rnn.h")
def recurrent(node: Node) -> Iterator[Condition]:
    """Steps come before the batch."""
    yield node.attr("layout", 0) == 0, f"layout = {node.attr('layout')}: the batch before the steps is not implemented"

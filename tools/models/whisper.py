"""The encoder of Whisper-tiny as a tracing exporter writes it at opset 17.

Two convolutions over a log-mel spectrogram, learned positions, and pre-norm transformer blocks.  The clutter
is what exports really carry: numbers as ``Constant`` nodes, casts of float32 to float32, unsqueezed and
squeezed hidden states, an ``Identity`` where two modules share one weight, and head splits computed from
``Shape`` for a dynamic batch.
"""

from __future__ import annotations

import onnx

from tools.models.layers import Exporter, Tensor, conv, gelu, layer_norm, linear, reshape, size


def whisper_tiny_encoder(
    *,
    layers: int = 4,
    width: int = 384,
    heads: int = 6,
    frames: int = 3000,
    mels: int = 80,
    seed: int = 0,
    batch: str | int = "batch",
) -> onnx.ModelProto:
    """Build ``input_features`` [batch, mels, frames] -> ``last_hidden_state`` [batch, frames / 2, width].

    ``width`` must be a multiple of ``heads``, and ``frames`` even.  Standard normal inputs give outputs of
    unit scale that differ by position.
    """
    if width % heads or frames % 2:
        raise ValueError(f"width {width} must be a multiple of heads {heads}, and frames {frames} even")
    x = Exporter(opset=17, ir_version=8, seed=seed)
    h = x.input("input_features", [batch, mels, frames])
    with x.scope("encoder"):
        h = _stem(x, h, mels, width)
        h = _positions(x, h, frames // 2, width)
        for index in range(layers):
            with x.scope(f"layers.{index}"):
                h = _block(x, h, width, heads, gain=(2 * layers) ** -0.5)
        with x.scope("layer_norm"):
            h = layer_norm(x, h, width)
    x.output(x.op("Identity", h), "last_hidden_state", [batch, frames // 2, width])
    return x.model()


def _stem(x: Exporter, h: Tensor, mels: int, width: int) -> Tensor:
    """Turn [N, mels, frames] into [N, frames / 2, width]."""
    for name, inputs, stride in (("conv1", mels, 1), ("conv2", width, 2)):
        with x.scope(name):
            weight = x.normal(width, inputs, 3, std=(2.0 / (3 * inputs)) ** 0.5)
            h = conv(x, h, weight, bias=x.normal(width, std=0.05), stride=stride, padding=1)
        h = gelu(x, h)
    return x.op("Transpose", h, perm=[0, 2, 1])


def _positions(x: Exporter, h: Tensor, length: int, width: int) -> Tensor:
    """Add the learned positions, which the module keeps without a batch axis."""
    with x.scope("embed_positions"):
        table = x.parameter("weight", x.normal(length, width, std=0.5))
    return x.op("Add", h, x.op("Unsqueeze", table, x.constant([0])))


def _block(x: Exporter, h: Tensor, width: int, heads: int, *, gain: float) -> Tensor:
    """Add attention and then an MLP to the residual stream; both norms share one weight, by an Identity."""
    with x.scope("self_attn_layer_norm"):
        weight = x.parameter("weight", 1.0 + x.normal(width, std=0.1))
        normed = layer_norm(x, h, width, weight=weight)
    with x.scope("self_attn"):
        h = x.op("Add", h, _attention(x, normed, width, heads, gain=gain))
    h = x.op("Squeeze", x.op("Unsqueeze", h, x.constant([0])), x.constant([0]))
    with x.scope("final_layer_norm"):
        normed = layer_norm(x, h, width, weight=x.op("Identity", weight))
    return x.op("Add", h, _mlp(x, normed, width, gain=gain))


def _attention(x: Exporter, h: Tensor, width: int, heads: int, *, gain: float) -> Tensor:
    """Attend over all positions; the scale sits on the queries and the keys have no bias."""
    head = width // heads
    with x.scope("q_proj"):
        q = linear(x, h, width, width)
    q = x.op("Mul", q, x.constant(head**-0.5))
    with x.scope("k_proj"):
        k = linear(x, h, width, width, bias=False)
    with x.scope("v_proj"):
        v = linear(x, h, width, width)
    q, k, v = (_split(x, tensor, heads, head) for tensor in (q, k, v))
    scores = x.op("MatMul", q, x.op("Transpose", k, perm=[0, 1, 3, 2]))
    weights = x.op("Softmax", x.op("Cast", scores, to=onnx.TensorProto.FLOAT), axis=-1)
    mixed = x.op("MatMul", x.op("Cast", weights, to=onnx.TensorProto.FLOAT), v)
    merged = x.op("Transpose", mixed, perm=[0, 2, 1, 3])
    merged = reshape(x, merged, size(x, h, 0), size(x, h, 1), width)
    with x.scope("out_proj"):
        return linear(x, merged, width, width, gain=gain)


def _split(x: Exporter, h: Tensor, heads: int, head: int) -> Tensor:
    """Turn [N, S, heads * head] into [N, heads, S, head]."""
    h = reshape(x, h, size(x, h, 0), size(x, h, 1), heads, head)
    return x.op("Transpose", h, perm=[0, 2, 1, 3])


def _mlp(x: Exporter, h: Tensor, width: int, *, gain: float) -> Tensor:
    """Widen four times, apply GELU, and narrow."""
    with x.scope("fc1"):
        h = linear(x, h, width, 4 * width)
    with x.scope("activation_fn"):
        h = gelu(x, h)
    with x.scope("fc2"):
        return linear(x, h, 4 * width, width, gain=gain)

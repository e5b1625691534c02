"""Inference for ONNX Runtime's blocked layout: ``[N, C, H, W]`` with channels in blocks of 8 or 16, domain nchwc.

The runtime writes these operators when it optimizes a model; they are read to predict what each of its nodes takes.
Weights are padded to whole blocks, and so are the channels of what a ``ReorderInput`` makes; how large a block is, only
the machine that wrote the file knows, so channels that 16 does not divide give a symbol there.
"""

from __future__ import annotations

from compiler.ir.graph import Node
from compiler.ir.infer_rules import Scope, Types, integer, integers, operand, rule, tensor
from compiler.ir.infer_spatial import conv, global_pool, pool

BLOCKED = "com.microsoft.nchwc"
"""Domain of operators on the blocked layout."""

_WIDEST = 16
"""The most channels that a block has."""

rule("Conv", domain=BLOCKED)(conv)
rule("MaxPool", "AveragePool", domain=BLOCKED)(pool)
rule("GlobalAveragePool", "GlobalMaxPool", domain=BLOCKED)(global_pool)


@rule("ReorderInput", domain=BLOCKED)
def to_blocks(node: Node, scope: Scope) -> Types:
    """Put channels into blocks."""
    data = operand(node, 0)
    if data.shape is None or len(data.shape) != 4:
        return tensor(data.dtype, None)
    batch, channels, *space = data.shape
    if integer(node, "channels_last", 0):
        channels, space = data.shape[3], list(data.shape[1:3])
    whole = isinstance(channels, int) and channels % _WIDEST == 0
    return tensor(data.dtype, (batch, channels if whole else scope.fresh(), *space))


@rule("ReorderOutput", domain=BLOCKED)
def from_blocks(node: Node, scope: Scope) -> Types:
    """Put channels back into their place, before or behind space, and drop the padding."""
    data = operand(node, 0)
    if data.shape is None or len(data.shape) != 4:
        return tensor(data.dtype, None)
    channels = integer(node, "channels", 0)
    batch, _, height, width = data.shape
    last = integer(node, "channels_last", 0)
    return tensor(data.dtype, (batch, height, width, channels) if last else (batch, channels, height, width))


@rule("Upsample", domain=BLOCKED)
def upsample(node: Node, scope: Scope) -> Types:
    """Repeat or interpolate pixels a whole number of times."""
    data = operand(node, 0)
    scales = integers(node, "scales")
    if data.shape is None or scales is None or len(scales) != len(data.shape):
        return tensor(data.dtype, None)
    return tensor(data.dtype, tuple(d * s for d, s in zip(data.shape, scales, strict=True)))

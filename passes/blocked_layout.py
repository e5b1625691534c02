"""The layout in which ONNX Runtime convolves images fast: blocks of channels that stay together.

It takes single-precision convolutions of four dims with constant weights, whose channels fill its blocks, and leaves
all others to a general kernel.  Source: ``core/optimizer/nchwc_transformer.cc``.
"""

from __future__ import annotations

from compiler.ir.dtype import DType
from compiler.ir.graph import Value

SINGLE = {"T": frozenset({DType.F32})}
"""The element type of the layout."""

BLOCK = 16
"""Channels of the widest block; narrower ones divide it, so what fits it fits everywhere."""

ATTRIBUTES = "auto_pad = $auto, dilations = $dilations, kernel_shape = $kernel, pads = $pads, strides = $strides"
"""Attributes of a convolution that a rule hands on."""

_BLOCKED = frozenset(
    {
        "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu",
        "MaxPool", "Mul", "Relu", "Sigmoid", "Swish", "Tanh",
    }
)  # fmt: skip
"""Operators that hand a blocked layout on, next to a convolution."""

_REACH = 4
"""Operators through which a convolution is looked for."""


def is_blocked(value: Value) -> bool:
    """True when a value comes from a convolution of images, so that it can be had in a blocked layout."""
    current: Value | None = value
    for _ in range(_REACH):
        node = current.node if current is not None else None
        if node is None:
            return False
        if node.is_op("Conv"):
            return node.output.rank == 4
        if node.domain not in ("", "com.microsoft") or node.op not in (*_BLOCKED, "QuickGelu"):
            return False
        current = node.input(0)
    return False


def fills_blocks(*channels: int) -> str | None:
    """Return which number of channels does not fill blocks."""
    odd = next((c for c in channels if c % BLOCK), None)
    return None if odd is None else f"{odd} channels do not fill blocks of {BLOCK}"

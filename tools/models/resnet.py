"""ResNet-50 as an exporter writes it at opset 13.

Convolutions without bias, batch norms apart, a dropout that drops nothing, and a flatten from ``Shape``.

Batch norms need running statistics that fit the activations, or fifty layers of them blow up or die out.  The
builder therefore carries each channel's mean and variance along with the tensor (``Signal``), computed in
closed form for independent Gaussian channels.  Rejected: measuring the statistics by running the network,
which needs a runtime to build a model and makes the bytes depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from tools.models.layers import Array, Exporter, Tensor, conv, reshape, size

EPSILON = 1e-5
"""What batch norm adds to the variance."""

EXPANSION = 4
"""How many times wider a bottleneck's output is than its middle."""


@dataclass(frozen=True)
class Signal:
    """A tensor and what is expected of its channels on standard normal images."""

    tensor: Tensor
    """The value, [N, C, H, W]."""
    mean: Array
    """The mean of each channel, float64 [C]."""
    variance: Array
    """The variance of each channel, float64 [C]."""

    @property
    def channels(self) -> int:
        """Return C."""
        return len(self.mean)


def resnet50(
    *,
    image: int = 224,
    classes: int = 1000,
    seed: int = 0,
    batch: str | int = "batch",
    blocks: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
) -> onnx.ModelProto:
    """Build ``input`` [batch, 3, image, image] -> ``logits`` [batch, classes].

    ``blocks`` gives the bottlenecks of each stage and ``width`` the middle channels of the first, doubled
    from stage to stage; the defaults are ResNet-50's.  Standard normal images give logits of a few units that
    differ by class.
    """
    x = Exporter(opset=13, ir_version=7, seed=seed)
    h = Signal(x.input("input", [batch, 3, image, image]), np.zeros(3), np.ones(3))
    h = _relu(x, _conv_norm(x, h, "conv1", "bn1", width, kernel=7, stride=2))
    h = _max_pool(x, h)
    for stage, count in enumerate(blocks):
        for index in range(count):
            with x.scope(f"layer{stage + 1}.{index}"):
                h = _bottleneck(x, h, width << stage, stride=2 if stage and not index else 1)
    x.output(_classify(x, h, classes), "logits", [batch, classes])
    return x.model()


def _bottleneck(x: Exporter, h: Signal, width: int, *, stride: int) -> Signal:
    """Add a 1x1, 3x3, 1x1 branch to ``h``, which is projected where the shape changes."""
    branch = _relu(x, _conv_norm(x, h, "conv1", "bn1", width))
    branch = _relu(x, _conv_norm(x, branch, "conv2", "bn2", width, kernel=3, stride=stride))
    branch = _conv_norm(x, branch, "conv3", "bn3", width * EXPANSION, gain=0.5)
    if stride != 1 or h.channels != branch.channels:
        h = _conv_norm(x, h, "downsample.0", "downsample.1", width * EXPANSION, stride=stride)
    total = x.op("Add", branch.tensor, h.tensor)
    return _relu(x, Signal(total, branch.mean + h.mean, branch.variance + h.variance))


def _conv_norm(
    x: Exporter,
    h: Signal,
    name: str,
    norm: str,
    outputs: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    gain: float = 1.0,
) -> Signal:
    """Convolve and normalise, by the expected statistics with an error of about 10 %, as in real training."""
    fan_in = h.channels * kernel * kernel
    weight = x.normal(outputs, h.channels, kernel, kernel, std=(2.0 / fan_in) ** 0.5)
    mean = _weighted(weight, h.mean)
    variance = _weighted(np.square(weight), h.variance)
    with x.scope(name):
        tensor = conv(x, h.tensor, weight, stride=stride, padding=kernel // 2)
    running_mean = mean + np.sqrt(variance) * x.normal(outputs, std=0.1)
    running_variance = variance * np.exp(x.normal(outputs, std=0.1))
    scale = gain * (1.0 + x.normal(outputs, std=0.1))
    shift = x.normal(outputs, std=0.2)
    with x.scope(norm):
        affine = [x.parameter("weight", scale), x.parameter("bias", shift)]
        running = [x.parameter("running_mean", running_mean), x.parameter("running_var", running_variance)]
        tensor = x.op("BatchNormalization", tensor, *affine, *running, epsilon=EPSILON, momentum=0.9)
    factor = scale / np.sqrt(running_variance + EPSILON)
    return Signal(tensor, factor * (mean - running_mean) + shift, np.square(factor) * variance)


def _weighted(weight: Array, moments: Array) -> Array:
    """Sum ``weight`` [M, C, H, W] times the input channels' ``moments`` [C] for each of M output channels.

    Elementwise on purpose: a matrix product sums in an order that depends on the machine's threads.
    """
    result: Array = (weight.sum(axis=(2, 3), dtype=np.float64) * moments).sum(axis=1)
    return result


def _relu(x: Exporter, h: Signal) -> Signal:
    """Rectify, with the moments of a rectified Gaussian."""
    std = np.sqrt(h.variance)
    z = h.mean / std
    density = np.exp(-0.5 * np.square(z)) / math.sqrt(2.0 * math.pi)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z])
    mean = h.mean * below + std * density
    square = (np.square(h.mean) + h.variance) * below + h.mean * std * density
    return Signal(x.op("Relu", h.tensor), mean, square - np.square(mean))


def _max_pool(x: Exporter, h: Signal) -> Signal:
    """Halve the image; the greatest of nine rectified values lies about 1.5 deviations up."""
    pooled = x.op("MaxPool", h.tensor, ceil_mode=0, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    return Signal(pooled, h.mean + 1.5 * np.sqrt(h.variance), h.variance)


def _classify(x: Exporter, h: Signal, classes: int) -> Tensor:
    """Pool to one vector an image, drop nothing, and map to class scores."""
    with x.scope("avgpool"):
        pooled = x.op("GlobalAveragePool", h.tensor)
    flat = reshape(x, pooled, size(x, pooled, 0), -1)
    with x.scope("dropout"):
        flat = x.op("Dropout", flat, x.constant(0.5))
    std = float(np.square(h.mean).sum()) ** -0.5
    with x.scope("fc"):
        weight = x.parameter("weight", x.normal(classes, h.channels, std=std))
        bias = x.parameter("bias", x.normal(classes, std=0.1))
        return x.op("Gemm", flat, weight, bias, alpha=1.0, beta=1.0, transB=1)

"""Kinds of products, convolutions, pools, recurrent operators and attention."""

from __future__ import annotations

import dataclasses
import math

from compiler.cost.kinds import BLOCKED, Found, Kind, Shapes, classifies, product
from compiler.cost.work import work_of
from compiler.ir.dtype import DType
from compiler.ir.schema import attribute


@classifies("MatMul", "FusedMatMul", "TransposeMatMul", "Gemm", "FusedGemm")
def _matmul(s: Shapes) -> Found:
    """Tell products by packed weights from products of two activations; the sizes are rows, columns, depth, batch.

    By weights, the last size is 2 where rows collide in the cache, else 1.
    """
    node, left, right = s.node, s.of(0), s.of(1)
    flipped = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
    if not left or not right:
        return "MatMul:batched", 0.0, (1, 1, 1, 1)
    depth = left[-2 if flipped[0] and len(left) > 1 else -1]
    columns = (right[-2] if flipped[1] else right[-1]) if len(right) > 1 else 1
    operand = node.input(1)
    if operand is not None and operand.constant is not None and len(right) <= 2:
        rows = product(left) / max(depth, 1)
        collide = not flipped[0] and node.output.dtype is DType.F32 and rows >= _AT_ONCE and rows_collide(int(depth))
        return "MatMul:weights", 2 * rows * columns * depth, (rows, columns, depth, 2 if collide else 1)
    rows = product(left) / max(depth, 1)
    batch = product(right[:-2]) if len(right) > 2 else 1.0
    rows /= max(1.0, min(batch, product(left[:-2])))
    total = product(s.out) * depth * 2
    turned = "turned" if any(flipped) or node.attr("transBatchA", 0) or node.attr("transBatchB", 0) else "batched"
    return f"MatMul:{turned}", total, (rows, columns, depth, batch)


_WAY = 4096
"""Bytes of one way of a first-level cache: addresses so far apart share a set."""


_AT_ONCE = 12
"""Rows that the widest kernels multiply at a time."""


def rows_collide(depth: int) -> bool:
    """Return whether all rows of so many single-precision numbers start in the same set of the first-level cache.

    A kernel that multiplies more rows at a time than a set has places then waits for the next cache.
    """
    return depth > 0 and depth * 4 % _WAY == 0


def apart(kind: Kind, depth: int, more: int) -> Kind:
    """Return what the kind of a product by weights becomes when rows of ``depth`` that collide get ``more`` numbers."""
    return dataclasses.replace(kind, work=kind.work * (1 + more / depth), features=(*kind.features[:-1], 0.0))


@classifies("Einsum")
def _einsum(s: Shapes) -> Found:
    work = work_of(s.node, s.sizes)
    operations = work.operations if work is not None else 0.0
    return "", operations, (operations,)


@classifies("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm")
def _integer_matmul(s: Shapes) -> Found:
    left, out = s.of(0), s.out
    depth = left[-1] if left else 1
    columns = out[-1] if out else 1
    rows = product(out) / max(columns, 1)
    second = s.node.input(3 if s.node.op.startswith("Q") else 1)
    return second.dtype.text if second is not None else "", 2 * rows * columns * depth, (rows, columns, depth)


@classifies("MatMulNBits")
def _packed_matmul(s: Shapes) -> Found:
    depth, columns = int(s.node.attr("K", 1)), int(s.node.attr("N", 1))
    rows = product(s.of(0)) / max(depth, 1)
    variant = f"b{s.node.attr('bits', 4)}.level{s.node.attr('accuracy_level', 0)}"
    return variant, 2 * rows * columns * depth, (rows, columns, depth)


# Convolutions ------------------------------------------------------------------------------------


@classifies("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "QLinearConv", "ConvInteger")
def _convolution(s: Shapes) -> Found:
    """Tell the layout, the window and the grouping; the sizes are channels, pixels, window, stride."""
    node = s.node
    weights = s.of(3 if node.op == "QLinearConv" else 1)
    if len(weights) < 3:
        return "Conv:plain", 0.0, (1, 1, 1, 1, 1)
    out, group = s.out, int(node.attr("group", 1))
    outward, inward, *window = weights
    area, pixels = product(tuple(window)), product(out[2:]) * (out[0] if out else 1)
    operations = 2.0 * product(out) * inward * area
    layout = "blocked" if node.domain == BLOCKED else f"{len(window)}d"
    stride = product(tuple(attribute(node, "strides") or (1,)))
    if group > 1 and inward == 1:
        how = "depthwise" if outward == group else "repeating"
        return f"Conv:{layout}.{how}", operations, (outward, pixels, area, stride)
    if group > 1:
        return f"Conv:{layout}.grouped", operations, (inward, outward / group, pixels, area, group)
    if node.domain == BLOCKED and inward < _NARROW and area > 1:
        return f"Conv:{layout}.first", operations, (inward, outward, pixels, area, stride)
    how = "pointwise" if area == 1 else "window"
    return f"Conv:{layout}.{how}", operations, (inward, outward, pixels, area, stride)


_NARROW = 8
"""Channels below which the blocked layout reads its input as it is."""


@classifies("ConvTranspose")
def _transposed(s: Shapes) -> Found:
    weights, data = s.of(1), s.of(0)
    if len(weights) < 3 or not data:
        return "2d", 0.0, (1, 1, 1, 1)
    area, pixels = product(weights[2:]), product(data[2:]) * data[0]
    operations = 2.0 * pixels * weights[0] * weights[1] * area
    return f"{len(weights) - 2}d", operations, (weights[0], weights[1], pixels, area)


@classifies("MaxPool", "AveragePool", "LpPool")
def _pool(s: Shapes) -> Found:
    window = attribute(s.node, "kernel_shape") or (1,)
    area = math.prod(min(k, d) for k, d in zip(window, s.of(0)[2:], strict=False))
    elements = product(s.out[:2]) if max(window) > max(s.of(0)[2:], default=0) else product(s.out)
    return "blocked" if s.node.domain == BLOCKED else "plain", elements * area, (elements, area)


@classifies("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def _global_pool(s: Shapes) -> Found:
    shape = s.of(0)
    variant = "blocked" if s.node.domain == BLOCKED else "plain"
    return variant, product(shape), (product(shape[:2]), product(shape[2:]))


# Recurrence and attention ------------------------------------------------------------------------


@classifies("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
def _recurrence(s: Shapes) -> Found:
    data, recurrent = s.of(0), s.of(2)
    if len(data) != 3 or len(recurrent) != 3:
        return "", 0.0, (1, 1, 1, 1)
    work = work_of(s.node, s.sizes)
    assert work is not None
    return "", work.operations, (data[0], data[1], data[2], recurrent[2])


@classifies("MultiHeadAttention", "Attention", "GroupQueryAttention")
def _attention(s: Shapes) -> Found:
    """Count scores and mixing; a mask or a bias of the scores keeps the kernel in tiles away: a variant of its own."""
    node, query = s.node, s.of(0)
    key = s.of(1) if node.op != "Attention" or not node.domain else query
    if len(query) < 3:
        return "", 0.0, (1, 1, 1)
    heads = int(node.attr("num_heads", 0) or node.attr("q_num_heads", 0) or (query[1] if len(query) == 4 else 1))
    width = product(query[1:]) / query[-2] if len(query) == 4 else query[-1]
    past = _past(s)
    length = (key[-2] if len(key) >= 3 else query[-2]) + past
    operations = 4.0 * query[0] * query[-2] * width * length
    projected = 0.0
    if node.domain and node.op == "Attention":
        weights = s.of(1)
        projected = 2.0 * product(query) * (weights[-1] if weights else 0)
    masked = any(v is not None for v in node.inputs[4:6]) if node.op != "GroupQueryAttention" else False
    variant = "masked" if masked or (node.op == "Attention" and not node.domain and node.input(3)) else ""
    if not node.domain and len(query) == 3:
        variant = f"rows.{variant}" if variant else "rows"
    domain = "Contrib" if node.domain and node.op == "Attention" else ""
    return f"{domain}{node.op}:{variant}", operations + projected, (query[-2] * query[0], length, width / max(heads, 1))


def _past(s: Shapes) -> float:
    """Return how many positions the cache adds."""
    if s.node.op == "GroupQueryAttention":
        cache = s.of(3)
        return float(cache[-2]) if len(cache) == 4 else 0.0
    index = 6 if s.node.op == "MultiHeadAttention" else 4
    cache = s.of(index)
    return float(cache[-2]) if len(cache) == 4 else 0.0

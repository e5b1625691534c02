"""Fold batch normalization into the weights of the linear operator before it, or of the convolution after it.

With constant statistics, ``BatchNormalization`` in inference mode maps each channel (dim 1) by ``y -> s y +
t``, where ``s = scale / sqrt(var + epsilon)`` and ``t = bias - mean * s``.

Theorem 1.  When ``y = W x + b`` is ``Conv``, ``ConvTranspose``, ``Gemm`` or a ``MatMul`` of rank 2 (so that
its channels are dim 1) with a constant weight, and the normalization is all that reads ``y``, then its result
is ``(s W) x + (s b + t)``.  Constants per channel that are added, subtracted, multiplied or divided by in
between belong to the same map.

Theorem 2.  When nothing but a ``Conv`` with a constant weight reads the normalized ``x``, then ``W (s x + t)
+ b`` is ``(W s) x + (b + W t)``, where the sum ``W t`` runs over the input channels and the window.  That
holds only where the window lies inside the data: a convolution that pads would pad ``s x + t`` with zeros,
not ``x``. So it is done for convolutions without pads, and for any padding when ``t`` is zero.

Conditions of both: all statistics are finite constants, ``var + epsilon`` is positive, the outcome is finite
in the weight's type, and nothing else reads the weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compiler.ir.constant import Array
from compiler.ir.graph import Graph, Node, Value
from compiler.rewrite.transform import Context, Pass
from passes.affine import (
    RETURNED,
    SHARED,
    Affine,
    Linear,
    bias_values,
    chain,
    elementwise,
    fold,
    is_shared,
    linear_of,
    only_reader,
    rebuild,
    returned_elsewhere,
    rounded,
    scaled,
)
from passes.node_forms import is_current, open_graphs

_EPSILON = 1e-5
"""The operator's default."""

_CHANNEL_AXIS = 1


@dataclass(frozen=True)
class FoldBatchNormalization(Pass):
    """Fold batch normalization into the linear operator before it, or into the convolution after it."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Visit the nodes in order: what a producer did not take is offered to the consumer."""
        changed = False
        for g in open_graphs(graph):
            for node in g.nodes():
                linear = linear_of(node)
                if linear is not None:
                    changed |= _into_producer(linear, ctx, self.name)
                elif _is_normalization(node):
                    changed |= _into_consumer(node, ctx, self.name)
        return changed


def _is_normalization(node: Node) -> bool:
    """True for batch normalization in inference mode of which one output is read."""
    if not is_current(node, "BatchNormalization") or node.attr("training_mode", 0) or len(node.inputs) != 5:
        return False
    return not any(not o.absent or o.is_used for o in node.outputs[1:])


def _into_producer(linear: Linear, ctx: Context, by: str) -> bool:
    steps, refusal = chain(linear, _read)
    if refusal:
        ctx.refuse(refusal)
    while steps and not _is_normalization(steps[-1][0]):
        steps.pop()  # what follows the last normalization is not this pass's business
    if not steps:
        _explain(linear.node.output, ctx)
        return False
    op = linear.node.op
    refusal = fold(linear, steps, by)
    if refusal:
        ctx.refuse(refusal)
        return False
    ctx.count(f"{op}BatchNormalization")
    return True


def _explain(value: Value, ctx: Context) -> None:
    """Record that a normalization is not the only reader of its input."""
    if (len(value.uses) > 1 or value.is_output) and any(_is_normalization(n) for n in value.users()):
        ctx.refuse("the input of the normalization is read by others")


def _read(linear: Linear, node: Node, value: Value) -> Affine | str | None:
    """Read the map of a normalization, or of an operation with a constant before it."""
    if not _is_normalization(node):
        found = elementwise(linear, node, value)
        return found if isinstance(found, Affine) else None
    if node.input(0) is not value or (linear.rank is None or linear.rank - 1 - linear.inner != _CHANNEL_AXIS):
        return None
    return _normalization(node, linear.channels)


def _normalization(node: Node, channels: int) -> Affine | str | None:
    """Return the map of a normalization, or why it cannot be had."""
    numbers: list[Array] = []
    for operand in node.inputs[1:]:
        array = operand.array() if operand is not None else None
        if array is None:
            return "the statistics are no constants"
        if array.size != channels:
            return None
        numbers.append(array.reshape(-1).astype(np.float64))
    scale, bias, mean, variance = numbers
    variance = variance + float(node.attr("epsilon", _EPSILON))
    if not all(np.all(np.isfinite(n)) for n in numbers):
        return "the statistics are not finite"
    if not np.all(variance > 0.0):
        return "the variance plus epsilon is not positive"
    with np.errstate(all="ignore"):
        scale = scale / np.sqrt(variance)
        return Affine(scale, bias - mean * scale)


def _into_consumer(node: Node, ctx: Context, by: str) -> bool:
    conv = only_reader(node.output)
    if conv is None or not is_current(conv, "Conv") or conv.input(0) is not node.output:
        return False
    linear = linear_of(conv)
    if linear is None:
        return False
    refusal = _fold_into_consumer(node, linear, by)
    if refusal:
        ctx.refuse(refusal)
        return False
    ctx.count("BatchNormalizationConv")
    return True


def _fold_into_consumer(node: Node, linear: Linear, by: str) -> str:
    """Put one convolution in place of a normalization and the one after it; return why not, or nothing."""
    group, (outputs, inputs, *window) = linear.node.attr("group", 1), linear.view
    if group < 1 or outputs % group:
        return "the groups do not divide the channels"
    affine = _normalization(node, inputs * group)
    if not isinstance(affine, Affine):
        return affine or "the statistics do not fit the channels"
    if not affine.only_scales and _may_pad(linear.node):
        return "the convolution after the normalization pads with zeros"
    if returned_elsewhere(linear.node.output):
        return RETURNED
    if is_shared(linear.weight):
        return SHARED
    bias = bias_values(linear)
    if isinstance(bias, str):
        return bias
    view = (group, outputs // group, inputs, *window)
    with np.errstate(all="ignore"):
        shift = rounded(bias + _transported(linear, affine.shift.reshape(group, inputs), view), linear.dtype)
    if isinstance(shift, str):
        return shift
    weight = scaled(linear, affine.scale.reshape(group, 1, inputs, *(1 for _ in window)), view)
    if isinstance(weight, str):
        return weight
    rebuild(linear, node.inputs[0], linear.node, weight, shift, by, [node])
    return ""


def _transported(linear: Linear, shift: Array, view: tuple[int, ...]) -> Array:
    """Return what a shift of the input channels, ``[group, inputs]``, adds to each output channel."""
    array = linear.weight.array()
    assert array is not None
    sums = array.reshape(*view[:3], -1).sum(axis=3, dtype=np.float64)
    added: Array = (sums * shift[:, np.newaxis, :]).sum(axis=2)
    return added.reshape(-1)


def _may_pad(conv: Node) -> bool:
    """True unless the window certainly stays inside the data."""
    mode = conv.attr("auto_pad", "NOTSET")
    return mode != "VALID" and (mode != "NOTSET" or any(conv.attr("pads") or ()))

"""Operators of ONNX Runtime that have no kernel on the CPU, as its documentation defines them, for the reference.

They are what rules that define these operators by others are held to: written a second time, in numpy and float64.
``GroupNormalization`` is here too, since its body in the standard takes the difference of two large numbers for a
variance.  Source: ONNX Runtime, ``docs/ContribOperators.md``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx.reference.op_run import OpRun

from compiler.ir.constant import Array

_erf = np.vectorize(math.erf, otypes=[np.float64])


class BiasAdd(OpRun):
    """The sum of an image, a bias for each channel, and a residual."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array, skip: Array) -> tuple[Array]:
        return (x + bias + skip,)


class BiasSplitGelu(OpRun):
    """One half of the biased columns, times the Gelu of the other half."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array) -> tuple[Array]:
        left, right = np.split((x + bias).astype(np.float64), 2, axis=-1)
        return ((left * right * 0.5 * (1 + _erf(right / math.sqrt(2)))).astype(x.dtype),)


def _group_norm(x: Array, scale: Array, bias: Array, attributes: dict[str, Any]) -> Array:
    """Normalize groups of channels, which stand last unless ``channels_last`` is 0."""
    data = x.astype(np.float64)
    if attributes.get("channels_last", 1):
        data = np.moveaxis(data, -1, 1)
    grouped = data.reshape(data.shape[0], attributes["groups"], -1)
    deviation = np.sqrt(grouped.var(axis=2, keepdims=True) + attributes.get("epsilon", 1e-5))
    normal = ((grouped - grouped.mean(axis=2, keepdims=True)) / deviation).reshape(data.shape)
    columns = (1, -1, *(1,) * (data.ndim - 2))
    found = normal * scale.astype(np.float64).reshape(columns) + bias.astype(np.float64).reshape(columns)
    if attributes.get("activation", 0):
        found = found / (1 + np.exp(-found))
    placed: Array = np.moveaxis(found, 1, -1) if attributes.get("channels_last", 1) else found
    return placed.astype(x.dtype)


class GroupNormalization(OpRun):
    """The norm over groups of channels of the standard."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, bias: Array, **_: Any) -> tuple[Array]:
        found = given(self)
        return (_group_norm(x, scale, bias, {**found, "groups": found["num_groups"], "channels_last": 0}),)


class GroupNorm(OpRun):
    """The norm over groups of channels, with SiLU if ``activation`` is 1."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, scale: Array, bias: Array, **_: Any) -> tuple[Array]:
        return (_group_norm(x, scale, bias, given(self)),)


class SkipGroupNorm(OpRun):
    """The same of a sum, which is the second result."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, scale: Array, bias: Array, skip: Array, shift: Any = None, **_: Any) -> tuple[Array, ...]:
        spread = skip.reshape(skip.shape[0], *(1,) * (x.ndim - skip.ndim), *skip.shape[1:])
        total = x + spread if shift is None else x + spread + shift
        return (_group_norm(total, scale, bias, given(self)), total)[: len(self.output)]


def given(op: OpRun) -> dict[str, Any]:
    """Return the attributes that a node sets."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in op.onnx_node.attribute}


DEFINITIONS = (BiasAdd, BiasSplitGelu, GroupNorm, GroupNormalization, SkipGroupNorm)
"""All of them."""

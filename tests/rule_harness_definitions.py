"""Operators of ONNX Runtime that have no kernel on the CPU, as its documentation defines them, for the reference.

Of ``MultiHeadAttention`` it is the packed forms, and the form with three rows of heads, to which they are held.

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


class BiasSoftmax(OpRun):
    """The softmax of a sum, over the axes from one on; the bias broadcasts by itself."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array, **_: Any) -> tuple[Array]:
        axes = tuple(range(given(self).get("axis", 1) % x.ndim, x.ndim))
        return (_softmax(x.astype(np.float64) + bias, axes).astype(x.dtype),)


def _softmax(x: Array, axes: tuple[int, ...]) -> Array:
    powers = np.exp(x - x.max(axis=axes, keepdims=True))
    shares: Array = powers / powers.sum(axis=axes, keepdims=True)
    return shares


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


class MultiHeadAttention(OpRun):
    """Attention by heads, with queries, keys and values in one operand, keys and values in one, or each in its own."""

    op_domain = "com.microsoft"

    def _run(self, query: Array, key: Any = None, value: Any = None, *rest: Any, **_: Any) -> tuple[Array]:
        found = given(self)
        if len(self.output) > 1 or any(r is not None for r in rest[3:]):
            raise NotImplementedError("with a cache")
        q, k, v = (x.astype(np.float64) for x in _unpacked(query, key, value))
        bias, mask, added = (*rest, None, None, None)[:3]
        if bias is not None:
            q, k, v = (x + b for x, b in zip((q, k, v), np.split(bias, [q.shape[2], 2 * q.shape[2]]), strict=True))
        q, k, v = (x.reshape(*x.shape[:2], found["num_heads"], -1).swapaxes(1, 2) for x in (q, k, v))
        scores = q @ k.swapaxes(2, 3) * (found.get("scale", 0.0) or 1 / math.sqrt(q.shape[3]))
        if mask is not None:
            if mask.shape != (k.shape[0], k.shape[2]):
                raise NotImplementedError("with lengths, or a mask for each query")
            scores = scores + np.where(mask > 0, 0.0, found.get("mask_filter_value", -10000.0))[:, None, None, :]
        if added is not None:
            scores = scores + added
        if found.get("unidirectional", 0):
            scores = np.where(np.tri(*scores.shape[2:], dtype=bool), scores, np.finfo(np.float32).min)
        rows = (_softmax(scores, (3,)) @ v).swapaxes(1, 2)
        return (rows.reshape(*rows.shape[:2], -1).astype(query.dtype),)


def _unpacked(query: Array, key: Any, value: Any) -> tuple[Array, Array, Array]:
    """Return queries, keys and values with their heads side by side."""
    packed = query if key is None else key if key.ndim == 5 else None
    apart = [] if packed is None else list(np.moveaxis(packed, 3, 0))
    parts = [part.reshape(*part.shape[:2], -1) for part in apart]
    if key is not None and packed is None and key.ndim != 3:
        raise NotImplementedError("with heads apart")
    q, k, v = (*parts, query, key, value)[:3] if len(parts) == 3 else (query, *(parts or (key, value)))
    return q, k, v


def given(op: OpRun) -> dict[str, Any]:
    """Return the attributes that a node sets."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in op.onnx_node.attribute}


DEFINITIONS = (BiasAdd, BiasSoftmax, BiasSplitGelu, GroupNorm, GroupNormalization, MultiHeadAttention, SkipGroupNorm)
"""All of them."""

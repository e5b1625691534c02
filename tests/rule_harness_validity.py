"""What a node of a test instance must keep to beyond its types, so that a runtime takes it: conditions on sizes.

Inference lets these pass, because a model that breaks them is wrong wherever it runs.  Without this an instance would
be drawn that proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compiler.ir.graph import Node

Sizes = tuple[int, ...]
Condition = Callable[[Node, Sequence[Sizes | None]], str]


def why_invalid(node: Node, shapes: Sequence[Sizes | None]) -> str:
    """Return why a node with operands of these sizes does not run, ``""`` when nothing speaks against it."""
    condition = _CONDITIONS.get(node.op)
    return condition(node, shapes) if condition is not None and shapes and shapes[0] is not None else ""


def fits_into(small: Sizes, large: Sizes) -> bool:
    """True when dims broadcast to others without changing these."""
    if len(small) > len(large):
        return False
    return all(a in (1, b) for a, b in zip(small[::-1], large[::-1], strict=False))


def _attention(node: Node, shapes: Sequence[Sizes | None]) -> str:
    query, keys, values = (shapes[k] if k < len(shapes) else None for k in range(3))
    if query is None or keys is None or values is None:
        return ""
    if not len(query) == len(keys) == len(values) or len(query) not in (3, 4):
        return "attention has three dims or four"
    if query[0] != keys[0] or keys[:1] + keys[-2:-1] != values[:1] + values[-2:-1]:
        return "batches or lengths of keys and values differ"
    if len(query) == 3:
        reason = _packed_heads(node, query, keys, values)
        if reason:
            return reason
        query, keys, values = (_apart(s, node.attr(a)) for s, a in zip((query, keys, values), _HEADS, strict=True))
    if keys[1] != values[1] or not keys[1] or query[1] % keys[1] or query[3] != keys[3]:
        return "heads do not fit"
    if 0 in (*query, *keys, *values):
        return "a dim of attention is zero"
    mask, past_keys, past_values = (shapes[k] if k < len(shapes) else None for k in (3, 4, 5))
    if node.attr("is_causal", 0) and past_keys is not None and query[2] == 1 < keys[2]:
        return "the runtime's kernel lets a single query behind a cache see the keys behind it"
    length = keys[2] + (past_keys[2] if past_keys is not None and len(past_keys) == 4 else 0)
    if mask is not None and not fits_into(mask, (*query[:3], length)):
        return "the mask does not fit"
    if past_keys is None or past_values is None:
        return ""
    fit = past_keys == (*keys[:2], length - keys[2], keys[3])
    return "" if fit and past_values == (*keys[:2], length - keys[2], values[3]) else "the cache does not fit"


_HEADS = ("q_num_heads", "kv_num_heads", "kv_num_heads")


def _apart(packed: Sizes, heads: int) -> Sizes:
    """Return the dims of heads apart that stand side by side."""
    return (packed[0], heads, packed[1], packed[2] // heads)


def _packed_heads(node: Node, query: Sizes, keys: Sizes, values: Sizes) -> str:
    heads, key_heads = node.attr("q_num_heads", 0), node.attr("kv_num_heads", 0)
    if heads < 1 or key_heads < 1 or heads % key_heads:
        return "heads do not fit"
    if query[2] % heads or keys[2] % key_heads or values[2] % key_heads:
        return "the width is no multiple of the heads"
    return "" if query[2] // heads == keys[2] // key_heads else "head sizes differ"


def _normalization(node: Node, shapes: Sequence[Sizes | None]) -> str:
    data = shapes[0] or ()
    axis = node.attr("axis", -1)
    if not -len(data) <= axis < len(data):
        return "the axis is out of range"
    part = data[axis % len(data) :]
    if 0 in part:
        return "nothing to normalize over"
    parameters = [s for s in shapes[1:] if s is not None]
    return "" if all(fits_into(s, part) for s in parameters) else "scale or bias do not fit"


def _skip_normalization(node: Node, shapes: Sequence[Sizes | None]) -> str:
    data = shapes[0] or ()
    return "" if data and data[-1] else "nothing to normalize over"


def _channels(node: Node, shapes: Sequence[Sizes | None]) -> str:
    data = shapes[0] or ()
    return "" if len(data) >= 3 and 0 not in data[2:] else "no spatial dims"


def _convolution(node: Node, shapes: Sequence[Sizes | None]) -> str:
    data, weight = shapes[0] or (), shapes[1] if len(shapes) > 1 else None
    if weight is None or len(data) != len(weight) or len(data) < 3:
        return "ranks do not fit"
    group = node.attr("group", 1)
    if node.op != "ConvTranspose" and (data[1] != weight[1] * group or not group or weight[0] % group):
        return "channels do not fit"
    if node.op == "ConvTranspose" and data[1] != weight[0]:
        return "channels do not fit"
    if 0 in weight or 0 in data[1:]:
        return "a dim is zero"
    pads = node.attr("pads") or (0,) * (2 * len(data[2:]))
    dilations = node.attr("dilations") or (1,) * len(data[2:])
    strides = node.attr("strides") or (1,) * len(data[2:])
    if not len(pads) == 2 * len(dilations) == 2 * len(strides) == 2 * len(data[2:]):
        return "attributes do not fit the rank"
    room = [d + a + b for d, a, b in zip(data[2:], pads[: len(data[2:])], pads[len(data[2:]) :], strict=True)]
    window = [(k - 1) * d + 1 for k, d in zip(weight[2:], dilations, strict=True)]
    if node.op == "ConvTranspose" or all(w <= r for w, r in zip(window, room, strict=True)):
        return ""
    return "the window is too large"


_CONDITIONS: dict[str, Condition] = {
    "Attention": _attention,
    "LayerNormalization": _normalization,
    "RMSNormalization": _normalization,
    "SimplifiedLayerNormalization": _normalization,
    "SkipLayerNormalization": _skip_normalization,
    "SkipSimplifiedLayerNormalization": _skip_normalization,
    "InstanceNormalization": _channels,
    "GroupNormalization": _channels,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "FusedConv": _convolution,
}
"""Operator → its condition."""

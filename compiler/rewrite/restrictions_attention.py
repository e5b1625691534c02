"""Restrictions of the kernels of attention and rotation, in the standard's form and in ONNX Runtime's."""

from __future__ import annotations

import math
from collections.abc import Iterator

from compiler.ir.dims import Dim
from compiler.ir.facts import known_ints
from compiler.ir.graph import Node, Value
from compiler.rewrite.restrictions import (
    CPU,
    EVERY,
    Condition,
    all_of,
    any_of,
    dim,
    has_rank,
    keeps_state,
    multiple,
    plus,
    restricted,
    same,
    shaped,
    times,
)

_BERT = "contrib_ops/cpu/bert"
_LLM = "core/providers/cpu/llm"

_NOT_SCORES = "is not shaped as the scores in its last two dims"


@restricted("", "Attention", provider=CPU, source=f"{_LLM}/attention_helper.h")
def attention(node: Node) -> Iterator[Condition]:
    """The mask must have the scores' last two dims in full; the scale must be positive."""
    query, key, mask, past = node.input(0), node.input(1), node.input(3), node.input(4)
    yield has_rank(query, 3, 4), f"the rank of the query ({shaped(query)}) is neither 3 nor 4"
    yield node.attr("scale", 1.0) > 0 or math.isnan(node.attr("scale")), f"scale = {node.attr('scale')} is not positive"
    yield keeps_state(node, 4, 1, 2)
    yield dim(query, 0) != 0, "the batch is empty"
    if mask is None:
        return
    length = dim(key, -2)
    total = length if past is None else plus(dim(past, 2), length)
    yield has_rank(mask, 2, 3, 4), f"the rank of the mask ({shaped(mask)}) is not 2, 3 or 4"
    yield same(dim(mask, -2), dim(query, -2)), f"the mask ({shaped(mask)}) {_NOT_SCORES}: the query is {shaped(query)}"
    yield same(dim(mask, -1), total), f"the mask ({shaped(mask)}) {_NOT_SCORES}: the key is {shaped(key)}"


def _bias(bias: Value | None, query: Value | None, total: Dim | None, heads: int) -> Iterator[Condition]:
    """Yield what an additive mask of the ``com.microsoft`` attention operators must be like."""
    if bias is None:
        return
    what = f"the bias of the scores ({shaped(bias)})"
    yield has_rank(bias, 4), f"{what} does not have rank 4"
    yield any_of(same(dim(bias, 0), 1), same(dim(bias, 0), dim(query, 0))), f"{what} has another batch"
    yield any_of(same(dim(bias, 1), 1), same(dim(bias, 1), heads)), f"{what} is neither for one head nor for {heads}"
    yield same(dim(bias, 2), dim(query, 1)), f"{what} {_NOT_SCORES}"
    yield same(dim(bias, 3), total), f"{what} {_NOT_SCORES}"


@restricted("com.microsoft", "MultiHeadAttention", provider=EVERY, source=f"{_BERT}/multihead_attention_helper.h")
def multi_head_attention(node: Node) -> Iterator[Condition]:
    """Rank 3, or keys and values with heads apart; the bias of the scores in full; a past with its present."""
    query, key, value, past = node.input(0), node.input(1), node.input(2), node.input(6)
    heads, width = node.attr("num_heads", 0), dim(node.input(0), 2)
    apart = key is not None and key.rank == 4
    yield heads > 0, f"num_heads = {heads}"
    if key is None or key.rank == 5:
        return
    yield has_rank(query, 3), f"the rank of the query ({shaped(query)}) is not 3"
    yield has_rank(key, 3, 4), f"the rank of the key ({shaped(key)}) is neither 3 nor 4"
    yield same(dim(key, 0), dim(query, 0)), f"the batches of {shaped(query)} and {shaped(key)} differ"
    yield same(dim(value, 0), dim(query, 0)), f"the batches of {shaped(query)} and {shaped(value)} differ"
    total_width = times(dim(key, 3), heads) if apart else dim(key, 2)
    yield same(total_width, width), f"the heads of query and key differ: {shaped(query)}, {shaped(key)}"
    if apart:
        alike = all_of(*(same(dim(key, i), dim(value, i)) for i in (1, 2, 3)))
        yield all_of(same(dim(key, 1), heads), alike), f"key and value differ: {shaped(key)}, {shaped(value)}"
    length = dim(key, 2 if apart else 1)
    total = length if past is None else plus(dim(past, 2), length)
    yield from _bias(node.input(5), query, total, heads)
    yield keeps_state(node, 6, 1, 2)
    if past is not None:
        alike = same(dim(node.input(7), 3), dim(past, 3))
        yield alike, f"a past needs heads of one size, not {shaped(past)} and {shaped(node.input(7))}"


@restricted("com.microsoft", "MultiHeadAttention", provider=CPU, source=f"{_BERT}/multihead_attention.cc")
def unpacked_attention(node: Node) -> Iterator[Condition]:
    """No packed operands."""
    query, key = node.input(0), node.input(1)
    yield key is not None and has_rank(query, 3), f"packed operands ({shaped(query)}) are not implemented"
    yield has_rank(key, 3, 4), f"packed operands ({shaped(key)}) are not implemented"


@restricted("com.microsoft", "GroupQueryAttention", provider=EVERY, source=f"{_BERT}/group_query_attention_helper.h")
def group_query_attention(node: Node) -> Iterator[Condition]:
    """Rank 3, heads of a multiple of 8, one length; a past with its present, and one row of it or one token."""
    query, key, value, past = node.input(0), node.input(1), node.input(2), node.input(3)
    heads, groups = node.attr("num_heads", 0), node.attr("kv_num_heads", 0)
    divides = heads > 0 and groups > 0 and heads % groups == 0
    yield divides, f"num_heads = {heads} is no multiple of kv_num_heads = {groups}"
    yield has_rank(query, 3), f"the rank of the query ({shaped(query)}) is not 3"
    size = _quotient(dim(query, 2), heads if key is not None else heads + 2 * groups)
    rotary = bool(node.attr("do_rotary", 0))
    yield multiple(size, 16 if rotary else 8), f"the size of a head, {size}, is no multiple of {16 if rotary else 8}"
    if key is not None:
        yield has_rank(key, 3), f"the rank of the key ({shaped(key)}) is not 3"
        yield same(dim(key, 1), dim(query, 1)), f"query and key differ in length: {shaped(query)}, {shaped(key)}"
        yield same(dim(key, 2), dim(value, 2)), f"key and value differ in width: {shaped(key)}, {shaped(value)}"
        alike = same(dim(key, 2), times(size, groups))
        yield alike, f"the heads of query and key differ in size: {shaped(query)}, {shaped(key)}"
    yield keeps_state(node, 3, 1, 2)
    if past is not None:
        single = any_of(same(dim(query, 1), 1), same(dim(query, 0), 1), same(dim(past, 2), 0))
        yield single, "several tokens behind a past need a batch of 1"
    total = known_ints(node.input(6))
    yield from _bias(node.input(10), query, total[0] if total else _total(dim(query, 1), past), heads)
    if node.attr("causal", 1) == 0:
        yield node.attr("local_window_size", -1) == -1, "a window needs a causal mask"


def _total(length: Dim | None, past: Value | None) -> Dim | None:
    return length if past is None else plus(dim(past, 2), length)


def _quotient(width: Dim | None, parts: int) -> Dim | None:
    return None if width is None or parts < 1 else width // parts


@restricted("com.microsoft", "GroupQueryAttention", provider=CPU, source=f"{_BERT}/group_query_attention.cc")
def grouped_on_cpu(node: Node) -> Iterator[Condition]:
    """No norms of query and key; positions only one token at a time; caches of cosines of a multiple of 8."""
    query, caches, positions = node.input(0), node.input(7), node.input(9)
    yield node.input(14) is None and node.input(15) is None, "norms of query and key are not implemented"
    yield dim(query, 0) != 0, "an empty batch ends the process"
    if node.attr("do_rotary", 0):
        yield multiple(dim(caches, 1), 8), f"the cosines ({shaped(caches)}) are no multiple of 8 wide"
        single = any_of(same(dim(query, 1), 1), positions is None)
        yield single, "positions of several tokens are taken for a range from the first one on"


@restricted("com.microsoft", "Attention", provider=CPU, source=f"{_BERT}/attention.cc")
def packed_weights_attention(node: Node) -> Iterator[Condition]:
    """Rank 3, masks up to rank 3, no rotation; a past with its present."""
    yield has_rank(node.input(0), 3), f"the rank of the input ({shaped(node.input(0))}) is not 3"
    yield has_rank(node.input(3), 1, 2, 3), f"the mask ({shaped(node.input(3))}) has a rank above 3"
    yield not node.attr("do_rotary", 0), "rotation is not implemented"
    yield node.input(4) is None or node.input(5) is None, "a past and a bias of the scores do not go together"
    yield keeps_state(node, 4, 1)


# Rotation ----------------------------------------------------------------------------------------


@restricted("", "RotaryEmbedding", provider=EVERY, source=f"{_LLM}/rotary_embedding_helper.h")
def rotary(node: Node) -> Iterator[Condition]:
    """No broadcast: positions, or the cosines without them, have the batch and the length of the data."""
    data, cosines, positions = node.input(0), node.input(1), node.input(3)
    yield has_rank(data, 3, 4), f"the rank of {shaped(data)} is neither 3 nor 4"
    whole = positions if positions is not None else cosines
    yield has_rank(cosines, 3 if positions is None else 2), f"the rank of the cosines ({shaped(cosines)}) is wrong"
    yield same(dim(whole, 0), dim(data, 0)), f"{shaped(whole)} has another batch than {shaped(data)}"
    yield same(dim(whole, 1), dim(data, -2)), f"{shaped(whole)} has another length than {shaped(data)}"
    if data is not None and data.rank == 3:
        yield node.attr("num_heads", 0) > 0, "data of rank 3 need num_heads"


@restricted("com.microsoft", "RotaryEmbedding", provider=EVERY, source=f"{_BERT}/rotary_embedding_helper.h")
def microsoft_rotary(node: Node) -> Iterator[Condition]:
    """Positions of rank 2 have the batch and the length of the data; else they are one offset."""
    data, positions, cosines = node.input(0), node.input(1), node.input(2)
    yield has_rank(data, 3, 4), f"the rank of {shaped(data)} is neither 3 nor 4"
    yield has_rank(cosines, 2), f"the rank of the cosines ({shaped(cosines)}) is not 2"
    if node.attr("rotary_embedding_dim", 0):
        yield node.attr("num_heads", 0) > 0, "rotary_embedding_dim needs num_heads"
    if positions is not None and positions.rank == 2:
        yield same(dim(positions, 0), dim(data, 0)), f"{shaped(positions)} has another batch than {shaped(data)}"
        yield same(dim(positions, 1), dim(data, -2)), f"{shaped(positions)} has another length than {shaped(data)}"
    else:
        scalar = any_of(has_rank(positions, 0), all_of(has_rank(positions, 1), same(dim(positions, 0), 1)))
        yield scalar, f"the positions ({shaped(positions)}) are neither of rank 2 nor one number"
    yield _at_least(dim(cosines, 0), dim(data, -2)), f"{shaped(cosines)} has fewer rows than the data are long"


def _at_least(rows: Dim | None, length: Dim | None) -> bool | None:
    """Whether there are enough rows; where that is not known the model's author vouches for it."""
    return rows >= length if isinstance(rows, int) and isinstance(length, int) else True


@restricted("com.microsoft", "RotaryEmbedding", provider=CPU, source=f"{_BERT}/rotary_embedding.cc")
def unscaled_rotary(node: Node) -> Iterator[Condition]:
    """The attribute ``scale`` is ignored."""
    yield node.attr("scale", 1.0) == 1.0, f"scale = {node.attr('scale')} is ignored"

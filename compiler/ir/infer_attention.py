"""Inference for attention, in the standard's and in ONNX Runtime's forms, and for recurrent layers."""

from __future__ import annotations

from compiler.ir.dims import Dim, floor_div
from compiler.ir.dtype import DType
from compiler.ir.graph import Node
from compiler.ir.infer_elementwise import first_dtype
from compiler.ir.infer_rules import (
    MICROSOFT,
    Scope,
    Types,
    dtype_at,
    integer,
    integers,
    operand,
    rule,
    shape_of,
    tensor,
    text,
    type_of,
)
from compiler.ir.types import Shape


def _heads(shape: Shape, count: int, scope: Scope) -> tuple[Dim, Dim, Dim]:
    """Return heads, length and head size of ``[B,H,S,D]`` or of ``[B,S,H*D]``."""
    if len(shape) == 4:
        return shape[1], shape[2], shape[3]
    if len(shape) != 3 or count < 1:
        return scope.fresh(), scope.fresh(), scope.fresh()
    return count, shape[1], floor_div(shape[2], count)


@rule("Attention")
def attention(node: Node, scope: Scope) -> Types:
    """Give the output the layout of the query; present keys are the past and the new ones."""
    dtype, cache = dtype_at(node, 0), dtype_at(node, 1)
    query, key, value = (operand(node, i).shape for i in range(3))
    if query is None or key is None or value is None or not len(query) == len(key) == len(value):
        return [
            tensor(dtype, None),
            tensor(cache, None),
            tensor(dtype_at(node, 2), None),
            tensor(dtype, None),
        ]
    q_count, kv_count = integer(node, "q_num_heads", 0), integer(node, "kv_num_heads", 0)
    heads, length, _ = _heads(query, q_count, scope)
    key_heads, new_length, key_size = _heads(key, kv_count, scope)
    _, new_values, value_size = _heads(value, kv_count, scope)
    total, total_values = _behind_past(node, 4, new_length, scope), _behind_past(node, 5, new_values, scope)
    batch = query[0]
    output: Shape = (batch, length, heads * value_size) if len(query) == 3 else (batch, heads, length, value_size)
    return [
        tensor(dtype, output),
        tensor(cache, (batch, key_heads, total, key_size)),
        tensor(dtype_at(node, 2), (batch, key_heads, total_values, value_size)),
        tensor(dtype, (batch, heads, length, total)),
    ]


def _behind_past(node: Node, index: int, length: Dim, scope: Scope) -> Dim:
    """Return the length of the past that an operand holds, and of what comes behind it."""
    past = shape_of(node, index)
    if node.input(index) is None:
        return length
    return past[2] + length if past is not None and len(past) == 4 else scope.fresh()


@rule("Attention", "QAttention", domain=MICROSOFT)
def packed_attention(node: Node, scope: Scope) -> Types:
    """Project to query, key and value by one weight; the present is ``[2,B,N,T,H]``."""
    dtype = dtype_at(node, 0) if node.op == "Attention" else dtype_at(node, 3)
    data, weight = shape_of(node, 0), shape_of(node, 1)
    present = tensor(dtype, (2, *scope.fresh_shape(4)))
    if data is None or len(data) != 3:
        return [tensor(dtype, None), present]
    sizes = integers(node, "qkv_hidden_sizes")
    if sizes is not None and len(sizes) == 3:
        return [tensor(dtype, (*data[:2], sizes[2])), present]
    hidden = floor_div(weight[1], 3) if weight is not None and len(weight) == 2 else scope.fresh()
    return [tensor(dtype, (*data[:2], hidden)), present]


@rule("MultiHeadAttention", "DecoderMaskedMultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(node: Node, scope: Scope) -> Types:
    """Give ``[B,S,Dv]``; the value tells ``Dv`` unless query, key and value come packed."""
    dtype = dtype_at(node, 0)
    query, value = shape_of(node, 0), shape_of(node, 2)
    output: Shape = scope.fresh_shape(3)
    if query is not None and len(query) == 3:
        width = value[2] if value is not None and len(value) == 3 else scope.fresh()
        output = (query[0], query[1], width)
    elif query is not None and len(query) == 5:
        output = (query[0], query[1], query[2] * query[4])
    cache = tensor(dtype, scope.fresh_shape(4))
    return [
        tensor(dtype, output),
        cache,
        tensor(dtype, scope.fresh_shape(4)),
        tensor(dtype, scope.fresh_shape(4)),
    ]


@rule("GroupQueryAttention", "SparseAttention", domain=MICROSOFT)
def group_query_attention(node: Node, scope: Scope) -> Types:
    """Give ``[B,S,N*H]``; a packed query holds the key and value heads too."""
    dtype = dtype_at(node, 0)
    query, key, past = shape_of(node, 0), shape_of(node, 1), shape_of(node, 3)
    heads, groups = integer(node, "num_heads", 0), integer(node, "kv_num_heads", 0)
    output: Shape = scope.fresh_shape(3)
    if query is not None and len(query) == 3 and heads > 0 and groups > 0:
        packed = key is None and node.input(1) is None
        width = floor_div(query[2], heads + 2 * groups) * heads if packed else query[2]
        output = (query[0], query[1], width)
    if past is not None and len(past) == 4:
        cache: Shape = (past[0], past[1], scope.fresh(), past[3])
    else:
        cache = scope.fresh_shape(4)
    kept = first_dtype(node, 3, 0)
    return [tensor(dtype, output), tensor(kept, cache), tensor(kept, cache), tensor(dtype, None)]


@rule("EmbedLayerNormalization", domain=MICROSOFT)
def embedding(node: Node, scope: Scope) -> Types:
    """Give ``[B,S,H]``, the mask's lengths, and the sum of the embeddings."""
    ids, table = shape_of(node, 0), shape_of(node, 2)
    known = ids is not None and len(ids) == 2
    shape = (*(ids or ())[:2], table[-1] if table else scope.fresh()) if known else scope.fresh_shape(3)
    output = tensor(dtype_at(node, 2), shape)
    return [output, tensor(DType.I32, (shape[0],)), output]


@rule("LongformerAttention", "MoE", "QMoE", domain=MICROSOFT)
def like_input(node: Node, scope: Scope) -> Types:
    """Give the output the type of the input."""
    return operand(node, 0).type


@rule("SkipGroupNorm", domain=MICROSOFT)
def skip_group_norm(node: Node, scope: Scope) -> Types:
    """Give both outputs, of which the second is the sum, the type of the input."""
    return [type_of(node, 0), type_of(node, 0)]


@rule("RNN", "GRU", "LSTM")
def recurrent(node: Node, scope: Scope) -> Types:
    """Give all states ``[S,D,B,H]`` and the last ``[D,B,H]``; layout 1 has the batch first."""
    dtype = dtype_at(node, 0)
    data, weight = shape_of(node, 0), shape_of(node, 2)
    directions = 2 if text(node, "direction", "forward").lower() == "bidirectional" else 1
    hidden: Dim | None = weight[-1] if weight else None
    stated = integer(node, "hidden_size", 0)
    if hidden is None or (stated and stated != hidden):
        hidden = scope.fresh() if hidden is not None or not stated else stated
    first, second = data[:2] if data is not None and len(data) == 3 else scope.fresh_shape(2)
    if integer(node, "layout", 0):
        every: Shape = (first, second, directions, hidden)
        last: Shape = (first, directions, hidden)
    else:
        every, last = (first, directions, second, hidden), (directions, second, hidden)
    return [tensor(dtype, every), tensor(dtype, last), tensor(dtype, last)]


@rule("DynamicQuantizeLSTM", domain=MICROSOFT)
def quantized_recurrent(node: Node, scope: Scope) -> Types:
    """Give all states ``[S,D,B,H]`` and the last ``[D,B,H]``."""
    dtype, data = dtype_at(node, 0), shape_of(node, 0)
    directions = 2 if text(node, "direction", "forward").lower() == "bidirectional" else 1
    hidden: Dim = integer(node, "hidden_size", 0) or scope.fresh()
    length, batch = data[:2] if data is not None and len(data) == 3 else scope.fresh_shape(2)
    last = tensor(dtype, (directions, batch, hidden))
    return [tensor(dtype, (length, directions, batch, hidden)), last, last]

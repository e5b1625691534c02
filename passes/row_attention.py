"""What attention and its kin need when only some queries are wanted: keys and values stay whole.

Causal attention needs a mask for the rows that are left, unless these are the last, which sees everything.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compiler.ir.dims import Dim
from compiler.ir.graph import Attr, Node
from passes.row_needs import Blocked, Need, aligned, shape_of
from passes.row_selections import Rows

_MASK_LIMIT = 1 << 22
"""Elements of a causal mask up to which it is written down."""


def attention(node: Node, rows: Rows) -> Need:
    """``Attention`` without cache, of heads apart or side by side."""
    queries = len(shape_of(node.input(0)))
    wanted = _of_queries(rows, queries)
    if any(v is not None for v in node.inputs[4:]):
        raise Blocked("there is a cache")
    if not rows.selection.fills:
        raise Blocked("attention of no queries is not defined")
    mask = aligned(node.input(3), wanted, 4)
    if not node.attr("is_causal", 0):
        return Need((rows, None, None, mask)[: len(node.inputs)])
    return _causal(node, rows, wanted, shape_of(node.input(1))[-2 if queries == 4 else 1])


def _of_queries(rows: Rows, rank: int) -> Rows:
    """Return the rows along the queries of a mask of four axes."""
    if rows.axis != (2 if rank == 4 else 1) or rows.batch > 0 or rows.outer != 1:
        raise Blocked("heads or columns of attention")
    return Rows(rows.selection, 2, rows.batch)


def _causal(node: Node, rows: Rows, wanted: Rows, keys: Dim) -> Need:
    """Causal attention of some rows: the last one sees all keys, for others a mask is written."""
    size = rows.selection.size
    if node.input(3) is not None or keys != size:
        raise Blocked("causal attention with a mask or other keys")
    free = {"is_causal": Attr("int", 0)}
    if rows.selection.is_last:
        return Need((rows, None, None), attributes=free)
    if not isinstance(size, int) or size * size > _MASK_LIMIT:
        raise Blocked("the causal mask is not static")
    visible = np.tril(np.ones((size, size), np.bool_))
    shared = wanted.selection.batch is not None
    mask = replace(wanted, lead=2, shared=True) if shared else Rows(wanted.selection, 0)
    return Need((rows, None, None, mask), {3: visible}, free)


def heads_attention(node: Node, rows: Rows) -> Need:
    """``MultiHeadAttention`` of separate queries, without cache."""
    padding = node.input(4)
    if (
        len(shape_of(node.input(0))) != 3
        or node.input(1) is None
        or len(node.inputs) > 6
        or node.attr("unidirectional", 0)
    ):
        raise Blocked("packed, cached or causal attention")
    if padding is not None and len(shape_of(padding)) > 2:
        raise Blocked("the mask of keys is of queries too")
    bias = aligned(node.input(5), _of_queries(rows, 3), 4)
    return Need((rows, None, None, None, None, bias)[: len(node.inputs)])


def rotary(node: Node, rows: Rows) -> Need:
    """``RotaryEmbedding``: rows of the angles, or of the positions that pick them."""
    wanted = _of_queries(rows, len(shape_of(node.input(0))))
    place = Rows(wanted.selection, 1, wanted.batch)
    if node.input(3) is not None:
        return Need((rows, None, None, aligned(node.input(3), place, 2)))
    return Need((rows, aligned(node.input(1), place, 3), aligned(node.input(2), place, 3)))

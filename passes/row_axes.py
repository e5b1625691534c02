"""What operators need of their operands when only some rows of their result are wanted: one table.

An entry says, for rows along an axis of the result, along which axis of each operand the same rows suffice.  ``None``
leaves an operand as it is: it has one element along the axis, or does not have the axis.  Whoever mixes rows raises
``Blocked``.

Decisions:

* Operands that broadcast along the axis are left alone, and the rest have provably as many rows as the result.
* ``Attention`` needs the rows of the queries and of the mask (``row_attention``); keys and values stay whole.
* ``Reshape`` and its kin keep an axis when as many elements lie before it as after it.  Their target is written anew.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compiler.ir.dims import Dim, product
from compiler.ir.facts import known_ints
from compiler.ir.graph import Attr, Node, Value
from compiler.ir.schema import attribute, operator_names
from compiler.ir.types import Shape
from passes.node_forms import is_current, permutation
from passes.row_attention import attention, heads_attention, rotary
from passes.row_needs import Blocked, Need, Rule, aligned, avoid, moved, shape_of
from passes.row_selections import Rows

LABOUR = operator_names("""
    MatMul Gemm Attention MatMulInteger QLinearMatMul MatMulNBits MultiHeadAttention Softmax LogSoftmax
    LayerNormalization RMSNormalization SimplifiedLayerNormalization LpNormalization
""")
"""Operators that take more work than to pick the rows."""


def needs(node: Node, rows: Rows) -> Need:
    """Return what a node needs for some rows of its first result; raises ``Blocked``."""
    rule = OPERATORS.get((node.domain, node.op))
    current = bool(node.domain) or node.op == "SimplifiedLayerNormalization" or is_current(node, node.op)
    if rule is None or not current or node.graphs():
        raise Blocked("it is no operator on rows")
    if node.op != "Split" and any(o.is_used for o in node.outputs[1:]):
        raise Blocked("another result is read")
    return rule(node, rows)


# Elements ----------------------------------------------------------------------------------------


def _elementwise(node: Node, rows: Rows) -> Need:
    rank = len(shape_of(node.output))
    return Need(tuple(aligned(operand, rows, rank) for operand in node.inputs))


def _cast_like(node: Node, rows: Rows) -> Need:
    return Need((rows, None))


def _quantized(node: Node, rows: Rows) -> Need:
    """Scale and zero point are numbers, or one for each element of another axis."""
    scale = shape_of(node.input(1))
    rank = len(shape_of(node.output))
    if attribute(node, "block_size") or len(scale) > 1:
        raise Blocked("scales are of blocks")
    if len(scale) == 1:
        avoid(rows, int(attribute(node, "axis")) % rank)
    return Need((rows, *[None] * (len(node.inputs) - 1)))


# Products ----------------------------------------------------------------------------------------


def _product(left: int, right: int, *numbers: int) -> Rule:
    """Return the rule of a product, given which operands it multiplies, and which must be numbers."""

    def rule(node: Node, rows: Rows) -> Need:
        out, a, b = shape_of(node.output), node.input(left), node.input(right)
        if len(shape_of(a)) < 2 or len(shape_of(b)) < 2:
            raise Blocked("a vector is multiplied")
        avoid(rows, len(out) - 1)
        scales = [v for i in numbers if (v := node.input(i)) is not None]
        if any(d != 1 for v in scales for d in shape_of(v)):
            raise Blocked("each row has its scale")
        if any(len(shape_of(v)) > 1 for v in node.inputs if v not in (None, a, b)):
            raise Blocked("scales are of matrices")
        found: list[Rows | None] = [None] * len(node.inputs)
        found[left] = aligned(a, rows, len(out))
        found[right] = _right(b, rows, len(out))
        return Need(tuple(found))

    return rule


def _right(operand: Value | None, rows: Rows, rank: int) -> Rows | None:
    """Return the rows of the right operand: they matter only where it has several matrices."""
    if rows.axis == rank - 2:
        return None
    found = aligned(operand, rows, rank)
    if found is not None and rows.selection.batch is not None and rows.batch == rank - 2:
        raise Blocked("each row would need its own matrix")
    return found


def _packed_product(node: Node, rows: Rows) -> Need:
    """The matrix is constant and packed, so that all leading axes are rows."""
    avoid(rows, len(shape_of(node.output)) - 1)
    return Need((rows, *[None] * (len(node.inputs) - 1)))


def _gemm(node: Node, rows: Rows) -> Need:
    if rows.axis != 0 or rows.batch > 0:
        raise Blocked("columns of a product")
    left = moved(rows, (1,)) if attribute(node, "transA") else rows
    return Need((left, None, aligned(node.input(2), rows, 2))[: len(node.inputs)])


# Norms and reductions ----------------------------------------------------------------------------


def _norm(node: Node, rows: Rows) -> Need:
    """The norm is over the last axes; scale and bias have these axes only."""
    rank = len(shape_of(node.output))
    axis = int(node.attr("axis", -1)) % rank
    avoid(rows, *range(axis, rank))
    if any(len(shape_of(v)) > rank - axis for v in node.inputs[1:] if v is not None):
        raise Blocked("the scale has leading axes")
    return Need((rows, *[None] * (len(node.inputs) - 1)))


def _along_axis(node: Node, rows: Rows) -> Need:
    avoid(rows, int(node.attr("axis", -1)) % len(shape_of(node.output)))
    return Need((rows,))


def _reduced(node: Node, rows: Rows) -> Need:
    rank = len(shape_of(node.input(0)))
    axes = known_ints(node.input(1))
    if not axes:
        raise Blocked("the axes are not known")
    return Need((_before_reduction(rows, [a % rank for a in axes], node, rank), None))


def _arg(node: Node, rows: Rows) -> Need:
    rank = len(shape_of(node.input(0)))
    return Need((_before_reduction(rows, [int(node.attr("axis", 0)) % rank], node, rank),))


def _before_reduction(rows: Rows, axes: list[int], node: Node, rank: int) -> Rows:
    kept = list(range(rank)) if attribute(node, "keepdims") else [a for a in range(rank) if a not in axes]
    found = moved(rows, kept)
    avoid(found, *axes)
    return found


# Movement ----------------------------------------------------------------------------------------


def _transposed(node: Node, rows: Rows) -> Need:
    order = permutation(node)
    if order is None:
        raise Blocked("the rank is not known")
    return Need((moved(rows, order),))


def _viewed(node: Node, rows: Rows) -> Need:
    source = _through_view(node, rows)
    if node.op == "Squeeze" and node.input(1) is None:
        raise Blocked("what is left may have one row")
    target = _target(node, rows, source) if node.op == "Reshape" else None
    if target is not None and tuple(target) != known_ints(node.input(1)):
        copies = {"allowzero": Attr("int", 0)} if node.attr("allowzero", 0) else {}
        return Need((source, None), {1: np.array(target, np.int64)}, copies)
    return Need((source, None)[: len(node.inputs)])


def _through_view(node: Node, rows: Rows) -> Rows:
    before, after = shape_of(node.input(0)), shape_of(node.output)
    if any(d == 0 for d in (*before, *after)):
        raise Blocked("there are no elements")
    axis, outer = _kept_axis(before, after, rows)
    if rows.selection.batch is None:
        return Rows(rows.selection, axis, outer=outer)
    merged = outer != 1
    for batch in (axis,) if merged else (b for b in range(len(before)) if b != axis):
        size = outer if merged else before[batch]
        if size == rows.selection.batch and product(before[:batch]) == product(after[: rows.batch]):
            return Rows(rows.selection, axis, batch, outer)
    raise Blocked("the view takes the batch apart")


def _kept_axis(before: Shape, after: Shape, rows: Rows) -> tuple[int, Dim]:
    """Return the axis of a tensor that its view shows, and how often: as many elements lie before and after it."""
    size, ahead, behind = rows.selection.size, product(after[: rows.axis]) * rows.outer, product(after[rows.axis + 1 :])
    for i, dim in enumerate(before):
        if product(before[i + 1 :]) != behind:
            continue
        outer = dim // size if dim != size else 1
        if outer * size == dim and product(before[:i]) * outer == ahead:
            return i, outer
    raise Blocked("the view takes rows apart")


def _target(node: Node, rows: Rows, source: Rows) -> list[int]:
    """Return the target of a ``Reshape`` that makes some rows only; zeros copy, since no dim is zero."""
    before, after = shape_of(node.input(0)), shape_of(node.output)
    inputs = [d if i != source.axis else source.count for i, d in enumerate(before)]
    result = [d if i != rows.axis else rows.count for i, d in enumerate(after)]
    found = [_entry(d, inputs[i] if i < len(inputs) else None) for i, d in enumerate(result)]
    if (source.axis, source.outer) == (rows.axis, rows.outer):
        found[rows.axis] = 0
    old = known_ints(node.input(1))
    inferred = [i for i, entry in enumerate(found) if entry == -1]
    if len(inferred) > 1:
        raise Blocked("several dims of the view are not known")
    safe = all(entry > 0 for i, entry in enumerate(found) if i not in inferred)
    if inferred and not safe and (old is None or old[inferred[0]] != -1 or not rows.selection.fills):
        raise Blocked("the view may have no elements")
    return found


def _entry(dim: Dim, same: Dim | None) -> int:
    if isinstance(dim, int):
        return dim
    return 0 if dim == same else -1


def _expanded(node: Node, rows: Rows) -> Need:
    """Axes that are enlarged are static; the others have one in the target, which leaves them as they are."""
    before, after = shape_of(node.input(0)), shape_of(node.output)
    source = aligned(node.input(0), rows, len(after))
    if (source is not None and source.shared) or rows.outer != 1:
        raise Blocked("the batch is made here")
    padded: list[Dim] = [*[1] * (len(after) - len(before)), *before]
    target = []
    for i, (old, new) in enumerate(zip(padded, after, strict=True)):
        wanted = rows.selection.count if i == rows.axis and old != new else new
        if old != new and not isinstance(wanted, int):
            raise Blocked(f"{wanted} is not static")
        target.append(wanted if old != new and isinstance(wanted, int) else 1)
    return Need((source, None), {1: np.array(target, np.int64)})


def _concatenated(node: Node, rows: Rows) -> Need:
    axis = int(node.attr("axis", 0)) % len(shape_of(node.output))
    avoid(rows, axis)
    return Need((rows,) * len(node.inputs))


def _split(node: Node, rows: Rows) -> Need:
    avoid(rows, int(attribute(node, "axis")) % len(shape_of(node.input(0))))
    if any(o.absent for o in node.outputs):
        raise Blocked("a part is missing")
    return Need((rows, None)[: len(node.inputs)])


def _sliced(node: Node, rows: Rows) -> Need:
    rank = len(shape_of(node.input(0)))
    axes = tuple(range(len(shape_of(node.input(1))))) if node.input(3) is None else known_ints(node.input(3))
    if axes is None:
        raise Blocked("the axes are not known")
    avoid(rows, *(a % rank for a in axes))
    return Need((rows, *[None] * (len(node.inputs) - 1)))


def _gathered(node: Node, rows: Rows) -> Need:
    """Rows lie along other axes of the data, or along the axes of the indices."""
    data, indices = shape_of(node.input(0)), shape_of(node.input(1))
    axis = int(attribute(node, "axis") or 0) % len(data)
    new = range(axis, axis + len(indices))
    each = rows.selection.batch is not None
    if rows.axis in new and (not each or rows.batch in new):
        return Need((None, replace(rows, axis=rows.axis - axis, batch=rows.batch - axis if each else -1)))
    avoid(rows, *new)
    kept = [a if a < axis else a - len(indices) + 1 for a in range(len(data) + len(indices) - 1)]
    return Need((moved(rows, kept), None))


def _entries(rule: Rule, names: str, domain: str = "") -> dict[tuple[str, str], Rule]:
    return {(domain, name): rule for name in operator_names(names)}


OPERATORS: dict[tuple[str, str], Rule] = {
    **_entries(
        _elementwise,
        """
        Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu
        Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN
        LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink
        Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
        """,
    ),
    **_entries(_elementwise, "Gelu QuickGelu FastGelu BiasGelu", "com.microsoft"),
    **_entries(_norm, "LayerNormalization RMSNormalization SimplifiedLayerNormalization"),
    **_entries(_along_axis, "Softmax LogSoftmax Hardmax LpNormalization"),
    **_entries(_reduced, "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare"),
    **_entries(_arg, "ArgMax ArgMin"),
    ("", "MatMul"): _product(0, 1),
    ("", "MatMulInteger"): _product(0, 1, 2),
    ("", "QLinearMatMul"): _product(0, 3, 1, 2, 6, 7),
    **_entries(_packed_product, "MatMulNBits", "com.microsoft"),
    **_entries(_quantized, "QuantizeLinear DequantizeLinear"),
    **_entries(_viewed, "Reshape Flatten Squeeze Unsqueeze"),
    ("", "CastLike"): _cast_like,
    ("", "Gemm"): _gemm,
    ("", "Transpose"): _transposed,
    ("", "Expand"): _expanded,
    ("", "Concat"): _concatenated,
    ("", "Split"): _split,
    ("", "Slice"): _sliced,
    ("", "Gather"): _gathered,
    ("", "Attention"): attention,
    ("", "RotaryEmbedding"): rotary,
    ("com.microsoft", "MultiHeadAttention"): heads_attention,
}
"""Operator → what it needs; an operator that is not here mixes rows, or nobody looked."""

"""Stagger the rows that a product reads, where all of them start in the same set of the first-level cache.

A kernel with AVX-512 multiplies twelve rows of the left operand at a time.  Where rows are a multiple of 4096 bytes
apart, their elements of one column share one set of the cache, which has fewer places than that, so that each row
pushes out another.  A few columns more stagger them.

Often the columns cost nothing (``passes/wider_rows.py``): in a feed-forward block, gated or not, the weights that make
the hidden rows get columns of zeros.  Everywhere else a ``Pad`` puts them there, which pays where wide products read
the rows.

Decisions:

* By cost only, where a calibration says what collisions cost, and not where the target names no such extension.
* Rows of an unknown number are left alone in a graph that attends to a cache: there it is mostly one row, which does
  not collide with itself.
* One line of the cache is added: rows then start in sixty-four sets in turn.
* Considered and rejected: two products of parts of uneven width, which gain the same and take more nodes; staggering
  the rows that a product writes, which gains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compiler.cost.kinds import Kind
from compiler.cost.kinds_products import apart, rows_collide
from compiler.cost.model import NOTHING, Cost
from compiler.ir.dtype import DType
from compiler.ir.graph import Graph, Node, Value
from compiler.rewrite.select import Decision, Option, expected_gain
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import open_graphs
from passes.wider_rows import Columns, Widening, erase, is_product

_MORE = 16
"""Columns that are added: a line of the cache."""

_WIDE = "avx512f"
"""The extension with which kernels multiply more rows at a time than a set of the cache has places."""

_PAST = {"Attention": 4, "MultiHeadAttention": 6, "GroupQueryAttention": 3}
"""Operator → operand that is a cache of keys."""

_LEAST_SAVED = 1.0
"""Microseconds below which a gain is not worth a change."""


@dataclass(frozen=True)
class StaggerRows(Pass):
    """Give rows that collide in the cache a few columns more, where products by weights read them."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Visit each tensor that such products read; what it costs decides."""
        if not ctx.by_cost or not _may_collide(ctx):
            return False
        widening, before = Widening(_MORE, self.name), len(ctx.rewrites)
        for g in open_graphs(graph):
            _visit_graph(g, widening, ctx)
        return len(ctx.rewrites) > before


def _may_collide(ctx: Context) -> bool:
    """True unless the target is known to have narrower kernels; one that names no extension is a typical machine."""
    isa = ctx.target.machine.isa
    return ctx.target.runtime.providers[0][0] == "CPUExecutionProvider" and (not isa or _WIDE in isa)


def _visit_graph(graph: Graph, widening: Widening, ctx: Context) -> None:
    position = {node: i for i, node in enumerate(graph.nodes())}
    few = any(n.op in _PAST and n.input(_PAST[n.op]) is not None for n in position)
    done: set[Value] = set()
    for node in position:
        rows = node.input(0)
        if node.graph is None or rows is None or rows in done or not _collides(rows) or not is_product(node):
            continue
        if few and not all(isinstance(d, int) for d in rows.shape or ()):
            continue
        done.add(rows)
        readers = {n for n, i in rows.uses if i == 0 and n in position and is_product(n)}
        _visit(rows, sorted(readers, key=position.__getitem__), widening, ctx)


def _collides(rows: Value) -> bool:
    shape = rows.shape or ()
    width = shape[-1] if len(shape) > 1 and rows.dtype is DType.F32 and rows.constant is None else 0
    return isinstance(width, int) and rows_collide(width)


def _visit(rows: Value, readers: Sequence[Node], widening: Widening, ctx: Context) -> None:
    width = (rows.shape or ())[-1]
    assert isinstance(width, int)
    columns = Columns(width)
    why = columns.follow(rows) or columns.read_elsewhere(readers)
    if why:
        ctx.refuse(why)
        columns = Columns(width)
    if not _pays(rows, readers, columns, widening.by, ctx):
        return
    wider = widening.rows(columns, rows) if columns.nodes else widening.padded(rows, readers[0])
    for reader in readers:
        widening.read(reader, wider)
    erase(columns)
    ctx.count("WidenRows" if columns.nodes else "PadRows")


def _pays(rows: Value, readers: Sequence[Node], columns: Columns, by: str, ctx: Context) -> bool:
    """Compare what the products take before and after, what the new columns take included, and record the decision."""
    before, after = NOTHING, _new_columns(rows, columns, ctx)
    for node in readers:
        kind = ctx.cost.kind(node)
        before, after = before + ctx.cost.of_kind(kind), after + ctx.cost.of_kind(apart(kind, columns.width, _MORE))
    gain, evidence = expected_gain(before, after, None)
    pays = gain > 1 and before.us * (1 - 1 / gain) >= _LEAST_SAVED
    nodes = (*columns.nodes, *readers)
    ctx.decisions.append(
        Decision(
            place=", ".join(dict.fromkeys(name for n in nodes for name in n.loc.names)) or f"%{rows.name}",
            operator=" + ".join(dict.fromkeys(n.qualified for n in nodes)),
            options=(Option("keep", before.us, before.source), Option(by, after.us, after.source)),
            chosen=by if pays else "keep",
            gain=gain,
            why=f"expected {gain:.2f}x: {evidence}" + ("" if pays else "; no gain"),
        )
    )
    return pays


def _new_columns(rows: Value, columns: Columns, ctx: Context) -> Cost:
    """Return what the nodes that make the rows take for the new columns, or else what a ``Pad`` takes."""
    if not columns.nodes:
        elements = ctx.cost.sizes.elements(rows) * (1 + _MORE / columns.width)
        sizes = (math.log2(max(elements, 1)), math.log2(columns.width))
        padding: Cost = ctx.cost.of_kind(Kind("Pad:f32", elements, sizes, 0.0, 8 * elements))
        return padding
    whole = NOTHING
    for node in columns.nodes:
        if not ctx.cost.as_run.is_free(node):
            whole = whole + ctx.cost.of_kind(ctx.cost.kind(node))
    return Cost(whole.us * _MORE / columns.width, whole.source, whole.detail)

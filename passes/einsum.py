"""Write products of two tensors that an ``Einsum`` spells as ``Transpose`` and ``MatMul``, which everything else knows.

Theorem.  Let each letter of the equation stand once in an operand, and let the letters be: some that both operands and
the result have, one that both operands have and the result has not, one that the left operand and the result have, and
one that the right operand and the result have.  Then the ``Einsum`` is a ``MatMul`` of the operands with their axes in
the order *batch, row, sum* and *batch, sum, column*, and its result with the axes ordered as the equation says.

Decisions:

* A left operand with several letters of its own keeps all but the last as batch, where the right operand is a matrix.
* A letter that is summed over must stand for one dim; those of the batch may broadcast, as ``MatMul`` does.
* An ellipsis is spelled out where both operands and the result have it.
* Everything else (sums over one operand, diagonals, three operands) is left alone.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

from compiler.ir import edit
from compiler.ir.dims import Dim
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.ir.types import TensorType
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import let_stand_for, open_graphs


@dataclass(frozen=True)
class EinsumProducts(Pass):
    """Replace an ``Einsum`` that is a matrix product by ``MatMul``, with transposes where its letters ask for them."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Visit every node once."""
        changed = False
        for g in open_graphs(graph):
            for node in g.nodes():
                product = _product(node) if node.is_op("Einsum") else None
                if product is None:
                    continue
                _replace(node, product, self.name)
                ctx.count("einsum to product")
                changed = True
        return changed


@dataclass(frozen=True, slots=True)
class _Product:
    """Letters of an ``Einsum`` that is a product: as written, and in the order in which ``MatMul`` wants them."""

    left: str
    right: str
    result: str
    rows: str
    columns: str
    made: str
    sizes: dict[str, Dim]
    """Letter → dim."""


def _product(node: Node) -> _Product | None:
    left, right = node.input(0), node.input(1)
    terms = _terms(_spelled_out(node))
    if len(node.inputs) != 2 or left is None or right is None or terms is None or not node.output.is_used:
        return None
    sizes = _sizes(left, right, terms)
    orders = _orders(*terms)
    return None if sizes is None or orders is None else _Product(*terms, *orders, sizes)


def _spelled_out(node: Node) -> str:
    """Return the equation with letters for an ellipsis, which stands for dims that all terms have."""
    equation = str(node.attr("equation"))
    first, data = equation.partition(",")[0].replace(" ", ""), node.input(0)
    if "..." not in equation or equation.count("...") != 3 or data is None or data.rank is None:
        return equation
    free = [c for c in string.ascii_letters if c not in equation]
    return equation.replace("...", "".join(free[: max(0, data.rank - len(first) + 3)]))


def _terms(equation: str) -> tuple[str, str, str] | None:
    """Return the letters of both operands and of the result, ``None`` for what is no plain product of two."""
    operands, arrow, result = equation.replace(" ", "").partition("->")
    left, comma, right = operands.partition(",")
    terms = (left, right, result)
    plain = all(t.isalpha() and len(set(t)) == len(t) for t in terms)
    return terms if arrow and comma and plain and set(result) <= set(left + right) else None


def _sizes(left: Value, right: Value, terms: tuple[str, str, str]) -> dict[str, Dim] | None:
    """Return the dim of each letter, ``None`` when they are not known, or a letter stands for two in a sum."""
    first, second, result = terms
    if left.shape is None or right.shape is None or (len(left.shape), len(right.shape)) != (len(first), len(second)):
        return None
    sizes = dict(zip(first, left.shape, strict=True))
    for letter, dim in zip(second, right.shape, strict=True):
        other = sizes.setdefault(letter, dim)
        if other != dim and letter not in result:
            return None
        sizes[letter] = dim if other == 1 else other
    return sizes


def _orders(left: str, right: str, result: str) -> tuple[str, str, str] | None:
    """Return the letters of both operands and of the result in the order of a ``MatMul``."""
    summed = [c for c in left if c in right and c not in result]
    batch = [c for c in result if c in left and c in right]
    rows, columns = [c for c in result if c not in right], [c for c in result if c not in left]
    kept = len(batch) + len(summed)
    if len(summed) != 1 or len(columns) != 1 or not rows or (len(rows) > 1 and batch):
        return None
    if len(left) != kept + len(rows) or len(right) != kept + len(columns):
        return None  # a letter of one operand is summed alone
    made = ("".join([*batch, *rows, *summed]), "".join([*batch, *summed, *columns]), "".join([*batch, *rows, *columns]))
    return made


def _replace(node: Node, p: _Product, by: str) -> None:
    left, right = node.inputs
    assert left is not None
    assert right is not None
    rows, columns = _transposed(node, left, p, p.left, p.rows, by), _transposed(node, right, p, p.right, p.columns, by)
    product = _add(node, "MatMul", [rows, columns], p, p.made, {}, by)
    let_stand_for(node, _transposed(node, product, p, p.made, p.result, by))


def _transposed(node: Node, value: Value, p: _Product, found: str, wanted: str, by: str) -> Value:
    if found == wanted:
        return value
    order = Attr("ints", tuple(found.index(c) for c in wanted))
    return _add(node, "Transpose", [value], p, wanted, {"perm": order}, by)


def _add(
    node: Node, op: str, inputs: list[Value], p: _Product, letters: str, attributes: dict[str, Attr], by: str
) -> Value:
    graph = node.graph
    assert graph is not None
    kind = TensorType(node.output.dtype, tuple(p.sizes[c] for c in letters))
    version, loc = edit.latest_version(graph.model), edit.merge_locs([node], by)
    return edit.add_node(graph, op, inputs, [kind], attributes, version=version, before=node, loc=loc).output

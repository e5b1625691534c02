"""Remove what nothing reads: nodes, constants, and results that an operator need not compute.

Decisions:

* Inputs of graphs stay, whether they are read or not: they are the interface.
* A dead operator goes when it and everything nested in it is of the standard or of ONNX Runtime; random ones
  too, since each draws from a generator of its own.  An opaque operator may do something besides computing,
  and stays.
* Outputs that callers of a nested graph do not read stay: they pair up with outputs of the node that owns it.
* Optional outputs are dropped for operators that then do less and are recognised by more rules.  Not for
  operators with a past and a present, whose kernels want both or neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.ir import edit
from compiler.ir.graph import Graph, Node
from compiler.ir.schema import is_known, node_schema
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import is_open, open_graphs, unused

_DROPS_OPTIONAL = frozenset({"Dropout", "GRU", "LSTM", "LayerNormalization", "MaxPool", "RNN", "Unique"})


@dataclass(frozen=True)
class DeadCode(Pass):
    """Remove nodes without used outputs, unused constants, and unused optional outputs; graph inputs stay."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Go backwards, into nested graphs before what they capture, so that one sweep finds everything."""
        nodes = sum(_visit(node, ctx) for node in _backwards(graph))
        constants = sum(_erase_constants(g) for g in open_graphs(graph))
        if constants:
            ctx.count("dead constant", constants)
        return bool(nodes or constants)


def _backwards(graph: Graph) -> Iterator[Node]:
    """Yield the nodes from the last to the first, those nested in one right after it."""
    stack = [graph.reversed_nodes()]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            continue
        yield node
        if node.graph is not None and node.attributes and is_open(node):
            stack.extend(g.reversed_nodes() for g in node.graphs())


def _visit(node: Node, ctx: Context) -> bool:
    if unused(node):
        return _erase(node, ctx)
    changed = False
    if node.op in _DROPS_OPTIONAL and not node.domain and len(node.outputs) > 1:
        changed = _drop_optional(node)
        if changed:
            ctx.count(f"dead output of {node.op}")
    return changed


def _erase(node: Node, ctx: Context) -> bool:
    nested = (n for g in node.graphs() for n in g.all_nodes()) if node.attributes else ()
    if not is_known(node) or not all(is_known(n) for n in nested):
        ctx.refuse(f"dead {node.qualified} is opaque")
        return False
    edit.erase(node)
    ctx.count("dead node")
    return True


def _drop_optional(node: Node) -> bool:
    schema = node_schema(node)
    changed = False
    for index, out in enumerate(node.outputs):
        formal = schema.formal_output(index) if schema is not None else None
        if formal is None or formal.option != "optional" or out.absent or out.is_used:
            continue
        edit.rename(out, "")
        changed = True
    return changed


def _erase_constants(graph: Graph) -> int:
    dead = [value for value in graph.constants if not value.is_used]
    for value in dead:
        edit.erase_constant(value)
    return len(dead)

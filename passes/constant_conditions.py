"""Take branches that are always taken, and skip loops that never run.

Decisions:

* The nodes of the taken branch move out of their graph, in order, to stand before the ``If``: nothing is
  copied, and what they read (captured values included) stays what it was.
* Names within a branch need only be unique there, so a name that was claimed twice in the model is replaced.
* A ``Loop`` is skipped only when it certainly makes no trip and nobody reads its scan outputs, whose shape
  would be unknown; its other outputs are then the initial values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.ir import edit
from compiler.ir.facts import known_scalar
from compiler.ir.graph import Graph, Node, Value
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import is_open


@dataclass(frozen=True)
class ConstantConditions(Pass):
    """Replace an ``If`` of known condition by its branch, and a ``Loop`` of no trips by its inputs."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Go through the nodes in order; what moved out of a branch is visited next."""
        changed = False
        graphs = [graph]
        while graphs:
            nested = []
            for node in _Walk(graphs.pop()):
                done, again = _visit(node.current, ctx)
                changed |= done
                if again is not None:
                    node.resume(again)
                elif node.current.graph is not None and node.current.attributes and is_open(node.current):
                    nested.extend(node.current.graphs())
            graphs.extend(reversed(nested))
        return changed


class _Walk:
    """Nodes of a graph in order, with a way to go back to one that was put in before."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.current: Node = None  # type: ignore[assignment]  # set before it is handed out
        self._nodes = graph.nodes()

    def resume(self, node: Node) -> None:
        """Go on with a node that stands before the current one."""
        self._nodes = _from(self.graph, node)

    def __iter__(self) -> Iterator[_Walk]:
        while (node := next(self._nodes, None)) is not None:
            self.current = node
            yield self


def _from(graph: Graph, node: Node | None) -> Iterator[Node]:
    while node is not None:
        if node.graph is graph:
            yield node
        node = node.next


def _visit(node: Node, ctx: Context) -> tuple[bool, Node | None]:
    """Return whether the node was replaced, and the first node that took its place."""
    if node.is_op("If") and len(node.graphs()) == 2:
        taken = _taken_branch(node)
        if taken is None or len(taken.outputs) != len(node.outputs):
            return False, None
        ctx.count("take branch")
        return True, _inline(node, taken)
    if node.is_op("Loop") and _makes_no_trip(node) and _skip(node):
        ctx.count("skip loop")
        return True, None
    return False, None


def _taken_branch(node: Node) -> Graph | None:
    condition = _truth(node.input(0))
    if condition is None:
        return None
    branch: Graph | None = node.attr("then_branch" if condition else "else_branch")
    return branch


def _truth(value: Value | None) -> bool | None:
    """Return what a condition always is, ``None`` when it depends on the input."""
    if value is not None and value.constant is not None and value.constant.is_readable:
        return bool(value.constant.item()) if value.constant.size == 1 else None
    known = known_scalar(value)
    return bool(known) if isinstance(known, int) else None


def _inline(node: Node, branch: Graph) -> Node | None:
    """Move a branch before its ``If``, whose outputs it replaces, and return the first node moved."""
    graph, results = node.graph, list(branch.outputs)
    assert graph is not None
    first: Node | None = None
    for value in list(branch.constants):
        edit.transfer_constant(value, graph)
        _rename_unless_unique(value)
    for inner in list(branch.nodes()):
        edit.transfer(inner, node)
        first = first or inner
        for out in inner.outputs:
            _rename_unless_unique(out)
    condition = node.inputs[0]
    assert condition is not None
    for index in range(len(results)):
        edit.set_output(branch, index, condition)  # lets go of the results: the branch is erased below
    for out, result in zip(node.outputs, results, strict=True):
        if out.is_used:
            edit.replace(out, result)
    after = node.next
    edit.erase(node)
    return first or after


def _rename_unless_unique(value: Value) -> None:
    if not value.absent and value.graph is not None and value.graph.model.is_taken(value.name) > 1:
        edit.rename(value, value.graph.model.fresh_name(value.name))


def _makes_no_trip(node: Node) -> bool:
    trips, condition = known_scalar(node.input(0)), node.input(1)
    if isinstance(trips, int) and trips <= 0:
        return True
    return condition is not None and _truth(condition) is False


def _skip(node: Node) -> bool:
    """Let the initial values stand for the outputs of a loop without trips."""
    initial = node.inputs[2:]
    body: Graph | None = node.attr("body")
    if body is None or len(body.inputs) != len(node.inputs) or len(initial) > len(node.outputs):
        return False
    if any(v is None for v in initial) or any(o.is_used for o in node.outputs[len(initial) :]):
        return False
    for out, value in zip(node.outputs, initial, strict=False):
        if value is not None and out.is_used:
            edit.replace(out, value)
    edit.erase(node)
    return True

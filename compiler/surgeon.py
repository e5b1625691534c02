"""GraphSurgeon functions as passes.

A pass that is written for GraphSurgeon sees the whole model as a ``gs.Graph`` and may do with it what it likes; the
result takes the place of the graph, and is verified like the work of any other pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from compiler.backend.surgeon import to_surgeon
from compiler.errors import InputError
from compiler.frontend.surgeon import exported, from_surgeon
from compiler.ir.graph import Graph, Model
from compiler.ir.transplant import replace_body
from compiler.rewrite.transform import Context, Pass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def surgeon_pass(function: Callable[[gs.Graph], gs.Graph | None]) -> Pass:
    """Make a pass of ``function(graph: gs.Graph)``; the function changes its argument, or returns another graph.

    Inputs and outputs of the model must keep their names and order.  The pass has the function's name, with dashes.
    """

    class _SurgeonPass(Pass):
        def run(self, graph: Graph, ctx: Context) -> bool:
            before = to_surgeon(graph.model)
            as_it_was = _contents(before)
            after = function(before)
            after = after if after is not None else before
            if _contents(after) == as_it_was:
                return False
            _take_over(graph, from_surgeon(after.cleanup().toposort()))
            ctx.count(self.name)
            return True

    _SurgeonPass.name = getattr(function, "__name__", "surgeon").replace("_", "-")
    _SurgeonPass.__doc__ = function.__doc__ or "Run a GraphSurgeon function."
    return _SurgeonPass()


def _contents(graph: gs.Graph) -> bytes:
    """Return all that a graph says; GraphSurgeon's own comparison does not look at weights."""
    return bytes(exported(graph).SerializeToString(deterministic=True))


def _take_over(graph: Graph, made: Model) -> None:
    new = made.graph
    for what, old_values, new_values in (("inputs", graph.inputs, new.inputs), ("outputs", graph.outputs, new.outputs)):
        before, after = [v.name for v in old_values], [v.name for v in new_values]
        if before != after:
            raise InputError(
                f"the GraphSurgeon function changed the model's {what}",
                why=f"{before} became {after}",
                hint="inputs and outputs must keep names and order",
            )
    replace_body(graph, new)

"""onnx-graphsurgeon → IR, and GraphSurgeon functions as passes.

A pass that is written for GraphSurgeon sees the whole model as a ``gs.Graph`` and may do with it what it likes; the
result takes the place of the graph, and is verified like the work of any other pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compiler.backend.surgeon import to_surgeon
from compiler.errors import InputError
from compiler.frontend.lift import lift
from compiler.frontend.load import load_model
from compiler.ir import edit
from compiler.ir.graph import Graph, Model
from compiler.ir.infer import infer
from compiler.rewrite.transform import Context, Pass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def from_surgeon(graph: gs.Graph) -> Model:
    """Return a GraphSurgeon graph as a model, lifted and with types inferred; ``graph`` is not changed."""
    import onnx_graphsurgeon as gs

    model = load_model(gs.export_onnx(graph, do_type_check=False))
    lift(model)
    infer(model.graph)
    return model


def surgeon_pass(function: Callable[[Any], Any]) -> Pass:
    """Make a pass of ``function(graph: gs.Graph)``; the function changes its argument, or returns another graph.

    Inputs and outputs of the model must keep their names and order.
    """

    class _SurgeonPass(Pass):
        def run(self, graph: Graph, ctx: Context) -> bool:
            before = to_surgeon(graph.model)
            kept = before.copy()
            after = function(before)
            after = after if after is not None else before
            if after == kept:
                return False
            _take_over(graph, from_surgeon(after.cleanup().toposort()))
            ctx.count(self.name)
            return True

    _SurgeonPass.name = getattr(function, "__name__", "surgeon").replace("_", "-")
    _SurgeonPass.__doc__ = function.__doc__ or "Run a GraphSurgeon function."
    return _SurgeonPass()


def _take_over(graph: Graph, made: Model) -> None:
    new = made.graph
    for what, old_values, new_values in (("inputs", graph.inputs, new.inputs), ("outputs", graph.outputs, new.outputs)):
        if [v.name for v in old_values] != [v.name for v in new_values]:
            raise InputError(
                f"the GraphSurgeon function changed the model's {what}",
                why=f"{[v.name for v in old_values]} became {[v.name for v in new_values]}",
                hint="inputs and outputs must keep names and order",
            )
    edit.replace_body(graph, new)

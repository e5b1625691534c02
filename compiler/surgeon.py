"""The bridge to onnx-graphsurgeon: models there and back, and GraphSurgeon functions as passes.

A pass that is written for GraphSurgeon sees the whole model as a ``gs.Graph`` and may do with it what it likes; the
result takes the place of the graph, and is verified like the work of any other pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from compiler.api import guarded
from compiler.backend import surgeon as backend
from compiler.errors import InputError
from compiler.frontend import surgeon as frontend
from compiler.ir.graph import Graph, Model
from compiler.ir.transplant import replace_body
from compiler.rewrite.transform import Context, Pass

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from onnx import ModelProto


def to_surgeon(model: Model | str | os.PathLike[str] | ModelProto) -> gs.Graph:
    """Return a model (the IR's, a file, or a ModelProto) as a GraphSurgeon graph; weights are copied.

    Raises ``InputError`` for what is no model, or holds what GraphSurgeon cannot hold.
    """
    return guarded(lambda: backend.to_surgeon(model if isinstance(model, Model) else _opened(model)))


def from_surgeon(graph: gs.Graph) -> Model:
    """Return a GraphSurgeon graph as a model of the IR, lifted and with types inferred; ``graph`` is not changed."""
    return guarded(lambda: frontend.from_surgeon(graph))


def _opened(source: str | os.PathLike[str] | ModelProto) -> Model:
    from compiler.opening import open_model, prepare

    model = open_model(source)
    prepare(model)
    return model


def surgeon_pass(function: Callable[[gs.Graph], gs.Graph | None]) -> Pass:
    """Make a pass of ``function(graph: gs.Graph)``; the function changes its argument, or returns another graph.

    Inputs and outputs of the model must keep their names and order.  The pass has the function's name, with dashes.
    """

    class _SurgeonPass(Pass):
        def run(self, graph: Graph, ctx: Context) -> bool:
            before = backend.to_surgeon(graph.model)
            as_it_was = _contents(before)
            after = function(before)
            after = after if after is not None else before
            if _contents(after) == as_it_was:
                return False
            _take_over(graph, frontend.from_surgeon(after.cleanup().toposort()))
            ctx.count(self.name)
            return True

    _SurgeonPass.name = getattr(function, "__name__", "surgeon").replace("_", "-")
    _SurgeonPass.__doc__ = function.__doc__ or "Run a GraphSurgeon function."
    return _SurgeonPass()


def _contents(graph: gs.Graph) -> bytes:
    """Return all that a graph says; GraphSurgeon's own comparison does not look at weights."""
    return bytes(frontend.exported(graph).SerializeToString(deterministic=True))


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

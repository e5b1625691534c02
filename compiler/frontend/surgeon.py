"""onnx-graphsurgeon → IR."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.frontend.lift import lift
from compiler.frontend.load import load_model
from compiler.ir.graph import Model
from compiler.ir.infer import infer

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from onnx import ModelProto


def from_surgeon(graph: gs.Graph) -> Model:
    """Return a GraphSurgeon graph as a model, lifted and with types inferred; ``graph`` is not changed."""
    model = load_model(exported(graph))
    lift(model)
    infer(model.graph)
    return model


def exported(graph: gs.Graph) -> ModelProto:
    """Return a GraphSurgeon graph as GraphSurgeon writes it."""
    import onnx_graphsurgeon as gs

    proto: ModelProto = gs.export_onnx(graph, do_type_check=False)
    return proto

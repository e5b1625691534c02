"""Nodes that were once written in a form that no runtime loads."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from compiler.backend.emit import emit, payload_table
from compiler.frontend.load import load_model
from tests.hostile_case import model_of, tensor, value


def _written(model: onnx.ModelProto) -> onnx.ModelProto:
    loaded = load_model(model)
    return emit(loaded, payload_table(loaded))


def test_a_loop_without_state_keeps_its_two_inputs() -> None:
    """A ``Loop`` needs a trip count and a condition, be they missing; only state may be left out."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Neg", ["x"], ["y"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL)],
        [value("on", [], TensorProto.BOOL), value("y", [2])],
    )
    model = model_of(
        [helper.make_node("Loop", ["n", ""], ["z"], body=body)],
        [value("x", [2])],
        [value("z", [3, 2])],
        [tensor("n", onnx.numpy_helper.to_array(helper.make_tensor("n", TensorProto.INT64, [], [3])))],
    )
    assert list(_written(model).graph.node[-1].input) == ["n", ""]


def test_missing_inputs_of_unknown_operators_stay() -> None:
    """An operator that nobody here knows may count its inputs, missing ones too; the standard's do not."""
    nodes = [helper.make_node("Odd", ["x", ""], ["h"], domain="mine"), helper.make_node("Clip", ["h", "", ""], ["y"])]
    model = model_of(nodes, [value("x", [2])], [value("y", [2])])
    model.opset_import.append(helper.make_opsetid("mine", 1))
    odd, clip = _written(model).graph.node
    assert (list(odd.input), list(clip.input)) == (["x", ""], ["h"])

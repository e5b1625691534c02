"""GraphSurgeon: a graph goes there and back, and a function written for it is a pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from compiler import from_surgeon, surgeon_pass, to_surgeon
from compiler.backend.emit import to_proto
from compiler.errors import InputError, UnsupportedError
from compiler.frontend.load import load_model
from compiler.ir.graph import Model
from compiler.ir.printer import print_model
from compiler.ir.verify import verify
from compiler.manager import Runner
from compiler.opening import prepare
from tests.conftest import Compiled

gs: Any = pytest.importorskip("onnx_graphsurgeon")


def original(*, opset: int = 13) -> ModelProto:
    """Return a small model with a weight and a nested graph."""
    branch = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["o"], name="inner")], "b", [], [helper.make_tensor_value_info("o", 1, [2, 2])]
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("If", ["c"], ["z"], name="choice", then_branch=branch, else_branch=branch),
        helper.make_node("Relu", ["z"], ["y"], name="last"),
    ]
    x, y = (helper.make_tensor_value_info(name, 1, [2, 2]) for name in "xy")
    c = helper.make_tensor_value_info("c", 9, [])
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32).reshape(2, 2), "w")
    graph = helper.make_graph(nodes, "g", [x, c], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def loaded(proto: ModelProto) -> Model:
    """Return the model in the IR, lifted and with types."""
    model = load_model(proto)
    prepare(model)
    return model


def body(model: Model) -> list[str]:
    """Return a model's text without its header."""
    return [line for line in print_model(model, loc=False).splitlines() if not line.startswith("//")]


def test_there_and_back() -> None:
    """A model that went to GraphSurgeon and back computes the same with the same names."""
    before = loaded(original())
    after = from_surgeon(to_surgeon(before))
    verify(after)
    assert sorted(body(after)) == sorted(body(before))
    onnx.checker.check_model(to_proto(after), full_check=True)


def test_what_graphsurgeon_cannot_hold_is_refused() -> None:
    """Attributes that GraphSurgeon would drop are an error that names them."""
    proto = original()
    proto.graph.node.append(helper.make_node("Optional", [], ["t"], type=helper.make_tensor_type_proto(1, [2])))
    with pytest.raises(UnsupportedError, match="'type' of Optional"):
        to_surgeon(loaded(proto))


def double_weights(graph: Any) -> None:
    """Double every weight, and nothing else."""
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant):
            tensor.values = tensor.values * 2


def insert_abs(graph: Any) -> Any:
    """Put an ``Abs`` in front of the last node."""
    last = next(n for n in graph.nodes if n.name == "last")
    made = gs.Variable("made", np.float32)
    graph.nodes.append(gs.Node("Abs", "new", inputs=[last.inputs[0]], outputs=[made]))
    last.inputs[0] = made
    return graph


def look(graph: Any) -> None:
    """Only look."""
    assert graph.nodes


def rename_output(graph: Any) -> None:
    """Change the interface."""
    graph.outputs[0].name = "renamed"


def drop_input(graph: Any) -> None:
    """Remove an input."""
    graph.inputs = graph.inputs[:1]


def crash(graph: Any) -> None:
    """Fail half-way."""
    graph.nodes.clear()
    raise KeyError("on purpose")


def through(model: Model, function: Any, **options: Any) -> Any:
    """Run a function as the only pass; the graph is valid afterwards."""
    (record,) = Runner(model, **options).run([surgeon_pass(function)])
    verify(model)
    return record


def test_changed_weights_are_a_change() -> None:
    """A function that changes nothing but weights changes the model."""
    model = loaded(original())
    assert through(model, double_weights).changed
    (found,) = to_proto(model).graph.initializer
    assert numpy_helper.to_array(found).reshape(-1).tolist() == [0, 2, 4, 6]


def test_new_nodes_take_the_place_of_the_old() -> None:
    """What the function made is the graph: interface and names stay, and what is emitted is valid."""
    model = loaded(original())
    assert through(model, insert_abs).changed
    result = to_proto(model)
    assert [n.name for n in result.graph.node] == ["product", "choice", "new", "last"]
    assert result.graph.output == original().graph.output
    onnx.checker.check_model(result, full_check=True)


def test_looking_is_no_change() -> None:
    """A function that only looks leaves the model alone."""
    model = loaded(original())
    before = print_model(model)
    record = through(model, look)
    assert (record.changed, record.error) == (False, "")
    assert print_model(model) == before


@pytest.mark.parametrize("function", [rename_output, drop_input, crash])
def test_failures_are_undone(function: Any) -> None:
    """A function that fails, or changes the interface, is rolled back; strictly, it is an error."""
    model = loaded(original())
    before = print_model(model)
    assert through(model, function).error
    assert print_model(model) == before
    with pytest.raises((InputError, KeyError)):
        through(loaded(original()), function, strict=True)


def test_replaced_graph_can_be_undone() -> None:
    """The exchange of the whole graph is a change like any other: it is undone when the graph is found invalid."""
    model = loaded(original())
    before = print_model(model)
    step = surgeon_pass(insert_abs)

    class Lying(type(step)):  # type: ignore[misc]  # the class is made at run time
        """Deny the change."""

        def run(self, graph: Any, ctx: Any) -> bool:
            """Do the work and say that nothing was done."""
            return not super().run(graph, ctx)

    (record,) = Runner(model).run([Lying()])
    verify(model)
    assert "the truth" in record.error
    assert print_model(model) == before
    assert model.opsets == loaded(original()).opsets


def test_old_forms_survive() -> None:
    """A model of an old opset keeps its opset through a function."""
    proto = original(opset=11)
    proto.graph.node.append(helper.make_node("Unsqueeze", ["y"], ["u"], axes=[0]))
    proto.graph.output.append(helper.make_tensor_value_info("u", 1, [1, 2, 2]))
    model = loaded(proto)
    assert through(model, insert_abs).changed
    result = to_proto(model)
    assert result.opset_import[0].version == 11
    onnx.checker.check_model(result, full_check=True)


def test_function_is_a_pass_of_a_compilation(compiled: Compiled) -> None:
    """A GraphSurgeon function runs among other passes and is named by its own name."""
    step = surgeon_pass(insert_double_negation)
    assert step.name == "insert-double-negation"
    result = compiled(original(), passes=[step])
    assert [n.op_type for n in result.graph.node].count("Neg") == 2


def insert_double_negation(graph: Any) -> None:
    """Negate twice what the last node reads."""
    last = next(n for n in graph.nodes if n.name == "last")
    value = last.inputs[0]
    for name in ("one", "two"):
        made = gs.Variable(name, np.float32)
        graph.nodes.append(gs.Node("Neg", name, inputs=[value], outputs=[made]))
        value = made
    last.inputs[0] = value

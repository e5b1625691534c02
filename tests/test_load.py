"""Loading loses nothing: ONNX → IR → ONNX keeps what the user wrote; what is malformed ends with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compiler.backend.emit import to_proto
from compiler.errors import AmpcError, ModelError, UnsupportedError
from compiler.frontend.load import load_model
from compiler.ir.dtype import DType
from compiler.ir.types import UnrankedType
from compiler.ir.verify import verify
from tests.random_protos import models

F32 = TensorProto.FLOAT
X = helper.make_tensor_value_info("x", F32, [2])
Y = helper.make_tensor_value_info("y", F32, ["N"])


def model_of(
    *nodes: NodeProto,
    inputs: Any = (X,),
    outputs: Any = (Y,),
    initializers: Any = (),
    opset: int = 20,
    ir_version: int = 10,
    functions: Any = (),
) -> ModelProto:
    """Return a model of nodes that imports a domain of its own besides the default one."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(initializers))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=list(functions))


def again(model: ModelProto) -> ModelProto:
    """Return a model that went through the IR, whose invariants hold there."""
    loaded = load_model(model)
    verify(loaded)
    return to_proto(loaded)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """Return a node whose operands stand in a text; ``_`` is a missing one."""
    reads, makes = ([n.strip("_") for n in text.split()] for text in (inputs, outputs))
    return helper.make_node(op, reads, makes, **attributes)


RELU = node("Relu", "x", "y")


def test_what_the_user_wrote_survives() -> None:
    """Names, order, documentation, metadata, annotations and devices are the same after a round trip."""
    model = model_of(
        node("Own", "x", "h _ z", domain="own", name="first", doc_string="why"),
        node("Add", "h b", "y", name="second"),
        outputs=(Y, helper.make_tensor_value_info("z", F32, ["N", 3])),
        initializers=[numpy_helper.from_array(np.ones(2, np.float32), "b")],
    )
    model.producer_name, model.producer_version, model.domain = "p", "1.2", "d"
    model.model_version, model.doc_string = 7, "model"
    model.metadata_props.add(key="k", value="v")
    graph = model.graph
    graph.doc_string = "graph"
    graph.metadata_props.add(key="g", value="h")
    graph.quantization_annotation.add(tensor_name="h").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    graph.input[0].doc_string, graph.output[0].doc_string = "in", "out"
    graph.node[0].metadata_props.add(key="n", value="m")
    graph.node[0].overload = "o"
    graph.node[0].device_configurations.add(configuration_id="c", pipeline_stage=3)
    graph.node[1].doc_string = "sum"
    model.configuration.add(name="c", num_devices=2)
    del graph.node[0].output[3:]
    assert again(model) == model


def test_attributes_of_every_kind_survive() -> None:
    """Attributes that ampc does not look into are carried through, with their kinds and documentation."""
    made = node("Own", "x", "y", domain="own")
    of_graph = helper.make_graph([], "sub", [], [])
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("", F32, [1], [2.0]), helper.make_tensor("", TensorProto.INT64, [1], [3]), [5]
    )
    kinds: dict[str, Any] = {
        "f": 1.5, "i": -(1 << 63), "s": b"\xff\x00", "t": helper.make_tensor("t", F32, [1], [1.0]), "g": of_graph,
        "floats": [0.1, float("inf")], "ints": [1, -1], "strings": [b"a", b"\xfe"],
        "tensors": [helper.make_tensor("u", TensorProto.INT64, [], [1])], "graphs": [of_graph],
        "tp": onnx.helper.make_tensor_type_proto(F32, ["N"]), "sparse": sparse,
    }  # fmt: skip
    made.attribute.extend(helper.make_attribute(name, value) for name, value in kinds.items())
    made.attribute.extend(
        AttributeProto(name=name, type=kind)
        for name, kind in (("none", AttributeProto.INTS), ("zero", AttributeProto.INT))
    )
    made.attribute.append(helper.make_attribute("types", [kinds["tp"]]))
    made.attribute[0].doc_string = "documented"
    before, after = model_of(made).graph.node[0], again(model_of(made)).graph.node[0]
    assert [a.name for a in after.attribute] == [a.name for a in before.attribute]
    for old, new in zip(before.attribute, after.attribute, strict=True):
        for tensor in (old.t, new.t, *old.tensors, *new.tensors):
            if tensor.data_type:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)))
        assert _filled(new) == _filled(old)


def _filled(attribute: AttributeProto) -> dict[str, Any]:
    return {field.name: value for field, value in attribute.ListFields() if value != 0}


TYPES = [d for d in DType if d is not DType.UNKNOWN]


def an_array(dtype: DType) -> np.ndarray[Any, Any]:
    """Return a few values of an element type."""
    if dtype is DType.STRING:
        return np.array([["a", "é", ""]], dtype=object)
    return np.array([[1, 2 if dtype is DType.F8E8M0 else 0, 1]]).astype(dtype.numpy)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("raw", [True, False])
def test_constants_of_every_type_survive(dtype: DType, raw: bool) -> None:
    """Constants keep type, dims and values, packed or not, and so do declared inputs of their type."""
    array = an_array(dtype)
    if raw:
        tensor = numpy_helper.from_array(array, "w")
    else:
        values = array.reshape(-1).tolist() if dtype is DType.STRING else array.reshape(-1)
        tensor = helper.make_tensor("w", dtype.code, [1, 3], values)
    info = helper.make_tensor_value_info("x", dtype.code, [1, 3])
    out = helper.make_tensor_value_info("y", dtype.code, [1, 3])
    result = again(model_of(node("Own", "x w", "y", domain="own"), inputs=[info], outputs=[out], initializers=[tensor]))
    assert result.graph.input[0] == info
    (found,) = result.graph.initializer
    assert found.data_type == dtype.code
    assert np.array_equal(numpy_helper.to_array(found), array)


@pytest.mark.parametrize("code", [27, 28, 99])
def test_unknown_element_types_are_carried_through(code: int) -> None:
    """A tensor of a type that ampc does not know keeps its bytes."""
    tensor = TensorProto(name="w", data_type=code, dims=[4], raw_data=b"abc" if code != 99 else b"xyz")
    result = again(model_of(node("Own", "x w", "y", domain="own"), initializers=[tensor]))
    assert result.graph.initializer[0] == tensor


def test_strings_that_are_not_text_survive() -> None:
    """String tensors are bytes: what is not UTF-8 is kept."""
    tensor = TensorProto(name="w", data_type=TensorProto.STRING, dims=[2], string_data=[b"\xff", b"ok"])
    result = again(model_of(node("Own", "x w", "y", domain="own"), initializers=[tensor]))
    assert list(result.graph.initializer[0].string_data) == [b"\xff", b"ok"]


def test_overridable_initializers_stay_inputs() -> None:
    """An initializer that is an input too is no constant, and stays both."""
    default = numpy_helper.from_array(np.ones(2, np.float32), "d")
    info = helper.make_tensor_value_info("d", F32, ["N"])
    model = model_of(node("Add", "x d", "y"), inputs=[X, info], initializers=[default])
    loaded = load_model(model)
    assert loaded.extra.overridable == ["d"]
    assert all(value.constant is None for value in loaded.graph.inputs)
    assert again(model) == model


def test_default_that_contradicts_its_declaration_is_not_trusted() -> None:
    """Of an input whose default has another shape than declared, the shape is not known."""
    default = numpy_helper.from_array(np.ones(3, np.float32), "d")
    model = model_of(node("Own", "x d", "y", domain="own"), inputs=[X, helper.make_tensor_value_info("d", F32, [2])])
    model.graph.initializer.append(default)
    loaded = load_model(model)
    verify(loaded)
    assert loaded.graph.inputs[1].type == UnrankedType(DType.F32)
    assert again(model) == model


def test_old_models_list_initializers_as_inputs() -> None:
    """Before IR version 4 an initializer that is an input is a constant, and the result needs it no more as input."""
    default = numpy_helper.from_array(np.ones(2, np.float32), "d")
    info = helper.make_tensor_value_info("d", F32, [2])
    model = model_of(node("Add", "x d", "y"), inputs=[X, info], initializers=[default], ir_version=3, opset=7)
    result = again(model)
    assert [i.name for i in result.graph.input] == ["x"]
    assert [i.name for i in result.graph.initializer] == ["d"]
    assert result.ir_version == 4


def test_sparse_initializers_survive() -> None:
    """A sparse initializer is carried through."""
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("w", F32, [1], [2.0]), helper.make_tensor("", TensorProto.INT64, [1], [1]), [2]
    )
    model = model_of(node("Own", "x w", "y", domain="own"))
    model.graph.sparse_initializer.append(sparse)
    assert again(model) == model


def test_nodes_are_sorted_stably() -> None:
    """Nodes that stand out of order are sorted, and those that are in order keep theirs."""
    nodes = [node("Neg", "b", "y"), node("Relu", "a", "b"), node("Abs", "x", "a"), node("Sign", "x", "z")]
    found = [n.op_type for n in again(model_of(*nodes)).graph.node]
    assert found == ["Abs", "Relu", "Neg", "Sign"]
    in_order = [nodes[3], nodes[2], nodes[1], nodes[0]]
    assert [n.op_type for n in again(model_of(*in_order)).graph.node] == ["Sign", "Abs", "Relu", "Neg"]


def test_captures_count_for_the_order() -> None:
    """A node that reads a name only in its nested graph stands after what makes it."""
    branch = helper.make_graph([node("Neg", "late", "o")], "b", [], [helper.make_tensor_value_info("o", F32, [2])])
    condition = numpy_helper.from_array(np.array(True), "c")
    model = model_of(
        node("If", "c", "y", then_branch=branch, else_branch=branch),
        node("Relu", "x", "late"),
        initializers=[condition],
    )
    assert [n.op_type for n in again(model).graph.node] == ["Relu", "If"]


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("value", numpy_helper.from_array(np.arange(3)), np.arange(3)),
        ("value_int", 3, np.array(3)),
        ("value_ints", [3, 4], np.array([3, 4])),
        ("value_float", 0.5, np.array(0.5, np.float32)),
        ("value_floats", [0.5, 1.0], np.array([0.5, 1.0], np.float32)),
        ("value_string", "a", np.array("a", object)),
        ("value_strings", ["a", "b"], np.array(["a", "b"], object)),
    ],
)
def test_constant_nodes_become_constants(attribute: str, value: Any, expected: Any) -> None:
    """Every form of a ``Constant`` node is a constant of that type and value."""
    model = model_of(node("Constant", "", "c", **{attribute: value}), node("Own", "x c", "y", domain="own"))
    result = again(model)
    assert [n.op_type for n in result.graph.node] == ["Own"]
    found = numpy_helper.to_array(result.graph.initializer[0])
    assert np.array_equal(found, expected)
    assert found.dtype == expected.dtype


def test_sparse_constant_nodes_stay() -> None:
    """A ``Constant`` of a sparse tensor stays the node that it is."""
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", F32, [1], [2.0]), helper.make_tensor("i", TensorProto.INT64, [1], [1]), [2]
    )
    model = model_of(node("Constant", "", "c", sparse_value=sparse), node("Add", "x c", "y"))
    assert again(model) == model


def branches(then: GraphProto, other: GraphProto, *more: NodeProto) -> ModelProto:
    """Return a model of an If on its input ``c``, then more nodes."""
    info = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    first = node("If", "c", "h", then_branch=then, else_branch=other)
    return model_of(first, *more, inputs=[info, X])


def graph_of(*nodes: NodeProto, output: str = "o") -> GraphProto:
    """Return a nested graph with one output."""
    return helper.make_graph(list(nodes), "sub", [], [helper.make_tensor_value_info(output, F32, [2])])


def test_inner_name_of_a_later_outer_value_is_replaced() -> None:
    """A name of a nested graph hides no name of the enclosing graph, even one that is defined after the node."""
    sub = graph_of(node("Neg", "x", "later"), node("Relu", "later", "o"))
    model = branches(sub, graph_of(node("Abs", "x", "o")), node("Abs", "h", "later"), node("Neg", "later", "y"))
    result = again(model)
    inner = next(a.g for a in result.graph.node[0].attribute if a.name == "then_branch")
    assert inner.node[0].output[0] not in {"later", "h", "y"}
    assert inner.node[1].input[0] == inner.node[0].output[0]


def test_graph_output_that_is_an_input_keeps_both_declarations() -> None:
    """An input that is returned is declared twice, and both declarations survive."""
    out = helper.make_tensor_value_info("x", F32, ["N"], "as output")
    model = model_of(RELU, outputs=[Y, out])
    assert again(model) == model


# Functions ---------------------------------------------------------------------------------------


def function(
    name: str, inputs: list[str], outputs: list[str], *nodes: NodeProto, opset: int = 20, **more: Any
) -> onnx.FunctionProto:
    """Return a function of the domain ``own``."""
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, inputs, outputs, list(nodes), imports, **more)


def referring(op: str, inputs: str, outputs: str, **references: str) -> NodeProto:
    """Return a node whose attributes refer to those of the function."""
    made = node(op, inputs, outputs)
    for name, target in references.items():
        kind = {"alpha": AttributeProto.FLOAT, "axis": AttributeProto.INT}[name]
        made.attribute.add(name=name, ref_attr_name=target, type=kind)
    return made


def test_function_takes_the_attributes_of_the_call() -> None:
    """A reference becomes what the call passes, else the function's default, else nothing."""
    body = referring("LeakyRelu", "a", "b", alpha="slope")
    made = function("F", ["a"], ["b"], body, attribute_protos=[helper.make_attribute("slope", 0.25)])
    bare = function("G", ["a"], ["b"], body, attributes=["slope"])
    calls = [node("F", "x", "p", domain="own"), node("F", "p", "q", domain="own", slope=0.5)]
    model = model_of(*calls, node("G", "q", "y", domain="own"), functions=[made, bare])
    result = again(model)
    assert [n.op_type for n in result.graph.node] == ["LeakyRelu"] * 3
    assert [[a.f for a in n.attribute] for n in result.graph.node] == [[0.25], [0.5], []]
    assert not result.functions


def test_functions_call_functions_and_keep_their_origin() -> None:
    """Inner calls are inlined too; names of nodes and origins say through which calls they came."""
    inner = function("In", ["a"], ["b"], node("Neg", "a", "b", name="n"))
    outer = function("Out", ["a"], ["c"], node("In", "a", "b", domain="own", name="i"), node("Abs", "b", "c"))
    model = model_of(node("Out", "x", "y", domain="own", name="call"), functions=[outer, inner])
    loaded = load_model(model)
    verify(loaded)
    assert [str(n.loc) for n in loaded.graph.nodes()] == ['"call/i/n"', '"call/Abs"']
    assert to_proto(loaded).graph.output[0].name == "y"


def test_names_of_functions_never_collide_with_the_users() -> None:
    """Values of an inlined call avoid the names that come later in the graph."""
    made = function("F", ["a"], ["c"], node("Neg", "a", "b"), node("Abs", "b", "c"))
    model = model_of(node("F", "x", "m", domain="own", name="f"), node("Relu", "m", "f/b"), node("Neg", "f/b", "y"))
    model.functions.append(made)
    result = again(model)
    names = [o for n in result.graph.node for o in n.output]
    assert len(set(names)) == len(names) == 4
    onnx.checker.check_model(result, full_check=True)


def test_function_outputs_that_are_inputs_or_repeated() -> None:
    """An output that passes an input through, or one value twice, reaches the caller under each name."""
    made = function("F", ["a"], ["a", "b", "b2"], node("Neg", "a", "b"), node("Identity", "b", "b2"))
    model = model_of(node("F", "x", "p q r", domain="own"), node("Sum", "p q r", "y"), functions=[made])
    onnx.checker.check_model(again(model), full_check=True)


def test_nested_graph_in_a_function_captures_its_arguments() -> None:
    """Graphs nested in a function see its values, and their own names are replaced where needed."""
    info = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    sub = graph_of(node("Neg", "a", "o"))
    body = node("If", "c", "b", then_branch=sub, else_branch=sub)
    made = function("F", ["c", "a"], ["b"], body)
    model = model_of(
        node("F", "c x", "h", domain="own", name="one"),
        node("F", "c h", "y", domain="own", name="two"),
        inputs=[info, X],
        functions=[made],
    )
    result = again(model)
    inner = [a.g.node[0] for n in result.graph.node for a in n.attribute]
    assert [n.input[0] for n in inner] == ["x", "x", "h", "h"]
    onnx.checker.check_model(result, full_check=True)


def test_call_in_a_nested_graph_is_inlined_there() -> None:
    """A call inside a branch becomes nodes of that branch."""
    made = function("F", ["a"], ["b"], node("Neg", "a", "b"))
    sub = graph_of(node("F", "x", "o", domain="own"))
    model = branches(sub, sub, node("Relu", "h", "y"))
    model.functions.append(made)
    result = again(model)
    assert [n.op_type for n in result.graph.node[0].attribute[0].g.node] == ["Neg"]
    onnx.checker.check_model(result, full_check=True)


def test_function_of_another_opset_keeps_its_meaning() -> None:
    """A node means what it means in the function's opset: ``ReduceSum`` took its axes as an input from 13 on."""
    made = function("F", ["a", "axes"], ["b"], node("ReduceSum", "a axes", "b"), opset=13)
    axes = helper.make_tensor_value_info("axes", TensorProto.INT64, [1])
    model = model_of(node("F", "x axes", "y", domain="own"), inputs=[X, axes], opset=11, functions=[made])
    loaded = load_model(model)
    assert next(loaded.graph.nodes()).version == 13
    result = to_proto(loaded)
    assert result.opset_import[0].version >= 13
    onnx.checker.check_model(result, full_check=True)


def test_missing_arguments_are_missing_in_the_body() -> None:
    """An argument that a call leaves out is a missing operand in the body."""
    made = function("F", ["a", "low", "high"], ["b"], node("Clip", "a low high", "b"))
    high = numpy_helper.from_array(np.array(1, np.float32), "h")
    model = model_of(node("F", "x _ h", "y", domain="own"), functions=[made], initializers=[high])
    assert list(again(model).graph.node[0].input) == ["x", "", "h"]


def bomb(levels: int) -> ModelProto:
    """Return a model whose functions double at each level."""
    functions = [function("f0", ["a"], ["b"], node("Neg", "a", "b"))]
    for i in range(1, levels):
        calls = [node(f"f{i - 1}", "a", "m", domain="own"), node(f"f{i - 1}", "m", "b", domain="own")]
        functions.append(function(f"f{i}", ["a"], ["b"], *calls))
    return model_of(node(f"f{levels - 1}", "x", "y", domain="own"), functions=functions)


def test_small_expansion_is_allowed() -> None:
    """Functions that double a few times are inlined."""
    assert len(again(bomb(6)).graph.node) == 32


# What is malformed -------------------------------------------------------------------------------


def changed(change: Callable[[ModelProto], Any], *nodes: NodeProto, **options: Any) -> Callable[[], ModelProto]:
    """Return a function that makes a model and breaks it."""

    def make() -> ModelProto:
        model = model_of(*(nodes or (RELU,)), **options)
        change(model)
        return model

    return make


def nothing(model: ModelProto) -> None:
    """Leave the model as it is."""


def deep(levels: int) -> ModelProto:
    """Return an object, which no file can hold, of deeply nested branches."""
    info = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    model = model_of(inputs=[info, X], outputs=[Y])
    graph = model.graph
    for _ in range(levels):
        made = graph.node.add(op_type="If", input=["c"], output=["y"])
        graph.output.append(Y) if graph.name == "sub" else None
        attribute = made.attribute.add(name="then_branch", type=AttributeProto.GRAPH)
        graph = attribute.g
        graph.name = "sub"
    return model


FAR = TensorProto(name="w", data_type=F32, dims=[1], data_location=TensorProto.EXTERNAL)
LIES = TensorProto(name="w", data_type=F32, dims=[3], raw_data=bytes(8))
BROKEN: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "training": (changed(lambda m: m.training_info.add()), "training"),
    "no graph": (lambda: ModelProto(ir_version=8), "no graph"),
    "cycle": (changed(nothing, node("Add", "x b", "a", name="A"), node("Neg", "a", "b"), node("Neg", "b", "y")), "A"),
    "undefined": (changed(nothing, node("Neg", "nowhere", "y", name="here")), "here"),
    "defined twice": (changed(nothing, RELU, node("Neg", "x", "y", name="second")), "second"),
    "input twice": (changed(nothing, inputs=[X, X]), "x"),
    "input redefined": (changed(nothing, node("Neg", "x", "x", name="loop"), RELU), "loop"),
    "initializer twice": (changed(nothing, initializers=[numpy_helper.from_array(np.ones(1), "w")] * 2), "w"),
    "initializer is made": (changed(nothing, initializers=[numpy_helper.from_array(np.ones(1), "y")]), "y"),
    "nameless initializer": (changed(nothing, initializers=[numpy_helper.from_array(np.ones(1))]), "no name"),
    "output of nothing": (changed(nothing, outputs=[helper.make_tensor_value_info("gone", F32, [])]), "gone"),
    "wrong size": (changed(nothing, initializers=[LIES]), "w"),
    "negative dim": (changed(nothing, initializers=[TensorProto(name="w", data_type=F32, dims=[-1])]), "graph 'g'"),
    "no data": (changed(nothing, initializers=[TensorProto(name="w", data_type=F32, dims=[3])]), "w"),
    "external data": (changed(nothing, initializers=[FAR]), "w"),
    "reference outside": (changed(nothing, referring("LeakyRelu", "x", "y", alpha="a")), "LeakyRelu"),
    "recursive function": (
        changed(nothing, node("F", "x", "y", domain="own"), functions=[
            function("F", ["a"], ["b"], node("G", "a", "b", domain="own")),
            function("G", ["a"], ["b"], node("F", "a", "b", domain="own")),
        ]), "own::F → own::G → own::F",
    ),
    "function bomb": (lambda: bomb(50), "more than"),
    "function twice": (changed(nothing, functions=[function("F", ["a"], ["a"])] * 2), "own::F"),
    "function without result": (
        changed(nothing, node("F", "x", "y", domain="own", name="call"), functions=[function("F", ["a"], ["b"])]),
        "call",
    ),
    "call with too many inputs": (
        changed(nothing, node("F", "x x", "y", domain="own", name="call"), functions=[function("F", ["a"], ["a"])]),
        "call",
    ),
    "call with too many outputs": (
        changed(nothing, node("F", "x", "y z", domain="own", name="call"), functions=[function("F", ["a"], ["a"])]),
        "call",
    ),
    "default of another type": (
        changed(nothing, inputs=[X, helper.make_tensor_value_info("d", F32, [1])],
                initializers=[numpy_helper.from_array(np.ones(1), "d")]), "d",
    ),
    "nested too deep": (lambda: deep(200), "levels deep"),
    "attribute without type": (
        changed(lambda m: m.graph.node[0].attribute.add(name="odd"), node("Own", "x", "y", domain="own", name="here")),
        "here",
    ),
}  # fmt: skip
"""Name → how to make a malformed model, and what its error must name."""


@pytest.mark.parametrize("name", BROKEN)
def test_malformed_models_end_with_their_place(name: str) -> None:
    """A malformed model raises ``ModelError``, which names the place."""
    make, named = BROKEN[name]
    with pytest.raises(ModelError) as caught:
        load_model(make())
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 3)),
        lambda m: m.graph.initializer.add(name="w", data_type=1, dims=[1], float_data=[1]).segment.SetInParent(),
    ],
)
def test_what_the_ir_cannot_hold_is_unsupported(change: Callable[[ModelProto], Any]) -> None:
    """A model that is fine but more than the IR holds is told from a malformed one."""
    model = model_of(RELU)
    change(model)
    with pytest.raises(UnsupportedError):
        load_model(model)


def test_file_and_object_are_the_same(tmp_path: Path) -> None:
    """A file and the object that it holds give the same model, and the file remembers its path."""
    model = model_of(node("Add", "x w", "y"))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(2, dtype=np.float32), "w"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    loaded = load_model(path)
    assert to_proto(loaded) == again(model)
    assert loaded.extra.path == path


def test_loading_does_not_change_the_object() -> None:
    """The caller's ModelProto is as it was, through lifting and emitting."""
    model = model_of(node("Squeeze", "x", "y", axes=[0]), opset=11)
    before = model.SerializeToString(deterministic=True)
    again(model)
    assert model.SerializeToString(deterministic=True) == before


@given(models())
def test_any_protobuf_is_read_or_refused(model: ModelProto) -> None:
    """Whatever a protobuf says, loading ends with a valid graph or with an error of ours."""
    try:
        loaded = load_model(model)
    except AmpcError:
        return
    verify(loaded)

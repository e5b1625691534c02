"""Names, documentation and metadata: what a compiler must neither trip over nor lose."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile_case import case, model_of, relu_model, tensor, text, value

ODD_NAMES = [
    "with space",
    "model/layer.0/Add:0",
    "naïve",
    "模型",
    "🔥🔥",
    "a\nb",
    "tab\tand\rreturn",
    "\"double\" 'single' `back`",
    "back\\slash",
    "%percent$dollar@at#hash",
    "{brace}[bracket](paren)<angle>",
    ",;:=",
    "//comment",
    "/*comment*/",
    "_",
    "0",
    "-1",
    "None",
    "loc",
    "const",
    "return",
    "nul\0inside",
    "\u202ereversed",
    "e\u0301",
    "\u00e9",
]
"""The last two look alike and are different names; the one before it is printed backwards."""


@case("ok")
def odd_names() -> onnx.ModelProto:
    """Any text is a legal name, and comes back unchanged."""
    names = ["x", *ODD_NAMES]
    nodes = [helper.make_node("Neg", [a], [b], name=b) for a, b in pairwise(names)]
    outputs = [value(name, [2]) for name in ODD_NAMES]
    return model_of(nodes, [value("x", [2])], outputs)


@case("ok")
def odd_names_of_inputs_and_weights() -> onnx.ModelProto:
    """The same for what comes in."""
    inputs = [value(f"in {name}", [2]) for name in ODD_NAMES]
    weights = [tensor(f"w {name}", np.array([k, 1], np.float32)) for k, name in enumerate(ODD_NAMES)]
    nodes = [helper.make_node("Mul", [i.name, w.name], [w.name[2:]]) for i, w in zip(inputs, weights, strict=True)]
    nodes.append(helper.make_node("Sum", [node.output[0] for node in nodes], ["y"]))
    return model_of(nodes, inputs, [value("y", [2])], weights)


@case("ok")
def odd_names_of_dimensions() -> onnx.ModelProto:
    """Symbolic dimensions carry any text, formulas included, and some of it is no identifier."""
    dims = ["batch size", "2*H//2", "unk__0", "", "-1", "模型", "a\nb", "None", "x" * 5000]
    inputs = [value(f"x{k}", [dim, 2]) for k, dim in enumerate(dims)]
    nodes = [helper.make_node("Neg", [f"x{k}"], [f"y{k}"]) for k in range(len(dims))]
    return model_of(nodes, inputs, [value(f"y{k}", [dim, 2]) for k, dim in enumerate(dims)])


@case("ok")
def name_of_a_hundred_kilobytes() -> onnx.ModelProto:
    """Nothing quotes it in full a thousand times."""
    name = "n" * 100_000
    nodes = [helper.make_node("Neg", ["x"], [name], name=name), helper.make_node("Neg", [name], ["y"])]
    return model_of(nodes, [value("x", [2])], [value("y", [2])])


@case("ok")
def names_that_look_generated() -> onnx.ModelProto:
    """Names of the kind that compilers make up: new ones must stay clear of them."""
    stems = [
        "y_1",
        "y_2",
        "y_0",
        "y.1",
        "y__fused",
        "fused_0",
        "folded_0",
        "const_0",
        "v0",
        "t0",
        "h",
        "tmp_0",
        "Add_0",
    ]
    nodes = [helper.make_node("Add", ["x", "w"], [stem]) for stem in stems[:1]]
    nodes += [helper.make_node("Relu", [a], [b]) for a, b in pairwise(stems)]
    nodes += [helper.make_node("Identity", [stems[-1]], ["y"])]
    outputs = [value(stem, [3]) for stem in [*stems[::3], "y"]]
    return model_of(nodes, [value("x", [3])], outputs, [tensor("w", np.array([1, -2, 3], np.float32))])


@case("either")
def node_names_repeat() -> onnx.ModelProto:
    """Node names are for people; the runtime wants distinct ones, and tools do not always write them so."""
    names = ["same", "same", "", ""]
    values = ["x", "a", "b", "c", "y"]
    nodes = [helper.make_node("Neg", [values[k]], [values[k + 1]], name=name) for k, name in enumerate(names)]
    return model_of(nodes, [value("x", [2])], [value("y", [2])])


@case("ok")
def node_named_like_a_value() -> onnx.ModelProto:
    """Nodes and values have name spaces of their own."""
    node = helper.make_node("Neg", ["x"], ["y"], name="x")
    return model_of([node], [value("x", [2])], [value("y", [2])])


def _keeps_metadata(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    kept = {entry.key: entry.value for entry in after.metadata_props}
    for entry in before.metadata_props:
        assert kept.get(entry.key) == entry.value, f"metadata {entry.key!r} was lost"
    for name in ("doc_string", "producer_name", "producer_version", "domain", "model_version"):
        assert getattr(after, name) == getattr(before, name), f"{name} was lost"
    assert after.graph.name == before.graph.name
    assert after.graph.doc_string == before.graph.doc_string


@case("ok", law=_keeps_metadata)
def metadata_and_documentation() -> onnx.ModelProto:
    """What the author wrote about the model belongs to the model."""
    model = relu_model()
    model.doc_string, model.graph.doc_string = "what it is\nfor", "the graph"
    model.producer_name, model.producer_version, model.domain = "someone", "1.2", "org.example"
    model.model_version = 7
    model.graph.name = "a graph / named 'so'"
    model.graph.node[0].doc_string = "a node"
    model.graph.input[0].doc_string = "an input"
    helper.set_model_props(model, {"author": "someone", "labels": '{"0": "cat"}', "": "empty key", "note": "🔥"})
    return model


def _keeps_quantization_annotation(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    wanted = {a.tensor_name for a in before.graph.quantization_annotation}
    assert wanted <= {a.tensor_name for a in after.graph.quantization_annotation}


@case("ok", law=_keeps_quantization_annotation)
def quantization_annotation() -> onnx.ModelProto:
    """Ranges that a quantizer noted for inputs and outputs are kept."""
    model = relu_model()
    for name in ("x", "y"):
        annotation = model.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    return model


def _keeps_training_info(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    assert list(after.training_info) == list(before.training_info)


@case("either", law=_keeps_training_info)
def training_information() -> onnx.ModelProto:
    """A training graph refers to values by name: it is kept as it is, or the model is refused."""
    model = relu_model()
    step = model.training_info.add()
    step.algorithm.node.append(helper.make_node("Sub", ["w", "g"], ["w_new"]))
    step.algorithm.name = "sgd"
    step.update_binding.add(key="w", value="w_new")
    return model


@case("ok")
def overridable_initializer() -> onnx.ModelProto:
    """An initializer that is also an input is a default that callers may override: it is not constant."""
    return text(
        "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1,2}> { h = Neg(w) y = Add(x, h) }",
        opset=17,
    )


@case("ok", feeds={"w": np.array([30, 40], np.float32)})
def overridable_initializer_overridden() -> onnx.ModelProto:
    """The same, called with another value: two optimizers gave the default's result."""
    return overridable_initializer()


@case("ok", feeds={"s": np.array([3, 2], np.int64)})
def overridable_shape_overridden() -> onnx.ModelProto:
    """The target of a Reshape that callers may override is not known when compiling."""
    return text("g (float[6] x, int64[2] s) => (float[A,B] y) <int64[2] s = {2, 3}> { y = Reshape(x, s) }")


@case("ok", feeds={"c": np.array(False)})
def overridable_condition_overridden() -> onnx.ModelProto:
    """Nor is a branch that depends on such a value."""
    return text(
        "g (float[2] x, bool c) => (float[2] y) <bool c = {1}> { y = If (c) <"
        "then_branch = t () => (float[2] a) { a = Neg(x) }, else_branch = e () => (float[2] b) {"
        " b = Abs(x) }> }"
    )


@case("ok", feeds={"x": np.ones((5, 3), np.float32)})
def value_info_lies_about_the_batch() -> onnx.ModelProto:
    """An inner declaration says 2 where any batch may come: six optimizers believed it and folded."""
    model = text("g (float[N,3] x) => (int64[2] y) { h = Relu(x) s = Shape(h) y = Identity(s) }")
    model.graph.value_info.append(value("h", [2, 3]))
    return model


@case("either")
def value_info_lies_about_the_type() -> onnx.ModelProto:
    """A contradiction is refused or ignored, and never believed."""
    model = relu_model()
    model.graph.value_info.append(value("h", [2, 3], TensorProto.INT64))
    return model


@case("ok")
def value_info_for_nothing() -> onnx.ModelProto:
    """Declarations of values that do not exist any more are common and harmless."""
    model = relu_model()
    model.graph.value_info.append(value("gone", [2, 3]))
    return model


@case("either", feeds={"x": np.ones((2, 3), np.float32)})
def output_shape_lies() -> onnx.ModelProto:
    """The declared output has another size than the computed one; the runtime warns and returns that."""
    return text("g (float[N,3] x) => (float[7,3] y) { y = Relu(x) }")


@case("error")
def output_type_lies() -> onnx.ModelProto:
    """The declared output has another type than what is computed."""
    return text("g (float[2] x) => (int64[2] y) { y = Relu(x) }")


@case("either")
def output_rank_lies() -> onnx.ModelProto:
    """The declared output has another rank than what is computed."""
    return text("g (float[2,3] x) => (float[6] y) { y = Relu(x) }")


def _said(node: onnx.NodeProto) -> list[str]:
    """Return a node's attributes as text, in order; a field that is empty says nothing."""
    return [str(attribute).replace('doc_string: ""\n', "").replace(" ", "") for attribute in node.attribute]


def _keeps_unknown(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    wanted = [n for n in before.graph.node if n.domain == "com.example"]
    found = [n for n in after.graph.node if n.domain == "com.example"]
    assert len(wanted) == len(found)
    for old, new in zip(wanted, found, strict=True):
        assert old.op_type == new.op_type
        assert _said(old) == _said(new), "an opaque attribute changed"
    imports = {o.domain: o.version for o in after.opset_import}
    assert imports["com.example"] == 3


@case("either", runs=False, law=_keeps_unknown)
def unknown_operators_around_a_foldable_part() -> onnx.ModelProto:
    """Operators of a domain that nobody has are barriers, kept byte for byte."""
    model = text(
        "g (float[2] x) => (float[2] y) <float[2] w = {1,2}> {"
        ' a = com.example.Opaque <mode = "keep", k = 3, f = [0.1, 0.2]> (x) c = Neg(w) d ='
        " Abs(c) b = Add(a, d)"
        " p = com.example.Stateful(b) q = com.example.Stateful(b) y = Add(p, q) }",
        domains='"com.example" : 3',
    )
    body = helper.make_graph([helper.make_node("Neg", ["w"], ["o"])], "body", [], [value("o", [2])])
    model.graph.node[0].attribute.append(helper.make_attribute("graph", body))
    return model


@case("either", runs=False)
def unknown_operator_of_the_default_domain() -> onnx.ModelProto:
    """An operator that the standard does not have (yet)."""
    return text("g (float[2] x) => (float[2] y) { y = FrobnicateLinear(x) }")


@case("either", runs=False)
def unknown_domain_without_an_import() -> onnx.ModelProto:
    """A domain that the model uses and does not import."""
    node = helper.make_node("Opaque", ["x"], ["y"], domain="com.example")
    return model_of([node], [value("x", [2])], [value("y", [2])])


@case("ok")
def contrib_operator() -> onnx.ModelProto:
    """The runtime's own operators are known."""
    return text(
        "g (float[2,4] x) => (float[2,4] y) <float[4] b = {1,2,3,4}> { y = com.microsoft.BiasGelu(x, b) }",
        domains='"com.microsoft" : 1',
    )


@case("ok")
def contrib_operator_without_an_import() -> onnx.ModelProto:
    """Exporters forget the import of the runtime's own domain, and the runtime does not mind."""
    node = helper.make_node("FastGelu", ["x"], ["y"], domain="com.microsoft")
    return model_of([node], [value("x", [2])], [value("y", [2])])

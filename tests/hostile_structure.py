"""Graphs, headers, attributes and tensors that break the rules of the format, or sit on their edge."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from tests.hostile_case import case, model_of, relu_model, tensor, text, value

X = "g (float[2,3] x) => (float[2,3] y)"

# --- values ---


@case("error")
def cycle_of_two_nodes() -> onnx.ModelProto:
    """Two nodes that wait for each other."""
    return text(f"{X} {{ a = Add(x, b) b = Relu(a) y = Neg(b) }}")


@case("error")
def node_that_feeds_itself() -> onnx.ModelProto:
    """A node that is its own input."""
    return text(f"{X} {{ y = Add(x, y) }}")


@case("error")
def cycle_in_dead_code() -> onnx.ModelProto:
    """A cycle that no output needs is refused, not silently dropped: the file is broken."""
    return text(f"{X} {{ a = Add(a, x) y = Neg(x) }}")


@case("error")
def input_that_nobody_defines() -> onnx.ModelProto:
    """A dangling name."""
    return text(f"{X} {{ y = Add(x, nowhere) }}")


@case("error")
def subgraph_input_that_nobody_defines() -> onnx.ModelProto:
    """A dangling name inside a branch, where an outer scope might have had it."""
    return text(
        "g (float[2] x, bool c) => (float[2] y) { y = If (c) <"
        "then_branch = t () => (float[2] a) { a = Neg(nowhere) }, else_branch = e () =>"
        " (float[2] b) { b = Neg(x) }>}"
    )


@case("error")
def two_nodes_define_one_value() -> onnx.ModelProto:
    """Static single assignment is the format's rule."""
    return text(f"{X} {{ h = Relu(x) h = Neg(x) y = Abs(h) }}")


@case("error")
def one_node_defines_a_value_twice() -> onnx.ModelProto:
    """Two outputs of one node under one name."""
    return text(f"{X} {{ h, h = Split <axis = 0, num_outputs = 2> (x) y = Concat <axis = 0> (h, h) }}")


@case("error")
def node_defines_a_graph_input() -> onnx.ModelProto:
    """A node that overwrites what the caller passed."""
    return text(f"{X} {{ x = Relu(x) y = Neg(x) }}")


@case("error")
def node_defines_an_initializer() -> onnx.ModelProto:
    """A weight that is also computed."""
    return text("g (float[3] x) => (float[3] y) <float[3] w = {1,2,3}> { w = Relu(x) y = Neg(w) }")


@case("either")
def two_initializers_of_one_name() -> onnx.ModelProto:
    """Two weights, of which one is meant."""
    model = relu_model()
    model.graph.initializer.append(tensor("w", np.ones(3, np.float32)))
    return model


@case("error")
def two_inputs_of_one_name() -> onnx.ModelProto:
    """Two inputs that a caller feeds by one name."""
    model = relu_model()
    model.graph.input.append(value("x", [2, 3]))
    return model


@case("error")
def output_that_nobody_produces() -> onnx.ModelProto:
    """An optimizer once ended with a segmentation fault here."""
    return text(f"{X} {{ h = Relu(x) }}")


@case("error")
def value_of_an_inner_scope_used_outside() -> onnx.ModelProto:
    """What a branch computes is not visible outside of it."""
    return text(
        "g (float[2] x, bool c) => (float[2] z) { y = If (c) <"
        "then_branch = t () => (float[2] a) { a = Neg(x) }, else_branch = e () => (float[2] b) {"
        " b = Abs(x) }>"
        " z = Add(y, a) }"
    )


@case("ok")
def nodes_out_of_order() -> onnx.ModelProto:
    """The format wants topological order; the runtime sorts for itself."""
    return text(f"{X} {{ y = Neg(h) h = Relu(x) }}")


@case("ok")
def output_is_an_input() -> onnx.ModelProto:
    """A value that passes straight through keeps its name on both sides."""
    return text("g (float[2] x) => (float[2] x, float[2] y) { y = Relu(x) }")


@case("ok")
def output_is_an_initializer() -> onnx.ModelProto:
    """A constant may be an output."""
    return text("g (float[2] x) => (float[2] w, float[2] y) <float[2] w = {1,2}> { y = Add(x, w) }")


@case("ok")
def output_listed_twice() -> onnx.ModelProto:
    """The same value twice among the outputs."""
    return text("g (float[2] x) => (float[2] y, float[2] y) { y = Relu(x) }")


@case("either")
def empty_graph() -> onnx.ModelProto:
    """No nodes, no inputs, no outputs."""
    return text("g () => () { }")


@case("either")
def graph_without_outputs() -> onnx.ModelProto:
    """Everything is dead; removing it all would leave nothing to call."""
    return text("g (float[2] x) => () { y = Relu(x) }")


@case("ok")
def graph_without_nodes() -> onnx.ModelProto:
    """An input that is the output."""
    return text("g (float[2] x) => (float[2] x) { }")


@case("ok")
def graph_without_inputs() -> onnx.ModelProto:
    """Everything is constant."""
    return text("g () => (float[2] y) <float[2] w = {1,-2}> { y = Relu(w) }")


@case("ok")
def unused_inputs() -> onnx.ModelProto:
    """An input that nothing reads is still part of the interface."""
    return text("g (float[2] unused, float[2] x, int64[N] also_unused) => (float[2] y) { y = Relu(x) }")


@case("ok")
def chain_of_identities_from_input_to_outputs() -> onnx.ModelProto:
    """Removing Identity must not rename an interface."""
    return text("g (float[2] x) => (float[2] y, float[2] z) { y = Identity(x) z = Identity(y) }")


@case("either")
def node_without_outputs() -> onnx.ModelProto:
    """A node that computes nothing."""
    model = relu_model()
    model.graph.node.append(helper.make_node("Neg", ["x"], []))
    return model


@case("ok")
def optional_outputs_left_out() -> onnx.ModelProto:
    """An empty name is an output that nobody wants, or an input that is not given."""
    node = helper.make_node("GRU", ["x", "w", "r", "", "", "h"], ["", "y"], hidden_size=2)
    weights = {"w": np.full((1, 6, 3), 0.1), "r": np.full((1, 6, 2), 0.2), "h": np.full((1, 2, 2), 0.3)}
    tensors = [tensor(name, array.astype(np.float32)) for name, array in weights.items()]
    return model_of([node], [value("x", [4, 2, 3])], [value("y", [1, 2, 2])], tensors)


@case("error")
def too_many_inputs() -> onnx.ModelProto:
    """Relu takes one operand."""
    return text(f"{X} {{ y = Relu(x, x) }}")


@case("error")
def too_few_inputs() -> onnx.ModelProto:
    """Add takes two operands."""
    return text(f"{X} {{ y = Add(x) }}")


@case("error")
def required_input_left_out() -> onnx.ModelProto:
    """An empty name where an operand is mandatory."""
    node = helper.make_node("Add", ["x", ""], ["y"])
    return model_of([node], [value("x", [2])], [value("y", [2])])


@case("error")
def empty_operator_name() -> onnx.ModelProto:
    """A node without an operator."""
    return model_of([helper.make_node("", ["x"], ["y"])], [value("x", [2])], [value("y", [2])])


@case("error")
def shapes_that_cannot_be() -> onnx.ModelProto:
    """A product of matrices that do not fit, statically: it fails whatever is fed."""
    return text("g (float[2,3] x) => (float[2,5] y) <float[4,5] w> { y = MatMul(x, w) }")


# --- attributes ---


@case("error")
def attribute_of_the_wrong_type() -> onnx.ModelProto:
    """An axis given as a float."""
    return text(f"{X} {{ y = Softmax <axis = 1.5> (x) }}")


@case("error")
def attribute_missing_that_is_required() -> onnx.ModelProto:
    """Cast needs to know what to."""
    return text(f"{X} {{ y = Cast(x) }}")


@case("either")
def attribute_that_refers_outside_a_function() -> onnx.ModelProto:
    """Only inside a function is there something to refer to."""
    node = helper.make_node("Softmax", ["x"], ["y"])
    node.attribute.append(AttributeProto(name="axis", type=AttributeProto.INT, ref_attr_name="axis"))
    return model_of([node], [value("x", [2])], [value("y", [2])])


@case("either")
def attribute_given_twice() -> onnx.ModelProto:
    """Two axes: what is checked and what is run must be the same one."""
    node = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    node.attribute.append(helper.make_attribute("axis", 1))
    return model_of([node], [value("x", [2, 3])], [value("y", [2, 3])])


@case("either")
def attribute_without_a_type() -> onnx.ModelProto:
    """Old exporters left the type out."""
    node = helper.make_node("Softmax", ["x"], ["y"])
    node.attribute.append(AttributeProto(name="axis", i=0))
    return model_of([node], [value("x", [2, 3])], [value("y", [2, 3])])


@case("error")
def attribute_that_nobody_knows() -> onnx.ModelProto:
    """Relu has no axis; the runtime refuses the node."""
    return text(f"{X} {{ y = Relu <axis = 1> (x) }}")


@case("ok")
def huge_attribute_lists() -> onnx.ModelProto:
    """A constant of 200,000 numbers, spelled as an attribute list."""
    node = helper.make_node("Constant", [], ["k"], value_ints=list(range(200_000)))
    add = helper.make_node("Add", ["x", "k"], ["y"])
    kind = TensorProto.INT64
    return model_of([node, add], [value("x", [1], kind)], [value("y", [200_000], kind)])


@case("error")
def axis_out_of_range() -> onnx.ModelProto:
    """An axis beyond the rank."""
    return text("g (float[2,3] x) => (float[2,3] y) { y = Softmax <axis = 7> (x) }")

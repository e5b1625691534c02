"""Tensors whose data, dimensions or types do not hold together, and headers from other times."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile_case import case, model_of, relu_model, tensor, text, value

# --- tensors ---


def _with_weight(weight: TensorProto, shape: list[int | str] | None = None) -> onnx.ModelProto:
    node = helper.make_node("Add", ["x", weight.name], ["y"])
    return model_of([node], [value("x", [4])], [value("y", shape or [4])], [weight])


@case("error")
def raw_data_too_short() -> onnx.ModelProto:
    """Twelve bytes for four floats."""
    return _with_weight(TensorProto(name="w", data_type=1, dims=[4], raw_data=b"\0" * 12))


@case("error")
def raw_data_too_long() -> onnx.ModelProto:
    """Twenty bytes for four floats."""
    return _with_weight(TensorProto(name="w", data_type=1, dims=[4], raw_data=b"\0" * 20))


@case("error")
def typed_data_too_short() -> onnx.ModelProto:
    """Three numbers for four floats."""
    return _with_weight(TensorProto(name="w", data_type=1, dims=[4], float_data=[1, 2, 3]))


@case("error")
def typed_data_in_the_wrong_field() -> onnx.ModelProto:
    """Floats in the field of the integers."""
    return _with_weight(TensorProto(name="w", data_type=1, dims=[4], int32_data=[1, 2, 3, 4]))


@case("either")
def raw_and_typed_data_both() -> onnx.ModelProto:
    """Two sources for one tensor."""
    return _with_weight(TensorProto(name="w", data_type=1, dims=[4], raw_data=b"\0" * 16, float_data=[1, 2, 3, 4]))


@case("error")
def negative_dimension() -> onnx.ModelProto:
    """Two negative dimensions multiply to the right size."""
    return _with_weight(TensorProto(name="w", data_type=1, dims=[-2, -2], float_data=[1, 2, 3, 4]))


@case("error")
def dimensions_that_overflow() -> onnx.ModelProto:
    """2^32 times 2^32 is nothing in 64 bits."""
    return _with_weight(TensorProto(name="w", data_type=1, dims=[1 << 32, 1 << 32]))


@case("error")
def dimensions_without_data() -> onnx.ModelProto:
    """Sixteen terabytes of nothing."""
    return _with_weight(TensorProto(name="w", data_type=1, dims=[1 << 21, 1 << 21]))


@case("error")
def element_type_undefined() -> onnx.ModelProto:
    """Type zero is none."""
    return _with_weight(TensorProto(name="w", data_type=0, dims=[4], raw_data=b"\0" * 16))


@case("error")
def element_type_from_the_future() -> onnx.ModelProto:
    """A type that nobody knows yet."""
    return _with_weight(TensorProto(name="w", data_type=99, dims=[4], raw_data=b"\0" * 16))


@case("either")
def initializer_without_a_name() -> onnx.ModelProto:
    """The empty name means that there is no value."""
    model = relu_model()
    model.graph.initializer.append(tensor("", np.ones(3, np.float32)))
    return model


@case("error")
def input_of_an_undefined_type() -> onnx.ModelProto:
    """An input that is a tensor of nothing."""
    node = helper.make_node("Relu", ["x"], ["y"])
    return model_of([node], [value("x", [2], TensorProto.UNDEFINED)], [value("y", [2])])


@case("either", runs=False)
def input_without_a_type() -> onnx.ModelProto:
    """An input of which only the name is known."""
    node = helper.make_node("Relu", ["x"], ["y"])
    return model_of([node], [onnx.ValueInfoProto(name="x")], [value("y", [2])])


@case("either", feeds={"x": np.ones((2, 3), np.float32)})
def input_with_a_negative_dimension() -> onnx.ModelProto:
    """Exporters of old wrote -1 for a dimension that is not known; the format has no negative sizes."""
    node = helper.make_node("Relu", ["x"], ["y"])
    return model_of([node], [value("x", [-1, 3])], [value("y", [-1, 3])])


@case("either")
def sparse_index_out_of_range() -> onnx.ModelProto:
    """A sparse tensor that writes outside of itself."""
    return _sparse([0, 9])


@case("either")
def sparse_index_negative() -> onnx.ModelProto:
    """A sparse tensor that writes before its beginning."""
    return _sparse([-3, 1])


@case("ok")
def sparse_initializer() -> onnx.ModelProto:
    """A sound sparse weight."""
    return _sparse([1, 3])


def _sparse(indices: list[int]) -> onnx.ModelProto:
    model = text("g (float[4] x) => (float[4] y) { y = Add(x, w) }")
    values = tensor("w", np.array([5, 6], np.float32))
    at = tensor("", np.array(indices, np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, at, [4]))
    return model


# --- versions ---


def _with_imports(*imports: tuple[str, int]) -> onnx.ModelProto:
    model = relu_model()
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in imports)
    return model


@case("error")
def opset_from_the_future() -> onnx.ModelProto:
    """Operators may mean something else there."""
    return _with_imports(("", 9999))


@case("error")
def opset_zero() -> onnx.ModelProto:
    """There is no opset 0."""
    return _with_imports(("", 0))


@case("error")
def opset_negative() -> onnx.ModelProto:
    """There is no opset -1."""
    return _with_imports(("", -1))


@case("error")
def opset_missing() -> onnx.ModelProto:
    """Without an import no operator means anything."""
    return _with_imports()


@case("ok")
def opset_imported_twice_alike() -> onnx.ModelProto:
    """The same import twice says nothing new."""
    return _with_imports(("", 20), ("", 20))


@case("either")
def opset_imported_twice_differently() -> onnx.ModelProto:
    """Two versions, of which one holds."""
    return _with_imports(("", 9), ("", 20))


@case("ok")
def opset_imported_under_its_other_name() -> onnx.ModelProto:
    """``ai.onnx`` is the default domain."""
    return _with_imports(("ai.onnx", 20))


@case("ok")
def opset_imported_that_nothing_uses() -> onnx.ModelProto:
    """Unused imports are common and harmless."""
    return _with_imports(("", 20), ("com.example.unused", 3), ("ai.onnx.ml", 3))


@case("either")
def ir_version_zero() -> onnx.ModelProto:
    """A model says which version of the format it is."""
    model = relu_model()
    model.ir_version = 0
    return model


@case("either")
def ir_version_from_the_future() -> onnx.ModelProto:
    """A stamp that no runtime accepts yet, on a model that holds nothing new."""
    model = relu_model()
    model.ir_version = 99
    return model


@case("ok")
def ir_version_three() -> onnx.ModelProto:
    """Before version 4 every initializer is listed as an input too: it may not vanish from one list alone."""
    return text(
        "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1,2}> { h = Neg(w) y = Add(x, h) }",
        opset=9,
        ir=3,
    )


@case("ok")
def ir_version_three_with_hidden_initializers() -> onnx.ModelProto:
    """A version-3 model that broke that rule."""
    return text("g (float[2] x) => (float[2] y) <float[2] w = {1,2}> { y = Add(x, w) }", opset=9, ir=3)


@case("either")
def opset_older_than_the_runtime() -> onnx.ModelProto:
    """Broadcasting by attribute: before opset 7, which no current runtime has kernels for."""
    return text(
        "g (float[2,3,4] x, float[3] w) => (float[2,3,4] y) <float[3] w = {1,2,3}>"
        "{ y = Add <broadcast = 1, axis = 1> (x, w) }",
        opset=6,
        ir=3,
    )


@case("ok")
def opset_seven() -> onnx.ModelProto:
    """The oldest operators that a runtime still has: scales and statistics as attributes."""
    return text(
        "g (float[1,2,2,2] x, float[2] k, float[2] m, float[2] v) => (float[1,2,4,4] y)"
        "<float[2] k = {2,3}, float[2] m = {0.5,1}, float[2] v = {1,4}> {"
        ' a = Upsample <scales = [1.0, 1.0, 2.0, 2.0], mode = "nearest"> (x)'
        " y = BatchNormalization <epsilon = 0.001> (a, k, m, m, v) }",
        opset=7,
        ir=3,
    )


@case("ok")
def old_operator_forms() -> onnx.ModelProto:
    """What opset 9 spelled in attributes: Slice, Squeeze, Clip, Dropout, Upsample."""
    return text(
        "g (float[1,2,3,4] x) => (float[2,3,8] y) <float[4] s = {1,1,1,2}> {"
        " a = Slice <axes = [3], ends = [9223372036854775807], starts = [-4]> (x)"
        " b = Clip <max = 0.5, min = -0.5> (a) c = Dropout <ratio = 0.3> (b)"
        ' d = Upsample <mode = "nearest"> (c, s) y = Squeeze <axes = [0]> (d) }',
        opset=9,
        ir=4,
    )

"""Element types, special numbers, and values that are no tensors."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile_case import Array, case, model_of, tensor, text, value

FINFO = np.finfo(np.float32)


def _constant_plus_input(array: Array) -> onnx.ModelProto:
    """Return ``y = x + Cast(w)``, for a weight that has no arithmetic of its own."""
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    shape = list(array.shape)
    return model_of(nodes, [value("x", shape)], [value("y", shape)], [tensor("w", array)], opset=23, ir=11)


def _weight(dtype: object) -> onnx.ModelProto:
    return _constant_plus_input(np.array([-2, -1, 0, 1, 0.5, 3, 1.5]).astype(dtype))


@case("ok")
def weight_bfloat16() -> onnx.ModelProto:
    """A type that NumPy has not."""
    return _weight(ml_dtypes.bfloat16)


@case("ok")
def weight_float16() -> onnx.ModelProto:
    """Half precision."""
    return _weight(np.float16)


@case("ok")
def weight_float8_e4m3fn() -> onnx.ModelProto:
    """Eight bits without infinity."""
    return _weight(ml_dtypes.float8_e4m3fn)


@case("ok")
def weight_float8_e5m2() -> onnx.ModelProto:
    """Eight bits with infinity."""
    return _weight(ml_dtypes.float8_e5m2)


@case("ok")
def weight_float8_e4m3fnuz() -> onnx.ModelProto:
    """Eight bits with one zero."""
    return _weight(ml_dtypes.float8_e4m3fnuz)


@case("ok")
def weight_float8_e5m2fnuz() -> onnx.ModelProto:
    """Eight bits with one zero and no infinity."""
    return _weight(ml_dtypes.float8_e5m2fnuz)


@case("ok")
def weight_int4_of_odd_length() -> onnx.ModelProto:
    """Seven numbers in four bytes; the last nibble is nothing."""
    return _constant_plus_input(np.array([-8, -1, 0, 1, 7, 3, 2]).astype(ml_dtypes.int4))


@case("ok")
def weight_uint4_of_odd_length() -> onnx.ModelProto:
    """The same without a sign."""
    return _constant_plus_input(np.array([0, 1, 15, 8, 7, 3, 2]).astype(ml_dtypes.uint4))


@case("either")
def weight_float4() -> onnx.ModelProto:
    """Four bits of floating point, for which runtimes have few kernels."""
    return _constant_plus_input(np.array([-6, -1, 0, 1, 0.5, 3]).astype(ml_dtypes.float4_e2m1fn))


@case("either", runs=False)
def weight_complex() -> onnx.ModelProto:
    """Complex numbers are in the format, and in no runtime."""
    weight = tensor("w", np.array([1 + 2j], np.complex64))
    node = helper.make_node("Identity", ["w"], ["y"])
    return model_of([node], [], [value("y", [1], TensorProto.COMPLEX64)], [weight])


@case("ok")
def weights_uint64_beyond_int64() -> onnx.ModelProto:
    """2^64 - 1 is not -1, and not a float either."""
    weight = tensor("w", np.array([(1 << 64) - 1, 1 << 63, 5], np.uint64))
    nodes = [helper.make_node("Max", ["x", "w"], ["y"])]
    kind = TensorProto.UINT64
    return model_of(nodes, [value("x", [3], kind)], [value("y", [3], kind)], [weight])


@case("ok")
def integers_that_wrap_around() -> onnx.ModelProto:
    """The largest integer plus one is the smallest, folded or not."""
    return text(
        "g (int64[2] x) => (int64[2] y, int8[2] z, int32[1] d) <int64[2] m = {9223372036854775807, 1}, "
        "int64[2] one = {1, 1}, int8[2] a = {127, -128}, int8[2] b = {1, -1}, int32[1] p = {-7},"
        " int32[1] q = {2}> {"
        " s = Add(m, one) y = Sub(x, s) c = Add(a, b) z = Identity(c) d = Div(p, q) }"
    )


@case("ok")
def constants_nan_and_infinity() -> onnx.ModelProto:
    """No algebra may assume that a constant is finite: 0 * inf is no zero, NaN equals nothing."""
    weight = tensor("w", np.array([np.nan, np.inf, -np.inf, 0.0], np.float32))
    zero = tensor("zero", np.zeros(4, np.float32))
    model = text(
        "g (float[4] x) => (float[4] a, float[4] b, bool[4] c, float[4] d, float[4] e, bool[4] f) {"
        " a = Mul(x, w) m = Mul(w, zero) b = Add(x, m) c = Equal(w, w) s = Sub(w, w) d = Add(s, x)"
        " e = Max(x, w) f = IsNaN(a) }"
    )
    model.graph.initializer.extend([weight, zero])
    return model


SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, FINFO.max, -FINFO.max, FINFO.tiny], np.float32)


@case("ok", feeds={"x": SPECIAL})
def special_values_through_algebra() -> onnx.ModelProto:
    """Every identity that holds for the reals, on the numbers for which it does not hold."""
    return text(
        "g (float[8] x) => (float[8] a, float[8] b, float[8] c, float[8] d, float[8] e, float[8]"
        " f, float[8] h,"
        " float[8] i) <float zero = {0}, float one = {1}, float two = {2}> {"
        " a = Mul(x, zero) b = Sub(x, x) c = Div(x, x) p = Exp(x) d = Log(p) q = Sqrt(x) e = Mul(q, q)"
        " r = Reciprocal(x) f = Reciprocal(r) h = Pow(x, two) s = Add(x, one) i = Sub(s, one) }"
    )


@case("ok", feeds={"x": np.array([0.0, -0.0, 1.0], np.float32)})
def negative_zero() -> onnx.ModelProto:
    """Subtracting 0 keeps the sign of -0, and so does a factor of 1; a division shows it."""
    return text(
        "g (float[3] x) => (float[3] a, float[3] b, float[3] c) <float zero = {0}, float one = {1}> {"
        " a = Add(x, zero) q = Sub(x, zero) b = Div(one, q) r = Mul(x, one) c = Div(one, r) }"
    )


@case("ok")
def denormal_weights() -> onnx.ModelProto:
    """Weights below the smallest normal number may become zero: beside ordinary numbers they are nothing."""
    weight = tensor("w", np.full(4, 1e-41, np.float32))
    model = text("g (float[4] x) => (float[4] y, float[4] z) { a = Mul(x, w) y = Add(x, a) z = Add(x, w) }")
    model.graph.initializer.append(weight)
    return model


@case("ok")
def division_by_a_constant_zero() -> onnx.ModelProto:
    """Floats divide by zero; a compiler that does it in Python raises."""
    return text("g (float[2] x) => (float[2] y) <float z = {0}, float o = {1}> { k = Div(o, z) y = Add(x, k) }")


@case("either", runs=False)
def integer_division_by_a_constant_zero() -> onnx.ModelProto:
    """Integers do not: the processor traps, and with it every process that tries."""
    return text("g (int32[2] x) => (int32[2] y) <int32 z = {0}, int32 o = {1}> { k = Div(o, z) y = Add(x, k) }")


@case("either", runs=False)
def integer_division_that_overflows() -> onnx.ModelProto:
    """The smallest integer by minus one traps as well."""
    return text(
        "g (int32[1] x) => (int32[1] y) <int32 m = {-2147483648}, int32 o = {-1}> { k = Div(m, o) y = Add(x, k) }"
    )


@case("ok")
def zero_size_tensors() -> onnx.ModelProto:
    """Tensors without elements: sums are zero, concatenations skip them."""
    return text(
        "g (float[0,3] x, float[2,3] z) => (float[2,3] y, float[1,3] s, float[0,3] w, int64[2] d)"
        "<float[0,3] e = {}, int64[1] ax = {0}> {"
        " y = Concat <axis = 0> (x, z, e) s = ReduceSum(e, ax) w = Add(x, e) d = Shape(e) }"
    )


@case("ok", feeds={"x": np.zeros((0, 3), np.float32)})
def zero_size_by_a_symbolic_dimension() -> onnx.ModelProto:
    """A dimension that is any number may be none."""
    return text(
        "g (float[N,3] x) => (float[N,3] y, float t, int64[1] n) <float[3,3] w = {1,2,3,4,5,6,7,8,9}> {"
        " y = MatMul(x, w) t = ReduceSum <keepdims = 0> (x) n = Shape <end = 1> (y) }"
    )


@case("ok")
def scalars_and_vectors_of_one() -> onnx.ModelProto:
    """A scalar is no vector of one: the rank shows in the output."""
    return text(
        "g (float x) => (float y, float[1] z) <float a = {1}, float[1] b = {1}, float zero ="
        " {0}, float[1] zeros = {0}> {"
        " p = Mul(x, a) y = Add(p, zero) q = Mul(x, b) z = Add(q, zeros) }"
    )


@case("ok")
def identity_that_broadcasts() -> onnx.ModelProto:
    """Adding zeros and multiplying with ones changes the shape when they are larger than the operand."""
    return text(
        "g (float[1,3] x) => (float[4,3] y, float[2,1,3] z) <float[2,1,1] one = {1,1}> {"
        " s = Constant <value = int64[2] {4, 1}> () zero = ConstantOfShape(s) y = Add(x, zero) z"
        " = Mul(x, one) }"
    )


@case("ok")
def strings() -> onnx.ModelProto:
    """Tensors of strings, constant and not."""
    weight = helper.make_tensor("w", TensorProto.STRING, [3], [b"a", "é".encode(), b""])
    model = text("g (string[3] x) => (bool[3] y, string[3] z) { y = Equal(x, w) z = Identity(w) }")
    model.graph.initializer.append(weight)
    return model


@case("ok", feeds={"x": np.arange(6, dtype=np.float32)})
def sequence_of_tensors() -> onnx.ModelProto:
    """Values that are lists of tensors."""
    return text(
        "g (float[6] x) => (float[6] y, int64 n, seq(float[M]) q) <int64 i = {1}> {"
        " q = SplitToSequence <axis = 0, keepdims = 1> (x) n = SequenceLength(q)"
        " e = SequenceAt(q, i) y = Add(x, e) }"
    )


@case("ok")
def empty_sequence() -> onnx.ModelProto:
    """A sequence with nothing in it, then with something."""
    return text(
        "g (float[2] x) => (int64 n, int64 m) {"
        " q = SequenceEmpty() n = SequenceLength(q) r = SequenceInsert(q, x) m = SequenceLength(r) }"
    )


@case("ok")
def optional_values() -> onnx.ModelProto:
    """Values that may be absent."""
    return text(
        "g (float[2] x) => (bool b, float[2] y) { o = Optional(x) b = OptionalHasElement(o) y = OptionalGetElement(o) }"
    )


@case("ok")
def maps() -> onnx.ModelProto:
    """A classifier's output: a list of maps from labels to scores."""
    zipmap = helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"])
    softmax = helper.make_node("Softmax", ["x"], ["p"], axis=-1)
    pair = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    output = helper.make_value_info("z", helper.make_sequence_type_proto(pair))
    model = model_of([softmax, zipmap], [value("x", [2, 3])], [output])
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return model


@case("ok", feeds={"x": np.array([1e6, -1e6, 1.5], np.float32)})
def cast_to_float8_without_saturation() -> onnx.ModelProto:
    """An overflow is NaN then, and not the largest number: an optimizer lost the attribute."""
    model = text("g (float[3] x) => (float[3] y) { f = CastLike <saturate = 0> (x, like) y = Cast <to = 1> (f) }")
    model.graph.initializer.append(tensor("like", np.zeros(1, ml_dtypes.float8_e4m3fn)))
    return model


@case("ok")
def float16_constants_fold_like_the_runtime() -> onnx.ModelProto:
    """A sum of half-precision constants must round as the runtime rounds."""
    rng = np.random.default_rng(3)
    model = text("g (float16[64] x) => (float16[64] y) { a = Mul(w, v) b = Add(a, w) c = Sqrt(b) y = Add(x, c) }")
    for name in ("w", "v"):
        model.graph.initializer.append(tensor(name, rng.random(64).astype(np.float16)))
    return model


@case("ok")
def slices_with_extreme_bounds() -> onnx.ModelProto:
    """The smallest and largest integers mean "to the end", backwards as well."""
    low, high = -(1 << 63), (1 << 63) - 1
    return text(
        "g (float[5] x) => (float[5] a, float[5] b, float[3] c, float[0] d) "
        f"<int64[1] lo = {{{low}}}, int64[1] hi = {{{high}}}, int64[1] z = {{0}}, int64[1] back = {{-1}}, "
        "int64[1] two = {2}, int64[1] far = {100}> {"
        " a = Slice(x, lo, hi, z) b = Slice(x, hi, lo, z, back) c = Slice(x, z, hi, z, two) d ="
        " Slice(x, far, hi, z) }"
    )


@case("ok")
def steps_that_are_huge() -> onnx.ModelProto:
    """A step beyond every dimension takes one element."""
    high = (1 << 63) - 1
    return text(
        f"g (float[5] x) => (float[1] a, float[1] b) <int64[1] hi = {{{high}}}, int64[1] z = {{0}}, "
        f"int64[1] back = {{-{high}}}, int64[1] end = {{-{high}}}> {{"
        " a = Slice(x, z, hi, z, hi) b = Slice(x, hi, end, z, back) }"
    )

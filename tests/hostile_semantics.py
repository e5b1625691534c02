"""Sound models that optimizers have got wrong: each is a fault that was found in one, or its neighbour."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tests.hostile_case import Law, case, keeps, model_of, tensor, text, value


def _all(*laws: Law) -> Law:
    def law(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        for one in laws:
            one(before, after)

    return law


# --- randomness and state ---


@case("ok", random=True, law=keeps("RandomUniformLike"))
def two_random_tensors_are_not_one() -> onnx.ModelProto:
    """Equal operators on equal operands give different numbers: two optimizers merged them."""
    return text("g (float[8] x) => (float[8] y) { a = RandomUniformLike(x) b = RandomUniformLike(x) y = Sub(a, b) }")


@case("ok", random=True, law=_all(keeps("RandomNormal"), keeps("RandomUniform")))
def random_constants_are_not_folded() -> onnx.ModelProto:
    """No inputs is not the same as constant: an optimizer folded this."""
    return text(
        "g (float[4] x) => (float[4] y) { a = RandomNormal <shape = [4]> () b = RandomUniform"
        " <shape = [4]> ()"
        " c = Add(a, b) y = Add(x, c) }"
    )


@case("ok", random=True, law=_all(keeps("Bernoulli"), keeps("Multinomial"), keeps("RandomNormalLike")))
def random_draws_from_constants() -> onnx.ModelProto:
    """Draws whose probabilities are constant are still draws."""
    return text(
        "g (float[1,4] x) => (float[1,4] y, int32[1,3] m) <float[1,4] p = {0.2, 0.4, 0.6, 0.8}> {"
        " a = Bernoulli(p) b = Bernoulli(p) m = Multinomial <sample_size = 3> (p) n = RandomNormalLike(p)"
        " c = Add(a, b) d = Add(c, n) y = Add(x, d) }"
    )


@case("ok", law=keeps("RandomNormal"))
def random_with_a_seed() -> onnx.ModelProto:
    """A seed repeats the numbers from session to session, not from run to run: it makes no constant."""
    return text("g (float[4] x) => (float[4] y) { a = RandomNormal <seed = 3.0, shape = [4]> () y = Add(x, a) }")


@case("ok", random=True)
def random_in_a_subgraph() -> onnx.ModelProto:
    """A loop draws anew on every trip; its body is not invariant."""
    return text(
        "g (float[4] x) => (float[4] y) <int64 n = {3}, bool go = {1}> { y = Loop (n, go, x) <body = "
        "b (int64 i, bool c, float[4] s) => (bool k, float[4] t) "
        "{ k = Identity(c) r = RandomUniform <shape = [4]> () t = Add(s, r) }> }"
    )


@case("ok", random=True, law=keeps("Dropout"))
def dropout_that_trains() -> onnx.ModelProto:
    """Dropout in training mode is random, and scales what it keeps."""
    return text(
        "g (float[16] x) => (float[16] y, bool[16] m) <float r = {0.5}, bool t = {1}> { y, m = Dropout(x, r, t) }"
    )


@case("ok")
def dropout_with_its_mask() -> onnx.ModelProto:
    """In inference the mask is all true, and boolean: an optimizer made it float."""
    return text("g (float[4] x) => (float[4] y, bool[4] m) <float r = {0.5}> { y, m = Dropout(x, r) }")


@case("ok", feeds={"t": np.array(False)})
def dropout_whose_mode_is_an_input() -> onnx.ModelProto:
    """Whether it trains is known only when it runs."""
    return text("g (float[4] x, bool t) => (float[4] y) <float r = {0.5}> { y = Dropout(x, r, t) }")


@case("either", runs=False)
def batch_normalization_that_trains() -> onnx.ModelProto:
    """It then uses the batch's own statistics, and updates the running ones."""
    return text(
        "g (float[4,2,3] x) => (float[4,2,3] y, float[2] m, float[2] v)"
        " <float[2] s = {2,3}, float[2] b = {1,0}, float[2] mean = {0.5,1}, float[2] var = {1,4}> {"
        " y, m, v = BatchNormalization <training_mode = 1> (x, s, b, mean, var) }"
    )


# --- what makes two nodes the same ---


@case("ok")
def common_subexpressions_that_differ_in_an_optional_input() -> onnx.ModelProto:
    """Clip with a lower bound is not Clip with that upper bound: an optimizer merged them."""
    low = helper.make_node("Clip", ["x", "k"], ["a"])
    high = helper.make_node("Clip", ["x", "", "k"], ["b"])
    outputs = [value("a", [4]), value("b", [4])]
    return model_of([low, high], [value("x", [4])], outputs, [tensor("k", np.array(0.1, np.float32))])


@case("ok")
def common_subexpressions_that_differ_in_a_default() -> onnx.ModelProto:
    """An attribute that is spelled at its default is the default; another value is another node."""
    return text(
        "g (float[2,3] x) => (float[2,3] y) { a = Softmax(x) b = Softmax <axis = -1> (x) c ="
        " Softmax <axis = 0> (x)"
        " d = Add(a, b) y = Sub(d, c) }"
    )


@case("ok")
def common_subexpressions_that_are_all_outputs() -> onnx.ModelProto:
    """Two equal nodes whose results are both outputs: both names must stay."""
    return text("g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Relu(x) }")


@case("ok")
def equal_bytes_of_different_types() -> onnx.ModelProto:
    """The zero bytes of an integer and of a float are not one constant."""
    return text(
        "g (float[1] x, int32[1] i) => (float[1] y, int32[1] j, float[1,1] z)"
        " <float[1] a = {0}, int32[1] b = {0}, float[1,1] c = {0}> { y = Add(x, a) j = Add(i, b)"
        " z = Add(x, c) }"
    )


@case("ok")
def tied_weights() -> onnx.ModelProto:
    """One weight used plainly and transposed: it may not be stored twice for nothing."""
    weight = np.random.default_rng(5).standard_normal((64, 64)).astype(np.float32)
    model = text("g (float[2,64] x) => (float[2,64] y) { h = MatMul(x, w) t = Transpose(w) y = MatMul(h, t) }")
    model.graph.initializer.append(tensor("w", weight))
    return model


# --- algebra that is not quite true ---


@case("ok", feeds={"x": np.array([[-3.0, -1.0, -2.0], [-1.0, 2.0, 1.0]], np.float32)})
def argmax_of_a_logarithm() -> onnx.ModelProto:
    """The logarithm is monotone where it exists; below zero it is NaN, and the index differs."""
    return text("g (float[2,3] x) => (int64[2,1] y) { l = Log(x) y = ArgMax <axis = 1> (l) }")


BOUNDS = np.array([-9, -3, -1, 0, 0.5, 1, 2.5, 9], np.float32)


@case("ok", feeds={"x": BOUNDS})
def clip_of_clip_with_disjoint_ranges() -> onnx.ModelProto:
    """Clip to [0, 1], then to [2, 3], is 2 everywhere: not the intersection, which is empty."""
    return text(
        "g (float[8] x) => (float[8] y) <float a = {0}, float b = {1}, float c = {2}, float d = {3}>"
        "{ h = Clip(x, a, b) y = Clip(h, c, d) }"
    )


@case("ok", feeds={"x": BOUNDS})
def clip_with_inverted_bounds() -> onnx.ModelProto:
    """With min above max, the result is max everywhere."""
    return text(
        "g (float[8] x) => (float[8] y, float[8] z) <float a = {2}, float b = {-1}, float c = {0}>"
        "{ y = Clip(x, a, b) h = Clip(x, c) z = Clip(h, a, b) }"
    )


@case("ok", feeds={"x": BOUNDS})
def relu_of_clip_below_zero() -> onnx.ModelProto:
    """Relu of what was clipped to [-5, -1] is zero."""
    return text(
        "g (float[8] x) => (float[8] y, float[8] z) <float a = {-5}, float b = {-1}>"
        "{ h = Clip(x, a, b) y = Relu(h) r = Relu(x) z = Clip(r, a, b) }"
    )


@case("ok", feeds={"x": np.array([-7, 7, -8, 8, 9, -9], np.int64)})
def integer_division_is_not_a_shift() -> onnx.ModelProto:
    """Division truncates; multiplying back does not undo it; Mod has two meanings."""
    return text(
        "g (int64[6] x) => (int64[6] a, int64[6] b, int64[6] c) <int64 two = {2}, int64 three = {3}> {"
        " q = Div(x, three) a = Mul(q, three) b = Mod(x, three) p = Div(x, two) c = Div(p, two) }"
    )


@case("ok", feeds={"x": np.array([0.1, 300.7, -1.5, 16777217.0], np.float64)})
def cast_there_and_back() -> onnx.ModelProto:
    """A pair of casts that loses something is not nothing."""
    return text(
        "g (double[4] x) => (double[4] a, double[4] b, double[4] c) { f = Cast <to = 1> (x) a ="
        " Cast <to = 11> (f)"
        " i = Cast <to = 7> (x) b = Cast <to = 11> (i) t = Cast <to = 9> (x) c = Cast <to = 11> (t) }"
    )


@case("ok", feeds={"x": np.array([1.0, 2.0, 1e8, -1e8], np.float32)})
def large_and_small_constants_are_not_reassociated_away() -> onnx.ModelProto:
    """(x + 1e8) - 1e8 is what it is in floats, to its own accuracy; in integers it is x."""
    return text(
        "g (float[4] x, int32[2] i) => (float[4] y, int32[2] j) <float m = {0.1}, float k ="
        " {10}, int32 q = {7}> {"
        " h = Mul(x, m) y = Mul(h, k) p = Add(i, q) j = Sub(p, q) }"
    )


@case("ok")
def bias_that_broadcasts_upwards() -> onnx.ModelProto:
    """A bias of rank 3 makes a rank-2 product rank 3: no Gemm."""
    rng = np.random.default_rng(11)
    model = text("g (float[2,3] x) => (float[5,2,4] y) { h = MatMul(x, w) y = Add(h, b) }")
    for name, shape in (("w", (3, 4)), ("b", (5, 1, 4))):
        model.graph.initializer.append(tensor(name, rng.standard_normal(shape).astype(np.float32)))
    return model


# --- shapes ---


@case("ok", feeds={"x": np.zeros((0, 3), np.float32)})
def reshape_that_allows_zero() -> onnx.ModelProto:
    """With ``allowzero`` a zero is a zero, and not "as before"."""
    return text(
        "g (float[N,3] x) => (float[A,B] y) <int64[2] s = {3, 0}> { r = Relu(x) y = Reshape <allowzero = 1> (r, s) }"
    )


@case("ok")
def reshape_chains_with_copied_dimensions() -> onnx.ModelProto:
    """A zero copies the dimension of *this* Reshape's input, so two Reshapes are not simply the second."""
    return text(
        "g (float[2,3,4] x) => (float[A,B,C] y) <int64[2] s = {6, 4}, int64[3] t = {0, 2, -1}> {"
        " h = Reshape(x, s) y = Reshape(h, t) }"
    )


@case("ok", feeds={"x": np.ones((3, 1, 2), np.float32)})
def squeeze_of_a_dimension_that_may_be_one() -> onnx.ModelProto:
    """Without axes, what is squeezed depends on the sizes that come in."""
    return text("g (float[A,B,C] x) => (int64[D] y) { s = Squeeze(x) y = Shape(s) }")


@case("ok", feeds={"x": np.ones((1, 5), np.float32)})
def expand_by_a_symbolic_dimension() -> onnx.ModelProto:
    """An Expand to the shape of another value is no identity when that value is larger."""
    return text("g (float[N,5] x, float[4,5] r) => (float[M,5] y) { s = Shape(r) y = Expand(x, s) }")


@case("ok")
def negative_axes_and_steps() -> onnx.ModelProto:
    """Everything counted from the end."""
    return text(
        "g (float[2,3,4] x) => (float[2,3,4] y, float[2,1,4] r, float[4,2,3] t, float[2,3,2] s) "
        "<int64[1] a = {-1}, int64[1] b = {-5}, int64[1] ax = {-1}, int64[1] st = {-1}, int64[1]"
        " two = {-2}> {"
        " y = Slice(x, a, b, ax, st) r = ReduceMean(x, two) t = Transpose <perm = [2, 0, 1]> (x) "
        " s = Slice(x, a, b, ax, two) }"
    )


@case("ok")
def gather_with_negative_and_repeated_indices() -> onnx.ModelProto:
    """A Gather with constant indices is not always a slice."""
    return text(
        "g (float[4,3] x) => (float[3] a, float[3,3] b, float[1,3] c) "
        "<int64 i = {-1}, int64[3] j = {0, -4, 3}, int64[1] k = {2}> { a = Gather(x, i) b ="
        " Gather(x, j) c = Gather(x, k) }"
    )

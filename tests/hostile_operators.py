"""Convolutions, pools, branches, loops and quantization: operators whose rules optimizers get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile_case import Array, case, count, model_of, tensor, text, value

# --- convolutions and pools ---


def _conv(attributes: dict[str, Any], *, kernel: tuple[int, ...] = (4, 2, 3, 3), **before: Any) -> onnx.ModelProto:
    weight = np.random.default_rng(13).standard_normal(kernel).astype(np.float32)
    nodes = [helper.make_node("Conv", ["p" if before else "x", "w"], ["y"], **attributes)]
    weights = [tensor("w", weight)]
    if before:
        nodes.insert(0, helper.make_node("Pad", ["x", "pads"], ["p"], mode=before["mode"]))
        weights.append(tensor("pads", np.array(before["pads"], np.int64)))
    return model_of(nodes, [value("x", [1, 2, 7, 6])], [value("y", ["N", "C", "H", "W"])], weights)


@case("ok")
def conv_with_empty_auto_pad_and_asymmetric_pads() -> onnx.ModelProto:
    """An empty ``auto_pad`` means that the pads count: an optimizer computed others."""
    return _conv({"auto_pad": "", "pads": [0, 1, 2, 3], "strides": [2, 1]})


@case("ok")
def conv_with_same_lower() -> onnx.ModelProto:
    """The odd pixel goes to the beginning."""
    return _conv({"auto_pad": "SAME_LOWER", "strides": [2, 2]})


@case("ok")
def conv_after_a_reflecting_pad() -> onnx.ModelProto:
    """Only zeros can be absorbed into a convolution."""
    return _conv({"pads": [1, 1, 1, 1]}, mode="reflect", pads=[0, 0, 1, 1, 0, 0, 1, 1])


@case("ok")
def conv_after_a_pad_of_channels() -> onnx.ModelProto:
    """A pad of the channels is no pad of the picture."""
    return _conv({}, kernel=(4, 3, 3, 3), mode="constant", pads=[0, 1, 1, 0, 0, 0, 0, 1])


@case("ok")
def conv_after_a_cropping_pad() -> onnx.ModelProto:
    """Negative pads crop, and a convolution cannot."""
    return _conv({}, mode="constant", pads=[0, 0, -1, 0, 0, 0, 0, -1])


@case("ok")
def conv_in_groups_then_batch_normalization() -> onnx.ModelProto:
    """Grouped filters fold with the scale of their own output channel."""
    model = _conv({"group": 2}, kernel=(4, 1, 3, 3))
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(helper.make_node("BatchNormalization", ["h", "s", "b", "m", "v"], ["y"], epsilon=1e-3))
    rng = np.random.default_rng(17)
    for name in "sbmv":
        model.graph.initializer.append(tensor(name, (rng.random(4) + 0.5).astype(np.float32)))
    return model


@case("ok")
def conv_read_twice_then_batch_normalization() -> onnx.ModelProto:
    """The plain convolution is an output as well."""
    model = conv_in_groups_then_batch_normalization()
    model.graph.output.append(value("h", ["N", "C", "H", "W"]))
    return model


@case("ok")
def conv_whose_weight_is_shared() -> onnx.ModelProto:
    """One filter, two convolutions, of which one is normalized: the other keeps the filter as it was."""
    model = conv_in_groups_then_batch_normalization()
    model.graph.node.append(helper.make_node("Conv", ["x", "w"], ["z"], group=2))
    model.graph.output.append(value("z", ["N", "C", "H", "W"]))
    return model


def _pool(pool: dict[str, Any], pads: list[int], **fill: float) -> onnx.ModelProto:
    weights = [tensor("pads", np.array(pads, np.int64))]
    weights += [tensor(name, np.array(number, np.float32)) for name, number in fill.items()]
    op_type = pool.pop("op")
    nodes = [
        helper.make_node("Pad", ["x", "pads", *fill], ["p"]),
        helper.make_node(op_type, ["p"], ["y"], kernel_shape=[3, 3], **pool),
    ]
    return model_of(nodes, [value("x", [1, 2, 6, 6])], [value("y", ["N", "C", "H", "W"])], weights)


AROUND = [0, 0, 1, 1, 0, 0, 1, 1]


@case("ok")
def average_pool_after_a_pad() -> onnx.ModelProto:
    """The padded zeros count in the average, unlike the pool's own pads: an optimizer mixed them up."""
    return _pool({"op": "AveragePool"}, AROUND)


@case("ok")
def average_pool_with_pads_of_its_own_after_a_pad() -> onnx.ModelProto:
    """Both kinds of padding at once, counted differently."""
    return _pool({"op": "AveragePool", "pads": [1, 1, 1, 1]}, AROUND)


@case("ok")
def max_pool_after_a_pad() -> onnx.ModelProto:
    """A padded zero may be the maximum of negative numbers; the pool's own pads are never."""
    return _pool({"op": "MaxPool"}, AROUND)


@case("ok")
def max_pool_after_a_pad_of_minus_infinity() -> onnx.ModelProto:
    """Here the two are the same."""
    return _pool({"op": "MaxPool"}, AROUND, fill=float("-inf"))


# --- subgraphs ---


@case("ok", feeds={"c": np.array(True)})
def branch_that_captures_what_folding_removes() -> onnx.ModelProto:
    """A value may be read by nobody but a branch: it is not dead."""
    return text(
        "g (float[2] x, bool c) => (float[2] y) <float[2] w = {1,2}> { k = Neg(w) h = Relu(x) y = If (c) <"
        "then_branch = t () => (float[2] a) { a = Add(h, k) }, else_branch = e () => (float[2]"
        " b) { b = Sub(h, k) }> }"
    )


@case("ok")
def constant_condition_with_captures() -> onnx.ModelProto:
    """The branch that is taken may move out; its inner names may equal names outside of it."""
    return text(
        "g (float[2] x) => (float[2] z) <bool c = {0}> { h = Relu(x) y = If (c) <"
        "then_branch = t () => (float[2] a) { a = Neg(h) }, "
        "else_branch = e () => (float[2] b) { v = Abs(h) w = Neg(v) b = Add(w, x) }> v = Neg(y)"
        " w = Abs(v) z = Add(w, h) }"
    )


@case("ok", feeds={"c": np.array(True)})
def branches_that_use_the_same_inner_names() -> onnx.ModelProto:
    """Names in sibling scopes are unrelated."""
    return text(
        "g (float[2] x, bool c) => (float[2] y) { y = If (c) <"
        "then_branch = t () => (float[2] r) { v = Neg(x) r = Abs(v) }, "
        "else_branch = e () => (float[2] r) { v = Abs(x) r = Neg(v) }> }"
    )


@case("either")
def inner_name_that_shadows_an_outer_one() -> onnx.ModelProto:
    """The format forbids it; tools do it all the same."""
    return text(
        "g (float[2] x) => (float[2] y) <bool c = {1}> { h = Relu(x) d = Neg(h) y = If (c) <"
        "then_branch = t () => (float[2] a) { h = Abs(x) a = Add(h, d) }, "
        "else_branch = e () => (float[2] b) { b = Neg(d) }> }"
    )


@case("ok")
def branch_that_returns_a_captured_value() -> onnx.ModelProto:
    """A branch may only pass something through, by Identity."""
    return text(
        "g (float[2] x, bool c) => (float[2] y) { h = Relu(x) y = If (c) <"
        "then_branch = t () => (float[2] a) { a = Identity(h) }, "
        "else_branch = e () => (float[2] b) { b = Constant <value = float[2] {7, 8}> () }> }"
    )


@case("ok", feeds={"c": np.array(True)})
def branches_of_different_shapes() -> onnx.ModelProto:
    """What comes out of an If may have another shape for each branch."""
    return text(
        "g (float[2] x, bool c) => (float[N] y, int64[1] n) { y = If (c) <"
        "then_branch = t () => (float[4] a) { a = Concat <axis = 0> (x, x) }, "
        "else_branch = e () => (float[2] b) { b = Neg(x) }> n = Shape(y) }"
    )


@case("ok")
def loop_that_collects_and_captures() -> onnx.ModelProto:
    """Carried, scanned and captured values, and an iteration number that is used."""
    return text(
        "g (float[2] x) => (float[2] y, float[4,2] z) <int64 n = {4}, bool go = {1}> { w = Relu(x) "
        "y, z = Loop (n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool k, float[2] t, float[2] o) "
        "{ k = Identity(c) f = Cast <to = 1> (i) p = Mul(w, f) t = Add(s, p) o = Identity(t) }> }"
    )


@case("ok")
def loop_whose_carried_value_grows() -> onnx.ModelProto:
    """The shape of a carried value may change from trip to trip: the first says nothing about the next."""
    return text(
        "g (float[1] x) => (float[N] y) <int64 n = {3}, bool go = {1}> { y = Loop (n, go, x) <body = "
        "b (int64 i, bool c, float[M] s) => (bool k, float[K] t) { k = Identity(c) t = Concat"
        " <axis = 0> (s, s) }> }"
    )


@case("ok")
def scan_backwards() -> onnx.ModelProto:
    """Scan with a direction and a state."""
    return text(
        "g (float[3,2] x, float[2] s) => (float[2] f, float[3,2] y) { f, y = Scan (s, x) "
        "<num_scan_inputs = 1, scan_input_directions = [1], body = b (float[2] u, float[2] v) => "
        "(float[2] w, float[2] o) { w = Add(u, v) o = Mul(w, v) }> }"
    )


# --- casts and quantization ---


def _int8(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(19).integers(-128, 128, shape).astype(np.int8)


@case("ok", feeds={"x": np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)})
def quantize_then_dequantize() -> onnx.ModelProto:
    """The pair rounds and saturates: it is no identity."""
    return text(
        "g (float[3,4] x) => (float[3,4] y) <float s = {0.01}, int8 z = {3}> {"
        " q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )


def _stays_small(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    assert after.ByteSize() < 2 * before.ByteSize(), "the quantized weight was unpacked"


@case("ok", law=_stays_small)
def quantized_weight_stays_quantized() -> onnx.ModelProto:
    """Folding DequantizeLinear of a weight makes it four times as large, and undoes the user's work."""
    model = text("g (float[2,256] x) => (float[2,256] y) { f = DequantizeLinear <axis = 1> (w, s) y = MatMul(x, f) }")
    model.graph.initializer.append(tensor("w", _int8((256, 256))))
    model.graph.initializer.append(tensor("s", np.full(256, 0.01, np.float32)))
    return model


@case("ok")
def where_with_a_mask_of_infinities() -> onnx.ModelProto:
    """A row masked everywhere makes NaN in Softmax; a large negative number in place of -inf would not."""
    weight = helper.make_tensor("m", TensorProto.BOOL, [2, 3], [1, 0, 1, 0, 0, 0])
    inf = tensor("ninf", np.array(-np.inf, np.float32))
    model = text("g (float[2,3] x) => (float[2,3] y) { h = Where(m, x, ninf) y = Softmax(h) }")
    model.graph.initializer.extend([weight, inf])
    return model


def _one_transpose(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    assert count(after, "Transpose") <= count(before, "Transpose")


@case("ok", law=_one_transpose)
def transposes_that_do_not_cancel() -> onnx.ModelProto:
    """A permutation of three applied twice is its inverse, not nothing."""
    return text(
        "g (float[2,3,4] x) => (float[4,2,3] y, float[2,3,4] z) { a = Transpose <perm = [1, 2, 0]> (x)"
        " y = Transpose <perm = [1, 2, 0]> (a) b = Transpose(x) z = Transpose(b) }"
    )

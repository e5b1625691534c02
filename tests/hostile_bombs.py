"""Small files that ask for much: memory, time, depth, or exponentially many nodes.

None of them may hang or fill the memory.  Those that the runtime can run must come through unharmed, and no
result may be much larger than its original: that a thing can be computed now is no reason to store it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile_case import case, model_of, tensor, text, value

INT64_MAX = (1 << 63) - 1


def shape_of(*dims: int) -> str:
    """Return a constant 1-D int64 initializer ``s`` in text form."""
    return f"int64[{len(dims)}] s = {{{', '.join(map(str, dims))}}}"


# --- constants that need terabytes ---


@case("either", runs=False)
def constant_of_a_terabyte() -> onnx.ModelProto:
    """Four dimensions of a thousand are a terabyte of zeros in forty bytes of file."""
    return text(
        f"g (float[1] x) => (float[1] y) <{shape_of(1024, 1024, 1024, 1024)}, int64[1] a = {{0}}> {{"
        " k = ConstantOfShape(s) r = ReduceSum <keepdims = 0> (k) y = Add(x, r) }"
    )


@case("either", runs=False)
def constant_whose_size_overflows() -> onnx.ModelProto:
    """2^32 times 2^32 elements are none, in 64 bits."""
    return text(
        f"g (float[1] x) => (float[1] y) <{shape_of(1 << 32, 1 << 32)}> {{"
        " k = ConstantOfShape(s) r = ReduceMax <keepdims = 0> (k) y = Add(x, r) }"
    )


@case("either", runs=False)
def range_of_a_trillion() -> onnx.ModelProto:
    """Three scalars make eight terabytes."""
    return text(
        "g (int64[1] x) => (int64[1] y) <int64 a = {0}, int64 b = {1000000000000}, int64 c = {1}> {"
        " k = Range(a, b, c) r = ReduceMax <keepdims = 0> (k) y = Add(x, r) }"
    )


@case("either", runs=False)
def range_that_never_ends() -> onnx.ModelProto:
    """A step of zero."""
    return text(
        "g (int64[1] x) => (int64[1] y) <int64 a = {0}, int64 b = {10}, int64 c = {0}> {"
        " k = Range(a, b, c) r = ReduceMax <keepdims = 0> (k) y = Add(x, r) }"
    )


@case("either", runs=False)
def tile_bomb() -> onnx.ModelProto:
    """A weight of four numbers, repeated 2^40 times."""
    return text(
        "g (float[1] x) => (float[1] y) <float[2,2] w = {1,2,3,4}, int64[2] n = {1048576, 1048576}> {"
        " k = Tile(w, n) r = ReduceMax <keepdims = 0> (k) y = Add(x, r) }"
    )


@case("either", runs=False)
def expand_bomb() -> onnx.ModelProto:
    """A scalar, broadcast to 2^40 elements."""
    return text(
        f"g (float[1] x) => (float[1] y) <float w = {{7}}, {shape_of(1 << 20, 1 << 20)}> {{"
        " k = Expand(w, s) r = ReduceMax <keepdims = 0> (k) y = Add(x, r) }"
    )


@case("either", runs=False)
def pad_bomb() -> onnx.ModelProto:
    """One number, padded to a terabyte."""
    return text(
        "g (float[1] x) => (float[1] y) <float[1] w = {7}, int64[2] p = {0, 274877906944}> {"
        " k = Pad(w, p) r = ReduceMax <keepdims = 0> (k) y = Add(x, r) }"
    )


@case("either", runs=False)
def one_hot_bomb() -> onnx.ModelProto:
    """A depth of 2^40."""
    return text(
        "g (float[1] x) => (float[1] y) <int64[1] i = {3}, int64 d = {1099511627776}, float[2] v = {0,1}> {"
        " k = OneHot(i, d, v) r = ReduceMax <keepdims = 0> (k) y = Add(x, r) }"
    )


@case("either", runs=False)
def resize_bomb() -> onnx.ModelProto:
    """A picture of one pixel, a million times larger on each side."""
    return text(
        "g (float[1] x) => (float[1] y) <float[1,1,1,1] w = {7}, float[4] f = {1, 1, 1000000, 1000000}> {"
        ' k = Resize <mode = "nearest"> (w, , f) r = ReduceMax <keepdims = 0> (k) y = Add(x, r) }'
    )


@case("either", runs=False)
def outer_product_bomb() -> onnx.ModelProto:
    """Two constants of a million numbers broadcast against each other."""
    return text(
        "g (float[1] x) => (float[1] y) <int64[2] p = {1, 4194304}, int64[2] q = {4194304, 1}> {"
        " a = ConstantOfShape(p) b = ConstantOfShape(q) k = Add(a, b)"
        " r = ReduceMax <keepdims = 0> (k) y = Add(x, r) }"
    )


@case("either", runs=False)
def concat_doubling() -> onnx.ModelProto:
    """Forty nodes, each twice as large as the one before."""
    lines = [f"v{k + 1} = Concat <axis = 0> (v{k}, v{k})" for k in range(40)]
    return text(
        "g (float[1] x) => (float[1] y) <float[2] v0 = {1,2}> { "
        + " ".join(lines)
        + " r = ReduceMax <keepdims = 0> (v40) y = Add(x, r) }"
    )


@case("ok")
def constant_of_a_quarter_gigabyte() -> onnx.ModelProto:
    """The runtime can build it for a moment; a file that stores it would be a million times larger."""
    return text(
        f"g (float[8192] x) => (float[8192] y) <{shape_of(8192, 8192)}> {{"
        " k = ConstantOfShape <value = float[1] {0.5}> (s) y = MatMul(k, x) }"
    )


@case("ok")
def identity_matrix_of_thirty_two_megabytes() -> onnx.ModelProto:
    """A foldable matrix that is large for a file and small for a machine."""
    return text(
        f"g (float[4096] x) => (float[2048] y) <{shape_of(2048, 4096)}> {{"
        " z = ConstantOfShape(s) e = EyeLike(z) y = MatMul(e, x) }"
    )


@case("either", runs=False)
def dead_bomb() -> onnx.ModelProto:
    """A terabyte that nothing reads."""
    return text(
        f"g (float[1] x) => (float[1] y) <{shape_of(1 << 20, 1 << 20)}> {{ y = Neg(x) d = ConstantOfShape(s) }}"
    )


@case("ok", feeds={"c": np.array(False)})
def bomb_in_a_branch_not_taken() -> onnx.ModelProto:
    """It is correct as long as nobody evaluates it ahead of time."""
    return text(
        f"g (float[1] x, bool c) => (float[1] y) <{shape_of(1 << 20, 1 << 20)}> {{ y = If (c) <"
        "then_branch = t () => (float[1] a) { k = ConstantOfShape(s) a = ReduceMax(k) }, "
        "else_branch = e () => (float[1] b) { b = Neg(x) }> }"
    )


@case("ok")
def loop_of_2_to_the_62_trips_that_stops_early() -> onnx.ModelProto:
    """The trip count is constant, and the condition ends it after three."""
    return _loop(1 << 62, "lim = Constant <value = int64 {2}> () k = Less(i, lim)")


@case("either", runs=False)
def loop_of_2_to_the_62_trips() -> onnx.ModelProto:
    """An optimizer that ran it at compile time once hung for ever."""
    return _loop(1 << 62, "k = Identity(c)")


@case("ok")
def loop_of_no_trips() -> onnx.ModelProto:
    """The carried value comes out as it went in."""
    return _loop(0, "k = Identity(c)")


@case("ok")
def loop_of_three_trips() -> onnx.ModelProto:
    """A loop that may be unrolled, and must then still give the same."""
    return _loop(3, "k = Identity(c)")


def _loop(trips: int, condition: str) -> onnx.ModelProto:
    return text(
        f"g (float[2] x) => (float[2] y) <int64 n = {{{trips}}}, bool go = {{1}}> {{ y = Loop (n,"
        f" go, x) <body = "
        f"b (int64 i, bool c, float[2] s) => (bool k, float[2] t) {{ {condition} t = Add(s, s) }}> }}"
    )


# --- many nodes ---


@case("ok")
def chain_of_twenty_thousand() -> onnx.ModelProto:
    """A pass that rescans the graph after every change takes hours here."""
    operators = ("Neg", "Abs", "Relu", "Identity")
    nodes = [helper.make_node(operators[k % 4], [f"v{k}"], [f"v{k + 1}"]) for k in range(20_000)]
    return model_of(nodes, [value("v0", [2])], [value("v20000", [2])])


@case("ok")
def fan_out_of_twenty_thousand() -> onnx.ModelProto:
    """One value read by twenty thousand nodes; two optimizers need more than 90 seconds."""
    count = 20_000
    nodes = [helper.make_node("Add", ["x", f"w{k % 50}"], [f"v{k}"]) for k in range(count)]
    nodes.append(helper.make_node("Sum", [f"v{k}" for k in range(count)], ["y"]))
    weights = [tensor(f"w{k}", np.array([k], np.float32)) for k in range(50)]
    return model_of(nodes, [value("x", [1])], [value("y", [1])], weights)


@case("ok")
def diamonds_with_2_to_the_200_paths() -> onnx.ModelProto:
    """Two hundred diamonds in a row: an analysis that follows paths never ends."""
    nodes = []
    for k in range(200):
        nodes.append(helper.make_node("Neg", [f"v{k}"], [f"a{k}"]))
        nodes.append(helper.make_node("Relu", [f"v{k}"], [f"b{k}"]))
        nodes.append(helper.make_node("Max", [f"a{k}", f"b{k}"], [f"v{k + 1}"]))
    return model_of(nodes, [value("v0", [2])], [value("v200", [2])])


@case("ok")
def square_tower_of_shapes() -> onnx.ModelProto:
    """Symbolic dimensions that double in size sixty times must not be expanded into sums."""
    lines = ["d0 = Shape <start = 0, end = 1> (x)"]
    lines += [f"d{k + 1} = Mul(d{k}, d{k})" for k in range(60)]
    return text("g (float[N] x) => (int64[1] d60) { " + " ".join(lines) + " }")


@case("ok")
def fibonacci_of_shapes() -> onnx.ModelProto:
    """Sums of symbolic dimensions, each of the two before: the terms grow like Fibonacci's numbers."""
    lines = ["d0 = Shape <start = 0, end = 1> (x)", "d1 = Shape <start = 1, end = 2> (x)"]
    lines += [f"d{k + 2} = Add(d{k + 1}, d{k})" for k in range(80)]
    return text("g (float[N,M] x) => (int64[1] d81) { " + " ".join(lines) + " }")


@case("ok")
def product_of_many_symbols() -> onnx.ModelProto:
    """(a+1)(b+1)(c+1)...: multiplied out, forty factors have 2^40 terms."""
    names = [f"D{k}" for k in range(40)]
    inputs = [value(f"x{k}", [name]) for k, name in enumerate(names)]
    nodes = [helper.make_node("Shape", [f"x{k}"], [f"s{k}"]) for k in range(40)]
    nodes += [helper.make_node("Add", [f"s{k}", "one"], [f"t{k}"]) for k in range(40)]
    nodes += [helper.make_node("Mul", [f"p{k}" if k else "t0", f"t{k + 1}"], [f"p{k + 1}"]) for k in range(39)]
    feeds = [tensor("one", np.array([1], np.int64))]
    return model_of(nodes, inputs, [value("p39", [1], TensorProto.INT64)], feeds)


# --- depth ---


def _length_prefixed(tag: int, size: int) -> bytes:
    prefix = bytearray([tag])
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix)


def nested_ifs(depth: int) -> bytes:
    """Return a file whose If nodes are nested ``depth`` deep, assembled outwards from the innermost body."""

    def branch(name: str) -> bytes:
        graph = helper.make_graph([helper.make_node("Neg", ["x"], ["o"])], name, [], [value("o", [2])])
        attribute = helper.make_attribute("else_branch", graph).SerializeToString()
        return _length_prefixed(0x2A, len(attribute)) + attribute

    other = branch("e")
    inner = helper.make_node("Relu", ["x"], ["o"]).SerializeToString()
    output = onnx.GraphProto(output=[value("o", [2])], name="t").SerializeToString()
    heads: list[bytes] = []
    tails: list[bytes] = []
    size = len(inner)
    for _ in range(depth):
        # node -> graph.node (1) + the graph's other fields -> attribute.g (6) -> node.attribute (5)
        graph_size = len(_length_prefixed(0x0A, size)) + size + len(output)
        named = b"\x0a\x0bthen_branch\xa0\x01\x05"
        attribute_size = len(named) + len(_length_prefixed(0x32, graph_size)) + graph_size
        node = b"\x0a\x01c\x12\x01o\x22\x02If" + other
        heads.append(
            node
            + _length_prefixed(0x2A, attribute_size)
            + named
            + _length_prefixed(0x32, graph_size)
            + _length_prefixed(0x0A, size)
        )
        tails.append(output)
        size = len(node) + len(_length_prefixed(0x2A, attribute_size)) + attribute_size
    body = b"".join((*reversed(heads), inner, *tails))
    graph = onnx.GraphProto(
        name="g", input=[value("x", [2]), value("c", [], TensorProto.BOOL)], output=[value("o", [2])]
    ).SerializeToString()
    graph = _length_prefixed(0x0A, len(body)) + body + graph
    header = onnx.ModelProto(ir_version=10, opset_import=[helper.make_opsetid("", 20)]).SerializeToString()
    return header + _length_prefixed(0x3A, len(graph)) + graph


@case("ok")
def twenty_nested_ifs() -> bytes:
    """As deep as protobuf itself reads with ease."""
    return nested_ifs(20)


@case("either", runs=False)
def a_thousand_nested_ifs() -> bytes:
    """Deeper than protobuf's own limit, shallower than the interpreter's."""
    return nested_ifs(1000)


@case("either", runs=False)
def ten_thousand_nested_ifs() -> bytes:
    """Recursion would end the process without a word."""
    return nested_ifs(10_000)


# --- functions ---


def _with_functions(body: str, functions: list[str]) -> onnx.ModelProto:
    heads = [f'<domain: "local", opset_import: ["" : 20, "local" : 1]>\n{function}' for function in functions]
    return text(f"g (float[2] x) => (float[2] y) {{ {body} }}\n" + "\n".join(heads), domains='"local" : 1')


@case("error", runs=False)
def function_that_calls_itself() -> onnx.ModelProto:
    """Inlining it never ends."""
    return _with_functions("y = local.f(x)", ["f (a) => (b) { c = Neg(a) b = local.f(c) }"])


@case("error", runs=False)
def functions_that_call_each_other() -> onnx.ModelProto:
    """The same, one step further."""
    return _with_functions("y = local.f(x)", ["f (a) => (b) { b = local.h(a) }", "h (a) => (b) { b = local.f(a) }"])


@case("either", runs=False)
def function_bomb() -> onnx.ModelProto:
    """Forty functions, each calling the next twice: 2^40 nodes when inlined."""
    functions = [f"f{k} (a) => (b) {{ c = local.f{k + 1}(a) b = local.f{k + 1}(c) }}" for k in range(40)]
    return _with_functions("y = local.f0(x)", [*functions, "f40 (a) => (b) { b = Neg(a) }"])


@case("ok")
def function_bomb_that_nothing_calls() -> onnx.ModelProto:
    """Unused functions cost nothing."""
    functions = [f"f{k} (a) => (b) {{ c = local.f{k + 1}(a) b = local.f{k + 1}(c) }}" for k in range(40)]
    return _with_functions("y = Neg(x)", [*functions, "f40 (a) => (b) { b = Neg(a) }"])


@case("ok")
def function_chain_of_fifty() -> onnx.ModelProto:
    """Fifty functions, each calling the next once."""
    functions = [f"f{k} (a) => (b) {{ c = Neg(a) b = local.f{k + 1}(c) }}" for k in range(50)]
    return _with_functions("y = local.f0(x)", [*functions, "f50 (a) => (b) { b = Relu(a) }"])


@case("error")
def function_that_nobody_defines() -> onnx.ModelProto:
    """A body that calls what is not there, in a domain of the model's own."""
    return _with_functions("y = local.f(x)", ["f (a) => (b) { b = Neg(nowhere) }"])


@case("ok")
def function_with_attributes_and_captured_names() -> onnx.ModelProto:
    """A parameter, a default, and inner names that equal the caller's: inlining must keep them apart."""
    function = (
        "f <k, m: int = 3> (x) => (y) { h = Constant <value_int: int = @k> () g = Constant"
        " <value_int: int = @m> ()"
        " s = Add(h, g) t = CastLike(s, x) y = Mul(x, t) }"
    )
    return _with_functions("h = local.f <k = 2> (x) s = local.f <k = 5, m = 1> (h) y = Add(h, s)", [function])


@case("ok")
def function_whose_optional_input_is_missing() -> onnx.ModelProto:
    """An input that the caller leaves out is left out inside as well."""
    return _with_functions(
        "hi = Constant <value = float {0.5}> () y = local.f(x, , hi)",
        ["f (a, lo, hi) => (b) { b = Clip(a, lo, hi) }"],
    )

"""The folding passes: batch normalization, scales and shifts, and padding move into the operators around them.

Random models are held to what ONNX Runtime computes before and after; refusals and exact texts are short models in the
text form, the latter as golden cases (``tests/golden/fold-*.ir``).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator

from compiler.backend.emit import to_proto
from compiler.frontend.lift import lift
from compiler.frontend.load import load_model
from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.graph import Model
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.ir.printer import print_model
from compiler.ir.verify import verify
from compiler.rewrite.transform import Context, Pass
from passes.fold_batch_normalization import FoldBatchNormalization
from passes.fold_pad import FoldPad
from passes.fold_scale import FoldScale
from tests.agreement import same_outputs
from tests.golden_passes import apply
from tests.isolation import Child

NORMALIZE, SCALE, PAD = (FoldBatchNormalization(), FoldScale(), FoldPad())
TYPES = {
    "f16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bf16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
    "f32": (TensorProto.FLOAT, np.dtype(np.float32)),
    "f64": (TensorProto.DOUBLE, np.dtype(np.float64)),
}
NARROW = st.sampled_from(["f32", "f32", "f16"])
"""Element types for which ONNX Runtime has convolutions."""
WIDE = st.sampled_from(["f32", "f64", "f16"])
"""Element types for which it has matrix products."""


class Build:
    """A model that is being written: one input ``x``, random constants, nodes in a chain."""

    def __init__(self, kind: str, seed: int = 0) -> None:
        """Fix the element type of everything, and the seed of the constants."""
        self.code, self.dtype = TYPES[kind]
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> str:
        """Add random numbers of the model's element type and return their name."""
        return self.store(self.random.uniform(low, high, shape).astype(self.dtype), self.code)

    def store(self, array: Any, code: int) -> str:
        """Add a constant and return its name."""
        name = f"c{len(self.constants)}"
        array = np.asarray(array)
        self.constants.append(helper.make_tensor(name, code, array.shape, array.tobytes(), raw=True))
        return name

    def integers(self, numbers: list[int]) -> str:
        """Add a list of int64 and return its name."""
        return self.store(np.array(numbers, np.int64), TensorProto.INT64)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{name}", **attributes))
        return name

    def normalization(self, data: str, channels: int) -> str:
        """Add a batch normalization with random statistics."""
        parts = [self.constant((channels,), *bounds) for bounds in ((-2, 2), (-1, 1), (-1, 1), (0.2, 2))]
        return self.node("BatchNormalization", data, *parts, epsilon=0.01)

    def model(self, result: str, shape: tuple[int, ...]) -> ModelProto:
        """Return the model whose output is a value, with an input of a shape; both have the same rank."""
        self.nodes[-1].output[0] = result
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", self.code, shape)],
            [helper.make_tensor_value_info(result, self.code, [None] * len(shape))],
            self.constants,
        )
        opset = 22 if self.code == TensorProto.BFLOAT16 else 17
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

    def feeds(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return numbers for the input."""
        return {"x": self.random.uniform(-1, 1, shape).astype(self.dtype)}


def lifted(proto: ModelProto) -> Model:
    """Return a protobuf as the passes see it."""
    model = load_model(proto)
    lift(model)
    infer(model.graph)
    verify(model)
    return model


def folded(proto: ModelProto, *passes: Pass) -> tuple[ModelProto, Context]:
    """Run passes on a model, each of which must find nothing to do when it runs again."""
    model, ctx = lifted(proto), Context()
    for step in passes:
        apply(step, model, ctx)
        assert not apply(step, model), print_model(model)
    assert all(v.is_used for g in model.graph.all_graphs() for v in g.constants), "a constant is left behind"
    after = to_proto(model)
    checker.check_model(after)
    return after, ctx


def operators(proto: ModelProto) -> list[str]:
    """Return the operators of a model in order."""
    return [n.op_type for n in proto.graph.node]


def agree(oracle: Child, before: ModelProto, after: ModelProto, feeds: dict[str, Any]) -> None:
    """Assert that ONNX Runtime computes the same with both models."""
    one, other = (oracle.call("tests.hostile_runner:run", m.SerializeToString(), feeds) for m in (before, after))
    same_outputs(one, other)


@st.composite
def windows(draw: st.DrawFn, rank: int, *, transposed: bool = False) -> dict[str, Any]:
    """Draw the attributes of a window over ``rank`` spatial dims; data of 6 elements always has room for it."""

    def ints(low: int, high: int, count: int = rank) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    mode = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    found: dict[str, Any] = {"kernel_shape": ints(1, 3), "strides": ints(1, 2)}
    if mode.startswith("SAME"):  # a stride beyond the kernel would ask for negative pads
        found["strides"] = [min(pair) for pair in zip(found["strides"], found["kernel_shape"], strict=True)]
    if mode == "NOTSET":
        found["pads"] = ints(0, 2, 2 * rank)
    if mode != "NOTSET" or draw(st.booleans()):
        found["auto_pad"] = mode
    if not mode.startswith("SAME") and draw(st.booleans()):
        found["dilations"] = ints(1, 2)
    if transposed and mode == "NOTSET" and draw(st.booleans()):
        found["output_padding"] = [draw(st.integers(0, s - 1)) for s in found["strides"]]
    return found


@st.composite
def convolutions(draw: st.DrawFn, build: Build, op: str = "Conv", data: str = "x") -> tuple[str, tuple[int, ...], int]:
    """Add a convolution; return its result, the shape of its data, and the number of its output channels."""
    rank, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    attributes = draw(windows(rank, transposed=op == "ConvTranspose"))
    first, second = (inputs * group, outputs) if op == "ConvTranspose" else (outputs * group, inputs)
    operands = [data, build.constant((first, second, *attributes["kernel_shape"]))]
    if draw(st.booleans()):
        operands.append(build.constant((outputs * group,)))
    shape = (draw(st.integers(1, 2)), inputs * group, *(6,) * rank)
    return build.node(op, *operands, group=group, **attributes), shape, outputs * group


@st.composite
def products(draw: st.DrawFn, build: Build, op: str) -> tuple[str, tuple[int, ...], int]:
    """Add a matrix product of rank 2; return its result, the shape of its data, and its number of columns."""
    rows, inner, columns = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if op == "MatMul":
        return build.node(op, "x", build.constant((inner, columns))), (rows, inner), columns
    swap_left, swap_right = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    operands = ["x", build.constant((columns, inner) if swap_right else (inner, columns))]
    bias = draw(st.sampled_from([None, (), (1,), (columns,), (1, columns)]))
    if bias is not None:
        operands.append(build.constant(bias))
    scalars = st.sampled_from([1.0, 0.5, -2.0])
    attributes = {"transA": swap_left, "transB": swap_right, "alpha": draw(scalars), "beta": draw(scalars)}
    shape = (inner, rows) if swap_left else (rows, inner)
    return build.node(op, *operands, **attributes), shape, columns


@st.composite
def steps(draw: st.DrawFn, build: Build, data: str, channels: int, inner: int, ops: list[str]) -> str:
    """Add operations with a constant per channel, or with one number, on either side."""
    for op in ops:
        full = (channels,) + (1,) * inner
        shape = draw(st.sampled_from([(), (1,), full, (1, *full), (1,) * inner]))
        constant = build.constant(shape, 0.5, 2.0)
        swapped = op != "Div" and draw(st.booleans())
        data = build.node(op, *((constant, data) if swapped else (data, constant)))
    return data


SEEDS = st.integers(0, 1000)
ARITHMETIC = st.lists(st.sampled_from(["Mul", "Div", "Add", "Sub"]), min_size=1, max_size=3)


# Batch normalization -----------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
@given(data=st.data(), seed=SEEDS)
def test_normalization_after(oracle: Child, op: str, data: st.DataObject, seed: int) -> None:
    """Batch normalization after a linear operator, constants in between included, is that operator."""
    is_product = op in ("Gemm", "MatMul")
    build = Build(data.draw(WIDE if is_product else NARROW), seed)
    drawn = products(build, op) if is_product else convolutions(build, op)
    value, shape, channels = data.draw(drawn)
    between = data.draw(st.sampled_from([[], [], ["Add"], ["Mul", "Add"]]))
    value = data.draw(steps(build, value, channels, 0 if is_product else len(shape) - 2, between))
    before = build.model(build.normalization(value, channels), shape)
    after, ctx = folded(before, NORMALIZE)
    assert ctx.rewrites == {f"{op}BatchNormalization": 1}, ctx.refusals
    assert operators(after) == (["MatMul", "Add"] if op == "MatMul" else [op])
    agree(oracle, before, after, build.feeds(shape))


@given(data=st.data(), seed=SEEDS)
def test_normalization_before(oracle: Child, data: st.DataObject, seed: int) -> None:
    """Batch normalization before a convolution is the convolution, exactly when it does not pad."""
    build = Build(data.draw(NARROW), seed)
    build.nodes.append(None)
    _, shape, _ = data.draw(convolutions(build, data="bn"))
    build.nodes[0] = helper.make_node("Identity", ["x"], ["x0"])
    normalized = build.normalization("x0", shape[1])
    build.nodes[-1].output[0] = "bn"
    build.nodes.insert(1, build.nodes.pop())
    conv = build.nodes[-1]
    assert normalized and conv.op_type == "Conv"
    before = build.model("y", shape)
    after, ctx = folded(before, NORMALIZE)
    attributes = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode == b"VALID" or (mode == b"NOTSET" and not any(attributes["pads"])):
        assert ctx.rewrites == {"BatchNormalizationConv": 1}
    else:
        assert ctx.refusals == {"the convolution after the normalization pads with zeros": 1}
    agree(oracle, before, after, build.feeds(shape))


@pytest.mark.parametrize("kind", ["f64", "bf16"])
def test_normalization_types(kind: str) -> None:
    """The fold works in every floating-point type of weights, also those without kernels in ONNX Runtime."""
    build = Build(kind)
    conv = build.node("Conv", "x", build.constant((4, 2, 3, 3)), build.constant((4,)), group=2, pads=[1, 0, 2, 1])
    before = build.model(build.normalization(conv, 4), (1, 4, 6, 6))
    after, ctx = folded(before, NORMALIZE)
    assert ctx.rewrites == {"ConvBatchNormalization": 1}
    assert {c.data_type for c in after.graph.initializer} == {build.code}
    inputs = build.feeds((1, 4, 6, 6))
    found: list[Any] = [ReferenceEvaluator(m).run(None, inputs) for m in (before, after)]
    one, other = (np.asarray(results[0], np.float64) for results in found)
    np.testing.assert_allclose(other, one, atol=1e-12 if kind == "f64" else 0.1)


def test_single_rounding() -> None:
    """Folded numbers are the exact ones, rounded once."""
    build = Build("f32", 3)
    conv = build.node("Conv", "x", build.constant((3, 2, 1, 1)), build.constant((3,)))
    before = build.model(build.normalization(conv, 3), (1, 2, 4, 4))
    weight, bias, scale, shift, mean, variance = (
        np.frombuffer(c.raw_data, np.float32).astype(np.float64).reshape(c.dims) for c in build.constants
    )
    factor = scale / np.sqrt(variance + float(np.float32(0.01)))
    after, _ = folded(before, NORMALIZE)
    found = [np.frombuffer(c.raw_data, np.float32).reshape(c.dims) for c in after.graph.initializer]
    np.testing.assert_array_equal(found[0], (weight * factor[:, None, None, None]).astype(np.float32))
    np.testing.assert_array_equal(found[1], (bias * factor + (shift - mean * factor)).astype(np.float32))


# Scales and shifts -------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
@given(data=st.data(), seed=SEEDS, arithmetic=ARITHMETIC)
def test_scale(oracle: Child, op: str, data: st.DataObject, seed: int, arithmetic: list[str]) -> None:
    """A chain of operations with constants per channel is part of the linear operator before it."""
    is_product = op in ("Gemm", "MatMul")
    build = Build(data.draw(WIDE if is_product else NARROW), seed)
    drawn = products(build, op) if is_product else convolutions(build, op)
    value, shape, channels = data.draw(drawn)
    value = data.draw(steps(build, value, channels, 0 if is_product else len(shape) - 2, arithmetic))
    before = build.model(value, shape)
    after, ctx = folded(before, SCALE)
    assert not ctx.refusals
    if op != "MatMul":
        assert operators(after) == [op] and sum(ctx.rewrites.values()) == 1
    elif not {"Add", "Sub"} & set(arithmetic):
        assert operators(after) == ["MatMul"]
    else:
        assert operators(after) in (["MatMul", "Add"], ["MatMul", arithmetic[0]], ["MatMul"])
    agree(oracle, before, after, build.feeds(shape))


@given(data=st.data(), seed=SEEDS, rank=st.integers(1, 4))
def test_scale_of_batched_product(oracle: Child, data: st.DataObject, seed: int, rank: int) -> None:
    """A product with a constant matrix takes a factor per column, whatever the rank of its left operand."""
    build = Build(data.draw(WIDE), seed)
    shape = (2, 3, 2, 4)[-rank:]
    product = build.node("MatMul", "x", build.constant((4, 3)))
    factor = build.constant(data.draw(st.sampled_from([(), (1,), (3,), (1,) * (rank - 1) + (3,)])))
    before = build.model(build.node("Mul", factor, product), shape)
    after, ctx = folded(before, SCALE)
    assert ctx.rewrites == {"MatMulScale": 1} and operators(after) == ["MatMul"]
    agree(oracle, before, after, build.feeds(shape))


# Padding -----------------------------------------------------------------------------------------


@st.composite
def paddings(draw: st.DrawFn, build: Build, rank: int, fill: float) -> str:
    """Add a ``Pad`` of spatial dims, that names its axes or does not."""
    amounts = st.lists(st.integers(0, 2), min_size=rank, max_size=rank)
    before, after = draw(amounts), draw(amounts)
    value = build.store(np.array(fill, build.dtype), build.code) if fill or draw(st.booleans()) else ""
    if not draw(st.booleans()):
        return build.node("Pad", "x", build.integers([0, 0, *before, 0, 0, *after]), value)
    axes = draw(st.permutations(range(rank)))
    named = [a + 2 if draw(st.booleans()) else a - rank for a in axes]
    pads = [before[a] for a in axes] + [after[a] for a in axes]
    return build.node("Pad", "x", build.integers(pads), value, build.integers(named))


def with_axes(proto: ModelProto) -> ModelProto:
    """Raise the opset to one in which ``Pad`` has axes."""
    proto.opset_import[0].version = 18
    return proto


@given(data=st.data(), seed=SEEDS)
def test_pad_before_convolution(oracle: Child, data: st.DataObject, seed: int) -> None:
    """Zeros around the data are pads of the convolution, unless its own depend on the size of the data."""
    build = Build(data.draw(NARROW), seed)
    rank = data.draw(st.integers(1, 3))
    padded = data.draw(paddings(build, rank, 0.0))
    attributes = data.draw(windows(rank))
    weight = build.constant((4, 1, *attributes["kernel_shape"]))
    shape = (1, 2, *(6,) * rank)
    before = with_axes(build.model(build.node("Conv", padded, weight, group=2, **attributes), shape))
    after, ctx = folded(before, PAD)
    if attributes.get("auto_pad", "").startswith("SAME"):
        assert ctx.refusals == {"the padding depends on the size of the data": 1}
    else:
        assert ctx.rewrites == {"PadConv": 1} and operators(after) == ["Conv"]
    agree(oracle, before, after, build.feeds(shape))


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@given(data=st.data(), seed=SEEDS)
def test_pad_before_pool(oracle: Child, op: str, data: st.DataObject, seed: int) -> None:
    """Padding before a pool is folded only when every window keeps its elements and its divisor."""
    build = Build("f32", seed)
    rank = data.draw(st.integers(1, 3))
    padded = data.draw(paddings(build, rank, 0.0 if op == "AveragePool" else -np.inf))
    attributes = data.draw(windows(rank))
    attributes.pop("dilations", None)
    if "pads" in attributes:
        own = data.draw(st.booleans())
        attributes["pads"] = [
            min(p, k - 1) * own for p, k in zip(attributes["pads"], attributes["kernel_shape"] * 2, strict=True)
        ]
    attributes["ceil_mode"] = data.draw(st.sampled_from([0, 0, 0, 1]))
    if op == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    shape = (1, 2, *(6,) * rank)
    before = with_axes(build.model(build.node(op, padded, **attributes), shape))
    after, ctx = folded(before, PAD)
    assert len(ctx.rewrites) + len(ctx.refusals) == 1
    agree(oracle, before, after, build.feeds(shape))


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("own", [[0, 0], [1, 0]])
def test_average_divides_by_what_it_did(oracle: Child, counted: int, own: list[int]) -> None:
    """Padding goes into an average that counts pads, or has none; the others would divide by other numbers."""
    build = Build("f32")
    padded = build.node("Pad", "x", build.integers([0, 0, 1, 0, 0, 1]))
    pool = build.node("AveragePool", padded, kernel_shape=[3], pads=own, count_include_pad=counted)
    before = build.model(pool, (1, 2, 5))
    after, ctx = folded(before, PAD)
    expected = not any(own) or bool(counted)
    assert (ctx.rewrites == {"PadAveragePool": 1}) is expected, ctx.refusals
    agree(oracle, before, after, build.feeds((1, 2, 5)))


# Refusals ----------------------------------------------------------------------------------------

STATISTICS = """
  const %s: f32[2] = [1.0, 2.0]
  const %b: f32[2] = [0.5, 1.0]
  const %m: f32[2] = [0.25, -1.0]
  const %v: f32[2] = [1.0, 0.5]
  const %w: f32[2,1,2] = [1.0, 2.0, 3.0, 4.0]
"""
CONV = "%c: f32[1,2,4] = Conv(%x, %w)"

UNTOUCHED = {
    "shared weight": (
        NORMALIZE,
        STATISTICS,
        f"{CONV}\n%d = BatchNormalization(%c, %s, %b, %m, %v)\n%e = Conv(%x, %w)\n%y = Add(%d, %e)",
        "the weight is shared: folding would store it twice",
    ),
    "read by others": (
        NORMALIZE,
        STATISTICS,
        f"{CONV}\n%d = BatchNormalization(%c, %s, %b, %m, %v)\n%y = Add(%d, %c)",
        "the input of the normalization is read by others",
    ),
    "negative variance": (
        NORMALIZE,
        STATISTICS.replace("[1.0, 0.5]", "[1.0, -0.5]"),
        f"{CONV}\n%y = BatchNormalization(%c, %s, %b, %m, %v)",
        "the variance plus epsilon is not positive",
    ),
    "zero variance without epsilon": (
        NORMALIZE,
        STATISTICS.replace("[1.0, 0.5]", "[1.0, 0.0]"),
        f"{CONV}\n%y = BatchNormalization(%c, %s, %b, %m, %v) {{epsilon = 0.0}}",
        "the variance plus epsilon is not positive",
    ),
    "infinite statistics": (
        NORMALIZE,
        STATISTICS.replace("[1.0, 0.5]", "[1.0, inf]"),
        f"{CONV}\n%y = BatchNormalization(%c, %s, %b, %m, %v)",
        "the statistics are not finite",
    ),
    "computed statistics": (
        NORMALIZE,
        STATISTICS,
        f"{CONV}\n%t = ReduceSum(%c) {{keepdims = 0}}\n%u = Add(%s, %t)\n"
        "%k = Conv(%x, %w2)\n%y = BatchNormalization(%k, %u, %b, %m, %v)",
        "the statistics are no constants",
    ),
    "overflow": (
        NORMALIZE,
        STATISTICS.replace("[1.0, 2.0]\n", "[1e38, 2.0]\n", 1).replace("3.0, 4.0", "3.0, 3e38"),
        f"{CONV}\n%y = BatchNormalization(%c, %s, %b, %m, %v)",
        "the folded weight or bias would not be finite",
    ),
    "training mode": (
        NORMALIZE,
        STATISTICS,
        f"{CONV}\n%y, %_1, %_2 = BatchNormalization(%c, %s, %b, %m, %v) {{training_mode = 1}}",
        "",
    ),
    "infinite factor": (SCALE, STATISTICS + "const %k: f32[] = inf\n", f"{CONV}\n%y = Mul(%c, %k)", "not finite"),
    "division by zero": (
        SCALE,
        STATISTICS + "const %k: f32[2,1] = [1.0, 0.0]\n",
        f"{CONV}\n%y = Div(%c, %k)",
        "the divisor has a zero",
    ),
    "constant divided": (SCALE, STATISTICS + "const %k: f32[] = 2.0\n", f"{CONV}\n%y = Div(%k, %c)", ""),
    "factor for each element": (
        SCALE,
        STATISTICS + "const %k: f32[4] = [1.0, 2.0, 3.0, 4.0]\n",
        f"{CONV}\n%y = Mul(%c, %k)",
        "",
    ),
    "factor that enlarges": (
        SCALE,
        STATISTICS + "const %k: f32[1,1,1,1] = 2.0\n",
        f"{CONV}\n%y = Mul(%c, %k)",
        "",
    ),
    "shared weight and factor": (
        SCALE,
        STATISTICS + "const %k: f32[] = 2.0\n",
        f"{CONV}\n%d = Mul(%c, %k)\n%e = Conv(%x, %w)\n%y = Sub(%d, %e)",
        "the weight is shared: folding would store it twice",
    ),
    "computed bias": (
        SCALE,
        STATISTICS + "const %k: f32[] = 2.0\n",
        "%t = ReduceMax(%x) {keepdims = 0}\n%u = Add(%s, %t)\n%c = Conv(%x, %w, %u)\n%y = Mul(%c, %k)",
        "the bias is no constant",
    ),
    "returned by a branch": (
        SCALE,
        STATISTICS + "const %k: f32[] = 2.0\n",
        f"{CONV}\n%d = Mul(%c, %k)\n%q = ReduceMax(%x) {{keepdims = 0}}\n%p = Cast(%q) {{to = 9}}\n"
        "%y = If(%p) {else_branch = graph @no() -> (%d) { return %d }, "
        "then_branch = graph @yes() -> (%t) { %t = Neg(%d)\n return %t }}",
        "a nested graph returns the result",
    ),
    "product and bias": (
        SCALE,
        "const %w: f32[5,2] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]\nconst %k: f32[2] = [1.0, 2.0]\n",
        "%c = MatMul(%x, %w)\n%y = Add(%c, %k)",
        "",
    ),
    "padding of channels": (
        PAD,
        STATISTICS.replace("f32[2,1,2] = [1.0, 2.0, 3.0, 4.0]", "f32[1,2,2] = [1.0, 2.0, 3.0, 4.0]")
        + "const %p: i64[6] = [0, 1, 0, 0, 0, 0]\n",
        "%c = Pad(%x, %p)\n%y = Conv(%c, %w)",
        "the padding is not only along spatial dims",
    ),
    "cropping": (
        PAD,
        STATISTICS + "const %p: i64[6] = [0, 0, 1, 0, 0, -1]\n",
        "%c = Pad(%x, %p)\n%y = Conv(%c, %w)",
        "the padding crops",
    ),
    "other filling": (
        PAD,
        STATISTICS + "const %p: i64[6] = [0, 0, 1, 0, 0, 1]\nconst %k: f32[] = 1.0\n",
        "%c = Pad(%x, %p, %k)\n%y = Conv(%c, %w)",
        "the padding is filled with another number",
    ),
    "reflection": (
        PAD,
        STATISTICS + "const %p: i64[6] = [0, 0, 1, 0, 0, 1]\n",
        '%c = Pad(%x, %p) {mode = "reflect"}\n%y = Conv(%c, %w)',
        "",
    ),
    "transposed": (
        PAD,
        STATISTICS + "const %p: i64[6] = [0, 0, 1, 0, 0, 1]\n",
        "%c = Pad(%x, %p)\n%y = ConvTranspose(%c, %w2)",
        "",
    ),
    "padding read twice": (
        PAD,
        STATISTICS + "const %p: i64[6] = [0, 0, 1, 0, 0, 1]\n",
        "%c = Pad(%x, %p)\n%d = Conv(%c, %w)\n%e = Conv(%c, %w)\n%y = Mul(%d, %e)",
        "",
    ),
    "zeros before a maximum": (
        PAD,
        "const %p: i64[6] = [0, 0, 1, 0, 0, 1]\n",
        "%c = Pad(%x, %p)\n%y = MaxPool(%c) {kernel_shape = [2]}",
        "the padding is filled with another number",
    ),
    "indices wanted": (
        PAD,
        "const %p: i64[6] = [0, 0, 1, 0, 0, 1]\nconst %k: f32[] = -inf\n",
        "%c = Pad(%x, %p, %k)\n%d, %i = MaxPool(%c) {kernel_shape = [2]}\n%f = Cast(%i) {to = 1}\n%y = Add(%d, %f)",
        "the indices of the pool are wanted",
    ),
    "rounding up": (
        PAD,
        "const %p: i64[6] = [0, 0, 0, 0, 0, 2]\nconst %k: f32[] = -inf\n",
        "%c = Pad(%x, %p, %k)\n%y = MaxPool(%c) {kernel_shape = [3], strides = [6], ceil_mode = 1}",
        "the pool rounds its size up",
    ),
    "dilated window": (
        PAD,
        "const %p: i64[6] = [0, 0, 1, 0, 0, 1]\nconst %k: f32[] = -inf\n",
        "%c = Pad(%x, %p, %k)\n%y = MaxPool(%c) {kernel_shape = [2], dilations = [2]}",
        "the pool has dilations",
    ),
    "padding as wide as the window": (
        PAD,
        "const %p: i64[6] = [0, 0, 2, 0, 0, 0]\n",
        "%c = Pad(%x, %p)\n%y = AveragePool(%c) {kernel_shape = [2]}",
        "the padding is not smaller than the window",
    ),
}


def text_model(constants: str, body: str) -> Model:
    """Return a model with input ``x`` of shape ``[1,1,5]`` and output ``y``."""
    extra = "const %w2: f32[1,2,2] = [1.0, 2.0, 3.0, 4.0]\n" if "%w2" in body else ""
    extra = extra.replace("[1,2,2]", "[2,1,2]") if "Conv(%x, %w2)" in body else extra
    text = f"// ampc 1, opset 18\ngraph @g(%x: f32[1,1,5]) -> (%y) {{\n{constants}{extra}{body}\nreturn %y\n}}\n"
    model = parse_model(text)
    for value in [v for v in model.graph.constants if not v.is_used]:
        edit.erase_constant(value)
    return model


@pytest.mark.parametrize("case", UNTOUCHED)
def test_refusal(case: str) -> None:
    """What a theorem does not cover stays as it is, and a near miss says why."""
    step, constants, body, reason = UNTOUCHED[case]
    model, ctx = text_model(constants, body), Context()
    before = print_model(model)
    assert not apply(step, model, ctx), print_model(model)
    infer((untouched := text_model(constants, body)).graph)
    assert print_model(model) == print_model(untouched), before
    assert [reason in r for r in ctx.refusals] == [True] * bool(reason), ctx.refusals


@pytest.mark.parametrize(("factor", "reason"), [(1e6, "finite"), (1e-6, "precision"), (0.25, "")])
def test_half_precision(factor: float, reason: str) -> None:
    """In f16 a factor is folded only when the weights neither overflow nor sink below the normal numbers."""
    build = Build("f16")
    conv = build.node("Conv", "x", build.constant((2, 1, 2), 0.5, 1.0))
    normalized = build.node(
        "BatchNormalization",
        conv,
        build.store(np.full(2, factor, np.float32), TensorProto.FLOAT),
        *(build.store(np.full(2, n, np.float32), TensorProto.FLOAT) for n in (0.0, 0.0, 1.0)),
    )
    _, ctx = folded(build.model(normalized, (1, 1, 5)), NORMALIZE)
    assert bool(ctx.rewrites) is not bool(reason)
    assert all(reason in r for r in ctx.refusals) and len(ctx.refusals) == bool(reason)


def test_dead_channel() -> None:
    """A channel whose factor is zero does not keep the others from being folded, in any type."""
    build = Build("f16")
    conv = build.node("Conv", "x", build.constant((2, 1, 2), 0.5, 1.0))
    factor = build.store(np.array([[0.0], [1.0]], np.float16), build.code)
    _, ctx = folded(build.model(build.node("Mul", conv, factor), (1, 1, 5)), SCALE)
    assert ctx.rewrites == {"ConvScale": 1}


def test_weight_is_read_once() -> None:
    """A shift alone leaves even a shared weight as it is: the very same contents, in no second copy."""
    model = text_model(
        STATISTICS + "const %k: f32[] = 2.0\n", f"{CONV}\n%d = Add(%c, %k)\n%e = Conv(%x, %w)\n%y = Mul(%d, %e)"
    )
    weight = next(v.constant for v in model.graph.constants if v.name == "w")
    assert apply(SCALE, model)
    kept = [v.constant for v in model.graph.constants if v.constant is not None and len(v.constant.shape) == 3]
    assert len(kept) == 1 and kept[0] is weight


def test_rollback() -> None:
    """Playing the journal of a fold backwards gives back the model, weights included."""
    model = text_model(STATISTICS, f"{CONV}\n%y = BatchNormalization(%c, %s, %b, %m, %v)")
    before = print_model(model)
    edit.begin(model)
    assert NORMALIZE.run(model.graph, Context())
    edit.rollback(model)
    verify(model)
    assert sorted(print_model(model).splitlines()) == sorted(before.splitlines())


def test_long_chain() -> None:
    """A chain of any length is one fold: the work grows with the number of nodes."""
    build = Build("f64")
    value = build.node("Gemm", "x", build.constant((3, 2)))
    one = build.constant((), 0.9, 1.1)
    for k in range(3000):
        value = build.node("Mul" if k % 2 else "Add", value, one)
    after, ctx = folded(build.model(value, (1, 3)), SCALE)
    assert operators(after) == ["Gemm"] and ctx.rewrites == {"GemmScale": 1}


def test_lazy_contents() -> None:
    """Only the weight that is folded is read: those of other operators stay in their file."""
    model = text_model(STATISTICS, f"{CONV}\n%d = BatchNormalization(%c, %s, %b, %m, %v)\n%y = Conv(%d, %w2)")
    unread = next(v for v in model.graph.constants if v.name == "w2")
    assert unread.constant is not None

    def forbidden() -> Any:
        raise AssertionError("an unrelated weight was read")

    unread.constant = Constant(unread.constant.dtype, unread.constant.shape, source=forbidden)
    assert apply(NORMALIZE, model)

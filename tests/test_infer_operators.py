"""Laws of ``compiler.ir.infer``, operator by operator: what is claimed of a value is true, and nothing is raised."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.frontend.load import load_model
from compiler.ir import edit
from compiler.ir.constant import Array, Constant
from compiler.ir.dims import Dim, Expr, symbol
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Model, Value
from compiler.ir.infer import infer
from compiler.ir.infer_rules import RULES
from compiler.ir.types import UNKNOWN, SequenceType, TensorType, Type, UnrankedType
from tests.containment import misfit
from tests.one_node import NoKernel, run
from tests.test_evaluate import CASES

N, M = symbol("N"), symbol("M")


# The ONNX backend cases --------------------------------------------------------------------------


@functools.cache
def backend_cases() -> list[Any]:
    """Return the single-operator cases of the ONNX backend suite."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


def with_symbols(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a symbol of its own for each dim of each input."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for entry in changed.graph.input:
        for i, dim in enumerate(entry.type.tensor_type.shape.dim):
            dim.Clear()
            dim.dim_param = f"{entry.name}_{i}"
    return changed


def with_constants(model: onnx.ModelProto, inputs: Sequence[Any]) -> onnx.ModelProto:
    """Return the model with its tensor inputs made initializers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    kept = []
    for entry, value in zip(model.graph.input, inputs, strict=False):
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            changed.graph.initializer.append(onnx.numpy_helper.from_array(value, entry.name))
        else:
            kept.append(entry)
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    return changed


def check_outputs(model: onnx.ModelProto, inputs: Sequence[Any], expected: Sequence[Any]) -> list[str]:
    """Infer a model and return what is not true of the expected outputs."""
    graph = load_model(model).graph
    infer(graph)
    binding: dict[str, Dim] = {}
    for value, given_ in zip(graph.inputs, inputs, strict=False):
        for dim, size in zip(value.shape or (), getattr(given_, "shape", ()), strict=False):
            if isinstance(dim, Expr):
                binding[dim.text.strip('"')] = size
    misfits = [misfit(v.type, e, binding) for v, e in zip(graph.outputs, expected, strict=True)]
    return [m for m in misfits if m]


@pytest.mark.parametrize("variant", ["as they are", "with symbols", "with constants"])
def test_backend_cases_have_the_inferred_types(variant: str) -> None:
    """The outputs of every case of the ONNX backend suite are of the inferred types, with dims known or not."""
    wrong: dict[str, list[str]] = {}
    checked = 0
    for case in backend_cases():
        inputs, expected = case.data_sets[0]
        model = case.model
        if variant == "with symbols":
            model = with_symbols(model)
        elif variant == "with constants":
            model = with_constants(model, inputs)
        try:
            found = check_outputs(model, [] if variant == "with constants" else inputs, expected)
        except Exception as error:
            assert type(error).__module__ == "compiler.errors", case.name  # not a model for ampc
            continue
        checked += 1
        if found:
            wrong[case.name] = found
    assert wrong == {}
    assert checked > 1500


# Random nodes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", CASES)
def test_random_nodes_have_the_inferred_types(op: str) -> None:
    """What ONNX Runtime computes is of the inferred type, and has the inferred contents."""

    @settings(max_examples=40, deadline=None, database=None, derandomize=True)
    @given(st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        random = np.random.default_rng(seed)
        arrays, attributes, outputs = CASES[op](random)
        try:
            expected = run(op, arrays, attributes, outputs=outputs)
        except NoKernel:
            return
        if expected is None:
            return
        model, binding = one_node(op, arrays, attributes, outputs, random)
        infer(model.graph)
        for value, array in zip(model.graph.outputs, expected, strict=True):
            what = f"{op} {[v and v.type for v in next(model.graph.nodes()).inputs]} {attributes}"
            assert misfit(value.type, array, binding) == "", what
            if value.contents is not None and all(isinstance(c, int) for c in value.contents):
                assert list(value.contents) == array.reshape(-1).tolist(), what

    check()


def one_node(
    op: str, arrays: Sequence[Array | None], attributes: Any, outputs: int, random: np.random.Generator
) -> tuple[Model, dict[str, Dim]]:
    """Return a model of one node whose operands are constants, or inputs with static or symbolic dims."""
    from tests.one_node import ir_node

    model, binding = Model(opsets={"": 21}), {}
    graph = model.graph = Graph("g", model)
    node = ir_node(op, arrays, attributes, outputs=outputs)
    for i, value in enumerate(node.inputs):
        if value is None:
            continue
        if random.random() < 0.5:
            edit.attach_constant(graph, value, value.constant)  # type: ignore[arg-type]  # it is one
            continue
        assert isinstance(value.type, TensorType)
        value.constant = None
        dims: list[Dim] = []
        for k, d in enumerate(value.type.shape):
            name = f"d{i}_{k}"
            binding[name] = d
            dims.append(symbol(name) if random.random() < 0.5 else d)
        value.type = TensorType(value.type.dtype, tuple(dims))
        edit.add_input(graph, value)
    edit.attach(graph, node)
    for out in node.outputs:
        edit.add_output(graph, out)
    return model, binding


def f32(*dims: int) -> Array:
    """Return a tensor of small floats."""
    return (np.arange(np.prod(dims, dtype=int)).reshape(dims) % 7 / 7).astype(np.float32)


def u8(*dims: int) -> Array:
    """Return a tensor of bytes."""
    return (np.arange(np.prod(dims, dtype=int)).reshape(dims) % 7).astype(np.uint8)


def i32(*items: int) -> Array:
    """Return a vector of 32-bit integers."""
    return np.array(items, np.int32)


SCALE: Array = np.array(0.5, np.float32)
ZERO: Array = np.array(3, np.uint8)
QUANT: list[Array] = [SCALE, ZERO]
HEADS = {"num_heads": 2}
MICROSOFT_CASES: list[tuple[str, list[Array | None], dict[str, Any], int]] = [
    ("Gelu", [f32(2, 8)], {}, 1),
    ("QuickGelu", [f32(2, 8)], {}, 1),
    ("BiasGelu", [f32(2, 8), f32(8)], {}, 1),
    ("FastGelu", [f32(2, 8), f32(8)], {}, 1),
    ("FusedMatMul", [f32(2, 3, 4), f32(2, 5, 4)], {"transB": 1}, 1),
    ("FusedMatMul", [f32(4, 3), f32(4, 5)], {"transA": 1, "alpha": 0.5}, 1),
    ("FusedMatMul", [f32(2, 3, 5, 4), f32(2, 3, 4, 6)], {}, 1),
    ("FusedMatMul", [f32(5, 2, 4), f32(2, 4, 6)], {"transBatchA": 1}, 1),
    ("FusedGemm", [f32(2, 4), f32(4, 3), f32(3)], {"activation": "Relu"}, 1),
    ("FusedConv", [f32(1, 2, 7, 7), f32(3, 2, 3, 3)], {"activation": "Relu", "strides": [2, 2]}, 1),
    ("SkipLayerNormalization", [f32(2, 3, 8), f32(2, 3, 8), f32(8), f32(8), f32(8)], {}, 4),
    ("SkipSimplifiedLayerNormalization", [f32(2, 3, 8), f32(2, 3, 8), f32(8)], {}, 4),
    ("MultiHeadAttention", [f32(2, 3, 8), f32(2, 5, 8), f32(2, 5, 8)], HEADS, 1),
    ("MultiHeadAttention", [f32(2, 3, 8), f32(2, 5, 8), f32(2, 5, 4)], HEADS, 1),
    ("Attention", [f32(2, 3, 6), f32(6, 24), f32(24)], HEADS, 1),
    ("Attention", [f32(2, 3, 6), f32(6, 20), f32(20)], {**HEADS, "qkv_hidden_sizes": [8, 8, 4]}, 1),
    (
        "GroupQueryAttention",
        [f32(2, 1, 32), f32(2, 1, 16), f32(2, 1, 16), f32(2, 2, 4, 8), f32(2, 2, 4, 8), i32(4, 4), i32(5).reshape(())],
        {"num_heads": 4, "kv_num_heads": 2},
        3,
    ),
    ("EmbedLayerNormalization", [i32(1, 2).reshape(1, 2), None, f32(9, 8), f32(5, 8), None, f32(8), f32(8)], {}, 2),
    ("RotaryEmbedding", [f32(1, 3, 8), np.zeros((1, 3), np.int64), f32(9, 2), f32(9, 2)], HEADS, 1),
    ("MatMulNBits", [f32(2, 3, 32), u8(5, 1, 16), f32(5)], {"K": 32, "N": 5, "bits": 4, "block_size": 32}, 1),
    ("DynamicQuantizeMatMul", [f32(2, 3, 4), u8(4, 5), f32(1)], {}, 1),
    ("MatMulIntegerToFloat", [u8(2, 4), u8(4, 5), f32(1), f32(1)], {}, 1),
    ("QLinearAdd", [u8(2, 1, 4), *QUANT, u8(3, 4), *QUANT, *QUANT], {}, 1),
    ("QLinearMul", [u8(2, 1, 4), *QUANT, u8(3, 4), *QUANT, *QUANT], {}, 1),
    ("QLinearSigmoid", [u8(2, 4), *QUANT, *QUANT], {}, 1),
    ("QLinearConcat", [*QUANT, u8(2, 4), *QUANT, u8(3, 4), *QUANT], {"axis": 0}, 1),
    ("QLinearAveragePool", [u8(1, 2, 6, 6), *QUANT, *QUANT], {"kernel_shape": [2, 3]}, 1),
    ("QLinearAveragePool", [u8(1, 6, 6, 2), *QUANT, *QUANT], {"kernel_shape": [2, 3], "channels_last": 1}, 1),
    ("QLinearGlobalAveragePool", [u8(1, 6, 6, 2), *QUANT, *QUANT], {"channels_last": 1}, 1),
    ("NhwcMaxPool", [u8(1, 6, 6, 2)], {"kernel_shape": [2, 2], "strides": [2, 2]}, 1),
    ("QuantizeLinear", [f32(2, 4), *QUANT], {}, 1),
    ("DequantizeLinear", [u8(2, 4), *QUANT], {}, 1),
    ("QGemm", [u8(2, 4), *QUANT, u8(4, 5), *QUANT, None, *QUANT], {}, 1),
    ("QGemm", [u8(2, 4), *QUANT, u8(4, 5), *QUANT], {}, 1),
    ("Inverse", [np.eye(3, dtype=np.float32)[None]], {}, 1),
    ("Trilu", [f32(3, 3)], {}, 1),
    ("ExpandDims", [f32(3, 3), i32(-1).reshape(())], {}, 1),
    ("Pad", [f32(3, 3), np.array([1, 0, 0, 2])], {}, 1),
    ("Range", [np.array(1), np.array(9), np.array(3)], {}, 1),
    ("QLinearSoftmax", [u8(2, 4), *QUANT, *QUANT], {"opset": 13, "axis": -1}, 1),
    ("QLinearLeakyRelu", [u8(2, 4), *QUANT, *QUANT], {}, 1),
]


@pytest.mark.parametrize("case", MICROSOFT_CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(MICROSOFT_CASES)])
def test_runtime_operators_have_the_inferred_types(case: tuple[str, list[Array | None], dict[str, Any], int]) -> None:
    """The operators that ONNX Runtime adds give tensors of the inferred types, whose rank is known."""
    op, arrays, attributes, outputs = case
    expected = run(op, arrays, attributes, outputs=outputs, domain="com.microsoft", static=True)
    assert expected is not None
    for seed in range(4):
        model, binding = one_node(op, arrays, attributes, outputs, np.random.default_rng(seed))
        next(model.graph.nodes()).domain = "com.microsoft"
        infer(model.graph)
        for value, array in zip(model.graph.outputs, expected, strict=True):
            assert misfit(value.type, array, binding) == ""
            assert value.rank is not None


TYPES: list[Type] = [
    UNKNOWN,
    UnrankedType(DType.F32),
    SequenceType(UnrankedType(DType.F32)),
    *(
        TensorType(d, s)
        for d in (DType.F32, DType.I64, DType.BOOL)
        for s in ((), (3,), (N,), (2, 3), (N, M, 4), (0, N, 1, 5))
    ),
]
ATTRIBUTES = [
    *(Attr("int", v) for v in (-3, 0, 1, 2, 1 << 62)),
    *(Attr("ints", v) for v in ((), (0,), (1, 1), (-1, 5), (0, 1, 2, 3))),
    Attr("string", "SAME_UPPER"),
    Attr("string", "nonsense"),
    Attr("float", 0.5),
    Attr("floats", (1.0, 2.0)),
    Attr("tensor", Constant.from_array(np.arange(3))),
]
NAMES = [
    "axis", "axes", "keepdims", "perm", "to", "pads", "strides", "dilations", "kernel_shape", "auto_pad", "group", "k",
    "split", "num_outputs", "starts", "ends", "value", "equation", "blocksize", "hidden_size", "direction",
    "batch_dims", "mode", "scales", "start", "end", "dtype", "output_shape", "ceil_mode", "transA", "num_heads",
    "shape", "allowzero",
]  # fmt: skip


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_garbage_raises_nothing(data: st.DataObject) -> None:
    """Whatever operator gets whatever operands and attributes, inference ends without an exception."""
    model = Model(opsets={"": 21})
    graph = model.graph = Graph("g", model)
    values: list[Value | None] = [None]
    for i, type_ in enumerate(TYPES):
        values.append(edit.add_input(graph, Value(f"v{i}", type_)))
    values.extend(edit.add_constant(graph, Constant.from_array(a)) for a in (np.arange(-1, 3), np.array(1 << 40)))
    for _ in range(4):
        domain, op = data.draw(st.sampled_from(sorted(RULES)))
        inputs = data.draw(st.lists(st.sampled_from(values), max_size=6))
        names = data.draw(st.lists(st.sampled_from(NAMES), max_size=5, unique=True))
        attributes = {n: data.draw(st.sampled_from(ATTRIBUTES)) for n in names}
        version = data.draw(st.sampled_from([0, 1, 6, 11, 13, 21]))
        types = [UNKNOWN] * data.draw(st.integers(1, 3))
        node = edit.add_node(graph, op, inputs, types, attributes, domain=domain, version=version)
        values.extend(node.outputs)
    infer(graph)

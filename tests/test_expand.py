"""Definitions: what stands for an operator that a target lacks computes the same, down to operators that it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from compiler.frontend.bodies import FunctionBodies
from compiler.ir import edit
from compiler.ir.constant import Array
from compiler.ir.graph import Model
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.ir.schema import node_schema
from compiler.ir.types import UnrankedType
from compiler.ir.verify import verify
from compiler.manager import PassRecord, Runner, parse_pipeline
from compiler.rewrite.expansion import Expander
from compiler.rewrite.legal import Legality
from compiler.rewrite.transform import Context
from targets.kernels import KernelTable, kernels
from tests.isolation import Child
from tests.single_node import Single, integers, numbers, outcome

MS = "com.microsoft::"
N, I64, F16 = numbers, np.int64, np.float16
Q, KV = N(2, 4, 5, 8), N(2, 2, 5, 8)
ROWS = N(2, 5, 32)
PAST = N(2, 2, 3, 8)
MASK = N(2, 1, 5, 5)
SHOWN = np.tril(np.ones((5, 5), bool))
X, W = N(2, 5, 8), N(8)
IMAGE = N(1, 4, 6, 6)
HEADS: dict[str, Any] = {"num_heads": 4}
GQA: dict[str, Any] = {"num_heads": 4, "kv_num_heads": 2}
WIDE = N(2, 5, 64), N(2, 5, 32, seed=1), N(2, 5, 32, seed=2)
STEP = tuple(a[:, :1] for a in WIDE)
CACHE = N(2, 2, 7, 16), N(2, 2, 7, 16, seed=1)
IDS = integers([1, 2, 3, 0, 4], [0, 1, 0, 3, 2])
TABLES = N(6, 8), N(9, 8), N(2, 8)
PLACES = np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]], I64)
TURN = np.cos(N(10, 8)), np.sin(N(10, 8))
PACKED = np.random.default_rng(0).integers(0, 256, (3, 2, 8), dtype=np.uint8)


def ms(op: str, *operands: Array | None, outputs: str = "y", constants: tuple[int, ...] = (), **stated: Any) -> Single:
    """Return an operator of ``com.microsoft``."""
    return Single(MS + op, operands, stated, outputs, constants=constants)


def standard(op: str, *operands: Array | None, outputs: str = "y", opset: int = 23, **stated: Any) -> Single:
    """Return an operator of the standard."""
    return Single(op, operands, stated, outputs, opset)


DEFINED = [
    *(ms(op, X) for op in ("Gelu", "FastGelu", "QuickGelu")),
    *(ms(op, X, W) for op in ("BiasGelu", "FastGelu")),
    ms("QuickGelu", X, alpha=1.0),
    ms("FusedMatMul", N(2, 8, 5), N(3, 8), alpha=0.5, transA=1, transB=1),
    ms("FusedGemm", X[0], N(3, 8), N(3), transB=1, activation="LeakyRelu", activation_alpha=0.1),
    ms("FusedConv", IMAGE, N(8, 4, 3, 3), W, N(1, 8, 4, 4), activation="Relu"),
    ms("FusedConv", IMAGE, N(8, 2, 3, 3), W, group=2, activation="LeakyRelu", activation_params=[0.1]),
    ms("FusedConv", IMAGE, N(8, 4, 3, 3), activation="Clip", activation_params=[-0.5, 0.5], pads=[1, 1, 1, 1]),
    ms("FusedConv", IMAGE, N(8, 4, 3, 3), activation="HardSigmoid", activation_params=[0.2, 0.5], strides=[2, 2]),
    ms("FusedConv", IMAGE, N(8, 4, 3, 3), activation="HardSwish", activation_params=[1 / 6, 0.5]),
    ms("SkipLayerNormalization", X, X[:1], W, W, W, outputs="y__y", epsilon=1e-3),
    ms("SkipLayerNormalization", X, X[0], W, epsilon=1e-3),
    ms("SkipSimplifiedLayerNormalization", X, X, W, outputs="y__y", epsilon=1e-3),
    standard("SimplifiedLayerNormalization", X, W, epsilon=1e-3),
    ms("EmbedLayerNormalization", IDS, IDS % 2, *TABLES, W, W, SHOWN[:2].astype(np.int32), outputs="yyy"),
    ms("EmbedLayerNormalization", IDS, None, *TABLES[:2], None, W, W, None, IDS, outputs="y_"),
    ms("RotaryEmbedding", N(2, 4, 5, 16), PLACES, *TURN),
    ms("RotaryEmbedding", N(2, 5, 64), np.array([2], I64), *TURN, interleaved=1),
    ms("MultiHeadAttention", ROWS, ROWS, N(2, 5, 24), N(88), **HEADS),
    ms("MultiHeadAttention", ROWS, N(2, 4, 7, 8), N(2, 4, 7, 8), **HEADS),
    ms(
        "MultiHeadAttention",
        ROWS,
        ROWS,
        ROWS,
        None,
        integers([1, 1, 1, 0, 0], [1] * 5),
        MASK,
        unidirectional=1,
        **HEADS,
    ),
    ms("MultiHeadAttention", ROWS, ROWS, ROWS, None, None, None, N(2, 4, 3, 8), N(2, 4, 3, 8), outputs="yyy", **HEADS),
    ms("Attention", X, N(8, 24), N(24), integers(3, 5), num_heads=2, unidirectional=1),
    ms("Attention", X, N(8, 24), N(24), None, N(2, 2, 2, 3, 4), outputs="yy", num_heads=2),
    ms("GroupQueryAttention", *WIDE, None, None, integers(4, 4), integers(5), outputs="yyy", **GQA),
    ms("GroupQueryAttention", *WIDE, None, None, integers(4, 4), integers(5), **GQA, local_window_size=2),
    ms("GroupQueryAttention", *WIDE, None, None, integers(4, 4), integers(5), *TURN, **GQA, do_rotary=1),
    ms("GroupQueryAttention", *STEP, *CACHE, integers(7, 7), integers(8), outputs="yyy", **GQA),
    ms("GroupQueryAttention", *STEP, *CACHE, integers(4, 4), integers(5), *TURN, outputs="yyy", **GQA, do_rotary=1),
    ms("MatMulNBits", N(2, 5, 32), PACKED, N(3, 2), constants=(1, 2), K=32, N=3, bits=4, block_size=16),
    standard("Attention", Q, Q, Q),
    standard("Attention", Q, KV, KV, MASK, is_causal=1),
    standard("Attention", Q, KV, KV, SHOWN, PAST[:, :, :0], PAST[:, :, :0], outputs="yyy"),
    standard("Attention", Q, KV, KV, None, PAST, PAST, outputs="yyy", is_causal=1),
    standard("Attention", Q, Q, Q, np.where(SHOWN[:, ::-1], 0, -np.inf).astype(np.float32)),
    standard("Attention", ROWS, ROWS, ROWS, SHOWN, q_num_heads=4, kv_num_heads=4),
    standard("Attention", Q, KV, KV, MASK, softcap=2.0),
    standard("Attention", Q, Q, Q, outputs="y__y", qk_matmul_output_mode=3),
    standard("Attention", *(N(1, 2, 3, 4, dtype=F16),) * 3, softmax_precision=1),
    standard("RotaryEmbedding", N(2, 4, 5, 16), *TURN, PLACES),
    standard("RotaryEmbedding", N(2, 5, 64), N(2, 5, 8), N(2, 5, 8), num_heads=4),
    standard("RotaryEmbedding", N(2, 4, 5, 16), N(2, 5, 2), N(2, 5, 2), rotary_embedding_dim=4),
    standard("LayerNormalization", X, W, W),
    standard("LayerNormalization", X, N(5, 8), axis=1, epsilon=0.1),
    standard("LayerNormalization", X.astype(F16), W.astype(F16), W.astype(F16)),
    standard("LayerNormalization", X.astype(np.float64), W.astype(np.float64)),
    standard("LayerNormalization", X, W, W, outputs="yyy"),
    standard("RMSNormalization", X, W),
    standard("RMSNormalization", X.astype(F16), W.astype(F16)),
    standard("GroupNormalization", X, N(5), N(5), num_groups=5),
    standard("Gelu", X),
    standard("Gelu", X, approximate="tanh"),
    standard("Mish", X),
    standard("HardSwish", X),
    standard("Swish", X, opset=24, alpha=2.0),
    standard("MeanVarianceNormalization", N(2, 3, 4, 5)),
    standard("CenterCropPad", X, np.array([4, 8], I64), axes=[1, 2]),
    standard("SoftmaxCrossEntropyLoss", N(3, 5), integers(1, 0, 4), outputs="yy"),
    standard("Shrink", X, lambd=0.2),
    standard("DepthToSpace", N(2, 8, 3, 5), blocksize=2),
    standard("DepthToSpace", N(2, 8, 3, 5), blocksize=2, mode="CRD"),
    standard("SpaceToDepth", N(2, 3, 4, 6), blocksize=2),
    standard("HammingWindow", np.array(7, I64)),
]
"""Operators that have definitions, of ours or of the standard, and kernels to compare them with."""


def softmax(x: Array) -> Array:
    """Return the softmax over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    made: Array = e / e.sum(-1, keepdims=True)
    return made


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + exp(-x))``."""
    made: Array = 1 / (1 + np.exp(-x))
    return made


def gelu(x: Array) -> Array:
    """Return ``x`` times the normal distribution up to it."""
    made: Array = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return made


def group_norm(x: Array, scale: Array, bias: Array, groups: int) -> Array:
    """Return the group norm of images whose channels come last."""
    n, h, w, c = x.shape
    split = x.reshape(n, h, w, groups, c // groups).astype(float)
    mean, var = (f(split, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
    made: Array = ((split - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * scale + bias
    return made


def attended(q: Array, k: Array, v: Array) -> Array:
    """Return attention of 4 heads of 8, with heads apart, side by side in rows."""
    made: Array = (softmax(q @ k.swapaxes(-1, -2) / math.sqrt(8)) @ v).swapaxes(1, 2).reshape(2, -1, 32)
    return made


IMAGES = N(2, 3, 3, 8)
ALL = N(2, 5, 4, 3, 8)
NORM: dict[str, Any] = {"groups": 2, "epsilon": 1e-5}
OTHERS: list[tuple[Single, Callable[[], list[Array]]]] = [
    (ms("BiasAdd", X, W, X), lambda: [X + W + X]),
    (ms("BiasSplitGelu", X, W), lambda: [(X + W)[..., :4] * gelu((X + W)[..., 4:])]),
    (ms("BiasSoftmax", Q, N(2, 1, 1, 8), axis=3, is_inner_broadcast=1), lambda: [softmax(Q + N(2, 1, 1, 8))]),
    (ms("GroupNorm", IMAGES, W, W, activation=0, **NORM), lambda: [group_norm(IMAGES, W, W, 2)]),
    (
        ms("GroupNorm", IMAGES, W, W, activation=1, channels_last=1, **NORM),
        lambda: [(y := group_norm(IMAGES, W, W, 2)) * sigmoid(y)],
    ),
    (
        ms("SkipGroupNorm", IMAGES, W, W, N(2, 1, 1, 8), W, activation=0, outputs="yy", **NORM),
        lambda: [group_norm(s := IMAGES + N(2, 1, 1, 8) + W, W, W, 2), s],
    ),
    (
        ms("MultiHeadAttention", ALL, **HEADS),
        lambda: [attended(*(ALL[:, :, :, i].swapaxes(1, 2) for i in range(3)))],
    ),
    (
        ms("MultiHeadAttention", ROWS, N(2, 7, 4, 2, 8), **HEADS),
        lambda: [
            attended(
                ROWS.reshape(2, 5, 4, 8).swapaxes(1, 2),
                *(N(2, 7, 4, 2, 8)[:, :, :, i].swapaxes(1, 2) for i in range(2)),
            )
        ],
    ),
]
"""Operators that no kernel here runs, and what they give by their documentation."""


@pytest.fixture(scope="module")
def runtime() -> Iterator[Child]:
    """A child process that runs models."""
    child = Child()
    yield child
    child.close()


def lacking(*ops: str, microsoft: bool = True) -> KernelTable:
    """Return the kernels of the processor without those of some operators of the standard, and of ``com.microsoft``."""
    table = kernels()
    left = (
        k for k in table.kernels if not (k.domain == "com.microsoft" and microsoft) and (k.domain or k.op not in ops)
    )
    return KernelTable(table.provider, tuple(left), source="a test")


def context(model: Model, table: KernelTable) -> Context:
    """Return the context of a target with these kernels."""
    return Context(legality=Legality(table, opset=model.opsets[""], bodies=FunctionBodies()))


def expanded(model: Model, table: KernelTable, *, pipeline: str = "expand") -> PassRecord:
    """Expand what a target with these kernels lacks."""
    verify(model)
    return Runner(model, context(model, table), strict=True).run(parse_pipeline(pipeline))[0]


def ops(model: Model) -> list[str]:
    """Return the operators of a model, nested graphs included."""
    return [n.qualified for n in model.graph.all_nodes()]


def agree(found: list[Array] | str, expected: list[Array]) -> None:
    """Hold that results agree but for rounding."""
    assert not isinstance(found, str), found
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        loose = 4e-3 if a.dtype == F16 else 2e-5
        np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=loose, atol=loose)


@pytest.mark.parametrize("case", DEFINED, ids=str)
def test_a_definition_computes_what_the_kernel_does(case: Single, runtime: Child) -> None:
    """Where a target lacks an operator, what replaces it gives what the operator's kernel gives."""
    expected = outcome(runtime, case.model(), case.feeds)
    assert not isinstance(expected, str), expected
    model = case.model()
    record = expanded(model, lacking(case.op))
    assert case.op not in ops(model), f"{case.op} is left: {record.refusals}"
    verify(model)
    agree(outcome(runtime, model, case.feeds), expected)


@pytest.mark.parametrize(("case", "expected"), OTHERS, ids=lambda v: str(v) if isinstance(v, Single) else "")
def test_a_definition_computes_what_the_documentation_says(
    case: Single, expected: Callable[[], list[Array]], runtime: Child
) -> None:
    """Operators that have no kernel on processors run there by their definitions."""
    model = case.model()
    assert isinstance(outcome(runtime, model, case.feeds), str), "there is a kernel: then this is a case above"
    expanded(model, lacking(microsoft=False))
    agree(outcome(runtime, model, case.feeds), expected())


DEFINED_BY_OTHERS = (
    "Attention",
    "LayerNormalization",
    "RMSNormalization",
    "RotaryEmbedding",
    "Gelu",
    "GroupNormalization",
)


def test_definitions_end_in_operators_that_are_there(runtime: Child) -> None:
    """A definition is taken apart until everything runs, however many operators the target lacks."""
    case = ms("GroupQueryAttention", *WIDE, None, None, integers(4, 4), integers(5), *TURN, **GQA, do_rotary=1)
    model, table = case.model(), lacking(*DEFINED_BY_OTHERS)
    expanded(model, table)
    assert not {n.op for n in model.graph.nodes()} & {*DEFINED_BY_OTHERS}
    legality = context(model, table).legality
    assert legality is not None and [r for n in model.graph.nodes() if (r := legality(n))] == []
    expected = outcome(runtime, case.model(), case.feeds)
    assert not isinstance(expected, str), expected
    agree(outcome(runtime, model, case.feeds), expected)


def test_what_a_target_runs_is_left() -> None:
    """Nothing is expanded that has a kernel, and a second run changes nothing."""
    model = standard("LayerNormalization", X, W, W).model()
    assert not expanded(model, lacking()).changed
    assert expanded(model, lacking("LayerNormalization")).changed
    assert not expanded(model, lacking("LayerNormalization")).changed


def test_nested_graphs_are_expanded() -> None:
    """Operators in the branches of a condition are taken apart like others."""
    model = parse_model("""// ampc 1, opset 23
graph @main(%c: bool[], %x: f32[4]) -> (%y: f32[4]) {
  %y: f32[4] = If(%c) {else_branch = graph @no() -> (%n: f32[4]) {
    %n: f32[4] = Gelu(%x)
    return %n
  }, then_branch = graph @yes() -> (%t: f32[4]) {
    %t: f32[4] = Mish(%x)
    return %t
  }}
  return %y
}
""")
    infer(model.graph)
    expanded(model, lacking("Gelu"))
    verify(model)
    assert {"Gelu", "Mish"}.isdisjoint(ops(model)) and {"Erf", "Softplus"} <= set(ops(model))


@pytest.mark.parametrize("op", ["LayerNormalization", "MeanVarianceNormalization"])
def test_names_and_origins_survive(op: str) -> None:
    """Outputs keep their names, and every new node says which node of the user's it stands for."""
    operands = [N(2, 3, 4, 5)] if op == "MeanVarianceNormalization" else [X, W]
    model = standard(op, *operands).model()
    expanded(model, lacking(op))
    assert [v.name for v in model.graph.outputs] == ["o0"]
    assert {n.loc.names for n in model.graph.nodes()} == {("node",)}
    assert all(n.loc.by for n in model.graph.nodes())
    named = [n.name for n in model.graph.nodes() if n.name]
    assert len(named) == len(set(named))


def test_what_cannot_be_taken_apart_stays_and_is_told() -> None:
    """An operator without kernel and definition stays, and the report says why; so does one that draws numbers."""
    model = ms("NGramRepeatBlock", integers([1, 2], dtype=I64), N(2, 5), ngram_size=2).model()
    record = expanded(model, lacking())
    assert not record.changed and ops(model) == [MS + "NGramRepeatBlock"]
    (reason,) = record.refusals
    assert "no kernel" in reason and "nothing defines" in reason
    model = Single("Bernoulli", [np.abs(np.tanh(X))], opset=22).model()
    assert "random" in str(expanded(model, lacking("RandomUniformLike")).refusals)


def test_undecided_shapes_count_against_rewrites_only() -> None:
    """A mask whose shape is not known stays where the user's model has it, and not where a rewrite made it."""
    case = Single("Attention", [Q, Q, Q, MASK], {"is_causal": 1}, opset=23, open_dims=(3,))
    model = case.model()
    assert not expanded(model, lacking()).changed
    (node,) = model.graph.nodes()
    edit.set_loc(node, edit.merge_locs([node], "ARewrite"))
    assert expanded(model, lacking()).changed


def test_anybody_may_ask_for_a_definition(runtime: Child) -> None:
    """A node that runs is expanded too when somebody asks, by the same definition."""
    case = standard("Gelu", X)
    model = case.model()
    (node,) = model.graph.nodes()
    made = Expander(replaced_rules(context(model, lacking()))).expand(node)
    assert not isinstance(made, str) and ops(model) == ["Div", "Erf", "Add", "Mul", "Mul"]
    agree(outcome(runtime, model, case.feeds), [gelu(X)])


def replaced_rules(ctx: Context) -> Context:
    """Return a context with all rules, as a runner gives it."""
    from compiler.manager import known_rules

    ctx.rule_set = tuple(cls() for cls in known_rules().values())
    return ctx


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_definitions_are_kept_by_types_and_ranks(rank: int) -> None:
    """Nodes of one type, rank and attributes share a definition; others do not."""
    bodies = FunctionBodies()
    one, same = (standard("Gelu", N(*shape)).node() for shape in ([2] * rank, [3] * rank))
    other = standard("Gelu", N(*[2] * rank), approximate="tanh").node()
    assert bodies(one) is bodies(same) and bodies(one) is not bodies(other)
    assert not isinstance(bodies(one), str) and node_schema(one) is not None


def test_there_is_no_definition_of_what_nothing_defines() -> None:
    """Operators without a function body, and operands of unknown rank where the rank decides, give a reason."""
    assert FunctionBodies()(standard("MatMul", X, N(8, 3)).node()) == "nothing defines MatMul"
    node = standard("Attention", Q, Q, Q).node()
    for value in node.inputs:
        assert value is not None
        edit.set_type(value, UnrankedType(value.dtype))
    assert "rank of operand 0" in str(FunctionBodies()(node))


def test_a_copied_definition_knows_nothing_of_the_template_s_dims() -> None:
    """Two results of one definition have dims of their own, also where neither is known."""
    model = parse_model("""// ampc 1, opset 18
graph @main(%x: f32[20,10], %s: i64[2], %z: f32[8,8], %t: i64[2]) -> (%y: f32[A,B], %w: f32[C,D]) {
  %y: f32[A,B] = CenterCropPad(%x, %s)
  %w: f32[C,D] = CenterCropPad(%z, %t)
  return %y, %w
}
""")
    infer(model.graph)
    expanded(model, lacking())
    padded = [n.output for n in model.graph.nodes() if n.op == "Pad"]
    assert len({d for value in padded for d in value.shape or ()}) == 4

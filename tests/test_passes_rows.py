"""Rows that collide in the cache are staggered, at no cost where weights make them, and what is computed stays."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.backend.emit import to_proto
from compiler.calibrating import Drawn
from compiler.cost.calibration import shipped
from compiler.cost.kinds_products import apart, rows_collide
from compiler.cost.model import CostModel
from compiler.ir.graph import Model
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.rewrite.transform import Context
from compiler.settings import load_target
from passes.stagger_rows import StaggerRows
from tests.golden_passes import apply
from tests.isolation import Child

WEIGHTS = """
  const %w1: f32[24,1024] = #00000001
  const %w2: f32[24,1024] = #00000002
  const %t1: f32[1024,24] = #00000003
  const %b1: f32[1024] = #00000004
  const %b2: f32[1024] = #00000005
  const %one: f32[] = 1.0
  const %huge: f32[] = 1e16
  const %v: f32[1024,40] = #00000006
  const %u: f32[40,1024] = #00000007
  const %c: f32[40] = #00000008
"""

BLOCKS = {
    "biased": "%a = MatMul(%x, %w1)\n%b = Add(%a, %b1)\n%h = Gelu(%b)",
    "gated": "%a = MatMul(%x, %w1)\n%s = com.microsoft::QuickGelu(%a){alpha = 1.0}\n%o = MatMul(%x, %w2)\n"
    "%h = Mul(%s, %o)",
    "approximate": "%a = MatMul(%x, %w1)\n%b = Add(%a, %b1)\n%h = com.microsoft::FastGelu(%b, %b2)",
    "turned": "%a = com.microsoft::FusedMatMul(%x, %t1){transB = 1, alpha = 0.5}\n%h = Tanh(%a)",
    "shifted": "%a = MatMul(%x, %w1)\n%b = Mul(%a, %one)\n%d = Add(%b, %one)\n%h = Sub(%d, %b2)",
    "general": "%a = Gemm(%x, %t1, %b1){transB = 1, beta = 0.5}\n%h = Relu(%a)",
}
"""Ways to make hidden rows ``%h`` whose 1024 columns collide."""

LEFT = {
    "an exponential may be infinite": "%a = MatMul(%x, %w1)\n%h = Exp(%a)",
    "others read the rows": "%a = MatMul(%x, %w1)\n%h = Relu(%a)\n%z = Neg(%h)",
    "a constant is no row": "%a = MatMul(%x, %w1)\n%h = Div(%a, %b1)",
    "the numbers grow too large": "%a = MatMul(%x, %w1)\n%b = Add(%a, %huge)\n%h = Mul(%b, %b)",
}
"""Ways to make such rows that cannot be wider."""

READERS = ("%y = MatMul(%h, %v)", "%y = Gemm(%h, %v, %c)", "%y = Gemm(%h, %u){transB = 1}")


def model_of(body: str, rows: int = 64, outputs: str = "%y") -> Model:
    """Return the model of a body from ``%x`` to its outputs."""
    header = (
        f"// ampc 1, opset 23, com.microsoft 1\ngraph @main(%x: f32[{rows},24], %r: f32[{rows},1024]) -> ({outputs})"
    )
    model = parse_model(f"{header} {{{WEIGHTS}{body}\n  return {outputs}\n}}\n", side=Drawn())
    infer(model.graph)
    return model


def context(target: str = "cpu_avx512") -> Context:
    """Return a context that chooses by the shipped calibration."""
    found = load_target(target)
    return Context(target=found, cost=CostModel(found, {}, calibration=shipped("CPUExecutionProvider")))


def run(oracle: Child, model: Model, rows: int = 64) -> list[np.ndarray]:
    """Run a model on ONNX Runtime as users do."""
    random = np.random.default_rng(0)
    x, r = (random.standard_normal((rows, n)).astype(np.float32) for n in (24, 1024))
    feeds = {"x": x, "r": r}
    found: list[np.ndarray] = oracle.call("tests.hostile_runner:run", to_proto(model).SerializeToString(), feeds, True)
    return found


def widths(model: Model) -> list[object]:
    """Return how many columns the left operand of each product has."""
    products = [n for n in model.graph.nodes() if n.op in ("MatMul", "Gemm", "FusedMatMul")]
    return [n.inputs[0].shape[-1] for n in products if n.inputs[0] is not None and n.inputs[0].shape]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("block", BLOCKS)
def test_hidden_rows_are_staggered_by_their_weights(block: str, reader: str, oracle: Child) -> None:
    """The product reads more columns, no node is added, and the result is the same."""
    model = model_of(f"{BLOCKS[block]}\n{reader}")
    expected = run(oracle, model)
    nodes = [n.op for n in model.graph.nodes()]
    assert apply(StaggerRows(), model, context())
    assert [n.op for n in model.graph.nodes()] == nodes
    assert widths(model)[-1] == 1040
    for left, right in zip(run(oracle, model), expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("why", LEFT)
def test_rows_that_cannot_be_wider_are_padded_for_wide_products(why: str, oracle: Child) -> None:
    """What may not be finite in a new column, or is read elsewhere, gets zeros by a ``Pad`` instead."""
    wide = "const %k: f32[1024,2048] = #00000009\n"
    outputs = "%y, %z" if "%z" in LEFT[why] else "%y"
    model = model_of(f"{wide}{LEFT[why]}\n%y = MatMul(%h, %k)", outputs=outputs)
    expected = run(oracle, model)
    assert apply(StaggerRows(), model, context())
    assert [n.op for n in model.graph.nodes()].count("Pad") == 1
    assert widths(model)[-1] == 1040
    for left, right in zip(run(oracle, model), expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_one_pad_serves_all_readers_and_other_readers_keep_the_rows(oracle: Child) -> None:
    """Products that read the same rows read the same padded ones."""
    wide = "".join(f"const %k{i}: f32[1024,2048] = #0000001{i}\n" for i in range(3))
    body = "".join(f"%p{i} = MatMul(%r, %k{i})\n" for i in range(3))
    model = model_of(f"{wide}{body}%z = Neg(%r)", outputs="%p0, %p1, %p2, %z")
    expected = run(oracle, model)
    assert apply(StaggerRows(), model, context())
    assert sorted(n.op for n in model.graph.nodes()) == ["MatMul", "MatMul", "MatMul", "Neg", "Pad"]
    for left, right in zip(run(oracle, model), expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_layers_in_a_row_are_all_staggered(oracle: Child) -> None:
    """A weight whose rows and columns both grow, and rows that a staggered product makes, are what they were."""
    square = "".join(f"const %k{i}: f32[1024,1024] = #0000001{i}\n" for i in range(3))
    body = (
        "%a = MatMul(%x, %w1)\n%b = Relu(%a)\n%d = MatMul(%b, %k0)\n%e = Relu(%d)\n%f = MatMul(%e, %k1)\n%y = Neg(%f)"
    )
    model = model_of(square + body)
    expected = run(oracle, model)
    assert apply(StaggerRows(), model, context())
    assert widths(model) == [24, 1040, 1040]
    np.testing.assert_allclose(run(oracle, model)[0], expected[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("rows", "target", "select"), [(1, "cpu_avx512", "cost"), (64, "cpu_avx2", "cost"), (64, "cpu_avx512", "standard")]
)
def test_nothing_is_done_where_nothing_collides(rows: int, target: str, select: str) -> None:
    """A few rows, narrow kernels, and selections that do not go by cost leave the rows alone."""
    model = model_of(f"{BLOCKS['biased']}\n{READERS[0]}", rows)
    ctx = context(target)
    ctx.select = select
    assert not apply(StaggerRows(), model, ctx)


def test_rows_of_an_unknown_number_are_left_alone_beside_a_cache() -> None:
    """A graph that attends to a cache mostly has one row, unless it says otherwise."""
    cache = "%q = Reshape(%r, %four)\n%z, %pk, %pv = Attention(%q, %q, %q, _, %ck, %cv)\n"
    for rows, staggers in (("N", False), ("64", True)):
        model = parse_model(
            "// ampc 1, opset 23\ngraph @main(%x: f32["
            + rows
            + ",24], %r: f32["
            + rows
            + ",1024], %ck: f32[1,8,5,128], "
            "%cv: f32[1,8,5,128]) -> (%y, %z, %pk, %pv) {"
            + WEIGHTS
            + "const %four: i64[4] = [1, 8, -1, 128]\n"
            + cache
            + f"{BLOCKS['biased']}\n{READERS[0]}\n  return %y, %z, %pk, %pv\n}}\n",
            side=Drawn(),
        )
        infer(model.graph)
        ctx = context()
        ctx.cost = CostModel(ctx.target, {"N": 64}, calibration=shipped("CPUExecutionProvider"))
        assert apply(StaggerRows(), model, ctx) == staggers


def test_a_shared_weight_is_left_alone() -> None:
    """A weight that two products read would be stored twice."""
    model = model_of("%a = MatMul(%x, %w1)\n%y = MatMul(%a, %v)\n%z = MatMul(%r, %v)", outputs="%y, %z")
    assert not apply(StaggerRows(), model, context())


def test_the_cost_of_collisions_is_known() -> None:
    """Products of rows that collide cost more, unless the rows are too few to push each other out."""
    assert [rows_collide(n) for n in (0, 512, 1024, 1040, 3072)] == [False, False, True, False, True]
    cost = context().cost
    for rows, dearer in ((1, False), (16, True), (128, True), (1000, True)):
        model = model_of("const %k: f32[1024,1024] = #00000009\n%y = MatMul(%r, %k)", rows)
        kind = cost.kind(next(iter(model.graph.nodes())))
        assert (cost.of_kind(kind).us > cost.of_kind(apart(kind, 1024, 0)).us * 1.02) == dearer

"""Rows of a sequence that nobody reads are not computed, and those that are read stay what they were.

Every operator of the table is tried along each axis with every way to pick rows: what the pass makes computes the same.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from compiler.backend.emit import to_proto
from compiler.ir import edit
from compiler.ir.graph import Model
from compiler.ir.printer import print_model
from compiler.ir.verify import verify
from compiler.rewrite.transform import Context
from passes.hoist_rows import HoistRows
from passes.row_axes import OPERATORS
from tests.golden_passes import apply, cases, halves, read, transformed
from tests.isolation import Child, Remote

INPUTS = {
    "x": (2, 6, 8), "w": (8, 8), "z": (2, 6, 8), "p": (6, 8), "q": (1, 6, 8), "c": (8,), "d": (6, 1), "s": (2, 1, 1),
    "k": (2, 6, 8), "v": (2, 6, 8), "mask": (6, 6), "masks": (2, 1, 6, 6), "cos": (2, 6, 2), "pos": (6, 2),
    "m": (2, 8, 3), "g": (2, 6, 2),
}  # fmt: skip
"""Name → shape of the inputs that the cases below read."""

CASES = {
    "Add": "%o: f32[2,6,8] = Add(%h, %z)",
    "Add/rows": "%o: f32[2,6,8] = Add(%p, %h)",
    "Add/batch": "%o: f32[2,6,8] = Add(%h, %s)",
    "Mul": "%o: f32[2,6,8] = Mul(%h, %d)",
    "Sub": "%o: f32[2,6,8] = Sub(%q, %h)",
    "Clip": "%o: f32[2,6,8] = Clip(%h, %low, %high)",
    "Where": "%b: bool[2,6,8] = Less(%h, %p)\n%o: f32[2,6,8] = Where(%b, %h, %q)",
    "Cast": "%n: i32[2,6,8] = Cast(%h) {to = 6}\n%o: f32[2,6,8] = CastLike(%n, %z)",
    "LayerNormalization": "%o: f32[2,6,8] = LayerNormalization(%h, %c, %c) {axis = -1}",
    "RMSNormalization": "%o: f32[2,6,8] = RMSNormalization(%h, %c) {axis = -1}",
    "Softmax": "%o: f32[2,6,8] = Softmax(%h)",
    "LpNormalization": "%o: f32[2,6,8] = LpNormalization(%h) {axis = 2}",
    "ReduceMax": "%r: f32[2,6] = ReduceMax(%h, %last) {keepdims = 0}\n%e: f32[2,6,1] = Unsqueeze(%r, %last)\n"
    "%o: f32[2,6,8] = Add(%h, %e)",
    "ArgMax": "%r: i64[2,6,1] = ArgMax(%h) {axis = 2}\n%e: f32[2,6,1] = Cast(%r) {to = 1}\n"
    "%o: f32[2,6,8] = Add(%h, %e)",
    "MatMul": "%t: f32[2,8,6] = Transpose(%k) {perm = [0, 2, 1]}\n%u: f32[2,6,6] = MatMul(%h, %t)\n"
    "%o: f32[2,6,8] = MatMul(%u, %v)",
    "MatMul/shared": "%t: f32[6,8] = MatMul(%p, %w)\n%u: f32[2,6,3] = MatMul(%t, %m)\n"
    "%a: f32[2,6,8] = Concat(%u, %u, %g) {axis = 2}\n%o: f32[2,6,8] = Add(%a, %h)",
    "Gemm": "%one: f32[1,6,8] = Slice(%h, %zero, %last1, %zero)\n%f: f32[6,8] = Reshape(%one, %flat)\n"
    "%j: f32[6,8] = Gemm(%f, %w, %p)\n%o: f32[1,6,8] = Reshape(%j, %back)",
    "Gemm/merged": "%f: f32[12,8] = Reshape(%h, %both)\n%j: f32[12,8] = Gemm(%f, %w, %c)\n"
    "%e: f32[12,8] = Softmax(%j)\n%o: f32[2,6,8] = Reshape(%e, %heads3)",
    "Gemm/picked": "%f: f32[12,8] = Reshape(%v, %both)\n%l: f32[12,8] = LpNormalization(%f) {axis = 0}\n"
    "%j: f32[12,8] = Gemm(%l, %w)\n%e: f32[2,6,8] = Reshape(%j, %heads3)\n%o: f32[2,6,8] = Add(%h, %e)",
    "Transpose": "%t: f32[6,2,8] = Transpose(%h) {perm = [1, 0, 2]}\n%u: f32[6,2,8] = MatMul(%t, %w)\n"
    "%a: f32[6,2,8] = Softmax(%u)\n%o: f32[2,6,8] = Transpose(%a) {perm = [1, 0, 2]}",
    "Reshape": "%t: f32[2,6,2,4] = Reshape(%h, %heads)\n%u: f32[2,6,2,4] = Softmax(%t)\n"
    "%o: f32[2,6,8] = Reshape(%u, %merged)",
    "Flatten": "%one: f32[1,6,8] = Slice(%h, %zero, %last1, %zero)\n%f: f32[6,8] = Flatten(%one) {axis = 2}\n"
    "%j: f32[6,8] = Relu(%f)\n%o: f32[1,6,8] = Unsqueeze(%j, %zero)",
    "Expand": "%t: f32[2,6,1] = ReduceSum(%h, %last)\n%o: f32[2,6,8] = Expand(%t, %shape)",
    "Squeeze": "%t: f32[2,6,1,8] = Unsqueeze(%h, %two)\n%e: f32[2,6,1,8] = Exp(%t)\n%o: f32[2,6,8] = Squeeze(%e, %two)",
    "Split": "%a: f32[2,6,4], %b: f32[2,6,4] = Split(%h) {axis = 2, num_outputs = 2}\n%r: f32[2,6,4] = Mul(%a, %b)\n"
    "%o: f32[2,6,8] = Concat(%r, %b) {axis = 2}",
    "Slice": "%a: f32[2,6,4] = Slice(%h, %zero, %four, %two)\n%o: f32[2,6,8] = Concat(%a, %a) {axis = 2}",
    "Gather": "%o: f32[2,6,4] = Gather(%h, %four_of) {axis = 2}",
    "Attention": "%o: f32[2,6,8] = Attention(%h, %k, %v) {q_num_heads = 2, kv_num_heads = 2}",
    "Attention/mask": "%o: f32[2,6,8] = Attention(%h, %k, %v, %mask) {q_num_heads = 2, kv_num_heads = 2}",
    "Attention/masks": "%o: f32[2,6,8] = Attention(%h, %k, %v, %masks) {q_num_heads = 2, kv_num_heads = 2}",
    "Attention/causal": "%o: f32[2,6,8] = Attention(%h, %k, %v) {is_causal = 1, q_num_heads = 2, kv_num_heads = 2}",
    "Attention/heads": "%a: f32[2,6,2,4] = Reshape(%h, %heads)\n"
    "%t: f32[2,2,6,4] = Transpose(%a) {perm = [0, 2, 1, 3]}\n"
    "%b: f32[2,6,2,4] = Reshape(%k, %heads)\n%u: f32[2,2,6,4] = Transpose(%b) {perm = [0, 2, 1, 3]}\n"
    "%y4: f32[2,2,6,4] = Attention(%t, %u, %u, %masks) {is_causal = 0}\n"
    "%e: f32[2,6,2,4] = Transpose(%y4) {perm = [0, 2, 1, 3]}\n%o: f32[2,6,8] = Reshape(%e, %merged)",
    "RotaryEmbedding": "%o: f32[2,6,8] = RotaryEmbedding(%h, %cos, %cos) {num_heads = 2}",
    "RotaryEmbedding/ids": "%o: f32[2,6,8] = RotaryEmbedding(%h, %pos, %pos, %ids) {num_heads = 2}",
    "MultiHeadAttention": "%o: f32[2,6,8] = com.microsoft::MultiHeadAttention(%h, %k, %v, _, _, %masks) "
    "{num_heads = 2}",
    "Gelu": "%o: f32[2,6,8] = com.microsoft::BiasGelu(%h, %c)",
    "QuantizeLinear": "%a: u8[2,6,8] = QuantizeLinear(%h, %tenth, %point)\n"
    "%o: f32[2,6,8] = DequantizeLinear(%a, %tenth, %point)",
    "MatMulInteger": "%a: u8[2,6,8] = QuantizeLinear(%h, %tenth, %point)\n"
    "%b: i32[2,6,8] = MatMulInteger(%a, %bytes, %point)\n%o: f32[2,6,8] = Cast(%b) {to = 1}",
    "MatMulNBits": "%e: u8[8,1,8] = Unsqueeze(%bytes, %last1)\n"
    "%o: f32[2,6,8] = com.microsoft::MatMulNBits(%h, %e, %c) {K = 8, N = 8, bits = 4, block_size = 16}",
    "QLinearMatMul": "%a: u8[2,6,8] = QuantizeLinear(%h, %tenth, %point)\n"
    "%b: u8[2,6,8] = QLinearMatMul(%a, %tenth, %point, %bytes, %tenth, %point, %tenth, %point)\n"
    "%o: f32[2,6,8] = DequantizeLinear(%b, %tenth, %point)",
}
"""Case → statements that make ``%o`` of ``%h``."""

PICKS = {
    "one": ("[B,K]", "Gather(%o, %i) {axis = 1}"),
    "last": ("[B,K]", "Gather(%o, %minus) {axis = 1}"),
    "some": ("[B,3,K]", "Gather(%o, %rows) {axis = 1}"),
    "range": ("[B,2,K]", "Slice(%o, %from, %to, %axis)"),
    "backwards": ("[B,2,K]", "Slice(%o, %to, %from, %axis, %minus1)"),
    "chosen": ("[B,K]", "Gather(%o, %index) {axis = 1}"),
    "list": ("[B,2,K]", "Gather(%o, %indices) {axis = 1}"),
    "each": ("[B,K]", "GatherND(%o, %each) {batch_dims = 1}"),
    "first": ("[6,K]", "Gather(%o, %i0) {axis = 0}"),
}
"""Way to pick → dims and expression of what is picked of ``%o``."""

ONE = ("Gemm", "Flatten")
"""Cases whose batch is one."""

LEFT: dict[str, tuple[str, ...]] = {}
"""Way to pick → cases that need all rows."""

FEW = {"one", "last", "some", "range", "backwards", "chosen", "list", "each"}
"""Ways that pick along the sequence."""

CONSTANTS = """
const %low: f32[] = -0.5
const %high: f32[] = 0.75
const %last: i64[1] = [2]
const %last1: i64[1] = [1]
const %zero: i64[1] = [0]
const %two: i64[1] = [2]
const %four: i64[1] = [4]
const %four_of: i64[4] = [1, 7, 3, -1]
const %flat: i64[2] = [6, 8]
const %back: i64[3] = [1, 6, 8]
const %both: i64[2] = [12, 8]
const %heads3: i64[3] = [2, 6, 8]
const %heads: i64[4] = [0, -1, 2, 4]
const %merged: i64[3] = [2, -1, 8]
const %shape: i64[3] = [2, 6, 8]
const %ids: i64[2,6] = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
const %tenth: f32[] = 0.1
const %point: u8[] = 100
const %i: i64[] = 2
const %i0: i64[] = 0
const %minus: i64[] = -1
const %rows: i64[3] = [4, 0, 4]
const %from: i64[1] = [1]
const %to: i64[1] = [3]
const %axis: i64[1] = [1]
const %minus1: i64[1] = [-1]
const %end: i64[1] = [9223372036854775807]
"""


def run(oracle: Child, model: Model, inputs: dict[str, Any]) -> list[Any]:
    """Run a model on ONNX Runtime without optimization."""
    found: list[Any] = oracle.call("tests.hostile_runner:run", to_proto(model).SerializeToString(), inputs)
    return found


MULTIPLIED = "%h: f32[2,6,8] = MatMul(%x, %w)"


def graph(*lines: str, inputs: str = "%x: f32[2,6,8], %w: f32[8,8]", outputs: str = "%y: f32[2,8]") -> Model:
    """Return a model of some statements."""
    returned = ", ".join(part.split(":")[0].strip() for part in outputs.split("; "))
    body = "\n".join(lines)
    declared = outputs.replace("; ", ", ")
    return read(
        f"// ampc 1, opset 24\ngraph @main({inputs}) -> ({declared}) {{\n{CONSTANTS}{body}\nreturn {returned}\n}}\n"
    )


def all_inputs() -> str:
    """Return the inputs that all cases read, as they stand in a graph."""
    return ", ".join(f"%{name}: f32[{','.join(map(str, shape))}]" for name, shape in INPUTS.items())


def model_of(case: str, pick: str, *, batch: int) -> Model:
    """Return a model that multiplies a sequence, applies the operators of a case, and picks rows."""
    dims, expression = PICKS[pick]
    kind = f"f32{dims.replace('B', str(batch))}"
    inputs = f"{all_inputs()}, %index: i64[], %indices: i64[2], %each: i64[{batch},1], %bytes: u8[8,8]"
    lines = (MULTIPLIED, CASES[case], f"%y: {kind} = {expression}")
    return graph(*lines, inputs=inputs, outputs=f"%y: {kind}")


def data(batch: int) -> dict[str, Any]:
    """Return tensors for all inputs; indices count from either end."""
    random = np.random.default_rng(0)
    found: dict[str, Any] = {n: random.standard_normal(s).astype(np.float32) for n, s in INPUTS.items()}
    each = np.array([[4], [-5]][:batch])
    weights = random.integers(0, 9, (8, 8)).astype(np.uint8)
    return {**found, "index": np.array(3), "indices": np.array([-1, 2]), "each": each, "bytes": weights}


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("case", CASES)
def test_rows_are_what_they_were(case: str, pick: str, oracle: Child) -> None:
    """Whatever makes a sequence and picks of it: the rows that are left are the same, and no others are multiplied."""
    batch = 1 if case in ONE else 2
    before, after = model_of(case, pick, batch=batch), model_of(case, pick, batch=batch)
    changed = apply(HoistRows(), after)
    if pick in FEW and case not in LEFT.get(pick, ()):
        assert changed
        left = [n for n in after.graph.nodes() if n.op in ("MatMul", "Attention") and n.output.shape == (2, 6, 8)]
        assert not left, print_model(after)
    (expected,), (found,) = (run(oracle, m, data(batch)) for m in (before, after))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, strict=True)


def test_every_operator_is_tried() -> None:
    """Each operator of the table stands in a case, or is one of many that work on single elements."""
    alike = {rule for (_, op), rule in OPERATORS.items() if any(f"{op}(" in text for text in CASES.values())}
    assert not [op for (_, op), rule in OPERATORS.items() if rule not in alike]


def of_any_length(text: str) -> str:
    """Return a text whose types have a symbol in the place of six."""
    return re.sub(r": (\w+)\[([^\]]*)\]", lambda m: f": {m[1]}[{m[2].replace('6', 'S')}]", text)


SYMBOLIC = ("Add", "Add/rows", "Where", "LayerNormalization", "Softmax", "ReduceMax", "MatMul", "Transpose", "Squeeze",
            "Split", "Attention", "Attention/mask", "Attention/causal", "RotaryEmbedding",
            "MultiHeadAttention")  # fmt: skip


@pytest.mark.parametrize("size", [6, 1])
@pytest.mark.parametrize("case", SYMBOLIC)
def test_the_last_row_of_a_sequence_of_any_length(case: str, size: int, oracle: Child) -> None:
    """The last row of a sequence whose length is known at run time only is computed alone."""
    lines = (MULTIPLIED, CASES[case], "%y: f32[2,L,8] = Slice(%o, %minus1, %end, %axis)")
    before, after = (
        graph(*map(of_any_length, lines), inputs=of_any_length(all_inputs()), outputs="%y: f32[2,L,8]")
        for _ in range(2)
    )
    assert apply(HoistRows(), after)
    assert not any(n.op == "MatMul" and n.output.name in ("h", "u") for n in after.graph.nodes()), print_model(after)
    given = {n: a for n, a in data(2).items() if n in INPUTS}
    for value in before.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            given[value.name] = given[value.name] if isinstance(dim, int) else given[value.name].take(range(size), axis)
    (expected,), (found,) = (run(oracle, m, given) for m in (before, after))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, strict=True)


SOFTMAX = "%o: f32[2,6,8] = Softmax(%h)"
PICKED = "%y: f32[2,8] = Gather(%o, %i) {axis = 1}"


def shapes(model: Model, op: str) -> list[Any]:
    """Return the shapes of what an operator makes, in order."""
    return [n.output.shape for n in model.graph.nodes() if n.op == op]


def same(before: Model, after: Model, oracle: Child, **more: Any) -> None:
    """Hold two models to the same results."""
    given = {**data(2), **more}
    given = {v.name: given[v.name] for v in before.graph.inputs}
    for one, other in zip(run(oracle, before, given), run(oracle, after, given), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5, strict=True)


def test_rows_that_somebody_else_reads_are_made_whole(oracle: Child) -> None:
    """What another reader wants whole is made once, and picked from there."""
    text = (MULTIPLIED, SOFTMAX, PICKED, "%z: f32[2,8] = ReduceMax(%h, %axis) {keepdims = 0}")
    before, after = (graph(*text, outputs="%y: f32[2,8]; %z: f32[2,8]") for _ in range(2))
    assert apply(HoistRows(), after)
    assert shapes(after, "MatMul") == [(2, 6, 8)]
    assert shapes(after, "Softmax") == [(2, 1, 8)]
    same(before, after, oracle)


@pytest.mark.parametrize(
    "reader",
    [
        "%z: f32[2,6,8] = Identity(%h)",
        "%z: f32[2,6,8] = If(%c) {"
        "else_branch = graph @e() -> (%a: f32[2,6,8]) {\n%a: f32[2,6,8] = Neg(%h)\nreturn %a\n}, "
        "then_branch = graph @t() -> (%b: f32[2,6,8]) {\n%b: f32[2,6,8] = Abs(%h)\nreturn %b\n}}",
    ],
)
def test_what_is_returned_or_captured_stays(reader: str) -> None:
    """Rows of a value that the caller or a nested graph reads are not moved above what makes it."""
    inputs = "%x: f32[2,6,8], %w: f32[8,8], %c: bool[]"
    model = graph(MULTIPLIED, reader, "%y: f32[2,8] = Gather(%h, %i) {axis = 1}", inputs=inputs,
                  outputs="%y: f32[2,8]; %z: f32[2,6,8]")  # fmt: skip
    assert not apply(HoistRows(), model)


def test_different_rows_are_made_together(oracle: Child) -> None:
    """Where several readers want a few rows each, all of them are made, and each takes its own."""
    lines = (MULTIPLIED, SOFTMAX, "%y: f32[2,8] = Gather(%o, %i0) {axis = 1}", "%r: f32[2,6,8] = Softmax(%o)",
             "%z: f32[2,2,8] = Slice(%r, %from, %to, %axis)")  # fmt: skip
    before, after = (graph(*lines, outputs="%y: f32[2,8]; %z: f32[2,2,8]") for _ in range(2))
    assert apply(HoistRows(), after)
    assert shapes(after, "MatMul") == [(2, 3, 8)]
    assert shapes(after, "Softmax") == [(2, 3, 8), (2, 2, 8)]
    same(before, after, oracle)
    assert not apply(HoistRows(), after)


def test_most_rows_are_left_alone() -> None:
    """Where more than half of the rows are read, nothing moves."""
    first = "%y: f32[2,4,8] = Slice(%o, %zero, %four, %axis)"
    assert not apply(HoistRows(), graph(MULTIPLIED, SOFTMAX, first, outputs="%y: f32[2,4,8]"))
    both = ("%y: f32[2,2,8] = Slice(%o, %from, %to, %axis)", "%z: f32[2,2,8] = Slice(%o, %to, %five, %axis)")
    lines = ("const %five: i64[1] = [5]", MULTIPLIED, SOFTMAX, *both)
    assert not apply(HoistRows(), graph(*lines, outputs="%y: f32[2,2,8]; %z: f32[2,2,8]"))


def test_an_activation_stays_with_its_convolution() -> None:
    """Rows are not moved for less than a product or a norm."""
    lines = ("%h: f32[2,6,8] = Conv(%x, %k)", "%o: f32[2,6,8] = Relu(%h)", PICKED)
    assert not apply(HoistRows(), graph(*lines, inputs="%x: f32[2,6,8], %k: f32[6,6,1]"))


def test_rows_and_columns_are_both_moved(oracle: Child) -> None:
    """Rows of rows along different axes move one after the other."""
    lines = ("%t: f32[2,6,4,8] = MatMul(%four4, %w)", "%o: f32[2,6,4,8] = Softmax(%t)",
             "%a: f32[2,6,8] = Gather(%o, %i) {axis = 2}", "%b: f32[2,6,8] = Softmax(%a)",
             "%y: f32[2,8] = Gather(%b, %i) {axis = 1}")  # fmt: skip
    before, after = (graph(*lines, inputs="%four4: f32[2,6,4,8], %w: f32[8,8]") for _ in range(2))
    assert apply(HoistRows(), after)
    assert shapes(after, "MatMul") == [(2, 1, 1, 8)]
    same(before, after, oracle, four4=np.random.default_rng(1).standard_normal((2, 6, 4, 8)).astype(np.float32))


def test_rows_wait_for_their_indices(oracle: Child) -> None:
    """An index that is computed late, from what the rows are made of, is computed before they are."""
    lines = ("%h: f32[2,6,8] = LayerNormalization(%x, %c) {axis = -1}", "%t: f32[2,6,8] = MatMul(%h, %w)",
             "%u: f32[2,6,8] = Exp(%t)", "%o: f32[2,6,8] = Add(%t, %u)",
             "%l: f32[2,6] = ReduceSum(%h, %two) {keepdims = 0}",
             "%best: i64[2,1] = ArgMax(%l) {axis = 1}", "%y: f32[2,8] = GatherND(%o, %best) {batch_dims = 1}",
             "%z: f32[2,8] = Neg(%y)")  # fmt: skip
    inputs = "%x: f32[2,6,8], %w: f32[8,8], %c: f32[8]"
    before, after = (graph(*lines, inputs=inputs, outputs="%z: f32[2,8]") for _ in range(2))
    assert apply(HoistRows(), after)
    assert shapes(after, "MatMul") == [(2, 1, 8)]
    same(before, after, oracle)


def test_merged_rows_are_taken_apart_where_each_index_is_known(oracle: Child) -> None:
    """Two indices pick from one view, and the one that an earlier product needs is known last."""
    lines = (
        "%o: f32[12,8] = Softmax(%m)",
        "%j1: f32[12,8] = Gemm(%o, %w)",
        "%r1: f32[2,6,8] = Reshape(%j1, %heads3)",
        "%j2: f32[12,8] = Gemm(%o, %w)",
        "%r2: f32[2,6,8] = Reshape(%j2, %heads3)",
        "%y: f32[2,8] = Gather(%r2, %i0) {axis = 1}",
        "%n: i64[2] = Neg(%indices)",
        "%z: f32[2,2,8] = Gather(%r1, %n) {axis = 1}",
    )
    inputs, outputs = "%m: f32[12,8], %w: f32[8,8], %indices: i64[2]", "%y: f32[2,8]; %z: f32[2,2,8]; %o: f32[12,8]"
    before, after = (graph(*lines, inputs=inputs, outputs=outputs) for _ in range(2))
    assert apply(HoistRows(), after)
    assert sorted(shapes(after, "Gemm")) == [(2, 8), (4, 8)]
    same(before, after, oracle, m=np.reshape(data(2)["x"], (12, 8)))


@pytest.mark.parametrize("index", [9, -7])
def test_a_row_that_is_not_there_still_fails(index: int, oracle: Child) -> None:
    """An index out of range is an error before and after."""
    lines = (MULTIPLIED, SOFTMAX, "%y: f32[2,8] = Gather(%o, %index) {axis = 1}")
    model = graph(*lines, inputs="%x: f32[2,6,8], %w: f32[8,8], %index: i64[]")
    assert apply(HoistRows(), model)
    with pytest.raises(Remote):
        run(oracle, model, {**{n: data(2)[n] for n in ("x", "w")}, "index": np.array(index)})


def test_a_constant_row_of_a_sequence_that_may_be_short_still_fails(oracle: Child) -> None:
    """Rows with numbers of a sequence whose length is not known are not cut off silently."""
    lines = (
        "%h: f32[2,S,8] = MatMul(%x, %w)",
        "%o: f32[2,S,8] = Softmax(%h)",
        "%y: f32[2,2,8] = Gather(%o, %r) {axis = 1}",
    )
    model = graph("const %r: i64[2] = [0, 1]", *lines, inputs="%x: f32[2,S,8], %w: f32[8,8]", outputs="%y: f32[2,2,8]")
    assert apply(HoistRows(), model)
    with pytest.raises(Remote):
        run(oracle, model, {"x": data(2)["x"][:, :1], "w": data(2)["w"]})


def test_a_long_chain_takes_one_walk() -> None:
    """The work grows with the graph: a chain of thousands of norms is moved above at once."""
    chain = [f"%n{i}: f32[2,6,8] = Softmax(%{f'n{i - 1}' if i else 'h'})" for i in range(3000)]
    model = graph(MULTIPLIED, *chain, "%y: f32[2,8] = Gather(%n2999, %i) {axis = 1}")
    assert apply(HoistRows(), model)
    assert set(shapes(model, "Softmax")) == {(2, 1, 8)}


def test_a_long_chain_of_merged_rows_ends() -> None:
    """Rows that a view merged and that cannot be picked where they begin are left alone, after a few walks."""
    chain = [f"%n{i}: f32[B*S,8] = Gemm(%{f'n{i - 1}' if i else 'f'}, %w)" for i in range(20)]
    model = graph(
        "%f: f32[B*S,8] = CumSum(%x, %i0)",
        *chain,
        "%v: f32[B,S,8] = Reshape(%n19, %t)",
        "%y: f32[B,8] = Gather(%v, %minus) {axis = 1}",
        inputs="%x: f32[B*S,8], %w: f32[8,8], %t: i64[3], %like: f32[B,S,8]",
        outputs="%y: f32[B,8]",
    )
    assert not apply(HoistRows(), model)


@pytest.mark.parametrize("case", cases("hoist-rows"))
def test_nothing_is_left_to_do_and_all_can_be_undone(case: str) -> None:
    """A second run finds nothing to do, and the journal played backwards gives the model before the first."""
    assert not apply(HoistRows(), transformed(case))
    model = read(halves(case)[0])
    before = print_model(model)
    edit.begin(model)
    assert HoistRows().run(model.graph, Context())
    edit.rollback(model)
    verify(model)
    assert sorted(print_model(model).splitlines()) == sorted(before.splitlines())

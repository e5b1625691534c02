"""Analysis: counts are exact, the work of known operators is what arithmetic says, each cliff is found where it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler import InputError, analyze_model
from compiler.analysis.cliff_numbers import count_denormals
from compiler.analysis.report import Analysis, analyze
from compiler.compilation import prepare
from compiler.ir.constant import Constant
from compiler.ir.parser import parse_model
from compiler.settings import load_target
from targets.kernels import kernels

CPU = "CPUExecutionProvider"


def analysis_of(body: str, *, inputs: str, target: str = "cpu_avx512", opset: int = 20, **binding: int) -> Analysis:
    """Analyze a model whose nodes are given as IR text; its output is ``%y``."""
    kind = body.rsplit("%y: ", 1)[1].partition(" =")[0]
    header = f"// ampc 1, ir 9, opset {opset}, com.microsoft 1\n"
    text = f"{header}graph @g({inputs}) -> (%y: {kind}) {{\n{body}\nreturn %y\n}}\n"
    model = parse_model(text)
    prepare(model)
    chosen = load_target(target)
    return analyze(model, chosen, source="text", declared={}, kernels=kernels(CPU), binding=binding)


def names(found: Analysis) -> set[str]:
    """Return the names of the cliffs that were found."""
    return {cliff.name for cliff in found.cliffs}


def tiny(tmp_path: Path) -> Path:
    """Write a model with a denormal weight, an overridable initializer and a wrong value_info."""
    weight = np.full((4, 3), 0.5, np.float32)
    weight[0, 0] = 1e-40
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="mm"),
            helper.make_node("Add", ["h", "b"], ["y"], name="add"),
        ],
        "tiny",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(3, np.float32), "b")],
        value_info=[helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 7])],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_census_counts_what_is_there(tmp_path: Path) -> None:
    """Operators, interface, element types and parameters are those of the file."""
    found = analyze_model(tiny(tmp_path), target="cpu").census
    assert found.operators == {"Add": 1, "MatMul": 1}
    assert [(p.name, p.type, p.overridable) for p in found.inputs] == [
        ("x", "f32[batch,4]", False), ("b", "f32[3]", True),
    ]  # fmt: skip
    assert [(p.name, p.type) for p in found.outputs] == [("y", "f32[batch,3]")]
    assert found.element_types == {"f32": 2}
    assert (found.parameters, found.tensors, found.nbytes) == (15, 2, 60)


def test_file_level_cliffs(tmp_path: Path) -> None:
    """Denormal weights, overridable initializers and a wrong value_info are found in a file, with their places."""
    found = {c.name: c.where for c in analyze_model(tiny(tmp_path), target="cpu").cliffs}
    assert found["denormal weights"] == ("%w: 1 of 12",)
    assert found["initializers that callers may override"] == ("%b: f32[3]",)
    assert found["value_info that contradicts the graph"] == ("%h: claimed f32[batch,7], is f32[batch,3]",)


def test_shared_weights_are_named() -> None:
    """A tensor that two operands read is shared, one that one operand reads is not."""
    body = """const %w: f32[32,32] = #aaaaaaaa
    const %v: f32[32,32] = #bbbbbbbb
    %a: f32[2,32] = MatMul(%x, %w)
    %b: f32[2,32] = MatMul(%a, %v)
    %y: f32[2,32] = MatMul(%b, %w)"""
    shared = analysis_of(body, inputs="%x: f32[2,32]").census.shared
    assert [(p.name, p.readers) for p in shared] == [("w", 2)]


def test_nested_graphs_count() -> None:
    """Nodes of nested graphs are counted among all, and on their own."""
    body = """%y: f32[2] = If(%c) {
      then_branch = graph @t() -> (%p: f32[2]) {
        %p: f32[2] = Relu(%x)
        return %p
      },
      else_branch = graph @e() -> (%q: f32[2]) {
        %q: f32[2] = Neg(%x)
        return %q
      }
    }"""
    found = analysis_of(body, inputs="%x: f32[2], %c: bool[]").census
    assert found.operators == {"If": 1, "Neg": 1, "Relu": 1}
    assert found.nested == {"Neg": 1, "Relu": 1}


@pytest.mark.parametrize(
    ("body", "inputs", "operations"),
    [
        ("%y: f32[5,7] = MatMul(%a, %b)", "%a: f32[5,3], %b: f32[3,7]", 2 * 5 * 3 * 7),
        ("%y: f32[2,5,7] = MatMul(%a, %b)", "%a: f32[2,5,3], %b: f32[2,3,7]", 2 * 2 * 5 * 3 * 7),
        ("%y: f32[5,7] = Gemm(%a, %b) {transA = 1}", "%a: f32[3,5], %b: f32[3,7]", 2 * 5 * 3 * 7),
        ("%y: f32[1,8,6,6] = Conv(%a, %b)", "%a: f32[1,4,8,8], %b: f32[8,4,3,3]", 2 * 8 * 36 * 4 * 9),
        ("%y: f32[1,4,6,6] = Conv(%a, %b) {group = 4}", "%a: f32[1,4,8,8], %b: f32[4,1,3,3]", 2 * 4 * 36 * 9),
        ("%y: f32[1,8,10,10] = ConvTranspose(%a, %b)", "%a: f32[1,4,8,8], %b: f32[4,8,3,3]", 2 * 4 * 64 * 8 * 9),
        ('%y: f32[2,5,7] = Einsum(%a, %b) {equation = "bij,jk->bik"}', "%a: f32[2,5,3], %b: f32[3,7]", 420),
        ("%y: f32[5,3] = Relu(%a)", "%a: f32[5,3]", 15),
        ("%y: f32[15] = Flatten(%a)", "%a: f32[5,3]", 0),
        ("%y: f32[3,5] = Transpose(%a) {perm = [1, 0]}", "%a: f32[5,3]", 0),
        ("%y: f32[1,2,4,4] = MaxPool(%a) {kernel_shape = [2, 2], strides = [2, 2]}", "%a: f32[1,2,8,8]", 2 * 16 * 4),
    ],
)  # fmt: skip
def test_operations_of_known_operators(body: str, inputs: str, operations: int) -> None:
    """The operations of an operator are what its definition takes; a multiply-add is two."""
    assert analysis_of(body, inputs=inputs).work.operations == operations


def test_recurrent_and_attention_work() -> None:
    """An LSTM multiplies with all its weights at every step, attention with keys and values for every query."""
    lstm = """const %w: f32[1,32,4] = #aaaaaaaa
    const %r: f32[1,32,8] = #bbbbbbbb
    %y: f32[10,1,2,8] = LSTM(%x, %w, %r) {hidden_size = 8}"""
    assert analysis_of(lstm, inputs="%x: f32[10,2,4]").work.operations == 2 * 10 * 2 * (32 * 4 + 32 * 8)
    attention = "%y: f32[1,2,5,8] = Attention(%q, %k, %v)"
    inputs = "%q: f32[1,2,5,8], %k: f32[1,2,9,8], %v: f32[1,2,9,8]"
    assert analysis_of(attention, inputs=inputs, opset=23).work.operations == 4 * 2 * 5 * 9 * 8


def test_dynamic_dims_take_the_binding() -> None:
    """Batch counts as 1 and lengths as 128 unless they are bound, and the binding is reported."""
    body, inputs = "%y: f32[N,seq] = Relu(%x)", "%x: f32[N,seq]"
    usual = analysis_of(body, inputs=inputs).work
    assert (usual.operations, usual.binding) == (128, {"N": 1, "seq": 128})
    bound = analysis_of(body, inputs=inputs, N=3, seq=5).work
    assert (bound.operations, bound.binding) == (15, {"N": 3, "seq": 5})


def test_binding_names_a_dim_that_exists(tmp_path: Path) -> None:
    """A binding of a dim that the model does not have is the caller's error, and names the dims."""
    with pytest.raises(InputError) as caught:
        analyze_model(tiny(tmp_path), binding={"Batch": 2})
    assert "batch" in caught.value.hint


def test_opaque_operators_are_left_out() -> None:
    """An operator of an unknown domain is reported as opaque and is not estimated."""
    found = analysis_of("%y: f32[2] = my.own::Thing@1(%x)", inputs="%x: f32[2]")
    assert found.census.opaque == {"my.own::Thing": 1}
    assert found.work.unknown == 1


SCALE = "const %s: f32[4] = #aaaaaaaa\n"
CLIFFS = [
    ("one-dimensional convolution", "%x: f32[1,4,64]",
     "const %w: f32[8,4,3] = #aaaaaaaa\n%y: f32[1,8,62] = Conv(%x, %w)"),
    ("convolution with dynamic weights", "%x: f32[1,4,8,8], %w: f32[8,4,3,3]", "%y: f32[1,8,6,6] = Conv(%x, %w)"),
    ("convolution over dynamic dims", "%x: f32[N,4,8,8]",
     "const %w: f32[8,4,3,3] = #aaaaaaaa\n%y: f32[N,8,6,6] = Conv(%x, %w)"),
    ("channels that do not fit the blocked layout", "%x: f32[1,30,8,8]",
     "const %w: f32[8,30,3,3] = #aaaaaaaa\n%y: f32[1,8,6,6] = Conv(%x, %w)"),
    ("BatchNormalization that nothing absorbs", "%x: f32[1,4,8]",
     SCALE + "%y: f32[1,4,8] = BatchNormalization(%x, %s, %s, %s, %s)"),
    ("Einsum", "%x: f32[2,3]", '%y: f32[3,2] = Einsum(%x) {equation = "ij->ji"}'),
    ("Pow with exponent 0.5", "%x: f32[2]", "const %h: f32[] = 0.5\n%y: f32[2] = Pow(%x, %h)"),
    ("Softmax along an axis that is not the last", "%x: f32[2,3,4]", "%y: f32[2,3,4] = Softmax(%x) {axis = 1}"),
    ("cubic Resize", "%x: f32[1,1,4,4]",
     'const %f: f32[4] = [1.0, 1.0, 2.0, 2.0]\n%y: f32[1,1,8,8] = Resize(%x, _, %f) {mode = "cubic"}'),
    ("Mish, or Softplus, by its definition", "%x: f32[2]", "%y: f32[2] = Softplus(%x)"),
    ("Gelu in a form that ONNX Runtime does not recognize", "%x: f32[2]",
     "const %c: f32[] = 0.70710677\nconst %o: f32[] = 1.0\n%s: f32[2] = Mul(%x, %c)\n%e: f32[2] = Erf(%s)\n"
     "%y: f32[2] = Add(%e, %o)"),
    ("LayerNormalization in a form that ONNX Runtime does not recognize", "%x: f32[2,3]",
     "const %e: f32[] = 0.00001\nconst %a: i64[1] = [-1]\n%m: f32[2,1] = ReduceMean(%x, %a)\n"
     "%d: f32[2,3] = Sub(%x, %m)\n%q: f32[2,3] = Mul(%d, %d)\n%v: f32[2,1] = ReduceMean(%q, %a)\n"
     "%p: f32[2,1] = Add(%v, %e)\n%r: f32[2,1] = Sqrt(%p)\n%y: f32[2,3] = Div(%d, %r)"),
    ("loop", "%x: f32[2]",
     "const %n: i64[] = 3\n%y: f32[2] = Loop(%n, _, %x) {\nbody = graph @b(%i: i64[], %c: bool[], %v: f32[2]) -> "
     "(%k: bool[], %z: f32[2]) {\n%k: bool[] = Identity(%c)\n%z: f32[2] = Relu(%v)\nreturn %k, %z\n}\n}"),
    ("ScatterElements that adds", "%x: f32[4], %i: i64[2], %u: f32[2]",
     '%y: f32[4] = ScatterElements(%x, %i, %u) {reduction = "add"}'),
    ("MatMulNBits that computes in float", "%x: f32[1,32]",
     "const %b: u8[4,1,16] = #aaaaaaaa\nconst %s: f32[4] = #bbbbbbbb\n"
     "%y: f32[1,4] = com.microsoft::MatMulNBits(%x, %b, %s) {K = 32, N = 4, bits = 4, block_size = 32}"),
    ("convolution with dynamic quantization", "%x: u8[1,4,8,8]",
     "const %w: u8[8,4,3,3] = #aaaaaaaa\n%y: i32[1,8,6,6] = ConvInteger(%x, %w)"),
    ("signed 8-bit activations on x86", "%x: i8[2,3], %w: i8[3,4]", "%y: i32[2,4] = MatMulInteger(%x, %w)"),
    ("arithmetic in f64", "%x: f64[2,3]", "%y: f64[2,3] = Mul(%x, %x)"),
    ("islands between casts", "%x: f16[2]",
     "%a: f32[2] = Cast(%x) {to = 1}\n%b: f32[2] = Exp(%a)\n%y: f16[2] = Cast(%b) {to = 10}"),
    ("operator without a kernel, taken apart", "%x: f32[2]", "%y: f32[2] = Mish(%x)"),
    ("half precision without a kernel", "%x: f16[2,3], %w: f16[3,4]", "%y: f16[2,4] = MatMul(%x, %w)"),
    ("no kernel: the model does not load", "%x: bf16[2,3], %w: bf16[3,4]", "%y: bf16[2,4] = MatMul(%x, %w)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "inputs", "body"), CLIFFS, ids=[c[0] for c in CLIFFS])
def test_each_cliff_is_found(name: str, inputs: str, body: str) -> None:
    """A model that stands at a cliff is told so, with a place, a reason and an advice."""
    found = {c.name: c for c in analysis_of(body, inputs=inputs).cliffs}
    assert name in found, sorted(found)
    assert found[name].where
    assert found[name].why
    assert found[name].do


CLEAN = [
    ("%x: f32[1,16,8,8]", "const %w: f32[16,16,3,3] = #aaaaaaaa\n%y: f32[1,16,6,6] = Conv(%x, %w)"),
    ("%x: f32[1,16,8,8]", "const %w: f32[16,1,3,3] = #aaaaaaaa\n%y: f32[1,16,6,6] = Conv(%x, %w) {group = 16}"),
    ("%x: f32[2,3,4]", "%y: f32[2,3,4] = Softmax(%x) {axis = -1}"),
    ("%x: f32[2]", "const %h: f32[] = 2.0\n%y: f32[2] = Pow(%x, %h)"),
    ("%x: u8[2,3], %w: i8[3,4]", "%y: i32[2,4] = MatMulInteger(%x, %w)"),
    ("%x: f32[2,3]", "%y: f32[2,3] = Relu(%x)"),
    ("%x: f64[2,3]", "%y: f32[2,3] = Cast(%x) {to = 1}"),
    ("%x: f32[2]", "%a: f32[2] = Cast(%x) {to = 1}\n%b: f32[2] = Exp(%a)\n%y: f32[2] = Cast(%b) {to = 1}"),
]


@pytest.mark.parametrize(("inputs", "body"), CLEAN)
def test_no_cliff_where_there_is_none(inputs: str, body: str) -> None:
    """A model in the form that the runtime likes is not talked about."""
    assert names(analysis_of(body, inputs=inputs)) == set()


def test_kernels_of_one_thread_depend_on_size() -> None:
    """A kernel of one thread is worth a word on a large tensor only."""
    name = "kernel of one thread on a large tensor"
    body = "const %a: i64[] = 0\n%y: f32[{n},256] = CumSum(%x, %a)"
    assert name in names(analysis_of(body.replace("{n}", "512"), inputs="%x: f32[512,256]"))
    assert name not in names(analysis_of(body.replace("{n}", "2"), inputs="%x: f32[2,256]"))


def test_fatal_cliffs_come_first() -> None:
    """What keeps the model from loading stands before what makes it slow."""
    body = "const %h: bf16[] = 0.5\n%m: bf16[2,4] = MatMul(%x, %w)\n%y: bf16[2,4] = Pow(%m, %h)"
    cliffs = analysis_of(body, inputs="%x: bf16[2,3], %w: bf16[3,4]").cliffs
    assert [c.fatal for c in cliffs] == sorted((c.fatal for c in cliffs), reverse=True)
    assert cliffs[0].fatal


def test_denormals_are_counted_exactly() -> None:
    """Zeros and the smallest normal number are no denormals; both signs and both widths count."""
    values = [0.0, -0.0, 1e-40, -1e-40, 2.0**-126, 1.0, np.inf, np.nan]
    assert count_denormals(Constant.from_array(np.array(values * 50_000, np.float32))) == 100_000
    assert count_denormals(Constant.from_array(np.array([5e-324, 2.0**-1022, 0.0]))) == 1
    assert count_denormals(Constant.from_array(np.zeros((0,), np.float32))) == 0


ANYWAY = [
    ("Conv + activation → FusedConv", "%x: f32[1,16,8,8]",
     "const %w: f32[16,16,3,3] = #aaaaaaaa\n%c: f32[1,16,6,6] = Conv(%x, %w)\n%y: f32[1,16,6,6] = Relu(%c)"),
    ("Conv + BatchNormalization → Conv", "%x: f32[1,4,8,8]",
     SCALE + "const %w: f32[4,4,3,3] = #aaaaaaaa\n%c: f32[1,4,6,6] = Conv(%x, %w)\n"
     "%y: f32[1,4,6,6] = BatchNormalization(%c, %s, %s, %s, %s)"),
    ("MatMul + Add of a bias → Gemm", "%x: f32[2,3]",
     "const %w: f32[3,4] = #aaaaaaaa\nconst %b: f32[4] = #bbbbbbbb\n%h: f32[2,4] = MatMul(%x, %w)\n"
     "%y: f32[2,4] = Add(%h, %b)"),
    ("Add + LayerNormalization → SkipLayerNormalization", "%x: f32[1,2,4]",
     SCALE + "%a: f32[1,2,4] = Add(%x, %x)\n%y: f32[1,2,4] = LayerNormalization(%a, %s)"),
    ("x·sigmoid(x) → QuickGelu", "%x: f32[2]", "%s: f32[2] = Sigmoid(%x)\n%y: f32[2] = Mul(%x, %s)"),
    ("equal nodes computed once", "%x: f32[2]", "%a: f32[2] = Exp(%x)\n%b: f32[2] = Exp(%x)\n%y: f32[2] = Add(%a, %b)"),
    ("constant expressions computed once", "%x: f32[2]", "%s: i64[1] = Shape(%x)\n%y: i64[1] = Identity(%s)"),
    ("nodes that do nothing removed", "%x: f32[2]", "%y: f32[2] = Identity(%x)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "inputs", "body"), ANYWAY, ids=[a[0] for a in ANYWAY])
def test_what_the_runtime_does_anyway(name: str, inputs: str, body: str) -> None:
    """Patterns that ONNX Runtime optimizes by itself are counted once for each place."""
    assert {b.name: b.count for b in analysis_of(body, inputs=inputs).anyway}.get(name) == 1


def test_analysis_is_json_and_text(tmp_path: Path) -> None:
    """An analysis can be stored as JSON, prints as text of at most 80 columns, and is the same every time."""
    path = tiny(tmp_path)
    found = analyze_model(path, target="cpu")
    assert json.loads(json.dumps(found.to_json()))["census"]["nodes"] == 2
    text = str(found).replace(str(path), "tiny.onnx")
    assert "denormal weights" in text
    assert max(map(len, text.splitlines())) <= 80
    assert str(analyze_model(onnx.load(path), target="cpu")).replace("ModelProto", "tiny.onnx") == text


def test_predictions_say_whom_they_are_for(tmp_path: Path) -> None:
    """A processor is named by its threads, and a device, whose rates are not of cores, by its provider."""
    path = tiny(tmp_path)
    for target, whom, threads in (("cpu", "8 threads", 8), ("gpu_cuda", "CUDAExecutionProvider", 0)):
        found = analyze_model(path, target=target)
        assert found.opportunities is not None and found.opportunities.threads == threads
        assert f"predicted for {whom}: " in str(found)

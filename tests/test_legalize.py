"""Hold the laws of legalization: what comes out is what the provider takes, and computes the same."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from compiler.backend.emit import to_proto
from compiler.frontend.bodies import FunctionBodies
from compiler.ir.dtype import DType
from compiler.ir.graph import Model, Node
from compiler.manager import Runner, parse_pipeline
from compiler.rewrite.legal import Legality
from compiler.rewrite.transform import Context
from compiler.verify.worker import Worker, shared_worker
from targets import Target, load_target
from tests.golden_passes import feeds, read

NPU = "npu"


def context(model: Model, name: str) -> Context:
    """Return what passes may use on a target."""
    target: Target = load_target(name)
    return Context(target=target, legality=Legality.of(target, opset=model.opsets[""], bodies=FunctionBodies()))


def legalized(text: str, name: str = NPU, pipeline: str = "expand, legalize, fold, cancel, no-ops, dead-code") -> Model:
    """Return what a pipeline makes of a text on a target."""
    model = read(text)
    Runner(model, context(model, name), strict=True).run(parse_pipeline(pipeline))
    return model


def run(model: Model, inputs: dict[str, Any]) -> list[Any]:
    """Run a model as it is."""
    worker: Worker = shared_worker()
    data = to_proto(model).SerializeToString()
    return worker.evaluate(data, inputs, [o.name for o in model.graph.outputs])


def ops(model: Model) -> list[str]:
    """Return the operators of a model in order."""
    return [node.qualified for node in model.graph.all_nodes()]


def refused(model: Model, name: str = NPU) -> list[str]:
    """Return why the target does not run nodes of a model."""
    legality = context(model, name).legality
    assert legality is not None
    return [reason for node in model.graph.all_nodes() if (reason := legality(node))]


def same(text: str, model: Model) -> None:
    """Require that a model computes what a text does."""
    before = read(text)
    inputs = feeds(before, {})
    for expected, found in zip(run(before, inputs), run(model, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


WINDOWS = """// ampc 1, opset 18
graph @main(%x: f32[1,4,2,4,2,3]) -> (%y: f32[1,4,4,2,2,3]) {
  %y: f32[1,4,4,2,2,3] = Transpose(%x) {perm = [0, 1, 3, 2, 4, 5]}
  return %y
}
"""

RANK_SIX = {
    "windows": (WINDOWS, ["Reshape", "Transpose", "Reshape"]),
    "sum": (
        """// ampc 1, opset 18
graph @main(%x: f32[2,1,2,3,1,2], %z: f32[1,2,3,2,2]) -> (%y: f32[2,1,2,3,2,2]) {
  %y: f32[2,1,2,3,2,2] = Add(%x, %z)
  return %y
}
""",
        ["Reshape", "Reshape", "Add", "Reshape"],
    ),
    "softmax": (
        """// ampc 1, opset 18
graph @main(%x: f32[2,1,2,3,1,2]) -> (%y: f32[2,1,2,3,1,2]) {
  %y: f32[2,1,2,3,1,2] = Softmax(%x) {axis = -1}
  return %y
}
""",
        ["Reshape", "Softmax", "Reshape"],
    ),
    "product": (
        """// ampc 1, opset 18
graph @main(%x: f32[2,1,2,3,4,2], %z: f32[2,1,2,3,2,5]) -> (%y: f32[2,1,2,3,4,5]) {
  %y: f32[2,1,2,3,4,5] = MatMul(%x, %z)
  return %y
}
""",
        ["Reshape", "Reshape", "MatMul", "Reshape"],
    ),
}


@pytest.mark.parametrize("case", RANK_SIX)
def test_axes_that_stay_together_become_one(case: str) -> None:
    """A node of six axes is computed with at most five, to the same result."""
    text, expected = RANK_SIX[case]
    model = legalized(text)
    assert ops(model) == expected
    inner = [n for n in model.graph.nodes() if not n.is_op("Reshape")]
    assert all(v is None or (v.rank or 0) <= 5 for n in inner for v in (*n.inputs, *n.outputs))
    same(text, model)


def test_axes_that_part_are_left() -> None:
    """A transposition of six groups of axes has no form of five, and the reason is told."""
    text = """// ampc 1, opset 18
graph @main(%x: f32[2,3,2,3,2,3]) -> (%y: f32[3,2,3,2,3,2]) {
  %y: f32[3,2,3,2,3,2] = Transpose(%x) {perm = [5, 4, 3, 2, 1, 0]}
  return %y
}
"""
    model = read(text)
    runner = Runner(model, context(model, NPU), strict=True)
    (record,) = runner.run(parse_pipeline("legalize"))
    assert not record.changed and "keeps 6 axes" in next(iter(record.refusals))


def test_indices_are_narrowed_where_they_fit() -> None:
    """Indices along an axis of known size become 32-bit, and those below zero are written as what they stand for."""
    text = """// ampc 1, opset 18
graph @main(%x: f32[4,3], %i: i64[2]) -> (%a: f32[2,3], %b: f32[2,3]) {
  const %j: i64[2] = [-1, 2]
  %a: f32[2,3] = Gather(%x, %i)
  %b: f32[2,3] = Gather(%x, %j)
  return %a, %b
}
"""
    model = legalized(text)
    gathers = [n for n in model.graph.nodes() if n.is_op("Gather")]
    assert [n.inputs[1].dtype for n in gathers if n.inputs[1] is not None] == [DType.I32, DType.I32]
    assert [n.inputs[1].array().tolist() for n in gathers if n.inputs[1] and n.inputs[1].constant] == [[3, 2]]  # type: ignore[union-attr]  # a constant
    same(text, model)
    assert ops(legalized(text, "cpu")) == ["Gather", "Gather"]


def test_truth_values_are_gathered_as_numbers() -> None:
    """What moves truth values where only numbers are moved gets them as numbers, by indices that are taken there."""
    text = """// ampc 1, opset 18
graph @main(%x: f32[2,4], %i: i64[1,1,1,3,2]) -> (%y: f32[1,1,1,3]) {
  const %zero: f32[] = 0.0
  const %one: f32[] = 1.0
  %b: bool[2,4] = Greater(%x, %zero)
  %g: bool[1,1,1,3] = GatherND(%b, %i)
  %y: f32[1,1,1,3] = Where(%g, %one, %zero)
  return %y
}
"""
    model = legalized(text)
    assert refused(model) == []
    before = read(text)
    inputs = {"x": np.arange(-3, 5, dtype=np.float32).reshape(2, 4), "i": np.array([[[[[0, 0], [1, 3], [1, 0]]]]])}
    np.testing.assert_array_equal(run(before, inputs)[0], run(model, inputs)[0])


def test_gemm_is_taken_apart_where_only_its_plainest_form_runs() -> None:
    """A Gemm with factors and transposed operands becomes a product and a sum."""
    text = """// ampc 1, opset 18
graph @main(%a: f32[3,2], %b: f32[4,3], %c: f32[4]) -> (%y: f32[2,4]) {
  %y: f32[2,4] = Gemm(%a, %b, %c) {alpha = 0.5, beta = 2.0, transA = 1, transB = 1}
  return %y
}
"""
    model = legalized(text)
    assert "Gemm" not in ops(model) and refused(model) == []
    same(text, model)


def test_attributes_that_say_nothing_are_dropped() -> None:
    """A Reshape to known sizes other than zero loses the attribute that compiling providers refuse."""
    text = """// ampc 1, opset 18
graph @main(%x: f32[4,3]) -> (%y: f32[3,4]) {
  const %s: i64[2] = [3, 4]
  %y: f32[3,4] = Reshape(%x, %s) {allowzero = 1}
  return %y
}
"""
    assert refused(read(text)) and refused(legalized(text)) == []
    kept = text.replace("[3, 4]", "[0, 4]").replace("4,3", "0,3").replace("f32[3,4]", "f32[0,4]")
    node: Node = next(legalized(kept, "cpu").graph.nodes())
    assert node.attr("allowzero") == 1


def test_padding_along_some_axes_is_padding_along_all() -> None:
    """A provider that takes no axes for a Pad gets one along all of them."""
    text = """// ampc 1, opset 18
graph @main(%x: f32[2,3]) -> (%y: f32[2,6]) {
  const %p: i64[2] = [1, 2]
  const %z: f32[] = 0.5
  const %a: i64[1] = [-1]
  %y: f32[2,6] = Pad(%x, %p, %z, %a)
  return %y
}
"""
    model = legalized(text)
    assert refused(model) == []
    same(text, model)


# Floats


NARROW = """// ampc 1, opset 18
graph @main(%x: bf16[2,3]) -> (%y: bf16[2,4], %n: i64[2]) {
  const %w: bf16[3,4] = [[1, 2, 3, 4], [5, 6, 7, 8], [0.5, 0.25, 2, 1]]
  %m: bf16[2,4] = MatMul(%x, %w)
  %y: bf16[2,4] = Tanh(%m)
  %n: i64[2] = Shape(%m)
  return %y, %n
}
"""


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_processors_compute_narrow_floats_in_single_precision(kind: str) -> None:
    """Nodes compute in f32 between casts at the boundary; inputs and outputs keep their types."""
    model = legalized(NARROW.replace("bf16", kind), "cpu", "legalize-floats, dead-code")
    assert [str(v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)] == [kind, kind, "i64"]
    wide = [n for n in model.graph.nodes() if not n.is_op("Cast")]
    assert {v.dtype for n in wide for v in n.inputs if v is not None} == {DType.F32}
    numpy = np.dtype(ml_dtypes.bfloat16 if kind == "bf16" else np.float16)
    x = np.array([[0.5, -1, 0.25], [0, 0.125, -0.5]], numpy)
    weights = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [0.5, 0.25, 2, 1]], np.float32)
    found = run(model, {"x": x})
    expected = np.tanh(x.astype(np.float32) @ weights).astype(numpy)
    np.testing.assert_array_equal(found[0].astype(np.float32), expected.astype(np.float32))
    assert found[1].tolist() == [2, 4]


def test_targets_with_narrow_arithmetic_keep_it() -> None:
    """A GPU with bf16 kernels computes in bf16."""
    model = legalized(NARROW, "gpu_cuda", "legalize-floats")
    assert ops(model) == ["MatMul", "Tanh", "Shape"]


def test_nested_graphs_are_widened_too() -> None:
    """Nodes of a branch compute in f32 with what they see of the graph around, and the branch gives what it gave."""
    text = """// ampc 1, opset 18
graph @main(%x: f16[2], %c: bool[]) -> (%y: f16[2]) {
  %a: f16[2] = Neg(%x)
  %y: f16[2] = If(%c) {then_branch = graph @then() -> (%t: f16[2]) {
      %t: f16[2] = Exp(%a)
      return %t
    }, else_branch = graph @else() -> (%e: f16[2]) {
      %e: f16[2] = Abs(%a)
      return %e
    }}
  return %y
}
"""
    model = legalized(text, "cpu", "legalize-floats, dead-code")
    wide = [n for n in model.graph.all_nodes() if n.op in ("Neg", "Exp", "Abs")]
    assert len(wide) == 3 and all(n.output.dtype is DType.F32 for n in wide)
    for chosen in (True, False):
        inputs = {"x": np.array([0.5, -2], np.float16), "c": np.array(chosen)}
        np.testing.assert_allclose(run(model, inputs)[0], run(read(text), inputs)[0], rtol=1e-3)


def test_operators_that_are_too_new_are_taken_apart_whoever_runs_the_parts() -> None:
    """A node that no opset of the target has cannot stay, even where the first provider runs not all of its parts."""
    text = """// ampc 1, opset 23
graph @main(%q: f32[1,2,4,8], %k: f32[1,2,4,8], %m: bool[4,4]) -> (%y: f32[1,2,4,8]) {
  %y: f32[1,2,4,8] = Attention(%q, %k, %k, %m)
  return %y
}
"""
    model = legalized(text, "npu_nnapi")
    assert "Attention" not in ops(model)
    legality = context(model, "npu_nnapi").legality
    assert isinstance(legality, Legality) and not any(map(legality.too_new, model.graph.all_nodes()))
    random = np.random.default_rng(3)
    inputs = {name: random.standard_normal((1, 2, 4, 8)).astype(np.float32) for name in "qk"}
    inputs["m"] = np.tri(4, dtype=bool)
    np.testing.assert_allclose(run(model, inputs)[0], run(read(text), inputs)[0], rtol=1e-4, atol=1e-5)

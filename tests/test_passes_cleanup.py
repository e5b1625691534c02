"""The clean-up passes: canonical forms, folding, dead code, sharing, and what cancels out.

Most laws are golden cases (``tests/golden``): the text after the pass, and what both texts compute on ONNX
Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest

from compiler.backend.emit import to_proto
from compiler.errors import InputError
from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Model, Node, Value
from compiler.ir.parser import parse_model
from compiler.ir.printer import print_model
from compiler.ir.types import TensorType
from compiler.ir.verify import verify
from compiler.manager import make_pass
from compiler.rewrite.transform import Context
from passes.cancel import Cancel
from passes.common_subexpressions import CommonSubexpressions
from passes.dead_code import DeadCode
from passes.denormals import FlushDenormals
from passes.fold import Fold
from passes.no_ops import NoOps
from passes.share_constants import ShareConstants
from tests.golden_passes import FAILING, apply, can_run, cases, feeds, halves, read, transformed
from tests.isolation import Child, Remote
from tests.random_texts import random_text

PASSES = (
    "cancel",
    "canonicalize",
    "common-subexpressions",
    "constant-conditions",
    "dead-code",
    "flush-denormals",
    "fold",
    "no-ops",
    "shape-chains",
    "share-constants",
)
CASES = cases(*PASSES)
F32 = DType.F32


def ops(graph: Graph) -> list[str]:
    """Return the operators of a graph in order."""
    return [n.op for n in graph.nodes()]


def run(oracle: Child, model: Model, inputs: dict[str, Any]) -> list[Any]:
    """Run a model on ONNX Runtime without optimization."""
    found: list[Any] = oracle.call("tests.hostile_runner:run", to_proto(model).SerializeToString(), inputs)
    return found


def graph(inputs: str, outputs: str, *lines: str) -> Model:
    """Return the inferred model of a graph of some statements that returns what ``outputs`` declares."""
    returned = ", ".join(o.split(":")[0].strip() for o in outputs.split("; "))
    declared = outputs.replace("; ", ", ")
    body = "\n".join(lines)
    return read(f"// ampc 1, opset 20\ngraph @main({inputs}) -> ({declared}) {{\n{body}\nreturn {returned}\n}}")


# Golden cases ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_idempotent(case: str) -> None:
    """A pass finds nothing to do in what it made."""
    model = transformed(case)
    assert not apply(make_pass(case.partition(".")[0]), model), print_model(model)


@pytest.mark.parametrize("case", CASES)
def test_undone(case: str) -> None:
    """Playing a pass's journal backwards gives the model before it, up to the order of constants."""
    model = read(halves(case)[0])
    before = print_model(model)
    edit.begin(model)
    make_pass(case.partition(".")[0]).run(model.graph, Context())
    edit.rollback(model)
    verify(model)
    assert sorted(print_model(model).splitlines()) == sorted(before.splitlines())


@pytest.mark.parametrize("size", [3, 1, 0])
@pytest.mark.parametrize("case", CASES)
def test_computes_the_same(case: str, size: int, oracle: Child) -> None:
    """Before and after compute the same bits, for special values and for empty tensors."""
    before, after = read(halves(case)[0]), transformed(case)
    if not can_run(before):
        return
    symbols = {
        s: size for v in before.graph.inputs for d in v.shape or () if not isinstance(d, int) for s in d.symbols()
    }
    given = feeds(before, dict(symbols))
    if len(given) < len(before.graph.inputs):
        return
    try:
        expected = run(oracle, before, given)
    except Remote:
        assert case in FAILING or size == 0, "the model before does not run"
        return
    for one, other in zip(expected, run(oracle, after, given), strict=True):
        np.testing.assert_array_equal(other, one, strict=True)


# Constants ---------------------------------------------------------------------------------------


def weights(*arrays: Any) -> Model:
    """Return a model that adds each of some arrays of one shape to its input, one after the other."""
    shape = ",".join(map(str, arrays[0].shape))
    sums = [f"%s{i}: f32[{shape}] = Add(%{f's{i - 1}' if i else 'x'}, %w{i})" for i in range(len(arrays))]
    last = f"%y: f32[{shape}] = Neg(%s{len(arrays) - 1})"
    consts = [f"const %w{i}: f32[1] = [0.0]" for i in range(len(arrays))]
    lines = "\n".join([*consts, *sums, last])
    model = parse_model(
        f"// ampc 1, opset 20\ngraph @g(%x: f32[{shape}]) -> (%y: f32[{shape}]) {{\n{lines}\nreturn %y\n}}"
    )
    for value, array in zip(list(model.graph.constants), arrays, strict=True):
        value.constant = Constant.from_array(array)
        value.type = TensorType(F32, array.shape)
    return model


def test_denormals_become_zero_of_their_sign() -> None:
    """Denormals become zero of their sign, the rest keeps its bits, and clean tensors are not copied."""
    dirty = np.array([1e-40, -1e-40, 0.0, -0.0, np.nan, np.inf, 1.2e-38, -1.0] * 100, np.float32)
    clean = np.array([1.0, 0.0, -0.0, np.inf, np.nan, 3.0, 2.0, 1.2e-38] * 100, np.float32)
    model = weights(dirty, clean)
    kept = [v.constant for v in model.graph.constants][1]
    ctx = Context()
    assert apply(FlushDenormals(), model, ctx)
    found = {v.name: v.constant for v in model.graph.constants}
    assert ctx.rewrites == {"denormal weight": 200}
    assert found["w1"] is kept
    expected = np.where(np.abs(dirty) < 1.1754944e-38, np.copysign(np.float32(0), dirty), dirty)
    assert found["w0"] is not None
    assert found["w0"].array().tobytes() == expected.astype(np.float32).tobytes()
    assert not apply(FlushDenormals(), model)


def test_denormals_are_found_in_every_piece() -> None:
    """A single denormal is found wherever it stands in a tensor that is scanned in pieces."""
    for at in (0, 65_535, 65_536, 199_999):
        array = np.ones(200_000, np.float32)
        array[at] = 1e-39
        model = weights(array)
        ctx = Context()
        assert apply(FlushDenormals(), model, ctx)
        assert ctx.rewrites == {"denormal weight": 1}


def test_denormals_beyond_the_limit_stay() -> None:
    """Weights beyond the limit are not read; a limit that is no size is the user's mistake."""
    model = weights(np.full(1000, 1e-40, np.float32))
    ctx = Context()
    assert not apply(FlushDenormals(limit="1KB"), model, ctx)
    assert ctx.refusals
    with pytest.raises(InputError):
        FlushDenormals(limit="1000").run(model.graph, ctx)


def test_sharing_compares_all_bytes() -> None:
    """Large constants that agree in the sampled bytes only stay two; equal ones become one."""
    array = np.zeros(5000, np.float32)
    other = array.copy()
    other[1234] = 1.0
    model = weights(array, other, array.copy())
    assert apply(ShareConstants(), model)
    assert [v.name for v in model.graph.constants] == ["w0", "w1"]
    assert not apply(ShareConstants(), model)


BRANCHES = """// ampc 1, opset 20
graph @main(%x: f32[N,4], %c: bool[]) -> (%y: f32[N,4]) {
  %y: f32[N,4] = If(%c) {
    else_branch = graph @e() -> (%q: f32[N,4]) {
      const %k: f32[1] = [2.0]
      %q: f32[N,4] = Mul(%x, %k)
      return %q
    },
    then_branch = graph @t() -> (%r: f32[N,4]) {
      const %k: f32[1] = [2.0]
      %r: f32[N,4] = Add(%x, %k)
      return %r
    }
  }
  return %y
}
"""


def test_siblings_share_large_constants() -> None:
    """Equal large constants of both branches move out to the graph that both see."""
    model = read(BRANCHES)
    for graph in list(model.graph.all_graphs())[1:]:
        for value in graph.constants:
            value.constant, value.type = (
                Constant.from_array(np.ones((500, 4), np.float32)),
                TensorType(F32, (500, 4)),
            )
    assert apply(ShareConstants(), model)
    assert [len(g.constants) for g in model.graph.all_graphs()] == [1, 0, 0]


# Folding -----------------------------------------------------------------------------------------


def constant_of(model: Model, name: str, array: Any) -> Value:
    """Give a constant of a model other contents and return its value."""
    value = next(v for v in model.graph.constants if v.name == name)
    value.constant, value.type = (
        Constant.from_array(array),
        TensorType(DType.from_numpy(array.dtype), array.shape),
    )
    return value


TIED = """// ampc 1, opset 20
graph @main(%x: f32[N,200], %i: i64[M]) -> (%y: f32[N,400], %z: f32[M,200]) {
  const %w: f32[1] = [0.0]
  %t: f32[200,400] = Transpose(%w) {perm = [1, 0]}
  %y: f32[N,400] = MatMul(%x, %t)
  %z: f32[M,200] = Gather(%w, %i)
  return %y, %z
}
"""


def tied(text: str = TIED) -> Model:
    """Return a model whose weight of 320 kB is read twice."""
    model = parse_model(text)
    constant_of(model, "w", np.arange(80_000, dtype=np.float32).reshape(400, 200))
    return model


def test_a_tied_weight_is_not_stored_twice() -> None:
    """A transposed weight that is also read as it is is folded only as far as the budget goes."""
    ctx = Context()
    assert not apply(Fold(budget="300KB"), tied(), ctx)
    assert any("twice" in reason for reason in ctx.refusals)
    assert apply(Fold(budget="400KB"), tied())


def test_a_weight_of_one_reader_is_folded_without_budget() -> None:
    """A result that is no larger than the constants that it frees costs nothing."""
    model = tied(TIED.replace("Gather(%w, %i)", "Gather(%x, %i)"))
    assert apply(Fold(budget="1B"), model)
    assert ops(model.graph) == ["MatMul", "Gather"]
    assert [v.constant.shape for v in model.graph.constants if v.constant] == [(200, 400)]


def test_much_is_not_made_of_little() -> None:
    """Operators that make a large tensor of a small one are not folded, however large the result would be."""
    model = read(
        """// ampc 1, opset 20
graph @main(%x: f32[N]) -> (%y: f32[1000000000000], %z: f32[4000,1000], %k: f32[4]) {
  const %huge: i64[1] = [1000000000000]
  const %large: i64[2] = [4000, 1000]
  const %small: i64[1] = [4]
  const %one: f32[1] = [1.0]
  %y: f32[1000000000000] = Expand(%one, %huge)
  %z: f32[4000,1000] = Expand(%one, %large)
  %a: f32[4] = Expand(%one, %small)
  %k: f32[4] = Neg(%a)
  return %y, %z, %k
}
"""
    )
    apply(Fold(), model)
    assert ops(model.graph)[:2] == ["Expand", "Expand"]


class Runtime:
    """A runtime that knows ``Gelu`` only, and fails when one of the nodes reads a negative number."""

    def __init__(self) -> None:
        """Start without calls."""
        self.calls: list[int] = []

    def __call__(self, nodes: Sequence[Node], wanted: Sequence[Value]) -> list[Constant] | str:
        """Return twice the operands."""
        self.calls.append(len(nodes))
        operands = [n.inputs[0].array() for n in nodes if n.inputs[0] is not None]
        if any(o is None or (o < 0).any() for o in operands):
            return "a negative number"
        return [Constant.from_array(np.asarray(2 * v.node.inputs[0].array(), np.float32)) for v in wanted]  # type: ignore[union-attr,operator]  # checked above


def test_what_the_runtime_cannot_compute_stays() -> None:
    """One failing node does not keep the others from being folded, and is left alone."""
    lines = [f"const %c{i}: f32[1] = [{-1.0 if i == 5 else float(i)}]" for i in range(16)]
    lines += [f"%g{i}: f32[1] = Gelu(%c{i})" for i in range(16)]
    names = [f"%g{i}" for i in range(16)]
    lines.append(f"%y: f32[N + 16] = Concat({', '.join(names)}, %x) {{axis = 0}}")
    body = "\n".join(lines)
    model = read(f"// ampc 1, opset 20\ngraph @main(%x: f32[N]) -> (%y: f32[N + 16]) {{\n{body}\nreturn %y\n}}")
    runtime = Runtime()
    assert apply(Fold(), model, Context(evaluate=runtime))
    assert ops(model.graph) == ["Gelu", "Concat"]
    assert runtime.calls[0] == 16
    assert len(runtime.calls) <= 9


# Size, depth and names ---------------------------------------------------------------------------


def chain(length: int, statement: str) -> Model:
    """Return a model of one statement repeated, ``{0}`` reading what the last one made."""
    lines = [statement.format(f"v{i - 1}" if i else "x", f"v{i}") for i in range(length)]
    last = f"%y: f32[N,4] = Neg(%v{length - 1})"
    return graph("%x: f32[N,4]", "%y: f32[N,4]", "const %zero: f32[] = -0.0", *lines, last)


def test_long_chains_collapse_in_one_run() -> None:
    """Five thousand operators that do nothing, or undo each other, are gone after one run."""
    model = chain(5000, "%{1}: f32[N,4] = Add(%{0}, %zero)")
    apply(NoOps(), model)
    assert ops(model.graph) == ["Neg"]
    model = chain(
        2500,
        "%t{1}: f32[4,N] = Transpose(%{0}) {{perm = [1, 0]}}\n%{1}: f32[N,4] = Transpose(%t{1}) {{perm = [1, 0]}}",
    )
    apply(Cancel(), model)
    assert ops(model.graph) == ["Neg"]


def test_wide_fans_merge() -> None:
    """Five thousand equal readers of one value become one that remembers where all came from."""
    lines = [f'%r{i}: f32[N,4] = Relu(%x) loc("r{i}")\n%n{i}: f32[N,4] = Neg(%r{i})' for i in range(5000)]
    model = graph("%x: f32[N,4]", "%y: f32[N,4]", *lines, "%y: f32[N,4] = Exp(%n7)")
    apply(CommonSubexpressions(), model)
    assert ops(model.graph) == ["Relu", "Neg", "Exp"]
    assert len(next(model.graph.nodes()).loc.names) == 5000


def test_deep_nesting() -> None:
    """Every pass walks graphs that are nested two thousand deep."""
    model = graph("%x: f32[4], %c: bool[]", "%y: f32[4]", "%y: f32[4] = Relu(%x)")
    x, c = model.graph.inputs
    graphs = [model.graph]
    for _ in range(2000):
        owner = Node("If", (c,), (Value("", x.type),), version=20)
        branches = [edit.new_graph("", model, owner) for _ in range(2)]
        for branch in branches:
            made = edit.add_node(branch, "Neg", [x], [x.type], version=20)
            edit.add_output(branch, made.output)
        owner.attributes = {
            "then_branch": Attr("graph", branches[0]),
            "else_branch": Attr("graph", branches[1]),
        }
        owner.outputs[0].name = model.fresh_name("a")
        edit.attach(graphs[-1], owner)
        edit.set_output(graphs[-1], 0, owner.output)
        graphs.append(branches[0])
    for name in PASSES:
        make_pass(name).run(model.graph, Context())
    verify(model)
    assert sum(1 for _ in model.graph.all_graphs()) == 4001


def test_foreign_nested_graphs_are_left_alone() -> None:
    """Nothing changes in a graph nested in an operator of an unknown domain."""
    text = """// ampc 1, opset 20, example.com 1
graph @main(%x: f32[N]) -> (%y: ?) {
  %a: f32[N] = Relu(%x)
  %y: ? = example.com::Each(%a) {
    body = graph @body(%v: f32[N]) -> (%w: f32[N]) {
      const %one: f32[] = 1.0
      const %eins: f32[] = 1.0
      %u: f32[N] = Relu(%x)
      %d: f32[N] = Mul(%v, %one)
      %dead: f32[N] = Mul(%eins, %v)
      %w: f32[N] = Mul(%d, %eins)
      return %w
    }
  }
  return %y
}
"""
    model = parse_model(text)
    before = print_model(model)
    for name in PASSES:
        assert not make_pass(name).run(model.graph, Context()), name
    assert print_model(model) == before


def test_dead_code_keeps_overridable_inputs() -> None:
    """An input stays, whether it has a default or not and whether anything reads it or not."""
    model = read(
        "// ampc 1, opset 20\ngraph @main(%x: f32[2], %k: f32[2] = [1.0, 2.0]) -> (%y: f32[2]) {\n"
        "%y: f32[2] = Neg(%x)\nreturn %y\n}"
    )
    assert not apply(DeadCode(), model)
    assert [v.name for v in model.graph.inputs] == ["x", "k"]


@pytest.mark.parametrize("seed", range(16))
def test_any_order_computes_the_same(seed: int, oracle: Child) -> None:
    """Random models compute the same bits after passes in random order, for ordinary and for empty tensors."""
    model = read(random_text(seed))
    before = to_proto(model).SerializeToString()
    order = Random(seed)
    for name in order.choices(PASSES, k=15):
        apply(make_pass(name), model)
    for size in (3, 0):
        given = feeds(model, {"N": size})
        expected = oracle.call("tests.hostile_runner:run", before, given)
        for one, other in zip(expected, run(oracle, model, given), strict=True):
            np.testing.assert_array_equal(other, one, strict=True)

"""Validation of passes: right rewrites pass, wrong ones are found, and each is held to its own promise only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Model, Node, Value
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.verify.compare import Tolerance, compare
from compiler.verify.probes import settle
from compiler.verify.reference import Original, Reference
from compiler.verify.regions import REPEATS, RegionLog
from compiler.verify.regions_check import RegionReport, check_regions
from compiler.verify.regions_repro import write_repro
from compiler.verify.worker import Worker

Change = Callable[[Model], None]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One child process for all tests of this file."""
    with Worker(timeout=30) as one:
        yield one


def check(worker: Worker, text: str, *changes: Change) -> RegionReport:
    """Apply each change as a pass of its own (``pass-1`` …) and check all of them."""
    model = parse_model("// ampc 1, opset 20\n" + text)
    infer(model.graph)
    log = RegionLog(model)
    for number, change in enumerate(changes, start=1):
        journal = edit.begin(model)
        change(model)
        edit.commit(model)
        log.capture(model, journal, f"pass-{number}")
    reference = Reference(
        Original.of(log.recording) if not hasattr(log.recording, "image") else log.recording, worker, 10
    )
    settled = settle(reference, log.plan.candidates())
    assert settled.probes, settled.refused
    return check_regions(log, reference, settled.probes[:1], worker, max_ir=10)


def find(model: Model, op: str, index: int = 0) -> Node:
    """Return the node of an operator, nested ones included."""
    return [n for n in model.graph.all_nodes() if n.op == op][index]


def put(node: Node, op: str, inputs: list[Value | None] | None = None, **attributes: int) -> Node:
    """Put another operator in a node's place."""
    graph = node.graph
    assert graph is not None
    made = {k: Attr("int", v) for k, v in attributes.items()}
    new = edit.add_node(
        graph, op, node.inputs if inputs is None else inputs, [node.output.type], made, version=20, before=node
    )
    edit.replace(node.output, new.output)
    edit.erase(node)
    return new


CHAINS = """
graph @main(%x: f32[N,4], %y: f32[N,4], %z: f32[N,4]) -> (%a: f32[N,4], %b: f32[N,4], %c: f32[N,4]) {
  %x1: f32[N,4] = Relu(%x)  loc("first")
  %a: f32[N,4] = Neg(%x1)
  %y1: f32[N,4] = Relu(%y)  loc("second")
  %b: f32[N,4] = Neg(%y1)
  %z1: f32[N,4] = Relu(%z)  loc("third")
  %c: f32[N,4] = Neg(%z1)
  return %a, %b, %c
}
"""


def test_a_right_rewrite_passes(worker: Worker) -> None:
    """Replacing a node by its equal is checked and raises nothing."""

    def change(model: Model) -> None:
        node = find(model, "Relu")
        zero = edit.add_constant(model.graph, Constant.of(0.0, DType.F32))
        put(node, "Max", [node.inputs[0], zero])

    report = check(worker, CHAINS, change)
    assert (report.checked, report.failures, report.unchecked) == (1, [], {})


def test_a_wrong_rewrite_is_narrowed_to_its_instance(worker: Worker) -> None:
    """Among three rewrites of which one is wrong, that one fails and is named by the node it replaced."""

    def change(model: Model) -> None:
        zero = edit.add_constant(model.graph, Constant.of(0.0, DType.F32))
        for node in [n for n in model.graph.nodes() if n.op == "Relu"]:
            right = node.loc.names != ("second",)
            put(node, "Max" if right else "Min", [node.inputs[0], zero])

    report = check(worker, CHAINS, change)
    assert [f.nodes for f in report.failures] == [("second",)]
    assert report.failures[0].pass_name == "pass-1"
    assert "Relu => Min" in str(report.failures[0])


def test_an_error_is_not_blamed_on_later_passes(worker: Worker) -> None:
    """What follows a wrong rewrite is checked on the original's values."""

    def wrong(model: Model) -> None:
        put(find(model, "Relu"), "Abs")

    def right(model: Model) -> None:
        node = find(model, "Neg")
        minus = edit.add_constant(model.graph, Constant.of(-1.0, DType.F32))
        put(node, "Mul", [node.inputs[0], minus])

    report = check(worker, CHAINS, wrong, right)
    assert [f.pass_name for f in report.failures] == ["pass-1"]
    assert report.checked == 2


def test_a_later_pass_may_rewrite_what_an_earlier_one_made(worker: Worker) -> None:
    """Values that the original does not have are computed by the rewrite that makes them."""

    def split(model: Model) -> None:
        node = find(model, "Relu")
        graph, x = model.graph, node.inputs[0]
        zero = edit.add_constant(graph, Constant.of(0.0, DType.F32))
        double = edit.add_node(graph, "Add", [x, x], [node.output.type], version=20, before=node)
        half = edit.add_constant(graph, Constant.of(0.5, DType.F32))
        scaled = edit.add_node(graph, "Mul", [double.output, half], [node.output.type], version=20, before=node)
        put(node, "Max", [scaled.output, zero])

    def right(model: Model) -> None:
        node = find(model, "Mul")
        put(node, "Div", [node.inputs[0], edit.add_constant(model.graph, Constant.of(2.0, DType.F32))])

    def wrong(model: Model) -> None:
        node = find(model, "Div")
        put(node, "Mul", list(node.inputs))

    assert check(worker, CHAINS, split, right).failures == []
    failed = check(worker, CHAINS, split, right, wrong).failures
    assert [f.pass_name for f in failed] == ["pass-3"]


def test_removed_dead_nodes_promise_nothing(worker: Worker) -> None:
    """Erasing what nobody reads gives nothing to check."""
    text = """
    graph @main(%x: f32[2]) -> (%y: f32[2]) {
      %d: f32[2] = Exp(%x)
      %e: f32[2] = Log(%d)
      %y: f32[2] = Neg(%x)
      return %y
    }
    """

    def change(model: Model) -> None:
        edit.erase(find(model, "Log"))
        edit.erase(find(model, "Exp"))

    report = check(worker, text, change)
    assert (report.checked, report.failures) == (0, [])


def test_values_inside_a_rewrite_may_change(worker: Worker) -> None:
    """Two nodes changed so that only their composition stays the same are one rewrite, and right."""
    text = """
    graph @main(%x: f32[2,3,4]) -> (%y: f32[4,3,2]) {
      %a: f32[3,2,4] = Transpose(%x) {perm = [1, 0, 2]}
      %y: f32[4,3,2] = Transpose(%a) {perm = [2, 0, 1]}
      return %y
    }
    """

    def change(model: Model) -> None:
        first, second = find(model, "Transpose"), find(model, "Transpose", 1)
        edit.set_attribute(first, "perm", Attr("ints", (2, 0, 1)))
        edit.set_attribute(second, "perm", Attr("ints", (0, 2, 1)))
        infer(model.graph)

    def wrong(model: Model) -> None:
        edit.set_attribute(find(model, "Transpose"), "perm", Attr("ints", (0, 1, 2)))

    report = check(worker, text, change)
    assert (report.checked, report.failures) == (1, [])
    assert len(check(worker, text, change, wrong).failures) == 1


def test_one_value_put_for_another_is_checked(worker: Worker) -> None:
    """Reading an existing value instead of another needs both to be equal."""
    text = """
    graph @main(%x: f32[3]) -> (%y: f32[3], %z: f32[3]) {
      %a: f32[3] = Abs(%x)
      %b: f32[3] = Abs(%x)
      %c: f32[3] = Relu(%x)
      %y: f32[3] = Neg(%b)
      %z: f32[3] = Exp(%c)
      return %y, %z
    }
    """

    def right(model: Model) -> None:
        edit.replace(find(model, "Abs", 1).output, find(model, "Abs").output)
        edit.erase(find(model, "Abs", 1))

    def wrong(model: Model) -> None:
        edit.replace(find(model, "Relu").output, find(model, "Abs").output)
        edit.erase(find(model, "Relu"))

    assert check(worker, text, right).failures == []
    report = check(worker, text, right, wrong)
    assert [f.pass_name for f in report.failures] == ["pass-2"]


def test_replaced_outputs_keep_their_promise(worker: Worker) -> None:
    """A rewrite of what the graph returns, where names are swapped, is checked under the original's name."""

    def change(model: Model) -> None:
        for node in [n for n in model.graph.nodes() if n.op == "Neg"]:
            put(node, "Identity")

    def again(model: Model) -> None:
        put(find(model, "Identity"), "Neg")

    assert len(check(worker, CHAINS, change).failures) == 3
    assert {f.pass_name for f in check(worker, CHAINS, change, again).failures} == {"pass-1", "pass-2"}


BRANCHES = """
graph @main(%c: bool[], %x: f32[3]) -> (%y: f32[3]) {
  %e: f32[3] = Exp(%x)
  %y: f32[3] = If(%c) {
    then_branch = graph @then() -> (%t: f32[3]) {
      %t1: f32[3] = Relu(%e)
      %t2: f32[3] = Add(%t1, %x)
      %t: f32[3] = Neg(%t2)
      return %t
    },
    else_branch = graph @else() -> (%f: f32[3]) {
      %f1: f32[3] = Relu(%e)
      %f2: f32[3] = Add(%f1, %x)
      %f: f32[3] = Neg(%f2)
      return %f
    }
  }
  return %y
}
"""


@pytest.mark.parametrize(("op", "failures"), [("Sub", 1), ("Sum", 0)])
def test_changes_in_nested_graphs_are_checked(worker: Worker, op: str, failures: int) -> None:
    """A change inside a branch is checked as a change of the node around it."""

    def change(model: Model) -> None:
        for node in [n for n in model.graph.all_nodes() if n.op == "Add"]:
            put(node, op)

    report = check(worker, BRANCHES, change)
    assert (len(report.failures), report.checked) == (failures, 1)


def test_a_branch_that_was_moved_out_is_checked(worker: Worker) -> None:
    """Nodes that went from a nested graph to the main graph stand in both, before and after."""
    text = BRANCHES.replace("%c: bool[], ", "").replace("%e: f32[3] =", "const %c: bool[] = true\n  %e: f32[3] =", 1)

    def inline(branch: str) -> Change:
        def change(model: Model) -> None:
            node = find(model, "If")
            body = node.attr(branch)
            for inner in list(body.nodes()):
                edit.transfer(inner, node)
            edit.replace(node.output, body.outputs[0])
            edit.erase(node)

        return change

    report = check(worker, text, inline("then_branch"))
    assert (report.checked, report.failures, report.unchecked) == (1, [], {})


def test_random_nodes_are_left_unchecked(worker: Worker) -> None:
    """A rewrite with an operator that draws random numbers counts as unchecked, with the reason."""
    text = """
    graph @main(%x: f32[3]) -> (%y: f32[3]) {
      %r: f32[3] = RandomNormalLike(%x)
      %y: f32[3] = Add(%r, %x)
      return %y
    }
    """
    report = check(worker, text, lambda model: void(put(find(model, "RandomNormalLike"), "RandomUniformLike")))
    assert report.failures == []
    assert list(report.unchecked) == ["pass-1: RandomNormalLike draws random numbers"]


def void(_: Any) -> None:
    """Throw a result away."""


def test_equal_rewrites_are_checked_a_few_times(worker: Worker) -> None:
    """Of many equal rewrites the first ones are checked, the others are counted."""
    steps = "\n".join(f"%v{k + 1}: f32[3] = Relu(%v{k})" for k in range(8))
    text = f"graph @main(%v0: f32[3]) -> (%y: f32[3]) {{\n{steps}\n%y: f32[3] = Neg(%v8)\nreturn %y\n}}"

    def change(model: Model) -> None:
        for node in [n for n in model.graph.nodes() if n.op == "Relu"]:
            put(node, "LeakyRelu").attributes["alpha"] = Attr("float", 0.0)

    report = check(worker, text, change)
    assert report.failures == []
    assert report.checked + report.repeated <= 8
    assert report.checked <= REPEATS


@pytest.mark.parametrize(("folded", "failures"), [(3.0, 0), (4.0, 1)])
def test_folded_constants_are_checked(worker: Worker, folded: float, failures: int) -> None:
    """A constant put in place of nodes must be what the nodes compute."""
    text = """
    graph @main(%x: f32[2]) -> (%y: f32[2]) {
      const %a: f32[] = 1.0
      const %b: f32[] = 2.0
      %s: f32[] = Add(%a, %b)
      %y: f32[2] = Mul(%x, %s)
      return %y
    }
    """

    def change(model: Model) -> None:
        node = find(model, "Add")
        edit.replace(node.output, edit.add_constant(model.graph, Constant.of(folded, DType.F32)))
        edit.erase(node)

    report = check(worker, text, change)
    assert (report.checked, len(report.failures)) == (1, failures)


def test_a_rewrite_that_does_not_run_fails(worker: Worker) -> None:
    """A new side that the runtime refuses, where it runs the old one, is a failure and not merely unchecked."""

    def change(model: Model) -> None:
        put(find(model, "Relu", 1), "Softmax", axis=7)

    report = check(worker, CHAINS, change)
    assert len(report.failures) == 1
    assert "does not run" in str(report.failures[0])


def test_noise_of_an_ill_conditioned_rewrite_is_forgiven(worker: Worker) -> None:
    """A difference that one ulp of the inputs makes as well is no failure."""
    text = """
    graph @main(%x: f32[64]) -> (%y: f32[64]) {
      const %big: f32[] = 10000.0
      %a: f32[64] = Mul(%x, %big)
      %y: f32[64] = Sin(%a)
      return %y
    }
    """

    def change(model: Model) -> None:
        node = find(model, "Mul")
        hundred = edit.add_constant(model.graph, Constant.of(100.0, DType.F32))
        third = edit.add_constant(model.graph, Constant.of(3.0, DType.F32))
        graph, type_ = model.graph, node.output.type
        tripled = edit.add_node(graph, "Mul", [node.inputs[0], third], [type_], version=20, before=node)
        scaled = edit.add_node(graph, "Mul", [tripled.output, hundred], [type_], version=20, before=node)
        again = edit.add_node(graph, "Mul", [scaled.output, hundred], [type_], version=20, before=node)
        sine = find(model, "Sin")
        new = edit.add_node(graph, "Div", [again.output, third], [type_], version=20, before=node)
        final = edit.add_node(graph, "Sin", [new.output], [sine.output.type], version=20, before=sine)
        edit.replace(sine.output, final.output)
        edit.erase(sine)
        edit.erase(node)

    report = check(worker, text, change)
    assert report.failures == []
    assert any("ill-conditioned" in note for note in report.notes)


def test_a_repro_shows_the_failure(worker: Worker, tmp_path: Path) -> None:
    """The two models of a repro run on its inputs, and differ as the failure says."""
    report = check(worker, CHAINS, lambda model: void(put(find(model, "Relu"), "Abs")))
    write_repro(tmp_path / "repro", report.failures[0])
    with np.load(tmp_path / "repro" / "feeds.npz") as file:
        feeds = dict(file)
    before, after = (worker.evaluate(tmp_path / "repro" / name, feeds) for name in ("before.onnx", "after.onnx"))
    assert compare(before, after, tolerance=Tolerance.default()) is not None
    assert "ampc check before.onnx after.onnx" in (tmp_path / "repro" / "README.txt").read_text()

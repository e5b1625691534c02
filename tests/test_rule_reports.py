"""What a compilation says of its rules: who is at fault, what was rewritten, how often and how fast."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler import InputError, compile_model, manager
from compiler.ir import edit
from compiler.ir.graph import Graph
from compiler.rewrite import FLOATS, Rule
from compiler.rewrite.engine import Engine
from compiler.rewrite.transform import Context
from passes.stages import Optimize
from tests.test_cli import ampc

PASSES = "raise, optimize, lower"


class NegateTwice(Rule):
    """``Neg(x)`` is ``0 - x``: right."""

    before = "%y: T[*S] = Neg(%x: T[*S])"
    after = "%y = Sub(0.0, %x)"
    types = {"T": FLOATS}


class ReluIsAbs(Rule):
    """``Relu(x)`` is ``Abs(x)``: wrong below zero."""

    before = "%y: T[*S] = Relu(%x: T[*S])"
    after = "%y = Abs(%x)"
    types = {"T": FLOATS}


class SigmoidIsNothing(Rule):
    """``Sigmoid(x)`` is ``x``: wrong, and leaves no node behind."""

    before = "%y: T[*S] = Sigmoid(%x: T[*S])"
    after = "%y = Identity(%x)"
    types = {"T": FLOATS}


class AbsIsPower(Rule):
    """``|x|`` is the root of its square: right, and made of what ``ReluIsAbs`` makes."""

    before = "%y: T[*S] = Abs(%x: T[*S])"
    after = """
        %s = Mul(%x, %x)
        %y = Sqrt(%s)
    """
    types = {"T": FLOATS}


class FuseProducts(Rule):
    """A product of matrices is ``FusedMatMul``."""

    stage = "lower"
    before = "%y: T[M,N] = MatMul(%a: T[M,K], %b: T[K,N])"
    after = "%y = com.microsoft::FusedMatMul(%a, %b)"
    types = {"T": FLOATS}


class UseGemm(Rule):
    """A product of matrices is ``Gemm``."""

    stage = "lower"
    before = "%y: T[M,N] = MatMul(%a: T[M,K], %b: T[K,N])"
    after = "%y = Gemm(%a, %b)"
    types = {"T": FLOATS}


def model(*ops: str) -> Any:
    """Make ``x @ w`` followed by operators of one operand, each node called by its operator and position."""
    names = ["x", "h", *(f"v{i}" for i in range(1, len(ops))), "y"]
    nodes = [helper.make_node("MatMul", ["x", "w"], [names[1]], name="product")]
    nodes += [
        helper.make_node(op, [names[i + 1]], [names[i + 2]], name=f"{op.lower()}_{i}") for i, op in enumerate(ops)
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    w = numpy_helper.from_array(np.eye(4, dtype=np.float32) - 0.3, "w")
    graph = helper.make_graph(nodes, "chain", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let there be these rules and no others."""

    def only(*classes: type[Rule]) -> None:
        monkeypatch.setattr(manager, "known_rules", lambda: {cls.name: cls for cls in classes})

    return only


def compiled(*ops: str, **options: Any) -> dict[str, Any]:
    """Compile a chain and return the report."""
    result = compile_model(model(*ops), **{"target": "cpu", "passes": PASSES, **options})
    return {**result.report, "ops": [n.op_type for n in result.model.graph.node]}


# Who is at fault ---------------------------------------------------------------------------------


def test_a_wrong_rule_is_banned_and_its_pass_goes_on(rules: Callable[..., None]) -> None:
    """Of two rules of one pass the wrong one is named, left out and reported; the other still rewrites."""
    rules(NegateTwice, ReluIsAbs)
    report = compiled("Neg", "Sin", "Relu")
    assert [*report["rolled_back"]] == ["ReluIsAbs"]
    assert "ReluIsAbs: Relu => Abs at relu_2" in report["rolled_back"]["ReluIsAbs"]
    assert any(note.startswith("rule 'ReluIsAbs' was rolled back") for note in report["notes"])
    assert report["ops"] == ["MatMul", "Sub", "Sin", "Relu"]
    assert report["status"] == "verified"


def test_a_rule_that_leaves_no_node_is_named(rules: Callable[..., None]) -> None:
    """A rule that puts a value in the place of another is at fault for it, though no node tells of the rule."""
    rules(NegateTwice, SigmoidIsNothing)
    report = compiled("Neg", "Sigmoid", "Neg")
    assert [*report["rolled_back"]] == ["SigmoidIsNothing"]
    assert report["ops"] == ["MatMul", "Sub", "Sigmoid", "Sub"]


def test_of_rules_that_build_on_one_another_only_the_wrong_one_is_left_out(rules: Callable[..., None]) -> None:
    """Where a right rule rewrote what a wrong one made, or its neighbour, only the wrong one is left out at the end."""
    rules(AbsIsPower, NegateTwice, ReluIsAbs)
    report = compiled("Relu", "Neg", "Abs")
    assert [*report["rolled_back"]] == ["ReluIsAbs"]
    assert report["ops"] == ["MatMul", "Relu", "Sub", "Mul", "Sqrt"]
    assert report["status"] == "verified"


def test_each_culprit_has_its_own_reason(rules: Callable[..., None]) -> None:
    """Two wrong rules are both named, each with what it did."""
    rules(ReluIsAbs, SigmoidIsNothing)
    report = compiled("Relu", "Neg", "Sigmoid")
    assert [*report["rolled_back"]] == ["ReluIsAbs", "SigmoidIsNothing"]
    assert all(why.startswith(f"{name}: ") for name, why in report["rolled_back"].items())


def test_a_pass_without_rules_is_banned_as_a_whole() -> None:
    """What no rule did is the fault of the pass."""

    def scale(graph: Graph, ctx: Context) -> bool:
        node = next((n for n in graph.nodes() if n.op == "Relu"), None)
        if node is None:
            return False
        x = node.inputs[0]
        assert x is not None
        made = edit.add_node(graph, "Abs", [x], [x.type], version=edit.NEWEST, before=node)
        edit.replace(node.output, made.output)
        edit.erase(node)
        return True

    report = compiled("Relu", passes=[scale])
    assert [*report["rolled_back"]] == ["scale"]
    assert "pass 'scale' was rolled back" in " ".join(report["notes"])


def test_many_wrong_rules_in_a_row_end_with_the_pass(
    rules: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When leaving out rule after rule does not help, the pass is left out, and the rest of the pipeline stays."""
    monkeypatch.setattr("compiler.compilation._BY_RULE", 1)
    rules(AbsIsPower, ReluIsAbs, UseGemm)
    report = compiled("Relu", select="fused")
    assert "optimize" in report["rolled_back"]
    assert report["ops"] == ["Gemm", "Relu"]


class AlmostNegative(Rule):
    """``-x``, up to half a thousandth."""

    before = "%y: T[*S] = Neg(%x: T[*S])"
    after = "%y = Mul(%x, -1.0005)"
    types = {"T": FLOATS}
    rtol = 1e-3


class AlmostNegativeInSecret(AlmostNegative):
    """The same, and it does not say so."""

    before = AlmostNegative.before
    after = AlmostNegative.after
    rtol = 0.0


@pytest.mark.parametrize(("rule", "kept"), [(AlmostNegative, True), (AlmostNegativeInSecret, False)])
def test_a_rule_may_differ_as_much_as_it_says(rules: Callable[..., None], rule: type[Rule], kept: bool) -> None:
    """A rewrite may be off by its rule's ``rtol``, and by no more, as long as the result is right."""
    rules(rule)
    report = compiled("Neg", "Sign")
    assert report["ops"] == ["MatMul", "Mul" if kept else "Neg", "Sign"]
    assert [*report["rolled_back"]] == ([] if kept else [rule.name])


def test_a_result_may_not_differ_as_rules_do(rules: Callable[..., None]) -> None:
    """When every rewrite is as good as its rule says and the result is not, the rule that admits most goes."""
    rules(AlmostNegative, AbsIsPower)
    report = compiled("Abs", "Neg")
    assert [*report["rolled_back"]] == ["AlmostNegative"]
    assert report["ops"] == ["MatMul", "Mul", "Sqrt", "Neg"]
    assert report["status"] == "verified"


def test_a_reproduction_names_the_rule(rules: Callable[..., None], tmp_path: Path) -> None:
    """The folder of a reproduction has the rule's name, and so does what is written in it."""
    rules(ReluIsAbs)
    compiled("Relu", repro=tmp_path)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("ReluIsAbs")
    assert "Rule ReluIsAbs of the pass 'optimize'" in (kept / "README.txt").read_text()


# Which rules run ---------------------------------------------------------------------------------


def test_a_rule_can_be_disabled(rules: Callable[..., None]) -> None:
    """A rule that is disabled by name does nothing, and its neighbours do."""
    rules(NegateTwice, ReluIsAbs)
    report = compiled("Neg", "Relu", disable="ReluIsAbs")
    assert report["ops"] == ["MatMul", "Sub", "Relu"]
    assert report["disabled"] == ["ReluIsAbs"]
    assert not report["rolled_back"]


@pytest.mark.parametrize(("select", "op"), [("fused", "FusedMatMul"), ("standard", "Gemm"), ("cost", "MatMul")])
def test_selection_chooses_the_form(rules: Callable[..., None], select: str, op: str) -> None:
    """``fused`` takes the fused operator, ``standard`` one of ai.onnx, ``cost`` neither as long as no gain is known."""
    rules(FuseProducts, *([UseGemm] if select != "fused" else []))
    report = compiled("Relu", select=select)
    assert report["ops"][0] == op
    assert report["select"] == select


def test_a_selection_that_does_not_exist_is_refused() -> None:
    """The name of a selection is checked before anything is done, and the nearest one is suggested."""
    with pytest.raises(InputError, match="'fuse'") as caught:
        compiled("Relu", select="fuse")
    assert "fused" in caught.value.hint


# Statistics --------------------------------------------------------------------------------------


def test_the_report_counts_what_rules_did(rules: Callable[..., None], tmp_path: Path) -> None:
    """Tries, hits and refusals of each rule are in the report and the bundle; rules that never fired are listed."""
    rules(NegateTwice, AbsIsPower, FuseProducts)
    report = compiled("Neg", "Neg", output=tmp_path / "out")
    assert (report["rules"]["NegateTwice"]["tries"], report["rules"]["NegateTwice"]["hits"]) == (2, 2)
    assert report["rules_that_never_fired"] == ["AbsIsPower", "FuseProducts"]
    assert report["seconds"]["rule"]["NegateTwice"] >= 0
    written = json.loads((tmp_path / "out" / "ampc.json").read_text())
    assert written["rules"] == report["rules"]


def test_times_of_rules_are_not_in_the_bundle(rules: Callable[..., None], tmp_path: Path) -> None:
    """Two equal compilations write the same ``ampc.json``, though their rules took different times."""
    rules(NegateTwice, AbsIsPower)
    texts = []
    for name in ("a", "b"):
        compiled("Neg", "Abs", output=tmp_path / name)
        texts.append((tmp_path / name / "ampc.json").read_bytes())
    assert texts[0] == texts[1]


def test_refusals_are_few_in_the_report(rules: Callable[..., None]) -> None:
    """Reasons name values, so a report lists the most frequent ones and counts the others."""

    class Refuses(Rule):
        """``Neg(x)`` stays as it is."""

        before = "%y: T[*S] = Neg(%x: T[*S])"
        after = "%y = Sub(0.0, %x)"
        types = {"T": FLOATS}

        def guard(self, m: Any) -> str | None:
            """Refuse with the name of the value."""
            return f"it is {m['y'].name}"

    rules(Refuses)
    refusals = compiled(*["Neg"] * 12)["rules"]["Refuses"]["refusals"]
    assert len(refusals) == 9
    assert refusals["other reasons"] == 4


# The log -----------------------------------------------------------------------------------------


def test_every_rewrite_is_logged(rules: Callable[..., None], tmp_path: Path) -> None:
    """The log has one block for each rewrite: rule, stage, the user's nodes, and both sides as IR text."""
    rules(NegateTwice, SigmoidIsNothing)
    compiled("Neg", log_rewrites=tmp_path / "log", verify=False)
    assert (tmp_path / "log").read_text() == (
        "// rewrites by ampc\n\n"
        "// 1. NegateTwice, stage optimize at neg_0\n"
        "%y: f32[N,4] = Neg(%h)\n"
        "// becomes\n"
        "const %const: f32[] = 0.0\n"
        "%y: f32[N,4] = Sub(%const, %h)\n\n"
    )


def test_the_log_says_when_all_starts_over(rules: Callable[..., None]) -> None:
    """When a rule turned out to be wrong, the log says that what follows is done without it, and counts anew."""
    rules(ReluIsAbs, NegateTwice)
    blocks: list[str] = []
    compiled("Relu", "Exp", "Neg", log_rewrites=blocks.append)
    assert [b.split(",")[0].strip() for b in blocks] == [
        "// 1. ReluIsAbs", "// 2. NegateTwice", "// all over again", "// 1. NegateTwice",
    ]  # fmt: skip
    assert "without ReluIsAbs" in blocks[2]


def test_the_log_says_what_was_undone(rules: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewrites of a pass that failed later on are said to be undone."""
    run = Optimize.run

    def run_and_fail(self: Optimize, graph: Graph, ctx: Context) -> bool:
        """Rewrite, then fail."""
        run(self, graph, ctx)
        raise RuntimeError("boom")

    monkeypatch.setattr(Optimize, "run", run_and_fail)
    rules(NegateTwice)
    blocks: list[str] = []
    report = compiled("Neg", "Relu", log_rewrites=blocks.append)
    assert "the pass optimize failed; its last 1 rewrites were undone" in blocks[-1]
    assert report["ops"] == ["MatMul", "Neg", "Relu"]


def test_the_log_overwrites_nothing_but_a_log(rules: Callable[..., None], tmp_path: Path) -> None:
    """A file that is no log of rewrites is left alone; an older log is replaced."""
    rules(NegateTwice)
    path = tmp_path / "log"
    path.write_text("my thesis")
    with pytest.raises(InputError, match="overwrite"):
        compiled("Neg", log_rewrites=path)
    assert path.read_text() == "my thesis"
    path.unlink()
    compiled("Neg", log_rewrites=path, verify=False)
    first = path.read_text()
    compiled("Neg", log_rewrites=path, verify=False)
    assert path.read_text() == first
    with pytest.raises(InputError, match="cannot be written"):
        compiled("Neg", log_rewrites=tmp_path / "nowhere" / "log")


# The command line --------------------------------------------------------------------------------


@pytest.fixture
def chain(tmp_path: Path, rules: Callable[..., None]) -> Path:
    """A file with a chain, and rules that fit it."""
    rules(NegateTwice, AbsIsPower, FuseProducts)
    path = tmp_path / "chain.onnx"
    path.write_bytes(model("Neg").SerializeToString())
    return path


def test_compile_shows_rules_when_asked(chain: Path, tmp_path: Path) -> None:
    """``-v`` adds a table of rules in 80 columns; without it there is none."""
    args = ("compile", chain, "-o", tmp_path / "o.onnx", "-t", "cpu")
    assert "NegateTwice" not in ampc(*args).out
    text = ampc(*args, "-v").out.replace(str(tmp_path), ".")
    assert "NegateTwice" in text
    assert "2 rules never fired" in text
    assert max(map(len, text.splitlines())) <= 80


def test_compile_logs_to_standard_error_or_a_file(chain: Path, tmp_path: Path) -> None:
    """``--log-rewrites`` alone, or ``-``, means standard error; standard output stays what it is."""
    args = ("compile", chain, "-o", tmp_path / "o.onnx", "--no-verify", "--json")
    for given in (("--log-rewrites",), ("--log-rewrites", "-")):
        done = ampc(*args, *given)
        assert "// 1. NegateTwice" in done.err
        assert done.json()["rules"]["NegateTwice"]["hits"] == 1
    assert ampc(*args, "--log-rewrites", tmp_path / "log").err == ""
    assert "// 1. NegateTwice" in (tmp_path / "log").read_text()


def test_select_reaches_the_compilation_and_the_dump(chain: Path, tmp_path: Path) -> None:
    """``--select fused`` gives fused operators, in what is compiled and in what is dumped."""
    args = ("compile", chain, "-o", tmp_path / "o.onnx", "-t", "cpu", "--json")
    assert ampc(*args, "--select", "fused").json()["census_after"]["com.microsoft::FusedMatMul"] == 1
    assert ampc(*args, "--select", "fused", "--disable", "FuseProducts").json()["census_after"]["MatMul"] == 1
    assert "FusedMatMul" in ampc("dump", chain, "-t", "cpu", "--after", "lower", "--select", "fused").out
    assert "FusedMatMul" not in ampc("dump", chain, "-t", "cpu", "--after", "lower").out


def test_the_engine_tells_every_listener_before_it_changes_anything(rules: Callable[..., None]) -> None:
    """A listener sees the graph as it was: what matched still stands in it."""
    from compiler.ir.parser import parse_model

    graph = parse_model("// ampc 1\ngraph @g(%x: f32[2]) -> (%y: f32[2]) {\n  %y: f32[2] = Neg(%x)\n  return %y\n}\n")
    seen: list[int] = []
    ctx = Context(on_rewrite=lambda rewrite: seen.append(sum(n.op == "Neg" for n in graph.graph.nodes())))
    assert Engine([NegateTwice()], ctx).run(graph.graph)
    assert seen == [1]

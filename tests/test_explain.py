"""``ampc explain``: for each way to fail a near miss, with the statement, the user's node and the value at fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from compiler import manager
from compiler.explaining import ExplainOptions, explain_model
from compiler.ir.infer import infer
from compiler.ir.printer import print_model
from compiler.rewrite import FLOATS, Match, Rule
from compiler.rewrite.explain import KINDS, near_misses
from compiler.rewrite.transform import Context
from tests.graphs import models
from tests.test_cli import ampc


class FuseGemm(Rule):
    """A product of matrices and a bias are ``Gemm``."""

    stage = "raise"
    before = """
        %h: T[M,N] = MatMul(%a: T[M,K], %b: T[K,N])
        %y: T[M,N] = Add(%h, %c: T[N])
    """
    after = "%y = Gemm(%a, %b, %c)"
    types = {"T": FLOATS}


class WithGuard(FuseGemm):
    """The same, of few rows only."""

    before = FuseGemm.before
    after = FuseGemm.after

    def guard(self, m: Match) -> str | None:
        """There are at most two rows."""
        return f"there are {m.dim('M')} rows" if m.size("M") > 2 else None


class ToHalf(FuseGemm):
    """The same in half precision: its result has another type."""

    before = FuseGemm.before
    after = """
        %g = Gemm(%a, %b, %c)
        %y = Cast(%g){to = 10}
    """


class Illegal(FuseGemm):
    """The same, by an operator that only graphics processors have."""

    stage = "lower"
    before = FuseGemm.before
    after = """
        %g = Gemm(%a, %b)
        %y = com.microsoft::BiasAdd(%g, %c, %c)
    """


class NotMeasured(FuseGemm):
    """The same, by choice."""

    stage = "lower"
    before = FuseGemm.before
    after = FuseGemm.after


class FuseRoot(Rule):
    """The root of a mean of squares, scaled, is a norm."""

    stage = "raise"
    before = """
        %s: T[*S] = Mul(%x: T[*S], %x)
        %m = ReduceMean(%s, [-1])
        %v = Add(%m, scalar %e)
        %r = Sqrt(%v)
        optional %q = Mul(%r, scalar %f)
        %y: T[*S] = Div(%x, %q)
    """
    after = "%y = RMSNormalization(%x, const %w){axis = -1, epsilon = %e}"
    types = {"T": FLOATS}

    def constants(self, m: Match) -> dict[str, Any]:
        """Not reached in these tests."""
        raise AssertionError


class NegateTwice(Rule):
    """An exponential that is negated, once or twice."""

    stage = "raise"
    before = (
        """
        %e = Exp(%x)
        %n = Neg(%e)
        %y: T[*S] = Neg(%n)
        """,
        """
        %e = Exp(%x)
        %y: T[*S] = Neg(%e)
        """,
    )
    after = "%y = Exp(%x)"
    types = {"T": FLOATS}


discovered = manager.known_rules
RULES = (FuseGemm, WithGuard, ToHalf, Illegal, NotMeasured, FuseRoot, NegateTwice)

LINEAR = """
graph @g(%x: f32[3,4]) -> (%y: f32[3,5]) {
  const %w: f32[4,5] = #00000001
  const %b: f32[5] = [1.0, 2.0, 3.0, 4.0, 5.0]
  %h: f32[3,5] = MatMul(%x, %w)  loc("fc/MatMul")
  %y: f32[3,5] = Add(%h, %b)  loc("fc/Add")
  return %y
}
"""
BATCHED = LINEAR.replace("[3,4]", "[2,3,4]").replace("[3,5]", "[2,3,5]")
SHARED = LINEAR.replace("(%y: f32[3,5])", "(%y: f32[3,5], %h: f32[3,5])").replace("return %y", "return %y, %h")
OTHER = LINEAR.replace("%h: f32[3,5] = MatMul(%x, %w)", "%g: f32[3,5] = MatMul(%x, %w)").replace(
    '%y: f32[3,5] = Add(%h, %b)', '%h: f32[3,5] = Relu(%g)  loc("fc/Relu")\n  %y: f32[3,5] = Add(%h, %b)'
)


FUSED = {"select": "fused", "disable": ("NotMeasured",)}


def norms(count: int, *, square: str = "Pow(%x0, %two)", scaled: bool = False) -> str:
    """Return a chain of norms that are written out, each with a square in the given form."""
    lines = []
    for i in range(count):
        body = square.replace("%x0", f"%x{i}")
        lines += [
            f'  %s{i}: f32[2,8] = {body}  loc("norm{i}/square")',
            f'  %m{i}: f32[2,1] = ReduceMean(%s{i}, %axes)  loc("norm{i}/mean")',
            f'  %v{i}: f32[2,1] = Add(%m{i}, %e)  loc("norm{i}/add")',
            f'  %r{i}: f32[2,1] = Sqrt(%v{i})  loc("norm{i}/sqrt")',
            *([f'  %q{i}: f32[2,1] = Mul(%r{i}, %two)  loc("norm{i}/scale")'] if scaled else []),
            f'  %x{i + 1}: f32[2,8] = Div(%x{i}, %{"q" if scaled else "r"}{i})  loc("norm{i}/div")',
        ]
    return "\n".join([
        f"graph @g(%x0: f32[2,8]) -> (%x{count}: f32[2,8]) {{",
        "  const %two: f32[] = 2.0", "  const %axes: i64[1] = [1]", "  const %e: f32[] = 1e-05",
        *lines, f"  return %x{count}", "}\n",
    ])  # fmt: skip


@pytest.fixture(autouse=True)
def only_these_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be the rules of this file and no others."""
    monkeypatch.setattr(manager, "known_rules", lambda: {cls.name: cls for cls in RULES})


@pytest.fixture
def explained(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write a graph to a file and explain it."""

    def explain(graph: str, **options: Any) -> dict[str, Any]:
        return explain_model(written(graph, tmp_path), ExplainOptions(**{"target": "cpu", **PASSES, **options}))

    return explain


PASSES = {"passes": "normalize, raise, optimize, lower, expand"}


def written(graph: str, folder: Path) -> Path:
    """Write a graph with all its constants to a file."""
    path = folder / "m.ir"
    path.write_text("// ampc 1, opset 20\n" + graph.replace("#00000001", str([[0.5] * 5] * 4)))
    return path


def only(record: dict[str, Any]) -> dict[str, Any]:
    """Return the only near miss."""
    (miss,) = record["misses"]
    return dict(miss)


# Ways to fail ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "graph", "kind", "reason", "options"),
    [
        ("FuseGemm", OTHER, "structure", "expected MatMul, found Relu", {}),
        ("FuseGemm", BATCHED, "type", "its rank is 3, not 2", {}),
        ("FuseGemm", SHARED, "users", "it is an output of the graph", {}),
        ("WithGuard", LINEAR, "guard", "there are 3 rows", {"disable": ("FuseGemm",)}),
        ("ToHalf", LINEAR, "result", "%y would change its type: f32[3,5] to f16[3,5]", {"disable": ("FuseGemm",)}),
        ("Illegal", LINEAR, "legality", "has no kernel of com.microsoft::BiasAdd", FUSED),
        ("NotMeasured", LINEAR, "cost", "not chosen", {}),
        ("NotMeasured", LINEAR, "ready", "the rule is left out", FUSED),
    ],
)
def test_every_way_to_fail_is_told(
    explained: Callable[..., dict[str, Any]], rule: str, graph: str, kind: str, reason: str, options: dict[str, Any]
) -> None:
    """A near miss says what it fails for, with the value at fault, and where."""
    left_out = () if rule in ("FuseGemm", "WithGuard", "ToHalf") else ("FuseGemm", "WithGuard")
    disable = (*left_out, *options.get("disable", ()))
    miss = only(explained(graph, rule=rule, **{**options, "disable": disable}))
    assert (miss["kind"], miss["rule"]) == (kind, rule)
    assert reason in miss["reason"]
    assert miss["places"] == [{"operator": "Add", "value": "y", "nodes": ["fc/Add"]}]


def test_all_kinds_are_shown_in_words() -> None:
    """There are words for every kind of failure."""
    from compiler.render_rules import KINDS as WORDS

    assert tuple(WORDS) == KINDS


def test_a_rule_that_fires_leaves_no_near_miss(explained: Callable[..., dict[str, Any]]) -> None:
    """Where a rule fired there is nothing to explain, and the rewrites are counted."""
    record = explained(LINEAR, rule="FuseGemm")
    assert record["fired"] == {"FuseGemm": 1}
    assert (record["found"], record["misses"]) == (0, [])


# Statements --------------------------------------------------------------------------------------


def states(miss: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the state of each statement, and the user's node that stands for it."""
    return [(line["state"], line["node"]["nodes"][0] if line["node"] else "") for line in miss["lines"]]


def test_each_statement_has_its_state_and_its_node(explained: Callable[..., dict[str, Any]]) -> None:
    """The picture is the text of the form, statement by statement, with the user's nodes."""
    miss = only(explained(norms(1), rule="FuseRoot"))
    assert states(miss) == [
        ("failed", "norm0/square"), ("matched", "norm0/mean"), ("matched", "norm0/add"), ("matched", "norm0/sqrt"),
        ("left out", ""), ("matched", "norm0/div"),
    ]  # fmt: skip
    assert miss["lines"][1]["statement"] == "%m = ReduceMean(%s, [-1])"
    assert miss["reason"] == "expected Mul, found Pow"
    assert (miss["matched"], miss["statements"]) == (4, 5)


def test_the_form_that_comes_nearest_is_shown(explained: Callable[..., dict[str, Any]]) -> None:
    """Of the forms with and without an optional statement the one is shown of which more is there."""
    miss = only(explained(norms(1, scaled=True), rule="FuseRoot"))
    assert states(miss)[4] == ("matched", "norm0/scale")
    assert (miss["matched"], miss["statements"]) == (5, 6)


def test_statements_that_were_not_reached_are_compared_by_operator(explained: Callable[..., dict[str, Any]]) -> None:
    """Behind a statement that fails, operators that fit are told from what was not looked at."""
    graph = norms(1, square="Mul(%x0, %x0)").replace("%axes)", "%axes) {noop_with_empty_axes = 1}")
    miss = only(explained(graph, rule="FuseRoot"))
    assert [state for state, _ in states(miss)] == ["alike", "failed", "matched", "matched", "left out", "matched"]
    assert miss["reason"] == "noop_with_empty_axes = 1, and the rule expects the default"
    miss = only(explained(graph.replace("Mul(%x0, %x0)", "Exp(%x0)"), rule="FuseRoot"))
    assert states(miss)[0] == ("open", "")


def test_a_smaller_form_inside_a_larger_one_is_not_told(explained: Callable[..., dict[str, Any]]) -> None:
    """Of two attempts that stop at one node, that with a form that reaches farther is told."""
    graph = """
graph @g(%x: f32[2]) -> (%y: f32[2]) {
  %r: f32[2] = Relu(%x)  loc("relu")
  %n: f32[2] = Neg(%r)  loc("inner")
  %y: f32[2] = Neg(%n)  loc("outer")
  return %y
}
"""
    miss = only(explained(graph, rule="NegateTwice"))
    assert states(miss) == [("failed", "relu"), ("matched", "inner"), ("matched", "outer")]


def test_places_that_are_alike_are_told_once(explained: Callable[..., dict[str, Any]]) -> None:
    """Layers that fail for the same reason are one entry, with all their places."""
    record = explained(norms(3), rule="FuseRoot")
    assert [place["nodes"][0] for place in only(record)["places"]] == ["norm0/div", "norm1/div", "norm2/div"]


def test_the_nearest_come_first(explained: Callable[..., dict[str, Any]]) -> None:
    """What fails for its condition only stands before what has another form, and more of a form before less."""
    record = explained(LINEAR, disable=("FuseGemm", "WithGuard", "ToHalf"))
    kinds = [miss["kind"] for miss in record["misses"]]
    assert kinds == sorted(kinds, key=KINDS.index)


# Questions ---------------------------------------------------------------------------------------


def test_a_question_about_a_node(explained: Callable[..., dict[str, Any]]) -> None:
    """``--node`` leaves only attempts in which a node of that name takes part, be it the root or any other."""
    record = explained(norms(3), node="norm1/mean")
    assert [place["nodes"][0] for miss in record["misses"] for place in miss["places"]] == ["norm1/div"]
    assert explained(norms(3), node="norm[02]/*")["misses"][0]["places"][1]["nodes"] == ["norm2/div"]


def test_a_node_that_is_gone(explained: Callable[..., dict[str, Any]]) -> None:
    """Of a node that a pass took away, the pass is named; of one that became another, the rule."""
    dead = LINEAR.replace("  return", '  %z: f32[3,5] = Neg(%h)  loc("dead")\n  return')
    record = explained(dead, rule="FuseGemm", node="dead", passes="dead-code, " + PASSES["passes"])
    assert record["notes"] == ["nothing that matches 'dead' is left: the pass 'dead-code' took it away"]
    record = explained(LINEAR, rule="FuseGemm", node="fc/MatMul")
    assert record["notes"] == ["Gemm %y was made of fc/MatMul and 1 more by FuseGemm"]


def test_explaining_never_rewrites(explained: Callable[..., dict[str, Any]]) -> None:
    """Asking twice gives the same answer, and the file stays what it was."""
    assert explained(norms(2)) == explained(norms(2))


# The command line --------------------------------------------------------------------------------


def test_the_picture_fits_80_columns(tmp_path: Path) -> None:
    """One rule is answered by a picture with marks, names of nodes and the reason under the statement at fault."""
    path = written(norms(5), tmp_path)
    text = ampc("explain", path, "-t", "cpu", "--rule", "FuseRoot", "--passes", PASSES["passes"]).out
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "FuseRoot fired 0 times; it comes near at 1 kind of places" in lines[0]
    assert "norm0/div, norm1/div, norm2/div and 2 more" in text
    at = next(i for i, line in enumerate(lines) if "✗" in line)
    assert lines[at].split() == ["✗", *["%s:", "T[*S]", "=", "Mul(%x:", "T[*S],", "%x)"], "norm0/square"]
    assert "the form differs: expected Mul, found Pow" in lines[at + 1]
    assert sum("✓" in line for line in lines) == 5  # four statements and the legend


def test_all_rules_in_lines(tmp_path: Path) -> None:
    """Without a rule, each kind of near miss is named with its place and reason; ``--limit`` bounds them."""
    path = written(norms(1), tmp_path)
    args = ("explain", path, "-t", "cpu", "--passes", PASSES["passes"])
    text = ampc(*args).out
    assert "FuseRoot 4 of 5 at norm0/div" in text
    assert max(map(len, text.splitlines())) <= 80
    path = written(LINEAR, tmp_path)
    disabled = ("--disable", "FuseGemm", "--disable", "ToHalf")
    found = ampc(*args, *disabled, "--json").json()["found"]
    assert found > 1
    assert len(ampc(*args, *disabled, "--limit", "1", "--json").json()["misses"]) == 1
    assert f"{found - 1} more kind" in ampc(*args, *disabled, "--limit", "1").out


@pytest.mark.parametrize(
    ("args", "what", "near"),
    [
        (["--rule", "FuseGem"], "there is no rule 'FuseGem'", "FuseGemm"),
        (["--node", "fc/Matmul"], "no node is called 'fc/Matmul'", "fc/MatMul"),
        (["--node", "zzz"], "no node is called 'zzz'", "ampc dump"),
        (["--select", "fusd"], "nothing is selected by 'fusd'", "fused"),
        (["--target", "cpu_avx3"], "the target cannot be used", "cpu_avx"),
        (["--disable", "fodl"], "there is no pass 'fodl'", "fold"),
        (["--rule", "FuseGemm", "--passes", "fold"], "'raise' is not in the pipeline", "--passes"),
        (["--limit", "0"], "--limit", ""),
    ],
)
def test_wrong_names_are_the_users_mistake(tmp_path: Path, args: list[str], what: str, near: str) -> None:
    """A name that does not exist ends with exit code 2 and the nearest one, in words and in JSON."""
    path = written(LINEAR, tmp_path)
    done = ampc("explain", path, *args, code=2)
    assert what in done.err
    assert near in done.err
    assert ampc("explain", path, *args, "--json", code=2).json()["exit_code"] == 2


# All rules on anything ---------------------------------------------------------------------------


@settings(max_examples=25)
@given(models(steps=10))
def test_any_rule_can_be_explained_on_any_graph(model: Any) -> None:
    """Asking every rule about any graph raises nothing, changes nothing, and gives a form's every statement a state."""
    infer(model.graph)
    before = print_model(model)
    rules = [cls() for cls in discovered().values()]
    found = near_misses(model.graph, rules, Context(rule_set=tuple(rules)))
    assert print_model(model) == before
    for miss in found:
        lines = miss.lines()
        assert sum(line.state != "left out" for line in lines) == len(miss.pattern.statements)
        assert sum(line.state == "failed" for line in lines) == (miss.failed is not None)
        assert miss.reason

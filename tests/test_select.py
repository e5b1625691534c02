"""Selection by cost: expected gains, conflicts, and decisions that can be repeated and explained."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

import pytest

from compiler.cost.calibration import Calibration, Point
from compiler.cost.model import Cost, CostModel
from compiler.ir import edit
from compiler.ir.graph import Model, Node
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.ir.printer import print_model
from compiler.ir.verify import verify
from compiler.rewrite import FLOATS, Context, Match, Rule
from compiler.rewrite.engine import Engine
from compiler.rewrite.explain import near_misses
from compiler.rewrite.select import EXACT, choose, expected_gain, lower_by_cost
from compiler.settings import load_target


class NegationOfNegation(Rule):
    """Negating twice changes nothing."""

    stage = "lower"
    before = "%h = Neg(%x)\n%y = Neg(%h)"
    after = "%y = Identity(%x)"


class RootOfSquare(Rule):
    """The root of a square is the absolute value."""

    stage = "lower"
    before = "%s: T = Mul(%x, %x)\n%y = Sqrt(%s)"
    after = "%y = Abs(%x)"
    types = {"T": FLOATS}


class AbsoluteByRoot(Rule):
    """The absolute value is the root of the square."""

    stage = "lower"
    before = "%y = Abs(%x: T)"
    after = "%s = Mul(%x, %x)\n%y = Sqrt(%s)"
    types = {"T": FLOATS}


class SquareByPower(Rule):
    """A square is a power."""

    stage = "lower"
    before = "%s: T = Mul(%x, %x)"
    after = "%s = Pow(%x, 2.0)"
    types = {"T": FLOATS}


RULES = [AbsoluteByRoot(), NegationOfNegation(), RootOfSquare(), SquareByPower()]
COSTS = {"Neg": 10.0, "Mul": 10.0, "Sqrt": 20.0, "Abs": 8.0, "Pow": 5.0}


def model_of(body: str) -> Model:
    """Return the inferred model of a body from ``%x`` to ``%y``."""
    body = body.replace("%y =", "%y: f32[64] =")
    text = f"// ampc 1, opset 20\ngraph @main(%x: f32[64]) -> (%y: f32[64]) {{\n{body}\n  return %y\n}}\n"
    model = parse_model(text)
    infer(model.graph)
    return model


def context(**gains: float) -> Context:
    """Return a context whose calibration gives each operator the cost of ``COSTS``."""
    points: dict[str, tuple[Point, ...]] = {
        f"{op}:f32{':small' if op == 'Pow' else ''}": (Point(64.0, us, (6.0,)),) for op, us in COSTS.items()
    }
    known = Calibration(runtime="1", processor="p", threads=1, launch_us=0.0, points=points)
    target = load_target("cpu_avx512")
    return Context(target=target, cost=CostModel(target, {}, calibration=known), gains=gains)


def lowered(body: str, ctx: Context) -> list[str]:
    """Return the operators after lowering; the graph is checked."""
    model = model_of(body)
    edit.begin(model)
    changed = lower_by_cost(RULES, model.graph, ctx)
    edit.commit(model)
    verify(model)
    assert changed == any(d.chosen != "keep" for d in ctx.decisions)
    return [n.op for n in model.graph.nodes()]


def test_a_rule_that_gains_is_applied_and_its_inverse_is_not() -> None:
    """Of two rules that undo each other, the one that is cheaper decides, and the search ends."""
    assert lowered("%s = Mul(%x, %x)\n%y = Sqrt(%s)", context()) == ["Abs"]
    assert lowered("%y = Abs(%x)", context()) == ["Abs"]


def test_conflicts_go_to_what_saves_most() -> None:
    """Where two rules want one node, the larger saving is taken, and the decision names the rival."""
    ctx = context()
    lowered("%s = Mul(%x, %x)\n%y = Sqrt(%s)", ctx)
    decisions = {d.operator: d for d in ctx.decisions}
    assert decisions["Mul + Sqrt"].chosen == "RootOfSquare"
    assert decisions["Mul"].chosen == "keep"
    assert "RootOfSquare saves more" in decisions["Mul"].why


def test_the_table_moves_what_the_model_is_not_sure_of() -> None:
    """A measured loss keeps a rule out that the model likes a little, and a gain on this model overrules both."""
    body = "%h = Abs(%x)\n%s = Mul(%h, %h)\n%y = Neg(%s)"
    assert "Pow" in lowered(body, context())
    assert "Pow" not in lowered(body, context(SquareByPower=0.4))
    ctx = context(SquareByPower=0.4)
    ctx.measured = {"SquareByPower": 1.2}
    assert "Pow" in lowered(body, ctx)


class WorthlessRoot(RootOfSquare):
    """A root of a square that was measured to pay nowhere."""

    def worth(self, m: Match) -> str | None:
        """Refuse every place."""
        return f"{m.root.op} does not pay"


def test_what_a_rule_says_not_to_be_worth_while_is_left_alone() -> None:
    """A rule's own judgement, which no cost model has, refuses where costs choose, and only there."""
    model, ctx = model_of("%s = Mul(%x, %x)\n%y = Sqrt(%s)"), context()
    assert not lower_by_cost([WorthlessRoot()], model.graph, ctx)
    assert ctx.rules["WorthlessRoot"].refusals == {"Sqrt does not pay": 1}
    miss = next(iter(near_misses(model.graph, [WorthlessRoot()], ctx)))
    assert (miss.kind, miss.reason) == ("cost", "Sqrt does not pay")
    edit.begin(model)
    assert Engine([WorthlessRoot()], Context()).run(model.graph)


def test_decisions_list_every_option_with_its_cost() -> None:
    """A decision names the place, what could be there and at what cost, what was chosen, and why."""
    ctx = context()
    lowered("%h = Neg(%x)\n%y = Neg(%h)", ctx)
    record: dict[str, Any] = ctx.decisions[0].to_json()
    assert [(o["name"], o["us"], o["source"]) for o in record["options"]] == [
        ("keep", 20.0, "calibrated"),
        ("NegationOfNegation", 0.0, "measured"),
    ]
    assert record["chosen"] == "NegationOfNegation"
    assert "expected" in record["why"]


def test_equal_costs_give_equal_bytes() -> None:
    """Lowering the same model twice by the same costs gives the same text and the same decisions."""
    body = "\n".join(
        f"%s{i} = Mul(%{'x' if not i else f'r{i - 1}'}, %{'x' if not i else f'r{i - 1}'})\n%r{i} = Sqrt(%s{i})"
        for i in range(9)
    )
    found = []
    for _ in range(2):
        ctx, model = context(), model_of(f"{body}\n%y = Neg(%r8)")
        edit.begin(model)
        lower_by_cost(RULES, model.graph, ctx)
        edit.commit(model)
        found.append((print_model(model), [d.to_json() for d in ctx.decisions]))
    assert found[0] == found[1]


@pytest.mark.parametrize("source", ["measured", "calibrated", "analytic"])
def test_expected_gain_lies_between_its_witnesses(source: str) -> None:
    """Model and table are averaged; the better the model's source, the nearer the result is to it."""
    before, after = Cost(40.0, source), Cost(10.0, source)
    gain, why = expected_gain(before, after, 1.0)
    assert 1.0 < gain < 4.0
    assert source in why and "table 1x" in why
    assert expected_gain(before, after, None)[0] > gain


def test_better_sources_weigh_more() -> None:
    """What was measured moves the expectation more than peak rates do."""
    gains = [expected_gain(Cost(40.0, s), Cost(10.0, s), 1.0)[0] for s in ("measured", "calibrated", "analytic")]
    assert gains == sorted(gains, reverse=True)


# Choice ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Match:
    held: tuple[Node, ...]

    def nodes(self) -> list[Node]:
        """Return the nodes."""
        return list(self.held)


@dataclass(frozen=True)
class _Named:
    name: str


@dataclass(frozen=True)
class _Wish:
    """Stands for a candidate: the nodes it wants and what it saves."""

    match: _Match
    saved: float
    position: int

    @property
    def rule(self) -> _Named:
        """Return something with a name."""
        return _Named(f"Rule{self.position}")

    @property
    def order(self) -> tuple[float, int, str]:
        """Return what candidates are sorted by."""
        return (-self.saved, self.position, self.rule.name)


def wishes(draw: random.Random, count: int, width: int) -> list[Any]:
    """Return candidates on a line of nodes, each for a few neighbours."""
    line = [Node("Neg", (), ()) for _ in range(width)]
    starts = [draw.randrange(width) for _ in range(count)]
    return [
        _Wish(_Match(tuple(line[s : s + draw.randint(1, 3)])), float(draw.randint(1, 9)), i)
        for i, s in enumerate(starts)
    ]


def fits(chosen: Any) -> bool:
    """Return whether no two share a node."""
    nodes = [n for w in chosen for n in w.match.nodes()]
    return len(nodes) == len(set(nodes))


@pytest.mark.parametrize("seed", range(30))
def test_small_components_are_solved_exactly(seed: int) -> None:
    """No choice without conflicts saves more than the one that is made."""
    given = wishes(random.Random(seed), draw_count := 3 + seed % 8, 6)
    assert draw_count <= EXACT
    chosen = choose(given)
    assert fits(chosen)
    subsets = itertools.chain.from_iterable(itertools.combinations(given, k) for k in range(len(given) + 1))
    assert sum(w.saved for w in chosen) == max(sum(w.saved for w in s) for s in subsets if fits(s))


def test_large_components_are_solved_without_conflicts() -> None:
    """Beyond what is tried exhaustively, the choice is still free of conflicts, and leaves nothing out for nothing."""
    given = wishes(random.Random(7), 200, 90)
    chosen = choose(given)
    assert fits(chosen)
    assert all(not fits([*chosen, w]) for w in given if w not in chosen)

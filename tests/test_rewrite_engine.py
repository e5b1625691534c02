"""The rule engine: what matches, what is refused, and what a rewrite leaves behind."""

from __future__ import annotations

import re

import pytest

from compiler.errors import ParseError
from compiler.ir import edit
from compiler.ir.graph import Model
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.ir.printer import print_model
from compiler.ir.verify import verify
from compiler.rewrite import FLOATS, Context, Match, Rule
from compiler.rewrite.engine import Engine, Rewrite


def model_of(header: str, body: str, returns: str) -> Model:
    """Return the inferred model of a body; ``returns`` lists its outputs with their types."""
    outputs = dict(re.findall(r"%(\w+): (\w+\[[^]]*\])", returns))
    for name, kind in outputs.items():
        body = body.replace(f"%{name} = ", f"%{name}: {kind} = ")
    names = ", ".join(f"%{name}" for name in outputs)
    text = f"// ampc 1, opset 20\ngraph @main({header}) -> ({returns}) {{\n{body}\n  return {names}\n}}\n"
    model = parse_model(text)
    infer(model.graph)
    verify(model)
    return model


def apply(model: Model, *rules: Rule, ctx: Context | None = None, backwards: bool = False) -> bool:
    """Run the engine with some rules, verify the result, and return whether it changed anything."""
    edit.begin(model)
    changed = Engine(rules, ctx or Context(), backwards=backwards).run(model.graph)
    edit.commit(model)
    verify(model)
    return changed


def ops(model: Model) -> list[str]:
    """Return the operators of the main graph in order."""
    return [n.qualified for n in model.graph.nodes()]


class DoubleNegation(Rule):
    """Negating twice changes nothing."""

    before = "%h = Neg(%x)\n%y = Neg(%h)"
    after = "%y = Identity(%x)"


class SquareOfSum(Rule):
    """Keep the sum that others read too."""

    before = """
        %s: T[*S] = Add(%a: T[*S], %b: T[*S])
        %y = Relu(%s)
    """
    after = """
        %s = Sub(%a, %b)
        %y = Abs(%s)
    """
    types = {"T": FLOATS}


class SplitUp(Rule):
    """Write one operator as another, for loops with the next rule."""

    before = "%y = Neg(%x: T)"
    after = "%y = Mul(%x, -1.0)"
    types = {"T": FLOATS}


class PutTogether(Rule):
    """Write the other as the first, for loops with the rule before."""

    before = "%y = Mul(%x: T, -1.0)"
    after = "%y = Neg(%x)"
    types = {"T": FLOATS}


def test_a_value_that_others_read_is_not_taken_away() -> None:
    """An interior value with another user keeps the rule from matching; a graph output does as well."""
    model = model_of("%x: f32[4]", "  %h: f32[4] = Neg(%x)\n  %y = Neg(%h)", "%y: f32[4], %h: f32[4]")
    assert not apply(model, DoubleNegation())
    model = model_of("%x: f32[4]", "  %h = Neg(%x)\n  %z = Abs(%h)\n  %y = Neg(%h)", "%y: f32[4], %z: f32[4]")
    assert not apply(model, DoubleNegation())


def test_names_of_outputs_survive() -> None:
    """A rule that gives an operand back leaves the name that the graph returns."""
    model = model_of("%x: f32[4]", "  %a = Abs(%x)\n  %h = Neg(%a)\n  %y = Neg(%h)", "%y: f32[4]")
    assert apply(model, DoubleNegation())
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert ops(model) == ["Abs"]


def test_an_input_is_returned_through_an_identity() -> None:
    """A graph cannot return its input under another name, so an Identity carries it."""
    model = model_of("%x: f32[4]", "  %h = Neg(%x)\n  %y = Neg(%h)", "%y: f32[4]")
    assert apply(model, DoubleNegation())
    assert ops(model) == ["Identity"]


def test_readers_of_a_kept_value_move_below_the_rewrite() -> None:
    """A reader of the sum that stood between the matched nodes stands below the new ones afterwards."""
    body = "  %s = Add(%a, %b)\n  %z = Neg(%s)\n  %w = Exp(%z)\n  %y = Relu(%s)"
    model = model_of("%a: f32[N], %b: f32[N]", body, "%y: f32[N], %w: f32[N]")
    assert apply(model, SquareOfSum())
    assert ops(model) == ["Sub", "Abs", "Neg", "Exp"]


class SumThenProduct(Rule):
    """Move what is added below what is multiplied; a cycle when the factor depends on the sum."""

    before = """
        %s: T[*S] = Add(%a: T[*S], %b: T[*S])
        %y: T[*S] = Mul(%s, %c: T[*S])
    """
    after = """
        %p = Sub(%a, %c)
        %s = Add(%p, %b)
        %y = Mul(%s, %c)
    """
    types = {"T": FLOATS}


def test_a_rewrite_that_would_close_a_cycle_is_refused() -> None:
    """When an operand of the new nodes depends on a value that they make, nothing changes and the reason is kept."""
    body = "  %s = Add(%a, %b)\n  %c = Neg(%s)\n  %y = Mul(%s, %c)"
    model = model_of("%a: f32[N], %b: f32[N]", body, "%y: f32[N]")
    before, ctx = print_model(model), Context()
    assert not apply(model, SumThenProduct(), ctx=ctx)
    assert print_model(model) == before
    assert "a cycle" in " ".join(ctx.rules["SumThenProduct"].refusals)


class WrongAxis(Rule):
    """Reduce another axis than the one that was meant."""

    before = "%y = ReduceSum(%x: T[A,B], [1]){keepdims = 0}"
    after = "%y = ReduceSum(%x, [0]){keepdims = 0}"
    types = {"T": FLOATS}


def test_an_output_keeps_its_type() -> None:
    """A rewrite whose result has another type is refused, with both types in the reason."""
    body = "  const %axes: i64[1] = [1]\n  %y = ReduceSum(%x, %axes) {keepdims = 0}"
    model = model_of("%x: f32[2,3]", body, "%y: f32[2]")
    ctx = Context()
    assert not apply(model, WrongAxis(), ctx=ctx)
    assert "f32[2] to f32[3]" in " ".join(ctx.rules["WrongAxis"].refusals)


def test_rules_that_undo_each_other_come_to_an_end() -> None:
    """A chain of rewrites of rewrites is cut, and the report names the rules."""
    model = model_of("%x: f32[4]", "  %y = Neg(%x)", "%y: f32[4]")
    ctx = Context()
    apply(model, SplitUp(), PutTogether(), ctx=ctx)
    assert any("undo each other" in reason for reason in ctx.refusals)


class Affine(Rule):
    """Match a product and a sum in either order of their operands."""

    before = """
        %p: T[*S,N] = Mul(%x: T[*S,N], const %a: T[N])
        %y = Add(const %b: T[N], %p)
    """
    after = "%y = Sub(%x, %b)"
    types = {"T": FLOATS}


@pytest.mark.parametrize("product", ["Mul(%x, %a)", "Mul(%a, %x)"])
@pytest.mark.parametrize("total", ["Add(%p, %b)", "Add(%b, %p)"])
def test_operands_of_commutative_operators_match_in_either_order(product: str, total: str) -> None:
    """Both orders of both operators match."""
    constants = "  const %a: f32[4] = [1.0, 2.0, 3.0, 4.0]\n  const %b: f32[4] = [1.0, 2.0, 3.0, 5.0]\n"
    model = model_of("%x: f32[B,4]", f"{constants}  %p = {product}\n  %y = {total}", "%y: f32[B,4]")
    assert apply(model, Affine())


class Heads(Rule):
    """Split heads of a known size."""

    before = """
        %r: T[B,S,H,D] = Reshape(%x: T[B,S,H*D], %_)
        %y: T[B,H,S,D] = Transpose(%r){perm = [0,2,1,3]}
    """
    after = """
        %z: T[B,S,H,D] = Reshape(%x, [B,S,H,D])
        %y = Transpose(%z){perm = [0,2,1,3]}
    """
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Refuse one head, so that the rule ends."""
        return "there is one head" if m.node("r").loc.by else None


def test_shapes_of_symbolic_dims_are_written_with_zeros() -> None:
    """A shape operand copies the symbolic dims that stand at the same position."""
    body = "  const %s: i64[4] = [0, -1, 3, 5]\n  %r = Reshape(%x, %s)\n  %y = Transpose(%r) {perm = [0, 2, 1, 3]}"
    model = model_of("%x: f32[B,S,15]", body, "%y: f32[B,3,S,5]")
    assert apply(model, Heads())
    assert "[0, 0, 3, 5]" in print_model(model)


def test_a_dim_that_is_equal_only_as_an_expression_matches() -> None:
    """``H*D`` is compared in normal form with the dim that it stands for, and a wrong one does not match."""
    body = "  const %s: i64[4] = [0, 0, 3, 5]\n  %r: f32[B,S,3,5] = Reshape(%x, %s)\n"
    model = model_of("%x: f32[B,S,16]", body + "  %y = Transpose(%r) {perm = [0, 2, 1, 3]}", "%y: f32[B,3,S,5]")
    assert not apply(model, Heads())


class Gelu(Rule):
    """Raise the error-function form, with a factor that may be left out."""

    before = """
        %d = Mul(%x: T, 0.70710678)
        %e = Erf(%d)
        %f = Add(%e, 1.0)
        %g = Mul(%x, %f)
        optional %h = Mul(%g, scalar %c)
        %y = Relu(%h)
    """
    after = "%y = Elu(%x){alpha = %c?}"
    types = {"T": FLOATS}


@pytest.mark.parametrize("factor", [True, False])
def test_optional_statements_may_be_missing(factor: bool) -> None:
    """Both forms match, and an attribute of the missing part is left at its default."""
    constants = "  const %k: f32[] = 0.70710677\n  const %one: f32[1] = [1.0]\n  const %half: f32[] = 0.5\n"
    body = "  %d = Mul(%x, %k)\n  %e = Erf(%d)\n  %f = Add(%e, %one)\n  %g = Mul(%f, %x)\n"
    last = "  %h = Mul(%g, %half)\n  %y = Relu(%h)" if factor else "  %y = Relu(%g)"
    model = model_of("%x: f32[3]", constants + body + last, "%y: f32[3]")
    assert apply(model, Gelu())
    (node,) = model.graph.nodes()
    assert node.attr("alpha") == (0.5 if factor else None)


class NormOfAxis(Rule):
    """Match an axis however it is counted."""

    before = "%y = Softmax(%x: T[*S,N]){axis = -1}"
    after = "%y = LogSoftmax(%x){axis = -1}"
    types = {"T": FLOATS}


@pytest.mark.parametrize(("axis", "matches"), [("", True), (" {axis = 2}", True), (" {axis = 1}", False)])
def test_axes_are_compared_modulo_the_rank(axis: str, matches: bool) -> None:
    """The last axis matches as -1, as rank - 1, and when it is the default; another one does not."""
    model = model_of("%x: f32[2,3,4]", f"  %y = Softmax(%x){axis}", "%y: f32[2,3,4]")
    assert apply(model, NormOfAxis()) is matches


class PlainSoftmax(Rule):
    """Match only what the rule spells out."""

    before = "%y = LeakyRelu(%x: T)"
    after = "%y = Relu(%x)"
    types = {"T": FLOATS}


def test_attributes_that_a_rule_does_not_mention_are_at_their_default() -> None:
    """An unmentioned attribute with another value keeps the rule from matching."""
    model = model_of("%x: f32[4]", "  %y = LeakyRelu(%x) {alpha = 0.5}", "%y: f32[4]")
    assert not apply(model, PlainSoftmax())
    model = model_of("%x: f32[4]", "  %y = LeakyRelu(%x) {alpha = 0.01}", "%y: f32[4]")
    assert apply(model, PlainSoftmax())


class Merge(Rule):
    """Merge two products of one operand, found through its users."""

    before = """
        %p: T[M,A] = MatMul(%x: T[M,K], const %a: T[K,A])
        %q: T[M,B] = MatMul(%x, const %b: T[K,B])
    """
    after = """
        %w = Concat(%a, %b){axis = 1}
        %m = MatMul(%x, %w)
        %p, %q = Split(%m, [A,B]){axis = 1}
    """
    types = {"T": FLOATS}


def test_statements_that_the_root_does_not_reach_are_found_among_users() -> None:
    """Two products of one value become one, whatever stands between them, and both names survive."""
    constants = "  const %a: f32[2,2] = [1.0, 2.0, 3.0, 4.0]\n  const %b: f32[2,1] = [1.0, 2.0]\n"
    body = constants + "  %p = MatMul(%x, %a)\n  %r = Neg(%p)\n  %q = MatMul(%x, %b)"
    model = model_of("%x: f32[3,2]", body, "%q: f32[3,1], %r: f32[3,2], %p: f32[3,2]")
    assert apply(model, Merge())
    assert [v.name for v in model.graph.outputs] == ["q", "r", "p"]
    assert ops(model) == ["Concat", "MatMul", "Split", "Neg"]


def test_nested_graphs_are_rewritten_too() -> None:
    """A match within the body of a conditional is rewritten there, with operands of the outer graph."""
    body = """
  %y = If(%c) {
    else_branch = graph @else() -> (%e: f32[4]) {
      %h: f32[4] = Neg(%x)
      %g: f32[4] = Neg(%h)
      %e: f32[4] = Abs(%g)
      return %e
    },
    then_branch = graph @then() -> (%t: f32[4]) {
      %t: f32[4] = Abs(%x)
      return %t
    }
  }"""
    model = model_of("%x: f32[4], %c: bool[]", body, "%y: f32[4]")
    assert apply(model, DoubleNegation())
    assert "Neg" not in print_model(model)


class SumAndRoot(Rule):
    """Keep a sum beside what is made of it."""

    before = """
        %s: f32[N] = Add(%a: f32[N], %b: f32[N])
        %y = Sqrt(%s)
    """
    after = """
        %s = Sum(%a, %b)
        %y = Sqrt(%s)
    """


@pytest.mark.parametrize("other", ["  %z = Neg(%s)", ""])
def test_what_an_outer_graph_reads_is_not_made_in_a_nested_one(other: str) -> None:
    """A match across graphs is refused when the kept value has readers, or is returned, outside of the nested graph."""
    body = """
  %s = Add(%a, %b)
  %y = If(%c) {
    else_branch = graph @else() -> (%e: f32[4]) {
      %e: f32[4] = Sqrt(%s)
      return %e
    },
    then_branch = graph @then() -> (%t: f32[4]) {
      %t: f32[4] = Abs(%a)
      return %t
    }
  }
"""
    name = "z" if other else "s"
    model = model_of("%a: f32[4], %b: f32[4], %c: bool[]", body + other, f"%y: f32[4], %{name}: f32[4]")
    before = print_model(model)
    assert not apply(model, SumAndRoot())
    verify(model)
    assert print_model(model) == before


class TakeOneOff(Rule):
    """Drop one that is added and taken off again."""

    before = """
        %a: T = Add(%x, 1.0)
        %y = Sub(%a, scalar %c)
    """
    after = "%y = Identity(%x)"
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Refuse another number."""
        return None if m.scalar("c") == 1 else "another number"


@pytest.mark.parametrize(("first", "second", "holds"), [("", "", True), ("1", "", False), ("", "1", False)])
def test_a_number_with_dims_is_none_where_the_rank_is_not_known(first: str, second: str, holds: bool) -> None:
    """Of data of unknown rank, adding ``[1.0]`` may make a vector of a scalar; adding ``1.0`` may not."""
    one = {"": "1.0", "1": "[1.0]"}
    body = f"""
  const %p: f32[{first}] = {one[first]}
  const %q: f32[{second}] = {one[second]}
  %h = Add(%x, %p)
  %y = Sub(%h, %q)
"""
    assert apply(model_of("%x: f32[*]", body, "%y: f32[*]"), TakeOneOff()) == holds
    assert apply(model_of("%x: f32[4]", body, "%y: f32[4]"), TakeOneOff())


def test_an_event_shows_both_sides_as_text() -> None:
    """What is told of a rewrite holds the rule, the user's nodes, and both sides as IR text."""
    seen: list[tuple[str, str, str]] = []

    def note(event: Rewrite) -> None:
        seen.append((event.rule, event.before, event.after))

    model = model_of("%x: f32[4]", "  %a = Abs(%x)\n  %h = Neg(%a)\n  %y = Neg(%h)", "%y: f32[4]")
    apply(model, DoubleNegation(), ctx=Context(on_rewrite=note))
    ((rule, before, after),) = seen
    assert rule == "DoubleNegation"
    assert before.count("Neg") == 2
    assert after == "%y: f32[4] = Identity(%a)\n"


def test_the_origin_of_new_nodes_names_the_rule_and_the_users_nodes() -> None:
    """A new node's origin is the rule, and the names of all nodes that it replaces."""
    body = '  %s = Add(%a, %b) name("sum") loc("sum")\n  %y = Relu(%s) loc("act")'
    model = model_of("%a: f32[4], %b: f32[4]", body, "%y: f32[4]")
    assert apply(model, SquareOfSum())
    assert {n.loc.by for n in model.graph.nodes()} == {("SquareOfSum",)}
    assert {n.loc.names for n in model.graph.nodes()} == {("sum", "act")}


def test_illegal_operators_are_refused_with_the_reason() -> None:
    """A rule of a later stage whose result the target does not run is refused; the reason is kept."""
    model = model_of("%x: f32[4]", "  %y = LeakyRelu(%x)", "%y: f32[4]")
    ctx = Context(legality=lambda node: f"no kernel of {node.op}")
    assert not apply(model, PlainSoftmax(), ctx=ctx)
    assert ctx.rules["PlainSoftmax"].refusals == {"no kernel of Relu": 1}


class Clumsy(Rule):
    """Fail while looking."""

    before = "%y = Neg(%x: T)"
    after = "%y = Abs(%x)"
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Divide by zero."""
        return str(1 // 0)


def test_a_rule_whose_hook_fails_leaves_the_place_alone() -> None:
    """Other rules go on, and the report names the rule that failed."""
    model = model_of("%x: f32[4]", "  %a = Abs(%x)\n  %h = Neg(%a)\n  %y = Neg(%h)", "%y: f32[4]")
    ctx = Context()
    assert apply(model, Clumsy(), DoubleNegation(), ctx=ctx)
    assert any(reason.startswith("Clumsy failed: ZeroDivisionError") for reason in ctx.refusals)


MALFORMED = {
    "there is no operator": ("%y = Bogus(%x)", "%y = Neg(%x)"),
    "has no attribute": ("%y = Neg(%x){alpha = 1.0}", "%y = Neg(%x)"),
    "operands, not 3": ("%y = Add(%x, %x, %x)", "%y = Neg(%x)"),
    "is not bound": ("%y = Neg(%x)", "%y = Neg(%z)"),
    "is no element type": ("%y = Neg(%x: U)", "%y = Neg(%x)"),
    "is defined twice": ("%y = Neg(%x)\n%y = Neg(%x)", "%y = Neg(%x)"),
    "nothing to do with the last one": ("%z = Neg(%q)\n%y = Neg(%x)", "%y = Neg(%x)"),
    "nothing reads what this statement makes": ("%z = Neg(%x)\n%y = Neg(%x)", "%y = Neg(%x)"),
    "stands only in expressions": ("%y: f32[2*H] = Neg(%x)", "%y = Neg(%x)"),
    "the dim K is not bound": ("%y: f32[H] = Neg(%x)", "%y = Reshape(%x, [K])"),
    "at most one run": ("%y: f32[*A,*B] = Neg(%x)", "%y = Neg(%x)"),
    "makes nothing that": ("%y = Neg(%x)", "%z = Neg(%x)"),
    "is computed by `constants`": ("%y = Neg(%x)", "%y = Add(%x, const %c)"),
    "expected": ("%y = Neg(%x", "%y = Neg(%x)"),
    "not bound in every form": ("optional %h = Add(%x, %b)\n%y = Neg(%h)", "%y = Sub(%x, %b)"),
}


@pytest.mark.parametrize("expected", MALFORMED)
def test_a_malformed_rule_fails_when_it_is_defined(expected: str) -> None:
    """Each mistake is a ParseError that says what is wrong, with line, column and a caret."""
    before, after = MALFORMED[expected]
    with pytest.raises(ParseError) as caught:
        type("Malformed", (Rule,), {"__doc__": "Wrong.", "before": before, "after": after})
    assert expected in str(caught.value)
    assert "column" in caught.value.where
    assert "^" in caught.value.where


def test_a_rule_without_documentation_is_refused() -> None:
    """The docstring is the documentation, so a rule must have one."""
    with pytest.raises(ParseError, match="docstring"):
        type("Silent", (Rule,), {"before": "%y = Neg(%x)", "after": "%y = Abs(%x)"})

"""Rules are read when they are needed, and only forms are tried that the operators around a node admit.

Neither may change what is found: what a glance says of a rule is what reading it says, and with every rule read and
every form tried, the same rewrites happen.
"""

from __future__ import annotations

from typing import Any

import pytest

from compiler import manager
from compiler.errors import ParseError
from compiler.ir import edit
from compiler.ir.graph import Model
from compiler.ir.printer import print_model
from compiler.manager import Runner, function_pass
from compiler.rewrite import Context, Rule
from compiler.rewrite.engine import Engine
from compiler.rewrite.outline import Mention, Outline, glance, outline_of
from tests.test_rewrite_engine import model_of


def rule(before: str | tuple[str, ...], after: str, **more: Any) -> type[Rule]:
    """Return a new rule that says it is of a module of the package ``passes``."""
    said = {"__doc__": "Hold.", "__module__": "passes.of_a_test", "before": before, "after": after}
    return type("OfATest", (Rule,), said | more)


def was_read(cls: type[Rule]) -> bool:
    """Whether a rule's texts were parsed."""
    return isinstance(vars(cls)["forms"], tuple)


# Outlines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", manager.known_rules())
def test_a_glance_says_what_reading_says(name: str) -> None:
    """The outline of every rule names the roots and the operators that the rule has when it is read."""
    cls = manager.known_rules()[name]
    texts = (cls.before,) if isinstance(cls.before, str) else tuple(cls.before)
    seen, read = glance(texts, cls.after), outline_of(cls.forms, cls.replacement)
    if seen is None:
        return
    assert (seen.roots, seen.longest) == (read.roots, read.longest)
    assert [(m.domain, m.operators) for m in seen.after] == [(m.domain, m.operators) for m in read.after]
    for form in cls.forms:
        needed = [m.operators for m in seen.before[form.index] if not m.optional]
        assert all(operators in form.operators for operators in needed)
        assert seen.possible({min(operators) for operators in form.operators})


@pytest.mark.parametrize(
    "text",
    [
        "%y = Relu(%x) // and = Neg(%x)",
        '%"a = Neg(b" = Relu(%x)',
        "%y: f32[N//2] = Slice(%x, [0], %e)",
        "%y = If(%c){then_branch = graph @g() -> () { return }}",
        "%y Relu(%x)",
    ],
)
def test_doubtful_texts_are_read(text: str) -> None:
    """A text that a glance may take apart wrongly has no outline."""
    assert glance([text], "%y = Identity(%x)") is None


def test_every_word_of_a_statement_counts() -> None:
    """Domains, alternatives, versions and attributes are told apart, and the last statement may be missing."""
    text = """
        %a: T[*S,(H+1)*2] = com.microsoft::Gelu(%x: T[*S])
        %b = Squeeze|Reshape(%a, [-1]){axes = ints(1), mode = "a = b(c)"}
        optional %y = Softmax@13(%b)
    """
    made = (Mention(frozenset({"Relu"}), "", False),)
    found = glance([text], "%y = Relu(%x)")
    assert found == Outline(
        (
            (
                Mention(frozenset({"com.microsoft::Gelu"}), "com.microsoft", False),
                Mention(frozenset({"Squeeze", "Reshape"}), "", False),
                Mention(frozenset({"Softmax"}), "", True),
            ),
        ),
        made,
    )
    assert found.roots == ["Reshape", "Softmax", "Squeeze"]
    assert found.possible({"com.microsoft::Gelu", "Reshape"})
    assert not found.possible({"Gelu", "Reshape", "Softmax"})


# When rules are read -----------------------------------------------------------------------------


def run(model: Model, *rules: type[Rule], trace: Any = None) -> bool:
    """Run the engine with some rules and return whether anything changed."""
    edit.begin(model)
    changed = Engine([cls() for cls in rules], Context(), trace=trace).run(model.graph)
    edit.commit(model)
    return changed


def test_a_rule_without_a_place_is_not_read() -> None:
    """A rule is not read where an operator is missing that it asks for, though its root is there."""
    model = model_of("%x: f32[4]", "  %h = Abs(%x)\n  %y = Neg(%h)", "%y: f32[4]")
    away, near = rule("%h = Exp(%x)\n%y = Neg(%h)", "%y = Exp(%x)"), rule("%y = Neg(%x)", "%y = Mul(%x, -1.0)")
    assert run(model, away, near)
    assert (was_read(away), was_read(near)) == (False, True)


def test_what_a_rewrite_makes_lets_rules_in() -> None:
    """A rule that asks for an operator which another rule makes first is applied all the same."""
    model = model_of("%x: f32[4]", "  %h = Abs(%x)\n  %y = Neg(%h)", "%y: f32[4]")
    second = rule("%h = Exp(%x)\n%y = Neg(%h)", "%y = Sin(%x)")
    assert run(model, rule("%y = Abs(%x)", "%y = Exp(%x)"), second)
    assert [n.op for n in model.graph.nodes()] == ["Sin"]


def test_a_rule_has_forms_of_its_own() -> None:
    """A rule that is made of another one, and read after it, is what its own texts say; so is its outline."""
    first = rule("%y = Neg(%x)", "%y = Mul(%x, -1.0)")
    place = {"__doc__": "Hold.", "__module__": "passes.of_a_test"}
    second = type("Another", (first,), place | {"before": "%y = Abs(%x)\n%z = Exp(%y)", "after": "%z = Sin(%x)"})
    heir = type("Heir", (second,), place)
    assert first.outline().roots == ["Neg"] and len(first.forms[0].statements) == 1
    assert second.outline().roots == ["Exp"] and len(heir.forms[0].statements) == 2
    assert second.forms is heir.forms and first.outputs == {"y"} and heir.outputs == {"z"}


def test_a_mistake_in_a_rule_is_told_whenever_it_is_read() -> None:
    """No use of a malformed rule gets past its mistake, the second as little as the first; no pass hides it."""
    wrong = rule("%y = Neg(%x){alpha = 1.0}", "%y = Identity(%x)")
    for _ in range(2):
        with pytest.raises(ParseError, match="no attribute 'alpha'"):
            _ = wrong.forms
    model = model_of("%x: f32[4]", "  %y = Neg(%x)", "%y: f32[4]")
    step = function_pass("wrong", lambda graph, ctx: Engine([wrong()], ctx).run(graph))
    with pytest.raises(ParseError, match="no attribute 'alpha'"):
        Runner(model).run([step])


# What is around a node ---------------------------------------------------------------------------


class Silent:
    """A trace that wants to know of nothing; with a trace every form is tried."""

    def miss(self, *_: object) -> None:
        """Do nothing."""


MANY = ", ".join(f"%x{k}" for k in range(10))

CASES = {
    "operands in the other order": (
        "  %a = Exp(%x)\n  %b = Abs(%x)\n  %y = Add(%b, %a)",
        rule("%a = Exp(%x)\n%b = Abs(%x)\n%y = Add(%a, %b)", "%y = Neg(%x)"),
    ),
    "a constant on either side": (
        "  const %c: f32[4] = [1, 2, 3, 4]\n  %a = Mul(%c, %x)\n  %y = Neg(%a)",
        rule("%a = Mul(%x, const %c)\n%y = Neg(%a)", "%y = Add(%x, %c)"),
    ),
    "a number on either side": (
        "  const %c: f32[] = 2\n  %y = Mul(%c, %x)",
        rule("%y = Mul(%x, 2.0)", "%y = Neg(%x)"),
    ),
    "one of several operators two steps up": (
        "  %a = Abs(%x)\n  %b = Exp(%a)\n  %y = Neg(%b)",
        rule("%a = Abs|Sin(%x)\n%b = Exp(%a)\n%y = Neg(%b)", "%y = Sin(%x)"),
    ),
    "an operand that may be missing": (
        "  const %top: f32[] = 2\n  %y = Clip(%x, _, %top)",
        rule("%y = Clip(%x, const %low?, const %top)", "%y = Min(%x, %top)"),
    ),
    "more operands than are looked at": (
        "\n".join(f"  %x{k} = Exp(%x)" for k in range(10)) + f"\n  %z = Concat({MANY}) {{axis = 0}}\n  %y = Neg(%x)",
        rule("%y = Neg(%x)", "%y = Mul(%x, -1.0)"),
    ),
    "an operand beyond those that are looked at": (
        "  %a = Abs(%x)\n  %y = Max(%x, %x, %x, %x, %x, %x, %x, %x, %x, %a)",
        rule("%a = Abs(%x)\n%y = Max(%x, %x, %x, %x, %x, %x, %x, %x, %x, %a)", "%y = Max(%x, %x)"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_out_would_not_match(case: str) -> None:
    """A rule that fits is found going by what is around the node, as it is where every form is tried."""
    body, cls = CASES[case]
    models = [model_of("%x: f32[4]", body, "%y: f32[4]") for _ in range(2)]
    assert [run(model, cls, trace=trace) for model, trace in zip(models, (None, Silent()), strict=True)] == [True] * 2
    assert print_model(models[0]) == print_model(models[1])

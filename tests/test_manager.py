"""Passes, pipelines and transactions: found by themselves, written as text, undone when they fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler import manager
from compiler.errors import CompilerError, InputError, InvariantError, ParseError, UnknownNameError
from compiler.ir import edit
from compiler.ir.graph import Graph, Model
from compiler.ir.parser import parse_model
from compiler.ir.printer import print_model
from compiler.ir.verify import verify
from compiler.manager import Fixpoint, PassRecord, Runner, Step, format_pipeline, function_pass, parse_pipeline
from compiler.rewrite.transform import Context, Pass
from tests.graphs import models
from tests.source_code import ROOT

TEXT = """// ampc 1, opset 20
graph @g(%x: f32[2]) -> (%y: f32[2]) {
  %a: f32[2] = Abs(%x)
  %b: f32[2] = Neg(%a)
  %y: f32[2] = Relu(%b)
  return %y
}
"""


def model_of(text: str = TEXT) -> Model:
    """Return a model from its text."""
    return parse_model(text)


def nothing(graph: Graph, ctx: Context) -> bool:
    """Change nothing."""
    return False


def bypass(graph: Graph, ctx: Context) -> bool:
    """Take one ``Neg`` out."""
    for node in graph.nodes():
        if node.op == "Neg" and node.inputs[0] is not None:
            edit.replace(node.output, node.inputs[0])
            edit.erase(node)
            ctx.count("bypass")
            return True
    return False


def rename_one(graph: Graph, ctx: Context) -> bool:
    """Put an ``Identity`` in front: there is always something to do."""
    value = graph.inputs[0]
    edit.add_node(graph, "Identity", [value], [value.type], version=edit.NEWEST)
    return True


def passes(*functions: Callable[[Graph, Context], bool]) -> list[Step]:
    """Return functions as passes under their own names."""
    return [function_pass(f.__name__.replace("_", "-"), f) for f in functions]


# Pipelines as text -------------------------------------------------------------------------------

NAMES = sorted(manager.known_passes())
SIZES = st.integers(1, 1000).map(lambda n: f"{n}MiB")


def a_pass() -> st.SearchStrategy[Step]:
    """Draw a pass, with options where it has some."""
    plain = st.sampled_from(NAMES).map(manager.make_pass)
    options = st.fixed_dictionaries({}, optional={"budget": SIZES, "growth": SIZES})
    return plain | options.map(lambda o: manager.make_pass("fold", o))


STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.recursive(
        a_pass(),
        lambda inner: st.builds(Fixpoint, st.lists(inner, min_size=1, max_size=3).map(tuple), st.integers(1, 99)),
        max_leaves=6,
    ),
    max_size=4,
)


@given(STEPS)
def test_a_pipeline_is_its_text(steps: list[Step]) -> None:
    """What is formatted and parsed again is the same pipeline, and its text is canonical."""
    text = format_pipeline(steps)
    again = parse_pipeline(text)
    assert format_pipeline(again) == text
    assert again == steps or [type(s) for s in again] == [type(s) for s in steps]


def test_whitespace_does_not_matter() -> None:
    """Pipelines may be broken into lines."""
    assert format_pipeline(parse_pipeline(" fold ,\n fixpoint ( no-ops,cancel ) ")) == (
        "fold, fixpoint{bound=10}(no-ops, cancel)"
    )


def test_the_default_pipeline_parses() -> None:
    """Every pass of the default pipeline exists."""
    assert manager.pass_names(parse_pipeline(manager.DEFAULT_PIPELINE))


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("fold,,cancel", 6), ("fold cancel", 6), ("fold,", 6), (",fold", 1), ("fixpoint(fold", 14), ("fold)", 5),
        ("fixpoint", 1), ("fold{budget}", 5), ("fold; cancel", 5), ("(fold)", 1), ("fixpoint(fold,)", 15),
        ("fold{budget=1MiB", 5), ("fixpoint(" * 12 + "fold" + ")" * 12, 82),
    ],
)  # fmt: skip
def test_errors_name_the_column(text: str, column: int) -> None:
    """Text that does not parse is an error with the column, and a caret under it."""
    with pytest.raises(ParseError) as caught:
        parse_pipeline(text)
    assert f"column {column}:" in caught.value.where
    first, _, caret = str(caught.value).partition("where: ")[2].partition("\n")
    assert caret.splitlines()[0].index("^") == len("  where: ") + first.index(text) + column - 1


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("fold, cancle", "cancel"), ("fold{budgets=1MiB}", "budget"), ("fixpoint{bonud=3}(fold)", "bound"),
        ("cancel{x=1}", "it has none"),
    ],
)  # fmt: skip
def test_unknown_names_come_with_a_suggestion(text: str, hint: str) -> None:
    """A name that does not exist is an error that names the nearest that does."""
    with pytest.raises(UnknownNameError) as caught:
        parse_pipeline(text)
    assert hint in caught.value.hint


@pytest.mark.parametrize("bound", ["0", "-1", "many"])
def test_a_bound_is_a_number_from_one(bound: str) -> None:
    """A fixpoint runs at least once."""
    with pytest.raises(ParseError):
        parse_pipeline(f"fixpoint{{bound={bound}}}(fold)")


# Running -----------------------------------------------------------------------------------------


def run(model: Model, steps: list[Step], **options: Any) -> list[PassRecord]:
    """Run steps on a model, whose invariants hold afterwards."""
    records = Runner(model, **options).run(steps)
    assert model.journal is None
    verify(model)
    return records


def test_a_fixpoint_ends_when_nothing_changes() -> None:
    """Steps repeat until none of them changes anything; a pass that saw the graph as it is does not run again."""
    model = model_of(TEXT.replace("Abs", "Neg"))
    records = run(model, [Fixpoint(tuple(passes(bypass, nothing)), 50)])
    assert [(r.name, r.changed) for r in records] == [
        ("bypass", True), ("nothing", False), ("bypass", True), ("nothing", False), ("bypass", False),
    ]  # fmt: skip
    assert sum(r.rewrites.get("bypass", 0) for r in records) == 2
    assert [n.op for n in model.graph.nodes()] == ["Relu"]


def test_a_fixpoint_is_bounded() -> None:
    """Passes that never come to an end are stopped after ``bound`` rounds."""
    assert len(run(model_of(), [Fixpoint(tuple(passes(rename_one)), 7)])) == 7


def failing(graph: Graph, ctx: Context) -> bool:
    """Change much, then fail."""
    bypass(graph, ctx)
    rename_one(graph, ctx)
    edit.rename(graph.outputs[0], "other")
    raise RuntimeError("on purpose")


def breaking(graph: Graph, ctx: Context) -> bool:
    """Leave a node that reads a value which is defined behind it."""
    first, *_, last = graph.nodes()
    edit.set_input(first, 0, last.output)
    return True


def lying(graph: Graph, ctx: Context) -> bool:
    """Change something and deny it."""
    return not bypass(graph, ctx)


def boasting(graph: Graph, ctx: Context) -> bool:
    """Change nothing and claim it."""
    return True


@pytest.mark.parametrize(
    ("function", "why", "error"),
    [
        (failing, "RuntimeError: on purpose", RuntimeError),
        (breaking, "broken", InvariantError),
        (lying, "the truth", CompilerError),
        (boasting, "the truth", CompilerError),
    ],
)
def test_a_pass_that_fails_is_undone(function: Any, why: str, error: type[Exception]) -> None:
    """An exception, an invalid graph or a lie rolls the pass back, is recorded, and the pipeline goes on."""
    model = model_of()
    before = print_model(model)
    records = run(model, passes(function, bypass), disable=frozenset({"bypass"}))
    assert print_model(model) == before
    assert why in records[0].error
    assert not records[0].changed
    assert [r.name for r in run(model, passes(bypass))] == ["bypass"]
    with pytest.raises(error):
        run(model_of(), passes(function), strict=True)


@given(models(), st.integers(0, 30))
def test_any_change_is_undone(model: Model, steps: int) -> None:
    """Whatever a pass did to a graph before it failed, the graph is as it was."""

    def vandal(graph: Graph, ctx: Context) -> bool:
        for node in list(graph.reversed_nodes())[:steps]:
            if not any(o.is_used for o in node.outputs):
                edit.erase(node)
            elif len(node.outputs) == 1 and node.inputs and node.inputs[0] is not None:
                edit.replace(node.output, node.inputs[0])
        for value in list(graph.constants):
            if not value.is_used:
                edit.erase_constant(value)
        raise RuntimeError

    before = print_model(model)
    run(model, passes(vandal))
    assert print_model(model) == before


def test_disabled_passes_do_not_run() -> None:
    """A pass that is disabled is left out, wherever it stands."""
    steps = [*passes(bypass), Fixpoint(tuple(passes(bypass, nothing)))]
    assert [r.name for r in run(model_of(), steps, disable=frozenset({"bypass"}))] == ["nothing"]


@pytest.mark.parametrize("disable", [frozenset(), frozenset({"bypass"})])
def test_until_stops_after_its_first_run(disable: frozenset[str]) -> None:
    """Nothing runs after the pass that ends the pipeline, whether that one runs or not."""
    steps = [*passes(nothing), Fixpoint(tuple(passes(bypass, rename_one))), *passes(rename_one)]
    names = [r.name for r in run(model_of(), steps, until="bypass", disable=disable)]
    assert names == (["nothing"] if disable else ["nothing", "bypass"])


def test_observers_see_changes_that_were_kept() -> None:
    """Observers are told before each pass, and after those whose change stands, with what was touched."""
    seen: list[str] = []

    class Watching:
        def before(self, model: Model, name: str) -> None:
            seen.append(f"before {name}")

        def after(self, model: Model, record: PassRecord, journal: edit.Journal) -> None:
            seen.append(f"after {record.name}: {len(journal.erased)}")

    run(model_of(), passes(bypass, nothing, failing), observers=[Watching()])
    assert seen == ["before bypass", "after bypass: 1", "before nothing", "before failing"]


def test_records_say_what_was_done() -> None:
    """A record counts nodes and rewrites, and is plain data."""
    (record,) = run(model_of(), passes(bypass))
    assert (record.nodes_before, record.nodes_after) == (3, 2)
    assert record.to_json() | {"ms": 0} == {
        "name": "bypass", "changed": True, "rewrites": 1, "kinds": {"bypass": 1}, "refusals": {}, "ms": 0,
        "rules": {}, "nodes_before": 3, "nodes_after": 2, "error": "",
    }  # fmt: skip


# Discovery ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FromPlugin(Pass):
    """Do nothing, from outside."""

    times: int = 1

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Change nothing."""
        return False


class Cancel(Pass):
    """Bear a name that is taken."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Change nothing."""
        return False


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Install an entry point for the time of a test."""

    def install(target: str) -> None:
        entry = EntryPoint("mine", target, "ampc.passes")
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] if group == "ampc.passes" else [])
        manager.known_passes.cache_clear()

    yield install
    monkeypatch.undo()
    manager.known_passes.cache_clear()


def test_plugins_are_found(plugin: Callable[[str], None]) -> None:
    """A pass that an entry point names is a pass like any other, options included."""
    plugin(f"{__name__}:FromPlugin")
    assert parse_pipeline("from-plugin{times=3}") == [FromPlugin(3)]
    with pytest.raises(ParseError, match="int"):
        parse_pipeline("from-plugin{times=x}")


@pytest.mark.parametrize("target", [f"{__name__}:Cancel", "no_such_module_at_all", f"{__name__}:nowhere"])
def test_plugins_at_fault_are_named(plugin: Callable[[str], None], target: str) -> None:
    """A plugin whose pass has a name that is taken, or that cannot be loaded, is an error that names it."""
    plugin(target)
    with pytest.raises(InputError) as caught:
        manager.known_passes()
    assert "cancel" in str(caught.value) or "mine" in str(caught.value)


@pytest.mark.parametrize("contents", ["", "raise RuntimeError('mine')", "from passes import nothing_of_the_kind"])
def test_package_that_shadows_ours_is_named(tmp_path: Path, contents: str) -> None:
    """A package of the user's that is called ``passes`` is an error that says so, not a missing pass."""
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "__init__.py").write_text(contents)
    program = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import compiler.manager as m; " + (
        "from compiler.errors import InputError\ntry:\n  m.known_passes()\nexcept InputError as e:\n  print(e)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "is not ampc's" in done.stdout, done.stderr

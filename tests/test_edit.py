"""Editing: every step leaves a valid graph, and a transaction that is undone leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.diff import structurally_equal
from compiler.ir.dtype import DType
from compiler.ir.edit import Journal
from compiler.ir.graph import Attr, Graph, Loc, Model, Node, Value
from compiler.ir.parser import parse_model
from compiler.ir.printer import print_model
from compiler.ir.types import UNKNOWN, TensorType, UnrankedType
from compiler.ir.verify import verify, verify_changes
from tests.graphs import models

Choose = Callable[[list[Any]], Any]
"""Draws one of a list."""


# Random steps: each finds a place where it is allowed, or does nothing ----------------------------


def _nodes(model: Model) -> list[Node]:
    return list(model.graph.all_nodes())


def _insert(model: Model, choose: Choose) -> None:
    node = choose(_nodes(model))
    value = choose([v for v in node.inputs if v is not None] or [None])
    if value is not None:
        edit.add_node(node.graph, "Identity", [value], [value.type], version=26, before=node)


def _replace(model: Model, choose: Choose) -> None:
    """Let an output read what its node reads."""
    node = choose(_nodes(model))
    new = choose([v for v in node.inputs if v is not None] or [None])
    if new is not None:
        edit.replace(node.output, new)


def _erase(model: Model, choose: Choose) -> None:
    dead = [n for n in _nodes(model) if not any(o.is_used for o in n.outputs)]
    if dead:
        edit.erase(choose(dead))


def _erase_constant(model: Model, choose: Choose) -> None:
    dead = [v for g in model.graph.all_graphs() for v in g.constants if not v.is_used]
    if dead:
        edit.erase_constant(choose(dead))


def _constant(model: Model, choose: Choose) -> None:
    node = choose(_nodes(model))
    graph = choose(list(model.graph.all_graphs()))
    if node.graph is graph and node.inputs:
        edit.set_input(node, 0, edit.add_constant(graph, Constant.of([1.0], DType.F32)))


def _drop_operand(model: Model, choose: Choose) -> None:
    node = choose(_nodes(model))
    edit.set_inputs(node, node.inputs[:-1])


def _attribute(model: Model, choose: Choose) -> None:
    node = choose(_nodes(model))
    edit.set_attribute(node, "axis", choose([None, Attr("int", 1)]))


def _retype(model: Model, choose: Choose) -> None:
    edit.set_type(choose(_nodes(model)).output, choose([UNKNOWN, TensorType(DType.F32, (2,))]))


def _rename(model: Model, choose: Choose) -> None:
    edit.rename(choose(_nodes(model)).output, model.fresh_name("new"))


def _relocate(model: Model, choose: Choose) -> None:
    edit.set_loc(choose(_nodes(model)), Loc(("a",), ("Rule",)))


def _move_up(model: Model, choose: Choose) -> None:
    """Exchange two neighbours when the second does not read the first."""
    node = choose(_nodes(model))
    before = node.previous
    if before is not None and before.graph is node.graph and not _depends(node, before):
        edit.move_before(node, before)


def _depends(node: Node, on: Node) -> bool:
    read = {v for g in node.graphs() for n in g.all_nodes() for v in n.inputs} | set(node.inputs)
    returned = {v for g in node.graphs() for sub in g.all_graphs() for v in sub.outputs}
    return any(o in read or o in returned for o in on.outputs)


def _return_another(model: Model, choose: Choose) -> None:
    graph = choose(list(model.graph.all_graphs()))
    made = [o for n in graph.nodes() for o in n.outputs]
    if graph.outputs and made:
        edit.set_output(graph, 0, choose(made))


STEPS = [
    _insert, _replace, _erase, _erase_constant, _constant, _drop_operand, _attribute, _retype, _rename, _relocate,
    _move_up, _return_another,
]  # fmt: skip


def change(model: Model, data: st.DataObject, *, check: Callable[[], object] = lambda: None) -> None:
    """Do a few random steps, and check after each."""
    for step in data.draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=8)):
        if model.graph.node_count:
            step(model, lambda found: data.draw(st.sampled_from(found)))
        check()


@given(models(), st.data())
def test_every_step_leaves_a_valid_graph(model: Model, data: st.DataObject) -> None:
    """Whatever is done through ``edit`` keeps every invariant."""
    change(model, data, check=lambda: verify(model))


@given(models(), st.data())
def test_rollback_leaves_no_trace(model: Model, data: st.DataObject) -> None:
    """After a rollback the model prints as before, and is valid."""
    before = print_model(model)
    edit.begin(model)
    change(model, data)
    edit.rollback(model)
    verify(model)
    assert print_model(model) == before


@given(models(), st.data())
def test_a_journal_names_what_was_touched(model: Model, data: st.DataObject) -> None:
    """A journal that says that nothing changed is right, and one that says so had steps to undo."""
    old = {n: n.inputs for n in _nodes(model)}
    before = print_model(model)
    journal = edit.begin(model)
    change(model, data)
    edit.commit(model)
    verify_changes(journal)
    assert journal.changed or print_model(model) == before
    new = set(_nodes(model)) - set(old)
    assert new == set(journal.inserted)
    assert {n for n in old if n.graph is None and n not in set(_nodes(model))} <= set(journal.erased)
    rewired = {n: inputs for n, inputs in old.items() if n.inputs != inputs}
    assert {n: journal.inputs_before[n] for n in rewired} == rewired


@given(models(), st.data())
def test_names_of_outputs_survive(model: Model, data: st.DataObject) -> None:
    """Replacing values never changes the names of what the model returns, nor its inputs."""
    interface = [v.name for v in model.graph.outputs], [v.name for v in model.graph.inputs]
    for _ in range(4):
        _replace(model, lambda found: data.draw(st.sampled_from(found)))
    verify(model)
    assert ([v.name for v in model.graph.outputs], [v.name for v in model.graph.inputs]) == interface


# Single steps ------------------------------------------------------------------------------------

TEXT = """\
// ampc 1, opset 20
graph @g(%x: f32[2], %flag: bool[]) -> (%y: f32[2], %z: f32[2]) {
  %a: f32[2] = Relu(%x)
  %b: f32[2] = Tanh(%a)
  %y: f32[2] = Neg(%b)
  %z: f32[2] = If(%flag) {
    then_branch = graph @t() -> (%a: f32[2]) {
      return %a
    }
  }
  return %y, %z
}
"""


def parts() -> tuple[Model, dict[str, Value]]:
    """Return a model whose nested graph returns an outer value, and the values of its main graph by name."""
    model = parse_model(TEXT)
    values = [*model.graph.inputs, *(o for n in model.graph.nodes() for o in n.outputs)]
    return model, {v.name: v for v in values}


def test_replacing_an_output_takes_its_name() -> None:
    """A value of the same graph that takes an output's place is called as that was."""
    model, value = parts()
    edit.replace(value["y"], value["b"])
    assert value["b"].name == "y"
    assert model.graph.outputs[0] is value["b"]
    verify(model)


def test_replacing_an_output_by_an_input_needs_a_carrier() -> None:
    """Where an input takes an output's place, an ``Identity`` carries the name."""
    model, value = parts()
    edit.replace(value["y"], value["x"])
    carrier = model.graph.outputs[0]
    assert carrier.node is not None
    assert (carrier.name, carrier.node.op, carrier.node.inputs) == ("y", "Identity", (value["x"],))
    verify(model)


def test_nested_graphs_return_replacements() -> None:
    """A nested graph that returned the old value returns one of its own with the new contents."""
    model, value = parts()
    nested: Graph = value["z"].node.attributes["then_branch"].value  # type: ignore[union-attr]  # it is If's
    edit.replace(value["a"], value["x"])
    assert nested.outputs[0].graph is nested
    verify(model)


def test_erasing_what_is_used_is_refused() -> None:
    """A node or constant that somebody reads, or a graph returns, stays."""
    model, value = parts()
    for name in ("b", "y"):
        node = value[name].node
        assert node is not None
        with pytest.raises(AssertionError, match="in use"):
            edit.erase(node)
    constant = edit.add_constant(model.graph, Constant.of([1.0], DType.F32))
    edit.add_node(model.graph, "Neg", [constant], [constant.type], version=26)
    with pytest.raises(AssertionError, match="in use"):
        edit.erase_constant(constant)


def test_a_nested_graph_goes_and_comes_with_its_owner() -> None:
    """Erasing a node drops the uses and outputs of what is nested in it, and undoing that brings them back."""
    model, value = parts()
    edit.set_output(model.graph, 1, value["y"])
    owner = value["z"].node
    assert owner is not None
    before = len(value["a"].uses), len(value["a"].returned)
    edit.begin(model)
    edit.erase(owner)
    verify(model)
    assert len(value["a"].returned) == before[1] - 1
    edit.rollback(model)
    verify(model)
    assert (len(value["a"].uses), len(value["a"].returned)) == before


def test_iteration_survives_changes() -> None:
    """A loop over nodes sees those inserted after it, and passes over those that were erased."""
    model = parse_model(TEXT)
    seen = []
    for node in model.graph.nodes():
        seen.append(node.op)
        if node.op == "Neg":
            edit.replace(node.output, node.inputs[0] or node.output)
            edit.erase(node)
            edit.add_node(model.graph, "Abs", [model.graph.inputs[0]], [UNKNOWN], version=26)
    assert seen == ["Relu", "Tanh", "Neg", "If", "Abs"]
    assert [n.op for n in model.graph.reversed_nodes()] == ["Abs", "If", "Tanh", "Relu"]


def test_types_are_only_refined() -> None:
    """``refine`` ignores a type that says less."""
    value = Value("v", TensorType(DType.F32, (2,)))
    edit.refine(value, UnrankedType(DType.F32))
    edit.refine(value, UNKNOWN)
    assert value.type == TensorType(DType.F32, (2,))


def test_fresh_names_are_fresh() -> None:
    """A fresh name is that of no value, also after renaming, and never empty."""
    model = parse_model(TEXT)
    names = [model.fresh_name(hint) for hint in ("a", "a", "c", "", "a_1")]
    assert len(set(names)) == len(names)
    assert names[2] == "c"
    assert not set(names) & {"x", "y", "z", "a", "b", ""}


def test_transfers_are_undone() -> None:
    """A node or constant that moved to another graph is back where it was after a rollback."""
    model, value = parts()
    constant = edit.add_constant(model.graph, Constant.of([1.0, 2.0], DType.F32))
    nested: Graph = value["z"].node.attributes["then_branch"].value  # type: ignore[union-attr]  # it is If's
    inner = edit.add_node(nested, "Add", [value["a"], constant], [value["a"].type], version=26)
    before = print_model(model)
    edit.begin(model)
    edit.transfer_constant(constant, nested)
    verify(model)
    owner = value["z"].node
    assert owner is not None
    edit.rollback(model)
    edit.begin(model)
    edit.transfer(inner, owner)
    verify(model)
    edit.rollback(model)
    verify(model)
    assert print_model(model) == before


def test_merged_origins_name_each_node_once() -> None:
    """A node that replaces others comes from all of them, newest rewrite first."""
    a = Node("A", (), (), loc=Loc(("m", "n"), ("Old",)))
    b = Node("B", (), (), loc=Loc(("n", "o")))
    assert edit.merge_locs([a, b], "New") == Loc(("m", "n", "o"), ("New", "Old"))


def test_transactions_do_not_nest() -> None:
    """Opening a second transaction is a mistake of the caller."""
    model, _ = parts()
    journal = edit.begin(model)
    assert isinstance(journal, Journal)
    with pytest.raises(AssertionError, match="already open"):
        edit.begin(model)


def test_difference_is_named() -> None:
    """``structurally_equal`` says what differs first."""
    model, other = parse_model(TEXT), parse_model(TEXT.replace("Neg", "Abs"))
    difference = structurally_equal(model, other)
    assert difference is not None
    assert "operators differ" in difference
    assert structurally_equal(model, parse_model(TEXT)) is None

"""The verifier: valid graphs pass, and each broken invariant is found, with the place and the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from compiler.errors import InvariantError
from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Model, Node, Value
from compiler.ir.parser import parse_model
from compiler.ir.types import UNKNOWN, TensorType
from compiler.ir.verify import verify, verify_changes
from tests.graphs import models, odd_models

TEXT = """\
// ampc 1, opset 20
graph @main(%x: f32[2], %flag: bool[]) -> (%z: f32[2]) {
  const %c: f32[2] = [1.0, 2.0]
  %y: f32[2], _ = Foo(%x, %c)
  %a: f32[2] = Relu(%y)
  %z: f32[2] = If(%flag) {
    else_branch = graph @e() -> (%e: f32[2]) {
      %e: f32[2] = Neg(%a)
      return %e
    },
    then_branch = graph @t() -> (%t: f32[2]) {
      const %k: f32[2] = [3.0, 4.0]
      %t: f32[2] = Add(%a, %k)
      return %t
    }
  }
  %unused: f32[2] = Relu(%a)
  return %z
}
"""


class Parts:
    """A small valid model, and its values by name."""

    def __init__(self) -> None:
        self.model = parse_model(TEXT)
        self.graph = self.model.graph
        self.nodes = list(self.graph.nodes())
        self.foo, self.relu, self.branch, self.unused = self.nodes
        self.inner: Graph = self.branch.attributes["then_branch"].value
        self.value: dict[str, Value] = {}
        for graph in self.graph.all_graphs():
            self.value |= {v.name: v for v in [*graph.inputs, *graph.constants]}
            self.value |= {o.name: o for n in graph.nodes() for o in n.outputs}


@given(models())
def test_models_that_run_are_valid(model: Model) -> None:
    """What is built through ``edit`` passes."""
    verify(model)


@given(odd_models())
def test_odd_models_are_valid(model: Model) -> None:
    """Names, types and attributes of any kind pass, and a nested graph stands for its model."""
    verify(model)
    for graph in model.graph.all_graphs():
        verify(graph)


def _set(obj: object, name: str, value: object) -> None:
    setattr(obj, name, value)


def _inputs(node: Node, *inputs: Value | None) -> None:
    """Change operands behind the back of the use lists."""
    node.inputs = inputs


def _reads(node: Node, *inputs: Value) -> None:
    edit.set_inputs(node, inputs)


def _stray_use(p: Parts) -> None:
    p.value["x"].uses[(p.relu, 0)] = None


def _use_by_erased(p: Parts) -> None:
    edit.erase(p.unused)
    p.value["a"].uses[(p.unused, 0)] = None


def _bypassed(p: Parts) -> None:
    """Take a node out of the list without telling its values."""
    p.foo.next, p.branch.previous = p.branch, p.foo


def _circle(p: Parts) -> None:
    p.unused.next = p.foo


def _moved_late(p: Parts) -> None:
    edit.move_before(p.relu, p.foo)


def _shared_graph(p: Parts) -> None:
    p.branch.attributes["else_branch"] = Attr("graph", p.inner)


def _foreign_model(p: Parts) -> None:
    p.inner.model = Parts().model


def _unlisted_constant(p: Parts) -> None:
    p.graph.constants.pop(p.value["c"])


def _constant_input(p: Parts) -> None:
    p.graph.inputs[0].constant = p.value["c"].constant


def _double_input(p: Parts) -> None:
    p.graph.inputs.append(p.graph.inputs[0])


def _contents(p: Parts, array: Any) -> None:
    p.value["c"].constant = Constant.from_array(array)


def _attribute(p: Parts, kind: str, value: object) -> None:
    edit.set_attribute(p.relu, "a", Attr(kind, value))


_NUMPY_DIMS: Any = (np.int64(2),)
"""Dims that print like numbers and are none."""

BROKEN: dict[str, tuple[Callable[[Parts], object], str]] = {
    "a use list lacks a use": (lambda p: p.value["x"].uses.clear(), "its use list lacks operand 0"),
    "a use list has a stray use": (_stray_use, "its use list names operand 0"),
    "a use by an erased node": (_use_by_erased, "its use list names operand 0"),
    "operands changed behind the use lists": (lambda p: _inputs(p.relu, p.value["x"]), "its use list lacks operand 0"),
    "an operand dropped behind the use lists": (lambda p: _inputs(p.unused), "its use list names operand 0"),
    "a read before the definition": (_moved_late, "which is defined after it"),
    "a node that reads itself": (lambda p: _reads(p.relu, p.value["a"]), "which is defined after it"),
    "a read of a value of a nested graph": (lambda p: _reads(p.unused, p.value["t"]), "which is not visible here"),
    "a read of an absent output": (lambda p: _reads(p.relu, p.foo.outputs[1]), "somebody uses that"),
    "a read of a value of nothing": (lambda p: _reads(p.relu, Value("w")), "which is not visible here"),
    "an erased node's output is read": (lambda p: edit.unlink(p.relu), "whose node was erased"),
    "an output of another node": (lambda p: _set(p.value["a"], "node", p.foo), "says that it is something else"),
    "an output at another index": (lambda p: _set(p.value["a"], "index", 1), "says that it is something else"),
    "an output that is a constant too": (
        lambda p: _set(p.value["a"], "constant", p.value["c"].constant), "is a constant too",
    ),
    "an output of another graph": (lambda p: _set(p.value["a"], "graph", p.inner), "says that it is something"),
    "a node in the list of another graph": (lambda p: _set(p.relu, "graph", p.inner), "is of another graph"),
    "a wrong number of nodes": (lambda p: _set(p.graph, "node_count", 5), "5 are recorded"),
    "too small a number of nodes": (lambda p: _set(p.graph, "node_count", 3), "goes on after 3"),
    "a list in circles": (_circle, "goes on after 4 nodes, or in circles"),
    "a list that ends elsewhere": (lambda p: _set(p.graph, "_last", p.relu), "the list of nodes ends"),
    "a node bypassed": (_bypassed, "which is not visible here|defined after|says that"),
    "a back link to the wrong node": (lambda p: _set(p.branch, "previous", p.foo), "the node before it"),
    "a name given twice": (lambda p: _set(p.value["a"], "name", "x"), "the name is that of %x"),
    "a nested name that hides an outer one": (lambda p: _set(p.value["k"], "name", "x"), "the name is that of %x"),
    "a nested name that hides a later one": (lambda p: _set(p.value["k"], "name", "unused"), "the name is that of"),
    "an output of the graph not defined": (lambda p: p.graph.outputs.__setitem__(0, p.value["t"]), "not defined in it"),
    "an output that does not know": (lambda p: p.value["z"].returned.clear(), "does not know that it is output 0"),
    "a value that is no output": (
        lambda p: p.value["a"].returned.__setitem__((p.graph, 0), None), "says that it is output 0",
    ),
    "a nested graph of another owner": (lambda p: _set(p.inner, "owner", p.relu), "does not own the graph"),
    "two attributes with one graph": (_shared_graph, "has one graph in two attributes"),
    "a nested graph of another model": (_foreign_model, "belongs to another model"),
    "a constant that is not listed": (_unlisted_constant, "which is not visible here"),
    "an input that is a constant": (_constant_input, "says that it is something else"),
    "an input listed twice": (_double_input, "says that it is something else"),
    "an input without a name": (lambda p: _set(p.value["x"], "name", ""), "says that it is something else"),
    "a constant without contents": (lambda p: _set(p.value["c"], "constant", None), "among the constants and is none"),
    "contents of another shape": (lambda p: _contents(p, np.zeros(3, np.float32)), r"its contents are f32\[3\]"),
    "contents of another element type": (lambda p: _contents(p, np.zeros(2)), r"its contents are f64\[2\]"),
    "a constant of no tensor type": (lambda p: _set(p.value["c"], "type", UNKNOWN), "is not that of a tensor"),
    "a default of another element type": (
        lambda p: _set(p.value["x"], "default", Constant.of([1.0, 2.0], DType.F64)), "its default is of type f64",
    ),
    "a dim below zero": (lambda p: _set(p.value["a"], "type", TensorType(DType.F32, (-1,))), "its dim -1"),
    "a dim of numpy": (
        lambda p: _set(p.value["a"], "type", TensorType(DType.F32, _NUMPY_DIMS)), "neither an int nor an Expr",
    ),
    "a float that says int": (lambda p: _attribute(p, "int", 1.0), "says 'int' and holds 1.0"),
    "a bool that says int": (lambda p: _attribute(p, "int", True), "says 'int' and holds True"),
    "an int of numpy": (lambda p: _attribute(p, "int", np.int64(1)), "says 'int'"),
    "an int beyond 64 bits": (lambda p: _attribute(p, "int", 1 << 63), "says 'int'"),
    "an int that says float": (lambda p: _attribute(p, "float", 1), "says 'float' and holds 1"),
    "a list that is no tuple": (lambda p: _attribute(p, "ints", [1]), "says 'ints'"),
    "a list of the wrong kind": (lambda p: _attribute(p, "ints", (1, "a")), "says 'ints'"),
    "a kind that does not exist": (lambda p: _attribute(p, "bool", True), "says 'bool'"),
    "an array that says tensor": (lambda p: _attribute(p, "tensor", np.zeros(1)), "says 'tensor'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_invariant_is_found(name: str) -> None:
    """Each way to break a graph raises ``InvariantError`` with the reason and a place."""
    parts = Parts()
    verify(parts.model)
    damage, why = BROKEN[name]
    damage(parts)
    with pytest.raises(InvariantError, match=why) as caught:
        verify(parts.model)
    assert caught.value.where


def test_long_chains_cost_no_stack() -> None:
    """A graph of many nodes and one of many levels are walked, not recursed into."""
    model = Model(opsets={"": 20})
    model.graph = graph = edit.new_graph("g", model)
    value = edit.add_input(graph, Value("x", TensorType(DType.F32, (2,))))
    for _ in range(20_000):
        value = edit.add_node(graph, "Relu", [value], [value.type], version=26).output
    levels: list[tuple[Graph, Node]] = []
    for i in range(3000):
        node = Node("If", (value,), (Value(f"if{i}"),), version=26)
        inner = edit.new_graph("g", model, node)
        node.attributes = {"then_branch": Attr("graph", inner)}
        edit.link(graph, node, None)  # attach() visits all levels below, each time
        edit.add_uses(node)
        node.outputs[0].node, node.outputs[0].graph = node, graph
        levels.append((graph, node))
        graph = inner
    verify(model)
    edit.add_output(graph, Value("nowhere"))
    with pytest.raises(InvariantError, match="not defined in it"):
        verify(model)


# What a journal says -----------------------------------------------------------------------------


def test_recorded_changes_are_checked() -> None:
    """What a pass did through ``edit`` passes the check of its journal."""
    parts = Parts()
    journal = edit.begin(parts.model)
    edit.add_node(parts.inner, "Abs", [parts.value["a"]], [parts.value["a"].type], version=26)
    edit.set_input(parts.relu, 0, parts.value["x"])
    edit.erase(parts.unused)
    verify_changes(journal)
    edit.commit(parts.model)
    verify(parts.model)


def _invisible(p: Parts) -> None:
    edit.add_node(p.graph, "Abs", [p.value["t"]], [p.value["t"].type], version=26)


def _of_erased(p: Parts) -> None:
    edit.erase(p.unused)
    edit.set_input(p.foo, 0, p.unused.output)


LOCAL: dict[str, tuple[Callable[[Parts], object], str]] = {
    "a read of a value that is not visible": (_invisible, "which is not visible here"),
    "a read of an erased node's output": (_of_erased, "whose node was erased"),
    "an attribute of another kind": (lambda p: _attribute(p, "int", 1.0), "says 'int'"),
}


@pytest.mark.parametrize("name", LOCAL)
def test_a_broken_change_is_found(name: str) -> None:
    """What a touched node can tell by itself is found without walking the graph."""
    parts = Parts()
    journal = edit.begin(parts.model)
    damage, why = LOCAL[name]
    damage(parts)
    with pytest.raises(InvariantError, match=why):
        verify_changes(journal)

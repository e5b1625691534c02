"""Laws of ``compiler.ir.infer`` on graphs: symbols, contents, control flow, facts that are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dims import Dim, Expr, symbol
from compiler.ir.dtype import DType
from compiler.ir.facts import known_contents, known_elements, nonnegative
from compiler.ir.graph import Attr, Graph, Model, Node, Value
from compiler.ir.infer import infer, infer_nodes
from compiler.ir.infer_rules import RULES
from compiler.ir.reinfer import infer_changes
from compiler.ir.schema import schema
from compiler.ir.types import UNKNOWN, TensorType

N, M = symbol("N"), symbol("M")


class Builder:
    """Builds small graphs."""

    def __init__(self) -> None:
        """Start an empty model."""
        self.model = Model(opsets={"": 21})
        self.graph = self.model.graph = Graph("g", self.model)

    def input(self, *dims: Dim, dtype: DType = DType.F32) -> Value:
        """Add an input."""
        return edit.add_input(self.graph, Value(self.model.fresh_name("x"), TensorType(dtype, dims)))

    def const(self, *items: int) -> Value:
        """Add a vector of 64-bit integers."""
        return edit.add_constant(self.graph, Constant.from_array(np.array(items, np.int64)))

    def op(
        self, op: str, *inputs: Value | None, version: int = 21, graph: Graph | None = None, **attributes: Any
    ) -> Value:
        """Add a node with one output."""
        attrs = {k: Attr("ints" if isinstance(v, tuple) else "int", v) for k, v in attributes.items()}
        where = self.graph if graph is None else graph
        return edit.add_node(where, op, inputs, [UNKNOWN], attrs, version=version).output


def test_shape_arithmetic_is_understood() -> None:
    """``Shape``, ``Gather``, ``Mul`` and ``Concat`` tell ``Reshape`` the dims, symbols and all."""
    b = Builder()
    x = b.input(N, M, 768)
    dims = b.op("Shape", x)
    rows = b.op("Mul", b.op("Gather", dims, b.const(0)), b.op("Gather", dims, b.const(1)))
    flat = b.op("Reshape", x, b.op("Concat", rows, b.const(12), b.const(-1), axis=0))
    back = b.op("Reshape", flat, b.op("Concat", b.op("Slice", dims, b.const(0), b.const(2)), b.const(-1), axis=0))
    infer(b.graph)
    assert flat.shape == (N * M, 12, 64)
    assert back.shape == (N, M, 768)


def test_choosing_where_a_dim_is_minus_one_is_understood() -> None:
    """``Where(shape == -1, 1, shape)``, as exporters write ``expand``, has known contents."""
    b = Builder()
    x = b.input(N, 1, 4)
    wanted = b.op("Concat", b.op("Shape", x, start=0, end=1), b.const(7), b.const(-1), axis=0)
    ones = b.op("ConstantOfShape", b.const(3), version=21)
    node = ones.node
    assert node is not None
    edit.set_attribute(node, "value", Attr("tensor", Constant.from_array(np.array([1]))))
    shape = b.op("Where", b.op("Equal", wanted, b.const(-1)), ones, wanted)
    y = b.op("Expand", x, shape)
    infer(b.graph)
    assert known_contents(shape) == (N, 7, 1)
    assert y.shape == (N, 7, 4)


def test_broadcasting_decides_only_what_is_certain() -> None:
    """1 gives way, numbers win over symbols, and of two symbols nothing is known."""
    b = Builder()
    y = b.op("Add", b.input(N, 1, N, N), b.input(1, M, 5, M))
    again = b.op("Add", b.input(M, 1), b.input(N))
    infer(b.graph)
    assert y.shape is not None
    assert y.shape[:3] == (N, M, 5)
    assert y.shape[3] not in (N, M)
    assert again.shape == (M, N)


def test_a_clamped_slice_broadcasts_with_what_clamped_it() -> None:
    """``table[:, :S] + x`` has the length ``S``: the two broadcast only when the table is long enough."""
    b = Builder()
    x, table = b.input(N, M, 8), b.input(1, 512, 8)
    length = b.op("Shape", x, start=1, end=2)
    y = b.op("Add", b.op("Slice", table, b.const(0), length, b.const(1)), x)
    infer(b.graph)
    assert y.shape == (N, M, 8)


def test_a_slice_undoes_padding_of_a_dim_that_was_divided() -> None:
    """A dim that floor divisions gave is known not to be negative: one more, and without the last, it is itself."""
    b = Builder()
    x = b.input((N // 5 - 2) // 4 + 1, 8)
    padded = b.op("Pad", x, b.const(0, 0, 1, 0))
    cut = b.op("Slice", padded, b.const(0), b.const(-1), b.const(0))
    infer(b.graph)
    assert cut.shape == x.shape


def test_what_a_change_tells_reaches_everything_below() -> None:
    """After a change, inference from there finds what inference of the whole graph finds, however long the paths."""
    b = Builder()
    x, unknown = b.input(N, 4), edit.add_input(b.graph, Value("to", TensorType(DType.I64, (2,))))
    value = b.op("Reshape", x, unknown)
    start = value
    for _ in range(12):
        value = b.op("Add", b.op("Neg", value), b.op("Relu", b.op("Abs", value)))
    infer(b.graph)
    journal = edit.begin(b.model)
    assert start.node is not None
    edit.set_input(start.node, 1, b.const(0, 4))
    infer_changes(b.model, journal)
    edit.commit(b.model)
    assert value.shape == (N, 4)


def test_contradictions_make_unknown_values() -> None:
    """Shapes that do not broadcast, and axes out of range, leave the output unknown."""
    b = Builder()
    y = b.op("Add", b.input(4), b.input(5))
    z = b.op("Softmax", b.op("Transpose", b.input(2, 3), perm=(0, 2)))
    infer(b.graph)
    assert y.type == z.type == UNKNOWN


def test_inputs_without_elements_do_not_decide_a_concatenation() -> None:
    """``Concat`` ignores empty inputs at run time, so their other dims are no evidence."""
    b = Builder()
    y = b.op("Concat", b.input(N, 4), b.input(N, M), axis=0)
    z = b.op("Concat", b.input(2, 4), b.input(N, M), axis=0)
    infer(b.graph)
    assert y.shape == (2 * N, M)
    assert z.shape == (N + 2, 4)


def test_inferring_again_changes_nothing() -> None:
    """A second run finds the same types, symbols for unknown dims included."""
    b = Builder()
    x = b.input(N, M)
    found = b.op("NonZero", x)
    b.op("Gather", x, b.op("Add", b.op("Transpose", found), b.input(1, dtype=DType.I64)))
    _loop(b, x, grow=True)
    infer(b.graph)
    before = [(o.type, o.contents) for n in b.graph.all_nodes() for o in n.outputs]
    edit.begin(b.model)
    infer(b.graph)
    infer_nodes(list(b.graph.nodes()))
    assert not edit.commit(b.model).changed
    assert [(o.type, o.contents) for n in b.graph.all_nodes() for o in n.outputs] == before


def test_inference_is_undone_with_the_transaction() -> None:
    """Types and contents that were found in a transaction are forgotten when it is rolled back."""
    b = Builder()
    dims = b.op("Shape", b.input(N, 4))
    edit.begin(b.model)
    infer(b.graph)
    assert (dims.type, dims.contents) == (TensorType(DType.I64, (2,)), (N, 4))
    edit.rollback(b.model)
    assert (dims.type, dims.contents) == (UNKNOWN, None)


def test_a_type_that_says_more_is_kept() -> None:
    """What is known of a value already is not forgotten, and what is known to be otherwise is corrected."""
    b = Builder()
    y = b.op("NonZero", b.input(N, M))
    z = b.op("Relu", b.input(4))
    edit.set_type(y, TensorType(DType.I64, (2, 7)))
    edit.set_type(z, TensorType(DType.F32, (5,)))
    infer(b.graph)
    assert y.shape == (2, 7)
    assert z.shape == (4,)


def _loop(b: Builder, x: Value, *, grow: bool) -> Node:
    """Add a ``Loop`` that carries ``x`` and collects it, growing by a row each time if so asked."""
    body = Graph("body", b.model)
    counter, go_on, carried = (edit.add_input(body, Value(b.model.fresh_name(n), UNKNOWN)) for n in ("i", "c", "v"))
    edit.add_output(body, b.op("Identity", go_on, graph=body))
    row = b.op("Pad", carried, b.const(1, 0, 0, 0), graph=body) if grow else b.op("Relu", carried, graph=body)
    edit.add_output(body, row)
    edit.add_output(body, b.op("Relu", x, graph=body))
    del counter
    node = Node(
        "Loop", (b.const(3), None, x), (Value(b.model.fresh_name("l")), Value(b.model.fresh_name("s"))),
        {"body": Attr("graph", body)}, version=21,
    )  # fmt: skip
    body.owner = node
    return edit.attach(b.graph, node)


def test_what_a_loop_keeps_is_known() -> None:
    """A carried value whose shape the body keeps has it after the loop; collected values are stacked."""
    b = Builder()
    node = _loop(b, b.input(N, 4), grow=False)
    infer(b.graph)
    assert node.outputs[0].shape == (N, 4)
    assert node.outputs[1].shape == (3, N, 4)


def test_what_a_loop_changes_is_unknown() -> None:
    """A dim that the body changes is unknown inside and after the loop; the others stay."""
    b = Builder()
    x = b.input(N, 4)
    node = _loop(b, x, grow=True)
    infer(b.graph)
    inside = node.attr("body").inputs[2]
    for value in (node.outputs[0], inside):
        assert value.shape is not None
        assert value.shape[1] == 4
        assert value.shape[0] != N
        assert isinstance(value.shape[0], Expr)


def test_branches_are_joined() -> None:
    """An ``If`` has the dims in which both branches agree."""
    b = Builder()
    x, condition = b.input(N, 4), b.input(dtype=DType.BOOL)
    branches = {}
    for name, pads in (("then_branch", (1, 0, 0, 0)), ("else_branch", (2, 0, 0, 0))):
        branch = Graph(name, b.model)
        edit.add_output(branch, b.op("Pad", x, b.const(*pads), graph=branch))
        branches[name] = Attr("graph", branch)
    node = Node("If", (condition,), (Value("y"),), branches, version=21)
    for attr in branches.values():
        attr.value.owner = node
    edit.attach(b.graph, node)
    infer(b.graph)
    shape = node.output.shape
    assert shape is not None
    assert shape[1] == 4
    assert shape[0] not in (N + 1, N + 2)


def test_dims_stay_small() -> None:
    """Doubling a dim a thousand times, or dividing it a thousand times, leaves expressions of bounded size."""
    b = Builder()
    x, y = b.input(N, 4), b.input(1, 1, N, M)
    for _ in range(1000):
        x = b.op("Concat", x, x, axis=0)
        y = b.op("MaxPool", y, kernel_shape=(2, 2), strides=(2, 2))
    infer(b.graph)
    assert all(len(str(o.type)) < 1000 for n in b.graph.nodes() for o in n.outputs)
    assert y.rank == 4


@pytest.mark.parametrize(
    ("op", "version", "attributes", "inputs", "expected"),
    [
        ("Squeeze", 11, {"axes": (1,)}, [(N, 1, 4)], (N, 4)),
        ("Unsqueeze", 11, {"axes": (0, -1)}, [(N, 4)], (1, N, 4, 1)),
        ("Slice", 1, {"starts": (1,), "ends": (3,), "axes": (1,)}, [(N, 4)], (N, 2)),
        ("Pad", 2, {"pads": (1, 0, 2, 0)}, [(N, 4)], (N + 3, 4)),
        ("ReduceSum", 11, {"axes": (1,), "keepdims": 0}, [(N, 4, M)], (N, M)),
        ("Reshape", 1, {"shape": (0, -1)}, [(N, 4, 5)], (N, 20)),
        ("TopK", 1, {"k": 2}, [(N, 9)], (N, 2)),
        ("Add", 6, {"broadcast": 1, "axis": 0}, [(N, 4), (4,)], (N, 4)),
    ],
)
def test_old_forms_are_understood(
    op: str, version: int, attributes: dict[str, Any], inputs: list[tuple[Dim, ...]], expected: tuple[Dim, ...]
) -> None:
    """What is an operand today was an attribute in old versions."""
    b = Builder()
    y = b.op(op, *(b.input(*dims) for dims in inputs), version=version, **attributes)
    infer(b.graph)
    assert y.shape == expected


def test_rules_are_for_operators_that_exist() -> None:
    """Every rule of the default domain is for an operator of the standard or of ONNX Runtime."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    real = {(s.domain, s.name) for s in state.get_all_operator_schema()}
    assert [r for r in RULES if r not in real and schema(*r, 0) is None] == []


def test_sign_facts_hold() -> None:
    """Only what cannot be negative is said not to be: integers wrap around, floats do not."""
    b = Builder()
    x, i = b.input(N), b.input(N, dtype=DType.I64)
    positive = b.op("Sqrt", b.op("Abs", x))
    doubtful = b.op("Mul", b.op("Abs", i), b.op("Abs", i))
    infer(b.graph)
    assert nonnegative(b.op("Mul", positive, positive).node.inputs[0])  # type: ignore[union-attr, arg-type]
    assert nonnegative(positive)
    assert not nonnegative(doubtful)
    assert not nonnegative(x)


def test_matrices_of_pads_are_understood() -> None:
    """A list of pads that is turned about as a matrix, as exporters write it, still tells ``Pad`` its dims."""
    b = Builder()
    x = b.input(N, 3, 64, 64)
    pairs = b.op("Reshape", b.op("Concat", b.const(1, 2, 3, 4), b.const(0, 0, 0, 0), axis=0), b.const(-1, 2))
    turned = b.op("Slice", pairs, b.const(-1), b.const(-(2**63) + 1), b.const(0), b.const(-1))
    pads = b.op("Reshape", b.op("Transpose", turned, perm=(1, 0)), b.const(-1))
    y = b.op("Pad", x, pads)
    infer(b.graph)
    assert known_contents(turned) is None, "vectors and scalars only, for those who do not ask for more"
    assert known_contents(pads) == (0, 0, 3, 1, 0, 0, 4, 2)
    assert y.shape == (N, 3, 71, 67)


SPANS = st.integers(-6, 6) | st.sampled_from((2**62, -(2**62)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_what_moves_elements_is_followed_exactly(shape: list[int], data: st.DataObject) -> None:
    """The contents found of a slice and a transposition of a tensor of any rank are those that numpy computes."""
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    start, end, step = data.draw(SPANS), data.draw(SPANS), data.draw(st.sampled_from((-2, -1, 1, 2)))
    perm = tuple(data.draw(st.permutations(range(len(shape)))))
    array = np.arange(np.prod(shape)).reshape(shape)
    b = Builder()
    source = edit.add_constant(b.graph, Constant.from_array(array))
    cut = b.op("Slice", source, b.const(start), b.const(end), b.const(axis), b.const(step))
    turned = b.op("Transpose", source, perm=perm)
    infer(b.graph)
    size = shape[axis]
    places = [i for i in range(size) if _is_in(i, start, end, step, size)][:: 1 if step > 0 else -1]
    wanted = tuple(array.take(places, axis=axis).reshape(-1).tolist())
    assert known_elements(cut) in ((wanted,) if wanted else (wanted, None))
    assert known_elements(turned) == tuple(array.transpose(perm).reshape(-1).tolist())


def _is_in(place: int, start: int, end: int, step: int, size: int) -> bool:
    """Whether a slice as ONNX defines it has a place: bounds count from the end below zero, and are clamped."""
    start, end = (n + size if n < 0 else n for n in (start, end))
    if step > 0:
        start, end = max(start, 0), min(end, size)
        return start <= place < end and (place - start) % step == 0
    start, end = min(max(start, 0), size - 1), max(end, -1)
    return end < place <= start and (start - place) % -step == 0

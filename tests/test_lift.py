"""Lifting keeps meanings: a model of any opset is the same model in its own version and in later ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from compiler.backend.emit import Limits, to_proto
from compiler.backend.lower import express
from compiler.errors import UnsupportedError
from compiler.frontend.lift import pinned
from compiler.frontend.load import load_model
from compiler.ir import edit
from compiler.ir.verify import verify
from compiler.opening import prepare
from tests.agreement import same_outputs
from tests.isolation import Child

LATER = (18, 21)
"""Versions that a model is also written in."""


@dataclass(frozen=True)
class Op:
    """One node in the form that some opset versions have."""

    op: str
    versions: tuple[int, ...]
    shape: tuple[int, ...] = (2, 3, 4)
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: tuple[Any, ...] = ()
    """Further operands; ``None`` is a missing one."""
    outputs: int = 1
    dtype: Any = np.float32
    lifted: bool = True
    """Whether the node takes the newest form."""
    later: tuple[int, ...] = LATER
    """Later versions that can say it."""

    def model(self, version: int) -> ModelProto:
        """Return a model of the node; operands behind the first are constants."""
        names = ["x"]
        initializers = []
        for i, value in enumerate(self.constants):
            names.append("" if value is None else f"c{i}")
            if value is not None:
                initializers.append(numpy_helper.from_array(np.asarray(value), f"c{i}"))
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op, names, outputs, name="it", **self.attributes)
        code = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        x = helper.make_tensor_value_info("x", code, self.shape)
        ys = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph([node], "g", [x], ys, initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)

    def feed(self) -> dict[str, Any]:
        """Return an input with values of both signs."""
        rng = np.random.default_rng(0)
        return {"x": (rng.standard_normal(self.shape) * 3).astype(self.dtype)}


def ints(*values: int) -> np.ndarray[Any, Any]:
    """Return an int64 constant."""
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray[Any, Any]:
    """Return a float32 constant."""
    return np.array(values, np.float32)


OLD_REDUCTIONS = (
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceSumSquare",
)  # fmt: skip
UP_TO_12 = (7, 8, 9, 10, 11, 12)
POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}
IMAGE = (1, 2, 6, 6)
BOX = floats(0, 0, 3, 3).reshape(1, 4)
UPSAMPLED = floats(1, 1, 2, 1.5)
PER_CHANNEL = (floats(1, 2), floats(0.5, 0), floats(0.1, 0.2), floats(1, 2))

CASES: dict[str, Op] = {
    "squeeze": Op("Squeeze", UP_TO_12, (1, 3, 1), {"axes": [0]}),
    "squeeze all": Op("Squeeze", UP_TO_12, (1, 3, 1)),
    "unsqueeze": Op("Unsqueeze", UP_TO_12, (3,), {"axes": [0, 2]}),
    "reduce sum": Op("ReduceSum", UP_TO_12, attributes={"axes": [0, 2], "keepdims": 0}),
    "reduce sum of all": Op("ReduceSum", UP_TO_12),
    "reduce sum 13": Op("ReduceSum", (13, 17), constants=(ints(-1),)),
    "reduce sum of no axes": Op("ReduceSum", (13, 17), attributes={"noop_with_empty_axes": 1}),
    **{op: Op(op, (7, 11, 13, 17), attributes={"axes": [1], "keepdims": 0}) for op in OLD_REDUCTIONS},
    **{f"{op} of negative axes": Op(op, (11, 13), attributes={"axes": [-2]}) for op in OLD_REDUCTIONS[:2]},
    "split evenly": Op("Split", (7, 11, 13), (4, 3), outputs=2),
    "split": Op("Split", (7, 11), (4, 3), {"split": [1, 3]}, outputs=2),
    "split 13": Op("Split", (13, 17), (4, 3), {"axis": 0}, (ints(1, 3),), outputs=2),
    "split 18": Op("Split", (18,), (4, 3), {"num_outputs": 3, "axis": 0}, outputs=3, later=(21,)),
    "slice": Op("Slice", (7, 9), attributes={"starts": [0, 1], "ends": [1, 3], "axes": [0, 2]}),
    "slice without axes": Op("Slice", (7, 9), attributes={"starts": [0, -2], "ends": [1, 1000]}),
    "slice 10": Op("Slice", (10, 11, 13), constants=(ints(0), ints(3), ints(2), ints(2))),
    "top k": Op("TopK", (7, 9), attributes={"k": 2}, outputs=2),
    "top k 10": Op("TopK", (10,), attributes={"axis": 1}, constants=(ints(2),), outputs=2),
    "top k 11": Op("TopK", (11, 17), attributes={"largest": 0}, constants=(ints(2),), outputs=2),
    "clip": Op("Clip", (7, 10), attributes={"min": -1.0, "max": 1.5}),
    "clip without limits": Op("Clip", (7, 10)),
    "clip below": Op("Clip", (7, 10), attributes={"min": 0.1}),
    "clip 11": Op("Clip", (11, 12), constants=(np.float32(-1), None)),
    "clip half precision": Op("Clip", (7, 10), attributes={"min": 0.1, "max": 0.7}, dtype=np.float16),
    "pad": Op("Pad", (7, 10), attributes={"pads": [0, 1, 0, 1, 0, 2], "value": 0.3}),
    "pad with zeros": Op("Pad", (7, 10), attributes={"pads": [0, 1, 0, 1, 0, 2]}),
    "pad with minus zero": Op("Pad", (7, 10), attributes={"pads": [0, 1, 0, 1, 0, 2], "value": -0.0}),
    "pad by edge": Op("Pad", (7, 10), attributes={"pads": [0, 1, 0, 1, 0, 2], "mode": "edge"}),
    "pad 11": Op("Pad", (11, 13), constants=(ints(0, 1, 0, 1, 0, 2), np.float32(2))),
    "dropout": Op("Dropout", (7, 10, 12, 13), attributes={}),
    "dropout of a ratio": Op("Dropout", (7, 10), attributes={"ratio": 0.3}),
    "dropout mask": Op("Dropout", (12, 13), outputs=2),
    "dropout mask of before": Op("Dropout", (10,), attributes={"ratio": 0.3}, outputs=2, lifted=False, later=()),
    "dropout mask of floats": Op("Dropout", (7,), outputs=2, lifted=False, later=()),
    "batch normalization": Op("BatchNormalization", (7, 8, 9, 14), IMAGE, {"epsilon": 1e-3}, PER_CHANNEL),
    "batch normalization of old": Op("BatchNormalization", (7, 8), IMAGE, {"spatial": 1}, PER_CHANNEL),
    "softmax last": Op("Softmax", (7, 11, 12), attributes={"axis": 2}),
    "softmax last from behind": Op("Softmax", (11,), attributes={"axis": -1}),
    "softmax of one wide dim": Op("Softmax", (7, 11), (2, 5, 1, 1)),
    "softmax of a later wide dim": Op("Softmax", (7, 11), (2, 1, 5, 1)),
    "softmax of narrow dims": Op("Softmax", (7, 11), (2, 1, 1)),
    "softmax of all": Op("Softmax", (7, 11), attributes={"axis": 0}, lifted=False, later=()),
    "log softmax": Op("LogSoftmax", (7, 11), attributes={"axis": 2}),
    "log softmax flat": Op("LogSoftmax", (7,), lifted=False, later=()),
    "hardmax": Op("Hardmax", (7, 11, 12), attributes={"axis": 2}),
    "softmax 13": Op("Softmax", (13, 17), attributes={"axis": 1}),
    "grid sample": Op("GridSample", (16, 19), IMAGE, {"mode": "bilinear"}, (np.zeros((1, 2, 2, 2), np.float32),)),
    "grid sample cubic": Op("GridSample", (16,), IMAGE, {"mode": "bicubic"}, (np.full((1, 2, 2, 2), 0.3, np.float32),)),
    "roi align": Op(
        "RoiAlign", (10, 15), IMAGE, {"output_height": 2, "output_width": 2}, (BOX, ints(0))
    ),
    "scatter": Op("Scatter", (9, 10), (3, 3), {"axis": 1}, (ints(1, 0).reshape(1, 2), floats(7, 8).reshape(1, 2))),
    "dft": Op("DFT", (17, 19), (1, 8, 1), {"axis": 1}, later=(18, 20, 21)),
    "dft by default": Op("DFT", (17,), (1, 8, 1), {"inverse": 0}, later=(18, 20)),
    "upsample 7": Op("Upsample", (7, 8), IMAGE, {"scales": UPSAMPLED.tolist()}),
    "upsample 7 linear": Op("Upsample", (7,), IMAGE, {"scales": UPSAMPLED.tolist(), "mode": "linear"}),
    "upsample 9": Op("Upsample", (9,), IMAGE, {"mode": "nearest"}, (UPSAMPLED,)),
    "upsample 9 linear": Op("Upsample", (9,), IMAGE, {"mode": "linear"}, (UPSAMPLED,)),
    "resize 10": Op("Resize", (10,), IMAGE, {}, (UPSAMPLED,)),
    "resize 10 linear": Op("Resize", (10,), IMAGE, {"mode": "linear"}, (UPSAMPLED,)),
    "resize 10 smaller": Op("Resize", (10,), IMAGE, {}, (floats(1, 1, 0.6, 0.6),), lifted=False, later=()),
    "resize 11": Op("Resize", (11, 12), IMAGE, {"mode": "linear"}, (floats(), floats(1, 1, 1.5, 2))),
    "resize 11 for networks": Op(
        "Resize", (11,), IMAGE, {"coordinate_transformation_mode": "tf_half_pixel_for_nn"},
        (floats(), floats(1, 1, 1.5, 2)), lifted=False, later=(),
    ),
    "resize 13": Op("Resize", (13,), IMAGE, {}, (None, None, ints(1, 2, 9, 4))),
    "average pool": Op("AveragePool", (7, 10, 11), IMAGE, {"kernel_shape": [2, 2]}),
    "average pool up": Op("AveragePool", (10, 18), IMAGE, {**POOL, "ceil_mode": 1}, lifted=False, later=(18,)),
    "average pool up 19": Op("AveragePool", (19,), IMAGE, {**POOL, "ceil_mode": 1}, later=(21,)),
    "max pool": Op("MaxPool", (7, 8, 10, 12), IMAGE, POOL),
    "flatten": Op("Flatten", (7, 9, 11)),
    "concat": Op("Concat", (7, 11), (2, 3), {"axis": 1}, (np.ones((2, 1), np.float32),)),
    "gather": Op("Gather", (7, 11), attributes={"axis": 1}, constants=(ints(2, 0),)),
    "one hot": Op("OneHot", (9, 10), (3,), {}, (np.int64(4), floats(0, 1)), dtype=np.int64),
    "leaky": Op("LeakyRelu", (7, 15)),
    "add": Op("Add", (7, 12, 13), constants=(floats(1, 2, 3, 4),)),
    "cast": Op("Cast", (7, 9, 13), attributes={"to": 7}),
    "reshape": Op("Reshape", (7, 13), constants=(ints(0, -1),)),
    "arg max": Op("ArgMax", (7, 11, 12), attributes={"axis": 1}),
    "instance normalization": Op("InstanceNormalization", (7, 17), IMAGE, {}, PER_CHANNEL[:2]),
}  # fmt: skip
"""What each node is called → the node."""

EACH = [pytest.param(op, v, id=f"{name}-{v}") for name, op in CASES.items() for v in op.versions]


def lifted(model: ModelProto) -> Any:
    """Return the model in the IR, lifted, with types."""
    made = load_model(model)
    prepare(made)
    verify(made)
    return made


def version_of(model: ModelProto) -> int:
    """Return the version of the default domain."""
    return next(int(o.version) for o in model.opset_import if not o.domain)


@pytest.mark.parametrize(("op", "version"), EACH)
def test_every_version_means_the_same(op: Op, version: int, oracle: Child) -> None:
    """A lifted node computes what it did, in the model's own version and in every later one that can say it."""
    original = op.model(version)
    expected = run(oracle, original, op)
    own = to_proto(lifted(original))
    assert version_of(own) == version
    same_outputs(expected, run(oracle, own, op))
    for later in op.later:
        if later > version:
            raised = to_proto(lifted(original), limits=Limits(min_opset=later))
            assert version_of(raised) == later
            same_outputs(expected, run(oracle, raised, op))


def run(oracle: Child, model: ModelProto, op: Op) -> Any:
    """Run a model without optimizations."""
    return oracle.call("tests.hostile_runner:run", model.SerializeToString(), op.feed())


@pytest.mark.parametrize(("op", "version"), EACH)
def test_what_can_be_lifted_is_lifted(op: Op, version: int) -> None:
    """Nodes take the newest form, except those whose meaning no later version has."""
    model = lifted(op.model(version))
    assert bool(pinned(model.graph)) != op.lifted
    if op.lifted:
        assert {n.version for n in model.graph.nodes()} == {edit.NEWEST}


@pytest.mark.parametrize(("op", "version"), EACH)
def test_own_version_is_written_as_it_was(op: Op, version: int) -> None:
    """A node that is written in its own version has the operator, operands and attributes that it had."""
    original = op.model(version)
    before, after = original.graph.node[0], to_proto(lifted(original)).graph.node[0]
    assert after.op_type == before.op_type
    assert " ".join(after.input).rstrip() == " ".join(before.input).rstrip()
    stated = {a.name: a for a in after.attribute}
    assert {a.name for a in before.attribute} <= stated.keys() | DROPPED.get(op.op, set())


DROPPED = {"BatchNormalization": {"spatial"}, "Pad": {"value"}, "Dropout": {"ratio"}}
"""Operator → attributes that need not be written when they are at their default."""


@pytest.mark.parametrize("op", [op for op in CASES.values() if not op.later])
def test_what_no_later_version_has_is_refused(op: Op) -> None:
    """A node that no later version can say makes a later version unsupported, and says which node."""
    model = lifted(op.model(op.versions[0]))
    with pytest.raises(UnsupportedError, match=op.op):
        to_proto(model, limits=Limits(min_opset=21))


def test_models_before_version_seven_are_carried_as_they_are() -> None:
    """Broadcasting meant something else below opset 7: those nodes are not touched."""
    original = Op("Add", (6,), attributes={"broadcast": 1, "axis": 1}, constants=(floats(1, 2, 3),)).model(6)
    model = lifted(original)
    assert len(pinned(model.graph)) == 1
    assert to_proto(model).graph.node == original.graph.node


def test_group_normalization_of_one_scale_a_group_is_pinned() -> None:
    """Before version 21 the scale was one of each group: that is no other form of the same operator."""
    op = Op("GroupNormalization", (18,), (1, 4, 3), {"num_groups": 2}, (floats(1, 2), floats(0, 1)))
    model = lifted(op.model(18))
    assert len(pinned(model.graph)) == 1
    assert version_of(to_proto(model)) == 18


def test_unused_mask_of_an_old_dropout_is_dropped(oracle: Child) -> None:
    """Old exporters always name the mask: when nobody reads it, the node is lifted without it."""
    op = Op("Dropout", (7,), outputs=2)
    original = op.model(7)
    del original.graph.output[1]
    model = lifted(original)
    assert not pinned(model.graph)
    result = to_proto(model, limits=Limits(min_opset=18))
    same_outputs(run(oracle, original, op), run(oracle, result, op))


def test_precision_of_limits_is_kept() -> None:
    """A limit that float32 cannot hold is not written as an attribute; one that it can hold is."""
    for low, fits in ((0.1, False), (0.25, True)):
        op = Op("Clip", (13,), constants=(np.float64(low), np.float64(1)), dtype=np.float64)
        (node,) = lifted(op.model(13)).graph.nodes()
        node.extra = None
        assert (express(node, 9) is not None) == fits


def test_nested_nodes_are_lifted() -> None:
    """Nodes of nested graphs are lifted too, and written in the old form again."""
    squeeze = helper.make_node("Squeeze", ["x"], ["o"], axes=[0])
    out = helper.make_tensor_value_info("o", 1, [3])
    branch = helper.make_graph([squeeze], "b", [], [out])
    c = helper.make_tensor_value_info("c", 9, [])
    x = helper.make_tensor_value_info("x", 1, [1, 3])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "g", [c, x], [helper.make_tensor_value_info("y", 1, [3])])
    original = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    model = lifted(original)
    assert {len(n.inputs) for g in model.graph.all_graphs() for n in g.nodes() if n.op == "Squeeze"} == {2}
    assert to_proto(model) == original
    onnx.checker.check_model(to_proto(model, limits=Limits(min_opset=18)), full_check=True)

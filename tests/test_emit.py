"""What is emitted: the lowest version that can say the model, stubs for weights, the same bytes each time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compiler.backend.emit import Limits, emit, payload_table, to_proto, write_type
from compiler.backend.write import materialize
from compiler.errors import UnsupportedError
from compiler.frontend.lift import lift
from compiler.frontend.load import load_model
from compiler.frontend.tensors import type_of
from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dims import symbol
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Model
from compiler.ir.splice import PayloadTable
from compiler.ir.types import MapType, OptionalType, SequenceType, SparseType, TensorType, Type, UnrankedType
from tests.source_code import ROOT

X = TensorType(DType.F32, (2, 3))


def model_of(opset: int, *, ir_version: int = 8, size: int = 4) -> ModelProto:
    """Return a model of an old opset with one weight."""
    weight = numpy_helper.from_array(np.arange(size, dtype=np.float32), "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["h"]), helper.make_node("Squeeze", ["h"], ["y"], axes=[0])]
    x = helper.make_tensor_value_info("x", 1, [1, size])
    y = helper.make_tensor_value_info("y", 1, [size])
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def lifted(proto: ModelProto) -> Model:
    """Return the model in the IR, lifted."""
    model = load_model(proto)
    lift(model)
    return model


def opset(proto: ModelProto) -> int:
    """Return the emitted version of the default domain."""
    return next(int(o.version) for o in proto.opset_import if not o.domain)


def test_own_version_is_kept() -> None:
    """A model whose nodes its own version can say keeps that version, and its IR version."""
    result = to_proto(lifted(model_of(11)))
    assert opset(result) == 11
    assert result.ir_version == 8


def test_version_is_raised_to_the_lowest_that_suffices() -> None:
    """A newer operator raises the version to the one that introduced it, and others take the form of that."""
    model = load_model(model_of(11))
    lift(model)
    graph = model.graph
    squeeze = next(n for n in graph.nodes() if n.op == "Squeeze")
    data = squeeze.inputs[0]
    assert data is not None
    made = edit.add_node(graph, "Gelu", [data], [data.type], version=edit.NEWEST, before=squeeze)
    edit.set_input(squeeze, 0, made.output)
    result = to_proto(model)
    assert opset(result) == 20
    assert len(result.graph.node[2].input) == 2
    onnx.checker.check_model(result, full_check=True)
    with pytest.raises(UnsupportedError, match="opset 20"):
        to_proto(model, limits=Limits(max_opset=19))


def test_lower_bound_raises_the_version() -> None:
    """A target may ask for a later version than the model's own."""
    result = to_proto(lifted(model_of(11)), limits=Limits(min_opset=21))
    assert opset(result) == 21
    onnx.checker.check_model(result, full_check=True)


def test_ir_version_follows_the_version_within_the_limit() -> None:
    """A raised opset raises the IR version to what it needs, and the runtime's limit bounds it."""
    raised = to_proto(lifted(model_of(11, ir_version=5)), limits=Limits(min_opset=21))
    assert raised.ir_version == 10
    bounded = to_proto(lifted(model_of(11, ir_version=5)), limits=Limits(min_opset=21, max_ir=9))
    assert bounded.ir_version == 9


def test_initializers_are_no_inputs_from_ir_version_four() -> None:
    """IR version 3 becomes 4, the first in which constants need not be inputs."""
    assert to_proto(lifted(model_of(11, ir_version=3))).ir_version == 4


def test_domains_of_new_nodes_are_imported() -> None:
    """A domain that a pass brought in is imported behind those of the model."""
    model = lifted(model_of(11))
    value = model.graph.inputs[0]
    edit.add_node(model.graph, "Gelu", [value], [value.type], domain="com.microsoft", version=1)
    assert [(o.domain, o.version) for o in to_proto(model).opset_import] == [("", 11), ("com.microsoft", 1)]


def test_weights_become_stubs() -> None:
    """With a table, weights are not in the protobuf but in the table; put together it is the complete model."""
    model = lifted(model_of(11, size=1000))
    table = PayloadTable()
    slim = emit(model, table)
    assert slim.ByteSize() < 2000
    assert materialize(slim, table) == to_proto(model)
    assert len(to_proto(model).graph.initializer[0].raw_data) == 4000


def test_weights_of_a_file_stay_there(tmp_path: Path) -> None:
    """A model from a file is emitted with the table of that file."""
    path = tmp_path / "m.onnx"
    onnx.save(model_of(11, size=1000), path)
    model = load_model(path)
    assert payload_table(model) is model.extra.table
    assert to_proto(model).graph.initializer[0].raw_data == np.arange(1000, dtype=np.float32).tobytes()


def test_small_weights_are_no_stubs() -> None:
    """Constants below a kilobyte stand in the protobuf itself."""
    slim = emit(lifted(model_of(11, size=4)), PayloadTable())
    assert len(slim.graph.initializer[0].raw_data) == 16


def test_unused_constants_are_not_written() -> None:
    """A constant that became an attribute again is not written, one that a nested graph reads is."""
    model = lifted(model_of(11))
    assert len(model.graph.constants) == 2
    assert [i.name for i in to_proto(model).graph.initializer] == ["w"]


def test_constant_that_is_returned_is_written() -> None:
    """An initializer may be a graph's output."""
    proto = model_of(11)
    proto.graph.output.append(helper.make_tensor_value_info("w", 1, [4]))
    assert to_proto(lifted(proto)) == proto


@pytest.mark.parametrize("code", [TensorProto.INT4, TensorProto.UINT2, TensorProto.INT8])
def test_packed_constant_under_another_name_is_no_identity(code: int) -> None:
    """A constant of 2 or 4 bits that an ``Identity`` returns is written as ``Constant``: no runtime copies such."""
    weight = helper.make_tensor("w", code, [4], [1, 0, 1, 1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])], "g", [], [helper.make_tensor_value_info("y", code, [4])], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=11)
    (node,) = to_proto(lifted(model)).graph.node
    assert node.op_type == ("Identity" if code == TensorProto.INT8 else "Constant")
    (found,) = ReferenceEvaluator(to_proto(lifted(model))).run(None, {})
    assert np.asarray(found).astype(int).tolist() == [1, 0, 1, 1]


TYPES: list[Type] = [
    X,
    UnrankedType(DType.BF16),
    TensorType(DType.STRING, ()),
    TensorType(DType.I4, (symbol("N"), 3)),
    SparseType(DType.F32, (2,)),
    SequenceType(UnrankedType(DType.I64)),
    OptionalType(SequenceType(X)),
    MapType(DType.I64, X),
]


@pytest.mark.parametrize("type_", TYPES, ids=str)
def test_types_survive(type_: Type) -> None:
    """A type that is written and read again is the same."""
    proto = onnx.TypeProto()
    write_type(type_, proto)
    assert type_of(proto, Model()) == type_


def test_made_up_symbols_are_not_written() -> None:
    """A dim of which nothing is known has no name."""
    proto = onnx.TypeProto()
    write_type(TensorType(DType.F32, (Model().fresh_dim(), 2)), proto)
    assert [d.WhichOneof("value") for d in proto.tensor_type.shape.dim] == [None, "dim_value"]


def test_nesting_that_no_file_can_hold_is_refused() -> None:
    """Graphs nested deeper than protobuf reads are an error, not a broken file."""
    model = Model(opsets={"": 20}, ir_version=8)
    outer = model.graph = edit.new_graph("g", model)
    condition = edit.add_constant(outer, Constant.of(True, DType.BOOL))
    graph = outer
    for _ in range(200):
        inner = edit.new_graph("sub", model)
        branch = {"then_branch": Attr("graph", inner)}
        inner.owner = edit.add_node(graph, "If", [condition], [X], branch, version=20)
        graph = inner
    with pytest.raises(UnsupportedError, match="levels deep"):
        to_proto(model)


PROGRAM = """
import hashlib, sys
import onnx
from compiler.backend.emit import Limits, to_proto
from compiler.frontend.lift import lift
from compiler.frontend.load import load_model
model = load_model(sys.argv[1])
lift(model)
print(hashlib.sha256(to_proto(model, limits=Limits(min_opset=18)).SerializeToString()).hexdigest())
"""


def test_bytes_do_not_depend_on_hash_seeds(tmp_path: Path) -> None:
    """Three interpreters with different string hashes emit the same bytes."""
    proto = model_of(11)
    for i in range(20):
        proto.graph.node.insert(0, helper.make_node("Relu", [f"h{i + 1}" if i else "h"], [f"u{i}"], name=f"n{i}"))
        proto.graph.node.insert(0, helper.make_node("Split", ["w"], [f"h{i + 1}", f"k{i}"], split=[1, 3], axis=0))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    found = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(path)],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_opaque_tensors_keep_their_bytes() -> None:
    """A constant of an element type that ampc does not know is copied, under the value's name."""
    proto = model_of(11)
    proto.graph.initializer.append(TensorProto(name="o", data_type=27, dims=[4], raw_data=b"abc"))
    proto.graph.node.append(helper.make_node("Odd", ["o"], ["z"], domain="own"))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    assert to_proto(lifted(proto)).graph.initializer[1] == proto.graph.initializer[1]

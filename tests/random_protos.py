"""Random ONNX protobufs that hold tensors wherever ONNX allows them: valid on the wire, not as models."""

from __future__ import annotations

import struct

from hypothesis import strategies as st
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    SparseTensorProto,
    TensorProto,
)

from compiler.ir.wire import tensors, varint

NAMES = st.sampled_from(["", "x", "weight", "ü"])
FLOATS = st.lists(st.floats(width=32), max_size=9)
DOUBLES = st.lists(st.floats(), max_size=9)
INTS = st.lists(st.integers(0, 255), max_size=9)


@st.composite
def tensor_protos(draw: st.DrawFn) -> TensorProto:
    """Draw a tensor with contents in one of the payload fields, or in several."""
    tensor = TensorProto(
        name=draw(NAMES), data_type=draw(st.sampled_from([0, 1, 6, 7, 8, 10, 11, 14, 15, 99]))
    )
    tensor.dims.extend(draw(st.lists(st.integers(-1, 1 << 40), max_size=3)))
    for kind in draw(st.lists(st.integers(0, 7), max_size=2)):
        if kind <= 1:
            tensor.raw_data = draw(st.binary(max_size=200))
        elif kind == 2:
            tensor.float_data.extend(draw(FLOATS))
        elif kind == 3:
            tensor.double_data.extend(draw(DOUBLES))
        elif kind == 4:
            tensor.int32_data.extend(draw(INTS))
        elif kind == 5:
            tensor.string_data.extend(draw(st.lists(st.binary(max_size=20), max_size=3)))
        elif kind == 6:
            tensor.int64_data.extend(draw(INTS))
        else:
            tensor.external_data.add(key="location", value="weights.bin")
            tensor.data_location = TensorProto.EXTERNAL
    return tensor


@st.composite
def sparse_protos(draw: st.DrawFn) -> SparseTensorProto:
    """Draw a sparse tensor, whose values and indices may be missing."""
    sparse = SparseTensorProto(dims=[3])
    if draw(st.booleans()):
        sparse.values.CopyFrom(draw(tensor_protos()))
    if draw(st.booleans()):
        sparse.indices.CopyFrom(draw(tensor_protos()))
    return sparse


@st.composite
def attribute_protos(draw: st.DrawFn, graphs: st.SearchStrategy[GraphProto] | None) -> AttributeProto:
    """Draw an attribute with a tensor, sparse tensor, graph, or several of them."""
    attribute = AttributeProto(name=draw(NAMES), i=3)
    kind = draw(st.integers(0, 5))
    if kind == 0:
        attribute.t.CopyFrom(draw(tensor_protos()))
    elif kind == 1:
        attribute.tensors.extend(draw(st.lists(tensor_protos(), max_size=2)))
    elif kind == 2:
        attribute.sparse_tensor.CopyFrom(draw(sparse_protos()))
    elif kind == 3:
        attribute.sparse_tensors.extend(draw(st.lists(sparse_protos(), max_size=2)))
    elif kind == 4 and graphs is not None:
        attribute.g.CopyFrom(draw(graphs))
    elif graphs is not None:
        attribute.graphs.extend(draw(st.lists(graphs, max_size=2)))
    return attribute


@st.composite
def graph_protos(draw: st.DrawFn, depth: int = 2) -> GraphProto:
    """Draw a graph with subgraphs ``depth`` levels deep."""
    graph = GraphProto(name=draw(NAMES), doc_string=draw(st.text(max_size=300)))
    below = graph_protos(depth=depth - 1) if depth else None
    for _ in range(draw(st.integers(0, 2))):
        node = NodeProto(op_type="Op", input=["a", ""], doc_string=draw(NAMES))
        node.attribute.extend(draw(st.lists(attribute_protos(below), max_size=2)))
        graph.node.append(node)
    graph.initializer.extend(draw(st.lists(tensor_protos(), max_size=3)))
    graph.sparse_initializer.extend(draw(st.lists(sparse_protos(), max_size=1)))
    return graph


@st.composite
def models(draw: st.DrawFn) -> ModelProto:
    """Draw a model with a graph and functions."""
    model = ModelProto(ir_version=9, producer_name=draw(NAMES), graph=draw(graph_protos()))
    model.opset_import.append(OperatorSetIdProto(domain="", version=20))
    for _ in range(draw(st.integers(0, 1))):
        function = FunctionProto(name="f")
        function.attribute_proto.append(draw(attribute_protos(None)))
        function.node.add(op_type="Constant").attribute.append(draw(attribute_protos(None)))
        model.functions.append(function)
    return model


def small_model() -> ModelProto:
    """Return a model that ends with its operator sets, so that no prefix of it is a whole model."""
    model = ModelProto(ir_version=9)
    model.graph.name = "g"
    model.graph.node.add(op_type="Constant", output=["c"]).attribute.add(
        name="value", type=AttributeProto.TENSOR, t=TensorProto(data_type=1, dims=[3], raw_data=bytes(12))
    )
    model.graph.initializer.add(name="w", data_type=7, dims=[2], raw_data=bytes(16))
    model.graph.initializer.add(name="v", data_type=1, dims=[3], float_data=[1, 2, 3])
    model.opset_import.append(OperatorSetIdProto(domain="", version=20))
    return model


def as_raw(model: ModelProto) -> bytes:
    """Return the canonical bytes of a copy whose plain float contents are raw data."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in tensors(copy):
        if tensor.HasField("raw_data") or tensor.int32_data or tensor.int64_data or tensor.string_data:
            continue
        if (
            tensor.HasField("segment")
            or tensor.uint64_data
            or bool(tensor.float_data) == bool(tensor.double_data)
        ):
            continue
        if tensor.float_data and tensor.data_type in (1, 14):
            tensor.raw_data = struct.pack(f"<{len(tensor.float_data)}f", *tensor.float_data)
            tensor.ClearField("float_data")
        elif tensor.double_data and tensor.data_type in (11, 15):
            tensor.raw_data = struct.pack(f"<{len(tensor.double_data)}d", *tensor.double_data)
            tensor.ClearField("double_data")
    return copy.SerializeToString(deterministic=True)


def wrap(number: int, contents: bytes) -> bytes:
    """Return a length-delimited field on the wire."""
    return varint(number << 3 | 2) + varint(len(contents)) + contents

"""Laws of reading a model without its weights: the skeleton means what the file means."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from compiler.backend.write import materialize
from compiler.errors import CompilerError, ModelError
from compiler.frontend.files import tensor_bytes_expected
from compiler.frontend.wire import read_skeleton
from compiler.ir.splice import PayloadTable
from compiler.ir.wire import MESSAGES, fields, read_varint, tensors, varint
from tests.random_protos import as_raw, models, small_model, wrap

NEVER = 1 << 62
"""A threshold that takes nothing out."""


def test_the_table_of_fields_is_that_of_onnx() -> None:
    """The table holds every field of ONNX below which tensors are: number, name, message, cardinality."""
    for name, children in MESSAGES.items():
        found = {}
        for field in getattr(onnx, name).DESCRIPTOR.fields:
            message = field.message_type.name if field.message_type else ""
            if message in MESSAGES:
                found[field.number] = (field.name, message, field.is_repeated)
        assert found == {number: tuple(child) for number, child in children.items()}


@settings(max_examples=100)
@given(models(), st.sampled_from([0, 1, 24, 100, 1024, NEVER]))
def test_taking_out_and_filling_in_is_the_identity(model: ModelProto, threshold: int) -> None:
    """A skeleton with its payloads filled in equals what protobuf parses, packed floats as raw data."""
    skeleton = read_skeleton(model.SerializeToString(), threshold=threshold)
    assert as_raw(materialize(skeleton.model, skeleton.table)) == as_raw(model)


@given(models())
def test_nothing_large_is_left_in_the_skeleton(model: ModelProto) -> None:
    """Every raw payload of at least the threshold is out of the skeleton, at every depth."""
    skeleton = read_skeleton(model.SerializeToString(), threshold=33)
    for tensor in tensors(skeleton.model):
        assert len(tensor.raw_data) <= 32
        assert (skeleton.payload(tensor) is not None) == (len(tensor.raw_data) == 32)


@given(models(), st.binary(max_size=40))
def test_unknown_fields_survive(model: ModelProto, contents: bytes) -> None:
    """Fields that this onnx does not know are carried through."""
    data = wrap(99, contents) + model.SerializeToString()
    skeleton = read_skeleton(data, threshold=1)
    assert as_raw(materialize(skeleton.model, skeleton.table)) == as_raw(ModelProto.FromString(data))
    assert wrap(99, contents) in skeleton.model.SerializeToString()


@settings(max_examples=300)
@given(models(), st.data())
def test_damaged_bytes_are_refused_or_mean_what_protobuf_says(model: ModelProto, data: st.DataObject) -> None:
    """With bytes changed anywhere, the file is read as protobuf reads it, or refused with ``ModelError``."""
    damaged = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        skeleton = read_skeleton(bytes(damaged), threshold=1)
    except ModelError:
        return
    whole = ModelProto.FromString(bytes(damaged))
    assert as_raw(materialize(skeleton.model, skeleton.table)) == as_raw(whole)


@given(models(), st.data())
def test_what_protobuf_reads_is_not_refused(model: ModelProto, data: st.DataObject) -> None:
    """A damaged file is refused only when protobuf refuses it too, or when graph or operator sets lack."""
    damaged = bytearray(model.SerializeToString())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        whole = ModelProto.FromString(bytes(damaged))
    except onnx_decode_error():
        with pytest.raises(ModelError):
            read_skeleton(bytes(damaged), threshold=1)
        return
    if whole.HasField("graph") and whole.opset_import:
        read_skeleton(bytes(damaged), threshold=1)


def onnx_decode_error() -> type[Exception]:
    """Return what protobuf raises for bytes that it cannot parse."""
    from google.protobuf.message import DecodeError

    return DecodeError


def test_every_truncation_is_refused() -> None:
    """Each prefix of a model up to its operator sets gives ``ModelError``, and no other exception."""
    data = small_model().SerializeToString()
    for size in range(len(data)):
        with pytest.raises(ModelError):
            read_skeleton(data[:size], threshold=8)
    read_skeleton(data, threshold=8)


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    """Bytes that protobuf does not read as a model with a graph give ``ModelError``."""
    try:
        assert read_skeleton(data, threshold=1).model.HasField("graph")
    except ModelError:
        return
    ModelProto.FromString(data)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"PK\x03\x04\x14\0\0\0\0\0", "ZIP"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b'{"graph": []}', "JSON"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\x1c\0\0\0TFL3" + bytes(40), "TensorFlow Lite"),
        (b'\x10\0\0\0\0\0\0\0{"w":{}}', "safetensors"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"hello, world\n", "text"),
        (b"", "empty"),
    ],
)
def test_other_formats_are_named(head: bytes, kind: str) -> None:
    """A file of another format is refused with the name of that format and of the file."""
    with pytest.raises(ModelError, match=kind) as caught:
        read_skeleton(head, where="dir/file.onnx")
    assert "dir/file.onnx" in caught.value.where


def test_deep_nesting_is_refused() -> None:
    """Ten nested subgraphs are read to the bottom, and ten thousand give ``ModelError``."""
    for depth, levels in ((10, 10), (10_000, None)):
        data = small_model().graph.SerializeToString()
        for _ in range(depth):
            data = wrap(1, wrap(5, wrap(6, data)))
        data = wrap(8, b"\x10\x14") + wrap(7, data)
        if levels is None:
            with pytest.raises(ModelError, match="not a valid ONNX model"):
                read_skeleton(data, threshold=8)
        else:
            assert len(read_skeleton(data, threshold=8).table) > 0


def test_a_singular_message_that_occurs_twice_is_left_to_protobuf() -> None:
    """Two occurrences of a singular tensor are merged as protobuf merges them."""
    first = TensorProto(data_type=1, dims=[2], float_data=[1.0, 2.0]).SerializeToString()
    second = TensorProto(name="late", float_data=[3.0]).SerializeToString()
    attribute = wrap(5, first) + wrap(5, second)
    data = wrap(8, b"\x10\x14") + wrap(7, wrap(1, wrap(5, attribute)))
    skeleton = read_skeleton(data, threshold=1)
    tensor = skeleton.model.graph.node[0].attribute[0].t
    assert list(tensor.float_data) == [1.0, 2.0, 3.0] and tensor.name == "late"
    assert skeleton.payload(tensor) is None


def test_repeated_payload_fields_are_left_to_protobuf() -> None:
    """A tensor with two raw payloads, or raw and packed ones, keeps them as protobuf understands them."""
    twice = wrap(9, b"first payload") + wrap(9, b"second")
    both = b"\x10\x01" + wrap(4, bytes(8)) + wrap(9, b"the raw one wins")
    data = wrap(8, b"\x10\x14") + wrap(7, wrap(5, twice) + wrap(5, both))
    skeleton = read_skeleton(data, threshold=1)
    whole = materialize(skeleton.model, skeleton.table)
    assert whole == ModelProto.FromString(data)


def test_floats_of_another_type_are_not_taken_for_raw_data() -> None:
    """Packed ``float_data`` becomes raw data only where the tensor's type is float or complex."""
    for data_type, taken in (
        (TensorProto.FLOAT, True),
        (TensorProto.COMPLEX64, True),
        (TensorProto.INT32, False),
    ):
        model = small_model()
        tensor = TensorProto(name="f", data_type=data_type, dims=[4], float_data=[1, 2, 3, 4])
        model.graph.initializer.append(tensor)
        skeleton = read_skeleton(model.SerializeToString(), threshold=16)
        payload = skeleton.payload(skeleton.model.graph.initializer[-1])
        assert (payload is not None) == taken
        if payload is not None:
            assert np.frombuffer(payload, "<f4").tolist() == [1, 2, 3, 4]


def test_a_file_cannot_forge_a_stub() -> None:
    """A tensor whose own contents are the token of another model is refused, not resolved."""
    table = PayloadTable()
    foreign = TensorProto(name="x")
    table.stub(foreign, b"secret")
    model = small_model()
    model.graph.initializer.append(foreign)
    skeleton = read_skeleton(model.SerializeToString(), threshold=1 << 20)
    with pytest.raises(CompilerError, match="another model"):
        skeleton.payload(skeleton.model.graph.initializer[-1])


def test_payloads_are_views_of_the_mapping(tmp_path: Path) -> None:
    """A payload of a mapped file shares its memory: no weights are copied by reading."""
    model = small_model()
    model.graph.initializer.append(TensorProto(name="big", data_type=3, dims=[5000], raw_data=bytes(5000)))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    skeleton = read_skeleton(memoryview(mapping))
    payload = skeleton.payload(skeleton.model.graph.initializer[-1])
    assert payload is not None
    assert payload.obj is mapping and payload.readonly and payload.nbytes == 5000


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=3))
def test_varints_round_trip(value: int, tail: bytes) -> None:
    """Reading a written number gives the number and its end."""
    data = varint(value) + tail
    assert read_varint(memoryview(data), 0, len(data)) == (value, len(varint(value)))


@given(models())
def test_fields_cover_the_message(model: ModelProto) -> None:
    """The fields of a message follow each other without gaps, from its first byte to its last."""
    data = model.SerializeToString()
    at = 0
    for _, _, tag_at, start, end in fields(memoryview(data), 0, len(data)):
        assert tag_at == at < start <= end
        at = end
    assert at == len(data)


@given(st.sampled_from([t for t in TensorProto.DataType.values() if t not in (0, 8)]), st.integers(0, 9))
def test_expected_bytes_are_those_that_onnx_writes(data_type: int, size: int) -> None:
    """The expected size of a tensor is that of the raw data that onnx makes of as many elements."""
    array: Any = np.zeros(size, onnx.helper.tensor_dtype_to_np_dtype(data_type))
    made = onnx.numpy_helper.from_array(array)
    assert made.data_type == data_type
    assert tensor_bytes_expected(data_type, [size]) == len(made.raw_data)


def test_expected_bytes_at_the_edges() -> None:
    """Sizes are exact beyond 64 bits, unknown for strings, and an error for negative dims."""
    assert tensor_bytes_expected(TensorProto.DOUBLE, [1 << 40, 1 << 40]) == 1 << 83
    assert tensor_bytes_expected(TensorProto.INT4, []) == 1
    assert tensor_bytes_expected(TensorProto.STRING, [3]) is None
    with pytest.raises(ModelError, match="negative"):
        tensor_bytes_expected(TensorProto.FLOAT, [2, -1], where="tensor 'w'")

"""The wire format of ONNX models, as far as finding tensors needs it.

A protobuf message is a sequence of fields: a number with a wire type (the tag), then contents whose end is
known without looking inside.  Finding the tensors of a model therefore takes a walk over its tags and
lengths, and no parser.  This module knows that format, and the fields of ONNX's messages below which tensors
are found; it needs neither the protobuf runtime nor the onnx package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from compiler.errors import ModelError

DEPTH = 100
"""Levels of nested messages that protobuf accepts."""


class Child(NamedTuple):
    """A field whose messages may hold tensors: its name, the message in it, whether it is repeated."""

    name: str
    message: str
    repeated: bool


MESSAGES: dict[str, dict[int, Child]] = {
    "ModelProto": {7: Child("graph", "GraphProto", False), 25: Child("functions", "FunctionProto", True)},
    "FunctionProto": {
        7: Child("node", "NodeProto", True),
        11: Child("attribute_proto", "AttributeProto", True),
    },
    "GraphProto": {
        1: Child("node", "NodeProto", True),
        5: Child("initializer", "TensorProto", True),
        15: Child("sparse_initializer", "SparseTensorProto", True),
    },
    "NodeProto": {5: Child("attribute", "AttributeProto", True)},
    "AttributeProto": {
        5: Child("t", "TensorProto", False),
        6: Child("g", "GraphProto", False),
        10: Child("tensors", "TensorProto", True),
        11: Child("graphs", "GraphProto", True),
        22: Child("sparse_tensor", "SparseTensorProto", False),
        23: Child("sparse_tensors", "SparseTensorProto", True),
    },
    "SparseTensorProto": {
        1: Child("values", "TensorProto", False),
        2: Child("indices", "TensorProto", False),
    },
    "TensorProto": {},
}
"""Message → field number → what may hold tensors below it: the table behind every walk over tensors."""


Field: TypeAlias = tuple[int, int, int, int, int]
"""One field of a message: number, wire type, where its tag starts, where its contents start and end."""


class Unusual(Exception):
    """A message has a form that is legal but not ours to interpret."""


def damaged(at: int, why: str) -> ModelError:
    """Return the error for bytes that no protobuf parser accepts."""
    return ModelError(
        "the model file is damaged or is not an ONNX model",
        where=f"byte {at}",
        why=why,
        hint="export or download the model again; a complete file loads with onnx.load",
    )


def read_varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """Return the number at ``data[at:]`` and where it ends; raises ``ModelError`` when it has no end."""
    value = shift = 0
    position = at
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        if byte < 0x80:
            return value | byte << shift, position
        value |= (byte & 0x7F) << shift
        shift += 7
    raise damaged(at, "a number has no end: the file is cut off or is not a protobuf")


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message at ``data[start:end]`` in order.

    Raises ``ModelError`` where the bytes are no message; contents of fields are not looked at.
    """
    at = start
    while at < end:
        tag_at = at
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = read_varint(data, tag_at, end)
        wire = tag & 7
        if wire == 2:
            if at < end and data[at] < 0x80:
                size = data[at]
                at += 1
            else:
                size, at = read_varint(data, at, end)
            following = at + size
        else:
            following = _scalar_end(data, wire, at, end)
        if following > end:
            why = f"a field has {following - at} bytes where {end - at} are left: the file is cut off"
            raise damaged(tag_at, why)
        if not 8 <= tag < 1 << 32:
            raise damaged(tag_at, "a field has an impossible number")
        yield tag >> 3, wire, tag_at, at, following
        at = following


def _scalar_end(data: memoryview, wire: int, at: int, end: int) -> int:
    if wire == 0:
        return read_varint(data, at, end)[1]
    if wire in (1, 5):
        return at + (8 if wire == 1 else 4)
    if wire in (3, 4):
        raise Unusual
    raise damaged(at, f"wire type {wire} does not exist")


def varint(value: int) -> bytes:
    """Return ``value`` >= 0 as a protobuf varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tensors(model: Any) -> Iterator[Any]:
    """Yield every ``TensorProto`` of a ``ModelProto``, nested ones too, those of ``training_info`` not."""
    stack = [("ModelProto", model)]
    while stack:
        kind, message = stack.pop()
        if kind == "TensorProto":
            yield message
            continue
        below: list[tuple[str, Any]] = []
        for child in MESSAGES[kind].values():
            if child.repeated:
                below += [(child.message, item) for item in getattr(message, child.name)]
            elif message.HasField(child.name):
                below.append((child.message, getattr(message, child.name)))
        stack += reversed(below)

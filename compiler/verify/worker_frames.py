"""Frames: how the parent and the child that runs models speak with each other.

A frame is JSON and raw buffers, never a pickle: a model that takes over the child cannot run code in the
parent.  A tensor is ``{type, shape, buffer}`` with the number of its buffer, an array of strings ``{type,
shape, text}``, and there are ``{list}``, ``{map}``, ``{sparse, values, indices}`` and ``null``.  Elements of
less than a byte cross packed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

Header = dict[str, Any]
Buffers = Sequence[Any]

_SIZE = struct.Struct("<Q")

STRING = 8
"""``TensorProto.STRING``: the only element type without a fixed width."""

ELEMENT_TYPES: dict[int, tuple[str, int]] = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8_e4m3fn", 8),
    18: ("float8_e4m3fnuz", 8),
    19: ("float8_e5m2", 8),
    20: ("float8_e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4_e2m1fn", 4),
    24: ("float8_e8m0fnu", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
}
"""``TensorProto.DataType`` to the numpy (or ml_dtypes) name and the width in bits."""

CODES: dict[str, int] = {name: code for code, (name, _) in ELEMENT_TYPES.items()}
"""The inverse of ``ELEMENT_TYPES``."""


def write_frame(stream: BinaryIO, header: Header, buffers: Buffers = ()) -> None:
    """Write one frame: the length of the header, the header as JSON, and the raw buffers it counts."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    text = json.dumps({**header, "sizes": [view.nbytes for view in views]}).encode()
    stream.write(_SIZE.pack(len(text)) + text)
    for view in views:
        stream.write(view)
    stream.flush()


def read_frame(stream: BinaryIO, read: Callable[[BinaryIO, int], Any]) -> tuple[Header, list[Any]]:
    """Read one frame, its buffers with ``read``; raise ``EOFError`` when the other side is gone."""
    (length,) = _SIZE.unpack(read_exactly(stream, _SIZE.size))
    header = json.loads(read_exactly(stream, length))
    return header, [read(stream, size) for size in header.pop("sizes")]


def read_exactly(stream: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes with one copy; raise ``EOFError`` when there are fewer."""
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data

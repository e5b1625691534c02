"""The parent's side of the values: arrays to what a frame holds, and back.

Bits are never changed: arrays of ml_dtypes cross as they are, elements of 2 or 4 bits packed as ONNX packs
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from compiler.errors import WorkerError
from compiler.verify import worker_frames as wire

Array = npt.NDArray[Any]
Value = Any
"""An ``Array`` (ml_dtypes included, strings as objects), a list, a dict, a ``SparseTensor``, or ``None``."""


class SparseTensor(NamedTuple):
    """A sparse tensor in coordinate form: its dense shape, its values, and their indices."""

    shape: tuple[int, ...]
    values: Array
    indices: Array


def read_array(stream: BinaryIO, size: int) -> Array:
    """Read ``size`` bytes into an array of their own; raise ``EOFError`` when there are fewer."""
    data = np.empty(size, np.uint8)
    view, done = data.data, 0
    while done < size:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]  # not in typeshed's BinaryIO
        if not count:
            raise EOFError
        done += count
    return data


def encode(value: Value, buffers: list[Any]) -> Any:
    """Describe a value for a frame and append its bytes to ``buffers``; raise ``WorkerError`` if foreign."""
    if value is None:
        return None
    if isinstance(value, SparseTensor):
        parts = {"values": encode(value.values, buffers), "indices": encode(value.indices, buffers)}
        return {"sparse": [int(dim) for dim in value.shape], **parts}
    if isinstance(value, Mapping):
        return {"map": [[_scalar(key), _scalar(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [encode(item, buffers) for item in value]}
    if not isinstance(value, (np.ndarray, np.generic)):
        raise _cannot_carry(f"a {type(value).__name__}")
    return _encode_array(np.asarray(value), buffers)


def _scalar(value: Any) -> Any:
    plain = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    if not isinstance(plain, (str, int, float)):
        raise _cannot_carry(f"a {type(plain).__name__} in a map")
    return plain


def _encode_array(array: Array, buffers: list[Any]) -> Any:
    shape = list(array.shape)
    if array.dtype.kind in "OUS":
        return {
            "type": wire.STRING,
            "shape": shape,
            "text": [_text(item) for item in array.reshape(-1).tolist()],
        }
    code = code_of(array.dtype)
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    raw = native.reshape(-1).view(np.uint8) if native.size else np.empty(0, np.uint8)
    bits = wire.ELEMENT_TYPES[code][1]
    buffers.append(pack(raw, bits) if bits < 8 else raw)
    return {"type": code, "shape": shape, "buffer": len(buffers) - 1}


def _text(item: Any) -> str:
    if isinstance(item, bytes):
        return item.decode("utf-8")
    if isinstance(item, str):
        return item
    raise _cannot_carry(f"a {type(item).__name__} in an array of strings")


def code_of(dtype: np.dtype[Any]) -> int:
    """Return the ``TensorProto.DataType`` of a numpy dtype; raise ``WorkerError`` when ONNX has none."""
    code = wire.CODES.get(dtype.name)
    if code is None:
        raise _cannot_carry(f"an array of {dtype.name}")
    return code


def _cannot_carry(what: str) -> WorkerError:
    return WorkerError("a value cannot be given to ONNX Runtime", kind="run", why=f"{what} has no form there")


def decode(value: Any, buffers: Sequence[Array]) -> Value:
    """Make the value that a frame describes; arrays lie on its buffers."""
    if value is None:
        return None
    if "list" in value:
        return [decode(item, buffers) for item in value["list"]]
    if "map" in value:
        return dict(value["map"])
    if "sparse" in value:
        parts = (decode(value[key], buffers) for key in ("values", "indices"))
        return SparseTensor(tuple(value["sparse"]), *parts)
    if value["type"] == wire.STRING:
        array = np.empty(len(value["text"]), object)
        array[:] = value["text"]
        return array.reshape(value["shape"])
    return _decode_array(value["type"], value["shape"], buffers[value["buffer"]])


def _decode_array(code: int, shape: Sequence[int], raw: Array) -> Array:
    name, bits = wire.ELEMENT_TYPES[code]
    dtype = _dtype(name)
    if bits >= 8:
        return raw.view(dtype).reshape(shape)
    count = math.prod(shape)
    plain = unpack(raw, bits, count)
    if name.startswith("int"):  # sign extension
        plain = (plain << (8 - bits)).view(np.int8) >> (8 - bits)
    array = plain.view(dtype) if name.startswith("float") else plain.astype(dtype)
    return array.reshape(shape)


def _dtype(name: str) -> np.dtype[Any]:
    if hasattr(np, name):
        return np.dtype(name)
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


def pack(raw: Array, bits: int) -> Array:
    """Pack elements of 2 or 4 bits that lie in one byte each, the first in the lowest bits."""
    per_byte = 8 // bits
    padded = np.zeros(-(-raw.size // per_byte) * per_byte, np.uint8)
    padded[: raw.size] = raw & ((1 << bits) - 1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed: Array = np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1)
    return packed


def unpack(raw: Array, bits: int, count: int) -> Array:
    """Undo ``pack``: one byte for each of ``count`` elements, without sign extension."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    spread = (raw.reshape(-1, 1) >> shifts) & ((1 << bits) - 1)
    return spread.reshape(-1)[:count].astype(np.uint8)

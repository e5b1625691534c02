"""Constants: tensor contents that stay in their file until somebody needs them.

A ``Constant`` holds a little-endian, packed buffer (usually a view of a mapped file), or a numpy array that a pass
computed.  Nothing is copied on load; ``array()`` is a read-only view wherever the layout allows it.  Sub-byte types
are unpacked by ``array()`` to one element per byte, as ``ml_dtypes`` represents them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from compiler.ir.dtype import DType

Array: TypeAlias = npt.NDArray[Any]
Buffer: TypeAlias = bytes | memoryview

_SMALL = 4096
"""Bytes up to which a constant keeps its array once it was made."""


class Constant:
    """An immutable tensor: element type, static shape, contents.

    ``opaque`` holds the source object of a tensor that ampc cannot read (an element type it does not know); such a
    constant is carried through and has no ``array``.
    """

    __slots__ = ("_array", "_buffer", "_digest", "_source", "dtype", "opaque", "shape")

    def __init__(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        *,
        buffer: Buffer | None = None,
        array: Array | None = None,
        source: Callable[[], Buffer | Array] | None = None,
        opaque: Any = None,
    ) -> None:
        """Store exactly one of a packed buffer, an array, a function that gives one of them, or an opaque object."""
        self.dtype = dtype
        self.shape = shape
        self._buffer = buffer
        self._array = array
        self._source = source
        self._digest = ""
        self.opaque = opaque

    @staticmethod
    def from_array(array: Any, dtype: DType | None = None) -> Constant:
        """Wrap a numpy array (or what numpy makes one of); the array must not be changed afterwards."""
        array = np.asarray(array)
        return Constant(dtype or DType.from_numpy(array.dtype), tuple(array.shape), array=array)

    @staticmethod
    def of(values: Any, dtype: DType) -> Constant:
        """Make a constant of ``dtype`` from Python numbers or nested lists."""
        return Constant.from_array(np.asarray(values, dtype=dtype.numpy), dtype)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the packed contents take in a file; of strings, their characters; of opaque tensors, all of it."""
        if self.opaque is not None:
            return int(self.opaque.ByteSize()) if hasattr(self.opaque, "ByteSize") else 0
        if self.dtype is DType.STRING:
            return sum(len(s) for s in self.array().flat)
        return self.dtype.packed_bytes(self.size)

    @property
    def is_readable(self) -> bool:
        """True when the contents can be had as an array."""
        return self.opaque is None

    def _resolve(self) -> None:
        if self._source is not None and self._buffer is None and self._array is None:
            made = self._source()
            if isinstance(made, np.ndarray):
                self._array = made
            else:
                self._buffer = made

    def array(self) -> Array:
        """Return the contents as a read-only numpy array of ``shape``; zero-copy unless the type is sub-byte."""
        if self.opaque is not None:
            raise TypeError(f"a constant of type {self.dtype} cannot be read")
        self._resolve()
        if self._array is not None:
            return self._array
        assert self._buffer is not None
        array = _unpack(self._buffer, self.dtype, self.size).reshape(self.shape)
        if self.nbytes <= _SMALL:
            self._array = array
        return array

    def raw(self) -> Buffer:
        """Return the packed little-endian contents; raises ``TypeError`` for strings and opaque tensors."""
        if self.dtype is DType.STRING or self.opaque is not None:
            raise TypeError(f"a constant of type {self.dtype} has no raw form")
        self._resolve()
        if self._buffer is not None:
            return self._buffer
        assert self._array is not None
        return pack(self._array, self.dtype)

    @property
    def is_computed(self) -> bool:
        """True when the contents live in memory that ampc allocated rather than in the model's file."""
        return self._buffer is None

    def item(self) -> Any:
        """Return the only element as a Python number; raises ``ValueError`` when there is not exactly one."""
        return self.array().reshape(-1)[:2].item()

    def digest(self) -> str:
        """Return a hash of type, shape and contents: equal digests mean equal constants, bit for bit."""
        if not self._digest:
            h = hashlib.blake2b(f"{self.dtype}{self.shape}".encode(), digest_size=16)
            if self.opaque is not None:
                h.update(repr(self.opaque).encode())
            elif self.dtype is DType.STRING:
                for s in self.array().flat:
                    b = s.encode() if isinstance(s, str) else bytes(s)
                    h.update(len(b).to_bytes(8, "little") + b)
            else:
                h.update(self.raw())
            self._digest = h.hexdigest()
        return self._digest


def _unpack(buffer: Buffer, dtype: DType, size: int) -> Array:
    if not dtype.is_sub_byte:
        stored = dtype.numpy.newbyteorder("<") if dtype.numpy.kind in "iufc" else dtype.numpy
        array = np.frombuffer(buffer, dtype=stored)[:size]
        return array if array.dtype == dtype.numpy else array.astype(dtype.numpy)
    per_byte = 8 // dtype.bits
    packed = np.frombuffer(buffer, dtype=np.uint8)
    parts = [(packed >> (dtype.bits * k)) & ((1 << dtype.bits) - 1) for k in range(per_byte)]
    codes = np.stack(parts, axis=-1).reshape(-1)[:size]
    if dtype in (DType.I4, DType.I2):
        half = 1 << (dtype.bits - 1)
        return ((codes.astype(np.int8) ^ half) - half).astype(dtype.numpy)
    if dtype is DType.F4E2M1:
        return codes.astype(np.uint8).view(dtype.numpy)
    return codes.astype(dtype.numpy)


def pack(array: Array, dtype: DType) -> Buffer:
    """Return the packed little-endian bytes of an array; a view where the layout already fits."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if not dtype.is_sub_byte:
        if flat.dtype.byteorder == ">":
            flat = flat.astype(flat.dtype.newbyteorder("<"))
        return flat.view(np.uint8).data if flat.size else b""
    mask = (1 << dtype.bits) - 1
    codes = flat.view(np.uint8) & mask if dtype is DType.F4E2M1 else flat.astype(np.int8).view(np.uint8) & mask
    per_byte = 8 // dtype.bits
    padded = np.zeros(-(-codes.size // per_byte) * per_byte, np.uint8)
    padded[: codes.size] = codes
    rows = padded.reshape(-1, per_byte)
    out = np.zeros(rows.shape[0], np.uint8)
    for k in range(per_byte):
        out |= rows[:, k] << (dtype.bits * k)
    return out.tobytes()

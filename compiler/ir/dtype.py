"""Element types: one enumeration that knows names, ONNX codes, widths and numpy types.

The names are those of the text form (``f32``, ``i64``, ``bf16`` …).  ``DType.UNKNOWN`` is an element type that no
analysis could establish; it is a member, not ``None``, so that code has one case less.
"""

from __future__ import annotations

import enum
import functools
from typing import Any

import ml_dtypes
import numpy as np


class DType(enum.Enum):
    """An element type: text name, ONNX ``TensorProto.DataType`` code, width in bits, numpy type."""

    UNKNOWN = ("?", 0, 0, None)
    F32 = ("f32", 1, 32, np.float32)
    U8 = ("u8", 2, 8, np.uint8)
    I8 = ("i8", 3, 8, np.int8)
    U16 = ("u16", 4, 16, np.uint16)
    I16 = ("i16", 5, 16, np.int16)
    I32 = ("i32", 6, 32, np.int32)
    I64 = ("i64", 7, 64, np.int64)
    STRING = ("str", 8, 0, np.object_)
    BOOL = ("bool", 9, 8, np.bool_)
    F16 = ("f16", 10, 16, np.float16)
    F64 = ("f64", 11, 64, np.float64)
    U32 = ("u32", 12, 32, np.uint32)
    U64 = ("u64", 13, 64, np.uint64)
    C64 = ("c64", 14, 64, np.complex64)
    C128 = ("c128", 15, 128, np.complex128)
    BF16 = ("bf16", 16, 16, ml_dtypes.bfloat16)
    F8E4M3FN = ("f8e4m3fn", 17, 8, ml_dtypes.float8_e4m3fn)
    F8E4M3FNUZ = ("f8e4m3fnuz", 18, 8, ml_dtypes.float8_e4m3fnuz)
    F8E5M2 = ("f8e5m2", 19, 8, ml_dtypes.float8_e5m2)
    F8E5M2FNUZ = ("f8e5m2fnuz", 20, 8, ml_dtypes.float8_e5m2fnuz)
    U4 = ("u4", 21, 4, ml_dtypes.uint4)
    I4 = ("i4", 22, 4, ml_dtypes.int4)
    F4E2M1 = ("f4e2m1", 23, 4, ml_dtypes.float4_e2m1fn)
    F8E8M0 = ("f8e8m0", 24, 8, ml_dtypes.float8_e8m0fnu)
    U2 = ("u2", 25, 2, ml_dtypes.uint2)
    I2 = ("i2", 26, 2, ml_dtypes.int2)

    def __init__(self, text: str, code: int, bits: int, numpy_type: Any) -> None:
        self.text = text
        self.code = code
        self.bits = bits
        self._numpy_type = numpy_type

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"DType.{self.name}"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy element type; raises ``TypeError`` for ``UNKNOWN``."""
        if self._numpy_type is None:
            raise TypeError("an unknown element type has no numpy type")
        found: np.dtype[Any] = np.dtype(self._numpy_type)
        return found

    @property
    def is_float(self) -> bool:
        """True for real floating-point types of any width."""
        return self in FLOATS

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers of any width, not for bool."""
        return self in INTEGERS

    @property
    def is_sub_byte(self) -> bool:
        """True for types that pack several elements in a byte."""
        return self.bits in (2, 4)

    def packed_bytes(self, elements: int) -> int:
        """Return the bytes that ``elements`` elements take in a file; strings count as zero."""
        return (elements * self.bits + 7) // 8

    @staticmethod
    def from_code(code: int) -> DType:
        """Return the member for an ONNX code; a code that is not known gives ``UNKNOWN``."""
        return _BY_CODE.get(code, DType.UNKNOWN)

    @staticmethod
    def from_text(text: str) -> DType:
        """Return the member for a text name; raises ``KeyError``."""
        return _BY_TEXT[text]

    @staticmethod
    def from_numpy(dtype: np.dtype[Any]) -> DType:
        """Return the member for a numpy type; text types of numpy are strings; raises ``KeyError``."""
        if dtype.kind in "USO":
            return DType.STRING
        return _by_numpy()[dtype]


_BY_CODE = {d.code: d for d in DType}
_BY_TEXT = {d.text: d for d in DType}

FLOATS = frozenset(
    {
        DType.F16, DType.BF16, DType.F32, DType.F64, DType.F8E4M3FN, DType.F8E4M3FNUZ,
        DType.F8E5M2, DType.F8E5M2FNUZ, DType.F4E2M1, DType.F8E8M0,
    }
)  # fmt: skip
INTEGERS = frozenset(
    {
        DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64,
        DType.I4, DType.U4, DType.I2, DType.U2,
    }
)  # fmt: skip


@functools.cache
def _by_numpy() -> dict[np.dtype[Any], DType]:
    return {d.numpy: d for d in DType if d not in (DType.UNKNOWN, DType.STRING)}

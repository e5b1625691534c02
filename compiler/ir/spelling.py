"""How names, strings, numbers and tensor elements are spelled in the text form, and read back.

Every function here has its inverse beside it, and the pair loses nothing.  A float is written as its shortest decimal
form when that reads back to the same bits, else by its bits (``0x7fc00001``, a NaN with a payload): a rule that holds
for all widths, so that no format needs a case of its own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from compiler.ir.constant import Array, Constant
from compiler.ir.dtype import DType

NAME = r"(?:/|::)?[A-Za-z0-9_.]+(?:(?:/|::)[A-Za-z0-9_.]+)*"
"""What may stand unquoted after ``%`` and ``@``: parts joined by ``/`` or ``::`` (``//`` would start a comment)."""

WORD = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*"
"""What may stand unquoted as an operator, a domain, an attribute, a rewrite or a word of the grammar."""

_name = re.compile(NAME).fullmatch
_word = re.compile(WORD).fullmatch
_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|x([0-9a-f]{2})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r"}
_BY_CHARACTER = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


class Number(str):
    """A number (or ``true``, ``false``, ``inf``, ``nan``) as it was written, sign included."""

    __slots__ = ()


Scalar: TypeAlias = Number | str | bytes | tuple[Number, Number]
"""An element as it was written: a number, a string, bytes, or a complex number's parts."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """A protobuf that the text holds as bytes and nobody interprets; stands in for the message it was made of."""

    data: bytes
    """The serialized message."""

    def SerializeToString(self, **_options: bool) -> bytes:
        """Return the bytes, as a protobuf message does."""
        return self.data


def opaque_bytes(message: Any) -> bytes:
    """Return the bytes of a protobuf message or of its stand-in, the same for equal messages."""
    data = message.SerializeToString(deterministic=True)
    assert isinstance(data, bytes)
    return data


# Names and strings -------------------------------------------------------------------------------


def quote(text: str) -> str:
    """Return the text in double quotes on one line."""
    return '"' + _UNSAFE.sub(_escaped, text) + '"'


def _escaped(found: re.Match[str]) -> str:
    c = found.group()
    return _BY_CHARACTER.get(c) or f"\\u{ord(c):04x}"


def unquote(quoted: str) -> str:
    """Return the text that ``quote`` was given; other escapes than its own stand for the character itself."""
    body = quoted[1:-1]
    return _ESCAPE.sub(_unescaped, body) if "\\" in body else body


def _unescaped(found: re.Match[str]) -> str:
    code = found.group(1) or found.group(2)
    return chr(int(code, 16)) if code else _LETTERS.get(found.group(3), found.group(3))


def quote_bytes(data: bytes) -> str:
    """Return bytes as ``b"..."`` on one line, ASCII only."""
    shown = (chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\x{c:02x}" for c in data)
    return 'b"' + "".join(shown) + '"'


def unquote_bytes(quoted: str) -> bytes:
    """Return the bytes that ``quote_bytes`` was given; raises ``UnicodeEncodeError`` for characters beyond a byte."""
    return unquote(quoted[1:]).encode("latin-1")


def name_text(name: str) -> str:
    """Return a value's or graph's name as it stands after ``%`` or ``@``."""
    return name if _name(name) else quote(name)


def word_text(word: str) -> str:
    """Return an operator, domain, attribute or rewrite as it stands in a statement."""
    return word if _word(word) else quote(word)


# Numbers -----------------------------------------------------------------------------------------


def float_text(value: Any, dtype: DType) -> str:
    """Return a number of a float type so that ``read_float`` gives back the same bits."""
    scalar = np.asarray(value).astype(dtype.numpy)
    for written in (str(scalar[()]), repr(float(scalar))):
        text = written if any(c in ".en" for c in written) else written + ".0"
        if _bits(read_float(text, dtype)) == _bits(scalar):
            return text
    return f"0x{_bits(scalar):0{max(dtype.bits, 8) // 4}x}"


def read_float(text: str, dtype: DType) -> Array:
    """Return the number as an array without dims; raises ``ValueError`` when it is none, or bits do not fit."""
    numpy_type = dtype.numpy
    if text.startswith("0x"):
        return np.array(_fitting(int(text, 16), 0, (1 << dtype.bits) - 1), f"u{numpy_type.itemsize}").view(numpy_type)
    with np.errstate(all="ignore"):
        return np.asarray(float(text)).astype(numpy_type)


def _bits(scalar: Array) -> int:
    return int(scalar.view(f"u{scalar.dtype.itemsize}")[()])


def _fitting(number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        raise ValueError(f"{number} is not between {low} and {high}")
    return number


def read_integer(text: str, dtype: DType) -> int:
    """Return an integer that the type holds; raises ``ValueError`` when it is none or does not fit."""
    if len(text) > 40:  # longer than any 128-bit number; int() takes quadratic time
        raise ValueError("the number is too long")
    number = int(text, 16 if "x" in text else 10)
    signed = dtype.text.startswith("i")
    low = -(1 << (dtype.bits - 1)) if signed else 0
    return _fitting(number, low, (1 << (dtype.bits - signed)) - 1)


def attribute_float(value: float) -> str:
    """Return a float attribute, which has float32 precision; NaN payloads are not kept."""
    return "nan" if math.isnan(value) else float_text(_as_float32(value), DType.F32)


def _as_float32(value: float) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(value, np.float64).astype(np.float32)


# Elements of tensors -----------------------------------------------------------------------------


def contents_text(constant: Constant) -> str:
    """Return the elements of a constant as a number, or as lists nested as its dims; ``[]`` when it has none."""
    if constant.size == 0:
        return "[]"
    texts = [_element_text(e, constant.dtype) for e in constant.array().reshape(-1)]
    for dim in reversed(constant.shape):
        texts = ["[" + ", ".join(texts[i : i + dim]) + "]" for i in range(0, len(texts), dim)]
    return texts[0]


def _element_text(element: Any, dtype: DType) -> str:
    if dtype is DType.STRING:
        return quote_bytes(element) if isinstance(element, bytes) else quote(str(element))
    if dtype is DType.BOOL:
        return "true" if element else "false"
    if dtype in _PARTS:
        return f"({float_text(element.real, _PARTS[dtype])}, {float_text(element.imag, _PARTS[dtype])})"
    return str(int(element)) if dtype.is_integer else float_text(element, dtype)


_PARTS = {DType.C64: DType.F32, DType.C128: DType.F64}
"""Complex type → type of its parts."""


def read_contents(dtype: DType, shape: tuple[int, ...], scalars: list[Scalar]) -> Constant:
    """Return the constant of these elements in row-major order; raises ``ValueError`` when they do not fit."""
    if math.prod(shape) != len(scalars):
        raise ValueError(f"{len(scalars)} elements are given and the type has {math.prod(shape)}")
    flat = np.empty(len(scalars), dtype.numpy)
    for i, scalar in enumerate(scalars):
        flat[i] = _read_element(scalar, dtype)
    return Constant(dtype, shape, array=flat.reshape(shape))


def _read_element(scalar: Scalar, dtype: DType) -> Any:
    if dtype is DType.STRING:
        return _checked(scalar, not isinstance(scalar, Number | tuple), "a string")
    if dtype in _PARTS:
        parts = _checked(scalar, isinstance(scalar, tuple), "a complex number, (1.0, 2.0)")
        made = np.empty((), dtype.numpy)
        made.real, made.imag = (read_float(p, _PARTS[dtype]) for p in parts)
        return made
    text = str(_checked(scalar, isinstance(scalar, Number), "a number"))
    if dtype is DType.BOOL:
        return _checked(text, text in ("true", "false"), "true or false") == "true"
    return read_integer(text, dtype) if dtype.is_integer else read_float(text, dtype)


def _checked(scalar: Any, fits: bool, wanted: str) -> Any:
    if not fits:
        raise ValueError(f"{scalar!r} is not {wanted}")
    return scalar

"""The side file: contents of constants that are too large for the text, found by their digest.

Layout: contents one after the other, each at a multiple of 64 bytes; an index in JSON, ``[[digest, element type,
shape, offset, length], ...]``; the index's length in 8 bytes; ``ampcside``.  The index stands at the end so that the
file is written in one go, and it is read through a mapping, so that nothing is copied either way.

A text writes the first digits of a digest.  They mean the first entry, in order, that begins with them; the writer
takes as many digits as that needs.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from compiler.errors import InputError
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType

_MAGIC = b"ampcside"
_ALIGNMENT = 64
_DIGITS = 8
"""Digits of a digest that a text writes at least."""


class ContentsSource(Protocol):
    """Where the contents of constants are found when a text holds only their digests."""

    def find(self, digits: str, dtype: DType, shape: tuple[int, ...]) -> Constant | None:
        """Return the constant whose digest begins with ``digits``, ``None`` when it is not here."""
        ...


class Missing:
    """The contents of a constant whose text came without its side file; asking for them is an error."""

    def __init__(self, digits: str) -> None:
        """Remember the digits for the message."""
        self.digits = digits

    def __call__(self) -> bytes:
        """Raise ``InputError``: there is nothing to return."""
        raise InputError(
            f"the contents of the constant #{self.digits} are not here",
            why="the text holds its digest only, and was read without its side file",
            hint="read the text from its file, with the .data file of the same name beside it",
        )


def missing_constant(digits: str, dtype: DType, shape: tuple[int, ...]) -> Constant:
    """Return a constant that knows its type and digest and nothing else."""
    constant = Constant(dtype, shape, source=Missing(digits))
    constant._digest = digits
    return constant


def is_missing(constant: Constant) -> bool:
    """True when the constant's contents were never here."""
    return isinstance(constant._source, Missing)


class Abbreviations:
    """Digests and the digits that a text writes for them."""

    def __init__(self) -> None:
        """Start with none."""
        self._texts: dict[str, str] = {}
        self._taken: dict[str, str] = {}

    def of(self, digest: str) -> str:
        """Return the digits of a digest: no digest that was asked for before begins with them."""
        if digest in self._texts:
            return self._texts[digest]
        length = _DIGITS
        while digest[:length] in self._taken and length < len(digest):
            length += 1
        self._texts[digest] = digest[:length]
        for n in range(_DIGITS, len(digest) + 1):
            self._taken.setdefault(digest[:n], digest)
        return digest[:length]


class SideWriter:
    """Writes a side file; each contents once."""

    def __init__(self, file: BinaryIO) -> None:
        """Write to a file that is open and empty."""
        self._file = file
        self._at = 0
        self.entries: dict[str, tuple[str, list[int], int, int]] = {}
        """Digest → element type, shape, offset, length."""

    def add(self, constant: Constant) -> None:
        """Write the contents of a constant unless they are there or were never known."""
        digest = constant.digest()
        if digest in self.entries or is_missing(constant):
            return
        self._write(bytes(-self._at % _ALIGNMENT))
        start = self._at
        self._write(_encode_strings(constant) if constant.dtype is DType.STRING else constant.raw())
        self.entries[digest] = (constant.dtype.text, list(constant.shape), start, self._at - start)

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._at += memoryview(data).nbytes

    def finish(self) -> None:
        """Write the index."""
        index = json.dumps([[digest, *entry] for digest, entry in self.entries.items()]).encode()
        self._file.write(index + len(index).to_bytes(8, "little") + _MAGIC)


def _encode_strings(constant: Constant) -> bytes:
    encoded = [s.encode() if isinstance(s, str) else bytes(s) for s in constant.array().reshape(-1)]
    return b"".join(len(e).to_bytes(8, "little") + e for e in encoded)


def _decode_strings(data: memoryview, shape: tuple[int, ...]) -> Any:
    flat: list[str | bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        flat.append(_text(bytes(data[at + 8 : at + 8 + size])))
        at += 8 + size
    array = np.empty(len(flat), object)
    array[:] = flat
    return array.reshape(shape)


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


class _Entry(NamedTuple):
    digest: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    length: int


class SideFile:
    """A side file that is open for reading; constants are views of its mapping, which lives as long as they do."""

    def __init__(self, path: Path) -> None:
        """Map the file and read its index; raises ``InputError`` when it is damaged or no regular file."""
        self.path = path
        self._data = _map(path)
        self._entries = self._index()
        self._by_digits: dict[str, _Entry] = {}
        for entry in self._entries:
            for n in range(_DIGITS, len(entry.digest) + 1):
                self._by_digits.setdefault(entry.digest[:n], entry)

    def _damaged(self, why: str) -> InputError:
        return InputError("the side file is damaged", where=str(self.path), why=why, hint="write the text again")

    def _index(self) -> list[_Entry]:
        data = self._data
        if data[-8:] != _MAGIC:
            raise self._damaged("its end is missing")
        stop = len(data) - 16
        start = stop - int.from_bytes(data[stop : stop + 8], "little")
        try:
            rows = json.loads(bytes(data[max(start, 0) : stop]))
            entries = [_Entry(str(d), DType.from_text(t), tuple(map(int, s)), int(o), int(n)) for d, t, s, o, n in rows]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._damaged("its index cannot be read") from None
        if any(e.offset < 0 or e.length < 0 or e.offset + e.length > start for e in entries):
            raise self._damaged("its index points beyond its end")
        return entries

    def find(self, digits: str, dtype: DType, shape: tuple[int, ...]) -> Constant | None:
        """Return the constant whose digest begins with the digits, ``None`` when there is none.

        Raises ``InputError`` when the contents are of another type than the text says.
        """
        entry = self._by_digits.get(digits)
        if entry is None:
            return None
        if (entry.dtype, entry.shape) != (dtype, shape):
            raise InputError(
                f"#{digits} holds {entry.dtype}{list(entry.shape)}, and the text says {dtype}{list(shape)}",
                where=str(self.path),
            )
        return self._constant(entry)

    def _constant(self, entry: _Entry) -> Constant:
        view = self._data[entry.offset : entry.offset + entry.length]
        if entry.dtype is DType.STRING:
            constant = Constant(entry.dtype, entry.shape, source=lambda: _decode_strings(view, entry.shape))
        else:
            constant = Constant(entry.dtype, entry.shape, buffer=view)
            if constant.nbytes != entry.length:
                raise self._damaged(f"{constant.nbytes} bytes are needed for #{entry.digest}, {entry.length} are there")
        constant._digest = entry.digest
        return constant


def _map(path: Path) -> memoryview:
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as e:
        raise InputError("the side file cannot be read", where=str(path), why=str(e.strerror)) from None
    with os.fdopen(fd, "rb"):
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size < len(_MAGIC) + 8:
            raise InputError("the side file is damaged", where=str(path), why="it is too short, or no regular file")
        return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends well, and vanishes otherwise."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException as e:
        temporary.unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise InputError(
                "the file cannot be written", where=str(path), why=str(e.strerror), hint="choose another output path"
            ) from None
        raise

"""Write models: weights go from the mapping of the input straight to the output file.

``serialize`` gives the bytes of a model whose big tensors are stubs, in chunks; ``write_external`` streams
tensors to a data file beside the model; ``write_atomic`` and ``AtomicFolder`` (``backend.atomic``) put files
and bundles in place.

Considered and rejected: ``copy_file_range`` from the input.  It needs the descriptor behind each view, works
on few pairs of file systems, and saves only kernel time; a plain ``write`` from the mapping takes no user
time either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.backend.atomic import PREFIX, AtomicFolder, write_atomic
from compiler.errors import CompilerError, InputError
from compiler.ir.splice import Buffer, PayloadTable, Splice, as_bytes, clear_contents, put_back
from compiler.ir.wire import tensors

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

__all__ = [
    "EMBEDDED_LIMIT",
    "AtomicFolder",
    "embedded_size",
    "materialize",
    "serialize",
    "write_atomic",
    "write_external",
]

EMBEDDED_LIMIT = (1 << 31) - 1
"""Bytes of the largest model that protobuf, and so every reader, accepts in one file."""

_PAGE = 4096
"""Bytes of a page; fixed, so that a model gets the same file everywhere."""

_PAGE_ALIGNED = 64 << 10
"""Bytes from which a tensor in a data file starts at a page, so that runtimes can map it."""


def serialize(model: ModelProto, table: PayloadTable) -> Iterator[Buffer]:
    """Yield the bytes of ``model`` in chunks, with the payloads of ``table`` in place of its stubs.

    Raises ``InputError`` when the result is over ``EMBEDDED_LIMIT``, before the first chunk.
    """
    splice = _splice(model, table)
    if splice.size > EMBEDDED_LIMIT:
        raise InputError(
            "the model is too large for a single file",
            why=f"it needs {splice.size} bytes, and readers of ONNX accept {EMBEDDED_LIMIT}",
            hint="write its weights as external data",
        )
    return iter(splice)


def embedded_size(model: ModelProto, table: PayloadTable) -> int:
    """Return the bytes that ``serialize`` would yield, without a limit."""
    return _splice(model, table).size


def _splice(model: ModelProto, table: PayloadTable) -> Splice:
    from google.protobuf.message import EncodeError

    try:
        return put_back(model.SerializeToString(deterministic=True), table)
    except EncodeError as error:
        raise CompilerError("the emitted model cannot be serialized", why=str(error)) from error


def materialize(model: ModelProto, table: PayloadTable) -> ModelProto:
    """Return a copy of ``model`` whose tensors hold their contents themselves; this copies them."""
    from onnx import ModelProto as Model

    whole = Model()
    whole.CopyFrom(model)
    for tensor in tensors(whole):
        payload = table.payload(tensor)
        if payload is not None:
            tensor.raw_data = bytes(payload)
    return whole


def write_external(
    folder: str | os.PathLike[str], name: str, items: Iterable[tuple[TensorProto, Buffer]]
) -> int:
    """Write tensors to the data file ``name`` in ``folder``, in this order, and make the protos refer to it.

    A tensor of 64 KiB or more starts at a page, others at 64 bytes; an empty one stays in its proto.  Each
    buffer is laid out as ``raw_data``.  Returns the size of the file.  Raises ``InputError`` when it cannot
    be written.
    """
    if name in ("", ".", "..") or not {"/", "\\", "\0"}.isdisjoint(name) or name.startswith(PREFIX):
        raise InputError("the data file has no usable name", where=repr(name), hint="give a plain file name")
    placed: list[tuple[TensorProto, int, int]] = []
    size = write_atomic(Path(folder) / name, _external_chunks(items, placed))
    for tensor, offset, length in placed:
        _refer(tensor, name, offset, length)
    return size


def _external_chunks(
    items: Iterable[tuple[TensorProto, Buffer]], placed: list[tuple[TensorProto, int, int]]
) -> Iterator[Buffer]:
    """Yield what the data file holds, and append each tensor with its offset and length to ``placed``."""
    at = 0
    for tensor, buffer in items:
        payload = as_bytes(buffer)
        if payload.nbytes:
            padding = -at % (_PAGE if payload.nbytes >= _PAGE_ALIGNED else 64)
            yield bytes(padding)
            yield payload
            at += padding
        placed.append((tensor, at, payload.nbytes))
        at += payload.nbytes


def _refer(tensor: TensorProto, name: str, offset: int, length: int) -> None:
    clear_contents(tensor)
    if not length:
        tensor.raw_data = b""
        return
    tensor.data_location = tensor.EXTERNAL
    for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)

"""Read a model without reading its weights: parse all but the tensors' contents, which stay in the mapping.

``read_skeleton`` takes the buffer of ``files.open_regular`` (or any bytes) and touches only the pages that
hold structure.  How payloads are taken out, and why that is safe for hostile files, stands in
``compiler.ir.splice``; a model whose file is over 2 GB parses as well, since only its skeleton has to fit in
a protobuf.

Views of the mapping are not aligned to their element type: ``numpy.frombuffer`` accepts that, raw pointers
may not.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.errors import ModelError
from compiler.ir.splice import PayloadTable, Splice, take_out
from compiler.ir.wire import DEPTH

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_PROTOBUF_LIMIT = (1 << 31) - 1
"""Bytes of the largest message that protobuf parses or serializes."""

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer: the model itself is not there (run `git lfs pull`)",
    ),
    (0, b"PK\x03\x04", "a ZIP archive, such as a PyTorch .pt/.pth or a Keras .keras file"),
    (0, b"\x80\x02", "a Python pickle, such as an old PyTorch .pt/.pth file"),
    (0, b"\x80\x03", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"\x80\x05", "a Python pickle"),
    (0, b"\x89HDF", "an HDF5 file, such as a Keras .h5 model"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive: unpack it first"),
    (0, b"BZh", "a bzip2 archive: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in ONNX Runtime's .ort format"),
    (8, b'{"', "a safetensors file: weights without a graph"),
    (0, b"<!DOCTYPE", "an HTML page, probably a download that was refused"),
    (0, b"<!doctype", "an HTML page, probably a download that was refused"),
    (0, b"<html", "an HTML page, probably a download that was refused"),
    (0, b"<?xml", "an XML file, such as an OpenVINO .xml model"),
    (0, b"{", "a JSON file"),
    (0, b"ir_version:", "an ONNX model in protobuf's text form"),
    (0, b"<", "a text file, such as an ONNX model in text form"),
)
"""Position, bytes, and what a file that has them there is."""


@dataclass(frozen=True)
class Skeleton:
    """A parsed model whose big tensors are stubs, and the table of what they stand for.

    A tensor that is copied out of ``model`` into another message stays a stub: write it with the same
    ``table``.
    """

    model: ModelProto
    """The model; big contents, packed ``float_data`` and ``double_data`` too, are a token in ``raw_data``."""
    table: PayloadTable
    """Resolves the tokens; give it to ``backend.write.serialize``."""

    def payload(self, tensor: TensorProto) -> memoryview | None:
        """Return the contents of ``tensor`` as ``raw_data`` lays them out, or None when it holds its own."""
        return self.table.payload(tensor)


def read_skeleton(buffer: bytes | memoryview, *, threshold: int = 1024, where: str = "") -> Skeleton:
    """Parse the ONNX model in ``buffer``, leaving contents of ``threshold`` bytes and more where they are.

    ``where`` names the file in errors.  Raises ``ModelError`` when the bytes are no ONNX model.
    """
    data = memoryview(buffer)
    table = PayloadTable()
    try:
        with _jumping_through(data):
            model = _parse(take_out(data, table, threshold=threshold))
        _check_plausible(model)
    except ModelError as error:
        raise _explain(error, data, where) from error
    return Skeleton(model, table)


@contextlib.contextmanager
def _jumping_through(data: memoryview) -> Iterator[None]:
    """Tell the system not to read ahead in a mapping, and afterwards to take back what it mapped around us.

    Reading ahead of jumps from tensor to tensor would read a good part of the weights.
    """
    mapping: Any = data.obj
    if not isinstance(mapping, mmap.mmap) or not hasattr(mmap, "MADV_RANDOM"):
        yield
        return
    mapping.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        mapping.madvise(mmap.MADV_NORMAL)
        if memoryview(mapping).readonly:  # a private mapping would lose what was written to it
            mapping.madvise(mmap.MADV_DONTNEED)


def _parse(splice: Splice) -> ModelProto:
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    if splice.size > _PROTOBUF_LIMIT:
        raise ModelError(
            "the model is too large for a protobuf",
            why=f"without raw tensor contents it has {splice.size} bytes; protobuf reads {_PROTOBUF_LIMIT}",
            hint="store tensors as raw_data or external data",
        )
    try:
        model: ModelProto = ModelProto.FromString(splice.tobytes())
    except (DecodeError, RecursionError) as error:
        raise ModelError(
            "the file is not a valid ONNX model",
            why=f"protobuf cannot parse it ({error}); messages nested over {DEPTH} deep are refused too",
            hint="export or download the model again",
        ) from error
    return model


def _check_plausible(model: ModelProto) -> None:
    if not model.HasField("graph"):
        raise ModelError(
            "the file holds no graph",
            why="an ONNX model has one",
            hint="is this file an ONNX model, and all of it?",
        )
    if model.ir_version >= 3 and not model.opset_import:
        raise ModelError(
            "the model imports no operator set",
            why="ONNX requires it since IR version 3; a file that was cut off looks like this",
            hint="export or download the model again",
        )


def _explain(error: ModelError, data: memoryview, where: str) -> ModelError:
    """Return the error with the file's name, and with what the file looks like where that is known."""
    place = ", ".join(part for part in (where, error.where) if part)
    looks = _looks_like(bytes(data[:512]))
    if not looks:
        return ModelError(error.what, where=place, why=error.why, hint=error.hint)
    return ModelError(
        "the file is not an ONNX model", where=where, why=f"it looks like {looks}", hint=error.hint
    )


def _looks_like(head: bytes) -> str:
    if not head:
        return "an empty file"
    for at, signature, kind in _SIGNATURES:
        if head[at:].startswith(signature):
            return kind
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    return "a text file" if printable == len(head) else ""

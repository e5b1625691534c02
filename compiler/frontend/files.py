"""Open a model and its external data, safely and without reading them.

Files are mapped read-only: opening a 20 GB model costs nothing, and pages are read when their bytes are used.
A mapped file must not be truncated by others while it is in use (the system would end the process); ampc
itself never writes into a file, it replaces it (``backend.write``), which leaves mappings of the old one
intact.

External data follows ONNX's security model (docs/ExternalDataSecurity.md): a tensor of a hostile model must
not reach any file but regular, singly linked ones below the model's folder.  Every component of the path is
opened from the directory above it without following links, so nothing can be exchanged between check and use.
Special files are refused before they are opened: opening a FIFO may block for ever.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import InputError, ModelError

if TYPE_CHECKING:
    from onnx import TensorProto

_BITS: dict[int, int] = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
    **dict.fromkeys((27, 28), 6),
}
"""``TensorProto.DataType`` → bits of an element in ``raw_data``; strings have no such layout."""

_READ_FLAGS = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = _READ_FLAGS | getattr(os, "O_DIRECTORY", 0)

_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
"""Keys of ``external_data``.  ``basepath`` is written by the onnx package and ignored, as there."""

_PREPACKED = "prepacked_"
"""Keys with this prefix hold ONNX Runtime's copies of weights in a layout of its own; they are ignored."""


def tensor_bytes_expected(
    data_type: int, dims: list[int] | tuple[int, ...], *, where: str = ""
) -> int | None:
    """Return the bytes that a tensor's ``raw_data`` must have, or None when its element type has none.

    Elements of less than a byte are packed without gaps; the last byte is filled up.  ``where`` names the
    tensor in errors.  Raises ``ModelError`` for a negative dimension.
    """
    if any(dim < 0 for dim in dims):
        raise ModelError(
            "a tensor has a negative dimension", where=where, why=f"its dims are {list(dims)[:16]}"
        )
    bits = _BITS.get(data_type)
    return None if bits is None else (math.prod(dims) * bits + 7) // 8


def open_regular(path: str | os.PathLike[str]) -> memoryview:
    """Map the file at ``path`` and return a read-only view of all its bytes.

    Links are followed: the path is the user's own.  Raises ``InputError`` for anything but a non-empty,
    readable, regular file, before it is opened.
    """
    where = os.fspath(path)
    if "\0" in where:
        raise _unusable(repr(where), "the path holds a NUL character")
    try:
        return _map_checked(where)
    except OSError as error:
        raise _unusable(where, error.strerror or str(error)) from error


def _map_checked(where: str) -> memoryview:
    before = os.stat(where)
    if not stat.S_ISREG(before.st_mode):
        raise _unusable(where, f"it is {_kind(before.st_mode)}, not a regular file")
    if before.st_size == 0:
        raise _unusable(where, "the file is empty")
    fd = os.open(where, _READ_FLAGS)
    try:
        if not os.path.samestat(before, os.fstat(fd)):
            raise _unusable(where, "the file was exchanged while it was being opened")
        return _map(fd)
    finally:
        os.close(fd)


def _map(fd: int) -> memoryview:
    """Return a view of the file behind a descriptor, which may be closed then; raises ``OSError``."""
    size = os.fstat(fd).st_size
    if not size:
        return memoryview(b"")
    try:
        if sys.version_info >= (3, 13):
            return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ, trackfd=False))
        return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ))
    except (ValueError, OverflowError) as error:
        raise OSError(errno.EIO, f"it cannot be mapped into memory: {error}") from error


def _allow_more_descriptors() -> bool:
    """Raise this process's own limit of open files as far as it may; False when it is there already.

    Before Python 3.13 a mapping keeps a descriptor, and some models have thousands of data files.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)
    if wanted <= soft:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return True


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISLNK, "a symbolic link"),
    )
    return next((name for test, name in kinds if test(mode)), "a special file")


def _unusable(where: str, why: str) -> InputError:
    return InputError(
        "the model file cannot be read", where=where, why=why, hint="give the path of an .onnx file"
    )


@dataclass(frozen=True)
class ExternalReference:
    """Where a tensor says that its contents are, already checked for form."""

    location: str
    """Path relative to the model's folder, with ``/``."""
    offset: int
    """Bytes before the contents."""
    length: int | None
    """Bytes of the contents; None when the model does not say."""


def external_reference(tensor: TensorProto) -> ExternalReference:
    """Return where the contents of ``tensor`` are; raises ``ModelError`` for what ONNX does not allow."""
    values: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key.startswith(_PREPACKED):
            continue
        if entry.key not in _KEYS or entry.key in values:
            raise _refused(tensor.name, entry.key[:100], "its external_data has an unknown or repeated key")
        values[entry.key] = entry.value
    location = values.get("location", "")
    offset = _integer(values.get("offset", "0"), tensor.name, "offset")
    length = _integer(values.get("length") or "0", tensor.name, "length")
    return ExternalReference(location, offset, length or None)  # onnx reads a length of zero as one not given


def _integer(text: str, tensor_name: str, key: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 1 << 63:
        raise _refused(tensor_name, f"{key} {text[:40]!r}", "it is not a whole number between 0 and 2^63")
    return int(text)


def _refused(tensor_name: str, location: str, why: str, *, hint: str = "") -> ModelError:
    return ModelError(
        "a tensor's external data cannot be used",
        where=f"tensor {tensor_name!r}, {location}",
        why=why,
        hint=hint or "external data must be a file of its own, below the model's folder",
    )


class ExternalFiles:
    """The files below a model's folder that its tensors may refer to, each mapped once."""

    def __init__(self, base: str | os.PathLike[str], *, model: str | os.PathLike[str] | None = None) -> None:
        """Serve the folder ``base``; ``model`` is the model's own file, which is refused as external data."""
        self._base = Path(base)
        try:
            self._model = None if model is None else os.stat(model)
        except OSError as error:
            raise _unusable(os.fspath(model or ""), error.strerror or str(error)) from error
        self._maps: dict[str, memoryview] = {}

    def tensor(self, tensor: TensorProto) -> memoryview:
        """Return the contents of a tensor whose ``data_location`` is EXTERNAL, as ``raw_data`` lays them out.

        Raises ``ModelError`` that names the tensor when they are missing, unsafe, or not of the right size.
        """
        reference = external_reference(tensor)
        expected = tensor_bytes_expected(tensor.data_type, tensor.dims, where=f"tensor {tensor.name!r}")
        if expected is None:
            raise _refused(
                tensor.name, reference.location, f"element type {tensor.data_type} has no raw layout"
            )
        length = expected if reference.length is None else reference.length
        return self.view(reference.location, reference.offset, length, expected, tensor.name)

    def view(
        self, location: str, offset: int, length: int, expected_bytes: int, tensor_name: str
    ) -> memoryview:
        """Return ``length`` bytes at ``offset`` of the file at ``location``; zero-copy.

        Raises ``ModelError`` unless the location is safe, the range lies in the file and has
        ``expected_bytes``.
        """
        if offset < 0 or length != expected_bytes:
            why = f"offset {offset}, length {length}, and its shape and type need {expected_bytes} bytes"
            raise _refused(tensor_name, location, why)
        data = self._open(location, tensor_name)
        if offset + length > len(data):
            why = f"bytes {offset} to {offset + length} are asked for, and the file has {len(data)}"
            raise _refused(
                tensor_name, self._shown(location), why, hint="the data file is incomplete: fetch it again"
            )
        return data[offset : offset + length]

    def paths(self) -> list[Path]:
        """Return the files that were opened so far, in order of first use."""
        return [self._base / name for name in self._maps]

    def _shown(self, location: str) -> str:
        return str(self._base / location)

    def _open(self, location: str, tensor_name: str) -> memoryview:
        parts = _components(location, tensor_name)
        name = "/".join(parts)
        if name not in self._maps:
            try:
                self._maps[name] = self._map_with_room(parts, tensor_name)
            except FileNotFoundError as error:
                hint = "put the data file beside the model, under its old name"
                raise _refused(tensor_name, self._shown(name), "there is no such file", hint=hint) from error
            except OSError as error:
                raise _refused(tensor_name, self._shown(name), error.strerror or str(error)) from error
        return self._maps[name]

    def _map_with_room(self, parts: list[str], tensor_name: str) -> memoryview:
        try:
            return self._map_beneath(parts, tensor_name)
        except OSError as error:
            if error.errno != errno.EMFILE or not _allow_more_descriptors():
                raise
        return self._map_beneath(parts, tensor_name)

    def _map_beneath(self, parts: list[str], tensor_name: str) -> memoryview:
        """Open the file component by component; raises ``OSError`` where that fails, a link included."""
        where = self._shown("/".join(parts))
        if os.open not in os.supports_dir_fd:
            return self._map_by_path(parts, where, tensor_name)
        folder = os.open(self._base, _FOLDER)
        try:
            for part in parts[:-1]:
                _refuse_link(os.stat(part, dir_fd=folder, follow_symlinks=False), part, where, tensor_name)
                below = os.open(part, _FOLDER | _NO_FOLLOW, dir_fd=folder)
                os.close(folder)
                folder = below
            return self._map_file(parts[-1], folder, where, tensor_name)
        finally:
            os.close(folder)

    def _map_by_path(self, parts: list[str], where: str, tensor_name: str) -> memoryview:
        """Open the file where the system cannot open relative to a folder; a link can be raced in there."""
        for count in range(1, len(parts)):
            _refuse_link(os.lstat(self._base.joinpath(*parts[:count])), parts[count - 1], where, tensor_name)
        return self._map_file(where, None, where, tensor_name)

    def _map_file(self, name: str, folder: int | None, where: str, tensor_name: str) -> memoryview:
        before = os.stat(name, dir_fd=folder, follow_symlinks=False)
        _refuse_link(before, name, where, tensor_name)
        self._require_own_file(before, where, tensor_name)
        fd = os.open(name, _READ_FLAGS | _NO_FOLLOW, dir_fd=folder)
        try:
            after = os.fstat(fd)
            if not os.path.samestat(before, after):
                raise _refused(tensor_name, where, "the file was exchanged while it was being opened")
            self._require_own_file(after, where, tensor_name)
            return _map(fd)
        finally:
            os.close(fd)

    def _require_own_file(self, status: os.stat_result, where: str, tensor_name: str) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise _refused(tensor_name, where, f"it is {_kind(status.st_mode)}, not a regular file")
        if status.st_nlink != 1:
            why, hint = f"the file has {status.st_nlink} hard links", "copy the file instead of linking it"
            raise _refused(tensor_name, where, why, hint=hint)
        if self._model is not None and os.path.samestat(status, self._model):
            raise _refused(tensor_name, where, "it is the model file itself")


def _refuse_link(status: os.stat_result, name: str, where: str, tensor_name: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        hint = "replace the link by the file itself (cp -L)"
        raise _refused(tensor_name, where, f"{name!r} is a symbolic link", hint=hint)


def _components(location: str, tensor_name: str) -> list[str]:
    """Return the components of a location, normalised; raises ``ModelError`` for an unsafe one."""
    if "_ORT_MEM_ADDR_" in location:
        raise _refused(tensor_name, location[:100], "the location is a memory address of another process")
    if not location or "\0" in location or "\\" in location or len(location) > 4096:
        raise _refused(
            tensor_name, repr(location[:100]), "the location is empty, too long, or holds NUL or backslash"
        )
    if location.startswith("/") or re.match("[A-Za-z]:", location):
        raise _refused(tensor_name, location[:100], "the location is an absolute path or names a drive")
    parts: list[str] = []
    for part in location.split("/"):
        if part == "..":
            if not parts:
                raise _refused(tensor_name, location[:100], "the location leaves the model's folder")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if not parts or location.endswith("/"):
        raise _refused(tensor_name, location[:100], "the location names a folder")
    return parts

"""Where in which file the bytes of a tensor lie, so that a runtime may map them instead of being sent copies.

Weights are views of mapped files.  The system knows which file is mapped at an address and from which offset
on; asking it costs a millisecond and works whoever made the mapping.  Where it cannot be asked (everywhere
but Linux) or a file was replaced since, there is no place, and the bytes are copied: slower, and as good.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compiler.ir.splice import PayloadTable
from compiler.ir.wire import tensors

_MAPS = Path("/proc/self/maps")
_WORTH = 4096
"""Bytes from which a tensor is left in its file."""


class Place(NamedTuple):
    """Bytes of a file: its path and where they begin."""

    path: Path
    offset: int


class _Range(NamedTuple):
    start: int
    end: int
    offset: int
    inode: int
    path: str


@dataclass(slots=True)
class Places:
    """The mapped files of this process; none unless made by ``now``."""

    ranges: list[_Range] = field(default_factory=list)
    fresh: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def now(cls) -> Places:
        """Ask the system which files are mapped at this moment."""
        return cls(_mapped_files())

    def find(self, view: memoryview) -> Place | None:
        """Return where the bytes of ``view`` lie in a file, ``None`` when they lie in none that is still there."""
        address = int(np.frombuffer(view, np.uint8).__array_interface__["data"][0]) if view.nbytes else 0
        at = bisect_right(self.ranges, address, key=lambda r: r.start) - 1
        if at < 0:
            return None
        found = self.ranges[at]
        if address >= found.end or not self._is_fresh(found):
            return None
        return Place(Path(found.path), found.offset + address - found.start)

    def _is_fresh(self, found: _Range) -> bool:
        if found.path not in self.fresh:
            try:
                self.fresh[found.path] = os.stat(found.path).st_ino == found.inode
            except OSError:
                self.fresh[found.path] = False
        return self.fresh[found.path]


def _mapped_files() -> list[_Range]:
    """Return the mapped files by address; none where the system does not say, so that all bytes are copied."""
    if not sys.platform.startswith("linux"):
        return []
    try:
        lines = _MAPS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5].startswith("/") and "\\" not in parts[5]:
            start, end = (int(x, 16) for x in parts[0].split("-"))
            found.append(_Range(start, end, int(parts[2], 16), int(parts[4]), parts[5]))
    return found


def leave_in_files(model: Any, table: PayloadTable, places: Places, *, folder: Path | None = None) -> Path | None:
    """Make the stubs of a ModelProto, in place, refer to the files that hold their contents; copy the others.

    Only initializers of the main graph can refer to files; other stubs get their contents.  External data
    that the model refers to already, below ``folder``, is referred to anew.  Returns the folder that all
    locations are relative to, ``None`` when nothing is external.
    """
    used = False
    stubs = []
    for tensor in tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            used |= folder is not None and _refer_anew(tensor, folder)
        elif table.payload(tensor) is not None:
            stubs.append(tensor)
    if stubs:
        used |= sum(_refer_to_place(tensor, table, places) for tensor in model.graph.initializer) > 0
    for tensor in stubs:
        payload = table.payload(tensor)
        if payload is not None:
            tensor.raw_data = bytes(payload)
    return _root() if used else None


def _refer_to_place(tensor: Any, table: PayloadTable, places: Places) -> bool:
    payload = table.payload(tensor)
    place = places.find(payload) if payload is not None and payload.nbytes >= _WORTH else None
    if payload is None or place is None:
        return False
    _refer(tensor, place, payload.nbytes)
    return True


def _root() -> Path:
    return Path(Path.cwd().anchor)


def _refer(tensor: Any, place: Place, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    entries = {
        "location": place.path.relative_to(place.path.anchor).as_posix(),
        "offset": place.offset,
        "length": length,
    }
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def _refer_anew(tensor: Any, folder: Path) -> bool:
    """Make a location that is relative to the model's folder relative to the root."""
    for entry in tensor.external_data:
        if entry.key == "location":
            whole = Path(os.path.normpath(folder.resolve() / entry.value))
            entry.value = whole.relative_to(whole.anchor).as_posix()
    return True

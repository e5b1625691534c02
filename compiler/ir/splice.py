"""Take tensor payloads out of the bytes of an ONNX model, and put them back, without copying or parsing them.

The protobuf runtime copies every ``bytes`` field, so a plain parse of a 4 GB model needs 4 GB and seconds.
ampc parses a *skeleton* instead: the same message in which every big payload is replaced by a short token.
Reading (payload → token) and writing (token → payload) are one operation, ``Splice``: find the payloads,
replace them, and correct the length prefixes of the messages around them.  Everything else is copied as
contiguous runs.

Decisions:

* A token is 16 bytes random per process, 8 random per table and an index.  A file cannot forge one, since it
  was written before the numbers were drawn, and a token of another table is noticed rather than written out.
* Only what has one meaning is taken out.  A singular message that occurs twice (protobuf merges the two), a
  group, or a payload field in an unusual form stays where it is, and protobuf decides what it means.
* Packed ``float_data`` and ``double_data`` are byte for byte the ``raw_data`` layout; they become
  ``raw_data``. The varint fields (``int32_data`` and the like) are not, and stay.
* ``training_info`` is never descended into: ampc carries it as it is.
* Nothing recurses, and nothing descends deeper than protobuf itself does (100 messages).
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple, Protocol, TypeAlias

from compiler.errors import CompilerError
from compiler.ir.wire import DEPTH, MESSAGES, Child, Field, Unusual, fields, read_varint, varint

Buffer: TypeAlias = bytes | bytearray | memoryview

_NONCE = secrets.token_bytes(16)
"""What every token of this process begins with."""

_TOKEN = 32
"""Bytes of a token."""

_DATA_TYPE = 2
_RAW_DATA = 9
_RAW_DATA_TAG = varint(_RAW_DATA << 3 | 2)
_PACKED = {4: (4, (1, 14)), 10: (8, (11, 15))}
"""TensorProto field → bytes of an entry, types whose raw layout its packed form is."""

_CONTENTS = {
    3: "segment",
    4: "float_data",
    5: "int32_data",
    6: "string_data",
    7: "int64_data",
    9: "raw_data",
    10: "double_data",
    11: "uint64_data",
}
"""TensorProto fields that hold contents, or say that they are partial."""

_MAX_TENSOR_FIELDS = 4096
"""Fields after which a tensor counts as unusual (an unpacked data field has one per element)."""


class Tensor(Protocol):
    """What this module needs of an ``onnx.TensorProto``."""

    raw_data: bytes

    def ClearField(self, field_name: Any) -> None:
        """Reset a field."""


def as_bytes(payload: Buffer) -> memoryview:
    """Return a flat view of the bytes of ``payload``; zero-copy."""
    view = memoryview(payload)
    return view.cast("B") if view.nbytes else memoryview(b"")


def clear_contents(tensor: Tensor) -> None:
    """Remove the contents of ``tensor``, wherever they are, and leave its name, type and shape."""
    for field in (*_CONTENTS.values(), "external_data", "data_location"):
        tensor.ClearField(field)


class PayloadTable:
    """The payloads that stand behind the tokens of one model."""

    def __init__(self) -> None:
        """Start empty, under a prefix of its own."""
        self._prefix = _NONCE + secrets.token_bytes(8)
        self._payloads: list[memoryview] = []

    def __len__(self) -> int:
        return len(self._payloads)

    def token(self, payload: Buffer) -> bytes:
        """Register ``payload`` (kept alive, not copied) and return the token that stands for it."""
        self._payloads.append(as_bytes(payload))
        return self._prefix + (len(self._payloads) - 1).to_bytes(8, "little")

    def stub(self, tensor: Tensor, payload: Buffer) -> None:
        """Make ``payload``, little-endian and packed as ``raw_data`` is, the contents of ``tensor``."""
        clear_contents(tensor)
        tensor.raw_data = self.token(payload)

    def payload(self, tensor: Tensor) -> memoryview | None:
        """Return the contents of a stubbed tensor, or None when the tensor holds its own.

        Raises ``CompilerError`` when the tensor is a stub of another table.
        """
        return self.resolve(tensor.raw_data)

    def resolve(self, token: bytes) -> memoryview | None:
        """Return the payload that ``token`` stands for, or None when it is no token."""
        if len(token) != _TOKEN or not token.startswith(_NONCE):
            return None
        index = int.from_bytes(token[-8:], "little")
        if not token.startswith(self._prefix) or index >= len(self._payloads):
            raise CompilerError(
                "a tensor's contents belong to another model",
                why="its stub was made by another payload table than the one it is written with",
            )
        return self._payloads[index]


@dataclass(slots=True)
class _Frame:
    """A message on the way to a payload: kind, extent, place of the length prefix, parent, and growth."""

    message: str
    length_at: int
    start: int
    end: int
    parent: int
    depth: int
    delta: int = 0
    live: bool = False


class Site(NamedTuple):
    """A payload field: its frame (a tensor), where its tag starts, where its contents start and end."""

    frame: int
    tag_at: int
    start: int
    end: int


Wanted: TypeAlias = Callable[[int, int], bool]
"""Says of a byte range whether what is searched for may be in it."""


def _find(data: memoryview, wanted: Wanted) -> tuple[list[_Frame], list[Site]]:
    """Return the messages on the way to payload fields in wanted ranges, parents first, and these fields."""
    frames = [_Frame("ModelProto", 0, 0, len(data), -1, 0)]
    sites: list[Site] = []
    at = 0
    while at < len(frames):
        frame = frames[at]
        if frame.message == "TensorProto":
            site = _payload_site(data, at, frame)
            if site is not None and wanted(site.start, site.end):
                sites.append(site)
        elif frame.depth < DEPTH:
            frames += _children(data, at, frame, wanted)
        at += 1
    return frames, sites


def _children(data: memoryview, at: int, frame: _Frame, wanted: Wanted) -> list[_Frame]:
    """Return the messages in ``frame`` that may hold tensors and are in wanted ranges."""
    known = MESSAGES[frame.message]
    found: list[tuple[Child, _Frame]] = []
    seen: Counter[str] = Counter()
    try:
        for number, wire, tag_at, start, end in fields(data, frame.start, frame.end):
            if wire != 2 or number not in known:
                continue
            child = known[number]
            if not child.repeated:
                seen[child.name] += 1
            if wanted(start, end):
                length_at = read_varint(data, tag_at, start)[1]
                found.append((child, _Frame(child.message, length_at, start, end, at, frame.depth + 1)))
    except Unusual:
        return []
    return [below for child, below in found if child.repeated or seen[child.name] == 1]


def _payload_site(data: memoryview, at: int, frame: _Frame) -> Site | None:
    """Return the one field that is the raw contents of the tensor, or None when there is no such one."""
    contents: list[Field] = []
    types: list[Field] = []
    try:
        for count, field in enumerate(fields(data, frame.start, frame.end)):
            if count > _MAX_TENSOR_FIELDS:
                return None
            if field[0] in _CONTENTS:
                contents.append(field)
            elif field[0] == _DATA_TYPE:
                types.append(field)
    except Unusual:
        return None
    raw = [field for field in contents if field[0] == _RAW_DATA]
    if len(raw) == 1 and raw[0][1] == 2:
        return Site(at, *raw[0][2:])
    if len(contents) == 1 and len(types) == 1 and _is_raw_layout(data, contents[0], types[0]):
        return Site(at, *contents[0][2:])
    return None


def _is_raw_layout(data: memoryview, contents: Field, kind: Field) -> bool:
    number, wire, _, start, end = contents
    if wire != 2 or kind[1] != 0 or number not in _PACKED:
        return False
    width, types = _PACKED[number]
    return (end - start) % width == 0 and read_varint(data, *kind[3:])[0] in types


class _Edit(NamedTuple):
    """Replace ``data[start:end]`` by ``header`` and then ``payload``."""

    start: int
    end: int
    header: bytes
    payload: memoryview | None


class Splice:
    """The bytes of a ModelProto with payloads replaced: its ``size``, and its chunks when iterated over."""

    def __init__(
        self, data: memoryview, wanted: Wanted, replace: Callable[[memoryview], Buffer | None]
    ) -> None:
        """Find the wanted payloads in ``data`` and plan their replacement.

        ``replace`` maps the contents of a payload field to the contents of the ``raw_data`` that takes its
        place, or to None to keep it.  Raises ``ModelError`` when ``data`` is no protobuf message.
        """
        self._data = data
        frames, sites = _find(data, wanted)
        edits: list[_Edit] = []
        for site in sites:
            new = replace(data[site.start : site.end])
            if new is None:
                continue
            payload = as_bytes(new)
            header = _RAW_DATA_TAG + varint(payload.nbytes)
            edits.append(_Edit(site.tag_at, site.end, header, payload))
            _grow(frames, site.frame, len(header) + payload.nbytes - (site.end - site.tag_at))
        self.replaced = len(edits)
        """Payloads that were replaced."""
        edits += _length_edits(frames)
        self._edits = sorted(edits, key=itemgetter(0))
        self.size = len(data) + frames[0].delta
        """Bytes of the result."""

    def __iter__(self) -> Iterator[memoryview]:
        at = 0
        for start, end, header, payload in self._edits:
            if start > at:
                yield self._data[at:start]
            yield memoryview(header)
            if payload is not None and payload.nbytes:
                yield payload
            at = end
        if at < len(self._data):
            yield self._data[at:]

    def tobytes(self) -> bytes:
        """Return the whole result."""
        return b"".join(self)


def _grow(frames: list[_Frame], at: int, delta: int) -> None:
    frames[at].delta += delta
    while at >= 0 and not frames[at].live:
        frames[at].live = True
        at = frames[at].parent


def _length_edits(frames: list[_Frame]) -> list[_Edit]:
    """Return the edits of the length prefixes, children first, so that each parent knows its growth."""
    edits = []
    for frame in reversed(frames[1:]):
        if not frame.live:
            continue
        prefix = varint(frame.end - frame.start + frame.delta)
        edits.append(_Edit(frame.length_at, frame.start, prefix, None))
        frames[frame.parent].delta += frame.delta + len(prefix) - (frame.start - frame.length_at)
    return edits


def take_out(data: memoryview, table: PayloadTable, *, threshold: int) -> Splice:
    """Replace every payload of at least ``threshold`` bytes by a token of ``table``.

    Raises ``ModelError`` when ``data`` is no protobuf message.
    """
    return Splice(data, lambda start, end: end - start >= threshold, table.token)


def put_back(data: bytes, table: PayloadTable) -> Splice:
    """Replace every token in the serialized model ``data`` by its payload.

    Raises ``CompilerError`` when a token stands elsewhere than in the contents of a tensor, or is of another
    table.
    """
    positions = [match.start() for match in re.finditer(re.escape(_NONCE), data)]
    splice = Splice(memoryview(data), _holds_one_of(positions), lambda token: table.resolve(bytes(token)))
    if splice.replaced != len(positions):
        raise CompilerError(
            "a tensor's stub would be written into the model",
            why=f"{len(positions)} stubs, {splice.replaced} of them where a tensor's contents belong",
        )
    return splice


def _holds_one_of(positions: list[int]) -> Wanted:
    from bisect import bisect_left

    def holds(start: int, end: int) -> bool:
        at = bisect_left(positions, start)
        return at < len(positions) and positions[at] < end

    return holds

"""The original model as it is run for comparison: without optimization, weights left in its file.

``Original`` knows where a model comes from (a file, a loaded model, a protobuf) and gives the bytes to send
to the runtime.  ``Reference`` is its session, and keeps what each probe gave, so that nothing is run twice.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.backend.places import Places, leave_in_files
from compiler.errors import WorkerError
from compiler.frontend.files import ExternalFiles, open_regular
from compiler.frontend.wire import read_skeleton
from compiler.ir.splice import PayloadTable
from compiler.ir.wire import tensors
from compiler.verify.probes import Probe

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.verify.worker import SessionHandle, Worker

_SPILL = 16 << 20
"""Bytes from which a model given in memory is written to a temporary file, so that its weights can be mapped."""


@dataclass(slots=True)
class Original:
    """A model without its weights, the table that stands for them, and the folder of its external data."""

    proto: ModelProto
    table: PayloadTable
    folder: Path | None = None
    path: Path | None = None
    keep: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, source: Any) -> Original:
        """Take a path, bytes, a ``ModelProto``, or what the frontend keeps of a loaded file (``frontend.load.Source``).

        Raises ``ModelError`` when the file is no model, or its external data is not safe to open.
        """
        if isinstance(source, str | os.PathLike):
            return cls._from_path(Path(source))
        if isinstance(source, bytes | bytearray | memoryview):
            return cls._from_bytes(bytes(source))
        if getattr(source, "table", None) is not None and getattr(source, "path", None) is not None:
            path = Path(source.path).absolute()
            return cls(source.proto, source.table, path.parent, path)
        return cls._from_bytes(getattr(source, "proto", source).SerializeToString(deterministic=True))

    @classmethod
    def _from_path(cls, path: Path) -> Original:
        skeleton = read_skeleton(open_regular(path), where=str(path))
        whole = path.absolute()
        _refuse_unsafe(skeleton.model, whole)
        return cls(skeleton.model, skeleton.table, whole.parent, whole)

    @classmethod
    def _from_bytes(cls, data: bytes) -> Original:
        if len(data) < _SPILL:
            skeleton = read_skeleton(data)
            return cls(skeleton.model, skeleton.table)
        fd, name = tempfile.mkstemp(prefix="ampc-", suffix=".onnx")
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        skeleton = read_skeleton(open_regular(name))
        found = cls(skeleton.model, skeleton.table)
        found.keep.append(_Temporary(name))
        return found

    def image(self, *, max_ir: int, outputs: Sequence[str] = (), hide: bool = False) -> tuple[bytes, Path | None]:
        """Return the bytes to load, and the folder of external data.

        ``outputs`` are returned as well (``hide`` drops the model's own); an IR version above ``max_ir`` is
        clipped, since it says nothing about the graph.
        """
        from onnx import ModelProto

        proto = ModelProto()
        proto.CopyFrom(self.proto)
        proto.ir_version = min(proto.ir_version, max_ir)
        if hide:
            del proto.graph.output[:]
        present = {o.name for o in proto.graph.output}
        for name in outputs:
            if name not in present:
                proto.graph.output.add(name=name)
        folder = leave_in_files(proto, self.table, Places.now(), folder=self.folder)
        return proto.SerializeToString(deterministic=True), folder


def _refuse_unsafe(model: ModelProto, path: Path) -> None:
    """Raise ``ModelError`` when external data leaves the model's folder, or is no plain file of its own."""
    external = [t for t in tensors(model) if t.data_location == t.EXTERNAL]
    files = ExternalFiles(path.parent, model=path)
    for tensor in external:
        files.tensor(tensor)


class _Temporary:
    """A file that goes when nobody needs it any more."""

    def __init__(self, name: str) -> None:
        self.name = name
        weakref.finalize(self, _remove, name)


def _remove(name: str) -> None:
    Path(name).unlink(missing_ok=True)


@dataclass(slots=True)
class Reference:
    """The session of an original, loaded when first needed, and the outputs of every probe that was run."""

    original: Original
    worker: Worker
    max_ir: int
    timeout: float | None = None
    """Seconds for one run (``None``: the worker's own limit); loading takes what the worker allows."""
    _handle: SessionHandle | None = None
    _pid: int | None = None
    _ran: dict[str, list[Any]] = field(default_factory=dict)
    _failed: dict[str, WorkerError] = field(default_factory=dict)

    @property
    def handle(self) -> SessionHandle:
        """The session; raises ``WorkerError`` when the runtime does not load the model."""
        if self._handle is None or self.worker.pid != self._pid:
            data, folder = self.original.image(max_ir=self.max_ir)
            self._handle = self.worker.load(data, external_folder=folder)
            self._pid = self.worker.pid
        return self._handle

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return tuple(o.name for o in self.original.proto.graph.output)

    def run(self, probe: Probe) -> list[Any]:
        """Return the outputs for a probe; raises ``WorkerError``, each time the same."""
        if probe.name in self._failed:
            raise self._failed[probe.name]
        if probe.name not in self._ran:
            try:
                self._ran[probe.name] = self.run_feeds(probe.feeds)
            except WorkerError as error:
                self._failed[probe.name] = error
                raise
        return self._ran[probe.name]

    def run_feeds(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Run once on other inputs; raises ``WorkerError``."""
        return self.worker.run(self.handle, feeds, self.output_names, timeout=self.timeout)

    def record(self, probe: Probe, names: Sequence[str]) -> dict[str, Any]:
        """Return inner values of a run on a probe; raises ``WorkerError``."""
        inner = [n for n in names if n not in probe.feeds]
        found = {n: probe.feeds[n] for n in names if n in probe.feeds}
        if inner:
            data, folder = self.original.image(max_ir=self.max_ir, outputs=inner, hide=True)
            values = self.worker.evaluate(data, probe.feeds, inner, external_folder=folder, timeout=self.timeout)
            found.update(zip(inner, values, strict=True))
        return found

    def close(self) -> None:
        """Drop the session."""
        if self._handle is not None:
            self.worker.unload(self._handle)
            self._handle = None

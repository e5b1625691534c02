"""Run models in a child process that may crash, hang or run out of memory without harm to the compiler.

``worker_process.py`` keeps the child, ``worker_child.py`` is the child, and ``worker_values.py`` and
``worker_ort.py`` say how values cross.  What ONNX Runtime 1.32 was found to do, and what follows for those
who call ``load``:

* A model given as bytes may keep its initializers in *any* file below ``external_folder``, the original
  ``.onnx`` file itself included, at any offset, aligned or not.  Absolute locations and locations that leave
  the folder are refused.  With ``external_folder`` the root of the file system and locations relative to it
  (see ``external_location``) every file is within reach.  As checking sessions do not pack
  weights, such data stays a mapping: a weight of 200 MB loads in 5 ms and takes no memory.
* ``initializers`` puts bytes of files under initializers whose declared location is *any* existing file.  ORT
  checks the element type but not the shape, so a wrong shape there is a wrong shape in the model.  With
  optimization on, the data is copied (ORT's constant folding does not see what was added).
* ORT follows symbolic and hard links inside the folder: whoever passes a user's path or folder has checked
  it.
* ``complex64``, ``complex128`` and ``float6`` are refused at load, ``bfloat16`` sequences too.  4-bit and
  2-bit tensors load, and few kernels take them.  Strings that are not UTF-8 cannot be read back.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from compiler.errors import WorkerError
from compiler.verify import worker_frames as wire
from compiler.verify.worker_process import WHAT, Child, machine_memory
from compiler.verify.worker_values import Value, code_of, decode, encode

Level = Literal["none", "basic", "extended", "all"]


_MEMORY = 3 << 30
"""Bytes that a model may take for what it computes, unless the caller says otherwise."""


class MappedTensor(NamedTuple):
    """Where the bytes of an initializer lie: ``length`` bytes of ``path`` from ``offset`` on."""

    path: Path
    offset: int
    length: int
    dtype: npt.DTypeLike
    shape: tuple[int, ...]


class Port(NamedTuple):
    """An input or output as ORT declares it; unknown rank and rank 0 both have the shape ``()``."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class SessionHandle:
    """A session in the child; it ends with ``unload``, with ``close``, and with the child."""

    child: int
    """The number of the child process that holds it."""
    number: int
    """Its number within that child."""
    inputs: tuple[Port, ...]
    """What must be fed."""
    outputs: tuple[Port, ...]
    """What ``run`` gives, in this order."""
    overridable: tuple[Port, ...]
    """Initializers that may be fed."""
    providers: tuple[str, ...]
    """The execution providers that the session really has, in order of preference."""


def external_location(path: Path) -> tuple[Path, str]:
    """Return a folder and a location in it that let a model loaded from bytes refer to any file."""
    whole = path.resolve()
    return Path(whole.anchor), whole.relative_to(whole.anchor).as_posix()


def memory_for(weights: int) -> int:
    """Return a sensible limit, in bytes, for running a model with so many bytes of weights."""
    return min(machine_memory() * 3 // 4, _MEMORY + 6 * weights)


class Worker:
    """A child process that owns ORT sessions; started when first needed and again after each end."""

    def __init__(self, *, timeout: float = 60, memory_limit: int | None = None) -> None:
        """Set the limits of each request.

        ``timeout`` is in seconds; ``memory_limit`` is in bytes of the child's own (not file-backed) memory,
        by default three quarters of what this machine or container has.
        """
        self.timeout = timeout
        self.memory_limit = memory_limit or machine_memory() * 3 // 4
        self._numbers = itertools.count(1)
        self._forget()

    def __enter__(self) -> Worker:
        """Return the worker; the child starts with the first request."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child."""
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id of the living child, or ``None``."""
        child = self._child
        return child.process.pid if child is not None and child.process.poll() is None else None

    def start(self) -> None:
        """Start the child without waiting for it, so that its imports overlap with other work."""
        with self._owned_lock():
            self._living_child()

    def close(self) -> None:
        """End the child and all its sessions; a later request starts a new one."""
        with self._owned_lock():
            self._end_child()

    def load(
        self,
        model: bytes | Path,
        *,
        optimize: Level | None = None,
        settings: Mapping[str, Any] | None = None,
        threads: int | None = 1,
        external_folder: Path | None = None,
        initializers: Mapping[str, MappedTensor | tuple[Any, ...]] | None = None,
        timeout: float | None = None,
    ) -> SessionHandle:
        """Create a session on the bytes of a model, or on a file that has been checked.

        Without ``settings`` the session is made for checking: no optimization, no arena, no packed weights.
        With ``settings`` (the form of ``compiler.backend.session``) it is made as deployed; ``optimize`` and
        ``threads`` win over them unless ``None``.  Raises ``WorkerError`` of kind ``load``, ``crash``,
        ``timeout`` or ``memory``.
        """
        header, buffers = _session_request(model, optimize, settings, threads, external_folder, initializers)
        with self._owned_lock():
            reply, _ = self._request({"op": "load", **header}, buffers, timeout)
            assert self._child is not None
            return SessionHandle(
                child=self._child.number,
                number=reply["handle"],
                inputs=_ports(reply["inputs"]),
                outputs=_ports(reply["outputs"]),
                overridable=_ports(reply["overridable"]),
                providers=tuple(reply["providers"]),
            )

    def run(
        self,
        handle: SessionHandle,
        feeds: Mapping[str, Value],
        outputs: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> list[Value]:
        """Run a session once and return the named outputs, or all of them.

        Raises ``WorkerError``: ``run`` when ORT or a value refuses, ``crash`` also when the session's child
        is gone.
        """
        header, buffers = _run_request(feeds, outputs, 0)
        with self._owned_lock():
            self._check_alive(handle)
            reply, found = self._request({"op": "run", "handle": handle.number, **header}, buffers, timeout)
        return [decode(value, found) for value in reply["values"]]

    def evaluate(
        self,
        model: bytes | Path,
        feeds: Mapping[str, Value],
        outputs: Sequence[str] | None = None,
        *,
        external_folder: Path | None = None,
        initializers: Mapping[str, MappedTensor | tuple[Any, ...]] | None = None,
        timeout: float | None = None,
    ) -> list[Value]:
        """Load without optimization, run once and unload, in one round trip."""
        session, buffers = _session_request(model, "none", None, 1, external_folder, initializers)
        header, more = _run_request(feeds, outputs, len(buffers))
        with self._owned_lock():
            reply, found = self._request({"op": "evaluate", **session, **header}, [*buffers, *more], timeout)
        return [decode(value, found) for value in reply["values"]]

    def unload(self, handle: SessionHandle) -> None:
        """Drop a session; one whose child is gone is gone already."""
        with self._owned_lock():
            if self._child is not None and self._child.number == handle.child and self.pid is not None:
                self._request({"op": "unload", "handle": handle.number}, (), None)

    def inputs(self, handle: SessionHandle) -> tuple[Port, ...]:
        """Return what the session must be fed."""
        return handle.inputs

    def outputs(self, handle: SessionHandle) -> tuple[Port, ...]:
        """Return what the session gives."""
        return handle.outputs

    def _forget(self) -> None:
        # After a fork the child belongs to the other process, and the lock may be held by a thread that is
        # not here.
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._child: Child | None = None

    def _owned_lock(self) -> threading.RLock:
        if self._owner != os.getpid():
            if self._child is not None:
                self._child.disown()
            self._forget()
        return self._lock

    def _living_child(self) -> Child:
        if self._child is not None and self._child.process.poll() is not None:
            self._end_child()
        if self._child is None:
            self._child = Child(next(self._numbers))
            self._end = weakref.finalize(self, self._child.end)
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._end()
        self._child = None

    def _check_alive(self, handle: SessionHandle) -> None:
        if self.pid is None or self._child is None or self._child.number != handle.child:
            raise WorkerError(
                "the session is gone",
                kind="crash",
                why="the process that held it ended after the session was loaded",
                hint="load the model again",
            )

    def _request(
        self, header: wire.Header, buffers: wire.Buffers, timeout: float | None
    ) -> tuple[wire.Header, list[Any]]:
        child = self._living_child()
        limit = self.timeout if timeout is None else timeout
        try:
            reply, found = child.exchange(header, buffers, limit=limit, memory=self.memory_limit)
        except BaseException:
            self._end_child()
            raise
        if not reply["ok"]:
            raise WorkerError(WHAT[reply["kind"]], kind=reply["kind"], why=reply["why"])
        return reply, found


def _ports(described: Sequence[Sequence[Any]]) -> tuple[Port, ...]:
    return tuple(Port(name, kind, tuple(shape)) for name, kind, shape in described)


def _session_request(
    model: bytes | Path,
    optimize: Level | None,
    settings: Mapping[str, Any] | None,
    threads: int | None,
    external_folder: Path | None,
    initializers: Mapping[str, MappedTensor | tuple[Any, ...]] | None,
) -> tuple[wire.Header, list[Any]]:
    mapped = [_mapped_request(name, MappedTensor(*entry)) for name, entry in (initializers or {}).items()]
    if external_folder is None and mapped:
        external_folder = Path(Path(mapped[0]["path"]).anchor)
    header = {
        "path": os.path.abspath(model) if isinstance(model, Path) else None,
        "model": 0,
        "optimize": optimize,
        "threads": threads,
        "settings": None if settings is None else dict(settings),
        "folder": None if external_folder is None else os.path.abspath(external_folder),
        "initializers": mapped,
    }
    return header, [] if isinstance(model, Path) else [model]


def _mapped_request(name: str, entry: MappedTensor) -> wire.Header:
    return {
        "name": name,
        "path": os.path.abspath(entry.path),
        "offset": int(entry.offset),
        "length": int(entry.length),
        "type": code_of(np.dtype(entry.dtype)),
        "shape": [int(dim) for dim in entry.shape],
    }


def _run_request(
    feeds: Mapping[str, Value], outputs: Sequence[str] | None, first: int
) -> tuple[wire.Header, list[Any]]:
    buffers: list[Any] = [None] * first
    encoded = {name: encode(value, buffers) for name, value in feeds.items()}
    return {"feeds": encoded, "outputs": None if outputs is None else list(outputs)}, buffers[first:]


_shared: list[Worker] = []
"""The worker of this process, once there is one: a cache, for a child costs more than most checks."""
_shared_lock = threading.Lock()


def shared_worker() -> Worker:
    """Return the one worker of this process, which stays warm between compilations."""
    with _shared_lock:
        if not _shared:
            _shared.append(Worker())
        return _shared[0]

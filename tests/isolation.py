"""Call functions in a child process that may crash, hang or outgrow its memory without harm to the tests.

The child is ``python -m tests.isolation``; it takes ``(module:function, arguments)`` from a socket, one after
the other, and answers with the value or with the exception.  The parent watches time and the resident memory
of the child *and its descendants*, and ends exactly those processes when either is exceeded.
A hard address-space limit inside the child catches what grows faster than the parent looks.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESIDENT_LIMIT = 4 << 30
"""Bytes that the child and its descendants may keep resident together."""
ADDRESS_LIMIT = 24 << 30
"""Bytes of address space for each process: well above what mapping a large weight file takes."""
LOOK_SECONDS = 0.1


class ChildDied(Exception):
    """The child did not answer: ``crash``, ``hang`` or ``memory``."""

    def __init__(self, kind: str, detail: str) -> None:
        """Store what happened and the end of what the child printed."""
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class Remote(Exception):
    """An exception in the child, with its traceback as text."""


class Child:
    """A process to call functions in; starts on the first call, and again after it died."""

    def __init__(self, *, hash_seed: int = 0, resident_limit: int = RESIDENT_LIMIT) -> None:
        """Fix the child's string hash seed and the memory of its process tree."""
        self._hash_seed = hash_seed
        self._resident_limit = resident_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._log: IO[bytes] | None = None

    def call(self, function: str, *arguments: Any, seconds: float = 60.0) -> Any:
        """Call ``module:function``; raise ``Remote`` for its exception, ``ChildDied`` when no answer came."""
        connection = self._start()
        connection.send((function, arguments))
        self._await(connection, seconds)
        try:
            ok, answer = connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._died("crash", f"exit status {self._wait()}") from None
        if not ok:
            raise Remote(answer)
        return answer

    def close(self) -> None:
        """End the child and everything that it started."""
        if self._process is None:
            return
        started = self._descendants()
        self._process.kill()
        self._process.wait()
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for stream in (self._connection, self._log):
            if stream is not None:
                stream.close()
        self._process = self._connection = self._log = None

    def _start(self) -> Connection:
        if self._process is not None and self._process.poll() is None and self._connection is not None:
            return self._connection
        self.close()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        ours, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONHASHSEED": str(self._hash_seed)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.isolation", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                cwd=ROOT,
                env=environment,
            )
        self._connection = Connection(ours.detach())
        return self._connection

    def _await(self, connection: Connection, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not connection.poll(LOOK_SECONDS):
            resident = self._resident()
            if resident > self._resident_limit:
                raise self._died("memory", f"{resident >> 20} MiB resident")
            if time.monotonic() > deadline:
                raise self._died("hang", f"no answer in {seconds:.0f} s")

    def _resident(self) -> int:
        total = 0
        for process in self._descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def _descendants(self) -> list[psutil.Process]:
        """Return the child and all that it started; one that has ended meanwhile is not among them."""
        assert self._process is not None
        try:
            child = psutil.Process(self._process.pid)
            return [child, *child.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _wait(self) -> int:
        assert self._process is not None
        return self._process.wait()

    def _died(self, kind: str, detail: str) -> ChildDied:
        assert self._log is not None
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 1500))
        tail = self._log.read().decode("utf-8", "replace")
        self.close()
        return ChildDied(kind, f"{detail}\n{tail}")


def _serve(connection: Connection) -> None:
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        module, name = function.split(":")
        try:
            answer = (True, getattr(importlib.import_module(module), name)(*arguments))
        except Exception:  # every exception is the answer
            answer = (False, traceback.format_exc())
        connection.send(answer)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_LIMIT, ADDRESS_LIMIT))
    _serve(Connection(int(sys.argv[1])))

"""One child process: its pipes, its log, its limits, and the exchange of one request and one reply.

The caller itself sends, watches the clock and the child's memory, and reads.  Sending cannot hang, for a
thread of the child does nothing but read.  Considered and rejected: a thread for each request (1 ms instead
of 0.4 ms), and a thread that stays (every later ``os.fork()`` of the user would warn).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

from compiler.errors import WorkerError
from compiler.verify import worker_frames as wire
from compiler.verify.worker_values import read_array

_SCRIPT = Path(__file__).with_name("worker_child.py")
_START_GRACE = 60.0
"""Seconds that the first request may take longer: importing ORT from a cold disk is slow."""
_POLL = 0.02
"""Seconds between two looks at the clock and the memory."""
_TAIL = 2000
"""Bytes of the log that an error quotes."""

WHAT = {
    "load": "ONNX Runtime cannot load the model",
    "run": "ONNX Runtime cannot run the model",
    "memory": "running the model needs more memory than it may have",
    "timeout": "running the model takes longer than it may",
    "crash": "the process that runs models ended unexpectedly",
}
"""What happened, by kind of ``WorkerError``."""


class Child:
    """One child process: its pipes, its log, and the exchange of one request and one reply."""

    def __init__(self, number: int) -> None:
        """Start the process; ``number`` tells it from its predecessors."""
        self.number = number
        self._owner = os.getpid()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by ``end``
        self._grace = _START_GRACE
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        # A process group of its own: Ctrl-C reaches the parent only, which then ends the child.
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=_SCRIPT.parent,  # not the user's folder, which Windows would then refuse to remove
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                **apart,
            )
        except OSError as error:
            raise WorkerError(
                "cannot start the process that runs models", kind="crash", why=str(error)
            ) from error
        assert process.stdin is not None and process.stdout is not None
        self._to: BinaryIO = process.stdin  # type: ignore[assignment]  # Popen's IO[bytes] is one
        self._from: BinaryIO = process.stdout  # type: ignore[assignment]  # likewise
        _widen(process.stdin.fileno())
        _widen(process.stdout.fileno())
        return process

    def exchange(
        self, header: wire.Header, buffers: wire.Buffers, *, limit: float, memory: int
    ) -> tuple[wire.Header, list[Any]]:
        """Send a request and wait for its reply within ``limit`` seconds and ``memory`` bytes."""
        deadline = time.monotonic() + limit + self._grace
        try:
            self._send(header, buffers)
            self._watch(deadline, limit, memory)
            reply = wire.read_frame(self._from, read_array)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._died() from None
        self._grace = 0.0
        return reply

    def _send(self, header: wire.Header, buffers: wire.Buffers) -> None:
        if self._grace:
            wire.write_frame(self._to, {"sys_path": [os.path.abspath(entry) for entry in sys.path]})
        wire.write_frame(self._to, header, buffers)

    def _watch(self, deadline: float, limit: float, memory: int) -> None:
        while not _readable(self._from.fileno(), _POLL):
            if time.monotonic() > deadline:
                raise WorkerError(WHAT["timeout"], kind="timeout", why=f"no result after {limit:g} seconds")
            used = _own_memory(self.process.pid)
            if used > memory:
                why = f"{used / 2**20:.0f} MiB in use, and {memory / 2**20:.0f} MiB allowed"
                raise WorkerError(WHAT["memory"], kind="memory", why=why)

    def _died(self) -> WorkerError:
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        killed = sys.platform != "win32" and code == -signal.SIGKILL
        kind = "memory" if killed else "crash"
        reason = (
            "it was killed from outside, most likely because the machine ran out of memory"
            if killed
            else _ending(code)
        )
        return WorkerError(WHAT[kind], kind=kind, why="\n".join(filter(None, [reason, self._tail()])))

    def _tail(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TAIL))
        return self._log.read().decode("utf-8", "replace").strip()

    def end(self) -> None:
        """Kill the process and close what belongs to it; do nothing in a process that only inherited it."""
        if self._owner != os.getpid() or self._log.closed:
            return
        self.process.kill()
        self.process.wait()
        for stream in (self._to, self._from, self._log):
            _close(stream)

    def disown(self) -> None:
        """Tell ``subprocess`` not to wait: the child belongs to the process that we forked from."""
        self.process.returncode = 0


def _readable(pipe: int, seconds: float) -> bool:
    """Wait for a reply or for the end of the child; return whether there is either."""
    if sys.platform == "win32":
        import _winapi
        import msvcrt

        time.sleep(seconds / 10)
        return bool(_winapi.PeekNamedPipe(msvcrt.get_osfhandle(pipe), 0)[0])
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _widen(pipe: int) -> None:
    # Linux gives a pipe 64 KiB; with 1 MiB large tensors cross with half the time and switches.
    if not sys.platform.startswith("linux"):
        return
    import fcntl

    with contextlib.suppress(OSError):  # beyond what this user may have: slower, and as good
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


def _close(stream: Any) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return  # half a request was buffered for a child that is gone


def _ending(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was ended by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"it was ended by signal {-code}"


def _own_memory(pid: int) -> int:
    """Return the bytes that a process holds itself, mapped files apart; 0 when it is gone."""
    if not sys.platform.startswith("linux"):
        return _resident_memory(pid)
    try:
        fields = Path(f"/proc/{pid}/statm").read_bytes().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def _resident_memory(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def machine_memory() -> int:
    """Return the bytes of memory of this machine, or of the container if that has fewer."""
    if not sys.platform.startswith("linux"):
        import psutil

        return int(psutil.virtual_memory().total)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(text)) if text.isdigit() else total

"""The child process that owns all ONNX Runtime sessions: a script that the parent (``worker.py``) starts.

* The interpreter runs with ``-I -S``: no user site, no ``.pth`` files, no current directory on the path.  The
  first frame brings the parent's ``sys.path``.  Starting costs 0.12 s of CPU, nearly all of it importing
  numpy and ORT.
* ``compiler`` is registered as a package stub that points at our own folder: a user's folder of that name
  cannot get in the way, and ``compiler/__init__.py`` is not run here.
* File descriptor 1 becomes the log before ORT is imported, and a private copy of it carries the replies:
  whatever a library prints cannot break a frame.
* A thread reads the requests and ends the process when the parent is gone, also in the middle of a run (ORT
  releases the GIL).  Considered and rejected: ``PR_SET_PDEATHSIG``, which fires when the *thread* that
  started us ends.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import types
from pathlib import Path
from typing import Any

_LOG_LIMIT = 1 << 20
"""Bytes that this process may write to a file, which is its log."""


def _register_package() -> None:
    package = types.ModuleType("compiler")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["compiler"] = package


def _limit_process() -> None:
    """Write no core files and no large files, and be the first to go when the machine runs out of memory."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LOG_LIMIT, _LOG_LIMIT))
    with contextlib.suppress(OSError):  # not there, or not to be written, in some containers
        Path("/proc/self/oom_score_adj").write_text("1000")


def _read_requests(stream: Any, requests: queue.SimpleQueue[Any]) -> None:
    from compiler.verify.worker_frames import read_exactly, read_frame

    while True:
        try:
            requests.put(read_frame(stream, read_exactly))
        except (EOFError, OSError):
            os._exit(0)


def _answer(server: Any, header: dict[str, Any], buffers: list[Any]) -> tuple[dict[str, Any], Any]:
    """Serve one request; whatever goes wrong is told to the parent as ``kind`` and ``why``."""
    try:
        reply, out = getattr(server, header["op"])(header, buffers)
    except Exception as error:
        kind = "memory" if _is_out_of_memory(error) else server.phase
        return {"ok": False, "kind": kind, "why": _message(error)}, ()
    return {"ok": True, **reply}, out


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate" in str(error)


def _message(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 4000 else text[:4000] + " ..."


def _server(sys_path: list[str]) -> Any:
    sys.path[:] = sys_path
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    ort.disable_telemetry_events()
    from compiler.verify.worker_ort import Server

    return Server()


def main() -> None:
    """Serve requests from standard input until the parent is gone."""
    from compiler.verify.worker_frames import write_frame

    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit_process()
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(sys.stdin.buffer, requests), daemon=True).start()
    server = _server(requests.get()[0]["sys_path"])
    while True:
        write_frame(replies, *_answer(server, *requests.get()))


if __name__ == "__main__":
    _register_package()
    main()

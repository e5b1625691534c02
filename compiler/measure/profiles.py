"""Profile models in a child process: the time of each node, of a whole run, and the graph that the runtime makes.

One process serves many requests, so that importing the runtime is paid once.  A process that dies or takes too long is
replaced, and the request that killed it raises ``WorkerError``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from compiler.errors import WorkerError

_PROGRAM = Path(__file__).with_name("profiles_child.py")


@dataclass(frozen=True, slots=True)
class Profile:
    """What one model takes."""

    nodes: tuple[tuple[str, str, float], ...]
    """Name, operator and microseconds of each node that ran, in the order of their first run."""
    wall_us: float
    """Microseconds of a run without the profiler, 0 when that was not asked for."""

    @property
    def us(self) -> float:
        """The microseconds of all nodes together."""
        return sum(us for _, _, us in self.nodes)


class Profiler:
    """A child process that profiles one model after another; use it as a context."""

    def __init__(self, *, threads: int = 1, timeout: float = 120.0) -> None:
        """Say how many threads, and processors, models get, and how many seconds one request may take."""
        self.threads = threads
        self.timeout = timeout
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Profiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def profile(
        self,
        model: Path,
        feeds: Path | Mapping[str, tuple[str, Sequence[int], int]],
        *,
        seconds: float,
        level: str = "ORT_ENABLE_ALL",
        optimized: Path | None = None,
        dims: Mapping[str, int] | None = None,
        wall: bool = True,
        nodes: bool = True,
    ) -> Profile:
        """Run a model file for about ``seconds``, once for the time of the whole, once for those of nodes.

        ``feeds`` is an ``.npz`` file, or says what to draw: name → numpy's element type, shape, bound of integers.
        ``level`` is the runtime's optimization level; ``optimized`` the file that its optimized graph is written to;
        ``dims`` sizes of symbolic dims that the runtime shall take for given.  Raises ``WorkerError``.
        """
        request = {
            "model": str(model),
            "feeds": str(feeds) if isinstance(feeds, Path) else "",
            "drawn": {} if isinstance(feeds, Path) else dict(feeds),
            "seconds": seconds,
            "level": level,
            "optimized": str(optimized or ""),
            "dims": dict(dims or {}),
            "threads": self.threads,
            "processors": _processors(self.threads),
            "wall": wall,
            "nodes": nodes,
        }
        answer = self._ask(request)
        found = tuple((str(name), str(op), float(us)) for name, op, us in answer.get("nodes", ()))
        return Profile(found, float(answer.get("wall_us", 0.0)))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process = self._process or _start()
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(self.timeout, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self.close()
            why = f"it died, or took longer than {self.timeout:g} s"
            raise WorkerError("the process that profiles models ended", kind="crash", where=request["model"], why=why)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(
                "a model cannot be profiled", kind="run", where=request["model"], why=str(answer["error"])
            )
        return answer


def _start() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-I", str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps([p for p in sys.path if p]) + "\n")
    return process


def _processors(threads: int) -> Sequence[int]:
    """Return the processors that a child is bound to: the last ones, since the first serves interrupts."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[-threads:]

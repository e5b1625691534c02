"""One child process that holds a variant, seen from the parent; the program is ``timed_child``."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.errors import WorkerError

_PROGRAM = Path(__file__).with_name("timed_child.py")
_ROOT = str(Path(__file__).resolve().parents[2])


class TimedProcess:
    """A process that answers one line of JSON with one line of JSON."""

    def __init__(self, name: str, timeout_s: float) -> None:
        """Start the process; ``name`` is the variant's, for errors, ``timeout_s`` the limit of each request."""
        self.name = name
        self.timeout_s = timeout_s
        self.load_s = math.nan
        self.run_s = math.nan
        # isolated: no module of the user's folder can take the place of one of ours
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        paths = [_ROOT, *(os.path.abspath(p) for p in sys.path)]
        self._send(json.dumps(paths))

    def load(self, request: Mapping[str, Any]) -> None:
        """Open a variant and run it, keeping the seconds of the load and of a warm run."""
        answer = self.ask({"do": "load", **request})
        self.load_s, self.run_s = answer["load_s"], answer["run_s"]

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer; a child that fails, dies or hangs raises ``WorkerError``."""
        assert self._process.stdout is not None
        timer = threading.Timer(self.timeout_s, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline() if self._send(json.dumps(dict(request))) else ""
        finally:
            timer.cancel()
        if not line:
            raise self._death(str(request["do"]))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = "load" if request["do"] == "load" else "run"
            raise WorkerError("a model cannot be timed", kind=kind, where=self.name, why=str(answer["error"]))
        return answer

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def _send(self, line: str) -> bool:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def _death(self, doing: str) -> WorkerError:
        code = self._process.wait()
        why = f"its process ended with status {code} during {doing!r} (the limit is {self.timeout_s:g} s)"
        return WorkerError("a model cannot be timed", kind="crash", where=self.name, why=why)

"""The process that holds one variant while ``tools.measure`` times it.

It answers one line of JSON on standard input with one line of JSON on standard output: ``load`` opens a model
or a bundle, ``burst`` runs it and returns seconds, ``peak`` returns the memory it took.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

LOADS = 3
"""How many times a variant is loaded; the median leaves out what only the first load pays, like imports."""


def main() -> None:
    """Serve the parent over standard input and output until it closes them."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a runtime that prints must not break the protocol
    serve(sys.stdin, answers)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until they end; an exception becomes an answer of its own."""
    session: Any = None
    feeds: dict[str, Array] = {}
    answer: dict[str, Any]
    for line in requests:
        request = json.loads(line)
        try:
            if request["do"] == "load":
                session, feeds, answer = _load(request)
            elif request["do"] == "burst":
                answer = {"seconds": _burst(session, feeds, request["runs"])}
            else:
                answer = {"peak_mb": _peak_mb()}
        except Exception as error:  # whatever a runtime raises is the parent's to report
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _load(request: Mapping[str, Any]) -> tuple[Any, dict[str, Array], dict[str, Any]]:
    """Pin the process, open the variant ``LOADS`` times, and run the last session until warm."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["processors"])
    with np.load(request["feeds"], allow_pickle=False) as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    opener = _bundle if Path(request["path"]).is_dir() else _model
    seconds, session = [], None
    for _ in range(LOADS):
        session = None  # release the last one before the next is built
        start = time.perf_counter()
        session = opener(request["path"], request["settings"], request["threads"])
        seconds.append(time.perf_counter() - start)
    run_s = min(_burst(session, feeds, 3))
    return session, feeds, {"load_s": statistics.median(seconds), "run_s": run_s}


def _bundle(path: str, settings: Mapping[str, Any], threads: int) -> Any:
    """Open a bundle as a user would: its own settings hold, on the processors of this process."""
    from compiler import load_session

    return load_session(path)


def _model(path: str, settings: Mapping[str, Any], threads: int) -> Any:
    """Open a model file with ``settings``, and with ``threads`` threads unless they say otherwise."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    enums = {
        "graph_optimization_level": onnxruntime.GraphOptimizationLevel,
        "execution_mode": onnxruntime.ExecutionMode,
    }
    for name, value in settings.get("session_options", {}).items():
        named = name in enums and isinstance(value, str)
        setattr(options, name, getattr(enums[name], value) if named else value)
    for key, value in settings.get("config_entries", {}).items():
        options.add_session_config_entry(key, str(value))
    providers = settings.get("providers", ["CPUExecutionProvider"])
    plain = [tuple(provider) if isinstance(provider, list) else provider for provider in providers]
    names = [provider[0] if isinstance(provider, tuple) else provider for provider in plain]
    missing = [name for name in names if name not in onnxruntime.get_available_providers()]
    if missing:  # the runtime would only warn, and time the CPU instead
        raise RuntimeError(f"this runtime has no {', '.join(missing)}")
    return onnxruntime.InferenceSession(path, options, providers=plain)


def _burst(session: Any, feeds: Mapping[str, Array], runs: int) -> list[float]:
    """Run once untimed, to wake the threads, then ``runs`` times, and return the seconds of each."""
    session.run(None, feeds)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feeds)
        seconds.append(time.perf_counter() - start)
    return seconds


def _peak_mb() -> float:
    """Return this process's greatest resident size in megabytes; where the system keeps none, the size now.

    Rejected: ``getrusage``, whose figure a child inherits from its parent across ``exec``.
    """
    import psutil

    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
    memory = psutil.Process().memory_info()
    return float(getattr(memory, "peak_wset", memory.rss)) / 1e6


if __name__ == "__main__":
    main()

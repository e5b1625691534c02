"""The program that profiles models: it answers one line of JSON on standard input with one line of JSON.

It imports ONNX Runtime, numpy and the standard library only, so that nothing of the compiler is in the process that
is timed.  A request names a model file, its feeds, the threads and the processors to run on; the answer is the time of
each node's kernel as the runtime's own profiler saw it, and the time of a whole run without the profiler.

The profiler counts whole microseconds and drops what is below; half a microsecond is added to make up for it.  A node
that was interrupted by other work shows as an outlier, so the slowest tenth of its runs does not count.  The rest is
averaged: on a shared machine speed comes and goes, and a median or a minimum would flatter what is short.  The time
of a whole run with one thread is that thread's processor time, in which waiting for others does not count; where the
times of the nodes add up to more, they were interrupted all the same, and are scaled down to it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

_TRUNCATED = 0.5
"""Microseconds that the profiler drops of each time on average."""

_MANY = 4000
"""Runs of one session at most: the profiler keeps a million events."""

_FEW = 12
"""Runs of one session at least."""

_UNTIMED = 2
"""Runs before those that count."""

_SLOWEST = 1.0
"""Seconds of a run from which fewer runs must do."""


def main() -> None:
    """Serve the parent until it closes standard input; the first line is its ``sys.path``."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    first = sys.stdin.readline()
    if first:
        sys.path[:] = json.loads(first)
        serve(sys.stdin, answers)


def serve(requests: Iterable[str], answers: TextIO) -> None:
    """Answer each request in turn."""
    for line in requests:
        try:
            answer: dict[str, Any] = profile(json.loads(line))
        except Exception as error:  # whatever a runtime raises is the parent's to report
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def profile(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run one model until its time is up and return what each of its nodes took."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["processors"])
    feeds = _feeds(request)
    if request.get("optimized"):
        _session(request, optimized=request["optimized"])
    answer = _wall(request, feeds) if request["wall"] else {}
    if request["nodes"]:
        answer = _nodes(request, feeds) | answer
        whole, parts = answer["wall_us"], sum(us for _, _, us in answer["nodes"])
        if request["threads"] == 1 and 0 < whole < parts:
            answer["nodes"] = [[name, op, us * whole / parts] for name, op, us in answer["nodes"]]
    return answer


def _feeds(request: Mapping[str, Any]) -> dict[str, Any]:
    """Read the feeds from a file, or draw them: name → element type, shape, and the bound of integers."""
    import numpy as np

    if request["feeds"]:
        with np.load(request["feeds"], allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    draw = np.random.default_rng(0)
    feeds = {}
    for name, (kind, shape, below) in request["drawn"].items():
        dtype = np.dtype(kind)
        if dtype.kind == "f":
            feeds[name] = draw.uniform(0.1, 1.0, shape).astype(dtype)
        else:
            feeds[name] = draw.integers(0, below, shape).astype(dtype) if dtype.kind != "b" else _mask(shape)
    return feeds


def _mask(shape: Any) -> Any:
    """Return a mask in long runs, as masks are; one drawn at random would defeat every branch predictor."""
    import numpy as np

    return np.arange(np.prod(shape, dtype=int)).reshape(shape) % 64 < 48


def _session(request: Mapping[str, Any], *, optimized: str = "", profile_to: str = "") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = request["threads"]
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, request["level"])
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    for name, size in request.get("dims", {}).items():
        options.add_free_dimension_override_by_name(name, size)
    if optimized:
        options.optimized_model_filepath = optimized
    if profile_to:
        options.enable_profiling = True
        options.profile_file_prefix = profile_to
    return onnxruntime.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])


def _runner(session: Any, feeds: Mapping[str, Any]) -> Callable[[], Any]:
    """Return a function that runs the session, with inputs and outputs bound once where that is possible."""
    import onnxruntime

    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def _wall(request: Mapping[str, Any], feeds: Mapping[str, Any]) -> dict[str, Any]:
    run = _runner(_session(request), feeds)
    seconds = _repeat(run, request["seconds"], _clock(request))
    return {"wall_us": _typical([s * 1e6 for s in seconds]), "runs": len(seconds)}


def _clock(request: Mapping[str, Any]) -> Callable[[], float]:
    return time.thread_time if request["threads"] == 1 else time.perf_counter


def _repeat(run: Callable[[], Any], budget: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Run for about ``budget`` seconds after a few untimed runs, and return the seconds of each run."""
    for _ in range(_UNTIMED):
        run()
    seconds: list[float] = []
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(seconds) < (_FEW if min(seconds, default=0) < _SLOWEST else 3):
        if len(seconds) == _MANY:
            break
        start = clock()
        run()
        seconds.append(clock() - start)
    return seconds


def _nodes(request: Mapping[str, Any], feeds: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ampc-profile-") as folder:
        session = _session(request, profile_to=str(Path(folder, "p")))
        seconds = _repeat(_runner(session, feeds), request["seconds"], _clock(request))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: dict[str, list[float]] = {}
    ops: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            found.setdefault(name, []).append(event["dur"] + _TRUNCATED)
            ops[name] = event["args"]["op_name"]
    times = len(seconds) + _UNTIMED
    # a name that several nodes share counts for all of them together
    nodes = [[name, ops[name], _typical(us[_UNTIMED:]) * max(1, round(len(us) / times))] for name, us in found.items()]
    return {"nodes": nodes, "wall_us": _typical([s * 1e6 for s in seconds])}


def _typical(us: list[float]) -> float:
    """Return the mean without the slowest tenth: what a run takes that nothing interrupts."""
    kept = sorted(us)[: max(1, len(us) * 9 // 10)]
    return statistics.fmean(kept)


if __name__ == "__main__":
    main()

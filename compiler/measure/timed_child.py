"""The program that holds one variant while ``instrument`` times it: a line of JSON answers each line of JSON.

``load`` opens a model or a bundle, ``burst`` runs it and returns seconds, ``profile`` returns what its operators take,
``peak`` the memory it took.  The first line of all is the parent's ``sys.path``.  Of the compiler it imports only what
opens bundles, so that it is settings as they are deployed that are timed.

The clock is the wall's, or the processor's: where a model has one thread, the time that the process waits for others
does not count, and a busy machine disturbs less.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

_CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
_THREADS = "intra_op_num_threads"


def main() -> None:
    """Serve the parent over standard input and output until it closes them."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a runtime that prints must not break the protocol
    first = sys.stdin.readline()
    if first:
        sys.path[:] = json.loads(first)
        serve(sys.stdin, answers)


def serve(requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests until they end; an exception becomes an answer of its own."""
    held = _Held()
    for line in requests:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = getattr(held, request["do"])(request)
        except Exception as error:  # whatever a runtime raises is the parent's to report
            answer = {"error": str(error) or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


@dataclass(slots=True)
class _Held:
    """The variant that is loaded; its methods are the requests."""

    session: Any = None
    feeds: dict[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.perf_counter
    run: Callable[[], Any] = lambda: None
    request: Mapping[str, Any] = field(default_factory=dict)

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Pin the process, open the variant, and run it until it is warm; importing libraries is not timed."""
        import numpy as np
        import onnxruntime  # noqa: F401

        import compiler.backend.session  # noqa: F401

        if request["processors"] and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, request["processors"])
        with np.load(request["feeds"], allow_pickle=False) as arrays:
            self.feeds = {name: arrays[name] for name in arrays.files}
        self.clock, self.request = _CLOCKS[request["clock"]], request
        self.run, self.session = lambda: None, None  # release the last one before the next is built
        start = time.perf_counter()
        self.session = _open(request)
        load_s = time.perf_counter() - start
        self.run = self._bound() if request["bound"] else lambda: self.session.run(None, self.feeds)
        return {"load_s": load_s, "run_s": self._warm(request["warm"])}

    def _warm(self, runs: int) -> float:
        """Run a few times and return the least seconds by the wall's clock, which is what bursts are made of."""
        clock, self.clock = self.clock, time.perf_counter
        try:
            return float(min(self.burst({"runs": runs})["seconds"]))
        finally:
            self.clock = clock

    def burst(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run once untimed, to wake the threads, then as often as asked, and return the seconds of each run.

        With ``awake`` there is no untimed run.
        """
        run, clock = self.run, self.clock
        if not request.get("awake", False):
            run()
        seconds = []
        for _ in range(request["runs"]):
            start = clock()
            run()
            seconds.append(clock() - start)
        return {"seconds": seconds}

    def profile(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the microseconds that a run spends in each kind of operator, and how many nodes of it ran."""
        with tempfile.TemporaryDirectory(prefix="ampc-profile-") as folder:
            session = _open(self.request, profile_to=str(Path(folder, "p")))
            for _ in range(request["runs"] + 1):
                session.run(None, self.feeds)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return {"operators": _by_operator(events)}

    def peak(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the most memory that this process held, in megabytes."""
        return {"peak_mb": _peak_mb()}

    def _bound(self) -> Callable[[], Any]:
        """Return a function that runs the session with inputs bound once: for models of a few microseconds."""
        import onnxruntime

        binding = self.session.io_binding()
        for name, array in self.feeds.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for output in self.session.get_outputs():
            binding.bind_output(output.name)
        return lambda: self.session.run_with_iobinding(binding)


def _open(request: Mapping[str, Any], *, profile_to: str = "") -> Any:
    """Open a model file or a bundle with its own settings, and those of the request over them."""
    from compiler.backend.session import apply_settings, check_files, choose_providers, read_bundle
    from compiler.backend.session_plugins import available_providers, open_model

    bundle = read_bundle(request["path"])
    check_files(bundle)
    import onnxruntime

    settings = _over(bundle.settings, request["settings"], request["threads"])
    providers = choose_providers(settings, available_providers())
    wanted = [name for name, _ in settings.get("providers", ())]
    if len(providers) < len(wanted):  # the runtime would only warn, and time another provider instead
        missing = ", ".join(name for name in wanted if name not in dict(providers))
        raise RuntimeError(f"this runtime has no {missing}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    apply_settings(options, settings)
    if profile_to:
        options.enable_profiling, options.profile_file_prefix = True, profile_to
    return open_model(str(bundle.model), options, providers)


def _over(own: Mapping[str, Any], given: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    """Return a bundle's settings with others over them; ``threads`` is for models that do not say a number."""
    from compiler.backend.session import merged_settings

    merged = merged_settings(own, given)
    options = merged["session_options"]
    if threads is not None and not (isinstance(said := options.get(_THREADS), int) and said > 0):
        options[_THREADS] = threads
    return merged


def _by_operator(events: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return operator → microseconds and nodes per run, the median over runs of each node; the first run is left out.

    The profiler counts whole microseconds, so half of one is added to each.
    """
    nodes: dict[tuple[str, str], list[float]] = {}
    runs = 0
    for event in events:
        runs += event.get("name") == "model_run"
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] + 0.5)
    found: dict[str, list[float]] = {}
    for (op, _), us in nodes.items():
        times = max(1, round(len(us) / max(runs, 1)))  # nodes that share a name
        total = found.setdefault(op, [0.0, 0.0])
        total[0] += statistics.median(us[times:] or us) * times
        total[1] += times
    return found


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

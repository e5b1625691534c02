"""Time models side by side on this machine, and say no more than the numbers carry.

Each variant lives in a child process of its own, so that neither shares the other's arena, thread pool or
settings. The children run in short bursts by turns, A B, B A, A B ..., so that a change of clock speed or of
load hits all of them alike; a round's ratio compares neighbours in time.  The ratio of two variants is the
median over rounds, with the exact interval of order statistics around it: no distribution is assumed, and
nothing is drawn at random.  Rejected: a bootstrap, whose interval is too narrow for ten rounds.

Two processes that run the same file differ by a percent or two (addresses, pages); no interval within a pair
shows that, so differences below ``RESOLUTION`` are never called faster.  Threads are stated, never left to a
default; spinning is left as the runtime has it, since that is what users get.

The other end of the pipe is ``tools.timed_process``, which alone imports a runtime.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

RESOLUTION = 0.02
"""The smallest difference in speed, as a share, that this method resolves."""

SAME = 0.05
"""Two variants are called the same when the whole interval of their ratio lies within this share of 1."""

CONFIDENCE = 0.95
"""The least coverage of every interval."""

ROUNDS = 6
"""The fewest rounds for which an interval of order statistics reaches ``CONFIDENCE``."""

BUSY = 0.15
"""The share of foreign use, or of spread between bursts, from which the machine counts as busy."""

PAUSE = 0.05
"""Seconds between bursts, in which the threads of the last child stop spinning."""


class MeasureError(RuntimeError):
    """A variant could not be loaded or run, or what was asked cannot be measured."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model: a model file with settings, or a bundle folder with its own."""

    path: str
    """A model file, or a folder that ``compiler.load_session`` opens."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """For a model file: ``providers``, ``session_options``, ``config_entries``; empty for the defaults."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and the interval that holds the true one."""

    value: float
    """The median."""
    low: float
    """The lower bound."""
    high: float
    """The upper bound."""
    coverage: float
    """The exact probability that the interval holds the true median; at least ``CONFIDENCE``."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the machine was like."""

    processors: int
    """Logical processors that this process may use."""
    threads: int
    """Threads given to each variant, and processors that it was pinned to."""
    load_average: float
    """The one-minute load average before the start, -1 where the system has none."""
    foreign: float
    """The share of processor time that went to others, or was stolen by the host, while the rounds ran."""
    spread: float
    """The widest relative spread of a variant's bursts: the middle half of them over their median."""

    @property
    def busy(self) -> bool:
        """Tell whether other work, or the machine's own unrest, makes the numbers doubtful."""
        return max(self.foreign, self.spread) > BUSY


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast one variant is."""

    load_s: float
    """Seconds to create the session, the median of a few tries."""
    median_ms: Interval
    """Milliseconds of a run: the median over bursts of each burst's median."""
    p90_ms: float
    """Nine of ten runs were at least this fast, in milliseconds."""
    p99_ms: float
    """Ninety-nine of a hundred runs were at least this fast, in milliseconds."""
    runs: int
    """Timed runs."""
    peak_mb: float
    """The most memory that the child held, in megabytes, runtime included."""
    ratio: Interval
    """How many times as fast as the first variant, paired by round; exactly 1 for the first itself."""
    verdict: str
    """Against the first variant: ``faster``, ``slower``, ``same``, ``cannot tell``, or ``reference``."""
    conditions: Conditions
    """What the machine was like."""

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries and numbers, with ``busy`` among the conditions."""
        plain = asdict(self)
        plain["conditions"]["busy"] = self.conditions.busy
        return plain


def measure(
    variants: Mapping[str, Variant],
    *,
    feeds: Mapping[str, Array],
    repeats: int = 15,
    threads: int | None = None,
    burst_s: float = 0.2,
    timeout_s: float = 120.0,
) -> dict[str, Timing]:
    """Time ``variants`` on ``feeds`` and compare each with the first.

    ``repeats`` rounds of one burst per variant; a burst runs for about ``burst_s`` seconds and at least once,
    after an untimed run.  ``threads`` is the number of processors each child is pinned to and, for a model
    file whose settings say nothing else, of its threads; the default is all physical cores.  No single load
    or burst may take longer than ``timeout_s``.  Raises ``MeasureError``.
    """
    if repeats < ROUNDS:
        raise MeasureError(f"{repeats} rounds give no {CONFIDENCE:.0%} interval: use at least {ROUNDS}")
    if not variants:
        raise MeasureError("there is nothing to measure")
    threads = _physical_cores() if threads is None else threads
    with tempfile.TemporaryDirectory(prefix="ampc-measure-") as folder, ExitStack() as stack:
        arrays = str(Path(folder, "feeds.npz"))
        np.savez(arrays, allow_pickle=False, **feeds)
        children = {
            name: stack.enter_context(_child(name, variant, arrays, threads, timeout_s))
            for name, variant in variants.items()
        }
        load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else -1.0
        before = _processor_seconds(children.values())
        bursts = _rounds(children, repeats, burst_s)
        foreign, elapsed = np.subtract(_processor_seconds(children.values()), before)
        peaks = {name: child.ask({"do": "peak"})["peak_mb"] for name, child in children.items()}
    medians = {name: [statistics.median(burst) for burst in rounds] for name, rounds in bursts.items()}
    conditions = Conditions(
        processors=len(_allowed()),
        threads=threads,
        load_average=load_average,
        foreign=max(0.0, float(foreign / elapsed)),
        spread=max(_spread(values) for values in medians.values()),
    )
    first = next(iter(variants))
    return {
        name: _timing(
            child.load_s,
            bursts[name],
            medians[name],
            reference=None if name == first else medians[first],
            peak_mb=peaks[name],
            conditions=conditions,
        )
        for name, child in children.items()
    }


def interval(values: Sequence[float]) -> Interval:
    """Return the median of ``values`` and the narrowest interval of order statistics of enough coverage.

    The k-th smallest and k-th largest of n values miss the true median with probability ``2 P(Binomial(n,
    1/2) < k)``. Needs at least ``ROUNDS`` values.
    """
    ordered = sorted(values)
    count = len(ordered)
    if count < ROUNDS:
        raise MeasureError(f"{count} values give no {CONFIDENCE:.0%} interval: at least {ROUNDS} are needed")
    missed, depth, tail = 2.0**-count * 2, 1, 1
    while True:
        tail += math.comb(count, depth)
        if 2 * tail > (1 - CONFIDENCE) * 2**count:
            break
        missed, depth = 2 * tail / 2**count, depth + 1
    return Interval(statistics.median(ordered), ordered[depth - 1], ordered[-depth], 1 - missed)


def verdict(ratio: Interval) -> str:
    """Put the interval of a speed ratio into a word, in favour of ``cannot tell``."""
    if ratio.low > 1 + RESOLUTION:
        return "faster"
    if ratio.high < 1 / (1 + RESOLUTION):
        return "slower"
    if ratio.low >= 1 / (1 + SAME) and ratio.high <= 1 + SAME:
        return "same"
    return "cannot tell"


def _timing(
    load_s: float,
    bursts: Sequence[Sequence[float]],
    medians: Sequence[float],
    *,
    reference: Sequence[float] | None,
    peak_mb: float,
    conditions: Conditions,
) -> Timing:
    """Reduce one variant's bursts, in seconds; ``reference`` is the first variant's medians by round."""
    runs = [1e3 * seconds for burst in bursts for seconds in burst]
    against = medians if reference is None else reference
    ratio = interval([base / own for base, own in zip(against, medians, strict=True)])
    return Timing(
        load_s=load_s,
        median_ms=interval([1e3 * seconds for seconds in medians]),
        p90_ms=float(np.percentile(runs, 90)),
        p99_ms=float(np.percentile(runs, 99)),
        runs=len(runs),
        peak_mb=peak_mb,
        ratio=ratio,
        verdict="reference" if reference is None else verdict(ratio),
        conditions=conditions,
    )


def _rounds(children: Mapping[str, _Child], repeats: int, burst_s: float) -> dict[str, list[list[float]]]:
    """Run bursts by turns, backwards every other round, and return their seconds by variant and round."""
    lengths = {name: max(1, round(burst_s / child.run_s)) for name, child in children.items()}
    bursts: dict[str, list[list[float]]] = {name: [] for name in children}
    for index in range(repeats):
        for name in list(children) if index % 2 == 0 else reversed(list(children)):
            time.sleep(PAUSE)
            bursts[name].append(children[name].ask({"do": "burst", "runs": lengths[name]})["seconds"])
    return bursts


def _spread(values: Sequence[float]) -> float:
    """Return the width of the middle half of ``values`` over their median."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / middle)


def _allowed() -> list[int]:
    """Return the processors that this process may use, in order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _physical_cores() -> int:
    """Return the number of physical cores, no more than the processors that this process may use."""
    import psutil

    return min(psutil.cpu_count(logical=False) or 1, len(_allowed()))


def _processor_seconds(children: Iterable[_Child]) -> tuple[float, float]:
    """Return the processor seconds spent by others, stolen time included, and all there were, since boot."""
    import psutil

    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    counted = ("user", "system", "nice", "irq", "softirq", "steal")
    total = idle + sum(getattr(times, kind, 0.0) for kind in counted)
    own = [psutil.Process(pid).cpu_times() for pid in (os.getpid(), *(child.pid for child in children))]
    return total - idle - sum(spent.user + spent.system for spent in own), total


class _Child:
    """A child process that holds one session and answers one line of JSON with one line of JSON."""

    def __init__(self, name: str, process: subprocess.Popen[str], timeout_s: float) -> None:
        """Take over a running process; ``load`` it before anything else."""
        self.name = name
        self.load_s = math.nan
        self.run_s = math.nan
        self.pid = process.pid
        self._process = process
        self._timeout_s = timeout_s

    def load(self, variant: Variant, feeds: str, threads: int) -> None:
        """Create the session and run it, keeping the seconds of the load and of a warm run."""
        request = {"do": "load", "path": str(variant.path), "settings": dict(variant.settings)}
        answer = self.ask({**request, "feeds": feeds, "threads": threads, "processors": _allowed()[:threads]})
        self.load_s, self.run_s = answer["load_s"], answer["run_s"]

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer; a child that fails, dies or hangs raises ``MeasureError``."""
        assert self._process.stdin and self._process.stdout
        timer = threading.Timer(self._timeout_s, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise MeasureError(f"{self.name}: {self._death(request['do'])}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MeasureError(f"{self.name}: {answer['error']}")
        return answer

    def _death(self, doing: str) -> str:
        """Say how the process ended."""
        code = self._process.wait()
        return f"the process ended with status {code} during {doing!r} (limit {self._timeout_s:g} s)"


@contextmanager
def _child(name: str, variant: Variant, feeds: str, threads: int, timeout_s: float) -> Iterator[_Child]:
    """Start a child, load its variant, and end it afterwards whatever happens.

    ``-P`` keeps the current directory off the child's path, where a user's own ``tools`` could stand.
    """
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tools.timed_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        child = _Child(name, process, timeout_s)
        child.load(variant, feeds, threads)
        yield child
    finally:
        process.kill()
        process.communicate()

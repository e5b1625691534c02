"""Time models side by side on this machine, and say no more than the numbers carry.

Each variant lives in a child process of its own, so that neither shares the other's arena, thread pool or settings.
The children run in short bursts by turns, A B, B A, A B ..., so that a change of clock speed or of load hits all of
them alike; a round's ratio compares neighbours in time.  The ratio of two variants is the median over rounds.

Where a process happens to lie in memory makes it faster or slower than another one that runs the same file, by percents
and as long as it lives, and the second to start tends to be faster.  So there are several sittings with new sessions,
started in the other order each time.  From six on each counts as one value; fewer widen the interval until it holds
the median of each of them.

Models that get one thread are pinned to one processor and timed by its clock, so that waiting for others does not
count; with more threads it is the wall's clock.  Spinning is left as the runtime has it, since that is what users get.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from compiler.errors import InputError, WorkerError
from compiler.measure.intervals import ROUNDS, Interval, interval, spread, verdict
from compiler.measure.timed_process import TimedProcess

BUSY = 0.15
"""The share of foreign use, or of spread between bursts, from which the machine counts as busy."""

PAUSE = 0.05
"""Seconds between bursts, in which the threads of the last child stop spinning."""

LONG_RUN = 0.1
"""Seconds of a run from which bursts need no run before the clock starts: waking threads no longer counts."""

_ROUNDS_EACH = 3
"""Rounds of a sitting: more sittings tell more than longer ones."""

_MOST_SITTINGS = 21
"""Sittings beyond which more time is not worth it."""

_MOST_RUNS = 2000
"""Runs of one burst at most."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model: a model file or a bundle, with settings over its own."""

    path: str
    """A model file, or the folder of a bundle."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """``providers``, ``session_options``, ``config_entries``, each over the bundle's; empty for what it has."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the machine was like."""

    processors: int
    """Logical processors that this process may use."""
    threads: int
    """Threads given to each variant, and processors that it was pinned to; 0 when the variants chose themselves."""
    clock: str
    """``processor`` when waiting for others did not count, or ``wall``."""
    load_average: float
    """The one-minute load average before the start, -1 where the system has none."""
    foreign: float
    """The share of processor time that went to others, or was stolen by the host, while the rounds ran."""
    spread: float
    """The widest relative spread of a variant's ratios to the first: the middle half of them over their median.

    Of one variant alone it is the spread of its bursts.
    """

    @property
    def busy(self) -> bool:
        """Tell whether other work, or the machine's own unrest, makes the numbers doubtful."""
        return (self.clock == "wall" and self.foreign > BUSY) or self.spread > BUSY


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast one variant is."""

    load_s: float
    """Seconds to create the session, the median of a few tries."""
    median_ms: Interval
    """Milliseconds of a run: the median over bursts of each burst's median."""
    p50_ms: float
    """Half of all runs were at least this fast, in milliseconds."""
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
    operators: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Operator → microseconds and nodes of a run as the runtime's profiler saw it; empty when it was not asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries and numbers, with ``busy`` among the conditions."""
        plain = asdict(self)
        plain["conditions"]["busy"] = self.conditions.busy
        return plain


@dataclass(frozen=True, slots=True)
class _Sitting:
    """What came of some rounds with one session per variant; seconds, by variant."""

    bursts: Mapping[str, Sequence[Sequence[float]]]
    load_s: Mapping[str, float]
    peak_mb: Mapping[str, float]
    foreign: float
    elapsed: float

    def medians(self, name: str) -> list[float]:
        """Return the median of each burst."""
        return [statistics.median(burst) for burst in self.bursts[name]]

    def ratios(self, first: str, name: str) -> list[float]:
        """Return by round how many times as fast as the first a variant is."""
        pairs = zip(self.medians(first), self.medians(name), strict=True)
        return [base / max(own, 1e-9) for base, own in pairs]


class Instrument:
    """Child processes that time variants, used again for one comparison after another; use it as a context."""

    def __init__(self, *, threads: int | None = None, timeout_s: float = 120.0) -> None:
        """Say how many threads, and processors, each variant gets; ``None`` leaves that to the variants.

        No single load or burst may take longer than ``timeout_s``.
        """
        self.threads = threads
        self.timeout_s = timeout_s
        self.clock = "processor" if threads == 1 else "wall"
        self._processes: list[TimedProcess] = []

    def __enter__(self) -> Instrument:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; the next comparison starts new ones."""
        while self._processes:
            self._processes.pop().end()

    def try_out(self, name: str, variant: Variant, feeds: Mapping[str, Any]) -> tuple[float, float]:
        """Open a variant and run it; return the seconds of the load and of a warm run.

        Raises ``WorkerError`` when it does not run.
        """
        _check({name: variant}, feeds)
        with _saved(feeds) as arrays:
            child = self._load({name: variant}, arrays, bound=False, backwards=False)[name]
            return child.load_s, child.run_s

    def measure(
        self,
        variants: Mapping[str, Variant],
        feeds: Mapping[str, Any],
        *,
        seconds: float = 10.0,
        burst_s: float = 0.2,
        sittings: int = 2,
        fresh: bool = True,
        bound: bool = False,
        profile: bool = False,
    ) -> dict[str, Timing]:
        """Time ``variants`` on ``feeds`` and compare each with the first.

        There are at least so many ``sittings``, and as many as begin within ``seconds``, each with new sessions in
        ``fresh`` processes or else in exchanged ones; each is a few rounds of one burst per variant.  A burst runs for
        about ``burst_s`` seconds and at least once, after an untimed run where runs are short.  ``bound`` binds inputs
        once, for models of a few microseconds; ``profile`` asks the runtime's profiler besides.  Raises ``InputError``
        for what cannot be asked, ``WorkerError`` for a variant that cannot be loaded or run.
        """
        _check(variants, feeds)
        load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else -1.0
        held: list[_Sitting] = []
        rounds = max(_ROUNDS_EACH, -(-ROUNDS // sittings))
        end = time.perf_counter() + seconds
        with _saved(feeds) as arrays:
            while len(held) < sittings or (time.perf_counter() < end and len(held) < _MOST_SITTINGS):
                if fresh:
                    self.close()
                children = self._load(variants, arrays, bound=bound, backwards=len(held) % 2 == 1)
                held.append(self._sit(children, rounds, burst_s))
            operators = {n: self._operators(child) if profile else {} for n, child in children.items()}
        return self._timings(list(variants), held, operators, load_average)

    def _load(
        self, variants: Mapping[str, Variant], feeds: str, *, bound: bool, backwards: bool
    ) -> dict[str, TimedProcess]:
        """Open each variant in a process, the first one in the first process or, ``backwards``, in the last."""
        self._processes = [p for p in self._processes if p.alive]
        while len(self._processes) < len(variants):
            self._processes.append(TimedProcess("", self.timeout_s))
        places = self._processes[: len(variants)]
        children = dict(zip(variants, reversed(places) if backwards else places, strict=True))
        for name in reversed(list(variants)) if backwards else variants:
            child, variant = children[name], variants[name]
            child.name = name
            child.load(
                {
                    "path": str(variant.path),
                    "settings": dict(variant.settings),
                    "feeds": feeds,
                    "threads": self.threads,
                    "processors": [] if self.threads is None else _allowed()[-self.threads :],
                    "warm": 2,
                    "bound": bound,
                    "clock": self.clock,
                }
            )
        return children

    def _sit(self, children: Mapping[str, TimedProcess], rounds: int, burst_s: float) -> _Sitting:
        lengths = {n: min(_MOST_RUNS, max(1, round(burst_s / max(c.run_s, 1e-7)))) for n, c in children.items()}
        before = _processor_seconds(children.values())
        bursts = self._rounds(children, lengths, rounds)
        foreign, elapsed = np.subtract(_processor_seconds(children.values()), before)
        peaks = {name: child.ask({"do": "peak"})["peak_mb"] for name, child in children.items()}
        loads = {name: child.load_s for name, child in children.items()}
        return _Sitting(bursts, loads, peaks, float(foreign), float(elapsed))

    @staticmethod
    def _operators(child: TimedProcess) -> Mapping[str, Sequence[float]]:
        runs = max(3, min(50, round(0.5 / max(child.run_s, 1e-7))))
        found: Mapping[str, Sequence[float]] = child.ask({"do": "profile", "runs": runs})["operators"]
        return found

    def _timings(
        self,
        names: Sequence[str],
        held: Sequence[_Sitting],
        operators: Mapping[str, Mapping[str, Sequence[float]]],
        load_average: float,
    ) -> dict[str, Timing]:
        others = names[1:] or names
        conditions = Conditions(
            processors=len(_allowed()),
            threads=self.threads or 0,
            clock=self.clock,
            load_average=load_average,
            foreign=max(0.0, sum(s.foreign for s in held) / max(sum(s.elapsed for s in held), 1e-6)),
            spread=max(spread(s.ratios(names[0], n) if names[1:] else s.medians(n)) for n in others for s in held),
        )
        return {n: _timing(n, names[0], held, conditions, operators[n]) for n in names}

    @property
    def _pause(self) -> float:
        return 0.0 if self.threads == 1 else PAUSE

    def _rounds(
        self, children: Mapping[str, TimedProcess], lengths: Mapping[str, int], rounds: int
    ) -> dict[str, list[list[float]]]:
        """Run bursts by turns, backwards every other round, and return their seconds by variant and round."""
        bursts: dict[str, list[list[float]]] = {name: [] for name in children}
        for index in range(rounds):
            for name in list(children) if index % 2 == 0 else reversed(list(children)):
                time.sleep(self._pause)
                request = {"do": "burst", "runs": lengths[name], "awake": children[name].run_s > LONG_RUN}
                bursts[name].append(children[name].ask(request)["seconds"])
        return bursts


def measure(
    variants: Mapping[str, Variant],
    *,
    feeds: Mapping[str, Any],
    seconds: float = 10.0,
    threads: int | None = None,
    burst_s: float = 0.2,
    sittings: int = 4,
    profile: bool = False,
    timeout_s: float = 120.0,
) -> dict[str, Timing]:
    """Time ``variants`` on ``feeds``, each in a process of its own, and compare each with the first.

    See ``Instrument``; ``threads`` is by default what the variants' settings say, on all processors.
    """
    with Instrument(threads=threads, timeout_s=timeout_s) as instrument:
        return instrument.measure(
            variants, feeds, seconds=seconds, burst_s=burst_s, sittings=sittings, profile=profile
        )


def _check(variants: Mapping[str, Variant], feeds: Mapping[str, Any]) -> None:
    if not variants:
        raise InputError("there is nothing to measure")
    for name, value in feeds.items():
        if np.asarray(value).dtype.kind in "OV":
            kind = np.asarray(value).dtype
            raise WorkerError("a model cannot be timed", kind="run", where=name, why=f"the input is {kind}")


def _timing(
    name: str, first: str, held: Sequence[_Sitting], conditions: Conditions, operators: Mapping[str, Sequence[float]]
) -> Timing:
    """Reduce what one variant took in all sittings."""
    runs = [1e3 * seconds for sitting in held for burst in sitting.bursts[name] for seconds in burst]
    ratio = _ratio([sitting.ratios(first, name) for sitting in held])
    p50, p90, p99 = (float(p) for p in np.percentile(runs, (50, 90, 99)))
    return Timing(
        load_s=statistics.median(sitting.load_s[name] for sitting in held),
        median_ms=interval([1e3 * seconds for sitting in held for seconds in sitting.medians(name)]),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        runs=len(runs),
        peak_mb=max(sitting.peak_mb[name] for sitting in held),
        ratio=ratio,
        verdict="reference" if name == first else verdict(ratio),
        conditions=conditions,
        operators=operators,
    )


def _ratio(held: Sequence[Sequence[float]]) -> Interval:
    """Return the ratio of two variants by those of each sitting's rounds.

    Where there are enough sittings each counts as one value; else the interval of all rounds is widened by them.
    """
    between = [statistics.median(ratios) for ratios in held]
    if len(between) >= ROUNDS:
        return interval(between)
    found = interval([r for ratios in held for r in ratios])
    return replace(found, low=min(found.low, *between), high=max(found.high, *between))


@contextmanager
def _saved(feeds: Mapping[str, Any]) -> Iterator[str]:
    """Yield the path of a file that holds the inputs."""
    with tempfile.TemporaryDirectory(prefix="ampc-measure-") as folder:
        path = str(Path(folder, "feeds.npz"))
        np.savez(path, allow_pickle=False, **feeds)
        yield path


def _allowed() -> list[int]:
    """Return the processors that this process may use, in order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _processor_seconds(children: Iterable[TimedProcess]) -> tuple[float, float]:
    """Return the processor seconds spent by others, stolen time included, and all there were, since boot."""
    import psutil

    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    counted = ("user", "system", "nice", "irq", "softirq", "steal")
    total = idle + sum(getattr(times, kind, 0.0) for kind in counted)
    own = [psutil.Process(pid).cpu_times() for pid in (os.getpid(), *(child.pid for child in children))]
    return total - idle - sum(spent.user + spent.system for spent in own), total

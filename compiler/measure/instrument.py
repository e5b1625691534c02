"""Time models side by side on this machine, and say no more than the numbers carry.

Each variant lives in a child process of its own, so that neither shares the other's arena, thread pool or settings.
The children run in short bursts by turns, A B, B A, A B ..., so that a change of clock speed or of load hits all of
them alike; a round's ratio compares neighbours in time.  The ratio of two variants is the median over rounds.

Models that get one thread are pinned to one processor and timed by its clock, so that waiting for others does not
count; with more threads it is the wall's clock.  Spinning is left as the runtime has it, since that is what users get.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from compiler.errors import InputError, WorkerError
from compiler.measure.intervals import CONFIDENCE, ROUNDS, Interval, interval, spread, verdict
from compiler.measure.timed_process import TimedProcess

BUSY = 0.15
"""The share of foreign use, or of spread between bursts, from which the machine counts as busy."""

PAUSE = 0.05
"""Seconds between bursts, in which the threads of the last child stop spinning."""

_MOST_ROUNDS = 41
"""Rounds beyond which more time is not worth it."""

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

    def try_out(self, name: str, variant: Variant, feeds: Mapping[str, Any]) -> float:
        """Open a variant and run it, and return the seconds of a warm run; raises ``WorkerError`` when it does not."""
        _check({name: variant}, feeds, None)
        with tempfile.TemporaryDirectory(prefix="ampc-measure-") as folder:
            arrays = str(Path(folder, "feeds.npz"))
            np.savez(arrays, allow_pickle=False, **feeds)
            return self._load({name: variant}, arrays, loads=1, bound=False)[name].run_s

    def measure(
        self,
        variants: Mapping[str, Variant],
        feeds: Mapping[str, Any],
        *,
        rounds: int | None = None,
        seconds: float = 10.0,
        burst_s: float = 0.2,
        loads: int = 1,
        bound: bool = False,
        profile: bool = False,
    ) -> dict[str, Timing]:
        """Time ``variants`` on ``feeds`` and compare each with the first.

        ``rounds`` rounds of one burst per variant, by default as many as ``seconds`` allow, and never less than an
        interval needs; a burst runs for about ``burst_s`` seconds and at least once, after an untimed run.  ``loads``
        is how often a session is created.  ``bound`` binds inputs once, for models of a few microseconds; ``profile``
        asks the runtime's profiler besides.  Raises ``InputError`` for what cannot be asked, ``WorkerError`` for a
        variant that cannot be loaded or run.
        """
        _check(variants, feeds, rounds)
        with tempfile.TemporaryDirectory(prefix="ampc-measure-") as folder:
            arrays = str(Path(folder, "feeds.npz"))
            np.savez(arrays, allow_pickle=False, **feeds)
            children = self._load(variants, arrays, loads=loads, bound=bound)
            return self._race(children, rounds, seconds, burst_s, profile)

    def _load(
        self, variants: Mapping[str, Variant], feeds: str, *, loads: int, bound: bool
    ) -> dict[str, TimedProcess]:
        self._processes = [p for p in self._processes if p.alive]
        children = {}
        for place, (name, variant) in enumerate(variants.items()):
            if place == len(self._processes):
                self._processes.append(TimedProcess(name, self.timeout_s))
            child = children[name] = self._processes[place]
            child.name = name
            child.load(
                {
                    "path": str(variant.path),
                    "settings": dict(variant.settings),
                    "feeds": feeds,
                    "threads": self.threads,
                    "processors": [] if self.threads is None else _allowed()[-self.threads :],
                    "loads": loads,
                    "warm": 2,
                    "bound": bound,
                    "clock": self.clock,
                }
            )
        return children

    def _race(
        self,
        children: Mapping[str, TimedProcess],
        rounds: int | None,
        seconds: float,
        burst_s: float,
        profile: bool,
    ) -> dict[str, Timing]:
        lengths = {n: min(_MOST_RUNS, max(1, round(burst_s / max(c.run_s, 1e-7)))) for n, c in children.items()}
        load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else -1.0
        before = _processor_seconds(children.values())
        bursts = self._rounds(children, lengths, rounds, seconds)
        foreign, elapsed = np.subtract(_processor_seconds(children.values()), before)
        peaks = {name: child.ask({"do": "peak"})["peak_mb"] for name, child in children.items()}
        runs = {name: max(3, min(50, lengths[name])) for name in children}
        profiles = {
            n: c.ask({"do": "profile", "runs": runs[n]})["operators"] if profile else {} for n, c in children.items()
        }
        medians = {name: [statistics.median(burst) for burst in found] for name, found in bursts.items()}
        first = next(iter(children))
        compared = [[a / b for a, b in zip(medians[first], own, strict=True)] for own in medians.values()][1:]
        conditions = Conditions(
            processors=len(_allowed()),
            threads=self.threads or 0,
            clock=self.clock,
            load_average=load_average,
            foreign=max(0.0, float(foreign / max(elapsed, 1e-6))),
            spread=max(spread(values) for values in compared or medians.values()),
        )
        return {
            name: _timing(
                child.load_s,
                bursts[name],
                medians[name],
                reference=None if name == first else medians[first],
                peak_mb=peaks[name],
                conditions=conditions,
                operators=profiles[name],
            )
            for name, child in children.items()
        }

    @property
    def _pause(self) -> float:
        return 0.0 if self.threads == 1 else PAUSE

    def _rounds(
        self, children: Mapping[str, TimedProcess], lengths: Mapping[str, int], rounds: int | None, seconds: float
    ) -> dict[str, list[list[float]]]:
        """Run bursts by turns, backwards every other round, and return their seconds by variant and round."""
        bursts: dict[str, list[list[float]]] = {name: [] for name in children}
        end = time.perf_counter() + seconds
        for index in range(rounds or _MOST_ROUNDS):
            if rounds is None and index >= ROUNDS and time.perf_counter() > end:
                break
            for name in list(children) if index % 2 == 0 else reversed(list(children)):
                time.sleep(self._pause)
                bursts[name].append(children[name].ask({"do": "burst", "runs": lengths[name]})["seconds"])
        return bursts


def measure(
    variants: Mapping[str, Variant],
    *,
    feeds: Mapping[str, Any],
    rounds: int | None = None,
    seconds: float = 10.0,
    threads: int | None = None,
    burst_s: float = 0.2,
    loads: int = 3,
    profile: bool = False,
    timeout_s: float = 120.0,
) -> dict[str, Timing]:
    """Time ``variants`` on ``feeds``, each in a process of its own, and compare each with the first.

    See ``Instrument``; ``threads`` is by default what the variants' settings say, on all processors.
    """
    with ExitStack() as stack:
        instrument = stack.enter_context(Instrument(threads=threads, timeout_s=timeout_s))
        return instrument.measure(
            variants, feeds, rounds=rounds, seconds=seconds, burst_s=burst_s, loads=loads, profile=profile
        )


def _check(variants: Mapping[str, Variant], feeds: Mapping[str, Any], rounds: int | None) -> None:
    if not variants:
        raise InputError("there is nothing to measure")
    if rounds is not None and rounds < ROUNDS:
        raise InputError(f"{rounds} rounds give no {CONFIDENCE:.0%} interval", hint=f"use at least {ROUNDS}")
    for name, value in feeds.items():
        if np.asarray(value).dtype.kind in "OV":
            kind = np.asarray(value).dtype
            raise WorkerError("a model cannot be timed", kind="run", where=name, why=f"the input is {kind}")


def _timing(
    load_s: float,
    bursts: Sequence[Sequence[float]],
    medians: Sequence[float],
    *,
    reference: Sequence[float] | None,
    peak_mb: float,
    conditions: Conditions,
    operators: Mapping[str, Sequence[float]],
) -> Timing:
    """Reduce one variant's bursts, in seconds; ``reference`` is the first variant's medians by round."""
    runs = [1e3 * seconds for burst in bursts for seconds in burst]
    against = medians if reference is None else reference
    ratio = interval([base / max(own, 1e-9) for base, own in zip(against, medians, strict=True)])
    p50, p90, p99 = (float(p) for p in np.percentile(runs, (50, 90, 99)))
    return Timing(
        load_s=load_s,
        median_ms=interval([1e3 * seconds for seconds in medians]),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        runs=len(runs),
        peak_mb=peak_mb,
        ratio=ratio,
        verdict="reference" if reference is None else verdict(ratio),
        conditions=conditions,
        operators=operators,
    )


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

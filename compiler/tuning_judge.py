"""Who is faster: what is known from before, else what is measured now, within a budget of seconds.

What is not certain is not told: a comparison on a busy machine, or one for which there is no time, gives ``None``, and
the tuner keeps the choice that it would have made without.  Numbers are rounded as they are stored, so that a decision
is the same whether it was measured now or earlier.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from compiler.errors import WorkerError
from compiler.measure.comparisons import Comparison, Comparisons
from compiler.measure.instrument import Instrument, Variant


@dataclass(slots=True)
class Judge:
    """Compares variants, and keeps account of the seconds that this takes."""

    instrument: Instrument
    """What measures."""
    store: Comparisons
    """What was measured before."""
    seconds: float
    """The budget; 0 to go by what is known."""
    environment: Mapping[str, Any]
    """What all times depend on: versions, processor, threads."""
    reserve: float = 0.0
    """Seconds that are kept for the last comparison."""
    spent: float = 0.0
    """Seconds of the budget that are gone."""
    measured: int = 0
    """Comparisons that were measured now."""
    reused: int = 0
    """Comparisons that were known."""
    undecided: int = 0
    """Comparisons that were not possible: no time, or a busy machine."""
    restless: int = 0
    """Those among them that were measured on a busy machine."""
    failures: dict[str, None] = field(default_factory=dict)
    """Why variants could not be timed."""

    def left(self, share: float = 1.0) -> float:
        """Return the seconds that are left of a share of the budget, less the reserve but for the whole budget."""
        end = self.seconds if share >= 1 else min(share * self.seconds, self.seconds - self.reserve)
        return end - self.spent

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time of what is done inside against the budget."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent += time.perf_counter() - start

    def known(self, key: str) -> Comparison | None:
        """Return what was measured before, and count it."""
        found = self.store.get(key)
        self.reused += found is not None
        return found

    def compare(
        self,
        what: str,
        before: Variant,
        after: Variant,
        feeds: Mapping[str, Any],
        *,
        key: str,
        seconds: float,
        least_s: float,
        share: float = 1.0,
        sittings: int = 2,
        bound: bool = False,
    ) -> Comparison | None:
        """Return how many times as fast ``after`` is, ``None`` where that cannot be told.

        ``key`` stands for all that the result depends on, ``what`` tells people.  ``seconds`` is how long to measure,
        ``least_s`` what one variant takes in one sitting at least, by which it is known what cannot be done in time.
        ``share`` is the share of the budget that may be spent when this ends.
        """
        known = self.known(key)
        if known is not None:
            return known
        least_s *= 2 * sittings
        seconds = min(max(seconds, least_s), self.left(share))
        if not 0 < least_s <= seconds:
            self.undecided += 1
            return None
        with self.spending():
            found = self._measure(before, after, feeds, seconds, sittings, bound)
        if found is None:
            self.undecided += 1
            return None
        self.measured += 1
        return self.store.put(key, what, found, replace=False)

    def _measure(
        self, before: Variant, after: Variant, feeds: Mapping[str, Any], seconds: float, sittings: int, bound: bool
    ) -> Comparison | None:
        burst_s = max(0.01, min(0.2, seconds / 40))
        variants = {"before": before, "after": after}
        try:
            timings = self.instrument.measure(
                variants, feeds, seconds=seconds, burst_s=burst_s, sittings=sittings, fresh=not bound, bound=bound
            )
        except WorkerError as error:
            self.failures[error.why or error.what] = None
            return None
        if timings["after"].conditions.busy:
            self.restless += 1
            return None
        return Comparison.of(timings["before"], timings["after"])

    def report(self) -> dict[str, float]:
        """Return what is not the same for equal stores: seconds and counts."""
        return {
            "seconds": round(self.spent, 2),
            "measured": self.measured,
            "reused": self.reused,
            "undecided": self.undecided,
            "busy": self.restless,
        }


def environment(threads: int | None) -> dict[str, Any]:
    """Return what times depend on besides models and settings: the runtime, the processor, threads and processors."""
    from compiler.cost.calibration import processor_name
    from compiler.verify.certificate import versions

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "runtime": versions()["onnxruntime"],
        "processor": processor_name(),
        "processors": processors,
        "threads": threads,
    }

"""What numbers carry: medians with exact intervals, and words for ratios that do not say more than these.

The interval of a median is that of order statistics: no distribution is assumed, and nothing is drawn at random.
Rejected: a bootstrap, whose interval is too narrow for ten rounds.

Two processes that run the same file differ by a percent or two (addresses, pages), and few sittings do not even that
out; so differences below ``RESOLUTION`` are never called faster or slower.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from compiler.errors import InputError

RESOLUTION = 0.02
"""The smallest difference in speed, as a share, that timing two processes resolves."""

SAME = 0.05
"""Two variants are called the same when the whole interval of their ratio lies within this share of 1."""

CONFIDENCE = 0.95
"""The least coverage of every interval."""

ROUNDS = 6
"""The fewest rounds for which an interval of order statistics reaches ``CONFIDENCE``."""


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

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def interval(values: Sequence[float]) -> Interval:
    """Return the median of ``values`` and the narrowest interval of order statistics of enough coverage.

    The k-th smallest and k-th largest of n values miss the true median with probability ``2 P(Binomial(n, 1/2) < k)``.
    Raises ``InputError`` for fewer than ``ROUNDS`` values.
    """
    ordered = sorted(values)
    count = len(ordered)
    if count < ROUNDS:
        raise InputError(
            f"{count} values give no {CONFIDENCE:.0%} interval", hint=f"measure at least {ROUNDS} rounds"
        )
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


def spread(values: Sequence[float]) -> float:
    """Return the width of the middle half of ``values`` over their median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle

"""Show timings to people: tables for 80 columns, and sentences that claim no more than the numbers carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from compiler import Timing

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 80
"""Columns of a report."""

VERDICTS = {
    "reference": "",
    "faster": "faster",
    "slower": "SLOWER",
    "same": "no difference worth naming",
    "cannot tell": "cannot tell",
}
"""What is said of each verdict."""


def narrow_console() -> Console:
    """Return a console on standard output that is no wider than a report."""
    from rich.console import Console

    return Console(width=min(WIDTH, Console().width), highlight=False)


def plain_table(first: str, *others: str) -> Table:
    """Return a table without lines, numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title_justify="left")
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def timing_table(timings: Mapping[str, Timing]) -> Table:
    """Tabulate the variants' times, their start-up and their memory."""
    table = plain_table("ms", "median", "95 % interval", "p50", "p90", "p99", "load s", "peak MB")
    for name, timing in timings.items():
        median = timing.median_ms
        times = [_ms(median.value), f"{_ms(median.low)} to {_ms(median.high)}"]
        times += [_ms(value) for value in (timing.p50_ms, timing.p90_ms, timing.p99_ms)]
        table.add_row(name, *times, f"{timing.load_s:.2f}", f"{timing.peak_mb:.0f}")
    return table


def ratio_table(timings: Mapping[str, Timing]) -> Table:
    """Tabulate how many times as fast as the first the other variants are."""
    table = plain_table("against the first", "times as fast", "95 % interval")
    table.add_column("", overflow="fold")
    for name, timing in list(timings.items())[1:]:
        ratio = timing.ratio
        bounds = f"{ratio.low:.3f} to {ratio.high:.3f}"
        table.add_row(name, f"{ratio.value:.3f}", bounds, VERDICTS[timing.verdict])
    return table


def conditions(timing: Timing) -> Iterator[str]:
    """Say in words what the machine was like, and how far to trust the numbers."""
    machine = timing.conditions
    threads = count(machine.threads, "thread") if machine.threads else "threads as each has them"
    clock = "processor time" if machine.clock == "processor" else "time"
    yield (
        f"{threads} on {count(machine.processors, 'processor')}, {clock}; "
        f"{100 * machine.foreign:.0f} % of the machine went to others, "
        f"results spread by {100 * machine.spread:.0f} %"
    )
    if machine.busy:
        yield "the machine was busy or restless: run this again before you believe a small difference"


def count(number: int, what: str) -> str:
    """Render a number of things."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _ms(value: float) -> str:
    """Render milliseconds with three digits that count."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"

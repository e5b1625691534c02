"""Compare the outputs of two models on one probe, and describe every output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compiler.verify.certificate import OutputDifference, ProbeResult
from compiler.verify.compare import Difference, Tolerance, compare
from compiler.verify.probes import Probe
from compiler.verify.tolerating import Run, forgives


def compare_outputs(
    probe: Probe,
    how: str,
    names: Sequence[str],
    expected: Sequence[Any],
    got: Sequence[Any],
    tolerance: Tolerance,
    random: frozenset[str],
    run: Run | None,
) -> tuple[ProbeResult, list[str]]:
    """Return the result for all outputs, and notes on what was forgiven.

    Outputs in ``random`` are compared by type and shape.  ``run`` runs the original on other inputs, to tell
    noise from faults; without it nothing is forgiven.
    """
    notes: list[str] = []
    outputs = []
    for place, name in enumerate(names):
        found = compare(expected[place], got[place], tolerance=tolerance)
        if found is not None and name in random and found.index is not None:
            found = None
        if found is not None and run is not None:
            why = forgives(found, probe.feeds, expected[place], run, place)
            if why:
                notes.append(f"output {name!r} on {probe.name}: {why}")
                found = None
        outputs.append(_describe(name, expected[place], got[place], found, name in random))
    return ProbeResult(probe.name, probe.kind, how, _sizes(probe), tuple(outputs)), notes


def _sizes(probe: Probe) -> Mapping[str, int]:
    return dict(probe.binding)


def _describe(name: str, expected: Any, got: Any, found: Difference | None, random: bool) -> OutputDifference:
    why = "" if found is None else str(found)
    if random or not _are_numbers(expected, got):
        return OutputDifference(name, why=why)
    largest, scale, nan = _largest_difference(expected, got)
    return OutputDifference(name, largest, largest / scale if scale else 0.0, why, nan)


def _are_numbers(expected: Any, got: Any) -> bool:
    both = isinstance(expected, np.ndarray) and isinstance(got, np.ndarray)
    return both and expected.dtype == got.dtype and expected.shape == got.shape and expected.dtype.kind in "fVc"


_CHUNK = 1 << 20


def _largest_difference(expected: Any, got: Any) -> tuple[float, float, bool]:
    """Return the largest difference, the largest magnitude, and whether no element is finite."""
    a, b = expected.reshape(-1), got.reshape(-1)
    if np.array_equal(a.view(np.uint8), b.view(np.uint8)) and a.dtype.kind == "f":
        return 0.0, 1.0, bool(a.size) and not bool(np.isfinite(a).any())
    largest = scale = 0.0
    finite_count = 0
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    for start in range(0, a.size, _CHUNK):
        x, y = a[start : start + _CHUNK].astype(wide), b[start : start + _CHUNK].astype(wide)
        with np.errstate(all="ignore"):
            finite = np.isfinite(x) & np.isfinite(y)
            largest = max(largest, float(np.max(np.abs(x - y), where=finite, initial=0.0)))
            scale = max(scale, float(np.max(np.abs(x), where=finite, initial=0.0)))
        finite_count += int(finite.sum())
    return largest, scale, a.size > 0 and finite_count == 0

"""Judge a difference: a fault, or noise that the original itself makes when its inputs move by one ulp.

A model may be ill-conditioned: a difference of the last bit grows until it is over any fixed tolerance.  So
before a small difference counts as a fault, the original runs again on inputs moved by one ulp; what it
changes then, times four, is forgiven, and the certificate says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compiler.errors import WorkerError
from compiler.verify.compare import Difference

_TRIES = 4
_FACTOR = 4.0
_SMALL = 0.1
"""Differences relative to the largest magnitude above which nothing is forgiven."""

Run = Callable[[Mapping[str, Any]], list[Any]]


def forgives(found: Difference, feeds: Mapping[str, Any], reference: Any, run: Run, place: int) -> str:
    """Return why a difference is no fault, or an empty text.

    ``run`` runs the original on other inputs, ``reference`` is its output number ``place`` on ``feeds``.
    """
    if found.minor:
        return "quantized values differ by one"
    if found.nonfinite or found.index is None or not np.isfinite(found.max_abs):
        return ""
    if found.max_abs > _SMALL * max(found.scale, 1e-30) or not isinstance(reference, np.ndarray):
        return ""
    effect = _one_ulp_effect(feeds, reference, run, place)
    if found.max_abs > _FACTOR * effect:
        return ""
    return f"ill-conditioned: one ulp of the inputs changes the original by {effect:.3g}"


def _one_ulp_effect(feeds: Mapping[str, Any], reference: Any, run: Run, place: int) -> float:
    worst = 0.0
    for seed in range(_TRIES):
        try:
            got = run({name: move(value, seed) for name, value in feeds.items()})[place]
        except WorkerError:
            continue
        if not isinstance(got, np.ndarray) or got.shape != reference.shape:
            continue
        with np.errstate(all="ignore"):
            change = np.abs(got.astype(np.float64) - reference.astype(np.float64))
        worst = max(worst, float(np.max(change, where=np.isfinite(change), initial=0.0)))
    return worst


def move(value: Any, seed: int) -> Any:
    """Return a float array with every element moved by at most one ulp; anything else unchanged."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.size == 0:
        return value
    step = np.random.default_rng(seed).integers(-1, 2, size=value.shape)
    with np.errstate(all="ignore"):
        target = np.where(step > 0, np.inf, -np.inf).astype(value.dtype)
        moved = np.where(step == 0, value, np.nextafter(value, target))
    return np.where(np.isfinite(value) & (value != 0) & np.isfinite(moved), moved, value).astype(value.dtype)

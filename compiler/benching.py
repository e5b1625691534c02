"""Time models, bundles and settings side by side: the composition behind ``bench_models`` and ``ampc bench``.

What was measured in calm is kept, each variant against the first, under the keys that the tuner asks by: a compilation
that is tuned for the same inputs, or goes by what is known, measures none of it again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import InputError

if TYPE_CHECKING:
    from compiler.feeding import Feeds
    from compiler.measure.instrument import Instrument, Timing, Variant


def bench_models(
    variants: Mapping[str, Variant],
    *,
    inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    seconds: float = 10.0,
    profile: bool = False,
    timeout: float = 120.0,
    seed: int = 0,
    database: str | os.PathLike[str] | None = None,
    keep: bool = True,
) -> dict[str, Timing]:
    """Time model files and bundles of one interface, each in a process of its own, and compare each with the first.

    ``inputs`` (an ``.npz``, or a mapping of arrays) are drawn when they are not given, with ``dims`` for dynamic dims.
    ``threads`` pins every variant to as many processors, and is the number of its threads where its settings state
    none; by default nothing is pinned and the settings decide.  ``seconds`` is how long to measure, roughly.
    ``profile`` asks for the time of each operator as well.  Comparisons are kept in ``database``, by default the file
    of measurements in the user's cache folder, unless ``keep`` is false or the machine was busy.  Raises
    ``InputError`` for what the caller can mend, ``WorkerError`` when a variant cannot be loaded or run within
    ``timeout`` seconds.
    """
    from compiler.api import _arrays, guarded

    def run() -> dict[str, Timing]:
        from compiler.comparable import check_settings
        from compiler.measure.instrument import Instrument

        if not variants:
            raise InputError("there is nothing to measure", hint="name models or bundles")
        check_settings(variants)
        with Instrument(threads=threads, timeout_s=timeout) as instrument:
            feeds = _feeds(variants, instrument, _arrays(inputs), dims, seed)
            found = instrument.measure(variants, feeds.values, seconds=seconds, sittings=4, profile=profile)
        if keep:
            _keep(variants, found, feeds, threads, Path(database) if database is not None else None)
        return found

    return guarded(run)


def _keep(
    variants: Mapping[str, Variant], found: Mapping[str, Timing], feeds: Feeds, threads: int | None, path: Path | None
) -> None:
    """Put what each variant is against the first into the database; what was measured on a busy machine is not."""
    from compiler.costing import open_store
    from compiler.measure.comparisons import Comparison, Comparisons, models_key
    from compiler.tuning_judge import environment

    first, *others = variants
    if not others or found[first].conditions.busy:
        return
    with open_store(path, write=True) as store:
        for name in others:
            key = models_key(variants[first], variants[name], feeds.shapes(), environment(threads))
            Comparisons(store).put(key, "bench", Comparison.of(found[first], found[name]))


def _feeds(
    variants: Mapping[str, Variant],
    instrument: Instrument,
    inputs: Mapping[str, Any] | None,
    dims: Mapping[str, int] | None,
    seed: int,
) -> Feeds:
    from compiler.backend.session import read_bundle
    from compiler.comparable import shared_sizes
    from compiler.feeding import choose_feeds
    from compiler.opening import open_model, prepare

    first = next(iter(variants.values()))
    model = open_model(read_bundle(first.path).model)
    sizes = shared_sizes(model, variants, dims or {})
    prepare(model)
    return choose_feeds(model, instrument, first, inputs=inputs, dims=sizes, seed=seed)

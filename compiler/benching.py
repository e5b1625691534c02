"""Time models, bundles and settings side by side: the composition behind ``bench_models`` and ``ampc bench``."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
) -> dict[str, Timing]:
    """Time model files and bundles of one interface, each in a process of its own, and compare each with the first.

    ``inputs`` (an ``.npz``, or a mapping of arrays) are drawn when they are not given, with ``dims`` for dynamic dims.
    ``threads`` pins every variant to as many processors, and is the number of its threads where its settings state
    none; by default nothing is pinned and the settings decide.  ``seconds`` is how long to measure, roughly.
    ``profile`` asks for the time of each operator as well.  Raises ``InputError`` for what the caller can mend,
    ``WorkerError`` when a variant cannot be loaded or run within ``timeout`` seconds.
    """
    from compiler.api import _arrays, guarded

    def run() -> dict[str, Timing]:
        from compiler.measure.instrument import Instrument

        if not variants:
            raise InputError("there is nothing to measure", hint="name models or bundles")
        with Instrument(threads=threads, timeout_s=timeout) as instrument:
            feeds = _feeds(next(iter(variants.values())), instrument, _arrays(inputs), dims, seed)
            return instrument.measure(variants, feeds.values, seconds=seconds, sittings=4, profile=profile)

    return guarded(run)


def _feeds(
    variant: Variant,
    instrument: Instrument,
    inputs: Mapping[str, Any] | None,
    dims: Mapping[str, int] | None,
    seed: int,
) -> Feeds:
    from compiler.backend.session import read_bundle
    from compiler.feeding import choose_feeds
    from compiler.opening import open_model, prepare

    model = open_model(read_bundle(variant.path).model)
    prepare(model)
    return choose_feeds(model, instrument, variant, inputs=inputs, dims=dims, seed=seed)

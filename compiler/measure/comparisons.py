"""What was measured before: comparisons of two variants by what they depend on, in the file of measurements.

The tuner asks here first: what is known is not measured again, so that tuning goes on where it was killed, and equal
stores give equal results.  Only what was measured in calm is put here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from compiler.backend.bundle import data_names
from compiler.backend.digest import describe
from compiler.backend.session import merged_settings, read_bundle
from compiler.cost.store import Store
from compiler.measure.instrument import Timing, Variant
from compiler.measure.intervals import Interval

_CPU = "CPUExecutionProvider"
"""The provider that a model runs on when nothing is said."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of timing two variants against each other."""

    ratio: Interval
    """How many times as fast the second is."""
    before_us: float
    """Microseconds of a run of the first, the median."""
    after_us: float
    """Microseconds of a run of the second, the median."""
    rounds: int
    """Timed runs of the second."""
    verdict: str
    """The ratio in a word: ``faster``, ``slower``, ``same`` or ``cannot tell``."""
    clock: str
    """What was counted: ``processor`` or ``wall``."""

    @classmethod
    def of(cls, before: Timing, after: Timing) -> Comparison:
        """Return what two timings say, rounded to what they carry."""
        ratio = after.ratio
        rounded = Interval(*(round(v, 4) for v in (ratio.value, ratio.low, ratio.high, ratio.coverage)))
        us = [round(1e3 * t.median_ms.value, 3) for t in (before, after)]
        return cls(rounded, us[0], us[1], after.runs, after.verdict, after.conditions.clock)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def comparison_key(what: str, **parts: Any) -> str:
    """Return a digest of a kind of comparison and of all that its result depends on, given as JSON values."""
    text = json.dumps([what, parts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def variant_key(variant: Variant) -> list[Any]:
    """Return, as JSON values, what a variant is: the bytes of its files, and the settings that it runs under."""
    opened = read_bundle(variant.path)
    files = [opened.model, *(opened.model.with_name(name) for name in data_names(opened.model))]
    settings = merged_settings(opened.settings, variant.settings)
    settings.setdefault("providers", [[_CPU, {}]])
    return [[sorted(describe(p).items()) for p in files if p.is_file()], settings]


def models_key(before: Variant, after: Variant, shapes: Mapping[str, str], environment: Mapping[str, Any]) -> str:
    """Return the key of a comparison of whole models on inputs of some shapes."""
    variants = [variant_key(v) for v in (before, after)]
    return comparison_key("models", variants=variants, shapes=dict(shapes), **environment)


class Comparisons:
    """The comparisons that a store holds."""

    def __init__(self, store: Store) -> None:
        """Take the store that they are in; it stays its owner's."""
        self.store = store

    def get(self, key: str) -> Comparison | None:
        """Return what was measured, ``None`` when nothing was."""
        row = self.store.rows("comparisons").get(key)
        if row is None:
            return None
        record = json.loads(row[1])
        return Comparison(**{**record, "ratio": Interval(**record["ratio"])})

    def put(self, key: str, what: str, comparison: Comparison, *, replace: bool = True) -> Comparison:
        """Keep what was measured, and return what is kept; ``what`` says to people what it was.

        Without ``replace`` that is what another process has put there meanwhile, so that both decide alike.
        """
        row = (what, json.dumps(comparison.to_json(), sort_keys=True))
        self.store.put("comparisons", key, row, replace=replace)
        return self.get(key) or comparison

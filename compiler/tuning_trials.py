"""What a tuner compares: whole models on the inputs that it tunes for, and fragments under the target's settings.

Decision: threads are as users run the original, the runtime's own choice, unless the target or the caller states a
number; then both run on so many processors.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.backend.fragment import fragment_bytes
from compiler.costing import sizes_of
from compiler.errors import CompilerError, WorkerError
from compiler.feeding import Feeds, choose_feeds
from compiler.measure.comparisons import Comparison, Comparisons, comparison_key, models_key, variant_key
from compiler.measure.instrument import LONG_RUN, Instrument, Variant
from compiler.measure.intervals import Interval
from compiler.tuning_judge import Judge, environment

if TYPE_CHECKING:
    from compiler.compilation import Compilation
    from compiler.ir.graph import Model
    from compiler.tuning_fragments import Pair

FRAGMENTS, REVERTING, SETTINGS = 0.35, 0.7, 0.95
"""Shares of the budget that may be spent when each part ends."""

_START_S = 0.4
"""Seconds that starting a process takes."""

_RUNS = 10
"""Runs of one variant in the shortest sitting, those before the clock starts among them."""

_LONG_RUNS = 6
"""The same of a variant whose runs are long."""

_SITTINGS = 4
"""Sittings of a comparison with the original; two do where runs are long."""

_RESERVED = 0.5
"""The greatest share of the budget that is kept for the last comparison."""

_FRAGMENT_S = 0.8
"""Seconds for one fragment."""

EQUAL = Comparison(Interval(1.0, 1.0, 1.0, 1.0), 0.0, 0.0, 0, "same", "none")
"""Stands for a comparison of two equal models, which is not measured."""


@dataclass(slots=True)
class Trials:
    """The comparisons of one compilation."""

    job: Compilation
    """The compilation, whose target is what results run under."""
    judge: Judge
    """Who is faster."""
    threads: int | None
    """Threads of both variants, where a number is stated."""
    original: Path | None = None
    """The original as a file."""
    feeds: Feeds | None = None
    """Inputs for whole models; ``None`` when nothing can be timed here."""
    least_s: float = 0.0
    """Seconds that one sitting of one variant takes at least: a process, a load, and runs."""
    long: bool = False
    """Whether a run of the original is long."""
    notes: list[str] = field(default_factory=list)
    """Why nothing can be timed."""

    @classmethod
    def start(cls, job: Compilation, model: Model, stack: ExitStack) -> Trials:
        """Make ready to compare forms of ``model``, as it was loaded; ``stack`` ends the processes."""
        o = job.options
        assert o.tune is not None
        stated = job.target.runtime.session.get("intra_op_num_threads", 0)
        threads = stated if isinstance(stated, int) and stated > 0 else None
        instrument = stack.enter_context(Instrument(threads=threads, timeout_s=o.timeout))
        judge = Judge(instrument, Comparisons(job.store), o.tune, environment(threads))
        trials = cls(job, judge, threads)
        with judge.spending():
            trials._find_feeds(model)
        return trials

    def _find_feeds(self, model: Model) -> None:
        o = self.job.options
        try:
            self.original = self._file(model)
            variant = self.as_users_run_it()
            feeds = choose_feeds(model, self.judge.instrument, variant, inputs=o.inputs, seed=o.seed)
        except (WorkerError, CompilerError) as error:
            self.notes.append(f"nothing was timed: {error.why or error.what}")
            return
        self.feeds = replace(feeds, binding={**feeds.binding, **sizes_of(model, feeds.values)})
        self.long = feeds.run_s > LONG_RUN
        self.least_s = _START_S + feeds.load_s + (_LONG_RUNS if self.long else _RUNS) * feeds.run_s
        self.judge.reserve = min(2 * self.sittings * self.least_s, _RESERVED * self.judge.seconds)

    def _file(self, model: Model) -> Path:
        """Return the original as a file that the runtime opens."""
        path = self.job.path
        if path is not None and path.suffix != ".ir":
            return path
        return self.job.output.file(self.job.emitted(model, [], None))

    @property
    def sittings(self) -> int:
        """How many sittings a comparison with the original has at least."""
        return 2 if self.long else _SITTINGS

    # Whole models --------------------------------------------------------------------------------

    def as_users_run_it(self) -> Variant:
        """Return the original at the runtime's defaults, on the target's providers."""
        assert self.original is not None
        return Variant(str(self.original), {"providers": [[name, {}] for name, _ in self.job.target.runtime.providers]})

    def deployed(self, path: Path) -> Variant:
        """Return a model under the settings that the target has now."""
        return Variant(str(path), self.job.target.session_settings())

    def against_original(self, path: Path) -> Comparison | None:
        """Return how many times as fast as the original, as users run it, a result is; ``None`` if unknown."""
        return self.compare(
            "result", self.as_users_run_it(), self.deployed(path), share=1.0, part=0.1, sittings=self.sittings
        )

    def at_length(self, path: Path) -> Comparison | None:
        """Return the same with all the time that is left, for what could not be told."""
        if self.feeds is None:
            return None
        before, after = self.as_users_run_it(), self.deployed(path)
        key = models_key(before, after, self.feeds.shapes(), self.judge.environment)
        key = comparison_key("at length", of=key)
        return self.compare("result, at length", before, after, share=1.0, part=1.0, sittings=4, key=key)

    def compare(
        self, what: str, before: Variant, after: Variant, *, share: float, part: float, sittings: int = 2, key: str = ""
    ) -> Comparison | None:
        """Compare two variants of the model within a share of the budget, for a part of it."""
        if self.feeds is None:
            return None
        return self.judge.compare(
            what,
            before,
            after,
            self.feeds.values,
            key=key or models_key(before, after, self.feeds.shapes(), self.judge.environment),
            seconds=min(30.0, part * self.judge.seconds),
            least_s=self.least_s,
            share=share,
            sittings=sittings,
        )

    def without(
        self, path: Path, gone: Sequence[str], names: Sequence[str], *, share: float = REVERTING
    ) -> tuple[Comparison | None, Path | None]:
        """Return how many times as fast a result is without some more rules or passes, and that form as a file.

        ``gone`` was left out of it already.  The comparison is ``None`` if unknown, the file when it was not needed.
        Its key are the result's bytes and the names: what is known need not be compiled again.
        """
        if self.feeds is None:
            return None, None
        current = self.deployed(path)
        given = {"gone": sorted({*self.job.left_out(), *gone}), "names": list(names), "shapes": self.feeds.shapes()}
        key = comparison_key("without", current=variant_key(current), **given, **self.judge.environment)
        known = self.judge.known(key)
        if known is not None:
            return known, None
        if self.judge.left(share) <= 0:
            return None, None
        built = self.build(*gone, *names)
        other = self.deployed(built)
        if variant_key(other) == variant_key(current):
            return self.judge.store.put(key, "without", EQUAL), built
        return self.compare("without", current, other, share=share, part=0.05, key=key), built

    def build(self, *names: str) -> Path:
        """Return the model compiled without some rules or passes, not verified."""
        self.job.tell(f"tune: without {names[-1]}")
        with self.judge.spending():
            return self.job.output.file(self.job.build_without(names))

    # Fragments -----------------------------------------------------------------------------------

    def fragment(self, pair: Pair) -> Comparison | None:
        """Time both sides of a rewrite; ``None`` if unknown."""
        settings = self.job.target.session_settings()
        key = comparison_key("fragment", identity=pair.key, settings=settings, **self.judge.environment)
        known = self.judge.known(key)
        if known is not None:
            return known
        if self.judge.left(FRAGMENTS) <= 0:
            self.judge.undecided += 1
            return None
        folder = self.job.output.folder()
        paths = [folder / "before.onnx", folder / "after.onnx"]
        for path, model in zip(paths, (pair.before, pair.after), strict=True):
            path.write_bytes(fragment_bytes(model, limits=self.job.limits)[0])
        return self.judge.compare(
            f"fragment {pair.rule}".strip(),
            self.deployed(paths[0]),
            self.deployed(paths[1]),
            pair.feeds,
            key=key,
            seconds=_FRAGMENT_S,
            least_s=_FRAGMENT_S / 8,
            share=FRAGMENTS,
            bound=True,
        )


def explained(found: Comparison) -> dict[str, Any]:
    """Return the ratio of a comparison as a JSON object."""
    return {end: getattr(found.ratio, end) for end in ("value", "low", "high")}

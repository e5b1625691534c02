"""Tune a compilation on this machine: measure what is uncertain, and hand over nothing that is slower.

In this order, each within its share of the seconds: rules whose gain is uncertain are timed on what they match
(``tuning_fragments``); the verified result is timed against the original as users run it, and when it is slower, the
rules at fault are found by bisection and left out; then settings of the session are tried one by one.  When the result
is slower whatever is left out, the original is handed on, with the settings that gain.

What was measured is stored (``tuning_judge``), so tuning resumes after a kill, and equal stores give equal bytes;
seconds and counts are reported apart.  What cannot be told changes nothing.  A result counts as slower when the whole
interval of its speed lies below that of the original, twice, in fresh processes: two processes that run the same file
differ by a percent or two.

Decision: threads are as users run the original, the runtime's own choice, unless the target or the caller states a
number; then both run on so many processors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler import manager
from compiler.backend import bundle
from compiler.backend.digest import describe
from compiler.backend.fragment import fragment_bytes
from compiler.cost.work import Sizes
from compiler.errors import CompilerError, UnsupportedError, WorkerError
from compiler.feeding import Feeds, choose_feeds
from compiler.measure.comparisons import Comparison, Comparisons, default_path
from compiler.measure.instrument import Instrument, Variant
from compiler.planning import rule_context
from compiler.result import Attempt, Measures
from compiler.tuning_bisect import narrowed
from compiler.tuning_fragments import Fragments, Pair, RuleGain, gains_of, uncertain
from compiler.tuning_judge import Judge, environment
from compiler.tuning_settings import changes, with_session

if TYPE_CHECKING:
    from compiler.compilation import Compilation
    from compiler.ir.graph import Model

_FRAGMENTS, _REVERTING, _SETTINGS = 0.35, 0.7, 0.9
"""Shares of the budget that may be spent when each part ends; what remains is for the last comparison."""

_FRAGMENT_S = 0.8
"""Seconds for one fragment, the start of processes left out of account."""

_REVERTS = 3
"""How often rules are searched for and left out."""

_CANNOT_TELL = "cannot tell: the machine was too busy, or there was not enough time; the default choice is kept"


@dataclass(slots=True)
class Tuner:
    """The tuning of one compilation."""

    job: Compilation
    """The compilation; its target gets the settings that are found, its ``gains`` what rules gain."""
    judge: Judge
    """Who is faster."""
    threads: int | None
    """Threads of both variants, where a number is stated."""
    original: Path | None = None
    """The original as a file."""
    feeds: Feeds | None = None
    """Inputs for whole models; ``None`` when nothing can be timed here."""
    run_s: float = 0.0
    """Seconds of a run of the original."""
    gains: dict[str, RuleGain] = field(default_factory=dict)
    """What rules were found to gain."""
    settings: list[dict[str, Any]] = field(default_factory=list)
    """Settings that were tried."""
    reverted: dict[str, str] = field(default_factory=dict)
    """Rules and passes that were left out since the result was slower with them, and why."""
    searches: int = 0
    """How often these were searched for."""
    first: Comparison | None = None
    """The result before anything was left out, where it was slower."""
    final: Comparison | None = None
    """The result against the original."""
    notes: list[str] = field(default_factory=list)
    """What could not be told, and why."""

    @classmethod
    def start(cls, job: Compilation, model: Model, stack: ExitStack) -> Tuner:
        """Make ready to tune ``model``, as it was loaded; what is opened is closed by ``stack``."""
        o = job.options
        assert o.tune is not None
        stated = job.target.runtime.session.get("intra_op_num_threads", 0)
        threads = stated if isinstance(stated, int) and stated > 0 else None
        store = stack.enter_context(Comparisons(o.database or default_path(), write=o.tune > 0))
        instrument = stack.enter_context(Instrument(threads=threads, timeout_s=o.timeout))
        around = environment(threads, [name for name, _ in job.target.runtime.providers])
        tuner = cls(job, Judge(instrument, store, o.tune, around), threads)
        tuner._find_feeds(model)
        return tuner

    # Preparation ---------------------------------------------------------------------------------

    def _find_feeds(self, model: Model) -> None:
        o = self.job.options
        with self.judge.spending():
            try:
                self.original = self._file(model)
                variant = self._as_users_run_it()
                self.feeds = choose_feeds(model, self.judge.instrument, variant, inputs=o.inputs, seed=o.seed)
                self.run_s = self.judge.instrument.try_out("the original", variant, self.feeds.values)
            except (WorkerError, CompilerError) as error:
                self.notes.append(f"nothing was timed: {error.why or error.what}")

    def _file(self, model: Model) -> Path:
        """Return the original as a file that the runtime opens."""
        path = self.job.path
        if path is not None and path.suffix != ".ir":
            return path
        attempt = self.job.emitted(model, [], None)
        return self.job.scratch_file(attempt)

    def _as_users_run_it(self) -> Variant:
        """Return the original at the runtime's defaults, on the target's providers."""
        assert self.original is not None
        return Variant(str(self.original), {"providers": [[name, {}] for name, _ in self.job.target.runtime.providers]})

    def _deployed(self, path: Path) -> Variant:
        return Variant(str(path), self.job.target.session_settings())

    # Fragments -----------------------------------------------------------------------------------

    def weigh_rules(self, model: Model) -> None:
        """Find out what uncertain rules gain on a model, which is used up; the compilation's ``gains`` say it."""
        if self.feeds is None or self.job.options.select != "cost":
            return
        fragments = self._explore(model, self.feeds)
        measured: list[tuple[Pair, Comparison]] = []
        missed: list[Pair] = []
        for pair in fragments.ordered():
            self.job.tell(f"tune: {pair.rule}")
            found = self._time(pair)
            if found is None:
                missed.append(pair)
            else:
                measured.append((pair, found))
        self.gains, unknown = gains_of(measured, missed)
        self.job.gains = {n: round(g.gain, 4) for n, g in self.gains.items() if g.verdict != "cannot tell"}
        self.notes += [f"{name}: {_CANNOT_TELL}" for name in unknown]

    def _explore(self, model: Model, feeds: Feeds) -> Fragments:
        """Run the pipeline with every rule admitted that may pay, and return what those rewrote that are uncertain."""
        o = self.job.options
        lower = [name for name, rule in manager.known_rules().items() if rule.stage == "lower"]
        fragments = Fragments(frozenset(), Sizes(feeds.binding))
        left_out = self.job.left_out()
        context = rule_context(
            self.job.target, model, evaluate=self.job.evaluator(model), left_out=left_out, listeners=[fragments.rewrote]
        )
        fragments.rules = uncertain(lower, context.gains)
        context.gains = {**context.gains, **dict.fromkeys(fragments.rules, 2.0)}
        context.measured = dict.fromkeys(fragments.rules, 2.0)
        with self.judge.spending():
            runner = manager.Runner(model, context, disable=left_out, until=o.until, verify_each=False)
            runner.run(self.job.steps)
        return fragments

    def _time(self, pair: Pair) -> Comparison | None:
        folder = self.job.scratch_folder()
        paths = {"before": folder / "before.onnx", "after": folder / "after.onnx"}
        for name, model in (("before", pair.before), ("after", pair.after)):
            data, _ = fragment_bytes(model, limits=self.job.limits)
            paths[name].write_bytes(data)
        return self.judge.compare(
            "fragment",
            self._deployed(paths["before"]),
            self._deployed(paths["after"]),
            pair.feeds,
            identity=[pair.key],
            seconds=_FRAGMENT_S + 1,
            run_s=0.0,
            share=_FRAGMENTS,
            bound=True,
        )

    # The result ----------------------------------------------------------------------------------

    def is_slower(self, path: Path) -> Comparison | None:
        """Return how the result compares with the original when it is slower, ``None`` when it is not."""
        found = self._against_original(path)
        if found is None or found.ratio.high >= 1:
            return None
        self.judge.instrument.close()
        again = self._against_original(path, what="result, again")
        return found if again is not None and again.ratio.high < 1 else None

    def _against_original(self, path: Path, *, what: str = "result") -> Comparison | None:
        return self._compare(what, self._as_users_run_it(), self._deployed(path), share=1.0, part=0.1)

    def _compare(
        self, what: str, before: Variant, after: Variant, *, share: float, part: float
    ) -> Comparison | None:
        if self.feeds is None:
            return None
        identity = [_identity(Path(v.path)) for v in (before, after)]
        return self.judge.compare(
            what,
            before,
            after,
            self.feeds.values,
            identity=[*identity, self.feeds.shapes()],
            seconds=min(30.0, max(part * self.judge.seconds, self._least)),
            run_s=self.run_s,
            share=share,
        )

    @property
    def _least(self) -> float:
        """Seconds that a comparison of whole models takes at least."""
        return 2 + 40 * self.run_s

    def find_guilty(self, attempt: Attempt, path: Path, slow: Comparison) -> None:
        """Leave out the rules that make the result slower, or else the passes.

        Raises ``UnsupportedError`` when nothing helps, so that the original is handed on.
        """
        self.first = self.first or slow
        self.searches += 1
        rules = list(dict.fromkeys(name for record in attempt.records for name in record.fired))
        passes = list(dict.fromkeys(record.name for record in attempt.records if record.changed and not record.fired))
        current = self._deployed(path)

        def is_better(without: Sequence[str]) -> bool:
            built = self._built(without)
            if built is None:
                return False
            found = self._compare("without", current, self._deployed(built), share=_REVERTING, part=0.08)
            return found is not None and found.ratio.low > 1

        guilty: list[str] = []
        if self.searches <= _REVERTS:
            guilty = narrowed(rules, is_better) or narrowed(passes, is_better)
        if not guilty:
            self._give_up(f"the result was slower than the original: {slow.ratio} times as fast")
        for name in guilty:
            self.reverted[name] = f"with it the result was slower than the original: {slow.ratio} times as fast"

    def _built(self, without: Sequence[str]) -> Path | None:
        """Return the model compiled without some rules or passes, not verified; ``None`` when there is no time for it."""
        if self.judge.seconds and self.judge.left(_REVERTING) <= 0:
            return None
        self.job.tell(f"tune: without {without[0]}" + (f" and {len(without) - 1} more" if len(without) > 1 else ""))
        with self.judge.spending():
            return self.job.scratch_file(self.job.build_without(without))

    def _give_up(self, why: str) -> None:
        assert self.original is not None
        self.notes.append(why)
        self.tune_settings(self.original, Measures.of(self.job.load_again()).census)
        self.final = self._against_original(self.original)
        raise UnsupportedError("no rewritten form of the model is as fast as the original", why=why)

    # Settings ------------------------------------------------------------------------------------

    def tune_settings(self, path: Path, operators: Any) -> bool:
        """Try settings on a model file and put those that gain into the target; return whether there are any."""
        from targets.machine import machine

        job, found = self.job, False
        base = job.target
        for change in changes(base, threads=self.threads, cores=machine().cores, operators=operators):
            job.tell(f"tune: {change.title}")
            other = with_session(job.target, change.session)
            if other == job.target:
                continue
            variants = [Variant(str(path), t.session_settings()) for t in (job.target, other)]
            result = self._compare("settings", *variants, share=_SETTINGS, part=0.05)
            taken = result is not None and result.verdict == "faster"
            self.settings.append(_tried(change.title, dict(change.session), result, taken))
            if taken:
                job.target, found = other, True
        return found

    def finish(self, path: Path) -> None:
        """Time the result against the original for the report."""
        self.job.tell("tune: the result")
        self.final = self._against_original(path)
        if self.final is None and self.feeds is not None:
            self.notes.append(f"the result against the original: {_CANNOT_TELL}")

    # The report ----------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return what was found, the same for equal stores."""
        final = self.final
        return {
            "verdict": final.verdict if final is not None else "cannot tell",
            "result": final.to_json() if final is not None else None,
            "before_reverting": self.first.to_json() if self.first is not None else None,
            "reverted": dict(self.reverted),
            "rules": [gain.to_json() for gain in self.gains.values()],
            "settings": self.settings,
            "dims": dict(self.feeds.binding) if self.feeds is not None else {},
            "inputs": self.feeds.shapes() if self.feeds is not None else {},
            "environment": dict(self.judge.environment),
            "notes": [*self.notes, *(f"not timed: {why}" for why in self.judge.failures)],
        }


def _tried(title: str, session: dict[str, Any], result: Comparison | None, taken: bool) -> dict[str, Any]:
    record = {"title": title, "session": session, "taken": taken}
    if result is None:
        return {**record, "verdict": "cannot tell"}
    ratio = {end: getattr(result.ratio, end) for end in ("value", "low", "high")}
    return {**record, "verdict": result.verdict, "ratio": ratio}


def _identity(path: Path) -> list[Any]:
    """Return what a model file is, and the file of weights that the compiler puts beside it."""
    files = [path, *(p for name in bundle.data_names(path) if (p := path.with_name(name)).is_file())]
    return [sorted(describe(p).items()) for p in files if os.path.isfile(p)]

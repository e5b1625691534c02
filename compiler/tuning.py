"""Tune a compilation on this machine: measure what is uncertain, and hand over nothing that is slower.

In this order, each within its share of the seconds: rules whose gain is uncertain are timed on what they match
(``tuning_fragments``); the verified result is timed against the original as users run it, and when it is slower, the
rules at fault are found by bisection and left out; rules that are there for speed are then left out one by one where
the result is faster without; then settings of the session are tried.  When the result is slower whatever is left out,
the original is handed on, with the settings that gain.

What was measured is stored (``tuning_judge``), so tuning resumes after a kill, and equal stores give equal bytes;
seconds and counts are reported apart.  What cannot be told changes nothing.  A result counts as slower when the whole
interval of its speed lies below that of the original.

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

import numpy as np

from compiler import manager
from compiler.backend import bundle
from compiler.backend.digest import describe
from compiler.backend.fragment import fragment_bytes
from compiler.cost.database import Circumstances, Database, default_path
from compiler.cost.work import Sizes
from compiler.costing import cost_model, threads_of
from compiler.errors import CompilerError, UnsupportedError, WorkerError
from compiler.feeding import Feeds, choose_feeds
from compiler.measure.comparisons import Comparison, Comparisons
from compiler.measure.instrument import Instrument, Variant
from compiler.planning import rule_context
from compiler.result import Attempt, Measures
from compiler.tuning_bisect import narrowed
from compiler.tuning_fragments import Fragments, Pair, RuleGain, gains_of, idle_model, uncertain
from compiler.tuning_judge import Judge, environment
from compiler.tuning_settings import changes, with_session

if TYPE_CHECKING:
    from compiler.compilation import Compilation
    from compiler.cost.model import CostModel
    from compiler.ir.graph import Model

_FRAGMENTS, _REVERTING, _SETTINGS = 0.35, 0.7, 0.9
"""Shares of the budget that may be spent when each part ends; what remains is for the last comparison."""

_START_S = 0.4
"""Seconds that starting a process takes."""

_RUNS = 10
"""Runs of one variant in the shortest sitting, those before the clock starts among them."""

_FRAGMENT_S = 0.8
"""Seconds for one fragment."""

_SUSPECTS = ("lower", "optimize")
"""Stages whose rules are tried one by one: they are there for speed alone."""

_MOST_SUSPECTS = 12
"""Rules that are tried one by one at most: each takes a run of the pipeline."""

_LEAST_US = 0.5
"""Microseconds that a fragment takes at least."""

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
    database: Database
    """Where the cost model finds fragments that were measured."""
    threads: int | None
    """Threads of both variants, where a number is stated."""
    original: Path | None = None
    """The original as a file."""
    feeds: Feeds | None = None
    """Inputs for whole models; ``None`` when nothing can be timed here."""
    least_s: float = 0.0
    """Seconds that one sitting of one variant takes at least: a process, a load, and runs."""
    gains: dict[str, RuleGain] = field(default_factory=dict)
    """What rules were found to gain."""
    settings: list[dict[str, Any]] = field(default_factory=list)
    """Settings that were tried."""
    reverted: dict[str, str] = field(default_factory=dict)
    """Rules and passes that were left out since the result was slower with them, and why."""
    searches: int = 0
    """How often these were searched for."""
    pruned: bool = False
    """Whether rules were tried one by one already."""
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
        path, write = o.database or default_path(), o.tune > 0
        store = stack.enter_context(Comparisons(path, write=write))
        around = Circumstances.here(
            threads=threads_of(job.target),
            provider=job.target.runtime.providers[0][0],
            settings=job.target.session_settings(),
        )
        database = stack.enter_context(Database(path, around, write=write))
        instrument = stack.enter_context(Instrument(threads=threads, timeout_s=o.timeout))
        here = environment(threads, [name for name, _ in job.target.runtime.providers])
        tuner = cls(job, Judge(instrument, store, o.tune, here), database, threads)
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
                load_s, run_s = self.judge.instrument.try_out("the original", variant, self.feeds.values)
                self.least_s = _START_S + load_s + _RUNS * run_s
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
        self.job.gains = {n: round(g.gain, 4) for n, g in self.gains.items() if g.verdict in ("faster", "slower")}
        self._keep(measured)
        self.notes += [f"{name}: {_CANNOT_TELL}" for name in unknown]

    def _explore(self, model: Model, feeds: Feeds) -> Fragments:
        """Run the pipeline with every uncertain rule admitted, and return what these rewrote."""
        job = self.job
        left_out = job.left_out()
        with self.judge.spending():
            doubted = self._doubted(job.load_again(), left_out)
            fragments = Fragments(doubted, Sizes(feeds.binding))
            context = rule_context(
                job.target, model, evaluate=job.evaluator(model), left_out=left_out, listeners=[fragments.rewrote]
            )
            admitted = dict.fromkeys(doubted, 2.0)
            context.gains, context.measured = {**context.gains, **admitted}, admitted
            runner = manager.Runner(model, context, disable=left_out, until=job.options.until, verify_each=False)
            runner.run(job.steps)
        return fragments

    def _doubted(self, model: Model, left_out: frozenset[str]) -> frozenset[str]:
        """Return the lowering rules whose gain is uncertain, in general or at a place of this model."""
        job = self.job
        lower = [name for name, rule in manager.known_rules().items() if rule.stage == "lower"]
        context = rule_context(job.target, model, evaluate=job.evaluator(model), left_out=left_out)
        runner = manager.Runner(model, context, disable=left_out, until=job.options.until, verify_each=False)
        runner.run(job.steps)
        expected = {d.options[1].name if d.chosen == "keep" else d.chosen: d.gain for d in context.decisions}
        return uncertain(lower, context.gains) | uncertain(expected, expected)

    def cost_model(self, model: Model) -> CostModel | None:
        """Return the cost model at the sizes that are tuned for; it knows what was measured."""
        binding = self.feeds.binding if self.feeds is not None else {}
        return cost_model(self.job.target, model, binding=binding, database=self.database)

    def _keep(self, measured: Sequence[tuple[Pair, Comparison]]) -> None:
        """Tell the cost model of fragments that are certainly faster or slower, less what an idle run takes."""
        certain = [(p, c) for p, c in measured if p.sides is not None and c.verdict in ("faster", "slower")]
        if not self.judge.seconds or self.feeds is None or not certain:
            return
        idle = self._time(Pair("", "idle", idle_model(), idle_model(), {"x": np.ones(1, np.float32)}, 1, None))
        if idle is None:
            return
        for pair, found in certain:
            assert pair.sides is not None
            before = max(found.before_us - idle.before_us, _LEAST_US)
            after = before / found.ratio.value
            bounds = sorted((before / found.ratio.high, before / found.ratio.low))
            for nodes, us, (low, high) in ((pair.sides[0], before, (before, before)), (pair.sides[1], after, bounds)):
                numbers = [round(n, 3) for n in (us, low, high)]
                self.database.put(
                    nodes, Sizes(self.feeds.binding), us=numbers[0], low=numbers[1], high=numbers[2], runs=found.rounds
                )

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
            seconds=_FRAGMENT_S,
            least_s=_FRAGMENT_S / 8,
            share=_FRAGMENTS,
            bound=True,
        )

    # The result ----------------------------------------------------------------------------------

    def reverts_more(self, attempt: Attempt, path: Path) -> bool:
        """Leave out what makes a result slower than the original, or than it could be; return whether there is any.

        Raises ``UnsupportedError`` when the result is slower and nothing helps, so that the original is handed on.
        """
        slow = self._is_slower(path)
        if slow is not None:
            self._find_guilty(attempt, path, slow)
            return True
        if self.pruned:
            return False
        self.pruned = True
        return self._prune(attempt, path)

    def _prune(self, attempt: Attempt, path: Path) -> bool:
        """Leave out single rules without which the result is faster, those that choose forms of operators first."""
        known = manager.known_rules()
        fired = {name for record in attempt.records for name in record.fired}
        suspects = [n for stage in _SUSPECTS for n in sorted(fired) if n in known and known[n].stage == stage]
        found = {}
        for name in suspects[:_MOST_SUSPECTS]:
            better = self._without(self._deployed(path), [name])
            if better is not None and better.verdict == "faster":
                found[name] = f"without it the result is {better.ratio} times as fast"
        self.reverted |= found
        return bool(found)

    def _is_slower(self, path: Path) -> Comparison | None:
        """Return how the result compares with the original when it is slower, ``None`` when it is not."""
        found = self._against_original(path)
        return found if found is not None and found.ratio.high < 1 else None

    def _against_original(self, path: Path) -> Comparison | None:
        return self._compare("result", self._as_users_run_it(), self._deployed(path), share=1.0, part=0.1)

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
            seconds=min(30.0, part * self.judge.seconds),
            least_s=self.least_s,
            share=share,
            sittings=4 if what.startswith("result") else 2,
        )

    def _find_guilty(self, attempt: Attempt, path: Path, slow: Comparison) -> None:
        """Leave out the rules that make the result slower, or else the passes.

        Raises ``UnsupportedError`` when nothing helps, so that the original is handed on.
        """
        self.first = self.first or slow
        self.searches += 1
        rules = list(dict.fromkeys(name for record in attempt.records for name in record.fired))
        passes = list(dict.fromkeys(record.name for record in attempt.records if record.changed and not record.fired))
        current = self._deployed(path)

        def is_better(without: Sequence[str]) -> bool:
            found = self._without(current, without)
            return found is not None and found.ratio.low > 1

        guilty: list[str] = []
        if self.searches <= _REVERTS:
            guilty = narrowed(rules, is_better) or narrowed(passes, is_better)
        if not guilty:
            self._give_up(f"the result was slower than the original: {slow.ratio} times as fast")
        for name in guilty:
            self.reverted[name] = f"with it the result was slower than the original: {slow.ratio} times as fast"

    def _without(self, current: Variant, names: Sequence[str]) -> Comparison | None:
        """Return how many times as fast the result is without some rules or passes, ``None`` if unknown."""
        built = self._built(names)
        if built is None or _identity(built) == _identity(Path(current.path)):
            return None
        return self._compare("without", current, self._deployed(built), share=_REVERTING, part=0.05)

    def _built(self, without: Sequence[str]) -> Path | None:
        """Return the model compiled without some rules or passes, not verified; ``None`` when time is up."""
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
        if self.final is None or self.final.verdict == "cannot tell":
            variants = self._as_users_run_it(), self._deployed(path)
            self.final = self._compare("result, at length", *variants, share=1.0, part=1.0) or self.final
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

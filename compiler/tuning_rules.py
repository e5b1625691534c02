"""Find out which lowering rules pay on a model, before it is compiled: what they match is timed (``tuning_fragments``).

The pipeline runs once to learn which rules are in doubt, and once with all of these admitted.  Neither run asks what
was measured before, so that equal models raise equal questions, and tuning that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from compiler import manager
from compiler.cost.work import Sizes
from compiler.costing import cost_model
from compiler.measure.comparisons import Comparison
from compiler.planning import rule_context
from compiler.tuning_fragments import Fragments, Pair, RuleGain, gains_of, idle_model, uncertain

if TYPE_CHECKING:
    from compiler.cost.database import Database
    from compiler.ir.graph import Model
    from compiler.rewrite.transform import Context
    from compiler.tuning_trials import Trials

_ADMITTED = 2.0
"""The gain that makes the cost model take a rule wherever it fits."""

_LEAST_US = 0.5
"""Microseconds that a fragment takes at least."""


def weigh_rules(trials: Trials, model: Model, database: Database | None) -> tuple[dict[str, RuleGain], list[str]]:
    """Return what uncertain rules gain on a model, which is used up, and the rules of which that is not known.

    What is certain of fragments goes into ``database``, where the cost model finds it.
    """
    if trials.feeds is None or trials.job.options.select != "cost":
        return {}, []
    if not trials.judge.seconds and not trials.job.store.rows("comparisons"):
        return {}, []
    measured: list[tuple[Pair, Comparison]] = []
    missed: list[Pair] = []
    pairs = _explore(trials, model).ordered()
    idle = trials.fragment(_idle()) if pairs else None
    for pair in pairs:
        trials.job.tell(f"tune: {pair.rule}")
        found = trials.fragment(pair)
        if found is None:
            missed.append(pair)
        else:
            measured.append((pair, found))
    if database is not None and idle is not None and trials.judge.seconds:
        _keep(trials, database, measured, idle.before_us)
    return gains_of(measured, missed)


def _explore(trials: Trials, model: Model) -> Fragments:
    """Run the pipeline with every uncertain rule admitted, and return what these rewrote."""
    assert trials.feeds is not None
    job = trials.job
    with trials.judge.spending():
        before = _context(trials, doubted := job.load_again(), None)
        _run(trials, doubted, before)
        rules = _doubted(before)
        fragments = Fragments(rules, Sizes(trials.feeds.binding))
        context = _context(trials, model, fragments)
        admitted = dict.fromkeys(rules, _ADMITTED)
        context.gains, context.measured = {**context.gains, **admitted}, admitted
        _run(trials, model, context)
    return fragments


def _context(trials: Trials, model: Model, fragments: Fragments | None) -> Context:
    job = trials.job
    return rule_context(
        job.target,
        model,
        evaluate=job.evaluator(model),
        left_out=job.left_out(),
        listeners=[] if fragments is None else [fragments.rewrote],
        cost=cost_model(job.target, model, binding=job.sizes),
    )


def _run(trials: Trials, model: Model, context: Context) -> None:
    job = trials.job
    runner = manager.Runner(model, context, disable=job.left_out(), until=job.options.until, verify_each=False)
    runner.run(job.steps)


def _doubted(context: Context) -> frozenset[str]:
    """Return the lowering rules whose gain is uncertain, in general or at a place of the model that was compiled."""
    lower = [name for name, rule in manager.known_rules().items() if rule.stage == "lower"]
    expected = {d.options[1].name if d.chosen == "keep" else d.chosen: d.gain for d in context.decisions}
    return uncertain(lower, context.gains) | uncertain(expected, expected)


def _idle() -> Pair:
    """Return what shows the time that a run takes besides its nodes."""
    return Pair("", "idle", idle_model(), idle_model(), {"x": np.ones(1, np.float32)}, 1, None)


def _keep(trials: Trials, database: Database, measured: Sequence[tuple[Pair, Comparison]], idle_us: float) -> None:
    """Tell the cost model of fragments that are certainly faster or slower, less what an idle run takes."""
    certain = [(p.sides, c) for p, c in measured if p.sides is not None and c.verdict in ("faster", "slower")]
    sizes = Sizes(trials.feeds.binding if trials.feeds is not None else {})
    for (old, new), found in certain:
        before = max(found.before_us - idle_us, _LEAST_US)
        after = before / found.ratio.value
        low, high = sorted((before / found.ratio.high, before / found.ratio.low))
        database.put(old, sizes, us=round(before, 3), low=round(before, 3), high=round(before, 3), runs=found.rounds)
        database.put(new, sizes, us=round(after, 3), low=round(low, 3), high=round(high, 3), runs=found.rounds)

"""Tune a compilation on this machine: measure what is uncertain, and hand over nothing that is slower.

In this order, each within its share of the seconds: rules whose gain is uncertain are timed on what they match
(``tuning_rules``); the verified result is timed against the original as users run it, and when it is slower, what is at
fault is left out, as are rules for speed without which the result is faster (``tuning_reverts``); then settings of the
session are tried (``tuning_settings``); at last the result is timed against the original once more.  When it is slower
whatever is left out, the original is handed on, with the settings that gain.

What was measured is stored (``tuning_judge``), so tuning resumes after a kill, and equal stores give equal bytes;
seconds and counts are reported apart.  What cannot be told changes nothing.  A result counts as slower when the whole
interval of its speed lies below that of the original.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from compiler.errors import UnsupportedError
from compiler.measure.comparisons import Comparison
from compiler.measure.instrument import Variant
from compiler.result import Measures
from compiler.tuning_fragments import RuleGain
from compiler.tuning_judge import Judge
from compiler.tuning_reverts import Reverts
from compiler.tuning_rules import weigh_rules
from compiler.tuning_settings import changes, with_session
from compiler.tuning_trials import SETTINGS, Trials, explained

if TYPE_CHECKING:
    from compiler.compilation import Built, Compilation
    from compiler.ir.graph import Model
    from targets import Target

_CANNOT_TELL = "cannot tell: the machine was too busy, or there was not enough time; the default choice is kept"


@dataclass(slots=True)
class Tuner:
    """The tuning of one compilation."""

    job: Compilation
    """The compilation; its target gets the settings that are found, its ``gains`` what rules gain."""
    trials: Trials
    """What compares."""
    reverts: Reverts
    """What is left out."""
    base: Target
    """The target as it was asked for."""
    gains: dict[str, RuleGain] = field(default_factory=dict)
    """What rules were found to gain."""
    settings: list[dict[str, Any]] = field(default_factory=list)
    """Settings that were tried."""
    first: Comparison | None = None
    """The result before anything was left out, where it was slower."""
    final: Comparison | None = None
    """The result against the original."""
    notes: list[str] = field(default_factory=list)
    """What could not be told, and why."""

    @classmethod
    def start(cls, job: Compilation, model: Model, stack: ExitStack) -> Tuner:
        """Make ready to tune ``model``, as it was loaded; what is opened is closed by ``stack``."""
        trials = Trials.start(job, model, stack)
        if trials.feeds is not None:
            job.sizes = trials.feeds.binding
        return cls(job, trials, Reverts(trials), job.target)

    @property
    def judge(self) -> Judge:
        """Who is faster, and what that took."""
        return self.trials.judge

    def tune(self, model: Model, place: Path | None) -> Built:
        """Return the fastest form of a model, which is used up, that was found and verified.

        Raises ``UnsupportedError`` when no form is as fast as the original, which is to be handed on then.
        """
        self._weigh_rules(model)
        built = self.job.verified(self.job.load_again(), place)
        while self._reverts_more(built, path := self.job.as_file(built)):
            built = self.job.verified(self.job.load_again(), place)
        return self._settled(built, path)

    # Rules ---------------------------------------------------------------------------------------

    def _weigh_rules(self, model: Model) -> None:
        """Find out what uncertain rules gain; the compilation's ``gains`` say it."""
        self.gains, unknown = weigh_rules(self.trials, model, self.job.database)
        self.job.gains = {n: round(g.gain, 4) for n, g in self.gains.items() if g.verdict in ("faster", "slower")}
        self.notes += [f"{name}: {_CANNOT_TELL}" for name in unknown]

    def _reverts_more(self, built: Built, path: Path) -> bool:
        """Leave out what makes a result slower; return whether there is any."""
        slow = _slower(self.trials.against_original(path))
        if slow is None:
            paying = [name for name, gain in self.gains.items() if gain.verdict == "faster"]
            return self.reverts.prune(built.attempt, path, paying)
        self.first = self.first or slow
        if not self.reverts.find_guilty(built.attempt, path, slow):
            self._give_up(slow)
        return True

    def _give_up(self, slow: Comparison) -> NoReturn:
        """Hand on the original, with settings that gain."""
        assert self.trials.original is not None
        why = f"the result was slower than the original: {slow.ratio} times as fast"
        self.notes.append(why)
        self.job.target = self.base
        self.settings.clear()
        original = self.trials.original
        self._try_settings(original, Measures.of(self.job.load_again()).census)
        self.final = self.trials.against_original(original)
        if _slower(self.final) is not None and self.job.target != self.base:
            self._drop_settings()
            self.final = self.trials.against_original(original)
        raise UnsupportedError("no rewritten form of the model is as fast as the original", why=why)

    # Settings and the end ------------------------------------------------------------------------

    def _settled(self, built: Built, path: Path) -> Built:
        """Return a result with the settings that gain; the last comparison is that of what is handed over."""
        plain, result = built, built
        if self._try_settings(path, Measures.of(built.attempt.model).census):
            certificate = self.job.verify(built.attempt, built.candidate)
            result = dataclasses.replace(built, certificate=certificate)
            if certificate is not None and not certificate.verified:
                self._drop_settings()
                self.notes.append(f"settings are not changed: with them, {certificate.reason}")
                result = plain
        self.final = self._compared(path)
        if _slower(self.final) is not None and self.job.target != self.base:
            self._drop_settings()
            self.final, result = self._compared(path), plain
        if (slow := _slower(self.final)) is not None:
            self.first = self.first or slow
            self._give_up(slow)
        if self.final is None and self.trials.feeds is not None:
            self.notes.append(f"the result against the original: {_CANNOT_TELL}")
        return result

    def _compared(self, path: Path) -> Comparison | None:
        """Return how a result compares with the original, with all the time that is left where that is doubtful."""
        self.job.tell("tune: the result")
        found = self.trials.against_original(path)
        if found is None or found.verdict == "cannot tell":
            return self.trials.at_length(path) or found
        return found

    def _try_settings(self, path: Path, operators: Collection[str]) -> bool:
        """Try settings on a model file and put those that gain into the target; return whether there are any."""
        from targets.machine import machine

        job, threads = self.job, self.trials.threads
        for change in changes(job.target, threads=threads, cores=machine().cores, operators=operators):
            other = with_session(job.target, change.session)
            if other == job.target:
                continue
            job.tell(f"tune: {change.title}")
            variants = [Variant(str(path), t.session_settings()) for t in (job.target, other)]
            found = self.trials.compare("settings", variants[0], variants[1], share=SETTINGS, part=0.05)
            taken = found is not None and found.verdict == "faster"
            self.settings.append(_tried(change.title, dict(change.session), found, taken))
            if taken:
                job.target = other
        return job.target != self.base

    def _drop_settings(self) -> None:
        self.job.target = self.base
        for tried in self.settings:
            tried["taken"] = False

    # The report ----------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return what was found, the same for equal stores."""
        final, feeds = self.final, self.trials.feeds
        return {
            "verdict": final.verdict if final is not None else "cannot tell",
            "result": final.to_json() if final is not None else None,
            "before_reverting": self.first.to_json() if self.first is not None else None,
            "reverted": dict(self.reverts.reasons),
            "rules": [gain.to_json() for gain in self.gains.values()],
            "settings": self.settings,
            "dims": dict(feeds.binding) if feeds is not None else {},
            "inputs": feeds.shapes() if feeds is not None else {},
            "environment": dict(self.judge.environment),
            "notes": [*self.trials.notes, *self.notes, *(f"not timed: {why}" for why in self.judge.failures)],
        }


def _slower(found: Comparison | None) -> Comparison | None:
    """Return a comparison when it says that a result is slower than the original, ``None`` when it is not."""
    return found if found is not None and found.ratio.high < 1 else None


def _tried(title: str, session: dict[str, Any], found: Comparison | None, taken: bool) -> dict[str, Any]:
    record = {"title": title, "session": session, "taken": taken}
    if found is None:
        return {**record, "verdict": "cannot tell"}
    return {**record, "verdict": found.verdict, "ratio": explained(found)}

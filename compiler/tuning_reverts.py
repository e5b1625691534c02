"""Leave out what makes a result slower: than the original, or than it could be.

A result that is slower than the original has rules at fault: bisection finds them, or else passes at fault.  One that
is not slower may still hold a rule for speed without which it is faster: such rules are tried one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from compiler import manager
from compiler.measure.comparisons import Comparison
from compiler.tuning_bisect import narrowed
from compiler.tuning_trials import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Collection

    from compiler.result import Attempt
    from compiler.tuning_trials import Trials

_SUSPECTS = ("lower", "optimize")
"""Stages whose rules are tried one by one: they are there for speed alone."""

_MOST_SUSPECTS = 12
"""Rules that are tried one by one at most: each takes a run of the pipeline."""

_SEARCHES = 4
"""Searches for those at fault; the last one leaves out all rules without looking for the fewest."""


@dataclass(slots=True)
class Reverts:
    """What is left out of a compilation since the result was slower with it."""

    trials: Trials
    """What compares."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Rules and passes that were left out, and why."""
    searches: int = 0
    """How often those at fault were searched for."""
    pruned: bool = False
    """Whether rules were tried one by one already."""

    def find_guilty(self, attempt: Attempt, path: Path, slow: Comparison) -> bool:
        """Leave out the rules, or else the passes, that make a result slower; return whether any were found."""
        self.searches += 1
        if self.searches > _SEARCHES:
            return False
        rules = list(dict.fromkeys(name for record in attempt.records for name in record.fired))
        passes = list(dict.fromkeys(record.name for record in attempt.records if record.changed and not record.fired))
        guilty = self._guilty(rules, path) or self._guilty(passes, path)
        why = f"with it the result was slower than the original: {slow.ratio} times as fast"
        self.reasons |= dict.fromkeys(guilty, why)
        return bool(guilty)

    def _guilty(self, names: Sequence[str], path: Path) -> Sequence[str]:
        def is_better(without: Sequence[str]) -> bool:
            found, _ = self.trials.without(path, (), without, share=SETTINGS)  # a slower result goes before settings
            return found is not None and found.ratio.low > 1

        if self.searches < _SEARCHES:
            return narrowed(names, is_better)
        return names if names and is_better(names) else ()

    def prune(self, attempt: Attempt, path: Path, paying: Collection[str] = ()) -> bool:
        """Leave out single rules without which a result is faster, once; return whether there are any.

        Those that choose forms of operators are tried first, and those of ``paying``, which were measured to pay by
        themselves, last.  Each is tried on what is left by those before it, so that two that stand in for each other
        do not both go.
        """
        if self.pruned:
            return False
        self.pruned = True
        gone: list[str] = []
        current: Path | None = path
        for name in self._suspects(attempt, paying):
            if current is None:
                current = self.trials.build(*gone)
            better, built = self.trials.without(current, gone, [name])
            if better is not None and better.verdict == "faster":
                self.reasons[name] = f"without it the result is {better.ratio} times as fast"
                gone.append(name)
                current = built
        return bool(gone)

    @staticmethod
    def _suspects(attempt: Attempt, paying: Collection[str]) -> list[str]:
        known = manager.known_rules()
        fired = {name for record in attempt.records for name in record.fired}
        found = [n for n in sorted(fired) if n in known and known[n].stage in _SUSPECTS]
        found.sort(key=lambda n: (_SUSPECTS.index(known[n].stage), n in paying, n))
        return found[:_MOST_SUSPECTS]

"""Who is left out since verification found it at fault: single rules where they can be named, else passes.

Verification compares what rules made of connected nodes as one, so the rule that is named may be one that merely built
on a wrong result: the newest is named first.  When the same nodes are wrong without it too, it may be innocent; once
nothing is wrong any more, such rules get a second chance, and only one.

Where every rewrite agrees and the whole does not, rules that admit a difference (``rtol``) are the first to go, the
largest first: such a difference is allowed in a rewrite, and not in the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compiler import manager
from compiler.planning import rules_among

if TYPE_CHECKING:
    from compiler.manager import PassRecord
    from compiler.verify.certificate import Certificate


@dataclass(slots=True)
class Blame:
    """Rules and passes that are left out so far."""

    reasons: dict[str, str] = field(default_factory=dict)
    """Name of the rule or pass → what it did wrong, as far as is known now."""
    _nodes: dict[str, frozenset[str]] = field(default_factory=dict)
    _doubtful: dict[str, None] = field(default_factory=dict)
    _second_chance: set[str] = field(default_factory=set)

    def accuse(self, records: Sequence[PassRecord], certificate: Certificate, *, whole_passes: bool) -> bool:
        """Leave out who is at fault, without a culprit the latest pass that changed something.

        ``whole_passes`` leaves out passes even where a rule can be named.  Returns whether anything new is left out.
        """
        failures = certificate.regions.get("failures", ())
        found = [f["pass"] for f in failures] if whole_passes else certificate.guilty
        found = found if failures else self._approximations(records) or found
        guilty = [name for name in dict.fromkeys(found) if name not in self.reasons]
        if not guilty:
            guilty = [r.name for r in records if r.changed and r.name not in self.reasons][-1:]
        self._doubt(failures)
        for name in guilty:
            its = [f for f in failures if name in (f["rule"], f["pass"])]
            self.reasons[name] = its[0]["why"] if its else certificate.reason
            self._nodes[name] = _nodes(its)
        return bool(guilty)

    def _approximations(self, records: Sequence[PassRecord]) -> list[str]:
        """Return the rules that fired and admit the largest difference, empty when none admits any."""
        known = manager.known_rules()
        fired = {n: known[n].rtol for r in records for n in r.fired if n in known and n not in self.reasons}
        largest = max(fired.values(), default=0.0)
        return [name for name, rtol in fired.items() if largest and rtol == largest]

    def _doubt(self, failures: Iterable[Mapping[str, Any]]) -> None:
        """Note the rules without which the same nodes are wrong."""
        wrong = _nodes(failures)
        for name in sorted(rules_among(self.reasons) - self._second_chance):
            if self._nodes[name] & wrong:
                self._doubtful[name] = None

    def acquit(self) -> bool:
        """Take back the rules that may be innocent, now that all is right without them, and say whether there were any.

        Call it again only after another run.
        """
        for name in self._doubtful:
            del self.reasons[name]
        found = bool(self._doubtful)
        self._second_chance.update(self._doubtful)
        self._doubtful.clear()
        return found

    def notes(self) -> list[str]:
        """Return a sentence for each that is left out."""
        rules = rules_among(self.reasons)
        return [f"{'rule' if n in rules else 'pass'} {n!r} was rolled back: {why}" for n, why in self.reasons.items()]


def _nodes(failures: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(name for f in failures for name in f["nodes"])

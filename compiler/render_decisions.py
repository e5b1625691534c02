"""Show what lowering decided: what was chosen where, the predicted cost of each candidate, and what predicts it.

Decisions that differ in nothing but place and size share an entry: one line of numbers, and below it the operators, the
places, the evidence and the other candidates.  Times are those of all places together, by the cost model; what is
expected weighs them against the table of measured gains, so that a rule may be chosen whose predicted time is longer.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

_WIDTH = 80
"""Columns that everything fits into."""

_NAME = 41
"""Columns of what was decided; a longer name has a line of its own."""

_PLACES = 2
"""Places of an entry that are named."""

Decision = Mapping[str, Any]


def decisions(found: Sequence[Decision]) -> list[RenderableType]:
    """Return the decisions for 80 columns, those that save most first, and those that changed nothing last."""
    if not found:
        return [Text("nothing was to be decided: no lowering rule fits anywhere")]
    groups: dict[tuple[str, ...], list[Decision]] = {}
    for decision in found:
        table, reason = _evidence(decision)
        key = (decision["operator"], decision["chosen"], _shown(decision)["name"], table, reason)
        groups.setdefault(key, []).append(decision)
    text = Text("\n")
    text.append(f"{'decision':<{_NAME}}{'places':>6}{'keep us':>10}{'rule us':>10}{'expected':>13}", "bold")
    for group in sorted(groups.values(), key=_saved):
        _entry(text, group)
    text.append("\nexpected: the cost model, weighed against the table of measured gains", "dim")
    return [text]


def _entry(text: Text, group: Sequence[Decision]) -> None:
    """Add what equal decisions have in common."""
    first = group[0]
    shown, kept = _shown(first)["name"], first["chosen"] == "keep"
    name = f"keep, not {shown}" if kept else shown
    text.append(f"\n{name:<{_NAME}}", "" if kept else "green")
    if len(name) >= _NAME:
        text.append("\n" + " " * _NAME)
    keep, rule = (_total(group, [of(d) for d in group]) for of in (_keep, _shown))
    text.append(f"{len(group):>6}{keep:>10}{rule:>10}{_range([d['gain'] for d in group]):>13}")
    for line in _details(group):
        text.append("\n" + line, "dim")


def _details(group: Sequence[Decision]) -> list[str]:
    """Return what stands there and where, what the expectation rests on, and what else could be there."""
    first = group[0]
    table, reason = _evidence(first)
    model = _range([_keep(d)["us"] / max(_shown(d)["us"], 1e-3) for d in group])
    sources = ", ".join(dict.fromkeys(o["source"] for d in group for o in (_keep(d), _shown(d))))
    evidence = "; ".join(part for part in (reason, f"model {model} ({sources}), {table}") if part)
    places = ", ".join(d["place"].partition(", ")[0] for d in group[:_PLACES])
    more = f" and {len(group) - _PLACES} more" if len(group) > _PLACES else ""
    lines = [f"{first['operator']} at {places}{more}", evidence]
    names = [o["name"] for o in first["options"][1:] if o["name"] != _shown(first)["name"]]
    others = [(name, [o for d in group for o in d["options"] if o["name"] == name]) for name in names]
    if others:
        lines.append("also possible: " + ", ".join(f"{name} ({_total(group, found)} us)" for name, found in others))
    return [
        part for line in lines for part in textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    ]


def _keep(decision: Decision) -> Mapping[str, Any]:
    """Return the option that leaves everything as it is."""
    found: Mapping[str, Any] = decision["options"][0]
    return found


def _shown(decision: Decision) -> Mapping[str, Any]:
    """Return the option that was chosen, else the best that was not."""
    options: Sequence[Mapping[str, Any]] = decision["options"]
    return next((o for o in options[1:] if o["name"] == decision["chosen"]), options[min(1, len(options) - 1)])


def _evidence(decision: Decision) -> tuple[str, str]:
    """Return what the table of gains says, and why nothing was done, from the reason in words."""
    said, _, reason = decision["why"].partition("; ")
    return said.rpartition("), ")[2], reason


def _total(group: Sequence[Decision], options: Sequence[Mapping[str, Any]]) -> str:
    """Return the microseconds of an option at all places; ``-`` where some place has not got it."""
    if len(options) < len(group):
        return "-"
    us = sum(option["us"] for option in options)
    return f"{us:.0f}" if us >= 100 else f"{us:.3g}"


def _range(factors: Sequence[float]) -> str:
    """Return speed-ups from the least to the greatest."""
    least, most = f"{min(factors):.2f}", f"{max(factors):.2f}"
    return f"{least}x" if least == most else f"{least}-{most}x"


def _saved(group: Sequence[Decision]) -> tuple[bool, float]:
    saved = sum(_keep(d)["us"] * (1 - 1 / max(d["gain"], 1e-3)) for d in group)
    return (group[0]["chosen"] == "keep", -saved)

"""Show what lowering decided: equal decisions as one row, with the predicted microseconds of each option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_WIDTHS = (26, 14, 13)
"""Columns of what is chosen, of the counts and of the times."""


def decisions(found: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Return a table of decisions for 80 columns; those that differ in nothing but their place share a row."""
    if not found:
        return [Text("nothing was to be decided: no lowering rule fits anywhere")]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for decision in found:
        best = _best(decision)
        key = (decision["operator"], decision["chosen"], best["name"], decision["why"].partition(":")[2])
        groups.setdefault(key, []).append(decision)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("decision", width=_WIDTHS[0], overflow="fold")
    table.add_column("places", justify="right")
    table.add_column("us: keep -> rule", justify="right", width=16)
    table.add_column("expected, and why", overflow="fold")
    for group in sorted(groups.values(), key=_saved):
        first = group[0]
        best = _best(first)
        name = first["chosen"] if first["chosen"] != "keep" else f"keep, not {best['name']}"
        style = "green" if first["chosen"] != "keep" else ""
        times = f"{first['options'][0]['us']:.4g} -> {best['us']:.4g}"
        table.add_row(Text(name, style=style), Text(str(len(group))), Text(times), Text(first["why"]))
    return [Padding(table, (1, 0, 0, 0))]


def _best(decision: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the option that was chosen, else the best that was not."""
    options: Sequence[Mapping[str, Any]] = decision["options"]
    return next((o for o in options[1:] if o["name"] == decision["chosen"]), options[min(1, len(options) - 1)])


def _saved(group: Sequence[Mapping[str, Any]]) -> tuple[bool, float]:
    first = group[0]
    saved = sum(d["options"][0]["us"] - _best(d)["us"] for d in group)
    return (first["chosen"] == "keep", -saved)

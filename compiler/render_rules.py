"""Make what the command line shows of rules: their list, one in full, and why they did not fire.

As in ``render``: plain records in, rich renderables out, laid out for 80 columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compiler.render import columns, labelled, prose

_PLACES_SHOWN = 3
"""Places that are named below a picture; the rest is counted."""

_MARKS = {"matched": ("✓", "green"), "failed": ("✗", "bold red"), "alike": ("~", "yellow"), "open": ("·", "dim")}
"""State of a statement → its mark and style."""

_LEFT_OUT = ("-", "dim")
"""The mark of an optional statement that the form does without."""

_LEGEND = "✓ matches  ✗ fails  ~ the operator fits, the rest was not compared  · not reached"

KINDS = {
    "ready": "nothing speaks against it",
    "cost": "not selected",
    "legality": "not legal on the target",
    "result": "no replacement",
    "guard": "the rule's own condition",
    "users": "something else needs what would go",
    "type": "types differ",
    "structure": "the form differs",
}
"""What a near miss fails for, in words."""


# rules -------------------------------------------------------------------------------------------


def rules(record: Mapping[str, Any]) -> list[RenderableType]:
    """Return the list of rules, stage by stage."""
    listed = columns("rule", "stage", "what it does")
    for entry in record["rules"]:
        name = Text(entry["name"], style="bold")
        listed.add_row(name, Text(entry["stage"]), Text(prose(entry["summary"])))
    if not record["rules"]:
        return [Text("no rules")]
    stages = labelled((name, text) for name, text in record["stages"].items())
    return [listed, Text("\nthe stages, in their order", style="bold"), stages]


def one_rule(record: Mapping[str, Any]) -> list[RenderableType]:
    """Return all that is known of one rule."""
    parts: list[RenderableType] = [Text(record["name"], style="bold"), labelled(_rule_facts(record))]
    several = len(record["before"]) > 1
    for i, form in enumerate(record["before"]):
        parts += _section(f"before, form {i + 1}" if several else "before", form)
    parts += _section("after", record["after"])
    if record["guard"]:
        parts += [Text("\nrefuses", style="bold"), _indented(prose(record["guard"]))]
    if record["worth"]:
        parts += [Text("\nwhere costs choose", style="bold"), _indented(prose(record["worth"]))]
    parts += [Text("\ndocumentation", style="bold"), _indented(prose(record["documentation"]))]
    return parts


def _rule_facts(record: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "stage", record["stage"]
    for variable, dtypes in record["types"].items():
        yield "types" if variable == next(iter(record["types"])) else "", f"{variable}: {', '.join(dtypes)}"
    if record["shared"]:
        yield "shared", ", ".join(f"%{name}" for name in record["shared"]) + " may have other users"
    rtol = record["rtol"]
    yield "numbers", f"may differ by {rtol:g} of the range" if rtol else "equal up to the order of operations"
    yield from (("domain" if i == 0 else "", f"{k}: {v}") for i, (k, v) in enumerate(record["domain"].items()))
    gains = [f"{gain:g} times faster on {provider}" for provider, gain in record["gains"].items()]
    if record["stage"] == "lower":
        yield "gain", "; ".join(gains) or "not measured"
    yield "module", record["module"]


def _section(title: str, form: str) -> list[RenderableType]:
    return [Text(f"\n{title}", style="bold"), _indented(form)]


def _indented(text: str) -> RenderableType:
    return Padding(Text(text), (0, 0, 0, 2))


# explain -----------------------------------------------------------------------------------------


def explanation(record: Mapping[str, Any]) -> list[RenderableType]:
    """Return why rules did not fire: pictures for one rule, a line for each entry otherwise."""
    parts: list[RenderableType] = [_headline(record)]
    parts += [Text(f" {note}", style="dim") for note in record["notes"]]
    if record["misses"]:
        parts += [Text(""), _pictures(record) if record["rule"] is not None else _list_of(record)]
    left = record["found"] - len(record["misses"])
    if left > 0:
        parts.append(Text(f"\n{_count(left, 'more kind')} of places; --limit N shows more", style="dim"))
    return parts


def _headline(record: Mapping[str, Any]) -> Text:
    near = f" with a node that matches {record['node']!r}" if record["node"] is not None else ""
    found = f"comes near at {_count(record['found'], 'kind')} of places{near}"
    if not record["found"]:
        found = f"comes near nowhere else{near}"
    if record["rule"] is None:
        fired = sum(record["fired"].values())
        rules = len(record["fired"])
        found = found.replace("comes near nowhere else", "no other rule comes near")
        found = found.replace("comes near at", "others come near at")
        return Text(f"{_count(rules, 'rule')} fired, {_count(fired, 'time')}; {found}", style="bold")
    times = record["fired"].get(record["rule"], 0)
    return Text(f"{record['rule']} fired {_count(times, 'time')}; it {found}", style="bold")


def _list_of(record: Mapping[str, Any]) -> RenderableType:
    parts: list[RenderableType] = []
    for miss in record["misses"]:
        share = f" {miss['matched']} of {miss['statements']} at "
        head = Text.assemble((miss["rule"], "bold"), share, (_places(miss, limit=1), "cyan"))
        parts += [Padding(head, (0, 0, 0, 1)), Padding(Text(_why(miss)), (0, 0, 0, 5))]
    return Group(*parts)


def _pictures(record: Mapping[str, Any]) -> RenderableType:
    parts = [part for miss in record["misses"] for part in (*_picture(miss), Text(""))]
    return Group(*parts, Padding(Text(_LEGEND, style="dim"), (0, 0, 0, 1)))


def _picture(miss: Mapping[str, Any]) -> list[RenderableType]:
    """Return the statements of the form, each with its mark and the user's node."""
    parts: list[RenderableType] = [Text(_places(miss, limit=_PLACES_SHOWN), style="bold")]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=2, justify="right")
    grid.add_column(ratio=3, overflow="fold")
    grid.add_column(ratio=2, overflow="fold", style="cyan")
    for line in miss["lines"]:
        mark, style = _MARKS.get(line["state"], _LEFT_OUT)
        node = _name(line["node"]) if line["node"] is not None else ""
        statement = Text(line["statement"], style="dim" if style == "dim" else "")
        grid.add_row(Text(mark, style=style), statement, Text(node))
        if line["state"] == "failed":
            grid.add_row("", Text(_why(miss), style="red"), "")
    parts.append(grid)
    if all(line["state"] != "failed" for line in miss["lines"]):
        parts.append(Padding(Text(_why(miss), style="red"), (0, 0, 0, 3)))
    return parts


def _why(miss: Mapping[str, Any]) -> str:
    return f"{KINDS[miss['kind']]}: {miss['reason']}"


def _places(miss: Mapping[str, Any], *, limit: int) -> str:
    places = miss["places"]
    more = len(places) - limit
    names = ", ".join(_name(place) for place in places[:limit])
    return f"{names} and {more} more" if more > 0 else names


def _name(place: Mapping[str, Any]) -> str:
    """Return what a node is called: the user's name, or else its result."""
    names: Sequence[str] = place["nodes"]
    if not names:
        return f"{place['operator']} %{place['value']}"
    return names[0] if len(names) == 1 else f"{place['operator']} of {names[0]} …"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

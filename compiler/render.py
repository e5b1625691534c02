"""Make what the command line shows: rich renderables for people, laid out for 80 columns.

Functions take plain records and return renderables; ``cli`` prints them, in colour on a terminal and as plain text
otherwise.  Everything that comes from a model or a file is ``Text``, never markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compiler.render_tuning import tuned

if TYPE_CHECKING:
    from compiler.analysis.report import Analysis
    from compiler.errors import AmpcError

_PASSES_SHOWN = 8
"""Rows of passes after a compilation; the rest is one row."""

_NOTES_SHOWN = 3
"""Notes and rolled back passes after a compilation; the rest is counted."""

_LABEL = 10
"""Columns of the labels at the left."""


def error(failure: AmpcError) -> RenderableType:
    """Return an error as what, where, why and do; carets stay under their mistakes."""
    text = Text()
    for i, line in enumerate(str(failure).splitlines() or [""]):
        label, colon, rest = line.partition(":")
        if i == 0:
            text.append("error: ", style="bold red").append(line, style="bold")
        elif label in ("  where", "  why", "  do"):
            text.append("\n" + label + colon, style="cyan").append(rest)
        else:
            text.append("\n" + line)
    return text


# compile and check -------------------------------------------------------------------------------


def compiled(
    model: str, output: str, report: Mapping[str, Any], *, verbose: bool = False
) -> list[RenderableType]:
    """Return what a compilation did, what was checked, and how to go on, in at most 25 lines.

    ``verbose`` adds what each rule did, however many lines that takes.
    """
    seconds = report.get("seconds", {})
    took = f" in {seconds['total']:.1f} s" if "total" in seconds else ""
    head = Text.assemble((f"{model}", "bold"), f" compiled for {report['target']}{took}")
    changed = _pass_rows(report, seconds.get("pass", {}))
    table = columns("pass", ">rewrites", ">nodes", ">ms")
    for row in changed:
        table.add_row(*(Text(cell) for cell in row))
    facts = labelled(_result_facts(report, output, changes=bool(changed)))
    tables = [Padding(t, (0, 0, 1, 0)) for t, wanted in ((table, changed), (_rule_table(report), verbose)) if wanted]
    return [head, *tables, facts]


def _rule_table(report: Mapping[str, Any]) -> RenderableType:
    """Return what each rule did that fired, and what all others cost together."""
    seconds = report.get("seconds", {}).get("rule", {})
    rules = report.get("rules", {})
    fired = sorted((name for name in rules if rules[name]["hits"]), key=lambda name: (-rules[name]["hits"], name))
    silent = [name for name in rules if not rules[name]["hits"]]
    table = columns("rule", ">tries", ">rewrites", ">ms")
    for title, names in [*((name, [name]) for name in fired), (f"{_count(len(silent), 'rule')} in vain", silent)]:
        numbers = [str(sum(rules[name][key] for name in names)) for key in ("tries", "hits")]
        took = f"{1e3 * sum(seconds.get(name, 0.0) for name in names):.1f}"
        table.add_row(*(Text(cell) for cell in (title, *numbers, took)))
    never = len(report.get("rules_that_never_fired", ()))
    note = f"{_count(never, 'rule')} never fired; `ampc explain MODEL` says which came near"
    return Group(table, Padding(Text(note, style="dim"), (0, 0, 0, 1)))


def _pass_rows(report: Mapping[str, Any], seconds: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    """Return name, rewrites, change of nodes and milliseconds of each pass that changed something."""
    rewrites: dict[str, int] = {}
    nodes: dict[str, int] = {}
    for record in report.get("passes", ()):
        if record.get("changed"):
            name = record["name"]
            rewrites[name] = rewrites.get(name, 0) + record["rewrites"]
            nodes[name] = nodes.get(name, 0) + record["nodes_after"] - record["nodes_before"]
    names = sorted(rewrites, key=lambda n: nodes[n])
    kept = names if len(names) <= _PASSES_SHOWN else names[: _PASSES_SHOWN - 1]
    shown = [n for n in rewrites if n in kept]
    rest = [n for n in rewrites if n not in kept]
    groups = [(n, [n]) for n in shown] + ([(f"{len(rest)} more", rest)] if rest else [])
    return [
        (
            title,
            str(sum(rewrites[n] for n in group)),
            _signed(sum(nodes[n] for n in group)),
            f"{1e3 * sum(seconds.get(n, 0.0) for n in group):.1f}",
        )
        for title, group in groups
    ]


def _signed(number: int) -> str:
    return f"{number:+d}" if number else "0"


def _result_facts(report: Mapping[str, Any], output: str, *, changes: bool) -> Iterable[tuple[str, str]]:
    before, after = report["nodes_before"], report["nodes_after"]
    sizes = size_text(report["bytes_before"]), size_text(report["bytes_after"])
    if report.get("status") == "unchanged":
        yield "unchanged", f"the model is handed on byte for byte: {report.get('why', '')}"
    else:
        opset = report.get("opset", {})
        yield (
            "result",
            (
                f"{before} → {after} nodes, {sizes[0]} → {sizes[1]} of weights, "
                f"opset {opset.get('before', '?')} → {opset.get('after', '?')}"
                + ("" if changes else "; no pass found anything to change")
            ),
        )
    yield "checked", verified(report.get("verification", {}))
    yield from _placed(report)
    yield from tuned(report)
    yield from _listed("rolled back", [f"{n}: {why}" for n, why in report.get("rolled_back", {}).items()])
    errors = {r["name"]: r["error"] for r in report.get("passes", ()) if r.get("error")}
    yield from _listed("undone", [f"{n} failed: {_first_line(why)}" for n, why in errors.items()])
    rolled = report.get("rolled_back", {})
    said = [*(f"{kind} {name!r} was rolled back" for name in rolled for kind in ("pass", "rule"))]
    said.append("handed on unchanged")
    notes = [n for n in report.get("notes", ()) if not n.startswith(tuple(said))]
    inputs = report.get("overridable_initializers", ())
    if inputs:
        notes.insert(0, f"callers may override {_some(inputs)}: not treated as constants, which costs speed")
    yield from _listed("note", [*notes, *report.get("verification", {}).get("notes", ())])
    yield "written", output
    yield "next", "from compiler import load_session"
    yield "", f"session = load_session({output!r})"


def _placed(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Say where nodes go and whether that was seen, for targets of more than a processor."""
    device, placement = report.get("device", {}), report.get("placement", {})
    shares = placement.get("shares", ())
    if not device or (len(shares) < 2 and device.get("provider") == "CPUExecutionProvider"):
        return
    where = [
        f"{s['nodes']} nodes on {s['provider'].removesuffix('ExecutionProvider')} in {s['partitions']} partition(s)"
        for s in shares
    ]
    yield "placed", "; ".join(where)
    yield from _listed("", [f"{b['nodes']} {b['op']} left: {b['why']}" for b in placement.get("breaks", ())])
    yield "device", device["status"] + (f": {device['why']}" if "why" in device else "")
    if "assignment" in device:
        nodes = device["assignment"]["nodes"].items()
        seen = ", ".join(f"{count} on {provider.removesuffix('ExecutionProvider')}" for provider, count in nodes)
        yield "", f"the runtime placed {seen}: {'as foretold' if device['as_foretold'] else 'not as foretold'}"


def _listed(label: str, items: Sequence[str]) -> Iterable[tuple[str, str]]:
    yield from ((label if i == 0 else "", _clipped(item)) for i, item in enumerate(items[:_NOTES_SHOWN]))
    if len(items) > _NOTES_SHOWN:
        yield "", f"and {len(items) - _NOTES_SHOWN} more; --json shows all"


def _clipped(text: str, limit: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(n) for n in names[:limit]) + more


def verified(record: Mapping[str, Any]) -> str:
    """Return what a verification found, in a sentence."""
    why = record.get("reason") or record.get("why") or ""
    parts = [f"{record.get('status', 'unverified')}{': ' if why else ''}{why}"]
    probes = record.get("probes", ())
    if probes:
        sizes = len({tuple(sorted(p["binding"].items())) for p in probes})
        parts.append(f"{_count(len(probes), 'comparison')} at {_count(sizes, 'size')}")
    regions = record.get("regions", {})
    if regions:
        parts.append(f"{_count(regions.get('checked', 0), 'rewrite')} checked one by one")
    worst = _worst(probes)
    if record.get("stochastic"):
        parts.append("outputs that depend on random numbers are compared by type and shape")
    elif worst is not None:
        relative, absolute, name = worst
        parts.append(
            f"largest difference {relative:.1e} of the range, {absolute:.1e} absolute, in {name!r}"
            if absolute
            else "not a bit of difference"
        )
    return "; ".join(parts)


def _worst(probes: Sequence[Mapping[str, Any]]) -> tuple[float, float, str] | None:
    """Return the largest relative difference, the absolute one that goes with it, and its output."""
    found = [
        (float(output["max_rel"]), float(output["max_abs"]), name)
        for probe in probes
        for name, output in probe["outputs"].items()
    ]
    return max(found, default=None, key=lambda f: f[0])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def certificate(first: str, second: str, record: Mapping[str, Any]) -> list[RenderableType]:
    """Return what comparing two models found."""
    same = record.get("status") == "verified"
    verdict = Text(
        "the models compute the same" if same else "the models are not shown to compute the same",
        style="bold green" if same else "bold red",
    )
    facts = [("reference", first), ("candidate", second), ("checked", verified(record))]
    wrong = [
        f"output {name!r}, probe {probe['probe']}: {output['why']}"
        for probe in record.get("probes", ())
        for name, output in probe["outputs"].items()
        if output.get("why")
    ]
    refused = [f"{probe}: {why}" for probe, why in record.get("refused", {}).items()]
    lines = [*_listed("because", wrong), *_listed("not run", refused), *_listed("note", record.get("notes", ()))]
    return [verdict, labelled([*facts, *lines])]


# Lists -------------------------------------------------------------------------------------------


def pipeline(record: Mapping[str, Any]) -> list[RenderableType]:
    """Return the steps of a pipeline, those left out marked."""
    table = columns("pass", "what it does")
    for row in record["steps"]:
        name = Text("  " * row["depth"] + row["step"], style="" if row["pass"] else "italic")
        left_out = bool(row["pass"]) and not row["runs"]
        if left_out:
            name.stylize("strike dim")
        table.add_row(name, Text("left out" if left_out else prose(row.get("summary", ""))))
    return [Text(f"the pipeline for {record['target']}", style="bold"), table]


def passes(record: Mapping[str, Any]) -> list[RenderableType]:
    """Return the list of passes and the default pipeline."""
    table = columns("pass", "what it does")
    for entry in record["passes"]:
        options = ", ".join(f"{k}={v}" for k, v in entry["options"].items())
        summary = Text(prose(entry["summary"]))
        table.add_row(Text(entry["name"], style="bold"), summary.append(f" {{{options}}}" if options else "", "cyan"))
    default = Padding(Text(record["default_pipeline"]), (0, 0, 0, 2))
    return [table, Text("\nthe default pipeline", style="bold"), default]


def one_pass(record: Mapping[str, Any]) -> list[RenderableType]:
    """Return one pass in full."""
    options = ", ".join(f"{k}={v}" for k, v in record["options"].items()) or "none"
    facts = [
        ("options", options),
        ("default", "part of the default pipeline" if record["in_default_pipeline"] else "runs only when asked for"),
        ("module", record["module"]),
    ]
    parts: list[RenderableType] = [Text(record["name"], style="bold"), labelled(facts)]
    texts = dict.fromkeys(text for text in (record["documentation"], record["notes"]) if text)
    return parts + [Text("\n" + prose(text)) for text in texts]


def prose(docstring: str) -> str:
    """Return a docstring with each paragraph and list item on one line, to be wrapped where it is shown."""
    joined = re.sub(r"(?<=\S)\n(?=[^\s*-])|(?<=\S)\n {2,}(?=[^\s*-])", " ", docstring)
    return joined.replace("``", "`")


def targets(record: Mapping[str, Any]) -> list[RenderableType]:
    """Return the list of targets, and this machine."""
    table = columns("target", "what it is")
    for entry in record["targets"]:
        mark, style = ("* ", "bold green") if entry["chosen"] else ("  ", "bold")
        name = Text(mark + entry["name"], style=style)
        summary = Text(entry["summary"])
        if entry["problem"]:
            summary = Text(f"cannot be used: {entry['problem']}", style="red")
        table.add_row(name, summary)
    title = Text("\n* is what auto starts from on this machine:", style="bold")
    return [table, title, labelled(_machine(record["machine"]))]


def _machine(here: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    limited = f" of {here['installed_cores']}" if here["installed_cores"] > here["cores"] else ""
    yield "processor", f"{here['arch']}, {here['cores']}{limited} cores, {here['threads']} threads"
    yield "extensions", ", ".join(here["isa"]) or "unknown"
    if here["caches"]:
        yield "caches", ", ".join(f"{k} {size_text(v)}" for k, v in here["caches"].items())
    if here["memory"]:
        yield "memory", size_text(here["memory"])


# analyze -----------------------------------------------------------------------------------------


def analysis(found: Analysis) -> list[RenderableType]:
    """Return the sections of an analysis, one under the other."""
    from compiler.analysis.show import sections

    parts: list[RenderableType] = []
    for section in sections(found):
        parts.append(Text(("\n" if parts else "") + section.title, style="bold"))
        if section.headings:
            table = columns(*section.headings)
            for row in section.rows:
                table.add_row(*(Text(cell) for cell in row))
            parts.append(table)
        else:
            parts.append(labelled([(row[0], row[1]) for row in section.rows]))
        parts += [Padding(Text(note, style="dim"), (0, 0, 0, 2)) for note in section.notes]
    return parts


# Pieces ------------------------------------------------------------------------------------------


def columns(*headings: str) -> Table:
    """Return an indented table without lines; a heading that begins with ``>`` is a column of numbers."""
    table = Table(box=None, padding=(0, 1), pad_edge=True, header_style="cyan", show_edge=False)
    for i, heading in enumerate(headings):
        number = heading.startswith(">")
        table.add_column(
            heading.removeprefix(">"), justify="right" if number else "left", no_wrap=number, overflow="fold",
            min_width=min(12, len(heading)) if i else None,
        )  # fmt: skip
    return table


def labelled(lines: Iterable[tuple[str, str]]) -> Group:
    """Return labels and texts in two columns."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_LABEL, style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in lines:
        grid.add_row(Text(label), Text(text))
    return Group(Padding(grid, (0, 0, 0, 1)))


def size_text(size: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"

"""Lay an analysis out as sections of small tables, for the command line and for plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from compiler.analysis.opportunities import Blocked, Opportunities, Rewriting
from compiler.analysis.placement import Placement
from compiler.analysis.report import Analysis

GAINS = "Where time goes, and what can be gained"
"""Title of the section with times by type of operator."""

REWRITES = "What would be done"
"""Title of the section with what would be gained by which rewrite."""

BLOCKED = "What blocks more"
"""Title of the section with near misses."""

_OPERATORS = 16
"""Operators that are listed; the others are counted."""

_PORTS = 12
"""Inputs, and outputs, that are listed."""

_REWRITES = 12
"""Rewrites that are listed; the others are counted."""

_BLOCKED = 6
"""Near misses that are listed; the others are counted."""

_WORTH_SAYING = 0.05
"""Microseconds from which a gain is worth saying."""

_BREAKS = 8
"""Operators that break partitions that are listed."""

_COLUMNS = 78
"""Width of the plain text."""


@dataclass(frozen=True, slots=True)
class Section:
    """A titled table; without headings, rows are a label and a text."""

    title: str
    """Its title."""
    headings: tuple[str, ...]
    """Headings; one that begins with ``>`` is a column of numbers."""
    rows: tuple[tuple[str, ...], ...]
    """Cells."""
    notes: tuple[str, ...] = ()
    """Lines under the table."""


def sections(found: Analysis) -> list[Section]:
    """Return the sections of an analysis that have something to say."""
    made = [_summary(found), _operators(found), _parameters(found), _work(found)]
    if found.opportunities is not None:
        made += [_families(found.opportunities), _rewrites(found.opportunities), _blocked(found.opportunities)]
    if found.placement is not None:
        made.append(_placement("Where nodes go as the model is", found.placement))
    if found.compiled is not None:
        made.append(_placement("Where nodes go once it is compiled", found.compiled))
    made.append(_anyway(found))
    made += [_cliff(found, i) for i in range(len(found.cliffs))] or [_no_cliffs(found)]
    return [s for s in made if s.rows or s.notes]


def _summary(found: Analysis) -> Section:
    census = found.census
    opsets = ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in found.opsets.items())
    rows = [
        ("made of", f"{census.nodes} nodes, {_number(census.parameters)} parameters in {census.tensors} tensors, "
                    f"{_size(census.nbytes)}"),
        ("opset", f"{opsets}; IR version {found.ir_version}"),
        ("target", f"{found.target}, {found.provider}"),
        *_ports("input", [(p.name, p.type + (" (overridable)" if p.overridable else "")) for p in census.inputs]),
        *_ports("output", [(p.name, p.type) for p in census.outputs]),
        ("types", _counted(census.element_types) + (f"; unknown {census.untyped}" if census.untyped else "")),
    ]  # fmt: skip
    if census.opaque:
        rows.append(("opaque", f"{_counted(census.opaque)}: custom operators, left as they are"))
    if census.functions:
        rows.append(("functions", f"{census.functions} model-local functions that are not inlined"))
    return Section(found.source, (), tuple(rows), found.notes)


def _ports(label: str, ports: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for i, (name, type_) in enumerate(ports[:_PORTS]):
        yield label if i == 0 else "", f"{name}: {type_}"
    if len(ports) > _PORTS:
        yield "", f"and {len(ports) - _PORTS} more"


def _operators(found: Analysis) -> Section:
    counts = list(found.census.operators.items())
    rows = [(op, str(n), str(found.census.nested.get(op, "")), "") for op, n in counts[:_OPERATORS]]
    half = -(-len(rows) // 2)
    wide = [(*rows[i][:2], *(rows[i + half][:2] if i + half < len(rows) else ("", ""))) for i in range(half)]
    notes = []
    if len(counts) > _OPERATORS:
        notes.append(f"and {len(counts) - _OPERATORS} other operators, {sum(n for _, n in counts[_OPERATORS:])} nodes")
    if found.census.nested:
        notes.append(f"in nested graphs: {_counted(found.census.nested)}")
    return Section("Operators", ("operator", ">nodes", "operator", ">nodes"), tuple(wide), tuple(notes))


def _parameters(found: Analysis) -> Section:
    census = found.census
    rows = [(p.name, p.type, _size(p.nbytes), str(p.readers)) for p in census.biggest if p.nbytes >= 1024]
    notes = [f"by type: {', '.join(f'{t} {_size(n)}' for t, n in census.bytes_by_type.items())}"] if rows else []
    if census.shared:
        names = ", ".join(p.name for p in census.shared[:3])
        more = f" and {len(census.shared) - 3} more" if len(census.shared) > 3 else ""
        notes.append(f"shared, and kept so: {names}{more}")
    return Section("Biggest tensors", ("tensor", "type", ">size", ">readers"), tuple(rows), tuple(notes))


def _work(found: Analysis) -> Section:
    work = found.work
    total = sum(f.seconds for f in work.families) or 1.0
    timed = found.opportunities is None  # which knows better
    rows = [
        (f.family, str(f.nodes), _number(f.operations), _size(f.nbytes), *_share(f.seconds / total, timed))
        for f in work.families
        if f.operations or f.nbytes
    ]
    rows.append(("all", "", _number(work.operations), _size(work.nbytes), *_share(None, timed)))
    notes = ["the share of time is what the target's peak rates allow, not a measurement"] if timed else []
    if work.binding:
        notes.append("with " + ", ".join(f"{k} = {v}" for k, v in work.binding.items()) + "; --bind DIM=N changes it")
    if work.guessed:
        notes.append(f"{work.guessed} dims that are known only at run time were taken to be 64")
    if work.unknown:
        notes.append(f"{work.unknown} nodes left out: their types are unknown, or they are opaque")
    if found.census.nested:
        notes.append("nodes of nested graphs count once, whatever the number of iterations")
    headings = ("family", ">nodes", ">operations", ">moved", *((">time",) if timed else ()))
    return Section("Work", headings, tuple(rows) if work.families else (), tuple(notes))


def _share(part: float | None, wanted: bool) -> tuple[str, ...]:
    """Return the cell for a share of the time, if there is one."""
    return () if not wanted else ("",) if part is None else (f"{100 * part:.0f} %",)


def _families(found: Opportunities) -> Section:
    """Return where time goes, and what of it could be saved, by type of operator."""
    after = {f.type: f for f in found.families_after}
    counts, gains = found.counts(), found.gains()
    kinds = [f.type for f in found.families]
    kinds += [f.type for f in found.families_after if f.type not in kinds]
    before = {f.type: f for f in found.families}
    rows = []
    for kind in kinds:
        now, then = before.get(kind), after.get(kind)
        us = now.us if now is not None else 0.0
        cells = (str(now.nodes) if now is not None else "", duration(us), f"{100 * us / (found.us or 1.0):.0f}")
        rows.append(
            (
                kind.value,
                *cells,
                str(counts.get(kind) or ""),
                duration(gains[kind]) if abs(gains.get(kind, 0.0)) >= _WORTH_SAYING else "",
                str(then.nodes) if then is not None else "",
                duration(then.us) if then is not None else "",
            )
        )
    total = (str(found.nodes), duration(found.us), "", str(sum(counts.values()) or ""))
    rows.append(("all", *total, duration(found.us - found.us_after), str(found.nodes_after), duration(found.us_after)))
    notes = (f"predicted for {found.device or _threads(found.threads)}: {sources(found)}", *_lacking(found))
    headings = ("family", ">nodes", ">time", ">%", ">places", ">gain", ">then", ">time")
    return Section(GAINS, headings, tuple(rows), notes)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


_SOURCES = {
    "measured": "were measured",
    "calibrated": "go by what their kernels take",
    "analytic": "by peak rates",
    "fused": "are fused at load",
}


def _lacking(found: Opportunities) -> tuple[str, ...]:
    return () if found.as_run else ("what the runtime itself fuses when it loads the model is not reckoned with",)


def sources(found: Opportunities) -> str:
    """Say where the predicted times come from."""
    return ", ".join(f"{n} nodes {_SOURCES.get(source, source)}" for source, n in found.sources.items())


def _rewrites(found: Opportunities) -> Section:
    """Return what would be done, each rule and pass once."""
    parts: dict[str, list[Rewriting]] = {}
    for r in found.rewrites:
        if r.gain_us >= _WORTH_SAYING or r.stage != "canonical":
            parts.setdefault(r.name, []).append(r)
    gains = {name: sum(r.gain_us for r in rs) for name, rs in parts.items()}
    names = sorted(parts, key=lambda name: (-gains[name], name))
    rows = [
        (name, str(sum(r.count for r in parts[name])), duration(gains[name]), _kinds(parts[name]))
        for name in names[:_REWRITES]
    ]
    notes = []
    if len(names) > _REWRITES:
        notes.append(f"and {len(names) - _REWRITES} others, {duration(sum(gains[n] for n in names[_REWRITES:]))}")
    return Section(REWRITES, ("rule or pass", ">places", ">gain", "for"), tuple(rows), tuple(notes))


def _kinds(parts: Sequence[Rewriting]) -> str:
    """Return what a rewrite is done for, the most first."""
    kinds = list(dict.fromkeys(r.type.value for r in parts))
    return kinds[0] + (f", {len(kinds) - 1} more" if len(kinds) > 1 else "")


def _blocked(found: Opportunities) -> Section:
    rows = []
    for b in found.blocked[:_BLOCKED]:
        more = f" and {b.count - 1} more" if b.count > 1 else ""
        rows.append((b.kind, f"{b.rule}, {duration(b.us)} of {b.type.value}, {b.places[0]}{more}: {blocks(b)}"))
    notes = ["`ampc explain MODEL` says more"] if rows else []
    if len(found.blocked) > _BLOCKED:
        notes.insert(0, f"and {len(found.blocked) - _BLOCKED} others")
    return Section(BLOCKED, (), tuple(rows), tuple(notes))


_KINDS = {
    "cost": "it would not pay, ",
    "legality": "the target does not run it, ",
    "guard": "its own condition, ",
    "users": "something that would go is needed, ",
    "result": "the replacement does not fit, ",
}


def blocks(miss: Blocked) -> str:
    """Say what a near miss fails for."""
    there = "" if miss.matched == miss.statements else f"{miss.matched} of {miss.statements} statements fit, "
    return f"{there}{_KINDS.get(miss.kind, '')}{miss.reason}"


def _placement(title: str, found: Placement) -> Section:
    rows = [
        (s.provider.removesuffix("ExecutionProvider"), f"{s.nodes} nodes in {_many(s.partitions, 'partition')}")
        for s in found.shares
    ]
    rows += [
        ("", f"{b.nodes} {b.op} to {b.provider.removesuffix('ExecutionProvider')}: {b.why}")
        for b in found.breaks[:_BREAKS]
    ]
    rows += [
        ("", f"{_many(i.nodes, 'node')} better left to the CPU, {i.us:.0f} -> {i.cpu_us:.0f} us: {', '.join(i.where)}")
        for i in found.islands[:_BREAKS]
    ]
    notes = [f"and {len(found.breaks) - _BREAKS} other operators"] if len(found.breaks) > _BREAKS else []
    if len(found.islands) > _BREAKS:
        notes.append(f"and {len(found.islands) - _BREAKS} other islands better left to the CPU")
    notes += [f"it is not known what {name} runs" for name in found.unknown]
    return Section(title, (), tuple(rows), tuple(notes))


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _anyway(found: Analysis) -> Section:
    rows = tuple((b.name, str(b.count), str(b.level)) for b in found.anyway)
    notes = ("nothing to gain by doing these in the file",) if rows else ()
    return Section("ONNX Runtime does this at load", ("what", ">places", ">level"), rows, notes)


def _cliff(found: Analysis, index: int) -> Section:
    cliff = found.cliffs[index]
    more = f"; and {cliff.count - len(cliff.where)} more" if cliff.count > len(cliff.where) else ""
    mark = "FATAL: " if cliff.fatal else "Cliff: "
    rows = (("where", "; ".join(cliff.where) + more), ("why", cliff.why), ("do", cliff.do))
    return Section(f"{mark}{cliff.name} ({cliff.count})", (), rows)


def _no_cliffs(found: Analysis) -> Section:
    return Section("Cliffs", (), (("none", "of those that are known"),))


# Plain text --------------------------------------------------------------------------------------


def plain_text(found: Analysis) -> str:
    """Return an analysis as plain text, about 80 columns wide."""
    return "\n\n".join(_plain(section) for section in sections(found)) + "\n"


def opportunities_text(found: Opportunities) -> str:
    """Return what can be gained as plain text, about 80 columns wide."""
    made = (_families(found), _rewrites(found), _blocked(found))
    return "\n\n".join(_plain(section) for section in made if section.rows) + "\n"


def _plain(section: Section) -> str:
    import textwrap

    lines = [section.title]
    if section.headings:
        table = [tuple(h.removeprefix(">") for h in section.headings), *section.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(section.headings))]
        right = [h.startswith(">") for h in section.headings]
        for row in table:
            cells = zip(row, widths, right, strict=True)
            lines.append("  " + "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in cells).rstrip())
    else:
        for label, text in section.rows:
            lines += textwrap.wrap(
                text, _COLUMNS, initial_indent=f"  {label:<10}", subsequent_indent=" " * 12, break_on_hyphens=False
            )
    for note in section.notes:
        lines += textwrap.wrap(note, _COLUMNS, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def duration(us: float) -> str:
    """Return microseconds for people."""
    if abs(us) < 999.5:
        return f"{us:.0f} µs" if abs(us) >= 9.95 else f"{us:.1f} µs"
    return f"{us / 1e3:.3g} ms" if abs(us) < 999.5e3 else f"{us / 1e6:.3g} s"


def _number(count: float) -> str:
    for unit in ("", "k", "M", "G"):
        if abs(count) < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}T"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"

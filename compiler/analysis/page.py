"""Lay an analysis out as one HTML page: a picture of where time goes, the stages of the graph, tables, near misses.

The page needs nothing but itself: no script, no font, no request; its policy forbids them.  It follows the reader's
light or dark setting and fits a phone.  Everything that comes from a model is text, whatever it contains.  Equal
analyses give equal pages.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from compiler.analysis.opportunities import Blocked, Opportunities
from compiler.analysis.show import BLOCKED, GAINS, REWRITES, Section, blocks, duration, sections
from compiler.analysis.stages import Stage
from compiler.operators import OperatorType

if TYPE_CHECKING:
    from compiler.analysis.report import Analysis

_WIDTH, _BAR = 1000, 44
"""Size of the picture, in units that scale with the page."""

_LEAST = 0.5
"""Units below which a piece of the picture joins the one before."""

_MARKS = {"matched": "✓", "alike": "≈", "failed": "✗", "open": "·", "left out": " "}
"""What stands before a statement of a rule, by how far a place agrees with it."""

_HUES = {
    OperatorType.ATTENTION: 265, OperatorType.RECURRENT: 300, OperatorType.CONVOLUTION: 215,
    OperatorType.MATRIX_MULTIPLICATION: 190, OperatorType.NORMALIZATION: 150, OperatorType.POOLING: 170,
    OperatorType.ACTIVATION: 95, OperatorType.RESAMPLING: 240, OperatorType.QUANTIZATION: 325,
    OperatorType.REDUCTION: 125, OperatorType.LOOKUP: 50, OperatorType.SEARCH: 70, OperatorType.ELEMENT_WISE: 32,
    OperatorType.DATA_MOVEMENT: 8, OperatorType.CONVERSION: 345, OperatorType.CONTROL_FLOW: 285,
}  # fmt: skip
"""Colours, as angles; other types are grey."""

_GREY = "#8b9297"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5d656d; --paper: #fdfdfc; --card: #f2f3f1; --line: #dcdfda }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9e6; --soft: #a2aaa6; --paper: #15181a; --card: #1f2426; --line: #353b3e }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.35rem; overflow-wrap: anywhere; margin: .3rem 0 }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p, li, .soft { color: var(--soft); margin: .3rem 0; overflow-wrap: anywhere }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; margin: 1rem 0 }
.cards div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem }
.cards b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums }
.cards span { color: var(--soft); font-size: .85rem }
svg { display: block; width: 100%; height: 2.6rem; border-radius: .3rem; background: var(--card) }
.legend { display: flex; flex-wrap: wrap; gap: .2rem .9rem; font-size: .85rem; margin: .5rem 0 }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin-right: .35em }
.stage { margin: .55rem 0 }
.stage .bar { display: flex; height: .8rem; min-width: 2px; border-radius: .2rem; overflow: hidden }
.stage .bar i { display: block; min-width: 1px }
.stage div.what { display: flex; flex-wrap: wrap; gap: 0 .8rem; font-size: .85rem; overflow-wrap: anywhere }
.stage b { font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; min-width: 60% }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 600; white-space: nowrap }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.free { overflow-wrap: anywhere }
details { background: var(--card); border-radius: .5rem; padding: .5rem .8rem; margin: .5rem 0;
  overflow-wrap: anywhere }
summary { cursor: pointer }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.45; margin: .5rem 0 }
.failed { font-weight: 700 }
"""

_FIRST = frozenset({GAINS, REWRITES})
"""Sections of the text that come right after the pictures."""


def page(found: Analysis) -> str:
    """Return the page."""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{_text(found.source)} on {_text(found.target)}</title>",
            f"<style>{_STYLE}{''.join(_colours())}</style>\n</head>\n<body>",
            *_head(found),
            *([] if found.opportunities is None else _pictures(found.opportunities)),
            *_sections(found, first=True),
            *([] if found.opportunities is None else _misses(found.opportunities.blocked)),
            *_sections(found, first=False),
            "</body>\n</html>\n",
        ]
    )


def _sections(found: Analysis, *, first: bool) -> Iterator[str]:
    """Yield the sections of the text: those that go with the pictures, or the others; near misses have their own."""
    summary, *others = sections(found)
    for section in others:
        if section.title != BLOCKED and (section.title in _FIRST) == first:
            yield from _section(section)
    if not first:
        yield from _section(summary, title="The model")


def _text(text: str) -> str:
    """Return text that means nothing to a browser; what no page may hold is written as an escape."""
    shown = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return html.escape(shown)


def _colours() -> Iterator[str]:
    yield f"i {{ background: {_GREY} }}\n"
    for kind in _HUES:
        yield f".{_class(kind)} {{ background: {_colour(kind)} }}\n"


def _colour(kind: OperatorType) -> str:
    return f"hsl({_HUES[kind]},55%,52%)" if kind in _HUES else _GREY


def _class(kind: OperatorType) -> str:
    return f"t-{kind.name.lower()}"


# The head ----------------------------------------------------------------------------------------


def _head(found: Analysis) -> Iterator[str]:
    yield f"<h1>{_text(found.source)}</h1>"
    yield f'<p class="soft">on {_text(found.target)}, {_text(found.provider)}</p>'
    cards = [(str(found.census.nodes), "nodes"), (f"{found.census.parameters:,}", "parameters")]
    gained = found.opportunities
    if gained is not None:
        cards = [
            (f"{duration(gained.us)} → {duration(gained.us_after)}", "predicted for a run"),
            (f"{gained.ratio:.2f}x", "predicted gain"),
            (f"{gained.nodes} → {gained.nodes_after}", "nodes"),
            *cards[1:],
        ]
    if found.cliffs:
        cards.append((str(len(found.cliffs)), "cliffs"))
    yield '<div class="cards">'
    yield from (f"<div><b>{_text(value)}</b><span>{_text(label)}</span></div>" for value, label in cards)
    yield "</div>"


# Pictures ----------------------------------------------------------------------------------------


def _pictures(found: Opportunities) -> Iterator[str]:
    longest = max(found.us, found.us_after) or 1.0
    yield "<h2>Where time goes, from the first node to the last</h2>"
    yield f"<p>as it is written, {duration(found.us)}</p>"
    yield _strip(found.stages, longest, "time of the graph as it is written")
    yield f"<p>as the pipeline would leave it, {duration(found.us_after)}</p>"
    yield _strip(found.stages_after, longest, "time of the graph as the pipeline would leave it")
    yield from _legend(found)
    yield "<h2>Stages</h2>"
    yield "<p>runs of nodes between which little is handed on, as the graph is written</p>"
    widest = max((s.us for s in found.stages), default=0.0) or 1.0
    yield from (_stage(i, stage, widest) for i, stage in enumerate(found.stages, 1))


def _strip(stages: Sequence[Stage], longest: float, label: str) -> str:
    """Return the time of the stages side by side, each by type; its whole width is the longest time."""
    parts, x = [], 0.0
    for number, stage in enumerate(stages, 1):
        for kind, us in stage.types.items():
            width = _WIDTH * us / longest
            if width >= _LEAST:
                title = f"stage {number}{f', {stage.name}' if stage.name else ''}: {kind.value}, {duration(us)}"
                parts.append(
                    f'<rect fill="{_colour(kind)}" x="{x:.1f}" y="0" width="{width:.1f}" height="{_BAR}">'
                    f"<title>{_text(title)}</title></rect>"
                )
            x += width
    inside = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_BAR}" preserveAspectRatio="none" role="img" aria-label="{_text(label)}">\n'
        f"{inside}\n</svg>"
    )


def _legend(found: Opportunities) -> Iterator[str]:
    after = {f.type: f.us for f in found.families_after}
    before = {f.type: f.us for f in found.families}
    yield '<div class="legend">'
    for kind in dict.fromkeys((*before, *after)):
        times = f"{duration(before.get(kind, 0.0))} → {duration(after.get(kind, 0.0))}"
        yield f'<span><i class="{_class(kind)}"></i>{kind.value} {times}</span>'
    yield "</div>"


def _stage(number: int, stage: Stage, widest: float) -> str:
    pieces = "".join(
        f'<i class="{_class(kind)}" style="width:{100 * us / (stage.us or 1.0):.1f}%" title="{kind.value}"></i>'
        for kind, us in stage.types.items()
        if us > 0
    )
    made = ", ".join(f"{count} {op}" if count > 1 else op for op, count in stage.operators.items())
    others = f" and {stage.nodes - sum(stage.operators.values())} nodes more"
    words = [made + (others if stage.nodes > sum(stage.operators.values()) else ""), stage.name, stage.gives]
    what = "".join(f"<span>{_text(word)}</span>" for word in words if word)
    return (
        f'<div class="stage"><div class="what"><b>{number}. {duration(stage.us)}</b>{what}</div>'
        f'<div class="bar" style="width:{100 * stage.us / widest:.1f}%">{pieces}</div></div>'
    )


# Tables ------------------------------------------------------------------------------------------


def _section(section: Section, *, title: str = "") -> Iterator[str]:
    yield f"<h2>{_text(title or section.title)}</h2>"
    yield '<div class="scroll"><table>'
    right = [h.startswith(">") for h in section.headings]
    if section.headings:
        yield _row("th", [h.removeprefix(">") for h in section.headings], right)
    for row in section.rows:
        yield _row("td", row, right)
    yield "</table></div>"
    yield from (f"<p>{_text(note)}</p>" for note in section.notes)


def _row(tag: str, cells: Iterable[str], right: Sequence[bool]) -> str:
    kinds = [*right] or [False, False]
    marked = zip(cells, kinds, strict=True)
    return "<tr>" + "".join(f'<{tag} class="{"n" if n else "free"}">{_text(c)}</{tag}>' for c, n in marked) + "</tr>"


# Near misses -------------------------------------------------------------------------------------


def _misses(blocked: Sequence[Blocked]) -> Iterator[str]:
    if not blocked:
        return
    yield f"<h2>{BLOCKED}</h2>"
    yield "<p>rewrites that nearly apply, and what is in their way; the times are those of the nodes that take part</p>"
    for miss in blocked:
        yield f"<details><summary><b>{_text(miss.rule)}</b> {miss.type.value}, {duration(miss.us)}, "
        yield f"{miss.count} {'place' if miss.count == 1 else 'places'}: {_text(blocks(miss))}</summary>"
        yield f"<p>{_text('; '.join(miss.places))}</p>"
        lines = (f'<span class="{s.state}">{_MARKS.get(s.state, " ")} {_text(s.text)}</span>' for s in miss.form)
        yield "<pre>" + "\n".join(lines) + "</pre></details>"

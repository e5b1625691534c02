"""Decisions as people see them: in 80 columns, with every candidate, its predicted cost and the source of that."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from compiler.render_decisions import decisions


def decision(place: str, chosen: str = "FuseThis", *, us: float = 2.0, why: str = "", **more: Any) -> dict[str, Any]:
    """Return a decision between leaving a place, ``FuseThis`` and ``FuseThisAndThatWithTheLongestNameOfAllRules``."""
    options = [("keep", 8.0), ("FuseThis", us), ("FuseThisAndThatWithTheLongestNameOfAllRules", 3.0)]
    return {
        "place": place,
        "operator": "MatMul + Add",
        "options": [{"name": name, "us": cost, "source": "calibrated"} for name, cost in options],
        "chosen": chosen,
        "gain": 8.0 / us,
        "why": why or "expected 4.00x: model 4.00x (calibrated), table 2x",
        **more,
    }


def shown(*found: dict[str, Any]) -> list[str]:
    """Return the lines of a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80)
    console.print(*decisions(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_equal_decisions_share_an_entry() -> None:
    """Decisions that differ in place and size are one entry, whose times are added up and whose gains are a range."""
    lines = shown(*(decision(f"layer.{i}/fc/MatMul, layer.{i}/fc/Add", us=2.0 + 2 * (i % 2)) for i in range(4)))
    (entry,) = [line for line in lines if line.startswith("FuseThis")]
    assert entry.split() == ["FuseThis", "4", "32", "12", "2.00-4.00x"]
    text = " ".join(line.strip() for line in lines)
    assert "MatMul + Add at layer.0/fc/MatMul, layer.1/fc/MatMul and 2 more" in text
    assert "model 2.00-4.00x (calibrated), table 2x" in text
    assert "FuseThisAndThatWithTheLongestNameOfAllRules (12 us)" in text


def test_all_fits_into_80_columns() -> None:
    """Long names of rules and places are folded, never cut off."""
    long = "FuseThisAndThatWithTheLongestNameOfAllRules"
    place = "/model/decoder/" + "layers.0/" * 12 + "MatMul"
    lines = shown(
        decision(place, long),
        decision(place, "keep", why="expected 1.00x: model 1.00x (analytic), the table is silent; no gain"),
    )
    assert max(map(len, lines)) <= 80
    assert "".join(line.strip() for line in lines).count(place) == 2
    assert any(line.startswith(long) for line in lines)


def test_what_was_done_comes_first() -> None:
    """What changed something stands before what did not, and what saves more before what saves less."""
    kept = decision("a", "keep", why="expected 4.00x: model 4.00x (calibrated), table 2x; FuseOther saves more")
    lines = shown(kept, decision("b", us=7.0), decision("c", operator="Conv"))
    names = [line.split("  ")[0] for line in lines if line and line[0] not in " e" and not line.startswith("decision")]
    assert names == ["FuseThis", "FuseThis", "keep, not FuseThis"]
    assert next(i for i, line in enumerate(lines) if " at c" in line) < next(
        i for i, line in enumerate(lines) if " at b" in line
    )
    assert any("FuseOther saves more; model" in line for line in lines)


def test_nothing_to_decide_is_said() -> None:
    """Without decisions there is a sentence."""
    assert "nothing was to be decided" in shown()[0]

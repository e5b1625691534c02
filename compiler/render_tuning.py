"""Say what tuning found, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_VERDICTS = {
    "faster": "faster than the original",
    "slower": "SLOWER than the original",
    "same": "as fast as the original",
    "cannot tell": "no difference from the original that could be told",
}


def tuned(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield labels and texts about a report's part ``tuning``; none when nothing was tuned."""
    tuning = report.get("tuning")
    if not tuning:
        return
    yield "tuned", _result(tuning)
    yield "", _rules(tuning["rules"])
    yield "", _settings(tuning["settings"])
    for name, why in tuning["reverted"].items():
        yield "reverted", f"{name}: {why}"
    undecided = [note for note in tuning["notes"] if "cannot tell" in note]
    if undecided:
        yield "", f"{_count(len(undecided), 'question')} not decided: the machine was too busy, or time was short"
    for note in tuning["notes"]:
        if "cannot tell" not in note:
            yield "", note


def _result(tuning: Mapping[str, Any]) -> str:
    found = tuning["result"]
    if found is None:
        return "cannot tell whether it is faster than the original; the default choices are kept"
    ms = [us / 1e3 for us in (found["before_us"], found["after_us"])]
    clock = " of processor time" if found["clock"] == "processor" else ""
    ratio = _ratio(found["ratio"])
    return f"{_VERDICTS[found['verdict']]}: {ms[0]:.3g} -> {ms[1]:.3g} ms{clock}, {ratio} times as fast"


def _rules(rules: Any) -> str:
    by_verdict = {word: [r["rule"] for r in rules if r["verdict"] == word] for word in ("faster", "slower")}
    parts = [f"{word}: {', '.join(names)}" for word, names in by_verdict.items() if names]
    return f"{_count(len(rules), 'rule')} timed" + (f"; {'; '.join(parts)}" if parts else "")


def _settings(settings: Any) -> str:
    taken = [f"{s['title']} ({_ratio(s['ratio'])})" for s in settings if s["taken"]]
    return f"{_count(len(settings), 'setting')} tried; taken: {', '.join(taken) or 'none'}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _ratio(ratio: Mapping[str, float]) -> str:
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"

"""Tell a failure: the rule's form, both graphs as IR, the data, and the command that repeats it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.ir.printer import print_model
from compiler.rewrite import Rule
from compiler.rewrite.pattern import Pattern
from tests.rule_harness_batch import RuleRaises, Tally, apply, assemble
from tests.rule_harness_choices import LENGTH
from tests.rule_harness_instance import Instance


@dataclass
class Fault:
    """An instance for which a rule does not hold."""

    instance: Instance
    what: str
    """The difference, with the value where it shows."""
    oracle: str
    """Who found it."""


def describe(rule: Rule, pattern: Pattern, fault: Fault) -> str:
    """Return the whole story of a fault."""
    model, _, _ = assemble(rule, pattern, [fault.instance.data])
    before = print_model(model)
    try:
        apply(rule, model)
        after = print_model(model)
    except RuleRaises as error:
        after = f"raised {error}"
    form = rule.forms.index(pattern)
    lines = [
        f"{rule.name}, form {form}: {fault.what}",
        f"found by {fault.oracle} on:",
        _indented(before),
        "which became:",
        _indented(after),
        *(f"with %{name} = {_numbers(array)}" for name, array in fault.instance.feeds.items()),
        *(f"with {symbol} = {number}" for symbol, number in fault.instance.numbers.items()),
        f"repeat: python -m tests.rule_harness {rule.__module__}:{rule.name} {form} {fault.instance.data.hex()}",
    ]
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.rstrip().splitlines())


def _numbers(array: Any) -> str:
    return np.array2string(np.asarray(array), precision=8, threshold=40, separator=", ").replace("\n", "")


class Nearest:
    """The near miss that came furthest: why a rule did not match; a ``Trace`` of the engine."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.matched = -1
        self.reason = "nothing was tried"

    def miss(self, pattern: Pattern, binding: Any, statement: int, place: Any, reason: str) -> None:
        """Take note of an attempt that failed after ``binding.nodes`` matched."""
        if len(binding.nodes) > self.matched:
            self.matched, self.reason = len(binding.nodes), f"statement {statement}: {reason}"


def near_miss(rule: Rule, pattern: Pattern, data: bytes) -> str:
    """Return why the instance that bytes stand for is not rewritten, as far as the engine knows."""
    model, _, undrawable = assemble(rule, pattern, [data])
    if undrawable:
        return undrawable[0]
    trace = Nearest()
    ctx = apply(rule, model, trace=trace)
    return "" if ctx.rewrites else f"{trace.reason}\n{_indented(print_model(model))}"


def why_too_few(rule: Rule, pattern: Pattern, tally: Tally) -> str:
    """Return why too few instances of a form were compared, with the simplest one that was not rewritten."""
    form = rule.forms.index(pattern)
    shown = "\n".join(s for s in (near_miss(rule, pattern, bytes([k] * LENGTH)) for k in range(8)) if s)
    return f"{rule.name}, form {form}: {tally}\nfor example: {shown[:2000] or 'they are rewritten, but do not run'}"

"""The property that holds for every rule: what it rewrites computes the same before and after.

``sweep`` draws instances of a form from bytes, applies the rule, runs both sides on two oracles and compares.  The
first failure is made small and told with both graphs, the data, and the command that repeats it:
``python -m tests.rule_harness RULE FORM BYTES``.

Results without elements prove nothing: kernels refuse empty tensors that the standard allows, and a shape computed with
``-1`` is not what it was.  Such instances are drawn, but only results that have elements are held to anything.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import onnx

from compiler.errors import WorkerError
from compiler.rewrite import Rule
from compiler.rewrite.pattern import Pattern
from tests.rule_harness_agreement import Oracle, disagreement
from tests.rule_harness_batch import (
    RAISED,
    Batch,
    RuleRaises,
    Tally,
    assemble,
    is_lack,
    part_of,
    run_batch,
    taken_apart,
    type_fault,
)
from tests.rule_harness_choices import LENGTH, derived, smaller
from tests.rule_harness_instance import Instance
from tests.rule_harness_oracles import Runtime, culprit, evaluate_by_reference
from tests.rule_harness_report import Fault, describe, near_miss

BATCH = 8
"""Instances that travel together."""

RUNTIME, REFERENCE = "ONNX Runtime", "the reference evaluator"

ROUNDS = 6
"""Attempts to draw an instance that the rule takes and an oracle runs."""


class RuleFailure(AssertionError):
    """A rule does not hold."""


@dataclass
class Harness:
    """The oracles, and what is known of instances that they cannot run."""

    runtime: Runtime = field(default_factory=Runtime)
    _unrunnable: dict[tuple[str, ...], str] = field(default_factory=dict)
    """Signature of an instance → why the runtime runs one of its sides not."""

    _batches: int = 0

    def sweep(self, rule: Rule, pattern: Pattern, data: bytes, tally: Tally) -> None:
        """Check the instances that bytes stand for; raises ``RuleFailure`` for the first that does not hold."""
        parts = [data[k : k + LENGTH] for k in range(0, len(data), LENGTH)]
        for number in range(ROUNDS):
            drawn = {derived(part, number): part for part in parts}
            done: set[bytes] = set()
            fault = self.fault(rule, pattern, list(drawn), tally, done)
            if fault is not None:
                self._fail(rule, pattern, fault)
            parts = [part for used, part in drawn.items() if used not in done]
            if tally.fired >= 8 * BATCH and not tally.checked:  # no oracle runs it
                break
            if len(parts) <= BATCH // 2:  # a batch costs as much for one as for many
                break

    def _fail(self, rule: Rule, pattern: Pattern, fault: Fault) -> NoReturn:
        kind = _kind(fault.what)
        small = smaller(fault.instance.data, lambda d: _kind(self.what(rule, pattern, d)) == kind)
        least = self.fault(rule, pattern, [small], Tally()) or fault
        raise RuleFailure(describe(rule, pattern, least))

    def what(self, rule: Rule, pattern: Pattern, data: bytes) -> str:
        """Return how a rule fails on the instance that bytes stand for, ``""`` when it does not."""
        found = self.fault(rule, pattern, [data], Tally())
        return "" if found is None else found.what

    def fault(
        self, rule: Rule, pattern: Pattern, parts: Sequence[bytes], tally: Tally, done: set[bytes] | None = None
    ) -> Fault | None:
        """Return the first instance that fails, ``None`` when all hold; ``done`` is told which were compared."""
        tally.done = set() if done is None else done
        try:
            batch = run_batch(rule, pattern, parts)
        except RuleRaises as error:
            return _raising(rule, pattern, parts, error)
        tally.add(batch)
        if batch.complaint:
            return Fault(batch.instances[0], f"engine: {batch.complaint}", "the engine")
        if not batch.fired:
            return None
        return self._by_runtime(batch, tally) or self._by_reference(batch, tally)

    # ONNX Runtime --------------------------------------------------------------------------------

    def _by_runtime(self, batch: Batch, tally: Tally) -> Fault | None:
        todo = [i for i in batch.fired if i.signature not in self._unrunnable]
        while todo:
            ran = self._together(batch, todo)
            if ran is None:
                return self._one_by_one(batch, todo, tally)
            if not isinstance(ran, Instance):
                return self._compared(batch, todo, *ran, RUNTIME, tally)
            todo.remove(ran)
        return None

    def _together(self, batch: Batch, todo: list[Instance]) -> tuple[list[Any], list[Any]] | Instance | None:
        """Run both sides at once; return an instance that has no kernel, ``None`` when it is not clear which."""
        feeds = {name: a for i in todo for name, a in i.feeds.items()}
        outputs = [name for i in todo for name in i.names]
        before = self.runtime.run(_chosen(batch.before, outputs), feeds)
        if isinstance(before, WorkerError):
            guilty = next((i for i in todo if culprit(before).startswith(i.prefix)), None)
            if guilty is not None and "NOT_IMPLEMENTED" in str(before.why):
                self._unrunnable[guilty.signature] = _reason(before)
                return guilty
            return None
        after = self.runtime.run(_chosen(batch.after, outputs), feeds)
        if isinstance(after, WorkerError) and (apart := taken_apart(batch)) is not None:
            batch.runnable = apart
            after = self.runtime.run(_chosen(apart, outputs), feeds)
        return None if isinstance(after, WorkerError) else (before, after)

    def _one_by_one(self, batch: Batch, todo: list[Instance], tally: Tally) -> Fault | None:
        for instance in todo:
            outputs = instance.names
            before = self.runtime.run(part_of(batch.before, outputs), instance.feeds)
            if isinstance(before, WorkerError):
                self._note(instance, before, tally, always=is_lack(str(before.why)))
                continue
            after = self.runtime.run(part_of(batch.runnable, outputs), instance.feeds)
            if isinstance(after, WorkerError):
                if "NOT_IMPLEMENTED" in str(after.why) and batch.rule.stage in RAISED:
                    self._note(instance, after, tally, always=True)
                    continue
                if all(np.size(value) == 0 for value in before[: instance.replaced]):
                    self._note(instance, after, tally, always=False)
                    continue
                return Fault(instance, f"the rewritten graph does not run: {_reason(after)}", RUNTIME)
            fault = self._compared(batch, [instance], before, after, RUNTIME, tally)
            if fault is not None:
                return fault
        return None

    def _note(self, instance: Instance, error: WorkerError, tally: Tally, *, always: bool) -> None:
        reason = _reason(error)
        tally.not_run(reason)
        if always:
            self._unrunnable[instance.signature] = reason

    # The reference -------------------------------------------------------------------------------

    def _by_reference(self, batch: Batch, tally: Tally) -> Fault | None:
        """Check what the runtime does not run, and one instance of every other batch besides."""
        self._batches += 1
        for k, instance in enumerate(batch.fired):
            if (k or (self._batches % 2 and len(batch.fired) > 1)) and instance.signature not in self._unrunnable:
                continue
            outputs = instance.names
            sides = [evaluate_by_reference(part_of(m, outputs), instance.feeds) for m in (batch.before, batch.after)]
            why = next((side for side in sides if isinstance(side, str)), "")
            if why:
                if instance.signature in self._unrunnable:
                    tally.not_run(f"{self._unrunnable[instance.signature]}; {why}")
                continue
            before, after = (list(side) for side in sides)
            counted = tally if instance.signature in self._unrunnable else Tally(done=tally.done)
            fault = self._compared(batch, [instance], before, after, REFERENCE, counted)
            if fault is not None:
                return fault
        return None

    # Comparison ----------------------------------------------------------------------------------

    def _compared(
        self, batch: Batch, todo: list[Instance], before: list[Any], after: list[Any], oracle: str, tally: Tally
    ) -> Fault | None:
        run = self.runtime.run if oracle == RUNTIME else evaluate_by_reference
        pairs = iter(zip(before, after, strict=True))
        for instance in todo:
            tally.checked += 1
            tally.done.add(instance.data)
            for place, (name, (expected, found)) in enumerate(zip(instance.names, pairs, strict=False)):
                what = self._difference(batch, instance, place, (expected, found), run, tally)
                if what:
                    return Fault(instance, f"%{name}: {what}", oracle)
        return None

    def _difference(
        self, batch: Batch, instance: Instance, place: int, sides: tuple[Any, Any], run: Oracle, tally: Tally
    ) -> str:
        """Return how the two sides of an output differ, or contradict the types that the IR gives them."""
        expected, found = sides
        if np.size(expected) == 0 and np.size(found) == 0:
            return ""
        numbers = dict(instance.numbers)
        invalid = type_fault(instance.types[place], expected, numbers)
        if invalid:  # such as an operand that broadcasts where the standard allows no broadcasting
            tally.not_run(f"the original contradicts itself: {invalid}")
            return ""
        original = part_of(batch.before, instance.names)
        wrong = type_fault(batch.types[instance.names[place]], found, numbers)
        return wrong or disagreement(batch.rule, instance, place, sides, original, run)


def _raising(rule: Rule, pattern: Pattern, parts: Sequence[bytes], error: RuleRaises) -> Fault:
    """Return the instance on which a rule raises an exception, or leaves a broken graph."""
    for data in parts:
        _, instances, _ = assemble(rule, pattern, [data])
        try:
            run_batch(rule, pattern, [data])
        except RuleRaises as own:
            return Fault(instances[0], f"engine: {own}", "the engine")
    raise error


def _chosen(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    return model if len(outputs) == len(model.graph.output) else part_of(model, outputs)


def _reason(error: WorkerError) -> str:
    """Return what the runtime says, without the place in its own source."""
    said = re.sub(r"\bi\d+_", "", str(error.why).replace("[ONNXRuntimeError] : ", ""))
    return re.sub(r"/onnxruntime_src/\S*/([^/\s]+:\d+) .*(?= was false|\) )", r"\1 ", said)[:300]


def _kind(what: str) -> str:
    """Return what a failure is about, without names and numbers: shrinking keeps to one kind."""
    about = what.partition(" in ")[0].partition(": ")[2]
    return "".join(c for c in about if c.isalpha() or c == " ")[:24]


def main(arguments: Sequence[str]) -> int:
    """Repeat one instance: ``MODULE:RULE FORM BYTES``; say how it fails, or how it does not match."""
    place, form, text = arguments
    module, _, name = place.partition(":")
    rule: Rule = getattr(importlib.import_module(module), name)()
    pattern, data = rule.forms[int(form)], bytes.fromhex(text)
    fault = Harness().fault(rule, pattern, [data], Tally())
    print(describe(rule, pattern, fault) if fault is not None else near_miss(rule, pattern, data) or "it holds")
    return fault is not None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

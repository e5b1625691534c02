"""Run both sides of rewritten regions on activations of the original, and compare.

All regions of a pass are one model on each side; a model that does not load or run is halved until the region
at fault is found.  A region whose old side does not run here counts as unchecked; one whose new side alone
does not run is a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.backend.emit import Limits
from compiler.backend.fragment import NOW, fragment, fragment_bytes
from compiler.backend.places import Places
from compiler.errors import AmpcError, WorkerError
from compiler.ir.dtype import DType
from compiler.ir.graph import Model, Node, Value
from compiler.ir.types import UNKNOWN, TensorType, Type
from compiler.verify.compare import Difference, Tolerance, compare
from compiler.verify.probes import Probe
from compiler.verify.probes_bindings import size_of
from compiler.verify.reference import Original, Reference
from compiler.verify.regions import Region, RegionLog
from compiler.verify.regions_blame import rule_at_fault
from compiler.verify.tolerating import forgives

if TYPE_CHECKING:
    from compiler.verify.worker import Worker

_BUDGET = 512 << 20
"""Bytes of activations that are recorded at a time."""

_UNKNOWN_SIZE = 1 << 20
"""Bytes that an activation of unknown size counts as."""

_HALVINGS = 40
"""Models that may fail to run before the rest is left unchecked."""

_NO_KERNEL = ("NOT_IMPLEMENTED", "Could not find an implementation", "is not a registered function/op")
"""What the runtime says when the operator is for another device than the one that checks."""


@dataclass(slots=True)
class RegionFailure:
    """A rewrite instance that computes something else than what it replaced."""

    pass_name: str
    """The pass that made it."""
    rule: str
    """The rule that made it, empty when none can be named."""
    nodes: tuple[str, ...]
    """Names of the original's nodes that it replaced."""
    value: str
    """The value that differs."""
    difference: Difference
    """How it differs."""
    probe: str
    """The probe on which it does."""
    region: Region
    """Both sides."""
    feeds: Mapping[str, Any]
    """What both sides read."""
    model: Model
    """The model that gives versions and functions."""
    operators: str
    """What became of what: ``Div+Erf+Add => Gelu``."""

    def __str__(self) -> str:
        """Say in one line which rule (or else which pass) broke what."""
        return f"{self.guilty}: {self.operators} at {', '.join(self.nodes[:3]) or self.value}: {self.difference}"

    @property
    def guilty(self) -> str:
        """Who is at fault: the rule, or else the pass."""
        return self.rule or self.pass_name

    def to_json(self) -> dict[str, Any]:
        """Return what a report needs as JSON."""
        return {
            "pass": self.pass_name,
            "rule": self.rule,
            "why": str(self),
            "nodes": list(self.nodes),
            "operators": self.operators,
            "value": self.value,
            "probe": self.probe,
            "difference": self.difference.to_json(),
        }


@dataclass(slots=True)
class RegionReport:
    """What came of checking the regions."""

    checked: int = 0
    repeated: int = 0
    unchecked: Counter[str] = field(default_factory=Counter)
    failures: list[RegionFailure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return counts, reasons and failures as JSON."""
        return {
            "checked": self.checked,
            "repeated": self.repeated,
            "unchecked": dict(sorted(self.unchecked.items())),
            "failures": [f.to_json() for f in self.failures],
        }


def check_regions(
    log: RegionLog,
    reference: Reference,
    probes: Sequence[Probe],
    worker: Worker,
    *,
    tolerance: Tolerance | None = None,
    max_ir: int = 10,
) -> RegionReport:
    """Check all regions of a log on each of the probes; never raises for what the models do."""
    report = RegionReport(repeated=log.repeated, unchecked=Counter(log.unchecked))
    recorder = _recorder(log, reference, max_ir)
    done: set[Region] = set()
    for probe in probes:
        for group in _groups(log.regions, probe):
            run = _Run(log, worker, probe, tolerance or Tolerance.default(), Limits(max_ir=max_ir), report, done)
            run.group(group, recorder)
    report.checked = len(done)
    return report


def _recorder(log: RegionLog, reference: Reference, max_ir: int) -> Reference:
    if isinstance(log.recording, Original):
        return Reference(log.recording, reference.worker, max_ir, reference.timeout)
    return reference


def _groups(regions: Sequence[Region], probe: Probe) -> Iterator[list[Region]]:
    """Yield regions in order, each group with those that make what it reads, within the memory budget."""
    group: dict[Region, None] = {}
    size = 0
    for region in regions:
        needed = [r for r in _closure(region) if r not in group]
        added = sum(_bytes(v.type, probe) for r in needed for v, o in r.inputs.items() if o.name)
        if group and size + added > _BUDGET:
            yield list(group)
            group, size = {}, 0
            needed = _closure(region)
        group.update(dict.fromkeys(needed))
        size += added
    if group:
        yield list(group)


def _closure(region: Region) -> list[Region]:
    """Return a region and those whose new side makes what it reads, makers first."""
    found: dict[Region, None] = {region: None}
    todo = [region]
    while todo:
        for origin in todo.pop().inputs.values():
            if origin.region is not None:
                found.pop(origin.region, None)
                found[origin.region] = None
                todo.append(origin.region)
    return list(reversed(found))


def _bytes(type_: Type, probe: Probe) -> int:
    if not isinstance(type_, TensorType) or type_.dtype is DType.UNKNOWN:
        return _UNKNOWN_SIZE
    total = type_.dtype.bits // 8 or 1
    for d in type_.shape:
        total *= size_of(d, probe.binding)
    return total


class _Unavailable(Exception):
    """A value that could not be had."""


@dataclass(slots=True)
class _Run:
    """One group of regions on one probe."""

    log: RegionLog
    worker: Worker
    probe: Probe
    tolerance: Tolerance
    limits: Limits
    report: RegionReport
    done: set[Region]
    values: dict[Value, Any] = field(default_factory=dict)
    old: dict[Value, Any] = field(default_factory=dict)
    places: Places = field(default_factory=Places.now)
    refusals: int = 0

    def group(self, regions: list[Region], recorder: Reference) -> None:
        """Check regions that come with all regions whose results they read."""
        names = dict.fromkeys(o.name for r in regions for o in r.inputs.values() if o.name)
        try:
            recorded = recorder.record(self.probe, list(names))
        except AmpcError as error:
            self._leave(regions, f"activations cannot be recorded: {_why(error)}")
            return
        wanted = {o.value: None for r in regions for o in r.inputs.values() if o.value is not None}
        for stage in sorted({r.stage for r in regions}):
            part = [r for r in regions if r.stage == stage]
            for batch in _independent(part):
                self._batch(batch, recorded, wanted)

    def _batch(self, regions: list[Region], recorded: Mapping[str, Any], wanted: Mapping[Value, None]) -> None:
        ready = [r for r in regions if self._provide(r, recorded)]
        old_failed = self._side(ready, lambda r: r.before, lambda r: [a for a, _ in r.pairs], self.old)
        able = [r for r in ready if r not in old_failed]
        for region, why in old_failed.items():
            self._leave([region], f"what was there before cannot be run alone: {why}")
        outputs = list(wanted)
        new_failed = self._side(able, lambda r: r.after, lambda r: [*(b for _, b in r.pairs), *outputs], self.values)
        for region, why in new_failed.items():
            self._new_side_refused(region, why)
        for region in able:
            if region not in new_failed:
                self._compare(region)

    def _provide(self, region: Region, recorded: Mapping[str, Any]) -> bool:
        for value, origin in region.inputs.items():
            if origin.name:
                self.values[value] = recorded[origin.name]
            elif origin.value in self.values:
                self.values[value] = self.values[origin.value]
            else:
                self._leave([region], "it reads what an unchecked rewrite makes")
                return False
            if self.values[value] is None:
                self._leave([region], "it reads an optional value that is absent")
                return False
        return True

    # Running --------------------------------------------------------------------------------------

    def _side(
        self,
        regions: list[Region],
        nodes: Callable[[Region], list[Node]],
        outputs: Callable[[Region], list[Value]],
        into: dict[Value, Any],
    ) -> dict[Region, str]:
        """Run one side of regions; return those that do not run, with the reason."""
        failed: dict[Region, str] = {}
        todo = [regions] if regions else []
        while todo:
            some = todo.pop()
            try:
                into.update(self._evaluate(some, nodes, outputs))
            except AmpcError as error:
                self.refusals += 1
                if len(some) > 1 and self.refusals < _HALVINGS:
                    half = len(some) // 2
                    todo += [some[half:], some[:half]]
                else:
                    failed.update(dict.fromkeys(some, _why(error)))
        return failed

    def _evaluate(
        self,
        regions: list[Region],
        nodes: Callable[[Region], list[Node]],
        outputs: Callable[[Region], list[Value]],
    ) -> dict[Value, Any]:
        listed = list(dict.fromkeys(n for r in regions for n in nodes(r)))
        made = {o for n in listed for o in n.outputs if not o.absent}
        wanted = list(dict.fromkeys(v for r in regions for v in outputs(r) if v in made))
        if not wanted:
            return {}
        inputs = list(dict.fromkeys(v for r in regions for v in r.inputs if v not in made))
        used = {v for n in listed for v in NOW.operands(n)}
        inputs = [v for v in inputs if v in used]
        model = fragment(
            listed, inputs=[(v, type_of(self.values[v], v.type)) for v in inputs], outputs=wanted, like=self.log.model
        )
        data, folder = fragment_bytes(model, limits=self.limits, places=self.places)
        feeds = {v.name: self.values[v] for v in inputs}
        found = self.worker.evaluate(data, feeds, [v.name for v in wanted], external_folder=folder)
        return dict(zip(wanted, found, strict=True))

    # Comparing ------------------------------------------------------------------------------------

    def _compare(self, region: Region) -> None:
        made = {o for n in region.before for o in n.outputs}
        self.done.add(region)
        for place, (a, b) in enumerate(region.pairs):
            if a.constant is not None and b.constant is not None and a.constant.digest() == b.constant.digest():
                continue
            try:
                reference, got = self._value(a, self.old if a in made else self.values), self._value(b, self.values)
            except _Unavailable as error:
                self._leave([region], str(error))
                return
            found = compare(reference, got, tolerance=self.tolerance.widened(region.rtol))
            if found is not None and not self._is_forgiven(region, place, reference, found):
                self._fail(region, place, found)
                return

    def _value(self, value: Value, known: Mapping[Value, Any]) -> Any:
        if value in known:
            return known[value]
        if value.constant is not None and value.constant.is_readable:
            return value.constant.array()
        raise _Unavailable("one of its results cannot be had")

    def _is_forgiven(self, region: Region, place: int, reference: Any, found: Difference) -> bool:
        inputs = {v: self.values[v] for v in region.inputs}
        target = region.pairs[place][0]

        def run(feeds: Mapping[str, Any]) -> list[Any]:
            kept, self.values = self.values, {v: feeds[v.name] for v in inputs}
            try:
                return [self._evaluate([region], lambda r: r.before, lambda r: [target]).get(target)]
            finally:
                self.values = kept

        why = forgives(found, {v.name: x for v, x in inputs.items()}, reference, _as_worker_errors(run), 0)
        if why:
            self.report.notes.append(f"{region.pass_name} at {', '.join(region.nodes[:2])}: {why}")
        return bool(why)

    def _new_side_refused(self, region: Region, why: str) -> None:
        if any(text in why for text in _NO_KERNEL):
            self._leave([region], "the runtime that checks has no kernel for what it became")
            return
        if self.refusals >= _HALVINGS:
            self._leave([region], "too many models refused to run")
            return
        self._fail(region, 0, Difference("", f"what it became does not run: {why}"))

    def _fail(self, region: Region, place: int, found: Difference) -> None:
        self.report.failures.append(
            RegionFailure(
                region.pass_name,
                rule_at_fault(region, place),
                region.nodes,
                region.pairs[place][1].name,
                found,
                self.probe.name,
                region,
                {v.name: self.values[v] for v in region.inputs},
                self.log.model,
                f"{_operators(region.before)} => {_operators(region.after)}",
            )
        )

    def _leave(self, regions: Sequence[Region], why: str) -> None:
        for region in regions:
            self.done.discard(region)
            self.report.unchecked[f"{region.pass_name}: {why}"] += 1


def _as_worker_errors(run: Callable[[Mapping[str, Any]], list[Any]]) -> Callable[[Mapping[str, Any]], list[Any]]:
    def wrapped(feeds: Mapping[str, Any]) -> list[Any]:
        try:
            return run(feeds)
        except WorkerError:
            raise
        except AmpcError as error:
            raise WorkerError(error.what, kind="run", why=error.why) from error

    return wrapped


def _independent(regions: Sequence[Region]) -> Iterator[list[Region]]:
    """Yield runs of regions of one pass in which none reads what another of the same run makes."""
    batch: dict[Region, None] = {}
    for region in regions:
        if any(o.region in batch for o in region.inputs.values() if o.region is not None):
            yield list(batch)
            batch = {}
        batch[region] = None
    if batch:
        yield list(batch)


def type_of(array: Any, known: Type) -> Type:
    """Return the type under which a recorded value is fed: its own element type and rank, all dims open."""
    if not isinstance(array, np.ndarray):
        if known == UNKNOWN:
            raise WorkerError("a value cannot be fed", kind="run", why="the type of a recorded value is not known")
        return known
    from compiler.ir.dims import symbol

    return TensorType(DType.from_numpy(array.dtype), tuple(symbol(f"?{k}") for k in range(array.ndim)))


def _operators(nodes: Sequence[Node]) -> str:
    names = [n.op for n in nodes[:8]]
    return "+".join(names) + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else "") or "nothing"


def _why(error: AmpcError) -> str:
    text = (error.why or error.what).strip()
    return text.splitlines()[0][:300]

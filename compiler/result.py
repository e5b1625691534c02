"""What a compilation gives back: the model, its settings, and the report of what was done and what was checked.

The report is what ``ampc.json`` holds, with times besides: these differ from run to run, and the file must not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler import manager
from compiler.ir.graph import Model
from compiler.ir.splice import PayloadTable
from compiler.manager import PassRecord
from compiler.rewrite.engine import RuleStats

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.verify.certificate import Certificate
    from compiler.verify.regions import RegionLog

TIMES = "seconds"
"""The part of the report that is not the same for equal builds."""


_REASONS = 8
"""Reasons of refusals that the report lists of each rule; they name values, so there may be thousands."""


class Result:
    """A compiled model: ``model`` (ModelProto), ``settings`` (providers and options), ``report`` (evidence).

    ``path`` is where it was written, ``None`` when no output was asked for.
    """

    def __init__(
        self, settings: dict[str, Any], report: dict[str, Any], *, path: Path | None, make: Callable[[], ModelProto]
    ) -> None:
        self.settings = settings
        self.report = report
        self.path = path
        self._make = make
        self._model: ModelProto | None = None

    @property
    def model(self) -> ModelProto:
        """The model with all its weights, made when first asked for."""
        if self._model is None:
            self._model = self._make()
        return self._model

    @property
    def certificate(self) -> dict[str, Any]:
        """What was checked, as in ``ampc.json``."""
        return dict(self.report["verification"])


@dataclass(slots=True)
class Attempt:
    """One run of the pipeline and what came of it."""

    model: Model
    """The model as the passes left it."""
    records: list[PassRecord]
    """What each run of each pass did."""
    proto: ModelProto
    """The emitted model; large constants are stubs."""
    table: PayloadTable
    """The contents of the stubs."""
    regions: RegionLog | None = None
    """What the passes replaced, for verification."""


@dataclass(frozen=True, slots=True)
class Measures:
    """How large a model is."""

    nodes: int
    """Nodes, those of nested graphs included."""
    nbytes: int
    """Bytes of constants."""
    census: dict[str, int] = field(default_factory=dict)
    """Nodes by operator, the most frequent first."""

    @classmethod
    def of(cls, model: Model) -> Measures:
        """Measure a model."""
        census: dict[str, int] = {}
        nbytes = nodes = 0
        for graph in model.graph.all_graphs():
            nodes += graph.node_count
            for node in graph.nodes():
                census[node.qualified] = census.get(node.qualified, 0) + 1
            nbytes += sum(v.constant.nbytes for v in graph.constants if v.constant is not None)
        return cls(nodes, nbytes, dict(sorted(census.items(), key=lambda item: (-item[1], item[0]))))


def report_model(attempt: Attempt, before: Measures) -> dict[str, Any]:
    """Return the part of the report that says what became of the model."""
    after = Measures.of(attempt.model)
    return {
        "nodes_before": before.nodes,
        "nodes_after": after.nodes,
        "bytes_before": before.nbytes,
        "bytes_after": after.nbytes,
        "census_before": before.census,
        "census_after": after.census,
        "opset": {"before": attempt.model.opsets.get("", 0), "after": _opset(attempt.proto)},
        "overridable_initializers": list(getattr(attempt.model.extra, "overridable", [])),
        "passes": [_without_times(r.to_json()) for r in attempt.records],
        **report_rules(attempt.records),
        "decisions": [d.to_json() for r in attempt.records if not r.error for d in r.decisions],
    }


def report_rules(records: Sequence[PassRecord]) -> dict[str, Any]:
    """Return what each rule did in all runs together, and which rules never fired."""
    found = rule_totals(records)
    return {
        "rules": {name: _rule_record(stats) for name, stats in found.items()},
        "rules_that_never_fired": [name for name in manager.known_rules() if name not in found or not found[name].hits],
    }


def rule_totals(records: Sequence[PassRecord]) -> dict[str, RuleStats]:
    """Return the statistics of each rule that was tried, over all runs; rewrites that were undone do not count."""
    found: dict[str, RuleStats] = {}
    for record in records:
        for name, stats in record.rules.items():
            total = found.setdefault(name, RuleStats())
            total.tries += stats.tries
            total.hits += stats.hits if record.changed else 0
            total.ms += stats.ms
            for reason, times in stats.refusals.items():
                total.refusals[reason] = total.refusals.get(reason, 0) + times
    return dict(sorted(found.items()))


def _rule_record(stats: RuleStats) -> dict[str, Any]:
    """Return what a rule did, with the most frequent reasons of its refusals."""
    reasons = sorted(stats.refusals.items(), key=lambda item: (-item[1], item[0]))
    kept = dict(reasons[:_REASONS])
    if others := sum(times for _, times in reasons[_REASONS:]):
        kept["other reasons"] = others
    return {**_without_times(stats.to_json()), "refusals": kept}


def seconds_by_rule(records: Sequence[PassRecord]) -> dict[str, float]:
    """Return how long trying each rule took, over all runs of passes."""
    return {name: round(stats.ms / 1e3, 5) for name, stats in rule_totals(records).items()}


def report_check(certificate: Certificate | None) -> dict[str, Any]:
    """Return the part of the report that says what was checked; ``None`` stands for ``--no-verify``."""
    if certificate is None:
        return {"status": "unverified", "verification": {"status": "unverified", "why": "--no-verify"}}
    status = "verified" if certificate.verified else "unverified"
    return {"status": status, "verification": certificate.to_json()}


def seconds_by_pass(records: Sequence[PassRecord]) -> dict[str, float]:
    """Return how long all runs of each pass took together."""
    found: dict[str, float] = {}
    for record in records:
        found[record.name] = round(found.get(record.name, 0.0) + record.ms / 1e3, 5)
    return found


def _without_times(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without times; what a pass says of its rules is in the totals."""
    return {k: v for k, v in record.items() if k not in ("ms", "rules")}


def _opset(proto: ModelProto) -> int:
    return next((int(o.version) for o in proto.opset_import if o.domain == ""), 0)

"""One compilation from the model to the verified result: load, run the pipeline, emit, verify, write.

The loop at its heart keeps the promise that nothing unverified is handed over.  The pipeline runs optimistically; then
every change and the emitted file are checked against the original.  When a check fails, the rule at fault, or else the
pass, is left out (``blaming``), and everything runs again; when nothing is left to leave out, the original itself is
handed on, unchanged.  Repeating from the start costs time only when something was wrong, and needs no way to undo one
pass under others.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler import manager
from compiler.backend import bundle
from compiler.backend.emit import Limits, emit, payload_table
from compiler.backend.write import materialize
from compiler.blaming import Blame
from compiler.costing import cost_model, fragments, open_store, sizes_of
from compiler.errors import ModelError, UnsupportedError
from compiler.frontend.binding import bind_dims
from compiler.ir.graph import Model
from compiler.manager import Runner, Step
from compiler.narrowing import NOTE, needs_widening, widened
from compiler.observe import Dumper, Progress, RewriteLog
from compiler.opening import open_model, prepare
from compiler.options import Options
from compiler.output import Output
from compiler.placing import check_device, opset_notes, report_placement, require_static, unshared
from compiler.planning import check_selection, plan, rule_context
from compiler.result import (
    TIMES,
    Attempt,
    Measures,
    Result,
    report_check,
    report_model,
    seconds_by_pass,
    seconds_by_rule,
)
from compiler.rewrite.ceiling import ceiling
from compiler.settings import load_target, override, runtime_limits
from compiler.verify.certificate import versions

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.cost.database import Database
    from compiler.cost.store import Store
    from compiler.manager import PassRecord
    from compiler.rewrite.engine import Rewrite
    from compiler.rewrite.transform import Context
    from compiler.tuning import Tuner
    from compiler.verify.certificate import Certificate
    from compiler.verify.regions import RegionLog
    from compiler.verify.worker import Worker
    from targets import Target

_ATTEMPTS = 12
"""Runs of the pipeline before the original is handed on."""

_BY_RULE = 8
"""Runs after which whole passes are left out, and no longer single rules of theirs."""


@dataclass(frozen=True, slots=True)
class Built:
    """A result that was written, and verified unless that was not wanted."""

    attempt: Attempt
    """The run of the pipeline that made it."""
    files: dict[str, Any]
    """What was written, by name."""
    candidate: Path | bytes | None
    """The model as a file or as bytes; ``None`` when it was needed for nothing."""
    certificate: Certificate | None
    """What was checked."""


@dataclass(slots=True)
class Compilation:
    """The state of one call of ``compile_model``."""

    source: str | os.PathLike[str] | ModelProto
    """What the caller named as the model."""
    options: Options
    """What the caller asked for."""
    target: Target = field(init=False)
    """What the result is for."""
    steps: list[Step] = field(init=False)
    """The pipeline."""
    limits: Limits = field(init=False)
    """Opsets and IR versions that may be emitted."""
    started: float = field(default_factory=time.perf_counter)
    """When the call began."""
    blame: Blame = field(default_factory=Blame)
    """Rules and passes at fault so far, and why."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by stage."""
    weights: int = 0
    """Bytes of constants in the model as it was loaded."""
    dumper: Dumper | None = None
    """Writes the IR after each pass, when asked for."""
    log: RewriteLog | None = None
    """Writes every rewrite, when asked for."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """What rules gain on this model, where that was measured."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of dynamic dims that forms are chosen for, where inputs tell them; the result takes others too."""
    store: Store = field(init=False)
    """The file of what was measured here."""
    database: Database | None = None
    """Fragments in it that the cost model finds; ``None`` when there are none."""
    tuner: Tuner | None = None
    """Tunes the result, when asked for."""
    remarks: list[str] = field(default_factory=list)
    """What the report says first of all."""
    output: Output = field(init=False)
    """Where it is written, and files that go when the call ends."""

    def __post_init__(self) -> None:
        self.output = Output(self.options.output, self.options.external_data)

    def run(self) -> Result:
        """Compile; raises the errors of ``compile_model``."""
        with self.output:
            self._prepare()
            if self.options.dims:
                self.source = unshared(self.source)
            try:
                return self._run()
            except UnsupportedError as error:
                return self._hand_on(error)

    def _run(self) -> Result:
        model = self.load_again()
        self._check_versions(model)
        if needs_widening(model, self.target):
            self.source = widened(model, self.target, self.output.folder())
            self.remarks.append(NOTE)
            model = self.load_again()
        self.sizes = sizes_of(model, self.options.inputs)
        with self.output.place() as place:
            return self._compile(model, place)

    # Preparation ---------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """The model file, when the source is one."""
        return Path(self.source) if isinstance(self.source, str | os.PathLike) else None

    def _prepare(self) -> None:
        o = self.options
        self.target = load_target(o.target)
        if o.threads is not None:
            self.target = override(self.target, {"cpu_threads": o.threads})
        check_device(self.target, required=o.device_check)
        if o.output is not None:
            bundle.check_output(o.output, [self.path] if self.path is not None else [])
        reach = [o.until] if o.until else []
        self.steps = plan(o.passes, target=self.target, disable=o.disable, reach=reach)
        runtime_opset, runtime_ir = runtime_limits()
        opset = self.target.runtime.opset
        ir = self.target.runtime.ir_version.max
        self.limits = Limits(
            min_opset=opset.min or 0,
            max_opset=min(opset.max or runtime_opset, runtime_opset),
            max_ir=min(ir or runtime_ir, runtime_ir),
        )
        check_selection(o.select)
        self.store = self.output.scratch.enter_context(open_store(o.database, write=bool(o.tune)))
        self.database = fragments(self.target, self.store)
        if o.dump_ir is not None:
            self.dumper = Dumper(o.dump_ir)
        if o.log_rewrites is not None:
            self.log = RewriteLog.to(o.log_rewrites)

    def load_again(self) -> Model:
        """Return the model as it is before the passes: each run of the pipeline changes it."""
        self.tell("load")
        with self._timed("load"):
            model = open_model(self.source)
            if self.options.dims:
                bind_dims(model, self.options.dims)
        with self._timed("infer"):
            prepare(model)
        return model

    def _check_versions(self, model: Model) -> None:
        version, newest = model.opsets.get("", 0), runtime_limits()[0]
        if version > newest:
            raise ModelError(
                f"the model needs opset {version}; the installed ONNX Runtime loads up to {newest}",
                where=str(self.path or "model"),
                hint="install a newer onnxruntime, or export with a lower opset",
            )
        require_static(model, self.target, where=str(self.path or "model"))
        self.limits = replace(self.limits, usual_opset=ceiling(model, self.target, newest=newest))

    # The road ------------------------------------------------------------------------------------

    def _compile(self, model: Model, place: Path | None) -> Result:
        before = Measures.of(model)
        self.weights = before.nbytes
        built = self.verified(model, place) if self.options.tune is None else self._tuned(model, place)
        report = self._report(built.attempt, before, built.certificate)
        report |= report_placement(
            built.attempt,
            self.target,
            dims=self.options.dims,
            verified=self.options.verify,
            file=lambda: self.as_file(built),
            required=self.options.device_check,
        )
        if place is not None:
            self.output.write_manifest(place, built.files, self.target.session_settings(), report)
        settings = self.target.session_settings()
        proto, table = built.attempt.proto, built.attempt.table
        return Result(settings, report, path=self.options.output, make=lambda: materialize(proto, table))

    def _tuned(self, model: Model, place: Path | None) -> Built:
        """Return the fastest form of the model that was found and verified."""
        from compiler.tuning import Tuner

        self.tuner = Tuner.start(self, model, self.output.scratch)
        return self.tuner.tune(model, place)

    def verified(self, model: Model, place: Path | None) -> Built:
        """Return a result that is right, leaving out whatever was found to be wrong."""
        for number in range(_ATTEMPTS):
            attempt = self._attempt(model)
            files, candidate = self._write(attempt, place)
            certificate = self.verify(attempt, candidate)
            if certificate is None or certificate.verified:
                if number < _BY_RULE and self.blame.acquit():
                    model = self.load_again()
                    continue
                break
            if certificate.accepted:
                raise UnsupportedError(
                    "the result could not be compared with the original",
                    why=certificate.reason,
                    hint="give inputs that the model runs on (--inputs data.npz), raise --timeout or --memory-limit, "
                    "or compile with --no-verify",
                )
            if not self.blame.accuse(attempt.records, certificate, whole_passes=number >= _BY_RULE):
                raise UnsupportedError("no rewritten form of the model could be verified", why=certificate.reason)
            model = self.load_again()
        else:
            why = "; ".join(self.blame.notes())
            raise UnsupportedError("no rewritten form of the model could be verified", why=why)
        return Built(attempt, files, candidate, certificate)

    def left_out(self, *others: str) -> frozenset[str]:
        """Return the names of passes and rules that are left out: by the caller, by verification, by tuning."""
        reverted = self.tuner.reverts.reasons if self.tuner is not None else {}
        return frozenset((*self.options.disable, *self.blame.reasons, *reverted, *others))

    def build_without(self, names: Sequence[str]) -> Attempt:
        """Return what comes of the model without some more rules; nothing is checked or told."""
        model = self.load_again()
        left_out = self.left_out(*names)
        context = self._context(model, left_out, [])
        runner = Runner(model, context, disable=left_out, until=self.options.until, verify_each=False)
        return self.emitted(model, runner.run(self.steps), None)

    def _context(
        self, model: Model, left_out: frozenset[str], listeners: Sequence[Callable[[Rewrite], None]]
    ) -> Context:
        context = rule_context(
            self.target,
            model,
            evaluate=self.evaluator(model),
            select=self.options.select,
            left_out=left_out,
            listeners=listeners,
            cost=cost_model(self.target, model, binding=self.sizes, database=self.database),
        )
        context.gains = {**context.gains, **self.gains}
        context.measured = self.gains
        return context

    def _attempt(self, model: Model) -> Attempt:
        from compiler.verify.regions import RegionLog

        o = self.options
        observers: list[Any] = []
        regions = RegionLog(model) if o.verify else None
        listeners: list[Callable[[Rewrite], None]] = []
        if regions is not None:
            observers.append(regions)
            listeners.append(regions.rewrote)
        if self.dumper is not None:
            self.dumper.start(model)
            observers.append(self.dumper)
        if o.progress is not None:
            observers.append(Progress(o.progress))
        if self.log is not None:
            self.log.start(self.blame.reasons)
            observers.append(self.log)
            listeners.append(self.log.write)
        left_out = self.left_out()
        context = self._context(model, left_out, listeners)
        runner = Runner(
            model,
            context,
            observers,
            disable=left_out,
            until=o.until,
            verify_each=o.verify_each,
        )
        with self._timed("passes"):
            records = runner.run(self.steps)
        if self.log is not None:
            self.log.close()
        return self.emitted(model, records, regions)

    def emitted(self, model: Model, records: list[PassRecord], regions: RegionLog | None) -> Attempt:
        """Return a model with its form as ONNX."""
        with self._timed("emit"):
            table = payload_table(model)
            proto = emit(model, table, limits=self.limits)
        return Attempt(model, records, proto, table, regions)

    def evaluator(self, model: Model) -> Any:
        """Return what computes constants for passes."""
        from compiler.verify.fold import runtime_evaluator

        return runtime_evaluator(self.worker, model=model)

    def worker(self) -> Worker:
        """Return the child process that runs models, with the caller's limits."""
        from compiler.verify.worker import memory_for, shared_worker

        worker = shared_worker()
        worker.timeout = self.options.timeout
        worker.memory_limit = self.options.memory_limit or memory_for(self.weights)
        return worker

    def tell(self, step: str) -> None:
        """Tell the caller what goes on."""
        if self.options.progress is not None:
            self.options.progress(step)

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start

    # Verification --------------------------------------------------------------------------------

    def verify(self, attempt: Attempt, candidate: Path | bytes | None) -> Certificate | None:
        """Compare what was written with the original, under the target's settings; ``None`` if that is not wanted."""
        if not self.options.verify:
            return None
        from compiler.verify.equivalence import verify_result

        self.tell("verify")
        assert candidate is not None
        with self._timed("verify"):
            return verify_result(
                self.source if self.path is None else self.path,
                candidate,
                model=attempt.model,
                regions=attempt.regions,
                settings=self.target.session_settings(),
                worker=self.worker(),
                max_ir=self.limits.max_ir,
                inputs=self.options.inputs,
                seed=self.options.seed,
                repro=self.options.repro,
            )

    # Output --------------------------------------------------------------------------------------

    def _write(self, attempt: Attempt, place: Path | None) -> tuple[dict[str, Any], Path | bytes | None]:
        self.tell("write")
        with self._timed("write"):
            if place is not None:
                return self.output.write(place, attempt.proto, attempt.table), place / self.output.name
            return {}, self.output.candidate(attempt) if self.options.verify else None

    def as_file(self, built: Built) -> Path:
        """Return a result as a file that the runtime opens."""
        return built.candidate if isinstance(built.candidate, Path) else self.output.file(built.attempt)

    def _report(self, attempt: Attempt, before: Measures, certificate: Certificate | None) -> dict[str, Any]:
        spent = {what: round(seconds, 4) for what, seconds in self.seconds.items()}
        total = round(time.perf_counter() - self.started, 4)
        return {
            "target": self.target.name,
            "pipeline": manager.format_pipeline(self.steps),
            "select": self.options.select,
            **report_check(certificate),
            **report_model(attempt, before),
            "rolled_back": dict(sorted(self.blame.reasons.items())),
            "disabled": sorted(self.options.disable),
            "notes": [*self.notes(), *opset_notes(attempt, self.target)],
            **self.tuning_report(),
            "versions": versions(),
            TIMES: {
                **spent,
                "total": total,
                "pass": seconds_by_pass(attempt.records),
                "rule": seconds_by_rule(attempt.records),
                **({"tune": self.tuner.judge.report()} if self.tuner is not None else {}),
            },
        }

    def notes(self) -> list[str]:
        """Return what is to be said besides: what was amiss, and what was rolled back."""
        return [*self.remarks, *filter(None, [self.store.trouble]), *self.blame.notes()]

    def tuning_report(self) -> dict[str, Any]:
        """Return the part of the report that says what tuning found; empty without."""
        return {} if self.tuner is None else {"tuning": self.tuner.report()}

    # The original, unchanged ---------------------------------------------------------------------

    def _hand_on(self, why: UnsupportedError) -> Result:
        """Hand the model on untouched, if the runtime loads it; otherwise the reason is the error."""
        from compiler.handed_on import hand_on

        return hand_on(self, why)

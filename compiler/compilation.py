"""One compilation from the model to the verified result: load, run the pipeline, emit, verify, write.

The loop at its heart keeps the promise that nothing unverified is handed over.  The pipeline runs optimistically; then
every change and the emitted file are checked against the original.  When a check fails, the pass at fault is banned,
and everything runs again without it; when nothing is left to ban, the original itself is handed on, unchanged.
Repeating from the start costs time only when something was wrong, and needs no way to undo one pass under others.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler import manager
from compiler.backend import bundle
from compiler.backend.atomic import AtomicFolder, write_atomic
from compiler.backend.emit import Limits, emit, payload_table
from compiler.backend.write import embedded_size, materialize, serialize
from compiler.errors import CompilerError, InputError, ModelError, UnsupportedError
from compiler.frontend.lift import lift, pinned
from compiler.frontend.load import load_model
from compiler.ir.graph import Model
from compiler.ir.infer import infer
from compiler.ir.splice import PayloadTable
from compiler.manager import PassRecord, Runner, Step
from compiler.observe import Dumper, Progress
from compiler.rewrite.transform import Context
from compiler.settings import load_target, runtime_limits, versions

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.verify.certificate import Certificate
    from compiler.verify.worker import Worker
    from targets import Target

_ATTEMPTS = 12
"""Runs of the pipeline before the original is handed on."""

_IN_MEMORY = 64 << 20
"""Bytes up to which a result without an output path is verified from memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a caller may ask for; see ``compile_model``."""

    target: str = "auto"
    output: Path | None = None
    verify: bool = True
    verify_each: bool = True
    passes: str | Sequence[Any] | None = None
    disable: tuple[str, ...] = ()
    until: str = ""
    inputs: Mapping[str, Any] | None = None
    external_data: bool | None = None
    dump_ir: Path | None = None
    repro: Path | None = None
    timeout: float = 120.0
    memory_limit: int | None = None
    seed: int = 0
    progress: Callable[[str], None] | None = None


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
class _Attempt:
    """One run of the pipeline and what came of it."""

    model: Model
    records: list[PassRecord]
    proto: ModelProto
    table: PayloadTable
    regions: Any = None


@dataclass(slots=True)
class Compilation:
    """The state of one call of ``compile_model``."""

    source: str | os.PathLike[str] | ModelProto
    options: Options
    target: Target = field(init=False)
    steps: list[Step] = field(init=False)
    limits: Limits = field(init=False)
    started: float = field(default_factory=time.perf_counter)
    banned: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    dumper: Dumper | None = None

    def run(self) -> Result:
        """Compile; raises the errors of ``compile_model``."""
        self._prepare()
        try:
            model = self._load()
            self._check_versions(model)
            with self._destination() as place:
                return self._compile(model, place)
        except UnsupportedError as error:
            return self._hand_on(error)

    # Preparation ---------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """The model file, when the source is one."""
        return Path(self.source) if isinstance(self.source, str | os.PathLike) else None

    def _prepare(self) -> None:
        o = self.options
        self.target = load_target(o.target)
        if o.output is not None:
            bundle.check_output(o.output, [self.path] if self.path is not None else [])
        pipeline = o.passes if o.passes is not None else ", ".join(self.target.pipeline.passes)
        if isinstance(pipeline, str):
            self.steps = manager.parse_pipeline(pipeline if pipeline.strip() or o.passes is not None else manager.DEFAULT_PIPELINE)
        else:
            self.steps = [_as_step(p, i) for i, p in enumerate(pipeline)]
        known = [*manager.known_passes(), *manager.pass_names(self.steps)]
        for name in (*o.disable, *([o.until] if o.until else [])):
            if name not in known:
                manager.make_pass(name)  # raises with a suggestion
        runtime_opset, runtime_ir = runtime_limits()
        opset = self.target.runtime.opset
        ir = self.target.runtime.ir_version.max
        self.limits = Limits(
            min_opset=opset.min or 0,
            max_opset=min(opset.max or runtime_opset, runtime_opset) if runtime_opset <= 26 else runtime_opset,
            max_ir=min(ir or runtime_ir, runtime_ir),
        )
        if o.dump_ir is not None:
            self.dumper = Dumper(o.dump_ir)

    def _load(self) -> Model:
        with self._timed("load"):
            path = self.path
            if path is not None and path.suffix == ".ir":
                from compiler.ir.parser import load_text

                model = load_text(path)
            else:
                model = load_model(self.source)
        with self._timed("infer"):
            prepare(model)
        return model

    def _check_versions(self, model: Model) -> None:
        version = model.opsets.get("", 0)
        if version > self.limits.max_opset:
            raise ModelError(
                f"the model needs opset {version}; the installed ONNX Runtime loads up to {self.limits.max_opset}",
                where=str(self.path or "model"),
                hint="install a newer onnxruntime, or export with a lower opset",
            )

    # The road ------------------------------------------------------------------------------------

    def _compile(self, model: Model, place: Path | None) -> Result:
        before = _measure(model)
        for _ in range(_ATTEMPTS):
            attempt = self._attempt(model)
            files, candidate = self._write(attempt, place)
            certificate = self._verify(attempt, candidate)
            if certificate is None or certificate.verified:
                break
            if certificate.accepted:
                raise UnsupportedError(
                    "the result could not be compared with the original",
                    why=certificate.reason,
                    hint="give inputs that the model runs on (--inputs data.npz), or compile with --no-verify",
                )
            if not self._ban(attempt, certificate):
                return self._give_up(certificate)
            model = self._load()
        else:
            raise CompilerError("the result could not be verified", why="; ".join(self.notes))
        report = self._report(attempt, before, certificate)
        if place is not None:
            self._write_manifest(place, files, report)
        return self._result(attempt, report)

    def _attempt(self, model: Model) -> _Attempt:
        from compiler.verify.regions import RegionLog

        o = self.options
        observers: list[Any] = []
        regions = RegionLog(model) if o.verify else None
        if regions is not None:
            observers.append(regions)
        if self.dumper is not None:
            self.dumper.count = 0
            self.dumper.start(model)
            observers.append(self.dumper)
        if o.progress is not None:
            observers.append(Progress(o.progress))
        runner = Runner(
            model,
            Context(target=self.target, evaluate=self._evaluator(model)),
            observers,
            disable=frozenset(o.disable) | frozenset(self.banned),
            until=o.until,
            verify_each=o.verify_each,
        )
        with self._timed("passes"):
            records = runner.run(self.steps)
        with self._timed("emit"):
            table = payload_table(model)
            proto = emit(model, table, limits=self.limits)
        return _Attempt(model, records, proto, table, regions)

    def _evaluator(self, model: Model) -> Any:
        from compiler.verify.fold import runtime_evaluator

        return runtime_evaluator(self._worker, model=model)

    def _worker(self) -> Worker:
        from compiler.verify.worker import shared_worker

        worker = shared_worker()
        worker.timeout = self.options.timeout
        if self.options.memory_limit is not None:
            worker.memory_limit = self.options.memory_limit
        return worker

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start

    # Verification --------------------------------------------------------------------------------

    def _verify(self, attempt: _Attempt, candidate: Path | bytes | None) -> Certificate | None:
        if not self.options.verify:
            return None
        from compiler.verify.equivalence import verify_result

        if self.options.progress is not None:
            self.options.progress("verify")
        assert candidate is not None
        with self._timed("verify"):
            return verify_result(
                self.source if self.path is None else self.path,
                candidate,
                model=attempt.model,
                regions=attempt.regions,
                settings=self.target.session_settings(),
                worker=self._worker(),
                max_ir=self.limits.max_ir,
                inputs=self.options.inputs,
                seed=self.options.seed,
                repro=self.options.repro,
            )

    def _ban(self, attempt: _Attempt, certificate: Certificate) -> bool:
        """Ban the passes at fault; without a culprit, the latest pass that changed something."""
        guilty = [p for p in certificate.guilty if p not in self.banned]
        if not guilty:
            changed = [r.name for r in attempt.records if r.changed and r.name not in self.banned]
            guilty = changed[-1:]
        for name in guilty:
            self.banned[name] = certificate.reason
            self.notes.append(f"pass {name!r} was rolled back: {certificate.reason}")
        return bool(guilty)

    def _give_up(self, certificate: Certificate) -> Result:
        raise UnsupportedError("no rewritten form of the model could be verified", why=certificate.reason)

    # Output --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _destination(self) -> Iterator[Path | None]:
        """Yield the folder to write into; it is put into place only when nothing was raised."""
        output = self.options.output
        if output is None:
            yield None
        elif bundle.is_plain(output):
            with tempfile.TemporaryDirectory(prefix=".ampc-", dir=output.absolute().parent) as name:
                yield Path(name)
                self._put_in_place(Path(name), output)
        else:
            with AtomicFolder(output) as folder:
                yield folder

    def _put_in_place(self, folder: Path, output: Path) -> None:
        if output.is_symlink() or (output.exists() and not output.is_file()):
            raise InputError("the output is not a regular file", where=str(output), hint="choose another output")
        for name in (output.name + ".data", bundle.sidecar(output).name, output.name):
            if (folder / name).exists():
                os.replace(folder / name, output.with_name(name))

    def _write(self, attempt: _Attempt, place: Path | None) -> tuple[dict[str, Any], Path | bytes | None]:
        o = self.options
        with self._timed("write"):
            if place is not None:
                assert o.output is not None
                name = o.output.name if bundle.is_plain(o.output) else "model.onnx"
                kept = type(attempt.proto)()
                kept.CopyFrom(attempt.proto)
                files = bundle.write_model(place, name, kept, attempt.table, external=o.external_data)
                return files, place / name
            if not o.verify:
                return {}, None
            if embedded_size(attempt.proto, attempt.table) <= _IN_MEMORY:
                return {}, b"".join(serialize(attempt.proto, attempt.table))
            return {}, self._scratch(attempt)

    def _scratch(self, attempt: _Attempt) -> Path:
        """Write a large candidate into a temporary folder that goes when this process ends."""
        folder = Path(tempfile.mkdtemp(prefix="ampc-"))
        _SCRATCH.append(folder)
        kept = type(attempt.proto)()
        kept.CopyFrom(attempt.proto)
        bundle.write_model(folder, "model.onnx", kept, attempt.table)
        return folder / "model.onnx"

    def _write_manifest(self, place: Path, files: dict[str, Any], report: dict[str, Any]) -> None:
        output = self.options.output
        assert output is not None
        plain = bundle.is_plain(output)
        manifest = {
            "format": bundle.FORMAT,
            "model": output.name if plain else "model.onnx",
            "files": files,
            "settings": self.target.session_settings(),
            **{k: v for k, v in report.items() if k != "seconds"},
        }
        name = bundle.sidecar(output).name if plain else "ampc.json"
        write_atomic(place / name, [bundle.to_json(manifest)])

    def _report(self, attempt: _Attempt, before: dict[str, Any], certificate: Certificate | None) -> dict[str, Any]:
        after = _measure(attempt.model)
        return {
            "status": "verified" if certificate is not None and certificate.verified else "unverified",
            "target": self.target.name,
            "pipeline": manager.format_pipeline(self.steps),
            "nodes_before": before["nodes"],
            "nodes_after": after["nodes"],
            "bytes_before": before["bytes"],
            "bytes_after": after["bytes"],
            "census_before": before["census"],
            "census_after": after["census"],
            "opset": {"before": attempt.model.opsets.get("", 0), "after": _opset(attempt.proto)},
            "passes": [_stable(r.to_json()) for r in attempt.records],
            "rolled_back": dict(sorted(self.banned.items())),
            "disabled": sorted(self.options.disable),
            "overridable_initializers": list(getattr(attempt.model.extra, "overridable", [])),
            "notes": list(self.notes),
            "verification": certificate.to_json() if certificate is not None else {"status": "unverified", "why": "--no-verify"},
            "versions": versions(),
            "seconds": self._seconds(attempt),
        }

    def _seconds(self, attempt: _Attempt) -> dict[str, Any]:
        spent = {k: round(v, 4) for k, v in self.seconds.items()}
        each: dict[str, float] = {}
        for r in attempt.records:
            each[r.name] = round(each.get(r.name, 0.0) + r.ms / 1e3, 5)
        return {**spent, "total": round(time.perf_counter() - self.started, 4), "pass": each}

    def _result(self, attempt: _Attempt, report: dict[str, Any]) -> Result:
        output = self.options.output
        settings = self.target.session_settings()
        return Result(settings, report, path=output, make=lambda: materialize(attempt.proto, attempt.table))

    # The original, unchanged ---------------------------------------------------------------------

    def _hand_on(self, why: UnsupportedError) -> Result:
        """Hand the model on untouched, if the runtime loads it; otherwise the reason is the error."""
        from compiler.handed_on import hand_on

        return hand_on(self, why)


_SCRATCH: list[Path] = []
"""Temporary folders of results that were never asked to be written; removed at exit."""


def prepare(model: Model) -> None:
    """Lift old operator forms and infer types; some forms can be lifted only when types are known."""
    lift(model)
    infer(model.graph)
    waiting = len(pinned(model.graph))
    if waiting:
        lift(model)
        if len(pinned(model.graph)) < waiting:
            infer(model.graph)


def _as_step(item: Any, index: int) -> Step:
    if callable(item) and not hasattr(item, "run"):
        return manager.function_pass(getattr(item, "__name__", f"function-{index}").replace("_", "-"), item)
    if isinstance(item, str):
        return manager.make_pass(item)
    return item  # type: ignore[no-any-return]  # a Pass or a Fixpoint


def _stable(record: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != "ms"}


def _opset(proto: ModelProto) -> int:
    return next((int(o.version) for o in proto.opset_import if o.domain == ""), 0)


def _measure(model: Model) -> dict[str, Any]:
    """Count nodes, operators and bytes of constants."""
    census: dict[str, int] = {}
    size = nodes = 0
    for graph in model.graph.all_graphs():
        nodes += graph.node_count
        for node in graph.nodes():
            census[node.qualified] = census.get(node.qualified, 0) + 1
        size += sum(v.constant.nbytes for v in graph.constants if v.constant is not None)
    return {"nodes": nodes, "bytes": size, "census": dict(sorted(census.items(), key=lambda i: (-i[1], i[0])))}

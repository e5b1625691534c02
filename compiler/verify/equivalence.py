"""Compare the emitted model with the original, end to end, in a child process.

Three comparisons make a certificate: every rewrite on recorded activations (``regions``), the emitted file
without the runtime's optimizer (what we did), and the emitted file as deployed (what the user gets).  The
runtime's own optimizer has faults and approximations: where the deployed result differs and the original,
deployed in the same way, gives the same, the runtime differs from itself, and that is noted rather than
blamed on us.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import InputError, WorkerError
from compiler.verify.certificate import Certificate, ProbeResult, Status, versions
from compiler.verify.compare import Tolerance
from compiler.verify.equivalence_outputs import compare_outputs
from compiler.verify.interface import interface_differences, random_outputs
from compiler.verify.probes import Probe, ProbePlan, Settled, settle
from compiler.verify.reference import Original, Reference

if TYPE_CHECKING:
    from compiler.ir.graph import Model
    from compiler.verify.regions import RegionLog
    from compiler.verify.regions_check import RegionReport
    from compiler.verify.worker import SessionHandle, Worker

_LOOSE = 1e-3
"""Relative tolerance for the result as deployed, where kernels are fused and reordered by the runtime."""


_LARGE = 1 << 20
"""Elements of all inputs together from which fewer probes are run."""

_HASHED = 16 << 20
"""Bytes of the largest file whose digest goes into the certificate."""

_HERE = "CPUExecutionProvider"
"""The provider that every runtime has."""


def verify_result(
    original: Any,
    candidate: Path | bytes,
    *,
    model: Model,
    regions: RegionLog | None,
    worker: Worker,
    settings: Mapping[str, Any] | None = None,
    max_ir: int = 10,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    repro: Path | None = None,
    tolerance: Tolerance | None = None,
) -> Certificate:
    """Check what the compiler made: its rewrites, its file, and its file as deployed.

    ``original`` is a path or a ``ModelProto``; ``model`` is what the passes changed.  ``repro`` is a folder
    for the failures of rewrites.  Raises ``InputError`` when the user's ``inputs`` do not fit the model.
    """
    source = getattr(model, "extra", None) if getattr(getattr(model, "extra", None), "path", None) else None
    whole = Original.of(source) if source is not None else _original(original, regions)
    plan = regions.plan if regions is not None else ProbePlan(model)
    check = _Check(Reference(whole, worker, max_ir), worker, tolerance or Tolerance.default(), settings or {}, max_ir)
    return check.certificate(original, candidate, plan, inputs=inputs, seed=seed, regions=regions, repro=repro)


def check_equivalence(
    original: Any,
    candidate: Any,
    *,
    worker: Worker,
    probes: ProbePlan | None = None,
    tolerance: Tolerance | None = None,
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    seed: int = 0,
    max_ir: int = 10,
) -> Certificate:
    """Compare any two models: paths, bytes, or ``ModelProto``.

    ``settings`` are those that the candidate is deployed with (``compiler.backend.session``); ``None`` leaves
    that comparison out.  Raises ``InputError`` for what is no model.
    """
    whole = Original.of(original)
    plan = probes or ProbePlan(_loaded(whole, original))
    check = _Check(Reference(whole, worker, max_ir), worker, tolerance or Tolerance.default(), settings, max_ir)
    return check.certificate(original, candidate, plan, inputs=inputs, seed=seed, regions=None, repro=None)


def _loaded(whole: Original, original: Any) -> Model:
    from compiler.frontend.load import load_model
    from compiler.ir.infer import infer

    model = load_model(original if isinstance(original, str | os.PathLike) else whole.proto)
    infer(model.graph)
    return model


def _original(original: Any, regions: RegionLog | None) -> Original:
    if isinstance(original, str | os.PathLike) and Path(original).suffix == ".ir" and regions is not None:
        return regions.recording if isinstance(regions.recording, Original) else Original.of(regions.recording)
    return Original.of(original)


@dataclass(slots=True)
class _Verdict:
    """What is wrong so far, the worst first found; empty when nothing is."""

    status: Status = "verified"
    reason: str = ""
    guilty: tuple[str, ...] = ()

    def fail(self, reason: str, guilty: Sequence[str] = ()) -> None:
        """Record the first failure, and all that are at fault."""
        if self.status != "failed":
            self.status, self.reason = "failed", reason
        self.guilty = tuple(dict.fromkeys((*self.guilty, *guilty)))

    def doubt(self, reason: str) -> None:
        """Record that something could not be checked."""
        if self.status == "verified":
            self.status, self.reason = "unverified", reason


@dataclass(slots=True)
class _Check:
    """One comparison of two models."""

    reference: Reference
    worker: Worker
    tolerance: Tolerance
    settings: Mapping[str, Any] | None
    max_ir: int
    results: list[ProbeResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdict: _Verdict = field(default_factory=_Verdict)
    random: frozenset[str] = frozenset()
    started: float = field(default_factory=time.perf_counter)

    def certificate(
        self,
        original: Any,
        candidate: Any,
        plan: ProbePlan,
        *,
        inputs: Mapping[str, Any] | None,
        seed: int,
        regions: RegionLog | None,
        repro: Path | None,
    ) -> Certificate:
        """Run all comparisons that can be run."""
        emitted = Original.of(candidate)
        different = interface_differences(self.reference.original.proto, emitted.proto)
        if different:
            self.verdict.fail(f"the interface changed: {different[0]}")
        self.random = random_outputs(self.reference.original.proto)
        candidates = plan.candidates(seed=seed, user=inputs)
        count = min(_count(plan.elements(candidates[0].binding)), plan.count(candidates))
        self.reference.timeout = min(self.worker.timeout, plan.effort.patience(candidates[0].binding))
        settled = settle(self.reference, candidates, count=count)
        report: RegionReport | None = None
        if settled.probes:
            report = self._regions(regions, settled.probes, repro)
            special = plan.special(settled.probes[0], seed=seed) if count > 2 else None
            self._plain(emitted, settled.probes, special)
            self._deployed(candidate, emitted, settled.probes if count > 2 else settled.probes[:1])
        else:
            self._not_comparable(emitted, settled)
        self.reference.close()
        if self.verdict.status == "failed" and not self.verdict.guilty and report is not None:
            self.verdict.guilty = _suspects(report)
        return self._seal(original, candidate, settled, report, seed)

    def _seal(
        self, original: Any, candidate: Any, settled: Settled, report: RegionReport | None, seed: int
    ) -> Certificate:
        return Certificate(
            self.verdict.status,
            self.verdict.reason,
            self.verdict.guilty,
            tuple(self.results),
            settled.refused,
            report.to_json() if report is not None else {},
            bool(self.random),
            {k: [b.rtol, b.atol] for k, b in sorted(self.tolerance.bounds.items())},
            versions(),
            _hashes(original, candidate),
            tuple(dict.fromkeys(self.notes)),
            seed,
            time.perf_counter() - self.started,
        )

    # The three comparisons ------------------------------------------------------------------------

    def _regions(self, regions: RegionLog | None, probes: Sequence[Probe], repro: Path | None) -> RegionReport | None:
        if regions is None:
            return None
        from compiler.verify.regions_check import check_regions
        from compiler.verify.regions_repro import write_repros

        report = check_regions(
            regions, self.reference, probes[:1], self.worker, tolerance=self.tolerance, max_ir=self.max_ir
        )
        self.notes += report.notes
        for failure in report.failures:
            self.verdict.fail(str(failure), [failure.guilty])
        if repro is not None:
            self.notes += write_repros(repro, report.failures)
        return report

    def _plain(self, emitted: Original, probes: Sequence[Probe], special: Probe | None) -> None:
        """Compare without the runtime's optimizer."""
        try:
            data, folder = emitted.image(max_ir=self.max_ir)
            handle = self.worker.load(data, external_folder=folder)
        except WorkerError as error:
            self._refused("the emitted model does not load", error)
            return
        for probe in probes:
            self._run(handle, probe, "plain", self.tolerance)
        if special is not None:
            self._special(handle, special)
        self.worker.unload(handle)

    def _run(self, handle: SessionHandle, probe: Probe, how: str, tolerance: Tolerance) -> ProbeResult | None:
        names = self.reference.output_names
        try:
            got = self.worker.run(handle, probe.feeds, names)
        except WorkerError as error:
            self._refused(f"the emitted model does not run on {probe.name}", error)
            return None
        expected = self.reference.run(probe)
        result, notes = compare_outputs(
            probe, how, names, expected, got, tolerance, self.random, self.reference.run_feeds
        )
        self.notes += notes
        if how == "plain":
            self.results.append(result)
            wrong = next((o for o in result.outputs if o.why), None)
            if wrong is not None:
                self.verdict.fail(f"output {wrong.name!r} on {probe.name}: {wrong.why}")
        return result

    def _special(self, handle: SessionHandle, probe: Probe) -> None:
        """NaN and infinities: differences are told, and count as none."""
        names = self.reference.output_names
        try:
            expected = self.reference.run(probe)
            got = self.worker.run(handle, probe.feeds, names)
        except WorkerError as error:
            if error.kind in ("crash", "timeout"):
                self.notes.append(f"special values: {error.what}")
            return
        result, _ = compare_outputs(probe, "plain", names, expected, got, Tolerance.within(_LOOSE), self.random, None)
        wrong = [o.name for o in result.outputs if o.why]
        if wrong:
            self.notes.append(f"with NaN and infinities among the inputs, {', '.join(wrong[:3])} differs")

    def _deployed(self, candidate: Any, emitted: Original, probes: Sequence[Probe]) -> None:
        """Compare as deployed: with the providers and the settings that the result is for."""
        if self.settings is None or self.verdict.status == "failed":
            return
        try:
            handle = self._deploy(candidate, emitted)
        except WorkerError as error:
            self._deployment_refused(f"the emitted model does not load as deployed ({error.why.strip()[:200]})", error)
            return
        loose = Tolerance.within(_LOOSE)
        for probe in probes:
            result = self._run(handle, probe, "deployed", loose)
            if result is None:
                return
            wrong = [o for o in result.outputs if o.why]
            if wrong and not self._differs_from_itself(probe, handle, loose):
                self.verdict.fail(f"as deployed, output {wrong[0].name!r} on {probe.name}: {wrong[0].why}")
            self.results.append(result)
        self.worker.unload(handle)

    def _deploy(self, source: Any, image: Original) -> SessionHandle:
        if isinstance(source, str | os.PathLike) and image.proto.ir_version <= self.max_ir:
            return self.worker.load(Path(source), settings=self.settings)
        data, folder = image.image(max_ir=self.max_ir)
        return self.worker.load(data, settings=self.settings, external_folder=folder)

    def _differs_from_itself(self, probe: Probe, candidate: SessionHandle, tolerance: Tolerance) -> bool:
        """True when the original, deployed in the same way, gives what the candidate gives."""
        names = self.reference.output_names
        try:
            handle = self._deploy(self.reference.original.path, self.reference.original)
            expected = self.worker.run(handle, probe.feeds, names)
            got = self.worker.run(candidate, probe.feeds, names)
            self.worker.unload(handle)
        except WorkerError as error:
            self.notes.append(f"the original cannot be run as deployed: {error.what}")
            return False
        result, _ = compare_outputs(probe, "deployed", names, expected, got, tolerance, self.random, None)
        if any(o.why for o in result.outputs):
            return False
        self.notes.append(f"the runtime differs from itself on {probe.name}: its optimizer changes the original alike")
        return True

    # When something does not run ------------------------------------------------------------------

    def _refused(self, what: str, error: WorkerError) -> None:
        providers = [name for name, _ in (self.settings or {}).get("providers", [])]
        elsewhere = any(name != _HERE for name in providers)
        why = f"{what}: {error.why.strip().splitlines()[0][:300] if error.why.strip() else error.what}"
        if elsewhere and "NOT_IMPLEMENTED" in error.why:
            self.verdict.doubt(f"{why} (it is for {providers[0]}, which is not here)")
            return
        self.verdict.fail(why)

    def _deployment_refused(self, what: str, error: WorkerError) -> None:
        """A deployment that the original does not survive either is the runtime's fault, not ours."""
        try:
            self.worker.unload(self._deploy(self.reference.original.path, self.reference.original))
        except WorkerError:
            self.notes.append(f"{what}; neither does the original")
            return
        self._refused(what, error)

    def _not_comparable(self, emitted: Original, settled: Settled) -> None:
        """The original runs on no probe: the best that can be said is that the result loads where it does."""
        error = settled.error
        reason = error.why.strip().splitlines()[0][:300] if error is not None and error.why.strip() else "no probe fits"
        self.verdict.doubt(f"not comparable: the original does not run here ({reason})")
        try:
            _ = self.reference.handle
        except WorkerError:
            return
        try:
            data, folder = emitted.image(max_ir=self.max_ir)
            self.worker.unload(self.worker.load(data, external_folder=folder))
        except WorkerError as failure:
            self._refused("the emitted model does not load, and the original does", failure)


def _count(elements: int) -> int:
    """Return how many probes to run on a model with so many elements in its inputs: huge static ones take seconds."""
    if elements > 8 * _LARGE:
        return 1
    return 2 if elements > _LARGE else 3


def _suspects(report: RegionReport) -> tuple[str, ...]:
    """Return the pass whose rewrites were last left unchecked: the likeliest culprit when all checked ones are fine."""
    passes = [reason.split(":", 1)[0] for reason in report.unchecked]
    return tuple(passes[-1:])


def _hashes(original: Any, candidate: Any) -> dict[str, str]:
    """Return digests of what is small enough to be hashed in no time; bundles hold those of all their files."""
    found = {}
    for name, source in (("original", original), ("emitted", candidate)):
        data = _contents(source)
        if data is not None:
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def _contents(source: Any) -> bytes | None:
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str | os.PathLike):
        return None
    try:
        path = Path(source)
        return path.read_bytes() if path.stat().st_size <= _HASHED else None
    except OSError as error:
        raise InputError("a model file cannot be read", where=str(source), why=error.strerror or str(error)) from error

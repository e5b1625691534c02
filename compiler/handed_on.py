"""Hand a model on unchanged: what is beyond the IR, but not beyond the runtime, is the user's model still.

The copy is byte for byte the original, but for the place of weights that lay in other files; the report says why
nothing was done.  A model that the runtime does not load either is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.backend import bundle
from compiler.backend.atomic import write_atomic
from compiler.backend.digest import describe
from compiler.backend.write import materialize
from compiler.errors import ModelError, UnsupportedError, WorkerError
from compiler.frontend.files import ExternalFiles, open_regular
from compiler.frontend.wire import Skeleton, read_skeleton
from compiler.ir.wire import tensors
from compiler.result import Result
from compiler.verify.certificate import versions

if TYPE_CHECKING:

    from compiler.compilation import Compilation


def hand_on(job: Compilation, why: UnsupportedError) -> Result:
    """Return (and write) the original; raises ``ModelError`` when the runtime refuses it as well."""
    data, skeleton = _original(job, why)
    moved = _take_in_weights(job, skeleton)
    checked = _runtime_loads(job, data, why) if job.options.verify else False
    settings = job.target.session_settings()
    report = _report(job, why, len(data), checked)
    if job.options.output is not None:
        with job.destination() as place:
            assert place is not None
            job.write_manifest(place, _write(job, place, data, skeleton if moved else None), report)
    return Result(
        settings, report, path=job.options.output, make=lambda: materialize(skeleton.model, skeleton.table)
    )


def _write(job: Compilation, place: Path, data: Any, skeleton: Skeleton | None) -> dict[str, Any]:
    output = job.options.output
    assert output is not None
    name = output.name if bundle.is_plain(output) else "model.onnx"
    if skeleton is not None:
        return bundle.write_model(
            place,
            name,
            skeleton.model,
            skeleton.table,
            external=job.options.external_data,
            output=output if bundle.is_plain(output) else None,
        )
    write_atomic(place / name, [data])
    return {name: describe(place / name)}


def _original(job: Compilation, why: UnsupportedError) -> tuple[Any, Skeleton]:
    """Return the bytes of the original, and what they hold."""
    path, source = job.path, job.source
    if path is not None and path.suffix == ".ir":
        raise why
    data = open_regular(path) if path is not None else source.SerializeToString(deterministic=True)  # type: ignore[union-attr]
    return data, read_skeleton(data, where=str(path or "model"))


def _take_in_weights(job: Compilation, skeleton: Skeleton) -> bool:
    """Let the skeleton hold weights that lie in other files, each checked; return whether there are any."""
    outside = [t for t in tensors(skeleton.model) if t.data_location == t.EXTERNAL]
    if not outside:
        return False
    if job.path is None:
        raise ModelError(
            "the model keeps weights in other files, and was given without a folder", hint="pass the path of the model"
        )
    path = job.path.absolute()
    files = ExternalFiles(path.parent, model=path)
    for tensor in outside:
        skeleton.table.stub(tensor, files.tensor(tensor))
    return True


def _runtime_loads(job: Compilation, data: Any, why: UnsupportedError) -> bool:
    worker = job.worker()
    try:
        worker.unload(worker.load(job.path or clipped(bytes(data), job.limits.max_ir)))
    except WorkerError as error:
        raise ModelError(
            why.what,
            where=why.where or str(Path(job.path) if job.path else "model"),
            why=f"{why.why + '; ' if why.why else ''}ONNX Runtime does not load the model either: {error.why}",
            hint=why.hint or "check the model with onnx.checker, and export it again",
        ) from error
    return True


def clipped(data: bytes, max_ir: int) -> bytes:
    """Return a serialized model whose IR version stamp, if too new for the runtime, is the runtime's newest."""
    if len(data) > 2 and data[0] == 0x08 and max_ir < data[1] < 0x80:  # field 1, a varint of one byte
        return bytes([0x08, max_ir]) + data[2:]
    return data


def _report(job: Compilation, why: UnsupportedError, size: int, checked: bool) -> dict[str, Any]:
    reason = why.what + (f" ({why.why})" if why.why else "")
    return {
        "status": "unchanged",
        "target": job.target.name,
        "why": reason,
        "nodes_before": 0,
        "nodes_after": 0,
        "bytes_before": size,
        "bytes_after": size,
        "passes": [],
        "rolled_back": dict(sorted(job.blame.reasons.items())),
        "notes": [*job.blame.notes(), f"handed on unchanged: {reason}"],
        "verification": {
            "status": "verified" if checked else "unverified",
            "why": "the file is the original, byte for byte" + (", and the runtime loads it" if checked else ""),
        },
        **job.tuning_report(),
        "versions": versions(),
        "seconds": {} if job.tuner is None else {"tune": job.tuner.judge.report()},
    }

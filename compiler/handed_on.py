"""Hand a model on unchanged: what is beyond the IR, but not beyond the runtime, is the user's model still.

The copy is byte for byte the original, but for the place of weights that lay in other files; the report says why
nothing was done.  A model that the runtime does not load either is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """Return (and write) the original.

    Raises ``ModelError`` when the runtime refuses it as well, or when it is not what was asked for: dims were to be
    bound, or the target demands what only compiling would have given it.
    """
    data, skeleton = _original(job, why)
    _meets_demands(job, skeleton, why)
    moved = _take_in_weights(job, skeleton)
    checked = _runtime_loads(job, data, why) if job.options.verify else False
    settings = job.target.session_settings()
    report = _report(job, why, len(data), checked)
    if job.options.output is not None:
        with job.output.place() as place:
            assert place is not None
            files = _write(job, place, data, skeleton if moved else None)
            job.output.write_manifest(place, files, settings, report)
    return Result(settings, report, path=job.options.output, make=lambda: materialize(skeleton.model, skeleton.table))


def _write(job: Compilation, place: Path, data: Any, skeleton: Skeleton | None) -> dict[str, Any]:
    if skeleton is not None:
        return job.output.write(place, skeleton.model, skeleton.table)
    name = job.output.name
    write_atomic(place / name, [data])
    return {name: describe(place / name)}


def _original(job: Compilation, why: UnsupportedError) -> tuple[Any, Skeleton]:
    """Return the bytes of the original, and what they hold."""
    path, source = job.path, job.source
    if path is not None and path.suffix == ".ir":
        raise why
    data = open_regular(path) if path is not None else source.SerializeToString(deterministic=True)  # type: ignore[union-attr]
    return data, read_skeleton(data, where=str(path or "model"))


def _meets_demands(job: Compilation, skeleton: Skeleton, why: UnsupportedError) -> None:
    """Raise ``ModelError`` unless the original is what the caller and the target ask for, as it is."""
    model, target = skeleton.model, job.target
    highest = target.runtime.opset.max
    opset = max((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    stored = {t.name for t in model.graph.initializer}
    given = [i for i in model.graph.input if i.name not in stored and i.type.HasField("tensor_type")]
    still_open = [i.name for i in given if any(not d.HasField("dim_value") for d in i.type.tensor_type.shape.dim)]
    if job.options.dims:
        broken = "the original has not the sizes that --dim asks for"
    elif highest is not None and opset > highest:
        broken = f"the original has opset {opset}, and {target.name} takes at most {highest}"
    elif target.constraints.static_shapes and still_open:
        broken = f"the original has open dims (of {still_open[0]}), and {target.name} takes static shapes only"
    else:
        return
    raise ModelError(
        f"the model cannot be compiled, and would not do as it is: {broken}",
        where=why.where,
        why=why.why or why.what,
        hint=why.hint or "change the model, or choose another target",
    ) from why


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
        "notes": [*job.notes(), f"handed on unchanged: {reason}"],
        "verification": {
            "status": "verified" if checked else "unverified",
            "why": "the file is the original, byte for byte" + (", and the runtime loads it" if checked else ""),
        },
        **job.tuning_report(),
        "versions": versions(),
        "seconds": {} if job.tuner is None else {"tune": job.tuner.judge.report()},
    }

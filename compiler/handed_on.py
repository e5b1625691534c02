"""Hand a model on unchanged: what is beyond the IR, but not beyond the runtime, is the user's model still.

The copy is byte for byte the original; the report says why nothing was done.  A model that the runtime does not load
either is an error, and so is one whose weights lie in other files, since these were not checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.backend import bundle
from compiler.backend.atomic import write_atomic
from compiler.backend.digest import describe
from compiler.backend.write import materialize
from compiler.errors import ModelError, UnsupportedError, WorkerError
from compiler.frontend.files import open_regular
from compiler.frontend.wire import read_skeleton
from compiler.ir.wire import tensors
from compiler.result import Result
from compiler.verify.certificate import versions

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.compilation import Compilation


def hand_on(job: Compilation, why: UnsupportedError) -> Result:
    """Return (and write) the original; raises ``ModelError`` when the runtime refuses it as well."""
    data = _original(job, why)
    checked = _runtime_loads(job, data, why) if job.options.verify else False
    settings = job.target.session_settings()
    report = _report(job, why, len(data), checked)
    if job.options.output is not None:
        with job.destination() as place:
            assert place is not None
            name = job.options.output.name if bundle.is_plain(job.options.output) else "model.onnx"
            write_atomic(place / name, [data])
            job.write_manifest(place, {name: describe(place / name)}, report)
    return Result(settings, report, path=job.options.output, make=lambda: _parse(data))


def _parse(data: Any) -> ModelProto:
    skeleton = read_skeleton(data)
    return materialize(skeleton.model, skeleton.table)


def _original(job: Compilation, why: UnsupportedError) -> Any:
    path = job.path
    source: Any = job.source
    if path is None:
        proto, data = source, source.SerializeToString(deterministic=True)
    elif path.suffix == ".ir":
        raise why
    else:
        data = open_regular(path)
        proto = read_skeleton(data, where=str(path)).model
    if any(t.data_location == t.EXTERNAL for t in tensors(proto)):
        raise ModelError(why.what, where=why.where, why=why.why or "and its weights lie in other files", hint=why.hint)
    return data


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
        "rolled_back": dict(sorted(job.banned.items())),
        "notes": [*job.notes, f"handed on unchanged: {reason}"],
        "verification": {
            "status": "verified" if checked else "unverified",
            "why": "the file is the original, byte for byte" + (", and the runtime loads it" if checked else ""),
        },
        "versions": versions(),
        "seconds": {},
    }

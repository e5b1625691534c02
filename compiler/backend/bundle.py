"""The bundle: what the user deploys, written so that nobody ever sees half of it.

A folder ``out/`` holds ``model.onnx`` (with ``model.onnx.data`` when weights are kept outside) and ``ampc.json``:
target, session and provider options, certificate, decisions, versions and hashes.  An output that ends in ``.onnx``
is a plain model, with the same JSON beside it as ``<name>.onnx.ampc.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.backend.atomic import write_atomic
from compiler.backend.write import EMBEDDED_LIMIT, embedded_size, serialize, write_external
from compiler.errors import InputError
from compiler.ir.splice import Buffer, PayloadTable
from compiler.ir.wire import tensors

if TYPE_CHECKING:
    from onnx import ModelProto

EXTERNAL_ABOVE = 1 << 30
"""Bytes of a model from which its weights go to a file of their own."""

_EXTERNAL_TENSOR = 4096
"""Tensors below this size stay in the model file even then."""

FORMAT = 1
"""Version of the layout of ``ampc.json``."""


def is_plain(output: Path) -> bool:
    """True when the output is one model file rather than a bundle folder."""
    return output.suffix == ".onnx"


def sidecar(output: Path) -> Path:
    """Return where the settings of a plain model lie."""
    return output.with_name(output.name + ".ampc.json")


def files_of(output: Path) -> list[str]:
    """Return the names of the files that belong to a plain model that was written earlier, none when it is not ours."""
    try:
        return sorted(json.loads(sidecar(output).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def check_output(output: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that cannot be written, before any work is done; raises ``InputError``."""
    parent = output.absolute().parent
    if not parent.is_dir():
        raise InputError("the output's folder does not exist", where=str(parent), hint="create it first")
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise InputError("the output would overwrite the input", where=str(output), hint="choose another output")
    if is_plain(output) and output.is_dir():
        raise InputError("the output is a folder, but its name ends in .onnx", where=str(output))


def write_model(
    folder: Path, name: str, proto: ModelProto, table: PayloadTable, *, external: bool | None = None
) -> dict[str, Any]:
    """Write a model file (and its data file) into a folder; return names, sizes and SHA-256 of what was written.

    ``external`` forces or forbids a data file; ``None`` decides by size.
    """
    size = embedded_size(proto, table)
    if external is None:
        external = size > EXTERNAL_ABOVE
    if not external and size > EMBEDDED_LIMIT:
        raise InputError(
            f"the model takes {size:,} bytes, and one ONNX file holds {EMBEDDED_LIMIT:,}", hint="allow external data"
        )
    files: dict[str, Any] = {}
    if external:
        data = name + ".data"
        big = [(t, p) for t in tensors(proto) if (p := table.payload(t)) is not None and p.nbytes >= _EXTERNAL_TENSOR]
        if big:
            write_external(folder, data, big)
            files[data] = _described(folder / data)
    digest = hashlib.sha256()
    write_atomic(folder / name, _hashed(serialize(proto, table), digest.update))
    files[name] = {"bytes": (folder / name).stat().st_size, "sha256": digest.hexdigest()}
    return files


def _hashed(chunks: Iterable[Buffer], update: Callable[[Buffer], None]) -> Iterator[Buffer]:
    for chunk in chunks:
        update(chunk)
        yield chunk


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def to_json(record: dict[str, Any]) -> bytes:
    """Return a JSON text with sorted keys and a final newline: the same record gives the same bytes."""
    return (json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n").encode()


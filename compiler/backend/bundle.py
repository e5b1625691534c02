"""The bundle: what the user deploys, written so that nobody ever sees half of it.

A folder ``out/`` holds ``model.onnx`` (with ``model.onnx.data`` when weights are kept outside) and ``ampc.json``:
target, session and provider options, certificate, decisions, versions and hashes.  An output that ends in ``.onnx``
is a plain model, with the same JSON beside it as ``<name>.onnx.ampc.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.backend.atomic import BUNDLE_MARK, write_atomic
from compiler.backend.digest import describe
from compiler.backend.write import EMBEDDED_LIMIT, embedded_size, serialize, write_external
from compiler.errors import InputError
from compiler.ir.splice import PayloadTable
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


def data_names(output: Path) -> tuple[str, str]:
    """Return the two names that the data file of a plain model may have."""
    return output.name + ".data", output.name + ".1.data"


def data_name(output: Path) -> str:
    """Return the name for the data file of a plain model that is about to be written; nothing in use is overwritten.

    Over an earlier model the other name is taken: until the model file itself is replaced, the earlier one finds its
    own weights.  Both names exist after a kill; the manifest, which is replaced first, then lists the unused one.
    """
    for name in data_names(output):
        if not output.with_name(name).exists():
            return name
    for name in data_names(output):
        if name in files_of(output):
            return name
    raise InputError(
        "the weights would overwrite a file that ampc did not write",
        where=str(output.with_name(data_names(output)[0])),
        hint="choose another output, or move the file away",
    )


def check_output(output: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that cannot be written, before any work is done; raises ``InputError``."""
    try:
        _check_output(output, inputs)
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(
            "the output cannot be written", where=str(output), why=why, hint="choose another output path"
        ) from error


def _check_output(output: Path, inputs: Iterable[Path]) -> None:
    parent = output.absolute().parent
    if not parent.is_dir():
        raise InputError("the output's folder does not exist", where=str(parent), hint="create it first")
    for path in inputs:
        inside = output.is_dir() and path.resolve().is_relative_to(output.resolve())
        if inside or (output.exists() and path.exists() and output.samefile(path)):
            raise InputError("the output would overwrite the input", where=str(output), hint="choose another output")
    if is_plain(output) and output.is_dir():
        raise InputError(
            "the output is a folder, but its name ends in .onnx", where=str(output), hint="choose another output"
        )
    if (output / BUNDLE_MARK).is_file() and (strange := _strange(output)):
        raise InputError(
            "the output's folder holds more than the bundle that would be replaced",
            where=str(output / strange[0]),
            hint="choose another output, or move the file away",
        )


def _strange(folder: Path) -> list[str]:
    """Return the names in a bundle's folder that are not of the bundle; all may be when its manifest is damaged."""
    try:
        listed = list(json.loads((folder / BUNDLE_MARK).read_bytes())["files"])
    except (ValueError, KeyError, TypeError, RecursionError):
        listed = ["model.onnx", "model.onnx.data"]
    return sorted({p.name for p in folder.iterdir()} - {BUNDLE_MARK, *listed})


def write_model(
    folder: Path,
    name: str,
    proto: ModelProto,
    table: PayloadTable,
    *,
    external: bool | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Write a model file (and its data file) into a folder; return names, sizes and digests of what was written.

    ``external`` forces or forbids a data file; ``None`` decides by size.  ``output`` is
    the plain model that this will be, whose earlier weights must not be overwritten.
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
        data = data_name(output) if output is not None else name + ".data"
        kept = type(proto)()
        kept.CopyFrom(proto)  # the caller's stubs stay
        proto = kept
        big = [(t, p) for t in tensors(proto) if (p := table.payload(t)) is not None and p.nbytes >= _EXTERNAL_TENSOR]
        if big:
            write_external(folder, data, big)
            files[data] = describe(folder / data)
    write_atomic(folder / name, serialize(proto, table))
    files[name] = describe(folder / name)
    return files


def to_json(record: dict[str, Any]) -> bytes:
    """Return a JSON text with sorted keys and a final newline: the same record gives the same bytes.

    A surrogate, which stands for a byte of a file name that is no UTF-8, is written as JSON's escape.
    """
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n"
    return text.encode(errors="backslashreplace")


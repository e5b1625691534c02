"""Where a compilation writes: the output, put into place when all of it is there, and files while the call lasts."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.backend import bundle
from compiler.backend.atomic import AtomicFolder, failures, write_atomic
from compiler.backend.write import embedded_size, serialize
from compiler.errors import InputError
from compiler.result import TIMES

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.ir.splice import PayloadTable
    from compiler.result import Attempt

_IN_MEMORY = 64 << 20
"""Bytes up to which a result without an output path is verified from memory."""


@dataclass(slots=True)
class Output:
    """The output of one compilation, which need not have any; use it as a context, at whose end scratch files go."""

    path: Path | None
    """A folder for a bundle, or a name that ends in ``.onnx`` for a plain model; ``None`` when nothing is written."""
    external: bool | None = None
    """Forces or forbids a data file."""
    scratch: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Temporary folders, and whatever else ends with the call."""

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *error: Any) -> None:
        self.scratch.close()

    @property
    def name(self) -> str:
        """The name of the model file."""
        return self.path.name if self._plain is not None else "model.onnx"  # type: ignore[union-attr]

    @property
    def _plain(self) -> Path | None:
        return self.path if self.path is not None and bundle.is_plain(self.path) else None

    @contextlib.contextmanager
    def place(self) -> Iterator[Path | None]:
        """Yield the folder to write into, if any; it is put into place only when nothing was raised."""
        output = self.path
        if output is None:
            yield None
        elif bundle.is_plain(output):
            with failures(output):
                made = tempfile.TemporaryDirectory(prefix=".ampc-", dir=output.absolute().parent)
            with made as name:
                yield Path(name)
                with failures(output):
                    _put_in_place(Path(name), output)
        else:
            with AtomicFolder(output) as folder:
                yield folder

    def write(self, place: Path, proto: ModelProto, table: PayloadTable) -> dict[str, Any]:
        """Write a model into the folder of the output; return what was written, by name."""
        return bundle.write_model(place, self.name, proto, table, external=self.external, output=self._plain)

    def write_manifest(
        self, place: Path, files: Mapping[str, Any], settings: Mapping[str, Any], report: Mapping[str, Any]
    ) -> None:
        """Write settings and report beside the model: ``ampc.json``, or the file that goes with a plain model."""
        manifest = {
            "format": bundle.FORMAT,
            "model": self.name,
            "files": files,
            "settings": settings,
            **{k: v for k, v in report.items() if k != TIMES},
        }
        name = "ampc.json" if self._plain is None else bundle.sidecar(self._plain).name
        write_atomic(place / name, [bundle.to_json(manifest)])

    # For the time of the call --------------------------------------------------------------------

    def folder(self) -> Path:
        """Return a new temporary folder."""
        return Path(self.scratch.enter_context(tempfile.TemporaryDirectory(prefix="ampc-")))

    def file(self, attempt: Attempt) -> Path:
        """Write what came of a run of the pipeline into a temporary folder."""
        folder = self.folder()
        bundle.write_model(folder, "model.onnx", attempt.proto, attempt.table)
        return folder / "model.onnx"

    def candidate(self, attempt: Attempt) -> Path | bytes:
        """Return what came of a run as the runtime opens it: bytes where they are few, else a temporary file."""
        if embedded_size(attempt.proto, attempt.table) <= _IN_MEMORY:
            return b"".join(serialize(attempt.proto, attempt.table))
        return self.file(attempt)


def _put_in_place(folder: Path, output: Path) -> None:
    if output.is_symlink() or (output.exists() and not output.is_file()):
        raise InputError("the output is not a regular file", where=str(output), hint="choose another output")
    earlier = bundle.files_of(output)
    data = [n for n in bundle.data_names(output) if (folder / n).exists()]
    for name in (bundle.sidecar(output).name, *data, output.name):  # see bundle.data_name
        if (folder / name).exists():
            os.replace(folder / name, output.with_name(name))
    for name in bundle.data_names(output):
        if name in earlier and name not in data:
            output.with_name(name).unlink(missing_ok=True)

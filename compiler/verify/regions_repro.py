"""Write a failed rewrite as two small models and their inputs, for a bug report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compiler.backend.atomic import AtomicFolder
from compiler.backend.emit import Limits
from compiler.backend.fragment import fragment, fragment_bytes
from compiler.errors import AmpcError
from compiler.verify.regions_check import RegionFailure, type_of

_WRITTEN = 8
"""Failures that are written."""


def write_repros(folder: Path, failures: Sequence[RegionFailure]) -> list[str]:
    """Write the first failures below ``folder``, each under the name of its rule or pass; return why some could not."""
    problems = []
    for failure in failures[:_WRITTEN]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_repro(_free(folder, failure.guilty), failure)
        except OSError as error:
            problems.append(f"no repro was written: {error.strerror or error}")
        except AmpcError as error:
            problems.append(f"no repro was written: {error.what} ({error.why})")
    return problems


def _free(folder: Path, name: str) -> Path:
    number = 1
    while (found := folder / f"{name}-{number}").exists():
        number += 1
    return found


def write_repro(folder: Path, failure: RegionFailure, *, limits: Limits | None = None) -> None:
    """Write a failure as two small models and their inputs, with the command that shows it; all or nothing.

    Raises ``InputError`` when the folder cannot be written.
    """
    region = failure.region
    names = [f"out{k}" for k in range(len(region.pairs))]
    inputs = [(v, type_of(failure.feeds[v.name], v.type)) for v in region.inputs]
    with AtomicFolder(folder) as place:
        for name, nodes, side in (("before", region.before, 0), ("after", region.after, 1)):
            outputs = [pair[side] for pair in region.pairs]
            model = fragment(nodes, inputs=inputs, outputs=outputs, like=failure.model, names=names)
            (place / f"{name}.onnx").write_bytes(fragment_bytes(model, limits=limits)[0])
        np.savez(place / "feeds.npz", allow_pickle=False, **failure.feeds)
        (place / "README.txt").write_text(_readme(failure), encoding="utf-8")


def _who(failure: RegionFailure) -> str:
    rule = f"Rule {failure.rule} of the pass" if failure.rule else "Pass"
    return f"{rule} {failure.pass_name!r}"


def _readme(failure: RegionFailure) -> str:
    return (
        f"{_who(failure)} rewrote {failure.operators}, and the result differs:\n"
        f"  {failure.difference}\n"
        f"  value {failure.value!r}, probe {failure.probe!r}\n"
        f"  nodes: {', '.join(failure.nodes)}\n\n"
        "To see it:\n  ampc check before.onnx after.onnx --inputs feeds.npz\n"
    )

"""Load a model and analyze it: the composition behind ``analyze_model`` and ``ampc analyze``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.api import guarded
from compiler.errors import AmpcError, InputError
from compiler.islands import with_islands
from compiler.placing import placement_of

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.analysis.opportunities import Opportunities
    from compiler.analysis.report import Analysis
    from compiler.ir.graph import Model, Value
    from compiler.ir.types import Type
    from targets import Target
    from targets.kernels import KernelTable


def analyze_model(
    model: str | os.PathLike[str] | ModelProto,
    *,
    target: str | os.PathLike[str] | Target = "auto",
    binding: Mapping[str, int] | None = None,
    dims: Mapping[str, int] | None = None,
    opportunities: bool = True,
    select: str = "cost",
    progress: Callable[[str], None] | None = None,
) -> Analysis:
    """Analyze an ONNX model (a file, IR text, or a ModelProto) without running it.

    ``target`` decides which kernels and peak rates count; ``binding`` gives dynamic dims sizes for the estimate of
    work (others: batch 1, lengths 128, the rest 64), and ``dims`` gives them sizes for good, as in ``compile_model``;
    where the target needs all sizes, those that are not given are taken to be usual ones.  With ``opportunities`` the
    target's pipeline is tried in memory, with ``select`` as in ``compile_model``, to say what it would gain and what
    keeps more from happening; ``progress`` is called with the name of each pass.  The model is not changed.  Raises
    ``InputError`` (``ModelError`` for the model itself).
    """
    chosen = str(target) if isinstance(target, str | os.PathLike) else target

    def run() -> Analysis:
        found, prepared, loaded = _analyze(model, chosen, dict(binding or {}), dict(dims or {}))
        return _with_opportunities(found, prepared, loaded, select, progress) if opportunities else found

    return guarded(run)


def _with_opportunities(
    found: Analysis, model: Model, target: Target, select: str, progress: Callable[[str], None] | None
) -> Analysis:
    """Try the pipeline on a model that nobody needs any more; where that fails, a note says why."""
    from compiler.analysis.work import default_binding
    from compiler.opportunities import find_opportunities
    from compiler.planning import check_selection

    check_selection(select)
    binding = default_binding(model, found.work.binding)
    try:
        gained: Opportunities | None = find_opportunities(
            model, target, binding=binding, select=select, progress=progress
        )
    except AmpcError as error:
        return dataclasses.replace(found, notes=(*found.notes, f"what could be gained is not known: {error.what}"))
    after = with_islands(placement_of(model, target), model, target, binding) if found.placement is not None else None
    return dataclasses.replace(found, opportunities=gained, compiled=after)


def _bound(
    source: str | os.PathLike[str] | ModelProto, target: Target, dims: dict[str, int]
) -> tuple[Model, str]:
    """Open a model and bind dims: those that were given, and all others where the target needs that, with a note."""
    from compiler.frontend.binding import bind_dims
    from compiler.opening import open_model
    from compiler.placing import unshared, usual_sizes

    model = open_model(unshared(source))
    sizes = usual_sizes(model, dims) if target.constraints.static_shapes else dims
    if sizes:
        bind_dims(model, sizes)
    assumed = ", ".join(f"{name} = {size}" for name, size in sizes.items() if name not in dims)
    return model, f"{target.name} needs the size of every dim; taken as {assumed}" if assumed else ""


def write_page(found: Analysis, path: str | os.PathLike[str]) -> None:
    """Write an analysis as an HTML page; the file is complete or not there.  Raises ``InputError``."""
    from compiler.backend.atomic import write_atomic

    place = Path(path)
    if place.exists() and Path(found.source).exists() and place.samefile(found.source):
        raise InputError("the page would overwrite the model", where=str(place), hint="choose another file")
    write_atomic(place, [found.to_html().encode(errors="backslashreplace")])


def _analyze(
    source: str | os.PathLike[str] | ModelProto, target: str | Target, binding: dict[str, int], dims: dict[str, int]
) -> tuple[Analysis, Model, Target]:
    """Return an analysis, and the model and the target that it is of."""
    from compiler.analysis.report import analyze
    from compiler.opening import prepare
    from compiler.settings import load_target

    chosen = load_target(target)
    model, assumed = _bound(source, chosen, dims)
    declared = _declared(model)
    prepare(model)
    symbols = {s for v in model.graph.inputs for d in v.shape or () if not isinstance(d, int) for s in d.symbols()}
    wrong = [name for name in binding if name not in symbols]
    if wrong:
        raise InputError(
            f"the model's inputs have no dim called {wrong[0]!r}",
            hint="dims are " + ", ".join(sorted(symbols)) if symbols else "all dims of the inputs are fixed",
        )
    kernels, note = _kernels(chosen)
    several = len(chosen.runtime.providers) > 1
    placed = with_islands(placement_of(model, chosen), model, chosen, binding) if several else None
    found = analyze(
        model,
        chosen,
        source=str(source) if isinstance(source, str | os.PathLike) else "ModelProto",
        declared=declared,
        kernels=kernels,
        binding=binding,
        notes=tuple(filter(None, (assumed, note))),
        placement=placed,
    )
    return found, model, chosen


def _declared(model: Model) -> dict[Value, Type]:
    """Return the types that the file claims for values that nodes compute."""
    from compiler.frontend.tensors import type_of

    found: dict[Value, Type] = {}
    for graph in model.graph.all_graphs():
        infos = {info.name: info for info in getattr(graph.extra, "value_info", ())}
        for node in graph.nodes():
            for value in node.outputs:
                info = infos.get(value.name) if value.declared is None else value.declared
                if info is not None and not value.absent and info.HasField("type"):
                    found[value] = type_of(info.type, model)
    return found


def _kernels(target: Target) -> tuple[KernelTable | None, str]:
    """Return the kernels of the target's first provider, or why they are not known."""
    from targets import TargetError
    from targets.kernels import kernels

    provider = target.runtime.providers[0][0]
    try:
        return kernels(provider), ""
    except TargetError as error:
        return None, f"not looked for operators without a kernel: {error}"

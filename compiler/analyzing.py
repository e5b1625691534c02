"""Load a model and analyze it: the composition behind ``analyze_model`` and ``ampc analyze``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from compiler.api import guarded
from compiler.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.analysis.report import Analysis
    from compiler.ir.graph import Model, Value
    from compiler.ir.types import Type
    from targets import Target
    from targets.kernels import KernelTable


def analyze_model(
    model: str | os.PathLike[str] | ModelProto,
    *,
    target: str = "auto",
    binding: Mapping[str, int] | None = None,
) -> Analysis:
    """Analyze an ONNX model (a file, IR text, or a ModelProto) without running it.

    ``target`` decides which kernels and peak rates count; ``binding`` gives dynamic dims sizes for the estimate of
    work (others: batch 1, lengths 128, the rest 64).  The model is not changed.  Raises ``InputError`` (``ModelError``
    for the model itself).
    """
    return guarded(lambda: _analyze(model, target, dict(binding or {})))


def _analyze(source: str | os.PathLike[str] | ModelProto, target: str, binding: dict[str, int]) -> Analysis:
    from compiler.analysis.report import analyze
    from compiler.opening import open_model, prepare
    from compiler.settings import load_target

    chosen = load_target(target)
    model = open_model(source)
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
    return analyze(
        model,
        chosen,
        source=str(source) if isinstance(source, str | os.PathLike) else "ModelProto",
        declared=declared,
        kernels=kernels,
        binding=binding,
        notes=(note,) if note else (),
    )


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

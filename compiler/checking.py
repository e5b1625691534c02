"""Compare two models that somebody made: ``ampc check A B``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.backend.session import read_bundle
from compiler.errors import InputError
from compiler.frontend.load import load_model
from compiler.opening import open_model, prepare
from compiler.result import Measures
from compiler.settings import load_target, runtime_limits
from compiler.verify.equivalence import verify_result
from compiler.verify.worker import memory_for, shared_worker

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.verify.certificate import Certificate


def check(
    first: str | os.PathLike[str] | ModelProto,
    second: str | os.PathLike[str] | ModelProto,
    *,
    inputs: Mapping[str, Any] | None,
    timeout: float,
    memory_limit: int | None,
    seed: int,
) -> Certificate:
    """Run both models on the same inputs; the first is the reference."""
    reference, _ = _model_of(first)
    candidate, settings = _model_of(second)
    model = open_model(reference)
    prepare(model)
    load_model(candidate)  # refuses malformed and hostile files before the runtime sees them
    worker = shared_worker()
    worker.timeout = timeout
    worker.memory_limit = memory_limit or memory_for(Measures.of(model).nbytes)
    return verify_result(
        reference,
        candidate if isinstance(candidate, Path) else candidate.SerializeToString(),
        model=model,
        regions=None,
        settings=settings or load_target("cpu").session_settings(),
        worker=worker,
        max_ir=runtime_limits()[1],
        inputs=inputs,
        seed=seed,
        repro=None,
    )


def _model_of(source: str | os.PathLike[str] | ModelProto) -> tuple[Any, dict[str, Any]]:
    if not isinstance(source, str | os.PathLike):
        return source, {}
    path = Path(source)
    if not path.exists():
        raise InputError("there is no such model", where=str(path), hint="give an .onnx file or a bundle folder")
    bundle = read_bundle(path)
    return bundle.model, dict(bundle.settings)

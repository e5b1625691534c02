"""Predict what a model takes, node by node, and profile what it really takes: two sides of the cost model's test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.api import guarded

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class NodeTime:
    """What one node takes."""

    name: str
    """The node's name."""
    operator: str
    """Its operator, with the domain."""
    us: float
    """Microseconds."""
    source: str
    """Where the time comes from: ``measured``, ``calibrated``, ``analytic``, or ``profile``."""
    kind: str = ""
    """What nodes of the same kernel have in common."""


@dataclass(frozen=True, slots=True)
class ModelTime:
    """What a model takes."""

    nodes: tuple[NodeTime, ...]
    """The nodes of the main graph, in order."""
    us: float
    """Microseconds of a whole run."""


def predict_model(
    model: str | os.PathLike[str] | ModelProto,
    *,
    target: str = "auto",
    binding: Mapping[str, int] | None = None,
    calibration: str | os.PathLike[str] | None = None,
) -> ModelTime:
    """Predict what a model takes, each node as it is written.

    ``binding`` gives dynamic dims sizes; ``calibration`` is a file that ``ampc calibrate`` wrote, in place of this
    machine's or the shipped one.  Raises ``InputError`` (``ModelError`` for the model itself).
    """
    return guarded(lambda: _predict(model, target, binding or {}, calibration))


def _predict(
    source: str | os.PathLike[str] | ModelProto,
    name: str,
    binding: Mapping[str, int],
    calibration: str | os.PathLike[str] | None,
) -> ModelTime:
    from compiler.analysis.work import default_binding
    from compiler.cost.calibration import load
    from compiler.cost.model import CostModel, constant_bytes
    from compiler.costing import cost_model, threads_of
    from compiler.opening import open_model, prepare
    from compiler.settings import load_target

    target, model = load_target(name), open_model(source)
    prepare(model)
    known = cost_model(target, model, binding=binding)
    if calibration is not None or known is None:
        given = load(Path(calibration)) if calibration is not None else None
        sizes, weights = default_binding(model, binding), constant_bytes(model)
        known = CostModel(target, sizes, calibration=given, threads=threads_of(target), weights=weights)
    nodes = []
    for node in model.graph.nodes():
        kind = known.kind(node)
        cost = known.of_kind(kind)
        nodes.append(NodeTime(node.name, node.qualified, cost.us, cost.source, kind.key))
    return ModelTime(tuple(nodes), sum(n.us for n in nodes))


def profile_model(
    model: str | os.PathLike[str],
    feeds: Mapping[str, Any],
    *,
    threads: int = 1,
    seconds: float = 2.0,
    as_written: bool = False,
    optimized: str | os.PathLike[str] | None = None,
    dims: Mapping[str, int] | None = None,
) -> ModelTime:
    """Run a model file in a child process and return what its nodes and the whole take.

    ``feeds`` are arrays by name; ``as_written`` turns the runtime's optimizations off; ``optimized`` is a file that the
    runtime writes its optimized graph to; ``dims`` are sizes that it may rely on.  Nodes have the names that the
    runtime gives them.  Raises ``WorkerError``.
    """
    import numpy as np

    from compiler.measure.profiles import Profiler

    with tempfile.TemporaryDirectory(prefix="ampc-profile-") as folder, Profiler(threads=threads, timeout=600) as child:
        arrays = Path(folder, "feeds.npz")
        np.savez(arrays, allow_pickle=False, **feeds)
        found = child.profile(
            Path(model),
            arrays,
            seconds=seconds,
            level="ORT_DISABLE_ALL" if as_written else "ORT_ENABLE_ALL",
            optimized=Path(optimized) if optimized is not None else None,
            dims=dims,
        )
    return ModelTime(tuple(NodeTime(name, op, us, "profile") for name, op, us in found.nodes), found.wall_us)

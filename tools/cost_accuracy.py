"""Compare what the cost model predicts with what models really take: ``python -m tools.cost_accuracy FOLDER``.

Each model is run by ONNX Runtime, which also writes the graph that it made of it. That graph is predicted node by
node and summed, and run again as it is written, so that each of its nodes is timed under a name of its own. Printed
are, for each model, predicted and measured time and the rank correlation of its nodes; at the end, the median error
of whole models and the rank correlation over all nodes. No model of such a folder takes part in calibration, which
measures single operators only. With one thread the time of a whole run is processor time, so that other work on the
machine disturbs it little; it is measured twice, before and after the nodes.

Next to ``NAME.onnx`` stands ``NAME.npz`` with its inputs, each under its name or as ``in0.INPUT``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compiler import AmpcError, predict_model, profile_model


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model's prediction and measurement."""

    model: str
    """The file's name without its ending."""
    nodes: int
    """Nodes of the optimized graph that ran."""
    predicted_ms: float
    """Milliseconds predicted."""
    measured_ms: float
    """Milliseconds measured."""
    rank: float
    """Rank correlation of the times of nodes."""
    pairs: tuple[tuple[float, float], ...]
    """Predicted and measured microseconds of each node."""

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_ms / self.measured_ms - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(prog="cost_accuracy", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="models, each with its inputs beside it")
    parser.add_argument("--only", default="", help="keep to models whose names hold this")
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds for each of three measurements of a model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calibration", help="a file of ampc calibrate, in place of this machine's")
    parser.add_argument("--json", type=Path, help="write the comparisons to a file")
    asked = parser.parse_args(argv)
    found = []
    for path in sorted(asked.folder.glob("*.onnx")):
        if asked.only not in path.name:
            continue
        try:
            found.append(compare(path, asked.seconds, asked.threads, asked.calibration))
        except AmpcError as error:
            sys.stdout.write(f"{path.stem:36} left out: {error.why or error.what}\n")
            continue
        sys.stdout.write(line(found[-1]) + "\n")
        sys.stdout.flush()
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(c) for c in found]), encoding="utf-8")
    sys.stdout.write("\n".join(summary(found)) + "\n")
    return 0


def compare(path: Path, seconds: float, threads: int, calibration: str | None) -> Comparison:
    """Measure and predict one model."""
    proto = onnx.load(str(path), load_external_data=False)
    feeds = inputs_of(proto, path.with_name(f"{path.stem}.npz"))
    dims = dict(_dims(proto, feeds))
    with tempfile.TemporaryDirectory(prefix="ampc-accuracy-") as folder:
        optimized = Path(folder, "optimized.onnx")
        whole = [profile_model(path, feeds, threads=threads, seconds=seconds, dims=dims, optimized=optimized).us]
        _number_nodes(optimized)
        measured = profile_model(optimized, feeds, threads=threads, seconds=seconds, as_written=True)
        predicted = predict_model(optimized, calibration=calibration)
    whole.append(measured.us)
    times = {n.name: n.us for n in measured.nodes}
    pairs = tuple((n.us, times[n.name]) for n in predicted.nodes if n.name in times)
    milliseconds = statistics.fmean(whole) / 1e3
    return Comparison(path.stem, len(pairs), predicted.us / 1e3, milliseconds, rank_correlation(pairs), pairs)


def inputs_of(proto: Any, path: Path) -> dict[str, Any]:
    """Return the arrays for a model's inputs."""
    given = {i.name for i in proto.graph.initializer}
    with np.load(path, allow_pickle=False) as arrays:
        names = {i.name: i.name if i.name in arrays.files else f"in0.{i.name}" for i in proto.graph.input}
        return {name: arrays[key] for name, key in names.items() if name not in given}


def _dims(proto: Any, feeds: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for value in proto.graph.input:
        if value.name in feeds:
            for dim, size in zip(value.type.tensor_type.shape.dim, feeds[value.name].shape, strict=True):
                if dim.dim_param:
                    yield dim.dim_param, int(size)


def _number_nodes(path: Path) -> None:
    """Give each node a name of its own, so that the profile can be matched with the prediction."""
    proto = onnx.load(str(path))
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
    onnx.save(proto, str(path))


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's rank correlation; equal values share the mean of their ranks."""
    if len(pairs) < 3:
        return float("nan")
    left, right = (_ranks(np.array(side)) for side in zip(*pairs, strict=True))
    return float(np.corrcoef(left, right)[0, 1])


def _ranks(values: Any) -> Any:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


def line(c: Comparison) -> str:
    """Return one model's line."""
    head = f"{c.model:36} {c.nodes:5} nodes {c.predicted_ms:9.2f} ms predicted {c.measured_ms:9.2f} ms measured"
    return f"{head} {c.error:+6.0%} rank {c.rank:.3f}"


def summary(found: Sequence[Comparison]) -> Iterator[str]:
    """Yield the lines at the end."""
    if not found:
        yield "no models"
        return
    errors = [abs(c.error) for c in found]
    ranks = [c.rank for c in found if c.rank == c.rank]
    pooled = rank_correlation([p for c in found for p in c.pairs])
    yield f"median error of whole models {statistics.median(errors):.1%} (worst {max(errors):.0%}), {len(found)} models"
    yield f"rank correlation of nodes: median {statistics.median(ranks):.3f}, all together {pooled:.3f}"


if __name__ == "__main__":
    sys.exit(main())

"""Calibrate: measure the kernels of the installed runtime on this machine, and keep what they take.

Each case becomes a small model, which a child process runs; the parent only builds models and keeps times.  A case that
the installed runtime does not run is left out: older versions lack some operators.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import InputError, WorkerError

if TYPE_CHECKING:
    from compiler.cost.calibration import Calibration
    from compiler.cost.case import Case
    from compiler.cost.kinds import Kind
    from compiler.ir.constant import Constant
    from compiler.ir.dtype import DType
    from compiler.ir.graph import Model, Node
    from compiler.measure.profiles import Profile, Profiler

_CHAIN = 400
"""Nodes of the model that shows what comes with each node beside its kernel."""

_FOOTPRINT = 3 << 20
"""Bytes that a case should touch in each run: more than the caches next to a core hold, as in a model of many nodes."""

_COPIES = 12
"""Nodes of a case at most."""

_STREAMED = 96 << 20
"""Bytes of weights that no cache holds."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a calibration did."""

    path: Path
    """Where it was written."""
    calibration: Calibration
    """What was measured."""
    left_out: tuple[str, ...]
    """Cases that the runtime did not run, and why."""


def calibrate(
    *,
    threads: int,
    output: Path | None = None,
    seconds: float = 0.04,
    passes: int = 2,
    only: str = "",
    tell: Callable[[str], None] | None = None,
) -> Calibrated:
    """Measure this machine's kernels with some number of threads and write what they take.

    ``output`` is the file, by default that in the user's cache folder which compilations look for; ``seconds`` the time
    for each case, in several ``passes`` over all, so that no case meets only a slow moment; ``only`` keeps to kinds
    whose keys begin so.  Raises ``WorkerError`` and ``InputError``.
    """
    from compiler.backend.atomic import write_atomic
    from compiler.cost import calibration as files
    from compiler.cost.cases import cases
    from compiler.measure.profiles import Profiler
    from targets.installed import installed

    path = files.default_path(threads) if output is None else output
    _check_place(path)
    measured: list[tuple[Kind, list[float]]] = []
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ampc-calibrate-") as folder, Profiler(threads=threads) as profiler:
        place = Path(folder, "case.onnx")
        bench = _Bench(place, profiler, seconds / passes)
        wanted = [(case, kind) for case in cases() if (kind := kind_of_case(case)).key.startswith(only)]
        measured = [(kind, []) for _, kind in wanted]
        for number in range(passes):
            for (case, kind), (_, times) in zip(wanted, measured, strict=True):
                if tell is not None:
                    tell(f"{kind.key}, pass {number + 1} of {passes}")
                try:
                    times.append(bench.measure(case))
                except WorkerError as error:
                    left_out += [f"{case.call}: {error.why}"] if number == 0 else []
        launch = bench.launch()
        stream = bench.stream()
    found = files.make(
        [(kind, statistics.median(times)) for kind, times in measured if times],
        runtime=installed().version,
        processor=files.processor_name(),
        threads=threads,
        launch_us=launch,
        stream=stream,
    )
    write_atomic(path, [found.to_json()])
    return Calibrated(path, found, tuple(left_out))


def _check_place(path: Path) -> None:
    """Make the folder, and raise ``InputError`` where no file can be written: before minutes are spent, not after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            "the calibration cannot be written",
            where=str(path),
            why=error.strerror or str(error),
            hint="name a file in a folder of yours: -o FILE",
        ) from error
    if path.is_dir():
        raise InputError("the calibration cannot be written", where=str(path), why="it is a folder")


def kind_of_case(case: Case) -> Kind:
    """Return the kind that a case is a point of."""
    from compiler.cost.kinds import kind_of
    from compiler.cost.work import Sizes

    return kind_of(_measured_node(_model(case, 1)), Sizes({}))


def _measured_node(model: Model) -> Node:
    return next(n for n in model.graph.nodes() if n.op != "Abs" or model.graph.node_count == 1)


def _model(case: Case, copies: int) -> Model:
    from compiler.ir.infer import infer
    from compiler.ir.parser import parse_model

    model = parse_model(case.text(copies), side=Drawn(), source=f"case {case.call}")
    infer(model.graph)
    return model


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where cases are measured."""

    place: Path
    """The file that each model is written to."""
    profiler: Profiler
    """The child process that runs it."""
    seconds: float
    """Time for one measurement."""

    def measure(self, case: Case) -> float:
        """Return the microseconds of one node of a case."""
        from compiler.cost.work import Sizes, work_of

        work = work_of(_measured_node(_model(case, 1)), Sizes({}))
        nbytes = work.nbytes if work is not None else 0
        copies = max(1, min(_COPIES, round(_FOOTPRINT / max(nbytes, 1))))
        model = _model(case, copies)
        drawn = {
            v.name: (str(v.dtype.numpy), [d for d in v.shape or () if isinstance(d, int)], case.largest or 100)
            for v in model.graph.inputs
        }
        _write(model, self.place)
        level = "ORT_ENABLE_ALL" if case.optimized else "ORT_DISABLE_ALL"
        found = self.profiler.profile(self.place, drawn, seconds=self.seconds, level=level, wall=False)
        return sum(us for _, op, us in found.nodes if not case.inside or op != "Abs") / copies

    def launch(self) -> float:
        """Return what each node of a long chain takes beside its kernel; negative where profiling costs more."""
        found = self._chain([f"%v{i + 1} = Neg(%v{i})" for i in range(_CHAIN)], "f32[16]", {})
        return (found.wall_us - found.us) / _CHAIN

    def stream(self) -> float:
        """Return the bytes of weights that a product of one row reads in a microsecond, when no cache holds them."""
        weights = [f"f32[1024,1024] = #{i:08d}" for i in range(_STREAMED >> 22)]
        lines = [f"%v{i + 1} = MatMul(%v{i}, %w{i})" for i in range(len(weights))]
        found = self._chain(lines, "f32[1,1024]", {f"w{i}": w for i, w in enumerate(weights)})
        return _STREAMED / found.wall_us

    def _chain(self, lines: Sequence[str], kind: str, constants: Mapping[str, str]) -> Profile:
        from compiler.ir.infer import infer
        from compiler.ir.parser import parse_model

        body = "".join([*(f"  const %{n}: {c}\n" for n, c in constants.items()), *(f"  {line}\n" for line in lines)])
        header = f"// ampc 1, ir 10, opset 20\ngraph @chain(%v0: {kind}) -> (%v{len(lines)})"
        model = parse_model(f"{header} {{\n{body}  return %v{len(lines)}\n}}\n", side=Drawn())
        infer(model.graph)
        _write(model, self.place)
        shape = [d for d in model.graph.inputs[0].shape or () if isinstance(d, int)]
        return _twice(self.profiler, self.place, {"v0": ("float32", shape, 2)}, 10 * self.seconds)


def _twice(profiler: Profiler, place: Path, drawn: Mapping[str, Any], seconds: float) -> Profile:
    """Profile nodes and the whole apart, since what the profiler itself takes must not show in the whole."""
    nodes = profiler.profile(place, drawn, seconds=seconds, level="ORT_DISABLE_ALL", wall=False)
    whole = profiler.profile(place, drawn, seconds=seconds, level="ORT_DISABLE_ALL", nodes=False)
    return dataclasses.replace(nodes, wall_us=whole.wall_us)


def _write(model: Model, place: Path) -> None:
    from compiler.backend.emit import emit, payload_table
    from compiler.backend.write import serialize

    table = payload_table(model)
    with place.open("wb") as file:
        for part in serialize(emit(model, table), table):
            file.write(part)


class Drawn:
    """Gives constants of drawn contents, small enough that nothing overflows."""

    def find(self, digits: str, dtype: DType, shape: tuple[int, ...]) -> Constant:
        """Return a constant of this type; the digits decide its contents, since equal weights are kept once."""
        from compiler.ir.constant import Constant

        draw = np.random.default_rng(int(digits))
        if dtype.is_float:
            return Constant.from_array(draw.uniform(0.01, 0.1, shape).astype(dtype.numpy), dtype)
        return Constant.from_array(draw.integers(0, 8, shape).astype(dtype.numpy), dtype)


def calibrate_machine(
    *, threads: int | None = None, output: Path | None = None, tell: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """Calibrate with one thread and with all cores, or with ``threads``; return a record of each calibration.

    Raises ``InputError`` when ``output`` names one file for several calibrations, or cannot be written, and for more
    threads than there are processors, which measure how the machine swaps them.
    """
    from targets.machine import machine

    if threads is not None and threads > machine().threads:
        raise InputError(f"{threads} threads are more than this machine's {machine().threads} processors")
    counts = [threads] if threads is not None else sorted({1, machine().cores})
    if output is not None and len(counts) > 1:
        raise InputError("one file cannot hold the calibrations of several numbers of threads", hint="add --threads N")
    records = []
    for count in counts:
        found = calibrate(threads=count, output=output, tell=tell)
        points = sum(len(p) for p in found.calibration.points.values())
        records.append(
            {
                "path": str(found.path),
                "threads": count,
                "kinds": len(found.calibration.points),
                "points": points,
                "left_out": list(found.left_out),
            }
        )
    return records

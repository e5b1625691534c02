"""Build two well-known networks, compile them, check them, and time them before and after, on this machine.

``ampc demo`` is the shortest way to see what the compiler does and whether it pays here.  It downloads
nothing, and it reports a loss or an undecided race as plainly as a gain.  The command line finds ``command``
through the entry point group ``ampc.commands``, so that the compiler never imports this package.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from compiler import Timing, Variant, bench_models
from compiler.errors import WorkerError
from tools.timing_tables import conditions, count, narrow_console, plain_table, timing_table

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx
    from rich.console import Console
    from rich.table import Table

    Array: TypeAlias = npt.NDArray[np.float32]

BEFORE, AFTER = "original", "bundle"
"""The names of the two variants that are timed."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network that the demo can build."""

    title: str
    """What it is, for people."""
    build: Callable[[], onnx.ModelProto]
    """Builds it at its real size."""
    build_small: Callable[[], onnx.ModelProto]
    """Builds a variant that compiles and runs in moments."""


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """What happened to one network."""

    name: str
    """The name on the command line."""
    title: str
    """What it is, for people."""
    model: Path
    """The model that was built."""
    bundle: Path
    """The folder that was compiled."""
    target: str
    """The target that was compiled for, as asked."""
    opset: int
    """The opset of the model that was built."""
    report: Mapping[str, Any]
    """The compiler's own report."""
    timings: Mapping[str, Timing]
    """The original by the runtime's defaults and the bundle as deployed; empty where it does not run."""
    not_timed: str
    """Why there are no timings; empty where there are."""

    @property
    def verified(self) -> bool:
        """Tell whether the compiler vouches for the bundle."""
        return bool(self.report.get("verification", {}).get("status") == "verified")

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, numbers and strings."""
        return {
            "name": self.name,
            "title": self.title,
            "model": str(self.model),
            "bundle": str(self.bundle),
            "target": self.target,
            "opset": self.opset,
            "verified": self.verified,
            "report": dict(self.report),
            "timings": {name: timing.to_json() for name, timing in self.timings.items()},
            "not_timed": self.not_timed,
        }


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What happened to every network asked for."""

    networks: tuple[NetworkResult, ...]
    """The results, in the order of the run."""
    kept: bool
    """Whether the models and bundles are still there; a temporary folder is removed at the end."""

    @property
    def verified(self) -> bool:
        """Tell whether the compiler vouches for every bundle."""
        return all(network.verified for network in self.networks)

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, numbers and strings."""
        networks = [network.to_json() for network in self.networks]
        return {"verified": self.verified, "kept": self.kept, "networks": networks}


def run_demo(
    *,
    model: str = "both",
    output: Path | None = None,
    target: str = "auto",
    small: bool = False,
    json: bool = False,
    console: Console | None = None,
) -> DemoResult:
    """Build, compile, check and time ``model``: ``whisper``, ``resnet`` or ``both``.

    Models and bundles go to ``output``, or to a temporary folder that is removed at the end.  ``small`` takes
    variants that finish in seconds and whose speed means little.  The report goes to ``console`` as text for
    80 columns, or as one JSON document.  Raises ``ValueError`` for an unknown model, and whatever
    ``compile_model`` raises.
    """
    console = narrow_console() if console is None else console
    networks = _networks()
    if model not in (*networks, "both"):
        raise ValueError(f"unknown model {model!r}: choose from {', '.join(networks)}, both")
    chosen = networks if model == "both" else {model: networks[model]}
    results = []
    with _folder(output) as folder:
        for name, network in chosen.items():
            result = _run(name, network, folder, target=target, small=small, status=None if json else console)
            results.append(result)
            if not json:
                _show(result, console, kept=output is not None)
    done = DemoResult(tuple(results), kept=output is not None)
    if json:
        console.print(dumps(done.to_json(), indent=2), markup=False, highlight=False, soft_wrap=True)
    return done


def command(argv: list[str]) -> int:
    """Run ``ampc demo`` and return the exit code, which is 0 only where every bundle is verified."""
    parser = argparse.ArgumentParser(
        prog="ampc demo",
        description="Build two well-known networks, compile them, check them, and time them on this machine.",
    )
    models = ("whisper", "resnet", "both")
    parser.add_argument("--model", choices=models, default="both", help="default: both")
    parser.add_argument("--target", default="auto", help="what to compile for; default: this machine")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="keep models and bundles here")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parser.add_argument("--quick", action="store_true", help="small variants: a trial run, not a benchmark")
    asked = parser.parse_args(argv)
    try:
        result = run_demo(
            model=asked.model, output=asked.output, target=asked.target, small=asked.quick, json=asked.json
        )
    except Exception as error:
        code = getattr(error, "exit_code", None)  # the compiler's own errors carry one
        if not isinstance(code, int):
            raise
        print(error, file=sys.stderr)
        return code
    return 0 if result.verified else 1


def sample(model: onnx.ModelProto, *, seed: int = 1) -> dict[str, Array]:
    """Draw standard normal values for every input of ``model``, with 1 for every dynamic dimension."""
    import numpy as np

    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.standard_normal(shape, np.float32)
    return feeds


def _networks() -> dict[str, Network]:
    """Return the networks by name, importing their builders only now."""
    from tools.models import resnet50, whisper_tiny_encoder

    return {
        "whisper": Network(
            "Whisper-tiny encoder",
            whisper_tiny_encoder,
            lambda: whisper_tiny_encoder(layers=1, width=64, heads=2, frames=200, mels=20),
        ),
        "resnet": Network(
            "ResNet-50",
            resnet50,
            lambda: resnet50(image=64, classes=10, blocks=(1, 1, 1, 1), width=16),
        ),
    }


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    """Yield ``output``, made if need be, or a temporary folder."""
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="ampc-demo-") as folder:
        yield Path(folder)


def _run(
    name: str, network: Network, folder: Path, *, target: str, small: bool, status: Console | None
) -> NetworkResult:
    """Take one network all the way, saying what goes on on the ``status`` console."""
    from compiler import compile_model

    path, bundle = folder / f"{name}.onnx", folder / name
    with _doing(status, f"building {network.title}"):
        model = network.build_small() if small else network.build()
        path.write_bytes(model.SerializeToString(deterministic=True))
    with _doing(status, f"compiling {network.title}"):
        result = compile_model(str(path), target=target, output=str(bundle))
    timings, not_timed = {}, ""
    with _doing(status, f"timing {network.title}"):
        try:
            timings = _time(path, bundle, sample(model), small=small)
        except WorkerError as error:  # a bundle for another machine need not run on this one
            not_timed = error.why or str(error)
    opset = model.opset_import[0].version
    return NetworkResult(name, network.title, path, bundle, target, opset, result.report, timings, not_timed)


@contextmanager
def _doing(console: Console | None, what: str) -> Iterator[None]:
    """Show a spinner on a terminal while something takes its time."""
    if console is None:
        yield
        return
    with console.status(f"{what} ..."):
        yield


def _time(model: Path, bundle: Path, feeds: Mapping[str, Array], *, small: bool) -> dict[str, Timing]:
    """Time the model under all of the runtime's own optimizations, its default, against the bundle."""
    default = {"session_options": {"graph_optimization_level": "ORT_ENABLE_ALL"}}
    variants = {BEFORE: Variant(str(model), default), AFTER: Variant(str(bundle))}
    return bench_models(variants, inputs=feeds, seconds=2.0 if small else 10.0)


def _show(result: NetworkResult, console: Console, *, kept: bool) -> None:
    """Print what was built, done, checked and measured, and how to go on."""
    console.rule(f"[bold]{result.title}", align="left")
    for label, text in _facts(result):
        _line(console, label, text)
        if label == "compiled" and result.report.get("passes"):
            seconds = result.report.get("seconds", {}).get("pass", {})
            console.print(_pass_table(result.report["passes"], seconds))
    if result.timings:
        console.print(timing_table(result.timings))
        for text in outcome(result.timings[AFTER]):
            _line(console, "", text)
    if kept:
        _line(console, "open it", "from compiler import load_session")
        _line(console, "", f'session = load_session("{result.bundle}")')
    else:
        _line(console, "keep it", "ampc demo -o DIR keeps the models and the bundles")
    console.print()


def _line(console: Console, label: str, text: str) -> None:
    """Print ``text`` after a label, wrapped and indented as a column."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=9, style="bold cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(label, Text(text))
    console.print(grid)


def _facts(result: NetworkResult) -> Iterator[tuple[str, str]]:
    """Yield the report's lines as label and text."""
    report = result.report
    nodes = [report.get(key, "?") for key in ("nodes_before", "nodes_after")]
    sizes = [_megabytes(report.get(key)) for key in ("bytes_before", "bytes_after")]
    seconds = _number(report.get("seconds", {}).get("total"), ".1f")
    yield "built", f"{nodes[0]} nodes, {sizes[0]}, opset {result.opset}, seeded weights, dynamic batch"
    change = f"{nodes[0]} -> {nodes[1]} nodes, {sizes[0]} -> {sizes[1]}"
    yield "compiled", f"for {report.get('target', result.target)} in {seconds} s: {change}"
    yield "checked", checked(report.get("verification", {}))
    if result.not_timed:
        yield "timed", f"not on this machine: {result.not_timed}"
    else:
        yield "timed", "a run at batch 1, by the runtime alone and as compiled"


def checked(verification: Mapping[str, Any]) -> str:
    """Say in a sentence what the compiler's verification found."""
    status = verification.get("status", "not checked")
    probes = verification.get("probes", ())
    bindings = len({tuple(sorted(probe["binding"].items())) for probe in probes})
    outputs = [output for probe in probes for output in probe["outputs"].values()]
    largest = [max((float(o[key]) for o in outputs), default=None) for key in ("max_abs", "max_rel")]
    rewrites = verification.get("regions", {}).get("checked", 0)
    return (
        f"{status}: {count(len(probes), 'comparison')} at {count(bindings, 'shape binding')}, "
        f"{count(rewrites, 'rewrite')} one by one; largest difference {_number(largest[0], '.2g')} absolute, "
        f"{_number(largest[1], '.2g')} relative"
    )


def outcome(after: Timing) -> Iterator[str]:
    """Say in words what the timings amount to, and how far to trust them."""
    ratio = after.ratio
    words = {
        "faster": "the bundle is faster",
        "slower": "the bundle is SLOWER",
        "same": "no difference worth naming",
        "cannot tell": "cannot tell: the interval spans too much",
    }
    bounds = f"{ratio.low:.2f} to {ratio.high:.2f} with {100 * ratio.coverage:.0f} %"
    yield f"{ratio.value:.2f} times as fast ({bounds}): {words.get(after.verdict, after.verdict)}"
    yield from conditions(after)


def _pass_table(runs: Sequence[Mapping[str, Any]], seconds: Mapping[str, float]) -> Table:
    """Tabulate the passes that changed something, each with all of its runs, and count the others."""
    table = plain_table("pass", "rewrites", "ms")
    rewrites = {run["name"]: 0 for run in runs}
    for run in runs:
        rewrites[run["name"]] += run["rewrites"] if run["changed"] else 0
    for name, times in rewrites.items():
        if times:
            table.add_row(name, str(times), f"{1e3 * seconds.get(name, 0.0):.0f}")
    idle = [name for name, times in rewrites.items() if not times]
    if idle:
        spent = 1e3 * sum(seconds.get(name, 0.0) for name in idle)
        table.add_row(f"{count(len(idle), 'other')} without a change", "", f"{spent:.0f}")
    return table


def _megabytes(count: float | None) -> str:
    """Render a count of bytes."""
    return "? MB" if count is None else f"{count / 1e6:.1f} MB"


def _number(value: float | None, form: str) -> str:
    """Render a number that a report may lack."""
    return "?" if value is None else format(value, form)

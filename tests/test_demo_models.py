"""Laws of the demonstration networks, and of ``ampc demo``."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from rich.console import Console

import compiler
from compiler import Timing, Variant
from compiler.errors import WorkerError
from compiler.measure.instrument import Conditions
from compiler.measure.intervals import Interval
from tools import demo
from tools.models import resnet50, whisper_tiny_encoder

Builder = Callable[..., onnx.ModelProto]


def small_whisper(**options: Any) -> onnx.ModelProto:
    """Build one narrow block over a short spectrogram."""
    return whisper_tiny_encoder(layers=1, width=32, heads=2, frames=32, mels=8, **options)


def small_resnet(**options: Any) -> onnx.ModelProto:
    """Build two narrow stages over a small image."""
    return resnet50(image=32, classes=10, blocks=(1, 1), width=8, **options)


def run(model: onnx.ModelProto, feed: Any) -> Any:
    """Run a model of one input and one output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: feed})[0]


def parameters(model: onnx.ModelProto) -> int:
    """Count the numbers in a model's initializers."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


@pytest.mark.parametrize("build", [small_whisper, small_resnet])
def test_a_seed_gives_the_same_bytes_every_time(build: Builder) -> None:
    """Equal seeds give equal bytes, and another seed gives other weights in the same graph."""
    first, second, other = (build(seed=seed) for seed in (0, 0, 1))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert first.graph.node == other.graph.node
    assert first.graph.initializer != other.graph.initializer


@pytest.mark.parametrize(
    ("build", "shape"), [(small_whisper, (8, 32)), (small_resnet, (3, 32, 32))], ids=["whisper", "resnet"]
)
def test_outputs_are_finite_of_unit_scale_and_depend_on_the_input(
    build: Builder, shape: tuple[int, ...]
) -> None:
    """Outputs have a sane scale, differ by class or position and by input, and not by batch mates."""
    model = build()
    feed = np.random.default_rng(3).standard_normal((3, *shape), np.float32)
    whole = run(model, feed)
    assert np.isfinite(whole).all()
    assert 0.1 < whole.std() < 10
    assert whole.std(axis=-1).min() > 0.1
    assert np.abs(whole[0] - whole[1]).max() > 0.05
    np.testing.assert_allclose(run(model, feed[:1]), whole[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "published"),
    [
        # 4 tied norm weights of 384 are stored once
        (whisper_tiny_encoder, 8_208_384 - 4 * 384),
        # 53 120 running means and variances come on top of the trained parameters
        (resnet50, 25_557_032 + 53_120),
    ],
    ids=["whisper", "resnet"],
)
def test_the_networks_have_their_published_sizes(build: Builder, published: int) -> None:
    """At default arguments a network has as many parameters as the one it is named after."""
    assert parameters(build()) == published


def test_the_encoder_carries_the_clutter_of_an_export() -> None:
    """The encoder holds every kind of litter that a compiler must see through, and a weight used twice."""
    model = small_whisper()
    census = Counter(node.op_type for node in model.graph.node)
    clutter = ("Identity", "Cast", "Constant", "Unsqueeze", "Squeeze", "Shape", "Gather", "Erf", "Pow")
    assert all(census[kind] for kind in clutter)
    assert not {"LayerNormalization", "Gelu", "Attention"} & set(census)
    uses = Counter(name for node in model.graph.node for name in node.input)
    assert uses["encoder.layers.0.self_attn_layer_norm.weight"] == 2
    assert "/encoder/layers.0/self_attn/q_proj/MatMul" in {node.name for node in model.graph.node}


def test_impossible_sizes_are_refused() -> None:
    """A width that the heads do not divide, or an odd number of frames, is an error and no broken model."""
    with pytest.raises(ValueError, match="heads"):
        whisper_tiny_encoder(width=30, heads=4)
    with pytest.raises(ValueError, match="even"):
        whisper_tiny_encoder(frames=31)


def timing(*, low: float, high: float, word: str) -> Timing:
    """Make up a timing."""
    middle = Interval((low + high) / 2, low, high, 0.98)
    conditions = Conditions(processors=2, threads=2, clock="wall", load_average=0.5, foreign=0.4, spread=0.01)
    return Timing(
        0.1, Interval(227.1, 220.5, 1231.2, 0.98), 228.0, 240.0, 1250.0, 40, 310.0, middle, word, conditions
    )


REPORT = {
    "nodes_before": 503,
    "nodes_after": 61,
    "bytes_before": 32_900_000,
    "bytes_after": 32_800_000,
    "seconds": {"total": 4.2, "pass": {"raise-attention-and-its-many-friends": 0.08, "fold": 0.003}},
    "passes": [
        {"name": "raise-attention-and-its-many-friends", "changed": True, "rewrites": 12},
        {"name": "fold", "changed": False, "rewrites": 0},
    ],
    "verification": {
        "status": "verified",
        "probes": [{"binding": {"N": n % 3}, "outputs": {"y": {"max_abs": 1e-6, "max_rel": 2e-7}}} for n in range(9)],
        "regions": {"checked": 4},
    },
}


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for the compiler and the clock, and return the report that the compiler will give."""
    report = json.loads(json.dumps(REPORT))

    def compile_model(path: str, *, target: str, output: str) -> SimpleNamespace:
        onnx.checker.check_model(path)
        return SimpleNamespace(report=report, settings={}, model=None)

    def clock(variants: dict[str, Variant], **_: object) -> dict[str, Timing]:
        first, second = variants
        return {
            first: timing(low=1, high=1, word="reference"),
            second: timing(low=1.1, high=1.3, word="faster"),
        }

    monkeypatch.setattr(compiler, "compile_model", compile_model, raising=False)
    monkeypatch.setattr(demo, "bench_models", clock)
    return report


def shown(**options: Any) -> str:
    """Run the demo on small networks and return what it printed."""
    text = io.StringIO()
    demo.run_demo(small=True, console=Console(file=text, width=80), **options)
    return text.getvalue()


def test_the_report_says_what_was_done_checked_and_won(compiled: dict[str, Any], tmp_path: Path) -> None:
    """The text holds passes, checks, both times and the ratio in 80 columns, and how to open what it kept."""
    text = shown(output=tmp_path / "kept")
    assert max(map(len, text.splitlines())) <= 80
    assert "503 -> 61 nodes" in text
    assert "verified: 9 comparisons at 3 shape bindings" in text
    assert "raise-attention" in text
    assert "1.20 times as fast (1.10 to 1.30 with 98 %): the bundle is faster" in text
    assert "busy" in text
    assert "load_session(" in text
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["resnet.onnx", "whisper.onnx"]


def test_an_empty_report_is_shown_as_unknown(compiled: dict[str, Any]) -> None:
    """A compiler that reports nothing is not a crash, and not a success."""
    compiled.clear()
    assert "not checked" in shown(model="resnet")
    assert demo.command(["--quick", "--model", "resnet"]) == 1


def test_json_is_one_document(compiled: dict[str, Any]) -> None:
    """With ``json`` the output is one JSON document and nothing else."""
    document = json.loads(shown(model="whisper", json=True))
    assert document["verified"] is True
    assert document["networks"][0]["timings"]["bundle"]["verdict"] == "faster"


def test_a_bundle_for_another_machine_is_reported_and_not_timed(
    compiled: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that cannot run here is compiled and checked as usual, and the report says why."""

    def refuse(*_: object, **__: object) -> dict[str, Timing]:
        raise WorkerError("a model cannot be timed", kind="load", where="bundle", why="no such provider")

    monkeypatch.setattr(demo, "bench_models", refuse)
    assert "not on this machine: no such provider" in shown(model="resnet")


def test_the_exit_code_is_the_compilers(
    compiled: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's mistake ends with the compiler's own message and exit code; an unverified result with 1."""
    from compiler.errors import InputError

    assert demo.command(["--quick", "--model", "resnet"]) == 0
    compiled["verification"]["status"] = "unverified"
    assert demo.command(["--quick", "--model", "resnet"]) == 1

    def fail(*_: object, **__: object) -> None:
        raise InputError("there is no target 'moon'")

    monkeypatch.setattr(compiler, "compile_model", fail, raising=False)
    assert demo.command(["--quick", "--target", "moon"]) == 2
    assert "moon" in capsys.readouterr().err


def test_the_demo_runs_from_end_to_end(tmp_path: Path) -> None:
    """Both small networks compile, verify, and run as bundles in the runtime's own process."""
    result = demo.run_demo(small=True, output=tmp_path, console=Console(file=io.StringIO(), width=80))
    assert result.verified
    assert [network.name for network in result.networks] == ["whisper", "resnet"]
    assert not any(network.not_timed for network in result.networks)

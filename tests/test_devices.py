"""Compiled models on the runtimes that they are for: the device takes what was foretold, and computes the same.

Where a device cannot be had, its tests are skipped, and say why; ``devices`` installs what can be had.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from compiler.cli import app
from tests.agreement import same_outputs
from tests.devices import CUDA, OPENVINO, QNN, TENSORRT, WEBGPU, Absent, Device, Environment, environment
from tests.hostile_case import default_feeds
from tests.isolation import Child
from tools.models.resnet import resnet50
from tools.models.whisper import whisper_tiny_encoder

CPU = "CPUExecutionProvider"
BOUNDARY = {"QuantizeLinear": 1, "DequantizeLinear": 1}
"""What the target for the tensor processor leaves to the CPU of a model that takes and gives floats."""
ONE_CHIP = """
name = "npu_of_one_chip"
extends = "npu"
summary = "Hexagon of one generation, compiled ahead of time"

[runtime.options.QNNExecutionProvider]
htp_arch = "75"
soc_model = "57"

[runtime.session]
"ep.context_enable" = "1"
"""


def here(device: Device) -> Environment:
    """Return a device's environment, or skip the test and say why."""
    try:
        return environment(device)
    except Absent as error:
        pytest.skip(f"{device.name}: {error}")


def images() -> onnx.ModelProto:
    """A small convolutional network, as an exporter writes it."""
    return resnet50(image=32, classes=10, batch=1, blocks=(1, 1), width=8)


def spectra() -> onnx.ModelProto:
    """A small transformer over a spectrogram, as an exporter writes it."""
    return whisper_tiny_encoder(layers=1, width=32, heads=2, frames=32, mels=8, batch=1)


def in_int8(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Quantize a model's convolutions and products, per channel, by values drawn at random."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Draws(CalibrationDataReader):  # type: ignore[misc]
        """A few feeds."""

        def __init__(self) -> None:
            self.left: Iterator[dict[str, Any]] = iter([feeds_of(model, seed) for seed in range(3)])

        def get_next(self) -> dict[str, Any] | None:
            """Return the next feeds, ``None`` at the end."""
            return next(self.left, None)

    source, made = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(source, made, Draws(), per_channel=True, **types)
    return onnx.load(made)


def feeds_of(model: onnx.ModelProto, seed: int) -> dict[str, Any]:
    """Draw standard normal inputs."""
    (entry,) = model.graph.input
    shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    return {entry.name: np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def compiled(model: onnx.ModelProto, target: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Compile by command in the environment of the tests; return the bundle and its report."""
    path, bundle = folder / "model.onnx", folder / "bundle"
    onnx.save(model, path)
    done = CliRunner().invoke(app, ["compile", str(path), "--target", target, "-o", str(bundle), "--json"])
    assert done.exit_code == 0, done.output
    return bundle, json.loads((bundle / "ampc.json").read_text("utf-8"))


def foretold(report: dict[str, Any], field: str) -> dict[str, Any]:
    """Return what a report says of each provider's nodes before anything was opened."""
    return {share["provider"]: share[field] for share in report["placement"]["shares"]}


# Ahead of time, for a tensor processor that is not here


@pytest.mark.parametrize("kind", ["int8", "f16"])
def test_a_tensor_processor_takes_all_but_the_boundary(kind: str, tmp_path: Path) -> None:
    """QNN compiles a network to one binary, as was foretold; only the boundary's conversions stay on the CPU."""
    device = here(QNN)
    model = in_int8(images(), tmp_path) if kind == "int8" else spectra()  # which it computes in f16
    (tmp_path / "chip.toml").write_text(ONE_CHIP)
    bundle, report = compiled(model, str(tmp_path / "chip.toml"), tmp_path)
    assignment = device.open(bundle)["assignment"]
    assert assignment["partitions"] == foretold(report, "partitions")
    assert assignment["partitions"][QNN.provider] == 1
    assert assignment["operators"].get(CPU, {}) == foretold(report, "operators").get(CPU, {})
    assert assignment["operators"].get(CPU, {}) == (BOUNDARY if kind == "int8" else {})
    (context,) = bundle.glob("*_ctx.onnx")
    assert sum(node.op_type == "EPContext" for node in onnx.load(context).graph.node) == 1


# On the device


@pytest.mark.parametrize("model", [images, spectra])
@pytest.mark.parametrize(
    ("device", "target"),
    [(OPENVINO, "cpu_openvino"), (WEBGPU, "mobile_gpu"), (CUDA, "gpu_cuda"), (TENSORRT, "gpu_tensorrt")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_device_takes_it_whole_and_computes_the_same(
    device: Device, target: str, model: Any, oracle: Child, tmp_path: Path
) -> None:
    """Every node goes to the device, as was foretold, and its outputs are those of the original on the CPU."""
    place = here(device)
    original = model()
    bundle, report = compiled(original, target, tmp_path)
    feeds = default_feeds(original, {})
    np.savez(tmp_path / "feeds.npz", **feeds)
    answer = place.open(bundle, tmp_path / "feeds.npz", tmp_path / "outputs.npz")
    assert answer["providers"][0] == device.provider
    assert set(answer["assignment"]["nodes"]) == set(foretold(report, "nodes")) == {device.provider}
    if device in (OPENVINO, TENSORRT):
        assert answer["assignment"]["partitions"] == foretold(report, "partitions") == {device.provider: 1}
    with np.load(tmp_path / "outputs.npz") as found:
        same_outputs(oracle.call("tests.hostile_runner:run", original.SerializeToString(), feeds), list(found.values()))


# The compiler where the device is


def check_of(device: Environment, target: str, folder: Path) -> tuple[int, dict[str, Any]]:
    """Compile in a device's environment with a device check; return the exit status and what was printed."""
    onnx.save(images(), folder / "model.onnx")
    place = ["compile", str(folder / "model.onnx"), "-o", str(folder / "out"), "--target", target]
    done = device.run("-m", "compiler", *place, "--device-check", "--json")
    assert done.stdout.startswith("{") or done.returncode, done.stderr
    return done.returncode, json.loads(done.stdout[done.stdout.index("{") :])


def test_a_device_check_reads_back_who_runs_what(tmp_path: Path) -> None:
    """Where the provider is installed, the result is verified on it, and its assignment is held to the prediction."""
    status, report = check_of(here(OPENVINO), "cpu_openvino", tmp_path)
    device = report["device"]
    assert status == 0 and report["status"] == "verified" and device["status"] == "run on the device"
    assert device["as_foretold"] and device["assignment"]["partitions"] == {OPENVINO.provider: 1}


def test_a_device_that_refuses_the_result_is_an_error(tmp_path: Path) -> None:
    """A tensor processor of an unknown generation computes no f16, so that a device check fails, and writes nothing."""
    status, printed = check_of(here(QNN), "npu", tmp_path)
    assert status == 2 and not (tmp_path / "out").exists()
    assert "does not take the model" in json.dumps(printed)

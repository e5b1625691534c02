"""Rules of other packages: found when they are installed, held to what our own are held to, and stopped when wrong."""

from __future__ import annotations

import importlib
import importlib.util
import random
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from compiler import compile_model, manager
from compiler.errors import InputError
from compiler.rewrite import FLOATS, Rule
from tests.rule_harness import BATCH, Harness, RuleFailure
from tests.rule_harness_batch import Tally
from tests.rule_harness_choices import LENGTH
from tests.source_code import ROOT

PLUGIN = ROOT / "tests" / "plugin"
PROJECT = tomllib.loads((PLUGIN / "pyproject.toml").read_text("utf-8"))["project"]


def forget() -> None:
    """Let rules and passes be looked for again."""
    manager.known_rules.cache_clear()
    manager.known_passes.cache_clear()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example plugin as an installer leaves it, which takes neither a network nor a build."""
    folder = tmp_path_factory.mktemp("site")
    for path in PLUGIN.glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    info = folder / f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n")
    (info / "entry_points.txt").write_text(entry_points(PROJECT["entry-points"]))
    return folder


def entry_points(groups: dict[str, dict[str, str]]) -> str:
    """Return the file that a wheel keeps entry points in."""
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    return "\n".join(lines) + "\n"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Rule]]:
    """The example plugin's rule, with the plugin installed for the time of a test."""
    monkeypatch.syspath_prepend(str(site))
    forget()
    yield manager.known_rules()["DropSignAndMagnitude"]
    monkeypatch.undo()
    sys.modules.pop("example_fusions", None)
    forget()


@pytest.fixture
def entry_point(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return a function that adds an entry point for the time of a test."""

    def install(value: str) -> None:
        entry = EntryPoint("mine", value, "ampc.passes")
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] if group == "ampc.passes" else [])
        forget()

    yield install
    monkeypatch.undo()
    forget()


def model_of(nodes: list[onnx.NodeProto], inputs: dict[str, list[int]]) -> onnx.ModelProto:
    """Return a model of float inputs with one output, ``y``."""
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in inputs.items()]
    results = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "plugin", values, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Run a model as it is."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, feeds)[0]
    return found


def test_an_installed_rule_is_applied(installed: type[Rule]) -> None:
    """A rule of an installed package takes part in compilation as our own do, and the report names it."""
    parts = [("Sign", ["x"], "s"), ("Abs", ["x"], "m"), ("Mul", ["s", "m"], "p"), ("Sin", ["p"], "y")]
    nodes = [helper.make_node(op, operands, [result]) for op, operands, result in parts]
    result = compile_model(model_of(nodes, {"x": [2, 3]}), target="cpu")
    assert [n.op_type for n in result.model.graph.node] == ["Sin"]
    assert result.report["rules"]["DropSignAndMagnitude"]["hits"] == 1


def test_the_plugin_can_be_built(tmp_path: Path, site: Path) -> None:
    """Its wheel holds the module and the entry point, and nothing else."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed here, and building must not fetch it")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=PLUGIN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert [n for n in archive.namelist() if ".dist-info" not in n] == ["example_fusions.py"]
        (points,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        expected = next(site.glob("*.dist-info")) / "entry_points.txt"
        assert archive.read(points).decode().split() == expected.read_text().split()


def test_an_installed_rule_is_held_to_its_theorem(installed: type[Rule]) -> None:
    """The harness needs no code for it."""
    harness, tally, rule = Harness(), Tally(), installed()
    for k in range(6):
        harness.sweep(rule, rule.forms[0], random.Random(k).randbytes(BATCH * LENGTH), tally)
    harness.runtime.close()
    assert tally.checked > 4 * BATCH, str(tally)


def test_an_installed_rule_is_listed(site: Path) -> None:
    """The command line finds it too, wherever it is started."""
    code = "from compiler import cli; cli.main()"
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(site)!r}, {str(ROOT)!r}]; {code}", "rules"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=site)
    assert "DropSignAndMagnitude" in done.stdout, done.stderr


class ProductOfGemm(Rule):
    """A ``Gemm`` without bias is a product; wrong, since ``alpha`` is dropped."""

    stage = "canonical"
    before = "%y: T[M,N] = Gemm(%a: T[M,K], %b: T[K,N]){alpha = $alpha}"
    after = "%y = MatMul(%a, %b)"
    types = {"T": FLOATS}


def test_a_wrong_rule_of_a_plugin_is_rolled_back(entry_point: Callable[[str], None]) -> None:
    """Validation on the user's model finds a wrong rule, takes it back, and names it; the result is right."""
    entry_point(f"{__name__}:ProductOfGemm")
    model = model_of([helper.make_node("Gemm", ["a", "b"], ["y"], alpha=0.5)], {"a": [2, 3], "b": [3, 4]})
    numbers = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    feeds = {"a": numbers[:2, :3], "b": numbers}
    result = compile_model(model, target="cpu")
    assert list(result.report["rolled_back"]) == ["ProductOfGemm"]
    np.testing.assert_allclose(run(result.model, feeds), run(model, feeds), rtol=1e-5)


def test_the_harness_finds_that_rule_wrong() -> None:
    """The same rule never gets that far where the harness is run on it."""
    harness, rule = Harness(), ProductOfGemm()
    with pytest.raises(RuleFailure, match="ProductOfGemm"):
        harness.sweep(rule, rule.forms[0], random.Random(0).randbytes(2 * BATCH * LENGTH), Tally())
    harness.runtime.close()


def test_a_rule_whose_name_is_taken_is_an_error(entry_point: Callable[[str], None]) -> None:
    """Two rules of one name are told by both modules, as nobody could tell them apart in a report."""
    name = next(iter(manager.known_rules()))
    said = {"__doc__": "Taken.", "__module__": __name__, "before": "%y = Neg(%x)", "after": "%y = Abs(%x)"}
    taken = type(name, (Rule,), said)
    globals()[name] = taken
    try:
        entry_point(f"{__name__}:{name}")
        with pytest.raises(InputError, match=name):
            manager.known_rules()
    finally:
        del globals()[name]

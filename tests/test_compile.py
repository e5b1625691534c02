"""Laws of the whole road: random models come out valid, equivalent, idempotent and byte for byte the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from compiler import InputError, ModelError, compile_model, load_session
from compiler.backend.emit import to_proto
from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.graph import Graph, Model
from compiler.rewrite.transform import Context
from tests.graphs import models

ROOT = Path(__file__).resolve().parents[1]
COMPILE = "import sys; from compiler import compile_model as run; run(sys.argv[1], target='cpu', output=sys.argv[2])"
"""A program that compiles its first argument into its second."""


def _dense(*, width: int = 8, seed: int = 0) -> onnx.ModelProto:
    """Return Relu(x @ w + b), with an Identity, a dead node, and a shape chain."""
    rng = np.random.default_rng(seed)
    w = numpy_helper.from_array(rng.standard_normal((width, width)).astype(np.float32), "w")
    b = numpy_helper.from_array(rng.standard_normal(width).astype(np.float32), "b")
    one = numpy_helper.from_array(np.array([width], np.int64), "width")
    zero = numpy_helper.from_array(np.array([0], np.int64), "zero")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Add", ["h", "b"], ["s"], name="bias"),
        helper.make_node("Identity", ["s"], ["t"]),
        helper.make_node("Exp", ["t"], ["dead"]),
        helper.make_node("Shape", ["t"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Concat", ["rows", "width"], ["target"], axis=0),
        helper.make_node("Reshape", ["t", "target"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])
    graph = helper.make_graph(nodes, "dense", [x], [y], [w, b, one, zero])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@settings(max_examples=12)
@given(models(steps=8))
def test_random_models_are_verified_idempotent_and_deterministic(model: Model) -> None:
    """A random model compiles to a verified result; compiling twice, or compiling the result, gives the same bytes."""
    source = to_proto(model)
    first = compile_model(source, target="cpu")
    assert first.report["status"] == "verified", first.report
    assert not first.report["rolled_back"], first.report["rolled_back"]
    assert not [p["error"] for p in first.report["passes"] if p["error"]]
    data = first.model.SerializeToString(deterministic=True)
    again = compile_model(source, target="cpu", verify=False).model
    assert again.SerializeToString(deterministic=True) == data
    twice = compile_model(first.model, target="cpu", verify=False)
    assert twice.report["nodes_after"] == first.report["nodes_after"]


@pytest.mark.parametrize("target", ["cpu", "cpu_avx", "cpu_avx2", "cpu_avx512", "auto"])
def test_a_bundle_opens_with_one_call_and_computes_the_same(target: str, tmp_path: Path) -> None:
    """Every target gives a verified bundle whose session agrees with the original."""
    import onnxruntime

    source = _dense()
    result = compile_model(source, target=target, output=tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "ampc.json").read_text())
    assert manifest["status"] == "verified"
    assert result.report["nodes_after"] < result.report["nodes_before"]
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)}
    want = onnxruntime.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    got = load_session(tmp_path / "out").run(None, feeds)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)


def test_a_plain_model_has_its_settings_beside_it(tmp_path: Path) -> None:
    """An output that ends in .onnx is one model file, and its settings lie beside it."""
    compile_model(_dense(), target="cpu", output=tmp_path / "fast.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fast.onnx", "fast.onnx.ampc.json"]
    onnx.checker.check_model(str(tmp_path / "fast.onnx"), full_check=True)
    load_session(tmp_path / "fast.onnx")


def test_external_data_goes_to_a_file_of_its_own_and_comes_back(tmp_path: Path) -> None:
    """A model with weights outside compiles from its path, and can be written so again."""
    onnx.save(_dense(width=64), tmp_path / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    result = compile_model(tmp_path / "in.onnx", target="cpu", output=tmp_path / "out", external_data=True)
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size >= 64 * 64 * 4
    assert result.report["status"] == "verified"
    load_session(tmp_path / "out")


def test_a_plain_model_never_meets_the_weights_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing over a model with external data, and dying between the two files, leaves a model with its own weights."""
    output = tmp_path / "m.onnx"
    compile_model(_dense(width=64, seed=1), target="cpu", output=output, external_data=True)
    before = numpy_helper.to_array(onnx.load(output).graph.initializer[0])
    move = os.replace

    def die(source: Any, target: Any) -> None:
        if Path(target) == output:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr("compiler.compilation.os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        compile_model(_dense(width=64, seed=2), target="cpu", output=output, external_data=True)
    monkeypatch.undo()
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(output).graph.initializer[0]), before)
    for seed in (2, 3):
        compile_model(_dense(width=64, seed=seed), target="cpu", output=output, external_data=True)
        load_session(output)
        assert len(list(tmp_path.glob("*.data"))) <= 2
    compile_model(_dense(width=64, seed=4), target="cpu", output=output, external_data=False)
    load_session(output)


def test_bytes_are_the_same_for_every_hash_seed(tmp_path: Path) -> None:
    """The files of a bundle do not depend on PYTHONHASHSEED."""
    onnx.save(_dense(), tmp_path / "in.onnx")
    found = set()
    for seed in ("0", "1", "271828"):
        out = tmp_path / f"out{seed}"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", COMPILE, tmp_path / "in.onnx", out]
        subprocess.run(command, check=True, env=environment, cwd=tmp_path)
        found.add(((out / "model.onnx").read_bytes(), (out / "ampc.json").read_bytes()))
    assert len(found) == 1


def _scale_output(graph: Graph, ctx: Context) -> bool:
    """Multiply what Relu reads by 1.5: a wrong rewrite."""
    for node in graph.nodes():
        if node.op == "Relu" and node.inputs[0] is not None:
            factor = edit.add_constant(graph, Constant.from_array(np.float32(1.5)))
            x = node.inputs[0]
            version = edit.latest_version(graph.model)
            made = edit.add_node(graph, "Mul", [x, factor], [x.type], version=version, before=node)
            edit.set_inputs(node, [made.output])
            ctx.count("wrong")
            return True
    return False


def test_a_wrong_pass_is_rolled_back_and_named_and_the_others_stay(tmp_path: Path) -> None:
    """A pass that changes results is rolled back, named, and reproduced; compilation goes on without it."""
    result = compile_model(
        _dense(), target="cpu", passes=["no-ops", _scale_output, "dead-code"], repro=tmp_path / "repro"
    )
    assert list(result.report["rolled_back"]) == ["-scale-output"]
    assert result.report["status"] == "verified"
    assert result.report["nodes_after"] < result.report["nodes_before"]
    (kept,) = (tmp_path / "repro").iterdir()
    assert {"before.onnx", "after.onnx", "feeds.npz"} <= {p.name for p in kept.iterdir()}


def test_a_pass_that_raises_is_undone_and_reported() -> None:
    """An exception inside a pass loses that pass's work only."""

    def explode(graph: Graph, ctx: Context) -> bool:
        edit.erase(next(n for n in graph.nodes() if n.op == "Exp"))
        raise RuntimeError("boom")

    result = compile_model(_dense(), target="cpu", passes=[explode, "no-ops"])
    errors = [p["error"] for p in result.report["passes"] if p["error"]]
    assert len(errors) == 1
    assert "boom" in errors[0]
    assert "Exp" in result.report["census_after"]


def test_inputs_of_the_user_are_checked_by_name(tmp_path: Path) -> None:
    """A user's inputs are used when they fit, and refused with the nearest name when they do not."""
    good = {"x": np.ones((2, 8), np.float32)}
    result = compile_model(_dense(), target="cpu", inputs=good)
    assert any(p["kind"] == "user" for p in result.report["verification"]["probes"])
    with pytest.raises(InputError, match="'X'"):
        compile_model(_dense(), target="cpu", inputs={"X": good["x"]})


def test_nothing_is_written_when_the_input_is_bad(tmp_path: Path) -> None:
    """A truncated model is an error of exit code 2, and leaves no file."""
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(_dense(width=64).SerializeToString()[:-700])
    with pytest.raises(ModelError) as caught:
        compile_model(bad, target="cpu", output=tmp_path / "out")
    assert caught.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["bad.onnx"]


def test_a_model_that_cannot_run_here_is_refused_with_advice() -> None:
    """An operator without a kernel cannot be verified; the error says so."""
    node = helper.make_node("Foo", ["x"], ["y"], domain="nobody.knows")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("nobody.knows", 1)]
    with pytest.raises(ModelError, match=r"Foo|nobody"):
        compile_model(helper.make_model(graph, opset_imports=imports, ir_version=8), target="cpu")
    kept = compile_model(helper.make_model(graph, opset_imports=imports, ir_version=8), target="cpu", verify=False)
    assert kept.model.graph.node[0].op_type == "Foo"
    assert kept.report["status"] == "unverified"


def test_a_killed_compilation_leaves_the_old_bundle(tmp_path: Path) -> None:
    """A kill at any moment leaves the bundle that was there before, complete."""
    onnx.save(_dense(width=256), tmp_path / "in.onnx")
    compile_model(tmp_path / "in.onnx", target="cpu", output=tmp_path / "out")
    before = (tmp_path / "out" / "model.onnx").read_bytes()
    for delay in (0.2, 0.5, 0.9):
        child = subprocess.Popen(
            [sys.executable, "-c", COMPILE, tmp_path / "in.onnx", tmp_path / "out"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert (tmp_path / "out" / "model.onnx").read_bytes() == before
        load_session(tmp_path / "out")


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python example of the README runs as it stands, and gives a verified result where it compiles."""
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(examples) >= 2
    monkeypatch.chdir(tmp_path)
    onnx.save(_dense(), "model.onnx")
    for example in examples:
        exec(example, {"__name__": "readme"})
        manifest = json.loads(Path("out/ampc.json").read_text())
        assert manifest["status"] == "verified"
        assert not [record["error"] for record in manifest["passes"] if record["error"]]


def test_what_is_no_pass_or_no_model_is_the_users_mistake() -> None:
    """A pipeline item, or a model, of a type that makes no sense is named in an InputError."""
    wrong: Any = 5
    with pytest.raises(InputError, match="item 1 of the pipeline is no pass: 5"):
        compile_model(_dense(), passes=["no-ops", wrong])
    with pytest.raises(InputError, match="a model cannot be made of int"):
        compile_model(wrong)


def test_data_of_an_earlier_result_does_not_stay_behind(tmp_path: Path) -> None:
    """A plain model that is written anew without external data takes the old data file away."""
    path = tmp_path / "fast.onnx"
    compile_model(_dense(width=64), target="cpu", output=path, external_data=True, verify=False)
    assert (tmp_path / "fast.onnx.data").exists()
    compile_model(_dense(width=64), target="cpu", output=path, external_data=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fast.onnx", "fast.onnx.ampc.json"]


def test_a_model_beyond_the_ir_is_handed_on_with_its_weights(tmp_path: Path) -> None:
    """What the IR cannot hold comes back as it was, weights in other files included, and the report says why."""
    source = _dense(width=64)
    source.opset_import.append(helper.make_opsetid("ai.onnx", 16))
    onnx.save(source, tmp_path / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    result = compile_model(tmp_path / "in.onnx", target="cpu", output=tmp_path / "out")
    assert result.report["status"] == "unchanged"
    assert "two versions" in result.report["why"]
    (tmp_path / "w.bin").unlink()
    load_session(tmp_path / "out")
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in source.graph.node]


@pytest.mark.parametrize(
    ("target", "dims", "why"),
    [
        ("npu", {}, "open dims"),
        ("cpu", {"batch": 2}, "sizes that --dim asks for"),
        ("own.toml", {}, "opset 18, and own takes at most 17"),
    ],
)
def test_an_original_that_breaks_a_demand_is_not_handed_on(
    tmp_path: Path, target: str, dims: dict[str, int], why: str
) -> None:
    """What cannot be compiled is an error where the model as it is is not what caller and target ask for."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx", 16)])
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\nextends = "cpu"\nsummary = "mine"\n[runtime.opset]\nmax = 17\n')
    chosen = str(own) if target == own.name else target
    with pytest.raises(ModelError, match=why) as caught:
        compile_model(source, target=chosen, dims=dims, output=tmp_path / "out")
    assert caught.value.exit_code == 2 and not (tmp_path / "out").exists()


def test_the_callers_model_is_not_changed() -> None:
    """compile_model leaves its argument as it was."""
    source = _dense()
    before = source.SerializeToString(deterministic=True)
    compile_model(source, target="cpu")
    assert source.SerializeToString(deterministic=True) == before


def test_dumped_text_compiles_to_the_same_model(tmp_path: Path) -> None:
    """A model that was dumped as text compiles to the same graph as the model itself."""
    from compiler.dumping import DumpOptions, dump_model

    onnx.save(_dense(), tmp_path / "in.onnx")
    dump_model(str(tmp_path / "in.onnx"), DumpOptions(output=tmp_path / "in.ir"))
    direct = compile_model(tmp_path / "in.onnx", target="cpu")
    through: Any = compile_model(tmp_path / "in.ir", target="cpu")
    assert through.report["census_after"] == direct.report["census_after"]
    assert through.report["status"] == "verified"

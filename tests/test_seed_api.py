"""The seed API: the names that it promises are there, are thin, and do what the compiler does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.defs
import pytest
from onnx import TensorProto, helper, numpy_helper

import compiler
import targets
from compiler import InputError, OperatorOptimizer, OperatorType, OptimizationTarget, compile_model, optimize_operators
from compiler.operators import counts_by_type, operator_type, type_of_qualified, weightiest
from compiler.settings import CONFIG_KEYS, load_target, override
from targets.catalog import AUTO
from targets.kernels_operators import operators


def gelu(tmp_path: Path) -> Path:
    """Write a product and a Gelu that is written out by Erf."""
    draw = np.random.default_rng(0)
    constants = {"w": draw.normal(size=(16, 16)), "root": np.sqrt(2.0), "one": 1.0, "half": 0.5}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Div", ["h", "root"], ["d"], name="scaled"),
        helper.make_node("Erf", ["d"], ["e"], name="erf"),
        helper.make_node("Add", ["e", "one"], ["a"], name="shifted"),
        helper.make_node("Mul", ["h", "a"], ["m"], name="gated"),
        helper.make_node("Mul", ["m", "half"], ["y"], name="halved"),
    ]
    graph = helper.make_graph(
        nodes,
        "gelu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


# Operator types ----------------------------------------------------------------------------------


def test_every_operator_has_a_type() -> None:
    """Each operator of the standard and of ONNX Runtime is of a type, and no name is listed under two."""
    known = {(s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history()} | set(operators())
    untyped = sorted(f"{d}::{op}" for d, op in known if operator_type(op, d) is OperatorType.OTHER)
    assert not untyped
    listed = [op for ops in compiler.operators._TYPES.values() for op in ops]
    assert len(listed) == len(set(listed))
    assert set(listed) <= {op for _, op in known} | {"GroupNormalization"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("MatMul", "matrix multiplication"), ("QLinearConv", "convolution"), ("GlobalAveragePool", "pooling"),
        ("Gelu", "activation"), ("com.microsoft::BiasGelu", "activation"), ("Softmax", "normalization"),
        ("com.microsoft::SkipLayerNormalization", "normalization"), ("Attention", "attention"),
        ("com.microsoft::GroupQueryAttention", "attention"), ("LSTM", "recurrent"), ("Add", "element-wise"),
        ("ReduceMean", "reduction"), ("Transpose", "data movement"), ("Gather", "embedding and lookup"),
        ("com.microsoft.nchwc::Conv", "convolution"), ("If", "control flow"), ("my.own::Conv", "other"),
        ("ai.onnx.ml::Scaler", "classical machine learning"), ("Reshape", "shape"),
    ],
)  # fmt: skip
def test_operators_are_of_the_type_that_people_expect(name: str, kind: str) -> None:
    """An operator is of the type that it is for, in whatever form; what other domains call so is not."""
    assert type_of_qualified(name) == kind


def test_counts_by_type_add_up() -> None:
    """Counts by type are those of the operators, in the order of types."""
    counts = counts_by_type({"Add": 3, "Conv": 2, "Mul": 4, "x::y": 1})
    assert list(counts.items()) == [("convolution", 2), ("element-wise", 7), ("other", 1)]
    assert weightiest([OperatorType.ELEMENT_WISE, OperatorType.ATTENTION]) is OperatorType.ATTENTION


# Targets and settings ----------------------------------------------------------------------------


def test_targets_are_one_to_one_with_files() -> None:
    """Each member is a target that loads, each target file has a member, and no two members are one target."""
    shipped = {path.stem for path in Path(targets.__file__).parent.glob("*.toml")}
    assert {member.value for member in OptimizationTarget} == {AUTO, *shipped}
    assert len(OptimizationTarget) == len(OptimizationTarget.__members__)
    for member in OptimizationTarget:
        assert load_target(member.value).summary


def test_settings_override_the_target() -> None:
    """Threads and providers are those of the config; the CPU provider stays last, and the file's target as it is."""
    target = load_target("gpu_cuda")
    changed = override(target, {"cpu_threads": 3, "enable_tensorrt": True, "enable_cuda": False})
    assert [name for name, _ in changed.runtime.providers] == ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    assert changed.session_settings()["session_options"]["intra_op_num_threads"] == 3
    assert override(target, {}) == target


def test_an_enabled_provider_brings_its_demands() -> None:
    """What the first provider demands of a model is demanded of it, whichever way it came to be the first."""
    both = override(load_target("gpu_cuda"), {"enable_tensorrt": True})
    engine = load_target("gpu_tensorrt")
    assert (both.constraints, both.runtime.opset) == (engine.constraints, engine.runtime.opset)
    back = override(both, {"enable_tensorrt": False})
    assert back == load_target("gpu_cuda")
    beside = override(load_target("gpu_cuda"), {"enable_openvino": True})  # it comes after CUDA
    assert (beside.constraints, beside.machine) == (back.constraints, back.machine)
    phone = override(load_target("cpu"), {"enable_nnapi": True})
    assert phone.constraints.static_shapes and phone.constraints.max_rank == 4
    assert phone.machine == load_target("npu_nnapi").machine


def test_demands_of_the_file_stay(tmp_path: Path) -> None:
    """A provider that is added comes on top of what the user's own target file demands, and the stricter counts."""
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\nextends = "gpu_cuda"\nsummary = "mine"\n'
        "[constraints]\nmax_rank = 6\nnarrow_int64 = true\n[runtime.opset]\nmin = 15\nmax = 18\n"
    )
    own = override(load_target(str(path)), {"enable_tensorrt": True})
    assert (own.constraints.max_rank, own.constraints.narrow_int64, own.constraints.contrib) == (6, True, ())
    assert (own.runtime.opset.min, own.runtime.opset.max) == (15, 18)
    path.write_text(path.read_text().replace("15", "21").replace("18", "22"))
    with pytest.raises(InputError, match="no opset suits"):
        override(load_target(str(path)), {"enable_tensorrt": True})


def test_threads_are_those_of_the_pool_that_computes() -> None:
    """``cpu_threads`` counts the pool that computes: ONNX Runtime's, or that of the first provider if it has one."""
    phone = override(load_target("mobile_cpu"), {"cpu_threads": 2}).session_settings()
    assert phone["providers"][0] == ["XnnpackExecutionProvider", {"intra_op_num_threads": "2"}]
    assert phone["session_options"]["intra_op_num_threads"] == 1
    plain = override(load_target("cpu"), {"cpu_threads": 2, "enable_xnnpack": True})
    assert plain.session_settings()["providers"] == phone["providers"]
    assert plain.session_settings()["session_options"]["intra_op_num_threads"] == 1
    assert plain.machine.cores == 2
    compiled = override(load_target("cpu_openvino"), {"cpu_threads": 3}).session_settings()
    assert compiled["providers"][0][1]["num_of_threads"] == "3"
    assert override(load_target("gpu_cuda"), {"cpu_threads": 3}).machine == load_target("gpu_cuda").machine


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"cpu_thread": 3}, "cpu_threads"),
        ({"enable_tensorflow": True}, "enable_tensorrt"),
        ({"cpu_threads": "many"}, "threads"),
        ({"cpu_threads": True}, "threads"),
        ({"cpu_threads": 10**30}, "threads"),
        ("cpu_threads=3", "by name"),
        ({"enable_cuda": "yes"}, "true or false"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, config: Any, said: str) -> None:
    """A key that does not exist is refused with the nearest name, a value with what it should be."""
    with pytest.raises(InputError) as caught:
        OperatorOptimizer(gelu(tmp_path), config=config)
    assert said in str(caught.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """The graph of a model, as well as anything else that is neither a path nor a model, is the caller's mistake."""
    for wrong in (onnx.load(gelu(tmp_path)).graph, None, b"model"):
        with pytest.raises(InputError, match="a model cannot be made of"):
            OperatorOptimizer(wrong).analyze_model()  # type: ignore[arg-type]


def test_wrong_targets_are_refused(tmp_path: Path) -> None:
    """A target that does not exist is refused with the nearest name."""
    with pytest.raises(InputError, match="cpu_avx2"):
        OperatorOptimizer(gelu(tmp_path), target="cpu_avx22")


def test_all_config_keys_are_taken() -> None:
    """Every key of the list is one that a target takes."""
    values = {key: 2 if key in ("cpu_threads", "gpu_device_id") else True for key in CONFIG_KEYS}
    added = [key for key in CONFIG_KEYS if key.startswith("enable_") and key != "enable_fp16"]
    assert len(override(load_target("cpu"), values).runtime.providers) == 1 + len(added)


# The calls ---------------------------------------------------------------------------------------


def test_optimize_operators_is_the_compiler(tmp_path: Path) -> None:
    """One call writes the same bytes as ``compile_model`` for the same target, and returns the model."""
    path = gelu(tmp_path)
    made = optimize_operators(
        model_path=path, output_path=tmp_path / "o.onnx", target=OptimizationTarget.CPU_AVX2,
        metadata_path=tmp_path / "o.json",
    )  # fmt: skip
    result = compile_model(path, target="cpu_avx2", output=tmp_path / "p.onnx")
    assert made == result.model
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "p.onnx").read_bytes()
    assert (tmp_path / "o.json").stat().st_size > 0


def test_optimizer_step_by_step(tmp_path: Path) -> None:
    """Analysis counts what optimizing then does; the model in memory stays, and metadata come after, not before."""
    proto = onnx.load(gelu(tmp_path))
    kept = proto.SerializeToString(deterministic=True)
    optimizer = OperatorOptimizer(proto, target=OptimizationTarget.CPU_AVX2, config={"cpu_threads": 1})
    counts = optimizer.analyze_model()
    assert counts[OperatorType.ACTIVATION] > 0
    assert counts[OperatorType.MATRIX_MULTIPLICATION] == 0
    assert OperatorType.RECURRENT not in counts and counts[OperatorType.RECURRENT] == 0
    with pytest.raises(InputError, match="not optimized yet"):
        optimizer.save_optimization_metadata(tmp_path / "metadata.json")
    optimized = optimizer.apply_optimizations(tmp_path / "o.onnx")
    assert [node.op_type for node in optimized.graph.node] == ["MatMul", "Gelu"]
    assert optimizer.result.settings["session_options"]["intra_op_num_threads"] == 1
    optimizer.save_optimization_metadata(tmp_path / "metadata.json")
    assert (tmp_path / "metadata.json").exists()
    assert proto.SerializeToString(deterministic=True) == kept
    assert onnx.load(tmp_path / "o.onnx") == optimized


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    """Optimizing without an output returns the model and leaves the folder as it was."""
    path = gelu(tmp_path)
    assert optimize_operators(path).graph.node
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_opportunities_print_as_a_table(tmp_path: Path) -> None:
    """Printing what was found gives a table of at most 80 columns that names types, rewrites and places."""
    counts = OperatorOptimizer(gelu(tmp_path), target="cpu_avx2").analyze_model()
    text = str(counts)
    assert max(map(len, text.splitlines())) <= 80
    assert "activation" in text
    assert all(rewrite.name in text for rewrite in counts.opportunities.rewrites if rewrite.gain_us > 1)


def test_gains_add_up(tmp_path: Path) -> None:
    """The gains of all rewrites are together the difference between the model before and after."""
    found = OperatorOptimizer(gelu(tmp_path), target="cpu_avx2").analyze_model().opportunities
    assert found.us - found.us_after == pytest.approx(sum(r.gain_us for r in found.rewrites), abs=1e-6)
    assert found.us == pytest.approx(sum(s.us for s in found.stages))
    assert sum(s.nodes for s in found.stages) == found.nodes == 6


def test_analysis_leaves_the_file_alone(tmp_path: Path) -> None:
    """Trying what could be gained changes neither the file nor what is found the second time."""
    path = gelu(tmp_path)
    kept = path.read_bytes()
    first, second = (OperatorOptimizer(path, target="cpu").analyze_model() for _ in range(2))
    assert dataclasses.asdict(first.opportunities) == dataclasses.asdict(second.opportunities)
    assert path.read_bytes() == kept

"""Hold the laws of placement: where nodes go, in how many partitions, and what the runtime says of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from compiler import analyze_model, compile_model
from compiler.analysis.islands import Prices, find_islands
from compiler.analysis.placement import place
from compiler.backend.emit import to_proto
from compiler.cli import app
from compiler.cost.work import Sizes
from compiler.errors import InputError, ModelError, WorkerError
from compiler.frontend.binding import bind_dims, open_dims
from compiler.frontend.load import load_model
from compiler.measure.assignment import Assignment, _completed, read_assignment
from compiler.placing import placement_of
from compiler.rewrite.ceiling import ceiling
from targets import load_target
from tests.golden_passes import read

CHAIN = """// ampc 1, opset 18
graph @main(%x: f32[2,3]) -> (%y: f32[2,3], %z: f32[2,3]) {
  %a: f32[2,3] = Relu(%x)
  %b: f32[2,3] = Erf(%a)
  %c: f32[2,3] = Tanh(%b)
  %d: f32[2,3] = Erf(%x)
  %y: f32[2,3] = Add(%c, %d)
  %z: f32[2,3] = Neg(%d)
  return %y, %z
}
"""
OPEN = """// ampc 1, opset 18
graph @main(%x: f32[N,3], %w: f32[3,M]) -> (%y: f32[N,M]) {
  %y: f32[N,M] = MatMul(%x, %w)
  return %y
}
"""
POOL = """// ampc 1, opset 18
graph @main(%x: f32[1,2,8,8]) -> (%y: f32[1,2,4,4]) {
  %y: f32[1,2,4,4] = MaxPool(%x) {kernel_shape = [2, 2], strides = [2, 2]}
  return %y
}
"""


def written(tmp_path: Path, text: str, name: str = "model.onnx") -> str:
    """Write a text as a model file."""
    path = tmp_path / name
    path.write_bytes(to_proto(read(text)).SerializeToString())
    return str(path)


def test_partitions_are_counted_as_they_become_ready() -> None:
    """Two operators that are left split the others in two partitions, whatever the order in the file."""
    model = read(CHAIN)
    found = place(model, "t", [("A", lambda n: "no" if n.op == "Erf" else ""), ("CPUExecutionProvider", None)])
    assert [(s.provider, s.nodes, s.partitions) for s in found.shares] == [("A", 4, 2), ("CPUExecutionProvider", 2, 1)]
    (broken,) = found.breaks
    assert (broken.op, broken.nodes, broken.provider, broken.why) == ("Erf", 2, "CPUExecutionProvider", "no")
    assert not found.whole and "2 x Erf" in str(found)


def test_providers_are_asked_in_order() -> None:
    """What the first provider leaves goes to the second if that runs it; one that is not known runs nothing."""
    model = read(CHAIN)
    second = [("A", lambda n: "no" if n.op == "Erf" else ""), ("B", lambda n: ""), ("C", None)]
    found = place(model, "t", second)
    assert [(s.provider, s.nodes) for s in found.shares] == [("A", 4), ("B", 2)]
    assert found.unknown == ("C",) and found.breaks[0].provider == "B"
    assert place(model, "t", [("A", lambda n: "")]).whole


def test_what_is_known_of_a_provider_decides() -> None:
    """The table of a provider that is not installed says which operator breaks the graph."""
    found = placement_of(read(CHAIN), load_target("npu"))
    assert [b.op for b in found.breaks] == ["Erf"] and found.shares[0].provider == "QNNExecutionProvider"
    assert placement_of(read(CHAIN), load_target("cpu")).shares[0].nodes == 6


def test_nodes_of_nested_graphs_make_no_partitions() -> None:
    """A branch's nodes count where they go, and wait for nothing."""
    text = """// ampc 1, opset 18
graph @main(%x: f32[2], %c: bool[]) -> (%y: f32[2]) {
  %a: f32[2] = Exp(%x)
  %y: f32[2] = If(%c) {
    else_branch = graph @e() -> (%q: f32[2]) {
      %q: f32[2] = Neg(%a)
      return %q
    },
    then_branch = graph @t() -> (%r: f32[2]) {
      %r: f32[2] = Abs(%a)
      return %r
    }
  }
  return %y
}
"""
    found = place(read(text), "t", [("A", lambda n: "" if n.op != "If" else "it holds graphs")])
    assert [(s.provider, s.nodes, s.partitions) for s in found.shares] == [("A", 3, 1), ("CPUExecutionProvider", 1, 1)]


QUANTIZED = """// ampc 1, opset 21
graph @main(%x: f32[1,4]) -> (%y: f32[1,2]) {
  const %s: f32[] = 0.5
  const %z: u8[] = 0
  const %w: u8[4,2] = [1, 2, 3, 4, 5, 6, 7, 8]
  %v: f32[4,2] = DequantizeLinear(%w, %s, %z)
  %q: u8[1,4] = QuantizeLinear(%x, %s, %z)
  %d: f32[1,4] = DequantizeLinear(%q, %s, %z)
  %m: f32[1,2] = MatMul(%d, %v)
  %o: u8[1,2] = QuantizeLinear(%m, %s, %z)
  %y: f32[1,2] = DequantizeLinear(%o, %s, %z)
  return %y
}
"""


def test_the_boundarys_conversions_stay_where_the_target_leaves_them() -> None:
    """A provider that offloads the boundary has all else in one partition; one that does not has everything."""
    found = placement_of(read(QUANTIZED), load_target("npu"))
    assert [(s.provider, s.nodes, s.partitions) for s in found.shares] == [
        ("QNNExecutionProvider", 4, 1),
        ("CPUExecutionProvider", 2, 2),
    ]
    assert [b.op for b in found.breaks] == ["DequantizeLinear", "QuantizeLinear"]
    assert placement_of(read(QUANTIZED), load_target("cpu_openvino")).whole


# Dims


def test_dims_are_bound_for_good(tmp_path: Path) -> None:
    """A dim is bound by its own name or by input and axis, in the graph and in what the file declares."""
    model = load_model(written(tmp_path, OPEN))
    assert open_dims(model.graph) == ["N", "M"]
    bind_dims(model, {"N": 4, "w.1": 5})
    assert open_dims(model.graph) == []
    dims = [d.dim_value for i in model.graph.inputs for d in i.declared.type.tensor_type.shape.dim]
    assert dims == [4, 3, 3, 5]


@pytest.mark.parametrize("sizes", [{"O": 1}, {"N": 1, "x.0": 2}, {"x.1": 3}])
def test_wrong_dims_are_refused(tmp_path: Path, sizes: dict[str, int]) -> None:
    """A name that no open dim has, and two sizes for one dim, are the user's mistake."""
    with pytest.raises(InputError):
        bind_dims(load_model(written(tmp_path, OPEN)), sizes)


def test_static_targets_name_the_open_dims(tmp_path: Path) -> None:
    """A target that needs all sizes says which are missing; with them it compiles, and the result takes no others."""
    path = written(tmp_path, OPEN)
    with pytest.raises(ModelError, match=r"2 are open: N, M") as caught:
        compile_model(path, target="npu")
    assert "--dim N=1 --dim M=1" in caught.value.hint
    result = compile_model(path, target="npu", dims={"N": 2, "M": 4})
    assert result.report["status"] == "verified" and result.report["dims"] == {"M": 4, "N": 2}
    assert [d.dim_value for d in result.model.graph.input[0].type.tensor_type.shape.dim] == [2, 3]
    assert compile_model(path, target="cpu", dims={"N": 2}).report["status"] == "verified"


def test_callers_models_keep_their_dims(tmp_path: Path) -> None:
    """A model that was given as an object is not changed by binding its dims."""
    proto = to_proto(read(OPEN))
    before = proto.SerializeToString(deterministic=True)
    compile_model(proto, target="cpu", dims={"N": 2})
    assert proto.SerializeToString(deterministic=True) == before


# The report


def test_absent_device_is_told_and_can_be_an_error(tmp_path: Path) -> None:
    """Without the provider the bundle is written and verified here, and marked; with a device check it is an error."""
    path, out = written(tmp_path, CHAIN), tmp_path / "out"
    compile_model(path, target="npu", output=out)
    record = json.loads((out / "ampc.json").read_text())
    assert record["status"] == "verified" and record["device"]["status"] == "not run on the device"
    assert record["placement"]["shares"][0]["provider"] == "QNNExecutionProvider"
    done = CliRunner().invoke(app, ["compile", path, "-o", str(tmp_path / "o"), "-t", "npu", "--device-check"])
    assert done.exit_code == 2 and not (tmp_path / "o").exists()
    assert compile_model(path, target="cpu", device_check=True).report["device"]["status"] == "run on the device"


def test_analysis_places_before_compiling(tmp_path: Path) -> None:
    """Analysis says where nodes go as they are and once compiled, with usual sizes where all are needed."""
    found = analyze_model(written(tmp_path, OPEN), target="npu")
    assert found.placement is not None and found.placement.shares[0].nodes == 1
    assert any("N = " in note for note in found.notes) and "QNN" in str(found)
    assert analyze_model(written(tmp_path, OPEN), target="cpu").placement is None


def test_assignment_is_read_back(tmp_path: Path) -> None:
    """The runtime itself tells which provider took which nodes."""
    settings: dict[str, Any] = load_target("cpu").session_settings()
    found = read_assignment(Path(written(tmp_path, CHAIN)), settings)
    assert found.nodes == {"CPUExecutionProvider": 6}
    assert found.operators["CPUExecutionProvider"]["Erf"] == 2


def test_what_is_told_of_in_part_is_counted_in_the_log() -> None:
    """Of a provider that the runtime tells fewer nodes of than it logs, the log's number holds, and no operators."""
    told = Assignment({"A": 2, "B": 30}, {"A": 2, "B": 1}, {"A": {"Transpose": 2}, "B": {"Add": 30}})
    log = "x\n All nodes placed on [C]. Number of nodes: 3\nNode(s) placed on [A]. Number of nodes: 9\n"
    found = _completed(told, log + "Node(s) placed on [B]. Number of nodes: 1\n")
    assert found.nodes == {"A": 9, "B": 30, "C": 3} and found.partitions == {"A": 9, "B": 1, "C": 3}
    assert found.operators == {"B": {"Add": 30}}


@pytest.mark.parametrize(("took", "status"), [("OpenVINO", 0), ("CPU", 2), ("", 2)])
def test_a_device_check_fails_where_the_device_takes_nothing(
    took: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that is installed must open the result and take what was foretold, else nothing is written."""

    def assignment(model: Path, settings: Any) -> Assignment:
        if not took:
            raise WorkerError("the model cannot be opened as deployed", kind="load", where=str(model), why="no driver")
        return Assignment({f"{took}ExecutionProvider": 6}, {f"{took}ExecutionProvider": 1}, {})

    monkeypatch.setattr("compiler.placing.missing_providers", lambda target: ())
    monkeypatch.setattr("compiler.measure.assignment.read_assignment", assignment)
    path, out = written(tmp_path, CHAIN), tmp_path / "out"
    command = ["compile", path, "-o", str(out), "-t", "cpu_openvino"]
    done = CliRunner().invoke(app, [*command, "--device-check"])
    assert done.exit_code == status and out.exists() == (status == 0), done.output
    assert ("as foretold" if took == "OpenVINO" else "does not take the model") in done.output
    assert CliRunner().invoke(app, command).exit_code == 0
    device = json.loads((out / "ampc.json").read_text())["device"]
    assert device["status"] == ("not run on the device" if status else "run on the device")
    assert device.get("as_foretold", False) == (took == "OpenVINO")


FOUR = """// ampc 1, opset 23
graph @main(%w: f32[6,8], %i: i64[1,4]) -> (%y: f32[1,4,8]) {
  const %s: f32[8] = [1, 2, 3, 4, 5, 6, 7, 8]
  %e: f32[1,4,8] = Gather(%w, %i)
  %n: f32[1,4,8] = RMSNormalization(%e, %s)
  %g: f32[1,4,8] = Sigmoid(%n)
  %y: f32[1,4,8] = Mul(%n, %g)
  return %y
}
"""


def test_targets_get_different_files_each_legal_where_it_goes(tmp_path: Path) -> None:
    """One model gives four targets four graphs, four settings, and one partition each."""
    path = written(tmp_path, FOUR)
    results = [compile_model(path, target=t) for t in ("cpu_avx512", "gpu_cuda", "gpu_mps", "npu")]
    assert len({r.model.SerializeToString(deterministic=True) for r in results}) == len(results)
    assert len({json.dumps(r.settings) for r in results}) == len(results)
    for result in results:
        assert result.report["status"] == "verified"
        (share,) = result.report["placement"]["shares"]
        assert share["partitions"] == 1 and not result.report["placement"]["breaks"]


# Islands

TAIL = """// ampc 1, opset 18
graph @main(%x: f32[256,256]) -> (%y: f32[256,1]) {
  %a: f32[256,256] = MatMul(%x, %x)
  %b: f32[256,256] = MatMul(%a, %a)
  %c: f32[256,1] = ReduceMax(%b) {axes = [1]}
  %d: f32[256,1] = Erf(%c)
  %e: f32[256,1] = Neg(%d)
  %f: f32[256,1] = Abs(%e)
  %y: f32[256,1] = Erf(%f)
  return %y
}
"""


def test_small_islands_are_better_left_to_the_cpu() -> None:
    """What lies between two operators that the provider refuses does not pay its transfers; large products do."""
    model = read(TAIL)
    prices = Prices(lambda n: 1.0, lambda n: 500.0 if n.op == "MatMul" else 2.0, 20.0, 0.0)
    (found,) = find_islands(model.graph, lambda n: "no" if n.op == "Erf" else "", prices, Sizes({}))
    assert (found.nodes, found.operators) == (2, {"Abs": 1, "Neg": 1})
    assert (found.us, found.cpu_us) == (2 + 2 * 20.0, 2 * 2.0)


def test_regions_end_where_the_least_is_transferred() -> None:
    """A reduction before a refused operator stays with the products: what it gives is smaller than what it reads."""
    model = read(TAIL)
    prices = Prices(lambda n: 1.0, lambda n: 500.0 if n.op == "MatMul" else 1.0, 0.0, 1e-3)
    found = find_islands(model.graph, lambda n: "no" if n.op == "Erf" else "", prices, Sizes({}))
    assert [i.operators for i in found] == [{"Abs": 1, "Neg": 1}]


@given(st.integers(0, 2**32 - 1))
def test_leaving_islands_to_the_cpu_never_costs_more(seed: int) -> None:
    """Each island is predicted to be faster there, and no refused node belongs to one."""
    draw = random.Random(seed)
    model = read(TAIL)
    here, there = ({n: draw.uniform(0, 50) for n in model.graph.nodes()} for _ in range(2))
    refused = {n for n in model.graph.nodes() if draw.random() < 0.3}
    prices = Prices(here.__getitem__, there.__getitem__, draw.uniform(0, 30), draw.uniform(0, 1e-4))
    found = find_islands(model.graph, lambda n: "no" if n in refused else "", prices, Sizes({}))
    assert all(i.cpu_us <= i.us + 0.2 for i in found)
    assert sum(i.nodes for i in found) <= model.graph.node_count - len(refused)


def test_analysis_and_the_report_name_islands(tmp_path: Path) -> None:
    """A network that is small for its device is said to be, in the analysis, its JSON and the report."""
    path = written(tmp_path, CHAIN)
    found = analyze_model(path, target="gpu_mps")
    assert found.placement is not None and found.placement.islands
    assert "better left to the CPU" in str(found)
    assert compile_model(path, target="gpu_mps").report["placement"]["islands"]
    assert not compile_model(path, target="cpu").report["placement"]["islands"]


# Opsets


def test_opset_is_the_highest_that_costs_no_kernel() -> None:
    """A model with an operator that was registered late stays below it, another may use what came later."""
    cuda = load_target("gpu_cuda")
    assert ceiling(read(POOL), cuda, newest=26) == 21
    assert ceiling(read(CHAIN), cuda, newest=26) == 24
    assert ceiling(read(CHAIN), cuda, newest=23) == 23
    assert ceiling(read(POOL), load_target("cpu"), newest=26) == 26


def test_models_above_the_ceiling_are_written_older(tmp_path: Path) -> None:
    """A model of an opset that the target has no kernels for is emitted in one that it has."""
    path = written(tmp_path, POOL.replace("opset 18", "opset 24"))
    report = compile_model(path, target="gpu_cuda").report
    assert report["status"] == "verified" and report["opset"] == {"before": 24, "after": 21}


LATE = """// ampc 1, opset 26
graph @main(%x: f32[2,8]) -> (%y: f32[2,8]) {
  const %axis: i64[] = [1]
  %a: f32[2,8] = Relu(%x)
  %b: f32[2,8] = CumProd(%a, %axis)
  %y: f32[2,8] = Exp(%b)
  return %y
}
"""
"""One node of an opset that no accelerator is known for, and that nothing defines."""


@pytest.mark.parametrize("target", ["gpu_cuda", "gpu_tensorrt", "npu", "npu_nnapi", "mobile_gpu", "cpu_openvino"])
def test_one_late_node_gives_no_provider_away(tmp_path: Path, target: str) -> None:
    """Where one node needs a later opset than the first provider is known for, it runs elsewhere and a note says so."""
    report = compile_model(written(tmp_path, LATE), target=target).report
    assert report["status"] == "verified" and report["opset"]["after"] == 26
    assert any("because of CumProd" in note for note in report["notes"])
    placed = {share["provider"]: share["operators"] for share in report["placement"]["shares"]}
    assert "CumProd" in placed["CPUExecutionProvider"]
    assert "CumProd" not in placed.get(load_target(target).runtime.providers[0][0], {})


def test_a_bound_of_what_loads_does_not_give_way(tmp_path: Path) -> None:
    """`max` is what the receiving runtime loads, so a model that needs a later opset is refused."""
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\nextends = "gpu_cuda"\nsummary = "mine"\n[runtime.opset]\nmax = 24\n')
    with pytest.raises(ModelError, match="would not do as it is"):
        compile_model(written(tmp_path, LATE), target=str(own))


FUSED = """// ampc 1, opset 18
graph @main(%x: f32[4,8]) -> (%y: f32[4,2]) {
  const %w: f32[2,8] = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]
  %a: f32[4,8] = Relu(%x)
  %b: f32[4,2] = com.microsoft::FusedMatMul@1(%a, %w) {transB = 1, alpha = 0.5}
  %y: f32[4,2] = Relu(%b)
  return %y
}
"""


def test_what_a_definition_makes_of_constants_is_constant(tmp_path: Path) -> None:
    """A weight that a definition transposes is a constant for a provider that wants one, as folding will show."""
    report = compile_model(written(tmp_path, FUSED), target="npu_nnapi").report
    (share,) = report["placement"]["shares"]
    assert share["provider"] == "NnapiExecutionProvider" and not report["placement"]["breaks"]


WIDE = """// ampc 1, opset 18
graph @main(%i: i64[2,3]) -> (%y: i64[2,3], %z: i64[2,2]) {{
  const %big: i64[1] = [{number}]
  const %start: i64[1] = [1]
  const %end: i64[1] = [9223372036854775807]
  const %axis: i64[1] = [1]
  %y: i64[2,3] = Add(%i, %big)
  %z: i64[2,2] = Slice(%i, %start, %end, %axis)
  return %y, %z
}}
"""


@pytest.mark.parametrize("number, fits", [(2**31 - 1, True), (2**31, False), (-(2**31), True), (-(2**40), False)])
def test_integers_that_a_device_cannot_hold_break_its_partition(number: int, fits: bool) -> None:
    """Where integers have 32 bits, an operator of a larger constant runs elsewhere; a slice "to the end" stays."""
    for target in ("npu", "mobile_gpu_qnn"):
        found = placement_of(read(WIDE.format(number=number)), load_target(target)).breaks
        assert [(b.op, b.why) for b in found if "32 bits" in b.why] == (
            [] if fits else [("Add", "a constant of Add does not fit 32 bits")]
        )
    assert placement_of(read(WIDE.format(number=number)), load_target("cpu")).whole


GROUPS = """// ampc 1, opset 21
graph @main(%x: f32[1,8,6,6]) -> (%y: f32[1,8,6,6]) {
  const %s: f32[8] = [1, 2, 3, 4, 5, 6, 7, 8]
  const %b: f32[8] = [1, 2, 3, 4, 5, 6, 7, 8]
  %a: f32[1,8,6,6] = Relu(%x)
  %g: f32[1,8,6,6] = GroupNormalization(%a, %s, %b) {num_groups = 2, epsilon = 0.00001}
  %y: f32[1,8,6,6] = Relu(%g)
  return %y
}
"""


@pytest.mark.parametrize("target", ["npu", "mobile_gpu_qnn"])
def test_what_a_definition_reads_off_known_shapes_is_constant(tmp_path: Path, target: str) -> None:
    """A definition may use Shape where no kernel runs it, when the dims are known: one partition takes everything."""
    report = compile_model(written(tmp_path, GROUPS), target=target).report
    (share,) = report["placement"]["shares"]
    assert share["partitions"] == 1 and "GroupNormalization" not in share["operators"]

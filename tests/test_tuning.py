"""Laws of tuning: never slower, the same for the same measurements, and silent where it cannot tell.

No test looks at a clock: what a model takes is made up from its operators, and everything else is as it is.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler import bench_models, compile_model
from compiler.backend.session import read_bundle
from compiler.cost import store as store_module
from compiler.cost.store import Store
from compiler.errors import InputError
from compiler.measure.comparisons import Comparison, Comparisons
from compiler.measure.instrument import Variant
from compiler.measure.intervals import Interval, verdict
from compiler.measure.timed_process import TimedProcess
from compiler.tuning_bisect import narrowed
from compiler.tuning_judge import Judge
from targets import load_target
from targets.gains import measured_gains
from tests.test_cli import ampc

Cost = Callable[[Sequence[str], Mapping[str, Any]], float]


def softplus_network() -> onnx.ModelProto:
    """Build a chain in which several rules fire: an operator that is slow, a form that is written out."""
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((8, 8), np.float32), "w")
    numbers = {"one": 1.0, "half": 0.5, "root": 2**0.5}
    one, half, root = (onnx.numpy_helper.from_array(np.float32(v), n) for n, v in numbers.items())
    nodes = [
        oh.make_node("MatMul", ["x", "w"], ["h"]),
        oh.make_node("Softplus", ["h"], ["s"]),
        oh.make_node("Div", ["s", "root"], ["d"]),
        oh.make_node("Erf", ["d"], ["e"]),
        oh.make_node("Add", ["e", "one"], ["a"]),
        oh.make_node("Mul", ["s", "a"], ["m"]),
        oh.make_node("Mul", ["m", "half"], ["y"]),
    ]
    ports = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 8]) for n in ("x", "y")]
    graph = oh.make_graph(nodes, "g", ports[:1], ports[1:], [weight, one, half, root])
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


class Clock:
    """Stands in for the instrument: a run takes what ``cost`` says of a model's operators and settings."""

    def __init__(self, cost: Cost) -> None:
        self.cost = cost
        self.asked = 0
        self.blur = 0.0
        self.busy = False

    def measure(self, judge: Judge, before: Variant, after: Variant, *_: Any) -> Comparison | None:
        """Compare two variants."""
        self.asked += 1
        if self.busy:
            judge.restless += 1
            return None
        first, second = (self.us(v) for v in (before, after))
        ratio = first / second
        around = Interval(ratio, ratio * (1 - self.blur), ratio * (1 + self.blur), 0.98)
        return Comparison(around, first, second, 60, verdict(around), "processor")

    def us(self, variant: Variant) -> float:
        """Return what a run of a variant takes."""
        path = read_bundle(variant.path).model
        return self.cost([node.op_type for node in onnx.load(path).graph.node], variant.settings)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock by which each node takes a microsecond, ``Softplus`` many, and nothing else matters."""
    found = Clock(slow("Softplus"))
    monkeypatch.setattr(Judge, "_measure", lambda *given: found.measure(*given))  # noqa: PLW0108 - not bound
    return found


@pytest.fixture
def tuned(tmp_path: Path) -> Callable[..., Any]:
    """Tune the network with a database of the test's own."""
    onnx.save(softplus_network(), tmp_path / "model.onnx")

    def run(**options: Any) -> Any:
        given = {"target": "cpu", "threads": 1, "tune": 600.0, "database": tmp_path / "m.sqlite", **options}
        return compile_model(tmp_path / "model.onnx", **given)

    return run


@pytest.fixture
def unknown_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what is known of one rule's gain."""
    known = {**measured_gains("CPUExecutionProvider")}
    del known["VectoriseSoftplus"]
    monkeypatch.setattr("compiler.planning.measured_gains", lambda provider: known)


def operators(result: Any) -> list[str]:
    """Return the operators of a result."""
    return [node.op_type for node in result.model.graph.node]


def slow(op: str) -> Cost:
    """Say that one operator takes a hundred microseconds, ``Softplus`` fifty, and others one."""
    return lambda found, settings: sum({op: 100.0}.get(o, 50.0 if o == "Softplus" else 1.0) for o in found)


def test_a_faster_result_stays_as_it_is(clock: Clock, tuned: Callable[..., Any]) -> None:
    """Where the result is faster, nothing is reverted, both numbers are reported, and it is verified."""
    result = tuned()
    tuning = result.report["tuning"]
    assert result.report["status"] == "verified"
    assert tuning["verdict"] == "faster" and not tuning["reverted"]
    assert tuning["result"]["before_us"] > tuning["result"]["after_us"]
    assert operators(result) == operators(tuned(tune=None))


def test_a_rule_that_makes_it_slower_is_found_and_reverted(clock: Clock, tuned: Callable[..., Any]) -> None:
    """The one rule at fault is left out, the others stay, and the report says which and why."""
    assert "Gelu" in operators(tuned(tune=None))
    clock.cost = slow("Gelu")
    result = tuned()
    tuning = result.report["tuning"]
    assert "Gelu" not in operators(result)
    assert tuning["verdict"] != "slower"
    assert tuning["before_reverting"]["verdict"] == "slower"
    assert len(tuning["reverted"]) == 1
    assert all("slower than the original" in why for why in tuning["reverted"].values())
    assert result.report["status"] == "verified"


@pytest.mark.usefixtures("unknown_gain")
def test_a_rule_without_which_it_is_faster_is_reverted(clock: Clock, tuned: Callable[..., Any]) -> None:
    """A result that is faster than the original loses the rule for speed that made it slower than it could be."""

    def cost(found: Sequence[str], settings: Mapping[str, Any]) -> float:
        whole = len(found) + (50.0 if "Softplus" in found else 60.0) + (100.0 if "Erf" in found else 0.0)
        return whole if "MatMul" in found else 2.0 if "Softplus" in found else 1.0  # as a fragment it seems to gain

    clock.cost = cost
    result = tuned()
    assert result.report["tuning"]["before_reverting"] is None
    assert list(result.report["tuning"]["reverted"]) == ["VectoriseSoftplus"]
    assert {"Softplus", "Gelu"} <= set(operators(result))


def test_where_nothing_helps_the_original_is_handed_on(clock: Clock, tuned: Callable[..., Any], tmp_path: Path) -> None:
    """When every form is slower, the user gets the original's own nodes, and the settings that gain."""

    def cost(found: Sequence[str], settings: Mapping[str, Any]) -> float:
        arena = settings.get("session_options", {}).get("enable_cpu_mem_arena", True)
        own = found == [n.op_type for n in softplus_network().graph.node]
        return (10.0 if own else 20.0) * (1.0 if arena else 0.5)

    clock.cost = cost
    result = tuned(output=tmp_path / "out")
    assert result.report["status"] == "unchanged"
    assert operators(result) == [n.op_type for n in softplus_network().graph.node]
    assert result.settings["session_options"]["enable_cpu_mem_arena"] is False
    assert result.report["tuning"]["verdict"] == "faster"
    assert json.loads((tmp_path / "out" / "ampc.json").read_text())["tuning"] == result.report["tuning"]


def test_settings_that_gain_are_taken_and_verified(clock: Clock, tuned: Callable[..., Any]) -> None:
    """A setting is in the result exactly when it was measured to be faster."""
    clock.cost = lambda found, settings: (
        len(found) * (1.0 if settings.get("session_options", {}).get("enable_mem_pattern", True) else 0.8)
    )
    result = tuned()
    taken = {s["title"]: s["taken"] for s in result.report["tuning"]["settings"]}
    assert result.settings["session_options"]["enable_mem_pattern"] is False
    assert "enable_cpu_mem_arena" not in result.settings["session_options"]
    assert [title for title, yes in taken.items() if yes] == ["no memory pattern"]
    assert result.report["status"] == "verified"


@pytest.mark.usefixtures("unknown_gain")
def test_uncertain_rules_are_timed_on_what_they_match(clock: Clock, tuned: Callable[..., Any]) -> None:
    """A rule whose gain is not known is taken when its fragments are faster."""
    assert "Softplus" in operators(tuned(tune=None))
    result = tuned()
    rules = {r["rule"]: r for r in result.report["tuning"]["rules"]}
    assert rules["VectoriseSoftplus"]["verdict"] == "faster" and rules["VectoriseSoftplus"]["rewrites"] == 1
    assert "Softplus" not in operators(result)


def test_equal_measurements_give_equal_bytes_and_are_not_repeated(
    clock: Clock, tuned: Callable[..., Any], tmp_path: Path
) -> None:
    """With what was measured before, a second run measures nothing and writes the same files, with any clock."""
    clock.cost = slow("Gelu")
    tuned(output=tmp_path / "one")
    first, clock.asked = clock.asked, 0
    clock.cost = slow("Erf")
    tuned(output=tmp_path / "two")
    again = clock.asked
    tuned(output=tmp_path / "three", tune=0)
    files = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two", "three")]
    assert first > 0 and again == clock.asked == 0
    assert files[0] == files[1] == files[2]


def test_tuning_goes_on_where_it_was_killed(clock: Clock, tuned: Callable[..., Any], tmp_path: Path) -> None:
    """What was measured before an end in the middle is not measured again, and the result is the same."""
    clock.cost = slow("Gelu")
    whole = tuned(database=tmp_path / "whole.sqlite")
    total, clock.asked = clock.asked, 0

    def dying(found: Sequence[str], settings: Mapping[str, Any]) -> float:
        if clock.asked > total // 2:
            raise KeyboardInterrupt
        return slow("Gelu")(found, settings)

    clock.cost = dying
    with pytest.raises(KeyboardInterrupt):
        tuned()
    done, clock.asked, clock.cost = clock.asked - 1, 0, slow("Gelu")
    assert operators(tuned()) == operators(whole)
    assert clock.asked == total - done


def test_a_busy_machine_changes_nothing(clock: Clock, tuned: Callable[..., Any]) -> None:
    """Where it cannot tell, tuning keeps the default choice, says so, and does not believe it the next time."""
    clock.busy, clock.cost = True, slow("Gelu")
    result = tuned()
    assert operators(result) == operators(tuned(tune=None))
    assert result.settings == tuned(tune=None).settings
    assert result.report["tuning"]["verdict"] == "cannot tell"
    assert any("cannot tell" in note for note in result.report["tuning"]["notes"])
    clock.busy = False
    assert "Gelu" not in operators(tuned())


SETTINGS: dict[str, tuple[str, str, Any]] = {
    "threads": ("session_options", "intra_op_num_threads", 1),
    "spinning": ("config_entries", "session.intra_op.allow_spinning", "0"),
    "arena": ("session_options", "enable_cpu_mem_arena", False),
    "layout": ("session_options", "graph_optimization_level", "ORT_ENABLE_EXTENDED"),
    "blocks": ("config_entries", "optimization.disable_specified_optimizers", "NchwcTransformer"),
    "mode": ("session_options", "execution_mode", "ORT_PARALLEL"),
    "denormals": ("config_entries", "session.set_denormal_as_zero", "1"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_is_tried_and_the_winner_is_emitted(
    setting: str, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the setting that gains, where it makes sense the bundle has it, and a result without it does not."""
    part, key, value = SETTINGS[setting]
    weights = onnx.numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "w")
    nodes = [oh.make_node("Conv", ["x", "w"], ["h"]), oh.make_node("Relu", ["h"], ["y"])]
    ports = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 16, 4, 4]) for n in ("x", "y")]
    graph = oh.make_graph(nodes, "g", ports[:1], ports[1:], [weights])
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")
    target = load_target("cpu")
    session = {k: v for k, v in target.runtime.session.items() if k != "session.set_denormal_as_zero"}
    target = replace(target, runtime=replace(target.runtime, session=session))
    monkeypatch.setattr(sys.modules["targets.machine"], "machine", lambda: replace(target.machine, cores=4))

    def run(gain: float) -> dict[str, Any]:
        clock.cost = lambda found, settings: gain if settings.get(part, {}).get(key) == value else 10.0
        result = compile_model(
            tmp_path / "model.onnx",
            target=target,
            tune=600.0,
            output=tmp_path / f"out{gain}",
            database=tmp_path / f"m{gain}.sqlite",
        )
        assert result.report["status"] == "verified"
        emitted: dict[str, Any] = json.loads((tmp_path / f"out{gain}" / "ampc.json").read_text())["settings"]
        return emitted[part]

    assert run(5.0)[key] == value
    assert run(20.0).get(key) != value


def test_sizes_of_the_inputs_decide_and_are_not_emitted(tuned: Callable[..., Any]) -> None:
    """Forms are chosen for the sizes that inputs have, whether it is tuned or not; the result takes any size still."""
    costs = []
    for rows in (2, 512):
        result = tuned(tune=None, inputs={"x": np.ones((rows, 8), np.float32)})
        costs.append(max(o["us"] for d in result.report["decisions"] for o in d["options"]))
        assert result.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert costs[1] > 2 * costs[0]


def test_rules_that_are_slow_only_together_are_parted(clock: Clock, tuned: Callable[..., Any]) -> None:
    """Where two rewrites are slow in combination, one of them is left out, and the other stays."""
    before = operators(tuned(tune=None))
    assert "Gelu" in before and "FusedMatMul" not in before

    def cost(found: Sequence[str], settings: Mapping[str, Any]) -> float:
        return 100.0 if "Gelu" in found and "Softplus" not in found else 10.0

    clock.cost = cost
    result = tuned(disable=())
    assert result.report["tuning"]["verdict"] != "slower"
    assert cost(operators(result), {}) == 10.0
    assert result.report["status"] == "verified"


def test_several_slow_rules_are_all_found(clock: Clock, tuned: Callable[..., Any]) -> None:
    """Rules that are slow each for itself go one after the other, and only they."""

    def cost(found: Sequence[str], settings: Mapping[str, Any]) -> float:
        return 10.0 + 100.0 * ("Gelu" in found) + 30.0 * ("Softplus" not in found)

    clock.cost = cost
    result = tuned()
    assert cost(operators(result), {}) == 10.0
    assert result.report["tuning"]["verdict"] != "slower"


def test_settings_that_turn_out_slower_are_taken_back(clock: Clock, tuned: Callable[..., Any]) -> None:
    """When the last comparison says that the result is slower with new settings, the settings go, and it stays."""

    def measure(judge: Judge, before: Variant, after: Variant, *_: Any) -> Comparison:
        clock.asked += 1
        plain = [v.settings.get("session_options", {}).get("enable_mem_pattern", True) for v in (before, after)]
        ratio = 1.0 if plain[0] == plain[1] else 1.2 if "session_options" in before.settings else 0.5
        around = Interval(ratio, ratio * 0.99, ratio * 1.01, 0.98)
        return Comparison(around, 10.0, 10.0 / ratio, 60, verdict(around), "processor")

    clock.measure = measure  # type: ignore[method-assign]
    result = tuned()
    assert "enable_mem_pattern" not in result.settings["session_options"]
    assert not any(s["taken"] for s in result.report["tuning"]["settings"])
    assert result.report["tuning"]["verdict"] == "same"
    assert result.report["status"] == "verified"


def test_what_is_known_is_not_compiled_again(
    clock: Clock, tuned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going by what was measured takes no forms of the model that were only there to be timed."""
    clock.cost = slow("Gelu")
    first = tuned()
    built: list[Sequence[str]] = []
    monkeypatch.setattr("compiler.compilation.Compilation.build_without", lambda job, names: built.append(names))
    again = tuned(tune=0)
    assert operators(again) == operators(first)
    assert first.report["tuning"]["reverted"] == again.report["tuning"]["reverted"] != {}
    assert not built


@pytest.mark.usefixtures("unknown_gain")
def test_fragments_that_were_measured_decide_later_compilations(
    clock: Clock, tuned: Callable[..., Any], tmp_path: Path
) -> None:
    """Without tuning the same sizes find what tuning measured of fragments, and say so; reading changes no file."""
    given = np.ones((4, 8), np.float32)
    clock.cost = lambda found, settings: 400.0 if "Softplus" in found else 4.0
    assert "Softplus" not in operators(tuned(inputs={"x": given}))
    before = (tmp_path / "m.sqlite").read_bytes()
    result = tuned(tune=None, inputs={"x": given})
    assert "Softplus" not in operators(result)
    sources = [o["source"] for d in result.report["decisions"] for o in d["options"]]
    assert "measured" in sources
    assert (tmp_path / "m.sqlite").read_bytes() == before
    assert "measured" not in str(tuned(tune=None).report["decisions"])


def test_a_damaged_database_costs_what_it_knew(clock: Clock, tuned: Callable[..., Any], tmp_path: Path) -> None:
    """A compilation says that it goes without, and leaves the file; tuning puts it aside and begins a new one."""
    path = tmp_path / "m.sqlite"
    tuned()
    damaged = path.read_bytes()[:5000] + b"\xff" * 9000
    path.write_bytes(damaged)
    result = tuned(tune=None)
    assert result.report["status"] == "verified"
    assert any("cannot be used" in note for note in result.report["notes"])
    assert path.read_bytes() == damaged
    result = tuned()
    assert any("was damaged" in note for note in result.report["notes"])
    assert path.with_name("m.sqlite.damaged").read_bytes() == damaged
    clock.asked = 0
    tuned()
    assert clock.asked == 0


def test_a_full_disk_ends_no_tuning(clock: Clock, tuned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be kept counts for this run still, and the report says that it is lost."""
    clock.cost = slow("Gelu")

    def writer(path: Path) -> sqlite3.Connection:
        connection = made(path)
        connection.execute("PRAGMA query_only = 1")
        return connection

    made = store_module._writer
    monkeypatch.setattr(store_module, "_writer", writer)
    result = tuned()
    assert "Gelu" not in operators(result)
    assert any("is not kept" in note for note in result.report["notes"])


def test_two_tunings_of_one_database_decide_alike(tmp_path: Path) -> None:
    """Of two that measured the same at once the first to write is believed by both."""
    path = tmp_path / "m.sqlite"
    ends = [Comparison(Interval(r, r, r, 1.0), 1.0, r, 9, verdict(Interval(r, r, r, 1.0)), "wall") for r in (2.0, 0.5)]
    with Store(path, write=True) as one, Store(path, write=True) as two:
        assert Comparisons(one).get("k") is Comparisons(two).get("k") is None
        found = [Comparisons(s).put("k", "result", c, replace=False) for s, c in zip((one, two), ends, strict=True)]
    assert found == [ends[0], ends[0]]


def test_what_people_measured_is_not_measured_again(tuned: Callable[..., Any], tmp_path: Path) -> None:
    """What bench measured of the original and the result is what tuning goes by."""
    given = {"x": np.ones((4, 8), np.float32)}
    tuned(tune=None, inputs=given, output=tmp_path / "out")
    variants = {n: Variant(str(tmp_path / n)) for n in ("model.onnx", "out")}
    path = tmp_path / "m.sqlite"
    found = bench_models(variants, inputs=given, threads=1, seconds=0.01, database=path)
    kept = not found["out"].conditions.busy
    assert path.exists() == kept
    result = tuned(tune=0, inputs=given)
    assert (result.report["tuning"]["result"] is not None) == kept
    if kept:
        assert result.report["tuning"]["result"]["ratio"]["value"] == round(found["out"].ratio.value, 4)


def test_a_child_that_dies_changes_nothing(tuned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where whatever measures is killed, the result is the default one, and the report says why nothing was timed."""
    ask = TimedProcess.ask

    def dying(child: TimedProcess, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["do"] == "burst":
            child._process.kill()
        return ask(child, request)

    monkeypatch.setattr(TimedProcess, "ask", dying)
    result = tuned(tune=20.0)
    assert operators(result) == operators(tuned(tune=None))
    assert result.report["tuning"]["verdict"] == "cannot tell"
    assert any("its process ended" in note for note in result.report["tuning"]["notes"])


def test_an_interval_around_one_changes_nothing(clock: Clock, tuned: Callable[..., Any]) -> None:
    """A result that may be slower and may be faster is not reverted."""
    clock.blur, clock.cost = 0.2, lambda found, settings: 10.0 if "Gelu" in found else 9.5
    result = tuned()
    assert not result.report["tuning"]["reverted"]
    assert operators(result) == operators(tuned(tune=None))


def test_no_time_is_no_measurement(clock: Clock, tuned: Callable[..., Any]) -> None:
    """With no seconds and nothing known, nothing is measured, and the result is the default."""
    result = tuned(tune=0)
    assert clock.asked == 0
    assert operators(result) == operators(tuned(tune=None))


def test_a_time_that_is_none_is_refused(tuned: Callable[..., Any]) -> None:
    """A negative or endless time is the user's mistake."""
    for seconds in (-1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="time"):
            tuned(tune=seconds)


@given(st.integers(1, 60), st.data())
def test_bisection_finds_the_one_to_blame(count: int, data: st.DataObject) -> None:
    """One name to blame is found with few questions; none is blamed when leaving out all is no better."""
    names = [f"n{i}" for i in range(count)]
    guilty = data.draw(st.sampled_from(names))
    asked: list[Sequence[str]] = []

    def is_better(without: Sequence[str]) -> bool:
        asked.append(without)
        return guilty in without

    assert narrowed(names, is_better) == [guilty]
    assert len(asked) <= 1 + 2 * count.bit_length()
    assert narrowed(names, lambda without: False) == []


@given(st.integers(2, 30), st.data())
def test_bisection_leaves_out_enough(count: int, data: st.DataObject) -> None:
    """When several names are to blame together, all of them are among those left out."""
    names = [f"n{i}" for i in range(count)]
    guilty = data.draw(st.sets(st.sampled_from(names), min_size=1))
    assert guilty <= set(narrowed(names, lambda without: guilty <= set(without)))


def test_the_command_line_tunes_and_says_so(clock: Clock, tmp_path: Path) -> None:
    """``--tune`` reports both numbers and what was reverted, in 80 columns."""
    clock.cost = slow("Gelu")
    onnx.save(softplus_network(), tmp_path / "model.onnx")
    options = ["--target", "cpu", "--threads", 1, "--tune", 600, "--database", tmp_path / "m.sqlite"]
    done = ampc("compile", tmp_path / "model.onnx", "-o", tmp_path / "out", *options)
    assert "tuned" in done.out and "times as fast" in done.out and "reverted" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_tuning_runs_from_end_to_end(tuned: Callable[..., Any]) -> None:
    """With the real instrument and a little time the result is verified, and what it says has its form."""
    result = tuned(tune=8.0)
    tuning = result.report["tuning"]
    assert result.report["status"] in ("verified", "unchanged")
    assert tuning["verdict"] in ("faster", "same", "slower", "cannot tell")
    assert result.report["seconds"]["tune"]["seconds"] < 30
    assert tuning["inputs"] == {"x": "float32[1, 8]"}

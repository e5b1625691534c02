"""Laws of the instrument: intervals, verdicts, and variants timed in processes of their own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler import Variant
from compiler.cost.store import Store
from compiler.errors import AmpcError, InputError, WorkerError
from compiler.measure.comparisons import Comparison, Comparisons, comparison_key
from compiler.measure.instrument import Conditions, Instrument, _ratio, measure
from compiler.measure.intervals import Interval, interval, spread, verdict


def network(*, width: int = 8, deep: int = 1, op: str = "Tanh") -> onnx.ModelProto:
    """Build products with an activation behind each."""
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((width, width), np.float32), "w")
    nodes, last = [], "x"
    for i in range(deep):
        nodes.append(oh.make_node("MatMul", [last, "w"], [f"p{i}"]))
        nodes.append(oh.make_node(op, [f"p{i}"], [f"y{i}" if i < deep - 1 else "y"]))
        last = f"y{i}"
    ports = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", width]) for n in ("x", "y")]
    graph = oh.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Save a small network."""
    path = tmp_path / "model.onnx"
    onnx.save(network(), path)
    return str(path)


FEEDS = {"x": np.ones((2, 8), np.float32)}


@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=60))
def test_intervals_cover_what_they_claim(values: list[float]) -> None:
    """The interval is the narrowest pair of order statistics of enough coverage, which it states."""
    found = interval(values)
    ordered, count = sorted(values), len(values)

    def coverage(depth: int) -> float:
        return 1 - 2 * sum(math.comb(count, k) for k in range(depth)) / 2**count

    depths = [k for k in range(1, count // 2 + 1) if coverage(k) >= 0.95]
    assert (found.low, found.high) == (ordered[depths[-1] - 1], ordered[-depths[-1]])
    assert found.coverage == pytest.approx(coverage(depths[-1]))
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1.03, 1.40, "faster"),
        (0.70, 0.95, "slower"),
        (0.99, 1.01, "same"),
        (1.005, 1.03, "same"),
        (0.90, 1.20, "cannot tell"),
        (1.01, 1.30, "cannot tell"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, word: str) -> None:
    """A variant is faster or slower only where the whole interval says so beyond the resolution."""
    assert verdict(Interval((low + high) / 2, low, high, 0.95)) == word


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40), st.floats(0.5, 2))
def test_spread_does_not_depend_on_the_unit(values: list[float], unit: float) -> None:
    """The spread is a share: the same in every unit, and none where all values are the same."""
    assert spread([v * unit for v in values]) == pytest.approx(spread(values))
    assert spread([values[0]] * len(values)) == 0


@given(st.lists(st.lists(st.floats(0.5, 2), min_size=3, max_size=5), min_size=2, max_size=12))
def test_sittings_that_disagree_leave_it_open(held: list[list[float]]) -> None:
    """The interval of few sittings holds each one's median; of many it is that of their medians."""
    found = _ratio(held)
    medians = [float(np.median(ratios)) for ratios in held]
    if len(held) >= 6:
        assert found == interval(medians)
    else:
        assert found.low <= min(medians) and max(medians) <= found.high
    assert found.low <= found.value <= found.high


def test_a_busy_machine_is_called_busy() -> None:
    """Foreign use makes wall times doubtful and processor times not; unrest of the ratios makes both doubtful."""

    def busy(clock: str, foreign: float, unrest: float) -> bool:
        return Conditions(
            processors=2, threads=1, clock=clock, load_average=1, foreign=foreign, spread=unrest
        ).busy

    assert busy("wall", 0.5, 0.01)
    assert not busy("processor", 0.5, 0.01)
    assert busy("processor", 0.0, 0.5)
    assert not busy("wall", 0.01, 0.01)


def test_variants_are_timed_in_children_and_compared_with_the_first(model: str) -> None:
    """Every variant comes back with its runs, in order, and the first is its own reference at exactly 1."""
    settings = {
        "providers": [["CPUExecutionProvider", {}]],
        "session_options": {"graph_optimization_level": "ORT_DISABLE_ALL", "intra_op_num_threads": 1},
        "config_entries": {"session.set_denormal_as_zero": "1"},
    }
    variants = {"as it is": Variant(model), "plain": Variant(model, settings)}
    found = measure(variants, feeds=FEEDS, seconds=0, threads=1, burst_s=0.001, sittings=2, profile=True)
    assert list(found) == ["as it is", "plain"]
    assert found["as it is"].ratio.low == found["as it is"].ratio.high == 1
    assert [timing.verdict == "reference" for timing in found.values()] == [True, False]
    assert all(timing.runs >= 6 and timing.median_ms.value > 0 for timing in found.values())
    assert all(timing.p50_ms <= timing.p90_ms <= timing.p99_ms for timing in found.values())
    assert {op: nodes for op, (_, nodes) in found["plain"].operators.items()} == {"MatMul": 1, "Tanh": 1}
    assert json.loads(json.dumps(found["plain"].to_json()))["conditions"]["threads"] == 1


def test_processes_serve_one_comparison_after_another(model: str) -> None:
    """An instrument keeps its processes: the second comparison starts none, and times another model."""
    with Instrument(threads=1) as instrument:
        first = instrument.measure({"a": Variant(model)}, FEEDS, seconds=0, burst_s=0.001)
        known = [p.pid for p in instrument._processes]
        with pytest.raises(WorkerError):
            instrument.try_out("wrong", Variant(model), {"z": np.ones(1, np.float32)})
        second = instrument.measure({"b": Variant(model)}, FEEDS, seconds=0, burst_s=0.001, bound=True, fresh=False)
        assert [p.pid for p in instrument._processes] == known
    assert first["a"].runs and second["b"].runs
    assert not instrument._processes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {}}, "nothing"),
        ({"variants": {"lost": Variant("/nowhere.onnx")}}, "(?s)where: lost.*nowhere"),
        ({"variants": {"odd": Variant("", {"providers": [["NoSuch", {}]]})}}, "(?s)where: odd.*NoSuch"),
        ({"variants": {"odd": Variant("", {"session_options": {"no_such": 1}})}}, "no_such"),
        ({"timeout_s": 0.001}, "limit is 0.001 s"),
        ({"feeds": {"x": np.empty(2, object)}}, "input is object"),
    ],
)
def test_what_cannot_be_measured_is_an_error_with_a_name(model: str, change: dict[str, Any], message: str) -> None:
    """A variant that does not load, dies or hangs ends in an error that says which and why."""
    arguments = {"variants": {"one": Variant(model)}, "feeds": FEEDS, "seconds": 0, "burst_s": 0.001, **change}
    variants = {name: Variant(v.path or model, v.settings) for name, v in arguments.pop("variants").items()}
    with pytest.raises(AmpcError, match=message):
        try:
            measure(variants, sittings=1, **arguments)
        except AmpcError as error:
            raise AmpcError(str(error)) from error


RECORD = Comparison(Interval(1.2, 1.1, 1.3, 0.98), 120.0, 100.0, 12, "faster", "processor")


def test_comparisons_are_kept_by_all_that_they_depend_on(tmp_path: Path) -> None:
    """What was put is found again under its key, by another process too, and under no other key."""
    path = tmp_path / "measured.sqlite"
    key, other = (comparison_key("pair", threads=n, models=["a", "b"]) for n in (1, 2))
    with Store(path, write=True) as store:
        assert Comparisons(store).get(key) is None
        Comparisons(store).put(key, "pair", RECORD)
        with Store(path, write=True) as reader:
            assert Comparisons(reader).get(key) == RECORD
    with Store(path) as store:
        assert Comparisons(store).get(key) == RECORD
        assert Comparisons(store).get(other) is None
    assert comparison_key("pair", models=["a", "b"], threads=1) == key


def test_reading_alone_makes_no_file(tmp_path: Path) -> None:
    """A store that is only read is not made, and knows nothing."""
    path = tmp_path / "none.sqlite"
    with Store(path) as store:
        assert Comparisons(store).get("k") is None
    assert not path.exists()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Something else in the place of the store is an error of the user's, and stays as it is."""
    path = tmp_path / "text"
    path.write_text("not a database, and long enough to be looked at as one" * 40)
    with pytest.raises(InputError, match="measurements"):
        Store(path, write=True)
    assert path.read_text().startswith("not a database")

"""The cost model: kinds, calibrations, what the runtime makes of nodes, measured fragments, and regions."""

from __future__ import annotations

import itertools
import math
import random
import threading
from pathlib import Path

import pytest

from compiler.calibrating import kind_of_case
from compiler.cost import calibration
from compiler.cost.as_run import AsRun, End
from compiler.cost.calibration import Calibration, Point
from compiler.cost.cases import cases
from compiler.cost.database import Circumstances, Database, canonical_text
from compiler.cost.kinds import Kind, kind_of
from compiler.cost.model import CostModel
from compiler.cost.regions import label_regions
from compiler.cost.store import Store
from compiler.cost.work import Sizes
from compiler.errors import InputError
from compiler.ir.graph import Model, Node
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.settings import load_target

HERE = Circumstances("1 build", "processor", 1)


def model_of(inputs: str, body: str, result: str = "y") -> Model:
    """Return the inferred model of a body."""
    graph = f"graph @main({inputs}) -> (%{result}) {{\n{body}\n  return %{result}\n}}\n"
    model = parse_model(f"// ampc 1, opset 20, com.microsoft 1\n{graph}")
    infer(model.graph)
    return model


def nodes_of(inputs: str, body: str) -> list[Node]:
    """Return the nodes of a body whose last value is ``%y``."""
    return list(model_of(inputs, body).graph.nodes())


def key_of(inputs: str, body: str) -> str:
    """Return the kind's key of the last node."""
    return kind_of(nodes_of(inputs, body)[-1], Sizes({})).key


def calibrated(**points: tuple[Point, ...]) -> Calibration:
    """Return a calibration with these points and no cost of launching."""
    return Calibration(runtime="1", processor="p", threads=1, launch_us=0.0, points=dict(points))


# Kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "body", "key"),
    [
        ("%x: f32[4,8], %w: f32[8,3]", "%y = MatMul(%x, %w)", "MatMul:f32:batched"),
        ("%x: f32[4,8]", "const %w: f32[8,1] = [1, 2, 3, 4, 5, 6, 7, 8]\n%y = MatMul(%x, %w)", "MatMul:f32:weights"),
        ("%x: f32[2,8], %b: f32[8]", "%y = Add(%x, %b)", "Add:f32:row"),
        ("%x: f32[2,8], %b: f32[]", "%y = Mul(%x, %b)", "Mul:f32:scalar"),
        ("%x: f32[1,3,4,4], %b: f32[1,3,1,1]", "%y = Mul(%x, %b)", "Mul:f32:channel"),
        ("%x: f32[2,8]", "%y = Softmax(%x)", "Softmax:f32:last"),
        ("%x: f32[2,8,3]", "%y = Softmax(%x){axis = 1}", "Softmax:f32:other"),
        ("%x: f32[1,2,3,4]", "%y = Transpose(%x){perm = [0, 2, 1, 3]}", "Transpose:f32:rows"),
        ("%x: f32[1,2,3,4]", "%y = Transpose(%x){perm = [1, 0, 2, 3]}", "Transpose:f32:copy"),
        ("%x: f32[2,3]", "%y = Transpose(%x)", "Transpose:f32:turn"),
        ("%x: i64[2,3]", "%y = Cast(%x){to = 1}", "Cast:i64:f32"),
        ("%x: f32[2,3]", "%y = Identity(%x)", "View:f32"),
        ("%c: bool[2], %x: f32[2], %z: f32[2]", "%y = Where(%c, %x, %z)", "Where:f32"),
    ],
)
def test_a_kind_says_which_kernel_runs(inputs: str, body: str, key: str) -> None:
    """What decides the kernel decides the key."""
    assert key_of(inputs, body) == key


def test_nodes_of_a_kind_have_equally_many_features() -> None:
    """All cases of one key have features of one length, so that they can be compared."""
    lengths: dict[str, set[int]] = {}
    for case in cases():
        kind = kind_of_case(case)
        lengths.setdefault(kind.key, set()).add(len(kind.features))
        assert kind.exact, f"{case.call} has sizes that had to be made up"
    assert len(lengths) > 100
    assert {key: found for key, found in lengths.items() if len(found) > 1} == {}


def test_shape_is_what_counts() -> None:
    """Operators that run the same kernel have the same kind."""
    weights = "const %w: f32[2,2] = [1, 2, 3, 4]\n"
    plain = kind_of(nodes_of("%x: f32[4,2]", f"{weights}%y = MatMul(%x, %w)")[-1], Sizes({}))
    gemm = kind_of(nodes_of("%x: f32[4,2]", f"{weights}%y = Gemm(%x, %w)")[-1], Sizes({}))
    assert (plain.key, plain.features) == (gemm.key, gemm.features)


# Calibration -------------------------------------------------------------------------------------


def test_calibration_passes_its_points_and_is_proportional_beyond() -> None:
    """A kind with one speed is predicted at that speed everywhere, within and beyond the points."""
    points = tuple(Point(2.0**k, 2.0**k / 100, (float(k),)) for k in (8, 12, 16))
    found = calibrated(**{"Relu:f32": points})
    for k in (9, 12, 14, 20):
        assert found.us(Kind("Relu:f32", 2.0**k, (float(k),))) == pytest.approx(2.0**k / 100, rel=1e-6)


def test_calibration_has_a_floor() -> None:
    """No kernel takes less than the least that any took."""
    found = calibrated(**{"Relu:f32": (Point(1e6, 50.0, (20.0,)),), "View:f32": (Point(0.0, 2.5, ()),)})
    assert found.us(Kind("Relu:f32", 1.0, (0.0,))) == 2.5


def test_larger_is_never_cheaper_in_the_shipped_calibration() -> None:
    """The shipped calibration orders products by their size."""
    shipped = calibration.shipped("CPUExecutionProvider")
    assert shipped is not None
    times = [
        shipped.us(Kind("MatMul:f32:weights", 2.0 * m * 512 * 512, (math.log2(m), 9.0, 9.0)))
        for m in (1, 16, 256, 4096)
    ]
    assert times == sorted(times, key=lambda t: t or 0.0) and None not in times


def test_what_was_not_measured_is_taken_from_the_same_operator() -> None:
    """A variant without points uses another of its operator; an operator without any is unknown."""
    found = calibrated(**{"Add:f32": (Point(64.0, 3.0, (6.0,)),)})
    assert found.us(Kind("Add:f32:row", 64.0, (6.0,))) == pytest.approx(3.0)
    assert found.us(Kind("Add:f16", 64.0, (6.0,))) is None
    assert found.us(Kind("Sub:f32", 64.0, (6.0,))) is None


def test_calibration_survives_its_file(tmp_path: Path) -> None:
    """What is written is read again; anything else is an error that names the file."""
    found = calibrated(**{"Add:f32": (Point(64.0, 3.0, (6.0,)),)})
    path = tmp_path / "c.json"
    path.write_bytes(found.to_json())
    assert calibration.load(path).to_json() == found.to_json()
    path.write_text("{}")
    with pytest.raises(InputError, match="calibration cannot be read"):
        calibration.load(path)


# The model ---------------------------------------------------------------------------------------


def test_sources_from_best_to_worst(tmp_path: Path) -> None:
    """A measured fragment counts before a calibrated kind, and that before peak rates."""
    nodes = nodes_of("%x: f32[64]", "%y = Relu(%x)")
    target = load_target("cpu_avx512")
    points = calibrated(**{"Relu:f32": (Point(64.0, 3.0, (6.0,)),)})
    with Store(tmp_path / "d.sqlite", write=True) as store:
        database = Database(store, HERE)
        assert CostModel(target, {}).cost(nodes[0]).source == "analytic"
        assert CostModel(target, {}, calibration=points, database=database).cost(nodes[0]).source == "calibrated"
        database.put(nodes, Sizes({}), us=7.0, low=6.0, high=8.0, runs=10)
        cost = CostModel(target, {}, calibration=points, database=database).cost(nodes[0])
        assert (cost.us, cost.source) == (7.0, "measured")


def conv(body: str, inward: int = 32, outward: int = 32) -> list[Node]:
    """Return the nodes of a body that reads ``%c``, the result of a convolution."""
    ones = ", ".join(["1"] * (inward * outward))
    weights = f"const %w: f32[{outward},{inward},1,1] = [{ones}]\n"
    return nodes_of(f"%x: f32[1,{inward},8,8]", f"{weights}%c = Conv(%x, %w)\n{body}")


def test_activations_after_a_convolution_cost_nothing() -> None:
    """The runtime computes a Relu while it stores what the convolution made; an Elu it does not."""
    as_run = AsRun(16)
    assert as_run.is_free(conv("%y = Relu(%c)")[-1])
    assert not as_run.is_free(conv("%y = Elu(%c)")[-1])


def test_what_breaks_the_blocked_layout_pays_reorders() -> None:
    """A node that cannot work on blocks reorders what it reads; one that can does not."""
    as_run = AsRun(16)
    for body, expected in (("%y = Relu(%c)", []), ("%y = Elu(%c)", ["ReorderOutput"])):
        node = conv(body)[-1]
        assert [op for op, _ in as_run.reorders([node], [End(node.output, ())])] == expected
    node = conv("%e = Elu(%c)\n%y = Conv(%e, %w)")[1]
    ends = [End(node.output, tuple(node.output.users()))]
    assert [op for op, _ in as_run.reorders([node], ends)] == ["ReorderOutput", "ReorderInput"]


def test_other_processors_have_no_blocks() -> None:
    """Without a blocked layout nothing is reordered."""
    node = conv("%y = Elu(%c)")[-1]
    assert AsRun(0).reorders([node], []) == []
    assert AsRun.on(load_target("gpu_cuda")).blocks == 0
    assert (AsRun.on(load_target("cpu_avx2")).blocks, AsRun.on(load_target("cpu_avx512")).blocks) == (8, 16)


# Measured fragments ------------------------------------------------------------------------------


def test_the_key_forgets_names_and_weights() -> None:
    """Fragments that differ in names and weights only are one; types, attributes and literals tell them apart."""

    def text(inputs: str, body: str) -> str:
        return canonical_text(nodes_of(inputs, body), Sizes({}))

    one = text("%x: f32[2,2]", "const %w: f32[2,2] = [1, 2, 3, 4]\n%h = MatMul(%x, %w)\n%y = LeakyRelu(%h)")
    same = text("%a: f32[2,2]", "const %v: f32[2,2] = [4, 3, 2, 1]\n%b = MatMul(%a, %v)\n%y = LeakyRelu(%b)")
    slope = text(
        "%x: f32[2,2]", "const %w: f32[2,2] = [1, 2, 3, 4]\n%h = MatMul(%x, %w)\n%y = LeakyRelu(%h){alpha = 0.5}"
    )
    wide = text("%x: f32[3,2]", "const %w: f32[2,2] = [1, 2, 3, 4]\n%h = MatMul(%x, %w)\n%y = LeakyRelu(%h)")
    assert one == same
    assert len({one, slope, wide}) == 3


def test_the_key_forgets_the_order_of_nodes() -> None:
    """Nodes may be given in any order."""
    nodes = nodes_of("%x: f32[2]", "%a = Abs(%x)\n%b = Neg(%x)\n%y = Add(%a, %b)")
    texts = {canonical_text(order, Sizes({})) for order in itertools.permutations(nodes)}
    assert len(texts) == 1


def test_circumstances_are_part_of_the_key(tmp_path: Path) -> None:
    """What was measured with one thread says nothing of two."""
    nodes, path = nodes_of("%x: f32[2]", "%y = Abs(%x)"), tmp_path / "d.sqlite"
    with Store(path, write=True) as store:
        Database(store, HERE).put(nodes, Sizes({}), us=1.0, low=1.0, high=1.0, runs=9)
    with Store(path) as store:
        assert Database(store, HERE).find(nodes, Sizes({})) is not None
        assert Database(store, Circumstances("1 build", "processor", 2)).find(nodes, Sizes({})) is None


def test_reading_makes_no_file_and_writing_is_refused(tmp_path: Path) -> None:
    """A reader goes without a database that is not there, and never changes one."""
    nodes = nodes_of("%x: f32[2]", "%y = Abs(%x)")
    with Store(tmp_path / "none.sqlite") as store:
        database = Database(store, HERE)
        assert database.find(nodes, Sizes({})) is None
        with pytest.raises(InputError, match="for reading"):
            database.put(nodes, Sizes({}), us=1.0, low=1.0, high=1.0, runs=9)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bad.sqlite").write_bytes(b"this is no database, whatever its name says" * 40)
    with pytest.raises(InputError, match="cannot be used"):
        Store(tmp_path / "bad.sqlite", write=True)


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    """Entries of connections that write at the same time are all kept."""
    path = tmp_path / "d.sqlite"
    made = [nodes_of(f"%x: f32[{n}]", "%y = Abs(%x)") for n in range(1, 33)]

    def write(part: int) -> None:
        with Store(path, write=True) as store:
            for nodes in made[part::4]:
                Database(store, HERE).put(nodes, Sizes({}), us=1.0, low=1.0, high=1.0, runs=9)

    writers = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with Store(path) as store:
        assert all(Database(store, HERE).find(nodes, Sizes({})) is not None for nodes in made)


# Regions -----------------------------------------------------------------------------------------


def total(
    labels: dict[int, int], costs: dict[int, tuple[float, float]], conversions: dict[tuple[int, int], float]
) -> float:
    """Return what a labelling costs."""
    nodes = sum(costs[k][label] for k, label in labels.items())
    return nodes + sum(c for (a, b), c in conversions.items() if labels[a] != labels[b])


@pytest.mark.parametrize("seed", range(40))
def test_regions_are_labelled_at_the_least_cost(seed: int) -> None:
    """No labelling of a small graph costs less than the one that is found."""
    draw = random.Random(seed)
    keys = range(draw.randint(1, 7))
    costs = {k: (float(draw.randint(0, 9)), draw.choice([math.inf, float(draw.randint(0, 9))])) for k in keys}
    pairs = [p for p in itertools.combinations(keys, 2) if draw.random() < 0.5]
    conversions = {p: float(draw.randint(0, 5)) for p in pairs}
    found = total(label_regions(costs, conversions), costs, conversions)
    every = itertools.product((0, 1), repeat=len(keys))
    best = min(total(dict(zip(keys, labels, strict=True)), costs, conversions) for labels in every)
    assert found == pytest.approx(best)


def test_a_region_without_a_label_is_refused() -> None:
    """A key that can have neither label, and a conversion of negative cost, are errors."""
    with pytest.raises(ValueError, match="costs inf or inf"):
        label_regions({1: (math.inf, math.inf)}, {})
    with pytest.raises(ValueError, match="conversion"):
        label_regions({1: (0.0, 1.0), 2: (0.0, 1.0)}, {(1, 2): -1.0})


def test_a_database_is_not_made_with_its_folder(tmp_path: Path) -> None:
    """A file that the user names lies in a folder that is there; the compiler's own cache folder is made."""
    with pytest.raises(InputError, match="folder does not exist"):
        Store(tmp_path / "no" / "x.db", write=True)
    assert not (tmp_path / "no").exists()
    with Store.kept(tmp_path / "cache" / "x.db") as store:
        assert not store.trouble and (tmp_path / "cache" / "x.db").exists()


def test_nodes_that_are_compiled_together_launch_nothing() -> None:
    """Where the provider compiles, an operator of little work costs next to nothing, and a view nothing at all."""
    added, view = (nodes_of("%x: f32[2,3]", body)[-1] for body in ("%y = Add(%x, %x)", "%y = Identity(%x)"))
    for name, compiles in (("npu", True), ("gpu_tensorrt", True), ("gpu_cuda", False)):
        target = load_target(name)
        launch = 1e6 * target.machine.launch.value
        assert target.constraints.compiles is compiles
        costs = CostModel(target, {})
        assert costs.cost(view).us == (0.0 if compiles else launch)
        assert (costs.cost(added).us < launch / 100) is compiles

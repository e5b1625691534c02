"""The worker: values cross unchanged, and nothing that a model does harms the process that asked."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from compiler.errors import WorkerError
from compiler.verify.worker import MappedTensor, Worker, external_location, shared_worker
from compiler.verify.worker_frames import ELEMENT_TYPES
from compiler.verify.worker_values import SparseTensor, pack, unpack

Array = npt.NDArray[Any]
F32, I64, STR, BF16, INT4 = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.STRING,
    TensorProto.BFLOAT16,
    TensorProto.INT4,
)
REFUSED = {TensorProto.COMPLEX64, TensorProto.COMPLEX128}
"""Types that ONNX Runtime 1.32 does not know at all."""
WITHOUT_IDENTITY = {
    TensorProto.UINT4,
    TensorProto.INT4,
    TensorProto.FLOAT4E2M1,
    TensorProto.FLOAT8E8M0,
    TensorProto.UINT2,
    TensorProto.INT2,
}
"""Types that it knows and has no Identity for: they can still pass from an input to an output."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """Share one child among the tests that leave it alive."""
    with Worker(timeout=60) as shared:
        yield shared


def tensor(element: int, shape: Sequence[int | str] | None = None) -> onnx.TypeProto:
    """Return the type of a tensor; ``None`` is unknown rank."""
    return helper.make_tensor_type_proto(element, shape)


def build(
    nodes: Sequence[Any],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    initializers: Sequence[Any] = (),
    ml: bool = False,
) -> bytes:
    """Serialize a model from nodes and the types of its inputs and outputs."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_value_info(name, kind) for name, kind in inputs.items()],
        [helper.make_value_info(name, kind) for name, kind in outputs.items()],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 21 if ml else 25)] + [helper.make_opsetid("ai.onnx.ml", 3)] * ml
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=13).SerializeToString()
    return data


def identity(kind: onnx.TypeProto) -> bytes:
    """Return a model that gives what it gets."""
    return build([helper.make_node("Identity", ["x"], ["y"])], {"x": kind}, {"y": kind})


def endless() -> bytes:
    """Return a model whose Loop has 2^62 trips."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_value_info(n, tensor(t, []))
            for n, t in (("i", I64), ("c", TensorProto.BOOL), ("v", F32))
        ],
        [helper.make_value_info(n, tensor(t, [])) for n, t in (("d", TensorProto.BOOL), ("w", F32))],
    )
    trips = helper.make_tensor("n", I64, [], [2**62])
    return build(
        [helper.make_node("Loop", ["n", "", "v"], ["y"], body=body)],
        {"v": tensor(F32, [])},
        {"y": tensor(F32, [])},
        [trips],
    )


def huge(elements: int) -> bytes:
    """Return a model that fills ``elements`` floats, one after the other."""
    fill = helper.make_node("ConstantOfShape", ["n"], ["y"], value=helper.make_tensor("v", F32, [1], [1.0]))
    return build([fill], {}, {"y": tensor(F32)}, [helper.make_tensor("n", I64, [1], [elements])])


def external(
    location: str, offset: int, length: int, shape: Sequence[int], element: int = F32
) -> onnx.TensorProto:
    """Declare the initializer ``w`` with its data elsewhere."""
    found = TensorProto(name="w", data_type=element, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        found.external_data.add(key=key, value=value)
    return found


def same(left: Array, right: Array) -> bool:
    """Whether two arrays have the same type, shape and bits (or strings)."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return left.tolist() == right.tolist() if left.dtype == object else left.tobytes() == right.tobytes()


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("shape", [(5,), (2, 3), (), (0, 4)], ids=str)
@pytest.mark.parametrize("element", sorted(set(ELEMENT_TYPES) - REFUSED))
def test_every_numeric_type_crosses_unchanged(worker: Worker, element: int, shape: tuple[int, ...]) -> None:
    """A tensor of any type that ORT has, and of any rank, comes back from a model bit by bit."""
    count = int(np.prod(shape))
    values = np.array([0, 1, 1, 0, 1, 1])[:count].reshape(shape)
    array = values.astype(helper.tensor_dtype_to_np_dtype(element))
    kind = tensor(element, list(shape))
    model = identity(kind)
    if element in WITHOUT_IDENTITY:
        model = build(
            [helper.make_node("Abs", ["z"], ["a"])],
            {"x": kind, "z": tensor(F32)},
            {"x": kind, "a": tensor(F32)},
        )
    feeds = {"x": array} | ({"z": np.ones(1, np.float32)} if element in WITHOUT_IDENTITY else {})
    assert same(worker.evaluate(model, feeds)[0], array)


@pytest.mark.parametrize("element", sorted(REFUSED))
def test_types_unknown_to_ort_are_load_errors(worker: Worker, element: int) -> None:
    """A model of a type that ORT does not know fails to load, and the worker lives."""
    with pytest.raises(WorkerError) as caught:
        worker.load(identity(tensor(element, [1])))
    assert caught.value.kind == "load"
    assert "complex" in caught.value.why


def test_every_bit_pattern_of_small_types_crosses(worker: Worker) -> None:
    """All 65536 patterns of bfloat16, NaN payloads included, and all of int4 cross unchanged."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    found = worker.evaluate(identity(tensor(BF16, ["N"])), {"x": bits.view(ml_dtypes.bfloat16)})[0]
    assert np.array_equal(found.view(np.uint16), bits)
    fours = np.arange(-8, 8).astype(ml_dtypes.int4)
    model = build(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT8)],
        {"x": tensor(INT4, ["N"])},
        {"y": tensor(TensorProto.INT8), "x": tensor(INT4, ["N"])},
    )
    as_int8, back = worker.evaluate(model, {"x": fours})
    assert as_int8.tolist() == list(range(-8, 8))
    assert same(back, fours)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("count", range(9))
def test_unpacking_undoes_packing(bits: int, count: int) -> None:
    """``unpack(pack(x)) == x`` for every length, and packing needs no byte too many."""
    raw = (np.arange(count) * 7 % (1 << bits)).astype(np.uint8)
    packed = pack(raw, bits)
    assert packed.size == -(-count * bits // 8)
    assert np.array_equal(unpack(packed, bits, count), raw)


def test_strings_cross_unchanged(worker: Worker) -> None:
    """Strings of any script cross, empty ones, those with a zero, and those of arrays of bytes."""
    model = identity(tensor(STR))
    texts = np.array([["a", "é漢", ""], ["x\0y", "\n", "'"]], object)
    assert same(worker.evaluate(model, {"x": texts})[0], texts)
    for array in (np.array(["ab", "é"]), np.array([b"ab", "é".encode()])):
        assert worker.evaluate(model, {"x": array})[0].tolist() == ["ab", "é"]
    scalar = worker.evaluate(model, {"x": np.array("word", object)})[0]
    assert scalar.shape == () and scalar.item() == "word"


def test_sequences_optionals_and_maps_cross(worker: Worker) -> None:
    """Lists, absent and present optionals and dicts go in and come out as Python objects."""
    floats = [np.arange(3, dtype=np.float32), np.zeros((2, 0), np.float32)]
    listed = identity(helper.make_sequence_type_proto(tensor(F32)))
    assert all(map(same, worker.evaluate(listed, {"x": floats})[0], floats))
    assert worker.evaluate(listed, {"x": []})[0] == []
    optional = identity(helper.make_optional_type_proto(tensor(F32, [3])))
    assert worker.evaluate(optional, {"x": None})[0] is None
    assert same(worker.evaluate(optional, {"x": floats[0]})[0], floats[0])
    kind = onnx.TypeProto()
    kind.map_type.key_type = STR
    kind.map_type.value_type.CopyFrom(tensor(F32))
    vectorize = helper.make_node(
        "DictVectorizer", ["x"], ["v"], domain="ai.onnx.ml", string_vocabulary=["a", "b"]
    )
    zip_map = helper.make_node("ZipMap", ["v"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b"])
    mapped = build([vectorize, zip_map], {"x": kind}, {"y": helper.make_sequence_type_proto(kind)}, ml=True)
    assert worker.evaluate(mapped, {"x": {"b": np.float32(2)}})[0] == [{"a": 0.0, "b": 2.0}]


def test_sparse_tensors_cross(worker: Worker) -> None:
    """A sparse tensor in coordinate form passes from an input to an output."""
    kind = helper.make_sparse_tensor_type_proto(F32, [4])
    model = build(
        [helper.make_node("Identity", ["x"], ["z"])],
        {"s": kind, "x": tensor(F32)},
        {"s": kind, "z": tensor(F32)},
    )
    given = SparseTensor((4,), np.array([1, 2], np.float32), np.array([0, 3], np.int64))
    found = worker.evaluate(model, {"s": given, "x": np.ones(1, np.float32)})[0]
    assert found.shape == (4,)
    assert same(found.values, given.values) and same(found.indices, given.indices)


def test_odd_outputs_of_one_model_cross_together(worker: Worker) -> None:
    """A bfloat16 output crosses beside a sequence output, and is refused by name beside a string input."""
    nodes = [
        helper.make_node("Cast", ["x"], ["b"], to=BF16),
        helper.make_node("SequenceConstruct", ["x"], ["s"]),
    ]
    outputs = {"b": tensor(BF16), "s": helper.make_sequence_type_proto(tensor(F32))}
    x = np.arange(3, dtype=np.float32)
    b, s = worker.evaluate(build(nodes, {"x": tensor(F32)}, outputs), {"x": x})
    assert same(b, x.astype(ml_dtypes.bfloat16)) and same(s[0], x)
    text = {"t": tensor(STR), "x": tensor(F32)}
    model = build(
        [*nodes[:1], helper.make_node("Identity", ["t"], ["u"])], text, {"b": tensor(BF16), "u": tensor(STR)}
    )
    with pytest.raises(WorkerError, match="cannot run") as caught:
        worker.evaluate(model, {"t": np.array(["a"], object), "x": x})
    assert caught.value.kind == "run" and "'b'" in caught.value.why


def test_layout_and_byte_order_of_feeds_do_not_matter(worker: Worker) -> None:
    """Transposed, strided, read-only and big-endian arrays mean their values."""
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    frozen = base.copy()
    frozen.flags.writeable = False
    for array in (base.T, base[:, ::2], base[::-1], base.astype(">f4"), frozen):
        found = worker.evaluate(identity(tensor(F32)), {"x": array})[0]
        assert found.tolist() == array.tolist()
        found[...] = 0  # the result is the caller's own


def test_foreign_values_are_refused_and_the_worker_lives(worker: Worker) -> None:
    """What has no form in ONNX is a run error before anything is sent."""
    handle = worker.load(identity(tensor(F32)))
    for value in (object(), np.zeros(1, "datetime64[s]"), np.array([1, "a"], object), {"a": object()}):
        with pytest.raises(WorkerError) as caught:
            worker.run(handle, {"x": value})
        assert caught.value.kind == "run"
    assert worker.run(handle, {"x": np.ones(1, np.float32)})[0].tolist() == [1]


# ------------------------------------------------------------------------------------------------ sessions


def test_handles_describe_their_session(worker: Worker) -> None:
    """A handle knows inputs, overridable initializers, outputs, providers; outputs are chosen by name."""
    nodes = [helper.make_node("Add", ["x", "w"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    w = helper.make_tensor("w", F32, [1], [2.0])
    model = build(
        nodes, {"x": tensor(F32, ["N", 3]), "w": tensor(F32, [1])}, {"y": tensor(F32), "z": tensor(F32)}, [w]
    )
    handle = worker.load(model)
    assert worker.inputs(handle) == (("x", "tensor(float)", ("N", 3)),)
    assert [port.name for port in worker.outputs(handle)] == ["y", "z"]
    assert [port.name for port in handle.overridable] == ["w"]
    assert handle.providers == ("CPUExecutionProvider",)
    x = np.zeros((1, 3), np.float32)
    z, y = worker.run(handle, {"x": x, "w": np.ones(1, np.float32)}, ["z", "y"])
    assert z.tolist() == [[-1, -1, -1]] and y.tolist() == [[1, 1, 1]]
    worker.unload(handle)
    with pytest.raises(WorkerError):
        worker.run(handle, {"x": x})


@pytest.mark.parametrize(
    "feeds", [{}, {"x": np.ones(1)}, {"x": np.ones(1, np.float32), "q": np.ones(1)}], ids=str
)
def test_wrong_feeds_are_run_errors_with_orts_words(worker: Worker, feeds: dict[str, Any]) -> None:
    """Missing, mistyped and unknown inputs are run errors that quote ORT, and the worker lives."""
    pid = worker.pid
    with pytest.raises(WorkerError) as caught:
        worker.evaluate(identity(tensor(F32)), feeds)
    assert caught.value.kind == "run" and caught.value.why
    assert worker.pid == pid


def test_a_broken_model_is_a_load_error(worker: Worker, tmp_path: Path) -> None:
    """Bytes that are no model, an empty model and a missing file are load errors, and the worker lives."""
    worker.start()
    pid = worker.pid
    for model in (b"junk", b"", tmp_path / "missing.onnx"):
        with pytest.raises(WorkerError) as caught:
            worker.load(model)
        assert caught.value.kind == "load"
    assert worker.pid == pid


def test_settings_are_applied_as_deployed(worker: Worker) -> None:
    """Settings reach the session: wrong ones are load errors, and providers that are missing are left out."""
    model = identity(tensor(F32))
    good = {
        "providers": [["CUDAExecutionProvider", {}], ["CPUExecutionProvider", {}]],
        "session_options": {"graph_optimization_level": "ORT_ENABLE_ALL"},
        "config_entries": {"session.set_denormal_as_zero": True},
    }
    assert worker.load(model, settings=good).providers == ("CPUExecutionProvider",)
    with pytest.raises(WorkerError, match="cannot load") as caught:
        worker.load(model, settings={"session_options": {"optimized_model_filepath": "/tmp/x"}})
    assert "optimized_model_filepath" in caught.value.why
    sized = {"session_options": {"free_dimension_overrides": {"N": 3}}}
    assert worker.load(identity(tensor(F32, ["N"])), settings=sized).inputs[0].shape == (3,)


def test_flushing_of_denormals_stays_out_of_the_child() -> None:
    """Settings that flush denormals, which ORT applies to a whole process, change no later evaluation."""
    doubled = build([helper.make_node("Add", ["x", "x"], ["y"])], {"x": tensor(F32)}, {"y": tensor(F32)})
    with Worker() as worker:
        worker.load(doubled, settings={"config_entries": {"session.set_denormal_as_zero": "1"}})
        denormal = np.array([5], np.uint32).view(np.float32)
        assert worker.evaluate(doubled, {"x": denormal})[0].view(np.uint32).tolist() == [10]


def test_outputs_outlive_their_session(worker: Worker) -> None:
    """An output that is an initializer or an input is whole even where the session ends before it is sent."""
    weights = np.arange(1 << 18, dtype=np.float32)
    initializer = helper.make_tensor("w", F32, weights.shape, weights.tobytes(), raw=True)
    model = build(
        [helper.make_node("Neg", ["x"], ["y"])],
        {"x": tensor(F32)},
        {"w": tensor(F32), "x": tensor(F32), "y": tensor(F32)},
        [initializer],
    )
    w, x, y = worker.evaluate(model, {"x": weights})
    assert same(w, weights) and same(x, weights) and same(y, -weights)


def test_weights_stay_in_the_file_they_are_in(worker: Worker, tmp_path: Path) -> None:
    """Initializers are read from a ``.onnx`` file itself, at an odd offset, by location and by mapping."""
    weights = np.arange(8, dtype=np.float32)
    file = tmp_path / "original.onnx"
    file.write_bytes(b"abc" + weights.tobytes())
    root, location = external_location(file)
    add = [helper.make_node("Add", ["x", "w"], ["y"])]

    def skeleton(location: str) -> bytes:
        return build(add, {"x": tensor(F32)}, {"y": tensor(F32)}, [external(location, 3, 32, [8])])

    feeds = {"x": np.ones(8, np.float32)}
    mapped = {"w": MappedTensor(file, 3, 32, np.float32, (8,))}
    (tmp_path / "placeholder").touch()
    for found in (
        worker.evaluate(skeleton("original.onnx"), feeds, external_folder=tmp_path),
        worker.evaluate(skeleton(location), feeds, external_folder=root),
        worker.evaluate(skeleton(location), feeds, initializers=mapped),
        worker.evaluate(skeleton("placeholder"), feeds, initializers=mapped, external_folder=tmp_path),
        *(
            worker.run(
                worker.load(
                    skeleton("placeholder"), optimize=level, initializers=mapped, external_folder=tmp_path
                ),
                feeds,
            )
            for level in ("none", "basic", "all")
        ),
    ):
        assert found[0].tolist() == (weights + 1).tolist()


def test_a_model_in_memory_reaches_no_file_unasked(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``external_folder`` no location resolves, and with one, none that leaves it."""
    (tmp_path / "secret").write_bytes(b"\0" * 32)
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path)
    node = [helper.make_node("Identity", ["w"], ["y"])]
    for location, folder in (
        ("secret", None),
        ("../secret", tmp_path / "inside"),
        (str(tmp_path / "secret"), tmp_path),
    ):
        with pytest.raises(WorkerError) as caught:
            worker.evaluate(
                build(node, {}, {"y": tensor(F32)}, [external(location, 0, 32, [8])]),
                {},
                external_folder=folder,
            )
        assert caught.value.kind == "load"


def test_models_load_by_path_wherever_we_are(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is that of the caller, and the external data lies beside the model."""
    weights = np.arange(8, dtype=np.float32)
    (tmp_path / "data.bin").write_bytes(weights.tobytes())
    model = build(
        [helper.make_node("Neg", ["w"], ["y"])], {}, {"y": tensor(F32)}, [external("data.bin", 0, 32, [8])]
    )
    (tmp_path / "m.onnx").write_bytes(model)
    monkeypatch.chdir(tmp_path)
    assert worker.evaluate(Path("m.onnx"), {})[0].tolist() == (-weights).tolist()


# ------------------------------------------------------------------------------------------------ harm


def test_a_crash_is_an_error_and_the_next_request_works() -> None:
    """A child that ends in the middle of a run is a crash; its sessions are gone; the next load works."""
    with Worker() as worker:
        handle = worker.load(endless())
        pid = worker.pid
        assert pid is not None
        threading.Timer(0.3, os.kill, (pid, signal.SIGABRT)).start()
        with pytest.raises(WorkerError) as caught:
            worker.run(handle, {"v": np.float32(1)})
        assert caught.value.kind == "crash" and "SIGABRT" in caught.value.why
        with pytest.raises(WorkerError, match="session is gone") as caught:
            worker.run(handle, {"v": np.float32(1)})
        assert caught.value.kind == "crash"
        worker.unload(handle)
        assert worker.evaluate(identity(tensor(F32)), {"x": np.ones(1, np.float32)})[0].tolist() == [1]
        assert worker.pid not in (None, pid)


def test_a_child_that_dies_between_requests_is_replaced() -> None:
    """Loading after the child died works; handles of the dead child do not come to mean another session."""
    with Worker() as worker:
        model = identity(tensor(F32))
        old = worker.load(model)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        while worker.pid is not None:
            time.sleep(0.01)
        new = worker.load(model)
        assert new.number == old.number
        with pytest.raises(WorkerError) as caught:
            worker.run(old, {"x": np.ones(1, np.float32)})
        assert caught.value.kind == "crash"
        assert worker.run(new, {"x": np.ones(1, np.float32)})


def test_a_hang_is_a_timeout() -> None:
    """A run without end is stopped after the limit, and the child is gone."""
    with Worker(timeout=60) as worker:
        handle = worker.load(endless())
        pid = worker.pid
        with pytest.raises(WorkerError) as caught:
            worker.run(handle, {"v": np.float32(1)}, timeout=0.3)
        assert caught.value.kind == "timeout" and "0.3" in caught.value.why
        assert not process_exists(pid)


@pytest.mark.parametrize("elements", [1 << 28, 1 << 45], ids=["resident", "unobtainable"])
def test_memory_is_limited(elements: int) -> None:
    """Filling a gigabyte under a limit of 200 MiB, or asking for 128 TiB, is a memory error."""
    with Worker(memory_limit=200 << 20) as worker:
        with pytest.raises(WorkerError) as caught:
            worker.evaluate(huge(elements), {})
        assert caught.value.kind == "memory"
        assert worker.evaluate(huge(3), {})[0].tolist() == [1, 1, 1]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, even where the shell that started the tests has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_child_and_leaves_the_worker_usable() -> None:
    """After Ctrl-C in the middle of a run, the late reply is never taken for that of the next request."""
    with Worker() as worker:
        handle = worker.load(endless())
        pid = worker.pid
        threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,)).start()
        with pytest.raises(KeyboardInterrupt):
            worker.run(handle, {"v": np.float32(1)})
        assert not process_exists(pid)
        assert worker.evaluate(huge(2), {})[0].tolist() == [1, 1]


def process_exists(pid: int | None) -> bool:
    """Whether there is a process of that id."""
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int) -> bool:
    """Wait for a process that is not our child (a zombie counts as gone)."""
    state = Path(f"/proc/{pid}/stat")
    for _ in range(500):
        if not process_exists(pid) or (
            state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z"
        ):
            return True
        time.sleep(0.02)
    return False


def test_an_unclosed_worker_leaves_no_process() -> None:
    """Collecting a worker ends its child without a warning."""
    worker = Worker()
    worker.load(identity(tensor(F32)))
    pid = worker.pid
    del worker
    gc.collect()
    assert not process_exists(pid)


PROGRAM = """
    import sys, pathlib, numpy as np
    from compiler.verify.worker import shared_worker
    worker = shared_worker()
    handle = worker.load(pathlib.Path(sys.argv[1]))
    print(worker.pid, flush=True)
    {rest}
"""


def program(rest: str, folder: Path, model: bytes, **options: Any) -> subprocess.Popen[str]:
    """Start a Python program that loads ``model`` and then does ``rest``."""
    (folder / "m.onnx").write_bytes(model)
    root = str(Path(__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r})\n" + textwrap.dedent(PROGRAM).format(rest=rest)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "m.onnx")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize(
    "rest", ["worker.run(handle, {'v': np.float32(1)})", "sys.stdin.read()"], ids=["running", "idle"]
)
def test_the_child_ends_with_its_parent(tmp_path: Path, rest: str) -> None:
    """When the parent is killed, idle or in the middle of a run, the child ends too."""
    parent = program(rest, tmp_path, endless(), stdin=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.2)
    parent.kill()
    parent.communicate()
    assert wait_until_gone(pid)


def test_nothing_reaches_the_terminal_and_our_names_cannot_be_shadowed(tmp_path: Path) -> None:
    """Folders of the user named like ours or like what we import change nothing; output stays clean."""
    for name in ("compiler", "numpy", "json", "passes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('shadowed')\n")
    rest = (
        "print(worker.run(handle, {'x': np.ones(1, np.float32)}), "
        "worker.load(pathlib.Path(sys.argv[1]), settings={}).providers)"
    )
    parent = program(
        rest,
        tmp_path,
        identity(tensor(F32)),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "PYTHONSAFEPATH": "1"},
    )
    out, err = parent.communicate(timeout=60)
    assert out.splitlines()[1:] == ["[array([1.], dtype=float32)] ('CPUExecutionProvider',)"]
    assert err == "" and parent.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_gets_a_child_of_its_own(tmp_path: Path) -> None:
    """After a fork both processes go on: the copy starts its own child and does not touch the other's."""
    with Worker() as worker:
        model, feeds = identity(tensor(F32)), {"x": np.ones(1, np.float32)}
        handle = worker.load(model)
        pid = os.fork()
        if pid == 0:
            try:
                fine = worker.evaluate(model, feeds)[0].tolist() == [1]
                worker.close()
            except BaseException:
                fine = False
            os._exit(0 if fine else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert worker.run(handle, feeds)[0].tolist() == [1]


def test_threads_share_a_worker() -> None:
    """Requests from many threads at once each get their own answer."""
    worker, wrong = shared_worker(), []
    assert shared_worker() is worker
    handle = worker.load(identity(tensor(I64)))

    def ask(number: int) -> None:
        for _ in range(20):
            if worker.run(handle, {"x": np.array([number])})[0].tolist() != [number]:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.unload(handle)
    assert not wrong

"""Hold the laws of kernel tables and limits: they say what ONNX Runtime does, in any state of the cache."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import targets
from targets import TargetError, disk_cache, installed, limits, load_target
from targets import kernels as kernels_module
from targets.kernels import Kernel, KernelTable, kernels
from targets.limits import Limits, probe, runtime_limits
from targets.names import CONFIG_ENTRIES, SESSION_FIELDS

TYPES = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(int64)": TensorProto.INT64,
    "tensor(int32)": TensorProto.INT32,
    "tensor(int8)": TensorProto.INT8,
    "tensor(uint16)": TensorProto.UINT16,
    "tensor(bfloat16)": TensorProto.BFLOAT16,
}

UNARY = [
    "Abs",
    "Ceil",
    "Cos",
    "Elu",
    "Exp",
    "Neg",
    "Not",
    "Relu",
    "Sigmoid",
    "Sign",
    "Sqrt",
    "Tanh",
    "Erf",
    "Identity",
]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this process has read, so that each test starts cold."""
    kernels_module._tables.cache_clear()
    limits._remembered.cache_clear()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a cache folder in which one test run's answers are kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def table(warm: Path) -> KernelTable:
    """Give the CPU provider's kernels."""
    return kernels(cache=warm)


def row(op: str = "Op", first: int = 1, last: int | None = None, **types: tuple[str, ...]) -> Kernel:
    """Make a kernel of the standard domain."""
    return Kernel("", op, first, last, types)


def made(*rows: Kernel, provider: str = "CPUExecutionProvider") -> KernelTable:
    """Make a table."""
    return KernelTable(provider, rows, source="a test")


def loads(op: str, opset: int, kind: int) -> bool:
    """Whether ONNX Runtime opens a model of one unary node."""
    x, y = (helper.make_tensor_value_info(name, kind, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", [x], [y])
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


# The matching rule


def test_open_range_matches_its_first_version_only() -> None:
    """A kernel registered without an upper bound matches exactly the version it starts at."""
    assert [version for version in range(1, 30) if row(first=6).matches(version)] == [6]


def test_closed_range_matches_all_between() -> None:
    """A kernel registered with an upper bound matches every version of its range."""
    assert [version for version in range(1, 30) if row(first=6, last=9).matches(version)] == [6, 7, 8, 9]


def test_constraints_not_mentioned_are_met() -> None:
    """Constraints on inputs that the node leaves out do not matter, nor types that no kernel constrains."""
    kernels_of = made(row(T=("tensor(float)",), M=("tensor(int32)",)))
    assert kernels_of.supports("", "Op", 1, {"T": "tensor(float)", "U": "tensor(bool)"})
    assert not kernels_of.supports("", "Op", 1, {"T": "tensor(float)", "M": "tensor(int64)"})


def test_types_must_fit_one_kernel() -> None:
    """Types that different kernels accept one by one are not supported together."""
    kernels_of = made(row(A=("a",), B=("a",)), row(A=("b",), B=("b",)))
    assert kernels_of.supports("", "Op", 1, {"A": "b", "B": "b"}).kernel == kernels_of.kernels[1]
    assert not kernels_of.supports("", "Op", 1, {"A": "a", "B": "b"})


def test_refusals_say_why() -> None:
    """A refusal names the operator and, if there are any, the versions and types that have kernels."""
    kernels_of = made(row(first=1, last=5, T=("x",)), row(first=6, T=("y",)))
    assert kernels_of.supports("", "Else", 1, {}).reason == "CPUExecutionProvider has no kernel of Else"
    assert kernels_of.supports("", "Op", 7, {}).reason.endswith("of Op at version 7, only at 1-5, 6")
    assert kernels_of.supports("", "Op", 6, {"T": "x"}).reason.endswith(
        "of Op at version 6 for T = x (only y)"
    )
    assert kernels_of.supports("d", "Op", 6, {}).reason.endswith("no kernel of d::Op")
    assert kernels_of.supports("", "Op", 6, {"T": "y"}).reason == ""


def test_standard_domain_has_two_names(table: KernelTable) -> None:
    """``ai.onnx`` is the empty domain."""
    assert table.find("ai.onnx", "Relu", 14) == table.find("", "Relu", 14) != ()


# What the installed runtime says


@pytest.mark.parametrize("op", UNARY)
def test_supported_is_what_loads(table: KernelTable, op: str) -> None:
    """For each version and type of an operator, the table has a kernel exactly if ONNX Runtime opens it."""
    for opset in (9, 13, 22):
        schema = onnx.defs.get_schema(op, opset, "")
        variable, allowed = schema.inputs[0].type_str, schema.inputs[0].types
        for name, kind in TYPES.items():
            if name in allowed:
                answer = table.supports("", op, schema.since_version, {variable: name})
                assert bool(answer) == loads(op, opset, kind), f"{op} {opset} {name}: {answer.reason}"


def test_half_precision_runs_through_float(table: KernelTable) -> None:
    """A half-precision node without a kernel loads where its single-precision form has one."""
    half = {"T": "tensor(float16)"}
    assert not table.supports("", "Sqrt", 13, half)
    assert table.supports_through_float("", "Sqrt", 13, half)
    assert loads("Sqrt", 13, TensorProto.FLOAT16)
    assert not table.supports_through_float("", "Sqrt", 13, {"T": "tensor(bfloat16)"})
    elsewhere = made(row(T=("tensor(float)",)), provider="CUDAExecutionProvider")
    assert not elsewhere.supports_through_float("", "Op", 1, half)


def test_functions_without_kernels(table: KernelTable) -> None:
    """Operators that ONNX Runtime expands have no kernel, though the models load."""
    for op in ("Mish", "HardSwish", "GroupNormalization", "CastLike"):
        assert not table.has_kernel("", op)
    assert table.has_kernel("", "Gelu", 20) and not table.has_kernel("", "Gelu", 21)
    assert loads("Mish", 18, TensorProto.FLOAT)


def test_table_mirrors_the_registry(table: KernelTable) -> None:
    """The table holds every registered kernel, whether read from the registry or from the cache."""
    from onnxruntime.capi import _pybind_state

    registry = [
        (
            entry.domain,
            entry.op_name,
            entry.version_range[0],
            {k: tuple(v) for k, v in entry.type_constraints.items()},
        )
        for entry in _pybind_state.get_all_opkernel_def()
        if entry.provider == "CPUExecutionProvider"
    ]
    assert [(k.domain, k.op, k.first, k.types) for k in table.kernels] == registry
    assert list(table.all_ops()) == sorted({(domain, op) for domain, op, _, _ in registry})
    assert onnxruntime.__version__ in table.source


def test_known_provider_without_data_is_refused(warm: Path) -> None:
    """A provider that is neither installed nor described is refused with what there is."""
    with pytest.raises(TargetError, match="nothing is known") as caught:
        kernels("RknpuExecutionProvider", cache=warm)
    assert caught.value.file == "RknpuExecutionProvider" and "CPUExecutionProvider" in caught.value.hint


def test_unknown_provider_suggests_the_nearest(warm: Path) -> None:
    """A provider that does not exist is answered with the nearest that does."""
    with pytest.raises(TargetError) as caught:
        kernels("CudaExecutionProvider", cache=warm)
    assert caught.value.nearest == "CUDAExecutionProvider"


def test_missing_runtime_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without ONNX Runtime the error says so, and how to get it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for ask in (kernels, probe):
        with pytest.raises(TargetError, match="pip install onnxruntime"):
            ask(cache=tmp_path)


# The cache


def cached(folder: Path, start: str = "") -> list[Path]:
    """List the cache's files."""
    return sorted(path for path in folder.iterdir() if path.name.startswith(start))


def test_warm_start_imports_no_runtime(tmp_path: Path) -> None:
    """A process that finds the cache filled answers without importing ONNX Runtime or starting a child."""
    expected = (len(kernels(cache=tmp_path).kernels), probe(cache=tmp_path))
    code = (
        "import sys, pathlib, subprocess; subprocess.run = None\n"
        "from targets.kernels import kernels; from targets.limits import probe\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "print((len(kernels(cache=folder).kernels), probe(cache=folder)), 'onnxruntime' in sys.modules)"
    )
    root = Path(targets.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"{expected} False"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\x00",
        b'{"source": "x", "types": [], "kernels": [["P", "", "Op", 1, null, {"T": 0}]]}',
        b'{"source": "x", "types": [], "kernels": [["P", "", "Op"]]}',
    ],
)
def test_damaged_cache_is_replaced(tmp_path: Path, damage: bytes) -> None:
    """Whatever a cache file holds, the right answer comes out and the file is right afterwards."""
    right = kernels(cache=tmp_path).kernels
    (file,) = cached(tmp_path)
    good = file.read_bytes()
    file.write_bytes(damage)
    kernels_module._tables.cache_clear()
    assert kernels(cache=tmp_path).kernels == right
    assert file.read_bytes() == good
    assert cached(tmp_path) == [file]


def test_unusable_cache_folder_is_done_without(tmp_path: Path) -> None:
    """A cache folder that is a file, or cannot be made, costs nothing but time."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert kernels(cache=blocked).kernels == kernels(cache=tmp_path / "good").kernels
    assert kernels(cache=blocked / "below").has_kernel("", "Conv")
    assert blocked.read_text() == ""


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails in the last step leaves no file behind, and the answer is still given."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert disk_cache.remembered(dict, lambda: {"a": 1}, key="k", folder=tmp_path) == {"a": 1}
    assert cached(tmp_path) == []


def test_build_of_runtime_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another build of the same version does not read this one's cache."""
    folder = tmp_path / "onnxruntime" / "capi"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder.parent / "__init__.py").write_text("")
    library = folder / "libonnxruntime.so.1"
    library.write_bytes(b"one")

    class Spec:
        submodule_search_locations: Any = (str(folder.parent),)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: Spec)
    before = installed.installed()
    library.write_bytes(b"other")
    assert installed.installed().build != before.build
    assert installed.installed().version == before.version


def test_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder given, the user's cache folder for this program is taken."""
    assert disk_cache.default_folder().name == "ampc"


def test_shipped_data_serve_absent_providers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warm: Path
) -> None:
    """A data file in the stored form makes a provider known that is not installed."""
    kernels_module._shipped.cache_clear()
    kernel = '["QNNExecutionProvider", "", "Conv", 11, 21, {"T": 0}]'
    text = f'{{"source": "a test", "types": [["tensor(float)"]], "kernels": [{kernel}]}}'
    (tmp_path / "QNNExecutionProvider.json").write_text(text)
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    answer = kernels("QNNExecutionProvider", cache=warm)
    assert answer.supports("", "Conv", 11, {"T": "tensor(float)"}) and answer.source == "a test"
    assert not answer.supports("", "Conv", 22, {"T": "tensor(float)"})
    kernels_module._shipped.cache_clear()



def test_a_build_that_cannot_tell_its_kernels_has_those_that_are_shipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where asking the registry ends the process, the CPU provider is known by its data file, and the rest stays."""
    monkeypatch.setattr(kernels_module, "_CHILD", "import os; os.abort()")
    kernels_module._tables.cache_clear()
    table = kernels("CPUExecutionProvider", cache=tmp_path)
    assert table.supports("", "Relu", 14, {"T": "tensor(float)"})
    assert "CPUExecutionProvider" in kernels_module.installed_providers(cache=tmp_path)
    kernels_module._tables.cache_clear()


# Limits


def test_limits_are_exact(warm: Path) -> None:
    """The highest opset and IR version load, and the next higher ones do not."""
    opset, ir_version = runtime_limits(cache=warm)
    for version, above in ((opset, False), (opset + 1, True)):
        assert opens(limits._model(4, "", version)) != above
    for version, above in ((ir_version, False), (ir_version + 1, True)):
        assert opens(limits._model(version, "", 1)) != above
    assert opset >= 13 and ir_version >= 7


def opens(model: bytes) -> bool:
    """Whether ONNX Runtime opens a model, in a process that starts as the probe's child does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


@pytest.mark.parametrize("domain", ["", "ai.onnx.ml"])
def test_probe_models_are_valid(domain: str) -> None:
    """The hand-written protobufs are the models they claim to be, in the eyes of onnx."""
    model = onnx.ModelProto.FromString(limits._model(300, domain, 200))
    assert (model.ir_version, model.opset_import[0].domain, model.opset_import[0].version) == (
        300,
        domain,
        200,
    )
    assert model.graph.node[0].domain == domain and model.graph.input[0].type.tensor_type.elem_type == 1
    onnx.checker.check_model(onnx.ModelProto.FromString(limits._model(8, domain, 1)))


def test_limits_of_domains(warm: Path) -> None:
    """Every probed domain has a limit that comes from its schemas, not from the highest number tried."""
    found = probe(cache=warm)
    assert set(found.max_opset) == {"", "ai.onnx.ml"}
    assert 1 <= found.max_opset["ai.onnx.ml"] < found.max_opset[""] < limits._HIGHEST
    assert found.max_ir < limits._HIGHEST


def test_limits_depend_on_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's switch for unreleased opsets has an answer of its own, which bounds no lower."""
    monkeypatch.delenv(limits._VARIABLE, raising=False)
    released = probe(cache=tmp_path)
    monkeypatch.setenv(limits._VARIABLE, "0")
    unreleased = probe(cache=tmp_path)
    assert len(cached(tmp_path, "limits")) == 2
    assert all(unreleased.max_opset[domain] >= released.max_opset[domain] for domain in released.max_opset)


def test_limits_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child runs once; afterwards the answer comes from memory, then from disk."""
    first = probe(cache=tmp_path)
    monkeypatch.setattr("subprocess.run", None)
    assert probe(cache=tmp_path) is first
    limits._remembered.cache_clear()
    assert probe(cache=tmp_path) == first


def failing(text: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> TargetError:
    """Let the child run another program; return the error that comes of it."""
    monkeypatch.setattr(limits, "_CHILD", text)
    with pytest.raises(TargetError) as caught:
        probe(cache=folder)
    assert cached(folder) == []
    return caught.value


def test_failing_child_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that crashes, hangs or babbles gives an error with what it said, and is not remembered."""
    assert "boom" in failing("raise SystemError('boom')", monkeypatch, tmp_path).why
    assert "could not be tried out" in failing("print('hello')", monkeypatch, tmp_path).why
    assert "exit status -9" in failing("import os; os.kill(os.getpid(), 9)", monkeypatch, tmp_path).why
    refusal = "import json, sys; print(json.dumps({n: ['no'] for n in json.load(sys.stdin)}))"
    assert "loads no version" in failing(refusal, monkeypatch, tmp_path).why
    monkeypatch.setattr(limits, "_SECONDS", 0.2)
    assert "more than 0.2 seconds" in failing("import time; time.sleep(60)", monkeypatch, tmp_path).why


def test_child_ignores_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the current folder does not get in the way of the modules that the child imports."""
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('wrong module')")
    expected = probe(cache=tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert probe(cache=tmp_path / "b") == expected


# What shipped targets set


@pytest.mark.parametrize("name", ["cpu", "cpu_avx", "cpu_avx2", "cpu_avx512", "auto"])
def test_settings_apply_to_the_installed_runtime(name: str) -> None:
    """Every setting of a shipped target is one that the installed ONNX Runtime takes, and keeps."""
    settings: Any = load_target(name).session_settings()
    options = onnxruntime.SessionOptions()
    enumerations = {
        "graph_optimization_level": onnxruntime.GraphOptimizationLevel,
        "execution_mode": onnxruntime.ExecutionMode,
    }
    for key, value in settings["session_options"].items():
        wanted = getattr(enumerations[key], value) if key in enumerations else value
        setattr(options, key, wanted)
        assert getattr(options, key) == wanted
    for key, value in settings["config_entries"].items():
        options.add_session_config_entry(key, value)
        assert key in CONFIG_ENTRIES
    providers = [provider for provider, _ in settings["providers"]]
    assert set(providers) <= set(onnxruntime.get_available_providers())


def test_session_fields_exist_in_the_installed_runtime() -> None:
    """Every field in the table is an attribute of ``SessionOptions``, of the stated type or enumerators."""
    options = onnxruntime.SessionOptions()
    for name, kind in SESSION_FIELDS.items():
        value = getattr(options, name)
        if isinstance(kind, tuple):
            assert set(kind) == set(type(value).__members__)
        else:
            assert type(value) is kind


def test_cache_files_are_private(tmp_path: Path) -> None:
    """Cache files are the user's own: nobody else can write them."""
    disk_cache.remembered(Limits, lambda: Limits({"": 1}, 1), key="k", folder=tmp_path)
    if os.name == "posix":
        assert not stat.S_IMODE((tmp_path / "k.json").stat().st_mode) & 0o022

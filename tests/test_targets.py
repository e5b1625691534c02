"""Hold the laws of target files: what is read is what was written, and mistakes are named with their cure."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import targets
from targets import TargetError, list_targets, load_target, schema
from targets.errors import nearest
from targets.names import CONFIG_ENTRIES, PROVIDERS, SESSION_FIELDS
from targets.quantity import Bandwidth, Duration, Quantity, Size, Throughput

Write = Callable[..., str]
Install = Callable[..., None]

CPU_TARGETS = ["cpu", "cpu_avx", "cpu_avx2", "cpu_avx512"]

MINIMAL = """
name = "mine"
summary = "a test"
[machine]
cores = 2
bandwidth = "10 GB/s"
launch = "1 us"
flops = { f32 = "10 GF/s/core" }
[runtime]
providers = [["CPUExecutionProvider", {}]]
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a target file and gives its path."""

    def write_file(text: str, name: str = "mine.toml") -> str:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return str(path)

    return write_file


def failure(path: str) -> TargetError:
    """Load a target that must be refused; return the error, whose text must hold all of its parts."""
    with pytest.raises(TargetError) as caught:
        load_target(path)
    error = caught.value
    for part in (error.file, error.key, error.why, error.nearest, error.hint):
        assert part in str(error)
    return error


# Shipped targets


@pytest.mark.parametrize("name", CPU_TARGETS)
def test_shipped_target_loads_under_its_name(name: str) -> None:
    """Every shipped target loads, knows its name and file, and runs on the CPU provider alone."""
    target = load_target(name)
    assert target.name == name
    assert Path(target.source).name == f"{name}.toml"
    assert [provider for provider, _ in target.runtime.providers] == ["CPUExecutionProvider"]
    assert not target.detected


def test_shipped_targets_extend_one_level_only() -> None:
    """A shipped target extends one that extends nothing, so that a user's file can extend any of them."""
    for name in CPU_TARGETS:
        parent = load_target(name).extends
        assert parent == "" or load_target(parent).extends == ""


def test_richer_instruction_sets_compute_faster() -> None:
    """The order of the CPU targets is the order of their arithmetic rates."""
    targets_in_order = [load_target(name).machine.flops for name in CPU_TARGETS]
    for slower, faster in pairwise(targets_in_order):
        assert all(slower[kind] < faster[kind] for kind in slower)


def test_list_names_every_target_and_no_problem() -> None:
    """The list holds ``auto`` first, then every shipped target, each with a summary."""
    listed = list_targets()
    assert [summary.name for summary in listed][: 1 + len(CPU_TARGETS)] == ["auto", *CPU_TARGETS]
    assert all(summary.summary and not summary.problem for summary in listed)


def test_settings_survive_json() -> None:
    """Session settings are plain values: JSON gives them back unchanged."""
    for name in CPU_TARGETS:
        settings = load_target(name).session_settings()
        assert json.loads(json.dumps(settings)) == settings
        assert list(settings) == ["providers", "session_options", "config_entries"]


def test_settings_of_cpu_target() -> None:
    """Settings separate fields from config entries and resolve the word for the number of threads."""
    settings = load_target("cpu_avx2").session_settings()
    assert settings["providers"] == [["CPUExecutionProvider", {}]]
    assert settings["session_options"] == {
        "graph_optimization_level": "ORT_ENABLE_ALL",
        "intra_op_num_threads": 0,
        "execution_mode": "ORT_SEQUENTIAL",
    }
    assert settings["config_entries"] == {"session.set_denormal_as_zero": "1"}


def test_weights_are_reduced_only_where_products_saturate() -> None:
    """Seven-bit weights are asked for without VNNI and not with it."""
    assert load_target("cpu_avx2").reduce_range
    assert not load_target("cpu_avx512").reduce_range


def test_every_key_is_documented() -> None:
    """Every class and field of the schema has a docstring, since those are the manual."""
    tree = ast.parse(inspect.getsource(schema))
    for node in [item for item in tree.body if isinstance(item, ast.ClassDef)]:
        assert ast.get_docstring(node), node.name
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert documented or not isinstance(field, ast.AnnAssign), f"{node.name}: {ast.unparse(field)}"


def test_targets_are_frozen() -> None:
    """A loaded target cannot be changed by whoever it is handed to."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_target("cpu").name = "other"  # type: ignore[misc]


def test_importing_targets_imports_no_runtime() -> None:
    """Loading and listing targets imports no runtime, no onnx, no numpy and nothing of the compiler."""
    code = (
        "import sys, targets; targets.load_target('auto'); targets.list_targets();"
        "heavy = {'onnxruntime', 'onnx', 'numpy', 'compiler', 'passes', 'tools'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = Path(targets.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# Files of the user's own


def test_minimal_file_loads(write: Write) -> None:
    """A file with only the required keys is a target, and the rest has its defaults."""
    target = load_target(write(MINIMAL))
    assert (target.name, target.extends, target.machine.isa, target.pipeline.passes) == ("mine", "", (), ())
    assert target.machine.bandwidth.value == 10e9
    assert target.machine.flops["f32"].total(2) == 20e9
    assert target.session_settings()["config_entries"] == {}


def test_file_extends_shipped_target(write: Write) -> None:
    """Tables merge key by key with those of the extended target; lists and values are replaced."""
    path = write("""
        name = "mine"
        extends = "cpu_avx2"
        summary = "ours"
        [machine]
        isa = ["avx2"]
        flops = { f32 = "99 GF/s/core" }
        [runtime.session]
        "session.intra_op.allow_spinning" = "0"
        [pipeline]
        passes = ["fold", "fuse{limit=10}"]
    """)
    target, parent = load_target(path), load_target("cpu_avx2")
    assert (target.name, target.extends, target.summary) == ("mine", "cpu_avx2", "ours")
    assert target.machine.isa == ("avx2",)
    assert target.machine.flops["f32"].value == 99e9
    assert target.machine.flops["i8"] == parent.machine.flops["i8"]
    assert target.runtime.session == parent.runtime.session | {"session.intra_op.allow_spinning": "0"}
    assert target.pipeline.passes == ("fold", "fuse{limit=10}")
    assert "session.intra_op.allow_spinning" not in load_target("cpu_avx2").runtime.session


def test_file_extends_file_beside_it(write: Write) -> None:
    """A path in ``extends`` starts at the file that says it, wherever the current directory is."""
    write(MINIMAL.replace('"mine"', '"below"'), "below.toml")
    target = load_target(write('name = "mine"\nextends = "below.toml"\nsummary = "s"'))
    assert target.machine.cores == 2


def test_every_provider_is_accepted(write: Write) -> None:
    """A target can be written for any provider of ONNX Runtime."""
    for name in PROVIDERS:
        target = load_target(write(MINIMAL.replace('["CPUExecutionProvider", {}]', f'["{name}", {{}}]')))
        assert target.session_settings()["providers"] == [[name, {}]]


def test_options_of_providers_are_texts(write: Write) -> None:
    """Options may have any plain type, and ONNX Runtime gets them as the texts that it reads."""
    options = '{ anything = 0, goes = true, to = 0.5, a = "library" }'
    text = MINIMAL.replace('["CPUExecutionProvider", {}]', f'["VitisAIExecutionProvider", {options}]')
    target = load_target(write(text))
    expected = {"anything": "0", "goes": "1", "to": "0.5", "a": "library"}
    assert target.session_settings()["providers"] == [["VitisAIExecutionProvider", expected]]


def test_gpu_sized_machine_needs_no_new_keys(write: Write) -> None:
    """Device-wide rates, TB/s and fallback chains of providers are expressible."""
    text = MINIMAL.replace('"10 GF/s/core"', '"60 TF/s"').replace('"10 GB/s"', '"3.3 TB/s"')
    text = text.replace('[["CPU', '[["CUDAExecutionProvider", {}], ["CPU')
    target = load_target(write(text))
    assert target.machine.flops["f32"].total(64) == 60e12
    assert [name for name, _ in target.runtime.providers] == ["CUDAExecutionProvider", "CPUExecutionProvider"]


# Mistakes

MISTAKES = [
    ("cores = 2", "core = 2", "machine.core", "cores"),
    ("[machine]", "[machin]", "machin", "machine"),
    ('"10 GB/s"', "10", "machine.bandwidth", ""),
    ('"10 GB/s"', '"10"', "machine.bandwidth", ""),
    ('"10 GB/s"', '"10 GB"', "machine.bandwidth", ""),
    ('"10 GB/s"', '"0 GB/s"', "machine.bandwidth", ""),
    ('"1 us"', '"1 GB/s"', "machine.launch", ""),
    ("f32 =", "fp32 =", "machine.flops.fp32", "f32"),
    ('"10 GF/s/core"', "10.5", "machine.flops.f32", ""),
    ("cores = 2", 'cores = "2"', "machine.cores", ""),
    ("cores = 2", "cores = 2.5", "machine.cores", ""),
    ("cores = 2", "cores = true", "machine.cores", ""),
    ("cores = 2", "cores = 0", "machine.cores", ""),
    ("cores = 2", 'cores = 2\nisa = "avx"', "machine.isa", ""),
    ("cores = 2", "cores = 2\nisa = [1]", "machine.isa[0]", ""),
    ("cores = 2", 'cores = 2\nisa = ["avx", "avx-2"]', "machine.isa[1]", "avx2"),
    ("cores = 2", 'cores = 2\nisa = ["avx512-vnni"]', "machine.isa[0]", "avx512_vnni"),
    (
        "{}]]",
        "{}]]\n[numerics.int8]\nactivations = 'u8'\nweights = 's8'\nper_channel = true\nexact_with = ['avxvnni']",
        "numerics.int8.exact_with[0]",
        "avx_vnni",
    ),
    ("cores = 2", "cores = 2\ncaches = { l1 = '1 KiB' }", "machine.caches.l1", "l1d"),
    ("cores = 2", "cores = 2\ncaches = 3", "machine.caches", ""),
    ("CPUExecutionProvider", "CPUExcutionProvider", "runtime.providers[0]", "CPUExecutionProvider"),
    ("CPUExecutionProvider", "CoreML", "runtime.providers[0]", "CoreMLExecutionProvider"),
    ('[["CPUExecutionProvider", {}]]', "[]", "runtime.providers", ""),
    ('[["CPUExecutionProvider", {}]]', '["CPUExecutionProvider"]', "runtime.providers[0]", ""),
    ('[["CPUExecutionProvider", {}]]', '[["CPUExecutionProvider"]]', "runtime.providers[0]", ""),
    ("{}]]", '{}], ["CPUExecutionProvider", {}]]', "runtime.providers[1]", ""),
    ("{}]]", "{ device = [1] }]]", "runtime.providers[0][1].device", ""),
    ("{}]]", "{}]]\nopset = { max = 0 }", "runtime.opset.max", ""),
    ("{}]]", "{}]]\nopset = { min = 20, max = 18 }", "runtime.opset.min", ""),
    ("{}]]", "{}]]\nopset = { max = 18, prefer = 19 }", "runtime.opset.prefer", ""),
    ("{}]]", "{}]]\nopset = { maximum = 18 }", "runtime.opset.maximum", "max"),
    ("{}]]", "{}]]\nopset = { known = 0 }", "runtime.opset.known", ""),
    ("{}]]", "{}]]\nir_version = { max = -1 }", "runtime.ir_version.max", ""),
    ("{}]]", "{}]]\nir_version = { max = 3 }", "runtime.ir_version.max", ""),
    ("{}]]", '{}]]\n[numerics]\nfloats = ["fp16"]', "numerics.floats[0]", "f16"),
    ("{}]]", "{}]]\n[numerics]\nint8 = { activations = 'u8' }", "numerics.int8.weights", ""),
    ("{}]]", "{}]]\n[pipeline]\npasses = 'fold'", "pipeline.passes", ""),
    ('name = "mine"', 'name = "My Target"', "name", ""),
    ('name = "mine"', 'name = "auto"', "name", ""),
    ('name = "mine"', 'name = "cpu_avx2"', "name", ""),
    ('name = "mine"', "", "name", ""),
    ('summary = "a test"', "", "summary", ""),
    ('summary = "a test"', 'summary = "s"\ndetected = true', "detected", ""),
    ('summary = "a test"', 'summary = "s"\nextends = "cpu_avx3"', "extends", "cpu_avx"),
    ('summary = "a test"', 'summary = "s"\nextends = "auto"', "extends", ""),
    ('summary = "a test"', 'summary = "s"\nextends = ["cpu"]', "extends", ""),
    ('summary = "a test"', 'summary = "s"\nextends = "mine.toml"', "extends", ""),
]


@pytest.mark.parametrize(("right", "wrong", "key", "near"), MISTAKES)
def test_mistake_is_named_with_file_key_and_cure(write: Write, right: str, wrong: str, key: str, near: str) -> None:
    """Every mistake in a file is reported with the file, the dotted key and the nearest valid name."""
    assert right in MINIMAL
    path = write(MINIMAL.replace(right, wrong))
    error = failure(path)
    assert (error.file, error.key) == (path, key)
    if near:
        assert error.nearest.startswith(near)
    assert error.why


SESSION_MISTAKES = [
    ("intra_op_threads = 1", "intra_op_threads", "intra_op_num_threads"),
    ('intra_op_num_threads = "logical"', "intra_op_num_threads", ""),
    ("intra_op_num_threads = -1", "intra_op_num_threads", ""),
    ("intra_op_num_threads = true", "intra_op_num_threads", ""),
    ("enable_mem_pattern = 1", "enable_mem_pattern", ""),
    ('execution_mode = "SEQUENTIAL"', "execution_mode", "ORT_SEQUENTIAL"),
    ("graph_optimization_level = 99", "graph_optimization_level", ""),
    ('optimized_model_filepath = "x.onnx"', "optimized_model_filepath", ""),
    ('set_denormal_as_zero = "1"', "set_denormal_as_zero", "session.set_denormal_as_zero"),
    (
        '"session.set_denormals_as_zero" = "1"',
        '"session.set_denormals_as_zero"',
        "session.set_denormal_as_zero",
    ),
    ('"session.set_denormal_as_zero" = 1', '"session.set_denormal_as_zero"', ""),
    ('"session.set_denormal_as_zero" = true', '"session.set_denormal_as_zero"', ""),
]


@pytest.mark.parametrize(("line", "key", "near"), SESSION_MISTAKES)
def test_session_mistake_is_named(write: Write, line: str, key: str, near: str) -> None:
    """Session settings that ONNX Runtime would refuse, or ignore, are refused when the file is loaded."""
    path = write(f"{MINIMAL}\n[runtime.session]\n{line}\n")
    error = failure(path)
    assert (error.file, error.key, error.nearest) == (path, f"runtime.session.{key}", near)


def test_new_config_entries_are_let_through(write: Write) -> None:
    """A config entry that resembles no known one is accepted, since every release adds some."""
    path = write(f'{MINIMAL}\n[runtime.session]\n"session.quantum_annealing" = "1"\n')
    assert load_target(path).runtime.session == {"session.quantum_annealing": "1"}


def test_quantity_mistake_lists_units(write: Write) -> None:
    """A bare number is answered with the units and an example."""
    error = failure(write(MINIMAL.replace('"10 GB/s"', "40")))
    assert "40" in error.why and "GB/s, TB/s" in error.why and '"40 GB/s"' in error.why


def test_error_names_the_file_the_key_came_from(write: Write) -> None:
    """After ``extends``, a mistake is blamed on the file that holds it."""
    below = write(MINIMAL.replace('"mine"', '"below"').replace('"1 us"', "1"), "below.toml")
    above = write('name = "mine"\nextends = "below.toml"\nsummary = "s"\n[machine]\ncores = 4')
    assert failure(above).file == below
    below_is_fine = write(MINIMAL.replace('"mine"', '"below"'), "below.toml")
    above = write('name = "mine"\nextends = "below.toml"\nsummary = "s"\n[machine]\ncores = "4"')
    assert below_is_fine == below
    assert failure(above).file == above


def test_chains_end_after_three_files(write: Write) -> None:
    """A file may extend one that extends another, and no further."""
    write(MINIMAL.replace('"mine"', '"a"'), "a.toml")
    write('name = "b"\nextends = "a.toml"\nsummary = "s"', "b.toml")
    write('name = "c"\nextends = "b.toml"\nsummary = "s"', "c.toml")
    assert load_target(write('name = "d"\nextends = "b.toml"\nsummary = "s"', "d.toml")).machine.cores == 2
    error = failure(write('name = "d"\nextends = "c.toml"\nsummary = "s"', "d.toml"))
    assert error.key == "extends" and Path(error.file).name == "b.toml"
    assert "a.toml" in error.why


def test_unknown_target_suggests_the_nearest() -> None:
    """A name that is no target's is answered with the nearest and the list of all."""
    error = failure("cpu_avx215")
    assert error.nearest == "cpu_avx2"
    assert "auto" in error.hint and "cpu_avx512" in error.hint


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """A file that is missing, a folder, not text or not TOML is reported as that, with its path."""
    missing = tmp_path / "missing.toml"
    assert "No such file" in failure(str(missing)).why
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert failure(str(folder)).file == str(folder)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in failure(str(tmp_path / "binary.toml")).why
    (tmp_path / "broken.toml").write_text('name = "x"\nname = = 3\n', encoding="utf-8")
    assert "line 2" in failure(str(tmp_path / "broken.toml")).why


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda x: st.lists(x, max_size=3)))
def test_any_value_anywhere_gives_a_target_error(value: object) -> None:
    """Whatever value stands at a key, decoding succeeds or raises ``TargetError``, and nothing else."""
    from targets.decode import decode

    for key in ("machine", "runtime", "numerics", "pipeline", "name", "extends"):
        with pytest.raises(TargetError):
            decode({key: value}, schema.Target, origin=lambda path: "f")


# Quantities


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Size, "48 KiB", 49152),
        (Size, "1.5MiB", 1572864),
        (Size, "2 GB", 2e9),
        (Duration, "2 us", 2e-6),
        (Duration, "2 µs", 2e-6),
        (Bandwidth, " 40 GB/s ", 40e9),
        (Throughput, "120 GF/s/core", 120e9),
        (Throughput, "480 Gop/s", 480e9),
    ],
)
def test_quantity_is_its_number_times_its_unit(kind: type[Quantity], text: str, value: float) -> None:
    """A quantity's value is in base units, and it prints as it was written."""
    quantity = kind.parse(text)
    assert quantity.value == pytest.approx(value)
    assert str(quantity) == text.strip()


@pytest.mark.parametrize(
    "text",
    ["", "40", "GB/s", "-1 GB/s", "1e3 GB/s", "0 GB/s", "1 gb/s", "1 GB/s x", 40, None, "9" * 400 + " GB/s"],
)
def test_quantity_without_a_number_and_unit_is_refused(text: object) -> None:
    """What is not a positive number and a valid unit is refused with the units that are valid."""
    with pytest.raises(ValueError, match=r"MB/s, GB/s, TB/s"):
        Bandwidth.parse(text)


@given(st.integers(1, 2**50))
def test_computed_sizes_print_as_sizes(count: int) -> None:
    """A computed size prints as text that parses back to (six digits of) the same size."""
    assert Size.parse(str(Size(float(count)))).value == pytest.approx(count, rel=1e-5)


def test_rates_per_core_grow_with_cores() -> None:
    """Only a rate per core depends on the number of cores."""
    assert Throughput.parse("2 GF/s/core").total(8) == 16e9
    assert Throughput.parse("2 GF/s").total(8) == 2e9


def test_nearest_ignores_case_and_stops_at_the_unlike() -> None:
    """A suggestion is made for what is alike in any case, and none for what is not."""
    assert nearest("cpuexecutionprovider", PROVIDERS) == "CPUExecutionProvider"
    assert nearest("zzz", PROVIDERS) == ""


def test_known_names_are_sorted_and_unique() -> None:
    """The tables of names hold every name once, and config entries are dotted while fields are not."""
    assert list(CONFIG_ENTRIES) == sorted(set(CONFIG_ENTRIES))
    assert len(set(PROVIDERS)) == len(PROVIDERS)
    assert all("." in name for name in CONFIG_ENTRIES) and not any("." in name for name in SESSION_FIELDS)


# Plugins


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a distribution with entry points for targets."""

    def install(distribution: str, points: str, **files: str) -> None:
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[ampc.targets]\n{points}\n")
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def board(name: str) -> str:
    """Return a target file for a plugin."""
    return f'name = "{name}"\nextends = "cpu_avx2"\nsummary = "a board"\n'


def test_plugin_gives_a_path(plugin: Install) -> None:
    """An entry point may be a path, and its target extends shipped ones, loads and is listed."""
    module = "from pathlib import Path\nfile = str(Path(__file__).with_name('b1.toml'))\n"
    plugin("boards1", "board1 = boards1:file", boards1_dot_py=module, b1_dot_toml=board("board1"))
    assert load_target("board1").machine.flops == load_target("cpu_avx2").machine.flops
    assert list_targets()[-1].name == "board1"


def test_plugin_gives_a_package_or_module(plugin: Install) -> None:
    """An entry point may be a package that holds ``<name>.toml``, or a module that it lies beside."""
    files = {
        "boards2__board2_dot_toml": board("board2"),
        "board3_dot_toml": board("board3"),
        "boards3_dot_py": "",
    }
    plugin("boards2", "board2 = boards2\nboard3 = boards3", **files)
    assert load_target("board2").name == "board2"
    assert load_target("board3").name == "board3"


def test_plugin_with_a_taken_name_is_an_error(plugin: Install) -> None:
    """A plugin that takes a shipped name is reported with both owners, whatever is loaded."""
    plugin("boards4", "cpu_avx2 = boards4")
    error = failure("cpu")
    assert "cpu_avx2" in error.why and "boards4" in error.why and "ampc itself" in error.why


def test_two_plugins_with_one_name_are_an_error(plugin: Install) -> None:
    """Two plugins that take the same name are reported with both distributions."""
    plugin("boards5", "board5 = boards5")
    plugin("boards6", "board5 = boards6")
    error = failure("cpu")
    assert "boards5" in error.why and "boards6" in error.why


def test_broken_plugin_is_named_and_harms_nobody_else(plugin: Install) -> None:
    """A plugin that fails to load is named by the list and by its own load; other targets still load."""
    plugin("boards7", "board7 = boards7\nboard8 = boards8:x", boards7_dot_py="1/0", boards8_dot_py="x = 3")
    assert load_target("cpu").name == "cpu"
    assert "ZeroDivisionError" in failure("board7").why and "boards7" in failure("board7").file
    assert "int" in failure("board8").why
    problems = {summary.name: summary.problem for summary in list_targets()}
    assert "division" in problems["board7"] and not problems["cpu"]


def test_plugin_file_must_bear_the_entry_points_name(plugin: Install) -> None:
    """A file found by one name that says another is refused, since reports would name neither."""
    plugin("boards9", "board9 = boards9", boards9_dot_py="", board9_dot_toml=board("other"))
    assert failure("board9").key == "name"


def test_extensions_of_processors_to_come_are_let_through(write: Write) -> None:
    """What resembles no known extension is taken as it is, and so is what any system reports of itself."""
    for name in ("zvbb", "avx512_bf16", "sme2"):
        assert load_target(write(MINIMAL.replace("cores = 2", f'cores = 2\nisa = ["{name}"]'))).machine.isa == (name,)

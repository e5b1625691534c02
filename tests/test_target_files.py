"""Hold the laws of the shipped target files and of the tables behind them: all load, each value has its reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest

from compiler.errors import InputError
from compiler.planning import plan
from compiler.settings import override
from targets import TargetError, load_target
from targets.catalog import catalog
from targets.kernels import ANY_VERSION, FIRST_OPERAND, Kernel, KernelTable, generate, kernels
from targets.kernels.demands import demands
from targets.kernels.operators import known_operators
from targets.names import PROVIDERS
from targets.provider_options import OPTIONS, VALUES

ROOT = Path(__file__).resolve().parent.parent / "targets"
NAMES = [
    "cpu", "cpu_avx", "cpu_avx2", "cpu_avx512", "cpu_avx512_novnni", "cpu_openvino", "gpu_cuda", "gpu_mps",
    "gpu_tensorrt", "mobile_cpu", "mobile_gpu", "mobile_gpu_qnn", "npu", "npu_coreml", "npu_nnapi", "npu_openvino",
]  # fmt: skip
DATA = sorted(path.stem for path in (ROOT / "kernels").glob("*.json"))


def test_all_targets_are_there() -> None:
    """The shipped files are those that are promised."""
    assert [path.stem for path in sorted(ROOT.glob("*.toml"))] == NAMES
    assert set(NAMES) <= set(catalog())


def test_kernels_are_of_types_that_operators_take() -> None:
    """No table says that a kernel takes only types that the operator, at the versions it is for, never has."""
    history: dict[str, list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        history.setdefault(schema.name, []).extend([] if schema.domain else [schema])
    for provider in set(DATA) - {"CPUExecutionProvider"}:  # whose table the runtime itself states
        for kernel in kernels(provider).kernels:
            for schema in [] if kernel.domain else history.get(kernel.op, []):
                if kernel.matches(schema.since_version):
                    assert not _never(kernel, schema), (provider, kernel, schema.since_version)


def _never(kernel: Kernel, schema: onnx.defs.OpSchema) -> list[str]:
    """Return the type variables for which a kernel takes nothing that the operator has; tensors only."""
    taken = {c.type_param_str: {*c.allowed_type_strs} for c in schema.type_constraints}
    return [n for n, types in kernel.types.items() if taken.get(n, {*types}).isdisjoint(types) and n != "O"]


@pytest.mark.parametrize("name", NAMES)
def test_target_ends_on_the_processor(name: str) -> None:
    """Every chain of providers ends with the one that runs everything, and its first one is known."""
    target = load_target(name)
    assert target.runtime.providers[-1] == ("CPUExecutionProvider", {})
    assert kernels(target.runtime.providers[0][0]).kernels
    assert not target.runtime.options
    assert json.loads(json.dumps(target.session_settings())) == target.session_settings()


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_its_reason(name: str) -> None:
    """Each option of a provider, each session setting and each bound of the opset stands under a comment."""
    lines = (ROOT / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    assert all(len(line) <= 120 for line in lines)
    table = ""
    for before, line in zip(["", *lines], lines, strict=False):
        if header := re.fullmatch(r"\[(.+)\]", line):
            table = header[1]
        elif "=" in line and not line.startswith("#") and table.startswith("runtime.options"):
            assert before.startswith("#") or "#" in line, f"{name}: {line}"


def test_extending_files_change_single_options(tmp_path: Path) -> None:
    """A file of the user's own changes one option of a provider and keeps the others."""
    path = tmp_path / "mine.toml"
    text = 'name = "mine"\nextends = "npu"\nsummary = "x"\n[runtime.options.QNNExecutionProvider]\nsoc_model = "57"\n'
    path.write_text(text)
    options = dict(load_target(str(path)).runtime.providers)["QNNExecutionProvider"]
    assert options == dict(load_target("npu").runtime.providers)["QNNExecutionProvider"] | {"soc_model": "57"}


MISTAKES = [
    ("runtime.options.QNNExecutionProvider.htp_performence_mode = '1'", "htp_performence_mode", "htp_performance_mode"),
    ("runtime.options.QNNExecutionProvider.htp_performance_mode = 'burts'", "htp_performance_mode", "burst"),
    ("runtime.options.QNExecutionProvider.backend_type = 'htp'", "QNExecutionProvider", "QNNExecutionProvider"),
    ("constraints.lacks = ['ReduceProdd']", "constraints.lacks[0]", "ReduceProd"),
    ("constraints.contrib = ['QuickGellu']", "constraints.contrib[0]", "QuickGelu"),
    ("constraints.contrib = ['com.microsoft::QuickGelu']", "constraints.contrib[0]", "QuickGelu"),
    ("constraints.lacks = ['com.microsoft::QuickGellu']", "constraints.lacks[0]", "com.microsoft::QuickGelu"),
    ("runtime.options.CUDAExecutionProvider.device_id = '1'", "runtime.options.CUDAExecutionProvider", ""),
    ("constraints.constant_weights = ['Convv']", "constraints.constant_weights[0]", "Conv"),
    ("constraints.max_ranks = 3", "constraints.max_ranks", "max_rank"),
    ("constraints.max_rank = 0", "constraints.max_rank", ""),
]


@pytest.mark.parametrize(("line", "key", "near"), MISTAKES)
def test_mistake_is_named(tmp_path: Path, line: str, key: str, near: str) -> None:
    """A wrong option, provider, operator or key is refused with file, key and the nearest valid name."""
    path = tmp_path / "mine.toml"
    path.write_text(f'{line}\nname = "mine"\nextends = "npu"\nsummary = "x"\n')
    with pytest.raises(TargetError) as caught:
        load_target(str(path))
    assert caught.value.file == str(path) and key in caught.value.key and caught.value.nearest == near


def test_a_byte_order_mark_is_nothing(tmp_path: Path) -> None:
    """A file as editors of some systems save it, with a mark before the first line, reads like any other."""
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "mine"\nextends = "npu"\nsummary = "x"\n')
    assert load_target(str(path)).name == "mine"


def test_wrong_pass_of_a_target_is_named(tmp_path: Path) -> None:
    """A pass that there is not is refused with the file, the key and the nearest pass."""
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nextends = "cpu"\nsummary = "x"\npipeline.passes = ["fold", "canonicalise"]\n')
    with pytest.raises(InputError) as caught:
        plan(None, target=load_target(str(path)))
    assert str(path) in caught.value.where and "pipeline.passes[1]" in caught.value.where
    assert "canonicalize" in caught.value.hint


# Tables


@pytest.mark.parametrize("provider", DATA)
def test_shipped_operators_exist(provider: str) -> None:
    """Data files are of providers that there are, and nearly all of their operators are of the standard or known."""
    assert provider in PROVIDERS
    table = kernels(provider)
    assert table.provider == provider and table.source
    named = {op for domain, op in table.all_ops() if not domain}
    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert len(named & standard) >= 0.8 * len(named)


def test_demands_speak_of_operators_as_they_are() -> None:
    """Operands, attributes and operators in the demands are those of the standard, and of the provider's table."""
    for provider, by_operator in demands().items():
        table = kernels(provider)
        for op, wanted in by_operator.items():
            schema = onnx.defs.get_schema(op, 26)
            operands = {formal.name for formal in schema.inputs}
            assert {*wanted.constant, *wanted.absent, *wanted.operand_ranks} <= operands, f"{provider} {op}"
            assert set(wanted.attributes) <= set(schema.attributes), f"{provider} {op}"
            assert table.has_kernel("", op), f"{provider} {op}"


def test_options_with_words_exist() -> None:
    """Options whose words are known are options, and the targets' own providers are in the table."""
    assert all(option in OPTIONS[provider] for provider, option in VALUES)
    used = {name for target in NAMES for name, _ in load_target(target).runtime.providers}
    assert used <= set(OPTIONS)


def test_any_version_and_first_operand() -> None:
    """A compiling provider's operator matches all versions, and its types are about the first operand."""
    rows = (Kernel("", "Op", 1, ANY_VERSION, {FIRST_OPERAND: ("tensor(float)",)}),)
    table = KernelTable("QNNExecutionProvider", rows, source="a test")
    assert table.supports("", "Op", 7, {"T": "tensor(float)", "U": "tensor(int64)"})
    refusal = table.supports("", "Op", 22, {"T": "tensor(double)"})
    assert not refusal and "first operand" in refusal.reason
    assert table.supports("", "Op", 1, {})


def test_generator_reads_facts(tmp_path: Path) -> None:
    """The generator writes what ``kernels`` reads, without types that need an option, and refreshes live tables."""
    said = {"domains": ["ai.onnx"], "versions": ["1-10", "11+"], "dtypes": {"T": ["float", "seq(float", "int8_t"]}}
    loose = {"domains": ["ai.onnx"], "dtypes": {"HTP": ["uint8", "bf16 (htp_bf16_enable)"]}}
    facts = {
        "CUDAExecutionProvider": {"Conv": said, "com.microsoft:Odd": said, "_global": said},
        "TensorrtExecutionProvider": {"Relu": {"domains": ["ai.onnx"], "dtypes": {"T": ["FP32", "INF64"]}}},
        "QNNExecutionProvider": {"Relu": loose, "Where": loose},
    }
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(facts))
    generate.main([str(path), "--into", str(tmp_path), "--installed", "CPUExecutionProvider"])
    cuda = json.loads((tmp_path / "CUDAExecutionProvider.json").read_text())
    assert cuda["types"] == [["tensor(float)", "tensor(int8)"]]
    assert [row[1:5] for row in cuda["kernels"]] == [
        ["", "Conv", 1, 10],
        ["", "Conv", 11, None],
        ["com.microsoft", "Odd", 1, 10],
        ["com.microsoft", "Odd", 11, None],
    ]
    qnn = json.loads((tmp_path / "QNNExecutionProvider.json").read_text())
    kinds = {row[2]: qnn["types"][row[5]["*"]] for row in qnn["kernels"] if row[2] in ("Relu", "Where")}
    assert kinds == {"Relu": ["tensor(uint8)"], "Where": ["tensor(bool)"]}
    live = json.loads((tmp_path / "CPUExecutionProvider.json").read_text())
    assert len(live["kernels"]) == len(kernels().kernels)


def test_known_operators_cover_the_standard() -> None:
    """Names in target files are checked against nearly all operators of the standard."""
    standard = {s.name for s in onnx.defs.get_all_schemas() if s.domain == "" and s.since_version < 18}
    assert len(standard - {op for domain, op in known_operators() if not domain}) < 0.15 * len(standard)


def test_device_and_precision_are_overridden() -> None:
    """The number of the GPU and the switch for f16 reach the options of those providers that have them."""
    config = {"enable_tensorrt": True, "gpu_device_id": 1, "enable_fp16": True}
    options = dict(override(load_target("gpu_cuda"), config).runtime.providers)
    assert options["TensorrtExecutionProvider"]["trt_fp16_enable"] == "1"
    assert {options[f"{name}ExecutionProvider"]["device_id"] for name in ("CUDA", "Tensorrt")} == {"1"}
    assert override(load_target("cpu"), {"enable_fp16": True, "gpu_device_id": 0}) == load_target("cpu")
    for wrong in ({"gpu_device_id": -1}, {"enable_fp16": "yes"}):
        with pytest.raises(InputError):
            override(load_target("gpu_cuda"), wrong)

"""Laws of ``ampc bench``: variants from arguments, tables of 80 columns, one JSON document, errors with a place."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from compiler import InputError, Variant, bench_models, compile_model
from tests.test_measure import network
from tools import bench
from tools.timing_tables import VERDICTS, WIDTH, ratio_table


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Save a small network."""
    path = tmp_path / "model.onnx"
    onnx.save(network(deep=2), path)
    return path


def run(*arguments: object, code: int = 0) -> None:
    """Run the command for as short a time as it can, and expect an exit code."""
    assert bench.command([*map(str, arguments), "--seconds", "0.001", "--threads", "1"]) == code


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("intra_op_num_threads=2", {"session_options": {"intra_op_num_threads": 2}}),
        ("enable_mem_pattern=false", {"session_options": {"enable_mem_pattern": False}}),
        ("session.x.y=1, a.b=c", {"config_entries": {"session.x.y": "1", "a.b": "c"}}),
        ("provider=CPUExecutionProvider", {"providers": [["CPUExecutionProvider", {}]]}),
        ("execution_mode=ORT_PARALLEL", {"session_options": {"execution_mode": "ORT_PARALLEL"}}),
    ],
)
def test_settings_are_read_by_the_form_of_their_keys(text: str, settings: dict[str, Any]) -> None:
    """A key with a dot is a config entry, and values are what the runtime takes."""
    assert bench.parse_settings(text) == {"session_options": {}, "config_entries": {}, **settings}


@pytest.mark.parametrize("text", ["", "threads", "=1", "a=1,,b=2"])
def test_settings_that_say_nothing_are_refused(text: str) -> None:
    """A text that is no key and value is the user's mistake."""
    with pytest.raises(InputError, match="key=value"):
        bench.parse_settings(text)


def test_every_variant_has_a_name_of_its_own() -> None:
    """Models of one name, the same model twice, and settings are told apart, and the first argument is the first."""
    models = ["a/m.onnx", "b/m.onnx", "out", "out"]
    found = bench.make_variants(models, [])
    assert list(found) == ["a/m.onnx", "b/m.onnx", "out", "out (2)"]
    assert [v.path for v in found.values()] == models
    both = bench.make_variants(["m.onnx", "out"], ["a.b=1"])
    assert list(both) == ["m.onnx", "out", "m.onnx: a.b=1", "out: a.b=1"]
    assert list(bench.make_variants(["m.onnx"], ["a.b=1"])) == ["m.onnx", "a.b=1"]


def test_models_bundles_and_settings_are_timed_side_by_side(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report is one JSON document with every variant, its numbers and what the machine was like."""
    compile_model(model, output=tmp_path / "out", target="cpu", verify=False)
    run(model, tmp_path / "out", "--settings", "enable_mem_pattern=false", "--json", "--profile", "--dim", "N=3")
    document = json.loads(capsys.readouterr().out)
    assert list(document["variants"])[:2] == ["model.onnx", "out"] and len(document["variants"]) == 4
    for name, record in document["variants"].items():
        numbers = [record[key] for key in ("p50_ms", "p90_ms", "p99_ms", "load_s", "peak_mb", "runs")]
        assert all(n > 0 for n in numbers), name
        assert record["ratio"]["low"] <= record["ratio"]["value"] <= record["ratio"]["high"]
        assert record["operators"]["MatMul"][1] == 2
    assert document["busy"] in (True, False)


def test_tables_fit_eighty_columns(model: Path) -> None:
    """Names however long and numbers however large fit, and what the letters stand for is said."""
    variants = {f"{'a-long-name' * 4}-{i}": Variant(str(model)) for i in range(3)}
    timings = bench_models(variants, seconds=0.001, threads=1, profile=True)
    text = io.StringIO()
    bench.show(timings, Console(file=text, width=WIDTH))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert any(line.startswith("A: a-long-name") for line in lines) or "A:" in text.getvalue()
    assert "times as fast" in text.getvalue() and "MatMul" in text.getvalue()


def test_inputs_may_be_given_or_drawn(model: Path, tmp_path: Path) -> None:
    """Inputs come from a file, from sizes of dims, or from nothing; what does not fit is refused with a hint."""
    np.savez(tmp_path / "inputs.npz", x=np.ones((5, 8), np.float32))
    variants = {"m": Variant(str(model))}
    for given in ({"inputs": tmp_path / "inputs.npz"}, {"dims": {"N": 4}}, {}):
        assert bench_models(variants, seconds=0.001, threads=1, **given)["m"].runs
    with pytest.raises(InputError, match="no dim called"):
        bench_models(variants, dims={"M": 4})
    with pytest.raises(InputError, match="no input"):
        bench_models(variants, inputs={"z": np.ones(3, np.float32)})


def test_models_that_take_different_inputs_are_refused(tmp_path: Path) -> None:
    """Before anything is timed it is said which inputs differ: their names, or sizes that no input can have both."""
    paths = [tmp_path / f"{i}.onnx" for i in range(3)]
    protos = [network(), network(), network()]
    protos[1].graph.input[0].name = protos[1].graph.node[0].input[0] = "z"
    protos[2].graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    for path, proto in zip(paths, protos, strict=True):
        onnx.save(proto, path)
    first, renamed, fixed = (Variant(str(path)) for path in paths)
    with pytest.raises(InputError, match="different inputs") as caught:
        bench_models({"a": first, "b": renamed}, seconds=0.001)
    assert "'x'" in caught.value.why and "'z'" in caught.value.why
    with pytest.raises(InputError, match="different sizes"):
        bench_models({"a": first, "b": fixed}, dims={"N": 4}, seconds=0.001)


def test_sizes_that_one_variant_fixes_are_those_of_all(tmp_path: Path, model: Path) -> None:
    """A model with a dynamic dim and one with a size there are timed on that size, without being told."""
    proto = onnx.load(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(proto, tmp_path / "fixed.onnx")
    found = bench_models(
        {"open": Variant(str(model)), "fixed": Variant(str(tmp_path / "fixed.onnx"))},
        seconds=0.001,
        threads=1,
        keep=False,
    )
    assert found["fixed"].runs


def test_verdicts_are_shown_whole(model: Path) -> None:
    """What is said of a ratio is never cut off."""
    variants = {name: Variant(str(model)) for name in ("first", "A-name-x")}
    timings = bench_models(variants, seconds=0.001, threads=1, keep=False)
    for word, said in VERDICTS.items():
        shown = {name: dataclasses.replace(timing, verdict=word) for name, timing in timings.items()}
        text = io.StringIO()
        Console(file=text, width=WIDTH).print(ratio_table(shown))
        assert set(said.split()) <= set(text.getvalue().split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["/nowhere.onnx"], 2, "nowhere"),
        (["{model}", "--dim", "N"], 2, "--dim"),
        (["{model}", "--settings", "no_such_field=1"], 2, "no_such_field"),
        (["{model}", "--settings", "intra_op_num_threads=many"], 2, "many"),
        (["{model}", "--settings", "session.set_denormal_as_zer=1"], 2, "did you mean 'session.set_denormal_as_zero'"),
        (["{model}", "--settings", "provider=NoSuch"], 2, "NoSuch"),
        (["{model}", "--settings", "provider=ACLExecutionProvider"], 2, "not part of the installed onnxruntime"),
        (["{model}", "--inputs", "/nowhere.npz"], 2, "nowhere"),
    ],
)
def test_mistakes_are_said_and_have_an_exit_code(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    """What cannot be timed ends with what, where, why, or with the same as JSON."""
    given = [a.format(model=model) for a in arguments]
    run(*given, code=code)
    assert said in capsys.readouterr().err
    run(*given, "--json", code=code)
    assert said in json.dumps(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--seconds", "-1"], ["--seconds", "nan"], ["--bogus"], []])
def test_arguments_that_make_no_sense_are_errors_like_others(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Numbers out of range, unknown options and no model at all are refused in words, and in JSON where asked for."""
    given = [*(["m.onnx"] if arguments else []), *arguments]
    assert bench.command([*given, "--json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"] == "InputError" and not shown.err
    assert bench.command(given) == 2
    assert capsys.readouterr().err.startswith("error: ")

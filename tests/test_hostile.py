"""Whatever file comes in, the user gets an error that names his mistake, or a correct model; nothing else.

Every case of ``tests/hostile.py`` is compiled in a child process under limits of time and memory, so that a
hang or a crash is one failed test.  The oracle is ONNX Runtime without graph optimizations, in another child.

To look at a case:  python -m tests.hostile NAME FOLDER && ampc compile FOLDER/model.onnx -o FOLDER/out
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.message import DecodeError

from tests.agreement import same_interface, same_outputs
from tests.hostile import CASES, Case
from tests.hostile_case import MODEL, default_feeds, relu_model, write
from tests.isolation import ROOT, Child, Remote

SECONDS = 90.0
"""Far beyond what any case needs; a case that reaches it hangs."""
GROWTH = 2 << 20
"""Bytes that a result may be larger than its original."""
CORRECT = [name for name, case in CASES.items() if case.expect == "ok" and case.runs]


@pytest.fixture(scope="module")
def compiling() -> Iterator[Child]:
    """A process that compiles."""
    child = Child()
    yield child
    child.close()


def everything_below(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return what is in a folder: kind, size and time of change of everything, without opening any of it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        times = () if path.is_dir() else (status.st_size, status.st_mtime_ns)
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_nlink, *times)
    return found


def model_in(output: Path) -> Path:
    """Return the model file of what was written: the file itself, or the one of a bundle."""
    return output / MODEL if output.is_dir() else output


def parse(path: Path) -> onnx.ModelProto | None:
    """Read a model without its data, or nothing where protobuf itself cannot (nesting beyond its limit)."""
    try:
        return onnx.load(path, load_external_data=False)
    except DecodeError:
        return None


def check_result(case: Case, source: Path, output: Path, oracle: Child) -> None:
    """Hold a written result to everything that must be true of it."""
    result = model_in(output)
    before, after = parse(source), parse(result)
    if before is None or after is None:
        assert case.expect == "either" and before is after, "the result cannot be read"
        return
    same_interface(before, after)
    weights = sum(path.stat().st_size for path in output.rglob("*")) if output.is_dir() else 0
    original = sum(min(p.stat().st_size, 1 << 20) for p in source.parent.rglob("*") if p.is_file())
    assert max(weights, result.stat().st_size) <= original + GROWTH, (
        "the result is much larger than its original"
    )
    if case.runs:
        check_values(case, source, result, oracle)
    if case.law is not None:
        case.law(before, after)


def check_values(case: Case, source: Path, result: Path, oracle: Child) -> None:
    """Run original and result on the same inputs; nothing is held where the original itself does not run."""
    model = onnx.load(source, load_external_data=False)
    feeds = default_feeds(model, case.feeds)
    try:
        expected = oracle.call("tests.hostile_runner:run", str(source), feeds, seconds=SECONDS)
    except Remote:
        assert case.expect == "either", "the case says that the original runs"
        return
    found = oracle.call("tests.hostile_runner:run", str(result), feeds, seconds=SECONDS)
    same_outputs(expected, found, values=not case.random)


def compile_case(case: Case, folder: Path, compiling: Child, oracle: Child, *, verify: bool) -> None:
    """Lay out a case, compile it, and hold the outcome to what the case expects."""
    (folder / "in").mkdir()
    source = case.lay_out(folder / "in")
    output = folder / "result"
    before = everything_below(folder)
    verdict = compiling.call(
        "tests.hostile_runner:compile_file", str(source), str(output), verify, seconds=SECONDS
    )
    assert not verdict["forbidden"]
    inputs = {path: facts for path, facts in everything_below(folder).items() if path.startswith("in")}
    assert inputs == {path: facts for path, facts in before.items() if path.startswith("in")}, (
        "the input changed"
    )
    if "error" not in verdict:
        assert case.expect != "error", "a file that must be refused was compiled"
        check_result(case, source, output, oracle)
        return
    assert case.expect != "ok", f"a sound model was refused: {verdict['text']}"
    assert verdict["exit_code"] == 2, f"blamed on the compiler: {verdict['text']}"
    assert verdict["text"].strip() and "Traceback" not in verdict["text"]
    assert everything_below(folder) == before, "something was written although the model was refused"


@pytest.mark.parametrize("name", CASES)
def test_hostile_case(name: str, tmp_path: Path, compiling: Child, oracle: Child) -> None:
    """A hostile file is refused as the user's fault, or compiled correctly, in bounded time and memory."""
    compile_case(CASES[name], tmp_path, compiling, oracle, verify=True)


@pytest.mark.parametrize("name", CORRECT)
def test_corner_case_without_verification(name: str, tmp_path: Path, compiling: Child, oracle: Child) -> None:
    """The passes are right by themselves: no result is saved only by the check that would have caught it."""
    compile_case(CASES[name], tmp_path, compiling, oracle, verify=False)


def test_output_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    """Two processes with different string hashes write the same bytes."""
    sample = CORRECT[:: max(1, len(CORRECT) // 24)]
    written: list[list[bytes]] = []
    for seed in (1, 2):
        child = Child(hash_seed=seed)
        written.append([])
        for name in sample:
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            source = CASES[name].lay_out(folder) if seed == 1 else folder / MODEL
            output = tmp_path / f"{name}.{seed}"
            child.call("tests.hostile_runner:compile_file", str(source), str(output), False, seconds=SECONDS)
            written[-1].append(model_in(output).read_bytes())
        child.close()
    different = [name for name, one, other in zip(sample, *written, strict=True) if one != other]
    assert not different


def test_output_that_is_a_symlink_is_not_written_through(tmp_path: Path, compiling: Child) -> None:
    """A link at the place of the output never makes the compiler write somewhere else."""
    source = write(tmp_path / MODEL, relu_model())
    precious = tmp_path / "precious"
    precious.write_bytes(b"do not touch")
    output = tmp_path / "out.onnx"
    output.symlink_to(precious)
    compiling.call("tests.hostile_runner:compile_file", str(source), str(output), False, seconds=SECONDS)
    assert precious.read_bytes() == b"do not touch"


@pytest.mark.parametrize("output", ["bundle", "plain.onnx"])
def test_an_earlier_result_survives_a_failure(tmp_path: Path, compiling: Child, output: str) -> None:
    """Where a good result lies, a compilation that fails leaves it as it was."""
    good = write(tmp_path / "good.onnx", relu_model())
    bad = write(tmp_path / "bad.onnx", b"no model")
    path = tmp_path / output
    run = "tests.hostile_runner:compile_file"
    assert "error" not in compiling.call(run, str(good), str(path), False, seconds=SECONDS)
    before = everything_below(tmp_path)
    assert compiling.call(run, str(bad), str(path), False, seconds=SECONDS)["exit_code"] == 2
    assert everything_below(tmp_path) == before


def test_the_input_is_not_overwritten(tmp_path: Path, compiling: Child) -> None:
    """An output that is the input, by whatever name, is refused."""
    source = write(tmp_path / MODEL, relu_model())
    os.link(source, tmp_path / "other.onnx")
    before = everything_below(tmp_path)
    for output in (source, tmp_path / "other.onnx"):
        run = "tests.hostile_runner:compile_file"
        assert compiling.call(run, str(source), str(output), False, seconds=SECONDS)["exit_code"] == 2
        assert everything_below(tmp_path) == before


def test_model_object_is_not_changed() -> None:
    """A model that is passed as an object is an argument, not a workspace."""
    from compiler import compile_model

    model = relu_model()
    before = model.SerializeToString(deterministic=True)
    compile_model(model, target="cpu", verify=False)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", ["missing_file", "random_bytes", "cycle_of_two_nodes", "named_pipe"])
def test_command_line_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    """The command ends with status 2 and a message for people, without a traceback."""
    source = CASES[name].lay_out(tmp_path)
    command = [sys.executable, "-m", "compiler", "compile", str(source), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() and "Traceback" not in done.stderr + done.stdout
    assert not os.path.lexists(tmp_path / "out")

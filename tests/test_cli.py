"""The command line: flags do what they say, errors are what/where/why/do or JSON, exit codes mean something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from compiler.cli import app
from tests.source_code import ROOT

COMMANDS = ("compile", "check", "analyze", "dump", "explain", "targets", "passes", "rules")


class Done:
    """What a run of the command line gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def json(self) -> Any:
        """Return standard output as JSON."""
        return json.loads(self.out)


def ampc(*args: object, code: int = 0) -> Done:
    """Run the command line in this process and expect an exit code."""
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(a) for a in args], prog_name="ampc")
    assert done.exit_code == code, f"{done.exit_code}\n{done.stdout}\n{done.stderr}\n{done.exception!r}"
    assert "Traceback" not in done.stdout + done.stderr
    return Done(done.exit_code, done.stdout, done.stderr)


def process(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    command = [sys.executable, "-m", "compiler", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, **options)


def small(scale: float = 0.5, *, width: int = 6) -> onnx.ModelProto:
    """Make a model with something to remove, and an initializer that callers may override."""
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["x"], ["i"], name="id"),
            helper.make_node("MatMul", ["i", "w"], ["h"], name="mm"),
            helper.make_node("Add", ["h", "b"], ["y"], name="add"),
        ],
        "small",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(np.full((width, 4), scale, np.float32), "w"),
            numpy_helper.from_array(np.ones(4, np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The small model in a file."""
    path = tmp_path / "small.onnx"
    onnx.save(small(), path)
    return path


# The command line as a whole ---------------------------------------------------------------------


def test_help_lists_every_command() -> None:
    """The help names all commands, in text of at most 80 columns, without a traceback or colour."""
    text = ampc("--help").out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """Each command explains itself and offers JSON."""
    assert "--json" in ampc(command, "-h").out


def test_no_arguments_show_the_help() -> None:
    """Without arguments the help is shown, and it is not a success."""
    assert "Usage: ampc" in ampc(code=2).out


def test_version_names_what_it_stands_on() -> None:
    """The version comes with those of onnx and ONNX Runtime."""
    text = ampc("--version").out
    assert text.startswith("ampc ")
    assert "onnxruntime 1." in text


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["compile"], "Missing argument 'MODEL'"),
        (["compile", "m.onnx", "--frobnicate"], "No such option: --frobnicate"),
        (["compile", "m.onnx"], "no output was named"),
        (["compile", "nowhere.onnx", "-o", "out"], "cannot be read"),
        (["compile", "m.onnx", "-o", "out", "--target", "cpu_avx3"], "the target cannot be used"),
        (["compile", "m.onnx", "-o", "out", "--passes", "fold{,"], "the pipeline does not parse"),
        (["compile", "m.onnx", "-o", "out", "--passes", "fold{budget=3XB}"], "'3XB' is not a size"),
        (["compile", "m.onnx", "-o", "out", "--passes", "fold", "--until", "cancel"], "not in the pipeline"),
        (["compile", "m.onnx", "-o", "out", "--disable", "fodl"], "there is no pass 'fodl'"),
        (["compile", "m.onnx", "-o", "out", "--until", "fodl"], "there is no pass 'fodl'"),
        (["compile", "m.onnx", "-o", "out", "--passes", "raise{only=RaiseGelo}"], "there is no rule 'RaiseGelo'"),
        (["compile", "m.onnx", "-o", "out", "--passes", "fixpoint(lower{only=RaiseGelo})"], "no rule 'RaiseGelo'"),
        (["compile", "m.onnx", "-o", "out", "--select", "fuse"], "nothing is selected by 'fuse'"),
        (["compile", "m.onnx", "-o", "out", "--log-rewrites", "no/where"], "the log of rewrites cannot be written"),
        (["compile", "m.onnx", "-o", "out", "--memory-limit", "7Q"], "'7Q' is not a size"),
        (["compile", "m.onnx", "-o", "out", "--seed", "x"], "--seed"),
        (["compile", "m.onnx", "-o", "out", "--timeout", "-1"], "--timeout"),
        (["compile", "m.onnx", "-o", "out", "--inputs", "nowhere.npz"], "the inputs cannot be read"),
        (["compile", "m.onnx", "--list", "--disable", "fodl"], "there is no pass 'fodl'"),
        (["check", "nowhere.onnx", "nowhere.onnx"], "there is no such model"),
        (["analyze", "nowhere.onnx"], "cannot be read"),
        (["analyze", "m.onnx", "--bind", "N"], "'N' is not a dim and a number"),
        (["dump", "nowhere.onnx"], "cannot be read"),
        (["dump", "m.onnx", "--changed"], "--changed"),
        (["dump", "m.onnx", "--select", "fuse"], "nothing is selected by 'fuse'"),
        (["explain", "nowhere.onnx"], "cannot be read"),
        (["explain", "m.onnx", "--rule", "RaiseNothing"], "there is no rule 'RaiseNothing'"),
        (["passes", "fodl"], "there is no pass 'fodl'"),
        (["rules", "RaiseNothing"], "there is no rule 'RaiseNothing'"),
        (["rules", "--stage", "rase"], "there is no stage 'rase'"),
        (["complie"], "there is no command 'complie'"),
    ],
)
def test_errors_of_the_user(args: list[str], what: str) -> None:
    """A user's mistake ends with exit code 2: in words on standard error, or as a JSON object on standard output."""
    done = ampc(*args, code=2)
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert what in done.err
    record = ampc(*args, "--json", code=2).json()
    assert what in record["what"]
    assert record["exit_code"] == 2
    assert set(record) == {"error", "what", "where", "why", "do", "exit_code"}


def test_our_own_failure_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that nobody foresaw is our fault: exit code 1, one error, no traceback."""

    def broken() -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("compiler.listing.targets", broken)
    done = ampc("targets", code=1)
    assert "error: ampc failed" in done.err
    assert "ZeroDivisionError: by accident" in done.err
    assert ampc("targets", "--json", code=1).json()["exit_code"] == 1


def test_interruption_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with exit code 130, in words, and nothing is left of the output."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compiler.compilation.emit", interrupted)
    before = sorted(tmp_path.iterdir())
    done = ampc("compile", model, "-o", tmp_path / "out", code=130)
    assert "interrupted" in done.err
    assert sorted(tmp_path.iterdir()) == before


def test_nobody_reads() -> None:
    """When standard output is closed, ampc stops without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "compiler", "passes", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_names_that_the_terminal_cannot_show() -> None:
    """Text that the terminal's encoding does not have is escaped instead of failing."""
    done = process("passes", "fold", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ampc comp", ["compile"]),
        ("ampc compile --disable dead", ["dead-code"]),
        ("ampc compile --until no-", ["no-ops"]),
        ("ampc compile --passes fold,no-", ["fold,no-ops"]),
        ("ampc compile --select st", ["standard"]),
        ("ampc dump --around share", ["share-constants"]),
        ("ampc passes flush", ["flush-denormals"]),
        ("ampc rules --stage opt", ["optimize"]),
        ("ampc compile --target cpu_avx5", ["cpu_avx512", "cpu_avx512_novnni"]),
        ("ampc analyze -t aut", ["auto"]),
    ],
)
def test_shell_completion(words: str, expected: list[str]) -> None:
    """The shell completes commands, and the names of passes and targets."""
    wanted = {"_AMPC_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert process(env={**os.environ, **wanted}).stdout.split() == [f"plain,{name}" for name in expected]


@pytest.mark.parametrize("words", ["ampc compile ./m", "ampc check a.onnx ./m", "ampc compile -t ./m"])
def test_shell_completes_files(words: str) -> None:
    """Where a file may stand, the shell is left to complete its name."""
    wanted = {"_AMPC_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert process(env={**os.environ, **wanted}).stdout.split() == ["file,./m"]


def test_shell_completion_is_silent_about_mistakes() -> None:
    """Completion after a command that does not exist writes no error into the user's line."""
    wanted = {"_AMPC_COMPLETE": "bash_complete", "COMP_WORDS": "ampc complie ", "COMP_CWORD": "2"}
    assert process(env={**os.environ, **wanted}).stderr == ""


@pytest.mark.parametrize(
    ("shell", "place"), [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", ".config/fish/completions/ampc.fish")]
)
def test_completion_is_installed_once(shell: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that is shown is appended to the file that the user's shell reads, and not a second time."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    for name in ("ZDOTDIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("# mine")
    script = ampc("--show-completion").out
    assert f"_AMPC_COMPLETE={shell}_complete" in script
    assert str(file) in ampc("--install-completion").out
    assert "already" in ampc("--install-completion", shell).out
    assert file.read_text().startswith("# mine\n")
    assert file.read_text().count(script) == 1


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
@pytest.mark.parametrize(("own", "named"), [("/bin/tcsh", ()), ("", ()), ("/bin/bash", ("tcsh",))])
def test_completion_for_other_shells(
    option: str, own: str, named: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell without a script is an error that names those with one, and nothing is written."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", own)
    assert "bash, zsh, fish" in ampc(option, *named, code=2).err
    assert not [*tmp_path.iterdir()]


# Plugins -----------------------------------------------------------------------------------------

PLUGIN = """
def greet(argv):
    print("hello", *argv)
    return 3
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line with a package installed that adds commands and a target, some of them broken."""
    site = tmp_path / "site"
    info = site / "greeter-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "greeter.py").write_text(PLUGIN)
    (site / "odd.toml").write_text('name = "odd"\nsummary = "lacks everything else"\n')
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ampc.commands]\ngreet = greeter:greet\nlost = greeter:nothing\n[ampc.targets]\nodd = greeter\n"
    )

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return process(*args, env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "80"})

    return run


def test_plugin_commands(plugin: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A plugin's command is listed, gets its arguments as they are, and decides on the exit code."""
    assert "greet" in plugin("--help").stdout
    done = plugin("greet", "--help", "-x", "y")
    assert (done.returncode, done.stdout) == (3, "hello --help -x y\n"), done.stderr


def test_broken_plugins_are_named(plugin: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A command that cannot be loaded says whose it is, and a broken target is listed with its problem."""
    done = plugin("lost")
    assert done.returncode == 2
    assert "greeter" in done.stderr
    assert "Traceback" not in done.stderr
    listed = plugin("targets")
    assert listed.returncode == 0, listed.stderr
    assert "cannot be used" in listed.stdout


# compile -----------------------------------------------------------------------------------------


def test_compile_tells_what_it_did(model: Path, tmp_path: Path) -> None:
    """After a compilation the user sees passes, result, check, notes, place and next step in at most 25 lines."""
    text = ampc("compile", model, "-o", tmp_path / "out", "-t", "cpu").out.replace(str(tmp_path), ".")
    lines = text.splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text
    for words in ("no-ops", "3 → 2 nodes", "opset 17 → ", "verified", "override 'b'", "./out", "load_session("):
        assert words in text
    assert onnx.load(tmp_path / "out" / "model.onnx").graph.node[0].op_type == "MatMul"


def test_compile_json(model: Path, tmp_path: Path) -> None:
    """With --json, the report is the only thing on standard output."""
    record = ampc("compile", model, "-o", tmp_path / "o.onnx", "--json", "-t", "cpu").json()
    assert record["status"] == "verified"
    assert (record["nodes_before"], record["nodes_after"]) == (3, 2)
    assert record["settings"]["providers"]


def test_compile_quiet(model: Path, tmp_path: Path) -> None:
    """Quiet means that success is silent."""
    done = ampc("compile", model, "-o", tmp_path / "out", "-q")
    assert (done.out, done.err) == ("", "")


def test_compile_without_verification_says_so(model: Path, tmp_path: Path) -> None:
    """What was not verified is called unverified, on the screen and in the bundle."""
    text = ampc("compile", model, "-o", tmp_path / "out", "--no-verify", "--no-verify-each").out
    assert "unverified" in text
    assert json.loads((tmp_path / "out" / "ampc.json").read_text())["status"] == "unverified"


def test_compile_selects_passes(model: Path, tmp_path: Path) -> None:
    """--passes replaces the pipeline, --disable leaves passes out, --until stops after one."""

    def ran(*args: str) -> list[str]:
        record = ampc("compile", model, "-o", tmp_path / "o.onnx", "--json", "--no-verify", *args).json()
        return [p["name"] for p in record["passes"]]

    pipeline = ("--passes", "no-ops, dead-code, fold")
    assert ran(*pipeline) == ["no-ops", "dead-code", "fold"]
    assert ran(*pipeline, "--disable", "fold", "--disable", "no-ops") == ["dead-code"]
    assert ran(*pipeline, "--until", "dead-code") == ["no-ops", "dead-code"]


def test_compile_places_weights(model: Path, tmp_path: Path) -> None:
    """Weights go beside the model or inside, as asked."""
    onnx.save(small(width=1024), model)
    ampc("compile", model, "-o", tmp_path / "a.onnx", "--no-verify", "--external-data")
    ampc("compile", model, "-o", tmp_path / "b.onnx", "--no-verify", "--embed")
    assert (tmp_path / "a.onnx.data").exists()
    assert not (tmp_path / "b.onnx.data").exists()


def test_compile_takes_limits_inputs_and_seed(model: Path, tmp_path: Path) -> None:
    """Inputs of the user's own are among what is checked; limits and seed are taken."""
    np.savez(tmp_path / "in.npz", x=np.ones((2, 6), np.float32))
    limits = ("--timeout", "60", "--memory-limit", "4GiB", "--seed", "7")
    done = ampc("compile", model, "-o", tmp_path / "out", "--inputs", tmp_path / "in.npz", *limits, "--json")
    assert any(p["kind"] == "user" for p in done.json()["verification"]["probes"])


def test_compile_dumps_and_keeps_repros(model: Path, tmp_path: Path) -> None:
    """--dump-ir writes the IR of the input and after each pass that changed it; --repro takes a folder."""
    args = ("--dump-ir", tmp_path / "ir", "--repro", tmp_path / "repro")
    ampc("compile", model, "-o", tmp_path / "out", "--passes", "no-ops, fold", *args)
    assert sorted(p.name for p in (tmp_path / "ir").iterdir()) == ["000-input.ir", "001-no-ops.ir"]


def test_compile_lists_the_pipeline(model: Path) -> None:
    """--list shows what would run and what would not, and writes nothing."""
    args = ("compile", model, "--list", "--passes", "no-ops, fixpoint{bound=3}(fold, cancel)", "--disable", "fold")
    steps = ampc(*args, "--json").json()["steps"]
    assert [(s["pass"], s["runs"]) for s in steps if s["pass"]] == [("no-ops", True), ("fold", False), ("cancel", True)]
    text = ampc(*args).out
    assert "at most 3 times" in text
    assert "left out" in text


def test_compile_from_text(model: Path, tmp_path: Path) -> None:
    """IR text that was dumped compiles to a model that computes what the original does."""
    ampc("dump", model, "-o", tmp_path / "m.ir")
    ampc("compile", tmp_path / "m.ir", "-o", tmp_path / "m.onnx")
    assert "compute the same" in ampc("check", model, tmp_path / "m.onnx").out


# check -------------------------------------------------------------------------------------------


def test_check_agrees_and_disagrees(model: Path, tmp_path: Path) -> None:
    """Equal models give exit code 0, others 1, with the output that differs; in JSON as well."""
    other = tmp_path / "other.onnx"
    onnx.save(small(0.75), other)
    assert "the models compute the same" in ampc("check", model, model, "--seed", "3").out
    done = ampc("check", model, other, code=1)
    assert "not shown" in done.out
    assert "'y'" in done.out
    limits = ("--timeout", "60", "--memory-limit", "4GiB")
    assert ampc("check", model, other, "--json", *limits, code=1).json()["status"] == "failed"


def test_check_takes_inputs(model: Path, tmp_path: Path) -> None:
    """Inputs of the user's own are among what is compared."""
    np.savez(tmp_path / "in.npz", x=np.ones((2, 6), np.float32))
    record = ampc("check", model, model, "--inputs", tmp_path / "in.npz", "--json").json()
    assert any(p["kind"] == "user" for p in record["probes"])


# analyze, dump, targets, passes ------------------------------------------------------------------


def test_analyze_in_80_columns(model: Path) -> None:
    """An analysis reads well in 80 columns, and its JSON says the same."""
    text = ampc("analyze", model, "-t", "cpu", "--bind", "N=8").out
    lines = text.splitlines()[1:]  # the first is the path
    assert max(map(len, lines)) <= 80
    assert "N = 8" in text
    assert "initializers that callers may override" in text
    assert ampc("analyze", model, "--bind", "N=8", "--json").json()["work"]["binding"] == {"N": 8}


def test_dump_flags(model: Path, tmp_path: Path) -> None:
    """Every flag of dump reaches the dump."""
    assert "Identity(%x)" in ampc("dump", model).out
    assert 'loc("mm")' in ampc("dump", model, "--loc").out
    assert "used by" in ampc("dump", model, "--facts").out
    assert "Add(" not in ampc("dump", model, "--nodes", "Identity").out
    passes = ("--passes", "no-ops, fold", "-t", "cpu")
    assert "Identity" in ampc("dump", model, "--before", "no-ops", *passes).out
    assert "Identity" not in ampc("dump", model, "--after", "no-ops", *passes).out
    both = ampc("dump", model, "--around", "no-ops", *passes).out
    assert both.index("// before no-ops") < both.index("// after no-ops")
    assert ampc("dump", model, "--around", "no-ops", "--changed", *passes).out.startswith("--- before")
    never = ampc("dump", model, "--around", "no-ops", "--disable", "no-ops", *passes, code=2)
    assert "never ran" in never.err
    written = ampc("dump", model, "-o", tmp_path / "m.ir")
    assert written.out == ""
    assert (tmp_path / "m.ir").read_text().startswith("// ampc 1")
    assert "Identity" in ampc("dump", model, "--json").json()["texts"]["small.onnx as loaded"]


def test_targets_mark_this_machine() -> None:
    """The targets are listed with what they are, and the one that fits this machine is marked."""
    record = ampc("targets", "--json").json()
    chosen = [t["name"] for t in record["targets"] if t["chosen"]]
    assert len(chosen) == 1
    text = ampc("targets").out
    assert f"* {chosen[0]}" in text
    assert record["machine"]["arch"] in text


def test_passes_are_listed_and_explained() -> None:
    """Each pass is listed with its first line and options; one pass is explained in full."""
    record = ampc("passes", "--json").json()
    text = ampc("passes").out
    assert all(entry["name"] in text and entry["summary"] for entry in record["passes"])
    assert "limit=2GiB" in text
    assert "the default pipeline" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "budget=16MiB" in ampc("passes", "fold").out
    assert ampc("passes", "fold", "--json").json()["in_default_pipeline"] is True

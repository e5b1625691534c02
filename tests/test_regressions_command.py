"""Command lines and surroundings that once ended in an error that was not the user's to read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compiler import compile_model
from compiler.backend import places
from compiler.errors import InputError
from tests.hostile_case import relu_model, tensor
from tests.isolation import ROOT


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + ".onnx", "a" * 251 + ".onnx"])
def test_a_name_that_is_too_long_is_the_users_to_mend(tmp_path: Path, name: str) -> None:
    """An output whose name (or whose settings' name) no file system takes is refused, and nothing is left behind."""
    with pytest.raises(InputError, match="cannot be written"):
        compile_model(relu_model(), target="cpu", output=tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_weights_do_not_overwrite_a_file_of_somebody_else(tmp_path: Path) -> None:
    """A data file beside the output may hold the input's own weights: only one of ours is replaced."""
    model = relu_model()
    model.graph.initializer[0].CopyFrom(tensor("w", np.ones((4000, 3), np.float32)))
    for shown in (*model.graph.input, *model.graph.output):
        shown.type.tensor_type.shape.dim[0].dim_value = 4000
    other = tmp_path / "out.onnx.data"
    other.write_bytes(b"weights")
    second = tmp_path / "out.onnx.1.data"
    second.write_bytes(b"more")
    with pytest.raises(InputError, match="did not write"):
        compile_model(model, target="cpu", output=tmp_path / "out.onnx", external_data=True, verify=False)
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir()) == [
        (second.name, b"more"),
        (other.name, b"weights"),
    ]
    second.unlink()
    for _ in range(2):
        compile_model(model, target="cpu", output=tmp_path / "out.onnx", external_data=True, verify=False)
        assert other.read_bytes() == b"weights"
        assert second.exists()


def test_a_bundle_does_not_replace_the_folder_that_its_input_lies_in(tmp_path: Path) -> None:
    """Compiling the model of a bundle into that bundle would overwrite the input."""
    out = tmp_path / "out"
    compile_model(relu_model(), target="cpu", output=out, verify=False)
    before = (out / "model.onnx").read_bytes()
    with pytest.raises(InputError, match="overwrite the input"):
        compile_model(out / "model.onnx", target="cpu", output=out, verify=False)
    assert (out / "model.onnx").read_bytes() == before


def test_a_bundle_is_not_replaced_with_what_others_put_into_it(tmp_path: Path) -> None:
    """Replacing a bundle removes its folder: not when it holds a file that is not of the bundle."""
    out = tmp_path / "out"
    for _ in range(2):
        compile_model(relu_model(), target="cpu", output=out, verify=False)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds more than the bundle"):
        compile_model(relu_model(), target="cpu", output=out, verify=False)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_change_no_exit_code(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """A caller without standard streams gets its result, and the exit code of an error."""
    model = tmp_path / "model.onnx"
    model.write_bytes(relu_model().SerializeToString())
    shut = " ".join(f"{fd}<&-" for fd in closed)
    for name, code in (("model.onnx", 0), ("nothing.onnx", 2)):
        command = f"{sys.executable} -m compiler compile {tmp_path / name} -o {tmp_path / 'out'} --no-verify {shut}"
        assert subprocess.run(["bash", "-c", command], check=False, capture_output=True, cwd=ROOT).returncode == code
    assert (tmp_path / "out" / "ampc.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize("command", ["passes", "passes --json", "--help", "passes --help", "nothing --json"])
def test_a_full_disk_under_the_answer_is_told(command: str) -> None:
    """When the answer cannot be written, that is the error, without a traceback."""
    shell = f"{sys.executable} -m compiler {command} > /dev/full"
    ended = subprocess.run(["bash", "-c", shell], check=False, capture_output=True, cwd=ROOT, text=True)
    assert ended.returncode == 2
    assert "cannot be shown" in ended.stderr and "Traceback" not in ended.stderr


def test_names_that_are_no_utf8_are_names(tmp_path: Path) -> None:
    """A plain model whose name holds arbitrary bytes is written, with its settings beside it."""
    output = tmp_path / os.fsdecode(b"b\xff\xfe.onnx")
    try:
        output.touch()
    except OSError:
        pytest.skip("the file system takes no such names")
    compile_model(relu_model(), target="cpu", output=output, verify=False)
    manifest = json.loads(output.with_name(output.name + ".ampc.json").read_bytes())
    assert manifest["model"] == output.name


def test_without_proc_contents_are_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the system does not say which files are mapped, none counts as mapped."""
    monkeypatch.setattr(places, "_MAPS", tmp_path / "maps")
    assert places.Places.now().ranges == []


@pytest.mark.parametrize("name", ["out", "out.onnx"])
def test_a_folder_that_takes_no_files_is_the_users_to_mend(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When the system refuses to make anything beside the output, that is said of the output."""

    def refuse(path: object, *rest: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(InputError, match="cannot be written"):
        compile_model(relu_model(), target="cpu", output=tmp_path / name, verify=False)

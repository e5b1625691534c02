"""Laws of opening files: regular files only, and for tensors only those below the model's folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from compiler.errors import InputError, ModelError
from compiler.frontend.files import ExternalFiles, external_reference, open_regular

ROOT = Path(__file__).parent.parent
DATA = bytes(range(256)) * 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model's folder with data files, and a secret beside it."""
    base = tmp_path / "model"
    (base / "sub").mkdir(parents=True)
    (base / "w.bin").write_bytes(DATA)
    (base / "sub" / "w.bin").write_bytes(DATA[::-1])
    (tmp_path / "secret").write_bytes(DATA)
    return base


def external(**entries: str) -> TensorProto:
    """Return a tensor of 16 bytes with these external_data entries."""
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[4], data_location=1)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_a_model_file_is_mapped_read_only(folder: Path) -> None:
    """The view holds the file's bytes, cannot be written, and outlives the descriptor; a link is followed."""
    link = folder / "link.onnx"
    link.symlink_to("w.bin")
    for path in (folder / "w.bin", str(link)):
        view = open_regular(path)
        assert view == DATA and view.readonly


def test_what_is_no_regular_file_is_refused_unopened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, empty and special files give ``InputError`` with their path, at once."""
    os.mkfifo(folder / "fifo")
    (folder / "empty").touch()
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)  # the name of a socket is at most 107 bytes
        server.bind("socket")
        for name, why in {
            "fifo": "FIFO",
            "empty": "empty",
            "dangling": "No such file",
            "loop": "symbolic links",
            "socket": "socket",
            "sub": "directory",
            "missing": "No such file",
            "w.bin/below": "Not a directory",
            "n" * 300: "too long",
        }.items():
            with pytest.raises(InputError, match=why) as caught:
                open_regular(folder / name)
            assert caught.value.where == str(folder / name) and caught.value.hint
    with pytest.raises(InputError, match="character device"):
        open_regular("/dev/zero")
    with pytest.raises(InputError, match="NUL"):
        open_regular("a\0b")


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/../w.bin", ".//w.bin", "missing/../w.bin"])
def test_data_below_the_folder_is_found(folder: Path, location: str) -> None:
    """Every spelling of a path that stays in the folder gives the same mapped bytes."""
    files = ExternalFiles(folder)
    view = files.tensor(external(location=location, offset="32", length="16"))
    assert view == DATA[32:48] and view.readonly
    assert files.tensor(external(location="w.bin")) == DATA[:16]
    assert files.paths() == [folder / "w.bin"]


def test_a_file_is_mapped_once(folder: Path) -> None:
    """Tensors of one file share its mapping."""
    files = ExternalFiles(folder)
    first, second = (files.tensor(external(location=name)) for name in ("sub/w.bin", "sub/./w.bin"))
    assert first.obj is second.obj


@pytest.mark.parametrize(
    "location",
    [
        "",
        ".",
        "..",
        "../secret",
        "sub/../../secret",
        "sub/..",
        "sub/",
        "/etc/passwd",
        "//etc/passwd",
        "C:\\secret",
        "C:secret",
        "..\\secret",
        "sub\\..\\..\\secret",
        "w.bin\0.txt",
        "*/_ORT_MEM_ADDR_/*",
        "sub",
        "missing.bin",
        "w.bin/x",
        "x" * 300,
        "x/" * 3000 + "x",
        "/proc/self/mem",
    ],
)
def test_unsafe_locations_are_refused(folder: Path, location: str) -> None:
    """A location that leaves the folder, or names no file in it, gives ``ModelError`` with the tensor."""
    with pytest.raises(ModelError) as caught:
        ExternalFiles(folder).tensor(external(location=location))
    assert "'weights'" in caught.value.where and caught.value.why and caught.value.hint


@pytest.mark.parametrize("portable", [False, True])
def test_links_and_special_files_are_refused(
    folder: Path, portable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No component may be a symbolic link, and the file must be regular, singly linked, and not the model."""
    if portable:
        monkeypatch.setattr(os, "supports_dir_fd", set())
    (folder / "soft").symlink_to("w.bin")
    (folder / "up").symlink_to("..")
    (folder / "inner").symlink_to("sub")
    os.link(folder.parent / "secret", folder / "hard")
    os.mkfifo(folder / "fifo")
    (folder / "m.onnx").write_bytes(DATA)
    files = ExternalFiles(folder, model=folder / "m.onnx")
    for location, why in {
        "soft": "symbolic link",
        "up/secret": "symbolic link",
        "inner/w.bin": "symbolic link",
        "hard": "hard links",
        "fifo": "FIFO",
        "sub": "directory",
        "m.onnx": "model file itself",
    }.items():
        with pytest.raises(ModelError, match=why):
            files.tensor(external(location=location))
    assert files.tensor(external(location="sub/w.bin")) == DATA[::-1][:16]


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "-1"},
        {"offset": "1.5"},
        {"offset": "0x10"},
        {"offset": " 1"},
        {"offset": "1_0"},
        {"offset": "٣"},
        {"offset": "9" * 5000},
        {"offset": str(1 << 63)},
        {"offset": "1020"},
        {"offset": "9223372036854775807"},
        {"length": "-16"},
        {"length": "17"},
        {"length": "9" * 19},
        {"shell": "rm"},
        {"__class__": "x"},
    ],
)
def test_ranges_and_keys_are_checked(folder: Path, entries: dict[str, str]) -> None:
    """Offsets and lengths are plain numbers inside the file and fit the shape; unknown keys are refused."""
    with pytest.raises(ModelError, match="external data"):
        ExternalFiles(folder).tensor(external(location="w.bin", **entries))


def test_repeated_keys_are_refused() -> None:
    """Two locations leave open which one a checker saw."""
    tensor = external(location="w.bin")
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(ModelError, match="repeated"):
        external_reference(tensor)


def test_harmless_keys_are_ignored() -> None:
    """A checksum, onnx's basepath and ONNX Runtime's prepacked copies change nothing."""
    reference = external_reference(external(location="w", checksum="0", basepath="/", prepacked_0="k|0|8"))
    assert (reference.location, reference.offset, reference.length) == ("w", 0, None)


def test_a_type_without_layout_is_refused(folder: Path) -> None:
    """Strings cannot be external data."""
    tensor = external(location="w.bin")
    tensor.data_type = TensorProto.STRING
    with pytest.raises(ModelError, match="layout"):
        ExternalFiles(folder).tensor(tensor)


def test_an_empty_tensor_reads_nothing(folder: Path) -> None:
    """A tensor of no elements has no bytes, in a file of any size."""
    (folder / "empty").touch()
    tensor = external(location="empty")
    tensor.dims[0] = 0
    assert ExternalFiles(folder).tensor(tensor) == b""


def test_many_data_files_are_no_limit(folder: Path) -> None:
    """A model with a file per tensor opens even where the system's default allows few open files."""
    for number in range(60):
        (folder / f"{number}.bin").write_bytes(DATA)
    code = """
import resource, sys
from compiler.frontend.files import ExternalFiles
resource.setrlimit(resource.RLIMIT_NOFILE, (30, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
files = ExternalFiles(sys.argv[1])
print(sum(len(files.view(f"{number}.bin", 0, 1024, 1024, "w")) for number in range(60)))
"""
    command = [sys.executable, "-c", code, folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 60 * 1024


@given(location=st.text(st.sampled_from("./\\ab\0:C-w*"), max_size=12))
def test_no_location_escapes(tmp_path_factory: pytest.TempPathFactory, location: str) -> None:
    """Whatever the location, the result is a file below the folder or ``ModelError``."""
    base = tmp_path_factory.mktemp("outer") / "model"
    (base / "a").mkdir(parents=True)
    (base / "w").write_bytes(b"inside 16 bytes.")
    for name in ("a", "b", "w"):
        (base.parent / name).write_bytes(b"outside 16 bytes")
    try:
        assert ExternalFiles(base).tensor(external(location=location)) == b"inside 16 bytes."
    except ModelError as error:
        assert "'weights'" in error.where

"""Laws of writing models: the bytes are protobuf's own, and the destination is always old or new."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from compiler.backend import atomic
from compiler.backend.atomic import PREFIX, AtomicFolder, write_atomic
from compiler.backend.write import EMBEDDED_LIMIT, embedded_size, materialize, serialize, write_external
from compiler.errors import CompilerError, InputError
from compiler.frontend.files import ExternalFiles, open_regular
from compiler.frontend.wire import read_skeleton
from compiler.ir.splice import PayloadTable
from compiler.ir.wire import tensors
from tests.random_protos import models, small_model

ROOT = Path(__file__).parent.parent


def leftovers(folder: Path) -> list[str]:
    """Return the names of unfinished files in ``folder``."""
    return [name for name in os.listdir(folder) if name.startswith(PREFIX)]


@given(models(), st.integers(0, 100))
def test_serialized_stubs_are_the_bytes_of_protobuf(model: ModelProto, threshold: int) -> None:
    """Chunks of a model of stubs are what protobuf makes of the model with its contents."""
    skeleton = read_skeleton(model.SerializeToString(), threshold=threshold)
    whole = materialize(skeleton.model, skeleton.table).SerializeToString(deterministic=True)
    assert b"".join(serialize(skeleton.model, skeleton.table)) == whole
    assert embedded_size(skeleton.model, skeleton.table) == len(whole)


@given(st.lists(st.binary(max_size=20_000), max_size=4))
def test_stubs_of_new_tensors_are_resolved(payloads: list[bytes]) -> None:
    """A payload of any size and kind of buffer comes out as the raw data, and old contents go."""
    model, table = small_model(), PayloadTable()
    for number, payload in enumerate(payloads):
        tensor = model.graph.initializer.add(name=f"t{number}", float_data=[1.0])
        table.stub(tensor, [payload, bytearray(payload), memoryview(payload)][number % 3])
    written = ModelProto.FromString(b"".join(serialize(model, table)))
    added = written.graph.initializer[2:]
    assert [t.raw_data for t in added] == payloads and not any(t.float_data for t in added)


def test_a_stub_never_reaches_a_file() -> None:
    """A stub of another table, or one outside of a tensor's contents, is a ``CompilerError``."""
    model, table = small_model(), PayloadTable()
    tensor = model.graph.initializer.add(name="t")
    table.stub(tensor, b"contents")
    with pytest.raises(CompilerError, match="another model"):
        serialize(model, PayloadTable())
    with pytest.raises(CompilerError, match="another model"):
        materialize(model, PayloadTable())
    model.graph.node[0].attribute.add(name="copied", s=tensor.raw_data)
    with pytest.raises(CompilerError, match="stub"):
        serialize(model, table)


def test_a_model_over_the_limit_is_refused_before_it_is_written() -> None:
    """A single file holds at most what protobuf reads; the error says what to do instead."""
    model, table = small_model(), PayloadTable()
    gigabyte = memoryview(bytearray(1 << 20)).toreadonly()
    for number in range(2048):
        table.stub(model.graph.initializer.add(name=f"t{number}"), gigabyte)
    assert embedded_size(model, table) > EMBEDDED_LIMIT
    with pytest.raises(InputError, match="external data"):
        serialize(model, table)


@given(st.lists(st.sampled_from([0, 1, 63, 64, 65, 4096, 65_535, 65_536, 100_000]), max_size=6))
def test_external_data_is_aligned_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """Tensors in a data file are aligned, in order, and read back by us and by onnx as they were."""
    folder = tmp_path_factory.mktemp("external")
    protos = [TensorProto(name=f"t{i}", data_type=TensorProto.UINT8, dims=[n]) for i, n in enumerate(sizes)]
    payloads = [bytes([i + 1]) * n for i, n in enumerate(sizes)]
    size = write_external(folder, "m.onnx.data", zip(protos, payloads, strict=True))
    assert size == (folder / "m.onnx.data").stat().st_size
    for proto, payload in zip(protos, payloads, strict=True):
        if not payload:
            assert proto.raw_data == b"" and proto.data_location == TensorProto.DEFAULT
            continue
        offset = int({entry.key: entry.value for entry in proto.external_data}["offset"])
        assert offset % (4096 if len(payload) >= 65_536 else 64) == 0
        assert ExternalFiles(folder).tensor(proto) == payload
        onnx.external_data_helper.load_external_data_for_tensor(proto, str(folder))
        assert proto.raw_data == payload


def test_weights_go_from_mapping_to_data_file(tmp_path: Path) -> None:
    """A model read from a mapping, written with external data, and loaded by onnx is the same model."""
    model = small_model()
    model.graph.initializer.add(name="big", data_type=3, dims=[70_000], raw_data=os.urandom(70_000))
    source = tmp_path / "in.onnx"
    source.write_bytes(model.SerializeToString())
    skeleton = read_skeleton(open_regular(source))
    big = [(t, p) for t in tensors(skeleton.model) if (p := skeleton.payload(t)) is not None]
    write_external(tmp_path, "out.onnx.data", big)
    write_atomic(tmp_path / "out.onnx", serialize(skeleton.model, skeleton.table))
    loaded = onnx.load(tmp_path / "out.onnx")
    assert loaded.graph.initializer[-1].raw_data == model.graph.initializer[-1].raw_data
    assert len((tmp_path / "out.onnx").read_bytes()) < 1000


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/passwd", "a\\b", "a\0b", ".ampc-x"])
def test_data_files_have_plain_names(tmp_path: Path, name: str) -> None:
    """A data file is in the folder given, whatever its name."""
    with pytest.raises(InputError, match="name"):
        write_external(tmp_path, name, [])


def test_a_file_gets_the_mode_of_the_umask_or_of_what_it_replaces(tmp_path: Path) -> None:
    """A new file is as readable as any other the user creates; a private one stays private."""
    path = tmp_path / "m.onnx"
    (tmp_path / "plain").touch()
    assert write_atomic(path, [b"a", memoryview(b"bc")]) == 3
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    path.chmod(0o640)
    write_atomic(path, [b"new"])
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o640


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    """Links, folders, FIFOs and devices are refused, and left as they are."""
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("victim")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for path in [
        "link",
        "dangling",
        "folder",
        "fifo",
        "missing/m.onnx",
        "victim/m.onnx",
        "/dev/null",
        "",
        "a\0b",
    ]:
        with pytest.raises(InputError) as caught:
            write_atomic(tmp_path / path if path and "\0" not in path else path, [b"x"])
        assert caught.value.where and caught.value.hint
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists() and not leftovers(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError(), CompilerError("x"), MemoryError()])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    """Whatever is raised while the chunks are made, the old file stays and nothing else does."""

    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise error

    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_atomic(path, chunks())
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["m.onnx"]


def test_a_full_disk_is_an_input_error(tmp_path: Path) -> None:
    """When the system has no room, the error names the path, and nothing is left behind."""
    code = """
import resource, signal, sys
from compiler.backend.atomic import write_atomic
from compiler.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    write_atomic(sys.argv[1], [bytes(1 << 19)] * 5)
except InputError as error:
    print(error.where)
"""
    path = tmp_path / "m.onnx"
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(path) and os.listdir(tmp_path) == []

    def full() -> Iterator[bytes]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield b""

    with pytest.raises(InputError, match="No space left") as caught:
        write_atomic(path, full())
    assert "free some space" in caught.value.hint


KILLED = """
import sys, time
from pathlib import Path
from compiler.backend.atomic import AtomicFolder, write_atomic
def chunks():
    yield bytes(1 << 21)
    print("ready", flush=True)
    time.sleep(60)
if sys.argv[2] == "file":
    write_atomic(sys.argv[1], chunks())
else:
    with AtomicFolder(sys.argv[1]) as folder:
        (folder / "ampc.json").write_text("{}")
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_run_is_cleaned_up_by_the_next(tmp_path: Path, kind: str) -> None:
    """A running writer's files are left alone; a killed one's are removed by the next that writes there."""
    target = tmp_path / "out"

    def write(path: Path) -> None:
        if kind == "file":
            write_atomic(path, [b"whole"])
            return
        with AtomicFolder(path) as folder:
            (folder / "ampc.json").write_text("{}")

    command = [sys.executable, "-c", KILLED, target, kind]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        try:
            write(target)
            assert len(leftovers(tmp_path)) == 1
        finally:
            child.send_signal(signal.SIGKILL)
    assert len(leftovers(tmp_path)) == 1
    write(tmp_path / "other")
    assert len(leftovers(tmp_path)) == 1
    write(target)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_a_bundle_replaces_nothing_an_empty_folder_or_a_bundle(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is put in place as a whole, over nothing, an empty folder, and an older bundle."""
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    target = tmp_path / "out"
    for generation in ("first", "second", "third"):
        with AtomicFolder(str(target) + "/") as folder:
            assert folder.parent == tmp_path
            (folder / "sub").mkdir()
            (folder / "sub" / generation).touch()
            (folder / "ampc.json").write_text(generation)
        assert sorted(os.listdir(target)) == ["ampc.json", "sub"] and os.listdir(tmp_path) == ["out"]
        assert os.listdir(target / "sub") == [generation]
        if generation == "first":
            target.chmod(0o700)
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    (tmp_path / "empty").mkdir()
    with AtomicFolder(tmp_path / "empty") as folder:
        (folder / "x").touch()
    assert os.listdir(tmp_path / "empty") == ["x"]


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    """Files, links, and folders with anything but a bundle in them are refused before anything is written."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").touch()
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "ampc.json").symlink_to("/dev/null")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("data")
    before = sorted(os.listdir(tmp_path))
    for name in ("data", "fake", "file", "link", "missing/out", "", "."):
        with pytest.raises(InputError), AtomicFolder(tmp_path / name):
            pytest.fail("entered")
    assert sorted(os.listdir(tmp_path)) == before
    assert os.listdir(tmp_path / "data") == ["thesis.tex"]


def test_an_exception_in_the_block_leaves_the_old_bundle(tmp_path: Path) -> None:
    """A bundle that was not finished is removed, and the old one stays."""
    target = tmp_path / "out"
    target.mkdir()
    (target / "ampc.json").write_text("old")
    with pytest.raises(KeyboardInterrupt), AtomicFolder(target) as folder:
        (folder / "ampc.json").write_text("new")
        raise KeyboardInterrupt
    assert (target / "ampc.json").read_text() == "old" and os.listdir(tmp_path) == ["out"]


def test_a_destination_that_changed_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """A folder that became the user's while the bundle was made is refused at the end."""
    target = tmp_path / "out"
    with pytest.raises(InputError, match="no ampc bundle"), AtomicFolder(target) as folder:
        (folder / "ampc.json").touch()
        target.mkdir()
        (target / "thesis.tex").touch()
    assert os.listdir(target) == ["thesis.tex"] and os.listdir(tmp_path) == ["out"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange two folders in one step")
def test_readers_see_whole_bundles_only(tmp_path: Path) -> None:
    """While bundles replace each other, whoever reads the folder finds a complete one."""
    target = tmp_path / "out"
    code = """
import sys
from compiler.backend.atomic import AtomicFolder
for number in range(int(sys.argv[2])):
    with AtomicFolder(sys.argv[1]) as folder:
        (folder / "ampc.json").write_text(str(number))
"""
    with AtomicFolder(target) as folder:
        (folder / "ampc.json").write_text("start")
    seen = set()
    with subprocess.Popen([sys.executable, "-c", code, target, "30"], cwd=ROOT) as child:
        while child.poll() is None:
            seen.add((target / "ampc.json").read_text())
            time.sleep(0.001)
    assert child.returncode == 0 and "" not in seen and (target / "ampc.json").read_text() == "29"

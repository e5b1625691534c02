"""Files that are no model, or not quite: what a disk, a download or an attacker hands to a compiler."""

from __future__ import annotations

import gzip
import io
import os
import random
import socket
import zipfile
from pathlib import Path

import onnx
from google.protobuf import json_format

from tests.hostile_case import MODEL, case, folder_case, relu_model, write

GRAPH_FIELD = 0x3A  # ModelProto.graph, length-delimited


def _sound() -> bytes:
    return relu_model().SerializeToString(deterministic=True)


@folder_case("error")
def missing_file(folder: Path) -> Path:
    """A path that does not exist is the user's mistake."""
    return folder / MODEL


@case("error")
def empty_file() -> bytes:
    """No bytes at all parse as a protobuf; they are no model."""
    return b""


@case("error")
def truncated_in_the_middle() -> bytes:
    """A download that stopped half-way."""
    return _sound()[: len(_sound()) // 2]


@case("error")
def truncated_by_one_byte() -> bytes:
    """The last byte is missing."""
    return _sound()[:-1]


@folder_case("error")
def empty_directory(folder: Path) -> Path:
    """A directory without a model in it."""
    path = folder / "model"
    path.mkdir()
    return path


@folder_case("error")
def named_pipe(folder: Path) -> Path:
    """Opening a FIFO without a writer blocks for ever: it must be refused before it is opened."""
    os.mkfifo(folder / MODEL)
    return folder / MODEL


@folder_case("error")
def unix_socket(folder: Path) -> Path:
    """A socket is no regular file."""
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(folder, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{here}/{MODEL}")  # the path proper may be too long for a socket
        finally:
            os.close(here)
    return folder / MODEL


@folder_case("error")
def endless_device(folder: Path) -> Path:
    """Reading ``/dev/zero`` to its end fills the memory."""
    return Path("/dev/zero")


@folder_case("error")
def symlink_to_nothing(folder: Path) -> Path:
    """A link whose target is gone."""
    (folder / MODEL).symlink_to(folder / "gone.onnx")
    return folder / MODEL


@folder_case("error")
def symlink_to_itself(folder: Path) -> Path:
    """A link that never ends."""
    (folder / MODEL).symlink_to(folder / MODEL)
    return folder / MODEL


@folder_case("ok")
def symlink_to_a_model(folder: Path) -> Path:
    """Model caches name files by digest and link to them: the path that the user names may be a link."""
    write(folder / "4f0c1d", relu_model())
    (folder / MODEL).symlink_to(folder / "4f0c1d")
    return folder / MODEL


@case("error")
def random_bytes() -> bytes:
    """Noise."""
    return random.Random(7).randbytes(4096)


@case("error")
def plain_text() -> bytes:
    """A readme that was named like a model."""
    return b"This is not the model you are looking for.\n" * 20


@case("error")
def html_page() -> bytes:
    """What a download saves when the server wanted a login first."""
    return b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>404</body></html>\n"


@case("error")
def git_lfs_pointer() -> bytes:
    """What a clone without large-file support leaves in place of the weights."""
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 438011234\n"


@case("error")
def zip_archive() -> bytes:
    """An archive with a model in it is no model."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(MODEL), _sound())
    return buffer.getvalue()


@case("error")
def gzip_stream() -> bytes:
    """A compressed model is no model."""
    return gzip.compress(_sound(), mtime=0)


@case("error")
def json_in_place_of_protobuf() -> bytes:
    """The JSON form under the binary form's name."""
    return json_format.MessageToJson(relu_model()).encode()


@case("error")
def trailing_garbage() -> bytes:
    """A sound model with bytes behind it that are no field."""
    return _sound() + b"\xff" * 16


@case("error")
def twice_the_same_file() -> bytes:
    """Protobuf merges what is concatenated: every value is then defined twice."""
    return _sound() * 2


@case("error")
def graph_field_of_the_wrong_wire_type() -> bytes:
    """The graph as a number."""
    return bytes([0x08, 10, GRAPH_FIELD & 0xF8, 5])


@case("error")
def length_prefix_beyond_the_file() -> bytes:
    """A field that claims to be 2^60 bytes long must be refused before anything is allocated."""
    return bytes([0x08, 10, GRAPH_FIELD]) + b"\x80" * 8 + b"\x10" + b"abc"


@case("either")
def operator_name_is_not_utf8() -> bytes:
    """Text fields that do not decode."""
    return _sound().replace(b"Relu", b"R\xff\xfeu")


@case("either")
def documentation_is_not_utf8() -> bytes:
    """The same, where no meaning hangs on it."""
    model = relu_model()
    model.doc_string = "QQQQ"
    return model.SerializeToString(deterministic=True).replace(b"QQQQ", b"\xc3\x28\xa0\xa1")


@case("ok")
def unknown_protobuf_field() -> bytes:
    """A field from a later version of the format, with nothing that the graph needs."""
    return _sound() + b"\xc2\x3e\x03abc"  # field 1000, length 3


@case("error")
def model_without_graph() -> onnx.ModelProto:
    """A header and nothing else."""
    model = relu_model()
    model.ClearField("graph")
    return model


@case("error")
def only_a_tensor() -> bytes:
    """A serialized tensor: another message of the same format."""
    return onnx.TensorProto(name="t", data_type=1, dims=[2], float_data=[1, 2]).SerializeToString()

"""Opening what was compiled: settings reach ONNX Runtime, and what is wrong is said."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from compiler.backend.session import apply_settings, choose_providers, load_session, read_bundle
from compiler.errors import InputError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
SETTINGS = {
    "providers": [[CPU, {}]],
    "session_options": {"graph_optimization_level": "ORT_ENABLE_BASIC", "intra_op_num_threads": "physical"},
    "config_entries": {"session.force_spinning_stop": True, "session.dynamic_block_base": 4},
}


def model() -> bytes:
    """Return a model that doubles its input."""
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_value_info("x", kind)],
        [helper.make_value_info("y", kind)],
    )
    opsets = [helper.make_opsetid("", 21)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return data


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Write a bundle without a manifest's extras."""
    return write(tmp_path / "bundle", {"settings": SETTINGS})


def write(folder: Path, manifest: Any) -> Path:
    """Write a bundle; a manifest that is bytes is written as it is."""
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model())
    content = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (folder / "ampc.json").write_bytes(content)
    return folder


def runs(session: ort.InferenceSession) -> bool:
    """Whether the session doubles."""
    found = session.run(None, {"x": np.ones(2, np.float32)})
    return bool(found[0].tolist() == [2, 2])


def test_a_bundle_opens_with_its_settings(bundle: Path) -> None:
    """Providers, fields, enumerators and config entries of the manifest are those of the session."""
    session = load_session(bundle)
    assert runs(session) and session.get_providers() == [CPU]
    options = session.get_session_options()
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.intra_op_num_threads == 0
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert options.get_session_config_entry("session.dynamic_block_base") == "4"


@pytest.mark.parametrize(
    "manifest", [None, {"settings": SETTINGS}, SETTINGS], ids=["none", "manifest", "settings"]
)
def test_a_plain_model_opens_with_what_is_beside_it(tmp_path: Path, manifest: Any) -> None:
    """``NAME.onnx`` takes its settings from ``NAME.onnx.ampc.json`` if there is one, as a text path too."""
    path = tmp_path / "net.onnx"
    path.write_bytes(model())
    if manifest is not None:
        (tmp_path / "net.onnx.ampc.json").write_text(json.dumps(manifest))
    session = load_session(str(path))
    assert runs(session)
    level = session.get_session_options().graph_optimization_level
    assert (level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC) == (manifest is not None)


def test_a_plain_model_may_be_renamed(tmp_path: Path) -> None:
    """A model that was renamed together with its manifest is still held to its digest."""
    files = {"old.onnx": {"sha256": hashlib.sha256(model()).hexdigest()}}
    (tmp_path / "new.onnx").write_bytes(model())
    (tmp_path / "new.onnx.ampc.json").write_text(json.dumps({"model": "old.onnx", "files": files}))
    assert runs(load_session(tmp_path / "new.onnx"))
    (tmp_path / "new.onnx").write_bytes(model() + b"\0")
    with pytest.raises(InputError, match="not the one"):
        load_session(tmp_path / "new.onnx")


def test_sizes_of_free_dimensions_can_be_set(tmp_path: Path) -> None:
    """``free_dimension_overrides`` binds symbolic dims of the inputs."""
    settings = {"session_options": {"free_dimension_overrides": {"N": 2}}}
    session = load_session(write(tmp_path, {"settings": settings}))
    assert session.get_inputs()[0].shape == [2]


def test_missing_providers_are_replaced_with_a_warning(tmp_path: Path) -> None:
    """Providers that are not installed are named in a warning, and the next one takes over."""
    listed = {"providers": [[CUDA, {"device_id": 0}], [CPU, {}]]}
    with pytest.warns(RuntimeWarning, match="CUDAExecutionProvider is not part"):
        assert runs(load_session(write(tmp_path, {"settings": listed})))


def test_fallbacks_are_used_in_order(tmp_path: Path) -> None:
    """When no provider of the settings is installed, the first fallback that can run decides the options."""
    none = {"providers": [["TensorrtExecutionProvider", {}]]}
    second = {"providers": [[CUDA, {}]]}
    manifest = {"settings": none, "fallbacks": [second, SETTINGS]}
    with pytest.warns(RuntimeWarning, match="is not part"):
        session = load_session(write(tmp_path, manifest))
    level = session.get_session_options().graph_optimization_level
    assert level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with pytest.warns(RuntimeWarning, match="is not part"):
        assert runs(load_session(write(tmp_path, {"settings": none})))


def test_nothing_is_warned_about_a_bundle_that_is_in_order(bundle: Path) -> None:
    """A session with exactly the settings of the bundle gives no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runs(load_session(bundle))


def test_files_are_those_that_were_compiled(tmp_path: Path) -> None:
    """Digest and sizes that fit are accepted; another one, or a missing file, is an input error."""
    digest, size = hashlib.sha256(model()).hexdigest(), len(model())

    def bundle_of(**files: Any) -> Path:
        return write(
            tmp_path, {"settings": {}, "files": {name.replace("_", "."): e for name, e in files.items()}}
        )

    (tmp_path / "weights.bin").write_bytes(b"1234")
    assert runs(
        load_session(bundle_of(model_onnx={"sha256": digest, "bytes": size}, weights_bin={"bytes": 4}))
    )
    for files in (
        {"model_onnx": {"sha256": "0" * 64}},
        {"model_onnx": {"bytes": size + 1}},
        {"weights_bin": {"bytes": 5}},
    ):
        with pytest.raises(InputError, match="not the one that was compiled"):
            load_session(bundle_of(**files))
    with pytest.raises(InputError, match="no such"):
        load_session(bundle_of(other_bin={"bytes": 4}))


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ([], "not an object"),
        ({"model": "../model.onnx"}, "model is not"),
        ({"model": 3}, "model is not"),
        ({"model": "other.onnx"}, "no such model"),
        ({"settings": []}, "settings is not"),
        ({"settings": {"providers": ["CPU"]}}, "providers is not"),
        ({"settings": {"session_options": []}}, "session_options is not"),
        ({"fallbacks": {}}, "fallbacks is not"),
        ({"files": {"model.onnx": 3}}, "files is not"),
    ],
    ids=str,
)
def test_odd_manifests_are_input_errors(tmp_path: Path, manifest: Any, message: str) -> None:
    """Whatever is wrong in a manifest is an input error that names the file and the part."""
    with pytest.raises(InputError, match=message) as caught:
        load_session(write(tmp_path, manifest))
    assert str(tmp_path) in caught.value.where


@pytest.mark.parametrize(
    "options",
    [
        {"session_options": {"optimized_model_filepath": "/tmp/x"}},
        {"session_options": {"profile_file_prefix": "/tmp/x"}},
        {"session_options": {"register_custom_ops_library": "x.so"}},
        {"session_options": {"__class__": 3}},
        {"session_options": {"graph_optimization_level": "ORT_ENABLE_EVERYTHING"}},
        {"session_options": {"graph_optimization_level": 99}},
        {"session_options": {"intra_op_num_threads": "many"}},
        {"session_options": {"intra_op_num_threads": True}},
        {"session_options": {"enable_mem_pattern": 1}},
        {"session_options": {"free_dimension_overrides": {"N": "2"}}},
        {"config_entries": {"session.dynamic_block_base": [4]}},
    ],
    ids=str,
)
def test_options_that_cannot_be_set_are_input_errors(options: dict[str, Any]) -> None:
    """Unknown fields, fields that name files, and values of another type are refused."""
    with pytest.raises(InputError):
        apply_settings(ort.SessionOptions(), options)


def test_providers_keep_their_order_and_get_texts() -> None:
    """Providers that are installed keep their order, options become texts, and the default is the CPU."""
    settings = {"providers": [["B", {"x": 1, "y": True, "z": "w"}], ["A", {}], ["C", {}]]}
    assert choose_providers(settings, ["A", "B"]) == [("B", {"x": "1", "y": "1", "z": "w"}), ("A", {})]
    assert choose_providers({}, [CPU]) == [(CPU, {})]


def test_paths_that_are_no_model_are_input_errors(tmp_path: Path) -> None:
    """A missing path, an empty folder, a folder in the model's place, a pipe, and bytes that are no model."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "dir" / "model.onnx").mkdir(parents=True)
    (tmp_path / "dir" / "ampc.json").write_text("{}")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    cases = ["missing.onnx", "empty", "dir", "junk.onnx", "nul\0.onnx"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.onnx")
        cases.append("pipe.onnx")
    for case in cases:
        with pytest.raises(InputError) as caught:
            load_session(tmp_path / case)
        assert case in caught.value.where and caught.value.exit_code == 2


def test_reading_a_bundle_needs_no_runtime(bundle: Path) -> None:
    """``read_bundle`` finds model and settings without opening the model."""
    (bundle / "model.onnx").write_bytes(b"anything")
    found = read_bundle(bundle)
    assert found.model == bundle / "model.onnx" and found.settings == SETTINGS and found.fallbacks == ()


@pytest.mark.parametrize("at", [0, 1 << 20, -1])
def test_a_large_file_is_known_by_samples(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest of a large file changes with its first, a middle and its last sampled byte, and with its size."""
    from compiler.backend import digest

    monkeypatch.setattr(digest, "_LARGE", 1 << 20)
    path = tmp_path / "big"
    data = bytearray(np.random.default_rng(0).bytes((2 << 20) + 77))
    path.write_bytes(data)
    before = digest.describe(path)
    assert set(before) == {"bytes", "sampled_sha256"}
    data[at] ^= 1
    path.write_bytes(data)
    assert digest.describe(path)["sampled_sha256"] != before["sampled_sha256"]
    path.write_bytes(data + b"\0")
    assert digest.digest(path, digest.SAMPLED) != before["sampled_sha256"]

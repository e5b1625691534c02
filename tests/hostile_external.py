"""External data that leaves the model's folder, lies about its place or size, or is no file.

The known attacks on model loaders, on every place where a tensor can stand: initializers, constants, sparse
tensors, subgraphs, function bodies and training information.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile_case import MODEL, case, folder_case, model_of, tensor, text, value, write

WEIGHTS = np.array([1, -2, 3, 4], dtype=np.float32)
DATA = "weights.bin"
SECRET = "secret.bin"


def external(name: str = "w", *, dims: tuple[int, ...] = (4,), **entries: object) -> TensorProto:
    """Return a float tensor whose data is elsewhere; the keywords are the external-data entries."""
    result = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
    result.data_location = TensorProto.EXTERNAL
    for key, entry in entries.items():
        result.external_data.add(key=key, value=str(entry))
    return result


def add_weight(weight: TensorProto) -> onnx.ModelProto:
    """Return ``y = x + w`` for a weight of four floats."""
    node = helper.make_node("Add", ["x", weight.name], ["y"])
    return model_of([node], [value("x", [4])], [value("y", [4])], [weight])


def beside_secret(folder: Path, weight: TensorProto) -> Path:
    """Lay out ``folder/model/`` with the model and ``folder/secret.bin`` outside of it."""
    write(folder / SECRET, WEIGHTS.tobytes())
    (folder / "model").mkdir()
    return write(folder / "model" / MODEL, add_weight(weight))


def with_data(folder: Path, weight: TensorProto) -> Path:
    """Lay out a model and its sixteen bytes of data beside it."""
    write(folder / DATA, WEIGHTS.tobytes())
    return write(folder / MODEL, add_weight(weight))


# --- what must work ---


@folder_case("ok")
def external_data_beside_the_model(folder: Path) -> Path:
    """The ordinary large model."""
    return with_data(folder, external(location=DATA, offset=0, length=16))


@folder_case("ok")
def external_data_in_a_subfolder(folder: Path) -> Path:
    """Data may lie in a folder below the model."""
    (folder / "weights").mkdir()
    write(folder / "weights" / "w.bin", WEIGHTS.tobytes())
    return write(folder / MODEL, add_weight(external(location="weights/w.bin")))


@folder_case("ok")
def external_data_without_offset_and_length(folder: Path) -> Path:
    """Both are optional: the file is the tensor."""
    return with_data(folder, external(location=DATA))


@folder_case("ok")
def external_data_shared_by_two_tensors(folder: Path) -> Path:
    """Tied weights may name the same bytes twice."""
    write(folder / DATA, WEIGHTS.tobytes())
    nodes = [helper.make_node("Add", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "v"], ["y"])]
    weights = [external("w", location=DATA), external("v", location=DATA)]
    return write(folder / MODEL, model_of(nodes, [value("x", [4])], [value("y", [4])], weights))


@folder_case("ok")
def external_data_far_into_a_sparse_file(folder: Path) -> Path:
    """Sixteen bytes at 4 GiB of an 8 GiB file cost sixteen bytes of memory."""
    offset = 4 << 30
    with open(folder / DATA, "wb") as file:
        file.truncate(8 << 30)
        file.seek(offset)
        file.write(WEIGHTS.tobytes())
    return write(folder / MODEL, add_weight(external(location=DATA, offset=offset, length=16)))


# --- leaving the folder ---


@folder_case("error")
def external_data_in_the_parent(folder: Path) -> Path:
    """``..`` reads any file of the user's (CVE-2022-25882)."""
    return beside_secret(folder, external(location=f"../{SECRET}"))


@folder_case("error")
def external_data_in_the_parent_by_a_detour(folder: Path) -> Path:
    """``a/../../b`` passes a check that looks at the prefix only (CVE-2024-27318)."""
    path = beside_secret(folder, external(location=f"a/../../{SECRET}"))
    (path.parent / "a").mkdir()
    return path


@folder_case("error")
def external_data_with_backslashes(folder: Path) -> Path:
    """The same attack in another system's spelling."""
    return beside_secret(folder, external(location=f"..\\{SECRET}"))


@folder_case("error")
def external_data_absolute(folder: Path) -> Path:
    """An absolute path, even one that exists."""
    return beside_secret(folder, external(location=str(folder / SECRET)))


@folder_case("error")
def external_data_symlink(folder: Path) -> Path:
    """A link beside the model that leads out of the folder (CVE-2026-27489)."""
    path = beside_secret(folder, external(location=DATA))
    (path.parent / DATA).symlink_to(folder / SECRET)
    return path


@folder_case("error")
def external_data_below_a_symlink(folder: Path) -> Path:
    """A linked folder on the way (CVE-2026-34447)."""
    path = beside_secret(folder, external(location=f"weights/{SECRET}"))
    (path.parent / "weights").symlink_to(folder)
    return path


@folder_case("error")
def external_data_hard_link(folder: Path) -> Path:
    """A hard link is another file's data under an innocent name (CVE-2026-34446)."""
    path = beside_secret(folder, external(location=DATA))
    os.link(folder / SECRET, path.parent / DATA)
    return path


@folder_case("error")
def external_data_url(folder: Path) -> Path:
    """A location is a path, and nothing is ever fetched."""
    return with_data(folder, external(location="http://127.0.0.1:9/weights.bin"))


@folder_case("error")
def external_data_in_process_memory(folder: Path) -> Path:
    """The runtime's marker for tensors in memory, in a file, reads the process's own memory."""
    return with_data(folder, external(location="*/_ORT_MEM_ADDR_/*", offset=4096, length=16))


# --- no file ---


@folder_case("error")
def external_data_missing(folder: Path) -> Path:
    """The user copied the model without its data."""
    return write(folder / MODEL, add_weight(external(location=DATA)))


@folder_case("error")
def external_data_named_pipe(folder: Path) -> Path:
    """Opening it would block for ever."""
    os.mkfifo(folder / DATA)
    return write(folder / MODEL, add_weight(external(location=DATA)))


@folder_case("error")
def external_data_directory(folder: Path) -> Path:
    """A folder in place of the file."""
    (folder / DATA).mkdir()
    return write(folder / MODEL, add_weight(external(location=DATA)))


@folder_case("error")
def external_data_is_the_model_itself(folder: Path) -> Path:
    """The model's own bytes as weights: it would change when the result overwrites it."""
    return write(folder / MODEL, add_weight(external(location=MODEL, offset=0, length=16)))


@folder_case("error")
def external_data_with_empty_location(folder: Path) -> Path:
    """The empty path is the folder."""
    return with_data(folder, external(location=""))


@folder_case("error")
def external_data_without_location(folder: Path) -> Path:
    """Data that is elsewhere, but nowhere."""
    return with_data(folder, external(offset=0, length=16))


@folder_case("error")
def external_data_with_a_nul_in_its_location(folder: Path) -> Path:
    """What the check reads and what the system opens must be the same name."""
    return with_data(folder, external(location=f"{DATA}\0.png"))


# --- offsets and lengths ---


@folder_case("error")
def external_data_offset_past_the_end(folder: Path) -> Path:
    """Reading there gives nothing."""
    return with_data(folder, external(location=DATA, offset=4096, length=16))


@folder_case("error")
def external_data_partly_past_the_end(folder: Path) -> Path:
    """Reading there gives less than the tensor needs."""
    return with_data(folder, external(location=DATA, offset=8, length=16))


@folder_case("error")
def external_data_negative_offset(folder: Path) -> Path:
    """Python would count it from the end."""
    return with_data(folder, external(location=DATA, offset=-16, length=16))


@folder_case("error")
def external_data_negative_length(folder: Path) -> Path:
    """Python would read to the end."""
    return with_data(folder, external(location=DATA, offset=0, length=-1))


@folder_case("error")
def external_data_huge_length(folder: Path) -> Path:
    """A length is checked against the file before anything is allocated (CVE-2026-34445)."""
    return with_data(folder, external(location=DATA, offset=0, length=1 << 62))


@folder_case("error")
def external_data_offset_overflows(folder: Path) -> Path:
    """Offset plus length wraps around in 64 bits."""
    return with_data(folder, external(location=DATA, offset=(1 << 64) - 16, length=32))


@folder_case("error")
def external_data_offset_is_no_number(folder: Path) -> Path:
    """Numbers are text here, and text can be anything."""
    return with_data(folder, external(location=DATA, offset="0x10; rm", length=16))


@folder_case("error")
def external_data_length_disagrees_with_the_shape(folder: Path) -> Path:
    """Twelve bytes are not four floats."""
    return with_data(folder, external(location=DATA, offset=0, length=12))


@folder_case("error")
def external_data_for_a_huge_shape(folder: Path) -> Path:
    """A terabyte of floats in a file of sixteen bytes."""
    return with_data(folder, external(dims=(1 << 20, 1 << 18), location=DATA))


@folder_case("either")
def external_data_unknown_key(folder: Path) -> Path:
    """A key that nobody knows must not become an attribute of anything (CVE-2026-34445)."""
    return with_data(folder, external(location=DATA, offset=0, length=16, __class__="os.system"))


@folder_case("either")
def external_data_repeats_a_key(folder: Path) -> Path:
    """What is checked and what is read must be the same entry."""
    weight = external(location=DATA)
    weight.external_data.add(key="location", value=DATA)
    return with_data(folder, weight)


@folder_case("error")
def external_data_repeats_the_location_with_an_escape(folder: Path) -> Path:
    """Two locations, of which the second leaves the folder."""
    weight = external(location=DATA)
    weight.external_data.add(key="location", value=f"../{SECRET}")
    path = beside_secret(folder, weight)
    write(path.parent / DATA, WEIGHTS.tobytes())
    return path


@folder_case("either")
def external_and_raw_data_both(folder: Path) -> Path:
    """Two sources for one tensor."""
    weight = external(location=DATA)
    weight.raw_data = WEIGHTS.tobytes()
    return with_data(folder, weight)


@folder_case("error")
def external_strings(folder: Path) -> Path:
    """Strings have no flat form, so they cannot be external."""
    weight = external(location=DATA)
    weight.data_type = TensorProto.STRING
    node = helper.make_node("Identity", ["w"], ["y"])
    write(folder / DATA, WEIGHTS.tobytes())
    return write(folder / MODEL, model_of([node], [], [value("y", [4], TensorProto.STRING)], [weight]))


# --- every place where a tensor can stand ---


def _escaping_at(place: Callable[[onnx.ModelProto, TensorProto], None]) -> Callable[[Path], Path]:
    def lay_out(folder: Path) -> Path:
        path = beside_secret(folder, tensor("w", WEIGHTS))
        model = onnx.load_model_from_string(path.read_bytes())
        place(model, external("leak", location=f"../{SECRET}"))
        return write(path, model)

    return lay_out


@folder_case("error")
def escape_in_a_constant(folder: Path) -> Path:
    """The attribute of a Constant."""
    return _escaping_at(_add_constant)(folder)


def _add_constant(model: onnx.ModelProto, leak: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["leak"], value=leak))
    model.graph.node.append(helper.make_node("Neg", ["leak"], ["z"]))
    model.graph.output.append(value("z", [4]))


@folder_case("error")
def escape_in_a_subgraph(folder: Path) -> Path:
    """An initializer of a branch."""
    return _escaping_at(_add_branches)(folder)


def _add_branches(model: onnx.ModelProto, leak: TensorProto) -> None:
    branches = {}
    for name, weight in (("then_branch", leak), ("else_branch", tensor("w2", WEIGHTS))):
        node = helper.make_node("Neg", [weight.name], [f"{name}_out"])
        branches[name] = helper.make_graph([node], name, [], [value(f"{name}_out", [4])], [weight])
    model.graph.input.append(value("c", [], TensorProto.BOOL))
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], **branches))
    model.graph.output.append(value("z", [4]))


@folder_case("error")
def escape_in_a_function_body(folder: Path) -> Path:
    """A Constant inside a model-local function."""
    return _escaping_at(_add_function)(folder)


def _add_function(model: onnx.ModelProto, leak: TensorProto) -> None:
    body = [helper.make_node("Constant", [], ["k"], value=leak), helper.make_node("Add", ["a", "k"], ["b"])]
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("local", "Leak", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node.append(helper.make_node("Leak", ["x"], ["z"], domain="local"))
    model.graph.output.append(value("z", [4]))


@folder_case("error")
def escape_in_a_sparse_initializer(folder: Path) -> Path:
    """The values of a sparse tensor were once read without a check."""
    return _escaping_at(_add_sparse)(folder)


def _add_sparse(model: onnx.ModelProto, leak: TensorProto) -> None:
    indices = tensor("", np.arange(4, dtype=np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(leak, indices, [8]))
    model.graph.node.append(helper.make_node("Neg", ["leak"], ["z"]))
    model.graph.output.append(value("z", [8]))


@folder_case("error")
def escape_in_training_info(folder: Path) -> Path:
    """A graph that inference never runs is still written back."""
    return _escaping_at(_add_training)(folder)


def _add_training(model: onnx.ModelProto, leak: TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(leak)


@folder_case("error")
def escape_in_an_unused_tensor(folder: Path) -> Path:
    """A tensor that dead-code elimination would drop is refused all the same: the file is hostile."""
    return _escaping_at(lambda model, leak: model.graph.initializer.append(leak))(folder)


@case("error")
def external_constant_missing() -> onnx.ModelProto:
    """The data of a constant was not copied along."""
    model = text("g (float[4] x) => (float[4] y) { y = Add(x, k) }")
    constant = helper.make_node("Constant", [], ["k"], value=external("k", location=DATA))
    model.graph.node.insert(0, constant)
    return model

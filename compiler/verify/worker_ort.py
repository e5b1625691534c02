"""The child's side of the work: ONNX Runtime sessions, and values as it takes and gives them.

Tensors cross by address, not through numpy: ORT's Python API hands out no bfloat16, float8 or sub-byte
arrays, but ``OrtValue.data_ptr`` and ``ortvalue_from_shape_and_type`` hold for every type that ORT has (1.32
refuses complex and float6 at load).  So no ``Cast`` is added to any model, and bits arrive unchanged.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from compiler.verify.worker_frames import CODES, ELEMENT_TYPES, STRING, Buffers, Header

_NUMPY_TYPES = frozenset(
    f"tensor({name})"
    for name in (
        *("float", "double", "float16", "bool", "string", "int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
    )
)
_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_FOLDER_KEY = "session.model_external_initializers_file_folder_path"
_NOWHERE = __file__
"""A folder that holds nothing, being a file: else models in memory may name files of the current folder."""


class CannotCarry(Exception):
    """A value that ORT's Python API can neither take nor give."""


class _Loaded:
    """A session with what must outlive it: mapped files and the OrtValues on top of them."""

    def __init__(self, session: Any, keep: list[Any]) -> None:
        self.session = session
        self.keep = keep


class Server:
    """The operations that the parent may ask for, one method each, named by the frame's ``op``."""

    def __init__(self) -> None:
        """Start without sessions; handles are never reused."""
        self.phase = "load"
        self._loaded: dict[int, _Loaded] = {}
        self._next = 1

    def load(self, header: Header, buffers: Buffers) -> tuple[Header, Buffers]:
        """Create a session and keep it; reply with its handle, ports and providers."""
        self.phase = "load"
        loaded = _create(header, buffers)
        handle, self._next = self._next, self._next + 1
        self._loaded[handle] = loaded
        session = loaded.session
        ports = {
            "inputs": session.get_inputs(),
            "outputs": session.get_outputs(),
            "overridable": session.get_overridable_initializers(),
        }
        described = {
            key: [[p.name, p.type, list(p.shape or ())] for p in found] for key, found in ports.items()
        }
        return {"handle": handle, **described, "providers": session.get_providers()}, ()

    def run(self, header: Header, buffers: Buffers) -> tuple[Header, Buffers]:
        """Run a kept session once."""
        self.phase = "run"
        return _run(self._loaded[header["handle"]], header, buffers)

    def evaluate(self, header: Header, buffers: Buffers) -> tuple[Header, Buffers]:
        """Create a session, run it once, and drop it: one round trip for constant folding."""
        self.phase = "load"
        loaded = _create(header, buffers)
        self.phase = "run"
        return _run(loaded, header, buffers)

    def unload(self, header: Header, buffers: Buffers) -> tuple[Header, Buffers]:
        """Drop a kept session."""
        del self._loaded[header["handle"]]
        return {}, ()


def _create(header: Header, buffers: Buffers) -> _Loaded:
    deployed = header["settings"] is not None
    settings = header["settings"] or {}
    options = ort.SessionOptions()
    keep: list[Any] = []
    providers: list[Any] = ["CPUExecutionProvider"]
    if deployed:
        from compiler.backend.session import apply_settings, choose_providers

        apply_settings(options, _without_denormals(settings))
        providers = choose_providers(settings, ort.get_available_providers()) or providers
    _set_level(options, header["optimize"] or (None if deployed else "none"))
    if not deployed:
        _economize(options)
    options.log_severity_level = 4
    options.enable_profiling = False
    if header["threads"] is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = header["threads"]
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if not header["path"]:
        options.add_session_config_entry(_FOLDER_KEY, header["folder"] or _NOWHERE)
    keep += _add_initializers(options, header["initializers"])
    model = header["path"] or buffers[header["model"]]
    session = ort.InferenceSession(model, options, providers=providers)
    session.disable_fallback()
    return _Loaded(session, keep)


def _without_denormals(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    # ORT asks only the first session of a process, and then the whole process flushes to zero or none of it:
    # later sessions would fold constants with it.
    entries = dict(settings.get("config_entries", {}))
    entries.pop("session.set_denormal_as_zero", None)
    return {**settings, "config_entries": entries}


def _set_level(options: Any, level: str | None) -> None:
    if level is not None:
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])


def _economize(options: Any) -> None:
    # A session that checks runs once or twice: packing the weights would double them in memory, and external
    # data that is not packed stays a mapping of the file.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")


def _add_initializers(options: Any, entries: Sequence[Header]) -> list[Any]:
    """Put mapped files under initializers that the model declares as external; return what must stay alive.

    ``add_initializer`` takes the mapping as it is, but ORT's optimizers then look for the data in the model
    and fail; ``add_external_initializers`` works with every level and copies.
    """
    files = {path: _map(path) for path in dict.fromkeys(entry["path"] for entry in entries)}
    names = [entry["name"] for entry in entries]
    values = [_mapped_value(files[entry["path"]], entry) for entry in entries]
    if options.graph_optimization_level != ort.GraphOptimizationLevel.ORT_DISABLE_ALL and entries:
        options.add_external_initializers(names, values)
        return [files, values]
    for name, value in zip(names, values, strict=True):
        options.add_initializer(name, value)
    return [files, values]


def _map(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _mapped_value(file: mmap.mmap, entry: Header) -> Any:
    data = memoryview(file)[entry["offset"] : entry["offset"] + entry["length"]]
    return _tensor(entry["type"], entry["shape"], data)


def _run(loaded: _Loaded, header: Header, buffers: Buffers) -> tuple[Header, Buffers]:
    session = loaded.session
    feeds = {name: _decode(value, buffers) for name, value in header["feeds"].items()}
    types = {port.name: port.type for port in session.get_outputs()}
    names = list(types) if header["outputs"] is None else header["outputs"]
    found: dict[str, Any] = {}
    for run, group in _ways(feeds, {name: types.get(name, "") for name in names}):
        found.update(zip(group, run(session, group, feeds), strict=True))
    out: list[Any] = []
    return {"values": [_encode(found[name], out) for name in names]}, _Owned(out, (found, feeds, loaded))


class _Owned(list[Any]):
    """Buffers that lie inside OrtValues, with all that these may share memory with, until they are sent.

    An output that is an input lies on the input's buffer, one that is an initializer in the session.
    """

    def __init__(self, buffers: list[Any], owner: Any) -> None:
        super().__init__(buffers)
        self.owner = owner


_Way = Callable[[Any, list[str], dict[str, Any]], Sequence[Any]]


def _ways(feeds: Mapping[str, Any], outputs: Mapping[str, str]) -> Iterator[tuple[_Way, list[str]]]:
    """Choose how to run: by OrtValue, which carries every tensor, or by object, which carries the rest."""
    only_tensors = all(isinstance(value, ort.OrtValue) for value in feeds.values())
    nested = [name for name, kind in outputs.items() if "seq(" in kind or "map(" in kind]
    exotic = [
        name for name, kind in outputs.items() if name not in nested and _innermost(kind) not in _NUMPY_TYPES
    ]
    if only_tensors and not nested:
        yield _by_value, list(outputs)
        return
    if exotic and not only_tensors:
        raise CannotCarry(
            f"output {exotic[0]!r} is a {outputs[exotic[0]]}, which ORT's Python API hands out only "
            "when no input is a string, a sequence, a map or an absent optional"
        )
    if exotic:
        yield _by_value, exotic
    yield _by_object, [name for name in outputs if name not in exotic]


def _innermost(kind: str) -> str:
    return kind.removeprefix("optional(").removesuffix("))") + ")" if kind.startswith("optional(") else kind


def _by_value(session: Any, names: list[str], feeds: dict[str, Any]) -> Sequence[Any]:
    found: Sequence[Any] = session.run_with_ort_values(names, feeds)
    return found


def _by_object(session: Any, names: list[str], feeds: dict[str, Any]) -> Sequence[Any]:
    found: Sequence[Any] = session.run(names, feeds)
    return found


def _decode(value: Any, buffers: Buffers) -> Any:
    """Make what ORT takes: an OrtValue, an array of strings, a list, a dict, ``None``."""
    if value is None:
        return None
    if "list" in value:
        return [_plain(item, buffers) for item in value["list"]]
    if "map" in value:
        return dict(value["map"])
    if "sparse" in value:
        return _sparse(value["sparse"], *(_plain(value[key], buffers) for key in ("values", "indices")))
    if value["type"] == STRING:
        array = np.empty(len(value["text"]), object)
        array[:] = value["text"]
        return array.reshape(value["shape"])
    return _tensor(value["type"], value["shape"], buffers[value["buffer"]])


def _plain(value: Any, buffers: Buffers) -> Any:
    # Inside a list ORT takes arrays, dicts and lists, but no OrtValues.
    found = _decode(value, buffers)
    return found.numpy() if hasattr(found, "data_ptr") else found


def _tensor(code: int, shape: Sequence[int], data: Any) -> Any:
    """Make an OrtValue of any element type over ``data``; only packed types are copied."""
    bits = ELEMENT_TYPES[code][1]
    if bits < 8 or not len(data):
        value = ort.OrtValue.ortvalue_from_shape_and_type(shape, code)
        _check_size(value.tensor_size_in_bytes(), len(data))
        raw = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
        ctypes.memmove(value.data_ptr(), raw.ctypes.data, raw.nbytes)
        return value
    array = np.frombuffer(data, f"u{bits // 8}" if bits <= 64 else "c16")
    count = math.prod(shape)
    _check_size(count * bits // 8, array.nbytes)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.reshape(shape), code)


def _check_size(expected: int, found: int) -> None:
    if expected != found:
        raise ValueError(f"{found} bytes for a tensor of {expected} bytes")


def _sparse(shape: Sequence[int], values: Any, indices: Any) -> Any:
    device = ort.OrtDevice.make("cpu", 0)
    tensor = ort.SparseTensor.sparse_coo_from_numpy(shape, values, indices, device)
    value = ort.OrtValue.ort_value_from_sparse_tensor(tensor)
    value.kept_alive = (values, indices)  # ORT takes their addresses and no reference
    return value


def _encode(value: Any, buffers: list[Any]) -> Any:
    """Turn what ORT gave into a value of a frame; big data goes to ``buffers`` without a copy."""
    if value is None or (hasattr(value, "has_value") and not value.has_value()):
        return None
    if isinstance(value, list):
        return {"list": [_encode(item, buffers) for item in value]}
    if isinstance(value, dict):
        return {"map": list(value.items())}
    if hasattr(value, "data_ptr"):
        return _encode_value(value, buffers)
    if hasattr(value, "dtype"):
        return _encode_array(value, buffers)
    raise CannotCarry(f"ORT gave a {type(value).__name__}, which cannot be carried")


def _encode_value(value: Any, buffers: list[Any]) -> Any:
    if value.is_sparse_tensor():
        return _encode_sparse(value.as_sparse_tensor(), buffers)
    if not value.is_tensor():
        raise CannotCarry(f"a {value.data_type()} cannot be carried")
    code = value.element_type()
    if code == STRING:
        return _encode_array(value.numpy(), buffers)
    if code not in ELEMENT_TYPES:
        raise CannotCarry(f"element type {code} of a {value.data_type()} cannot be carried")
    size = value.tensor_size_in_bytes()
    buffers.append(
        np.frombuffer((ctypes.c_ubyte * size).from_address(value.data_ptr()), np.uint8) if size else b""
    )
    return {"type": code, "shape": list(value.shape()), "buffer": len(buffers) - 1}


def _encode_array(array: Any, buffers: list[Any]) -> Any:
    shape = list(array.shape)
    if array.dtype == object:
        return {"type": STRING, "shape": shape, "text": array.reshape(-1).tolist()}
    buffers.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else b"")
    return {"type": CODES[array.dtype.name], "shape": shape, "buffer": len(buffers) - 1}


def _encode_sparse(tensor: Any, buffers: list[Any]) -> Any:
    if "COO" not in str(tensor.format()):
        raise CannotCarry(f"a sparse tensor in {tensor.format()} cannot be carried")
    # Copies: what ORT gives are views that die with ``tensor``.
    return {
        "sparse": list(tensor.dense_shape()),
        "values": _encode_array(tensor.values().copy(), buffers),
        "indices": _encode_array(tensor.as_coo_view().indices().copy(), buffers),
    }

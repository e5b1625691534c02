"""Open what was compiled: an ONNX Runtime session with the providers and options that it was compiled for.

A *bundle* is a folder with ``model.onnx`` and ``ampc.json``; a plain ``NAME.onnx`` may have
``NAME.onnx.ampc.json`` beside it.  Of that JSON object this module reads::

    {"model": "model.onnx",
     "settings": {"providers": [["CPUExecutionProvider", {}]],
                  "session_options": {"graph_optimization_level": "ORT_ENABLE_ALL"},
                  "config_entries": {"session.set_denormal_as_zero": "1"}},
     "fallbacks": [...],
     "files": {"model.onnx": {"sha256": "...", "bytes": 123}}}

where all but ``settings`` may be missing, and settings alone are read too.  ``fallbacks`` are further
settings, used in order when no provider of the earlier ones is installed or starts; the last resort is the
CPU provider.

Decisions: sizes and digests of all files are checked (``digest`` samples large ones).  Fields of ``SessionOptions``
that name files or libraries cannot be set.  Provider options can name libraries, so a bundle deserves the trust that a
program does.
"""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.backend.digest import SAMPLED, WHOLE, digest
from compiler.backend.session_plugins import available_providers, open_model
from compiler.errors import InputError

if TYPE_CHECKING:
    import onnxruntime

Settings = Mapping[str, Any]

MANIFEST = "ampc.json"
"""The file that makes a folder a bundle."""

_CPU = "CPUExecutionProvider"
_THREAD_WORDS = {"physical": 0}
_ENUMS = {
    "graph_optimization_level": "GraphOptimizationLevel",
    "execution_mode": "ExecutionMode",
    "execution_order": "ExecutionOrder",
}
_FIELDS = {
    "intra_op_num_threads": int,
    "inter_op_num_threads": int,
    "enable_cpu_mem_arena": bool,
    "enable_mem_pattern": bool,
    "enable_mem_reuse": bool,
    "enable_profiling": bool,
    "use_deterministic_compute": bool,
    "use_per_session_threads": bool,
    "log_severity_level": int,
    "log_verbosity_level": int,
}
_SIZES = "free_dimension_overrides"
_LARGEST_MANIFEST = 64 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model with what is known about how to run it."""

    model: Path
    """The model file."""
    settings: Settings = field(default_factory=dict)
    """Providers, session options and config entries; empty for ORT's defaults."""
    fallbacks: tuple[Settings, ...] = ()
    """Further settings for machines that lack the providers of ``settings``."""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Digest and size of the files, by name beside the model."""


def load_session(path: str | os.PathLike[str]) -> onnxruntime.InferenceSession:
    """Open a bundle or an ``.onnx`` file as an ONNX Runtime session with the settings that belong to it.

    Warns when a provider is not installed or does not start and another takes its place.  Raises
    ``InputError`` when files are missing, odd, or not those that were compiled, and when ORT cannot load the
    model.
    """
    bundle = read_bundle(path)
    check_files(bundle)
    import onnxruntime as ort

    failure: Exception | None = None
    for settings, providers in _attempts(bundle, available_providers()):
        options = ort.SessionOptions()
        apply_settings(options, settings)
        try:
            session = open_model(str(bundle.model), options, providers)
        except Exception as error:  # ORT's exceptions have no parent of their own
            failure = failure or error
            continue
        _warn_replaced(providers, session.get_providers(), failure)
        return session
    raise InputError("ONNX Runtime cannot load the model", where=str(bundle.model), why=str(failure))


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Find the model and its settings; raise ``InputError`` if there is no model or the manifest is odd."""
    given = Path(path)
    manifest = given / MANIFEST if given.is_dir() else given.with_name(given.name + "." + MANIFEST)
    if given.is_dir() and not manifest.is_file():
        raise InputError(
            "the folder is not a bundle",
            where=str(given),
            why=f"it holds no {MANIFEST}",
            hint="give the folder that `ampc compile -o` wrote, or an .onnx file",
        )
    content = _read_manifest(manifest) if manifest.is_file() else {}
    model = given / _model_name(content, manifest) if given.is_dir() else given
    _require_regular(model)
    alone = "settings" not in content and not content.keys().isdisjoint(("providers", *_PARTS))
    settings = content if alone else content.get("settings", {})
    fallbacks = content.get("fallbacks", [])
    _check_settings(settings, manifest)
    _require(isinstance(fallbacks, list), manifest, "fallbacks", "a list of settings")
    for fallback in fallbacks:
        _check_settings(fallback, manifest)
    return Bundle(model, settings, tuple(fallbacks), _read_files(content, manifest, model.name))


_PARTS = ("session_options", "config_entries")


def _read_manifest(manifest: Path) -> dict[str, Any]:
    if manifest.stat().st_size > _LARGEST_MANIFEST:
        raise InputError("the manifest is too large to be one", where=str(manifest))
    try:
        content = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError("the manifest is not JSON", where=str(manifest), why=str(error)) from error
    except OSError as error:
        raise InputError("the manifest cannot be read", where=str(manifest), why=str(error)) from error
    _require(isinstance(content, dict), manifest, "the manifest", "an object")
    found: dict[str, Any] = content
    return found


def _model_name(content: Mapping[str, Any], manifest: Path) -> str:
    name = content.get("model", "model.onnx")
    plain = isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name
    _require(plain, manifest, "model", "the name of a file in the bundle")
    return str(name)


def _read_files(content: Mapping[str, Any], manifest: Path, model: str) -> dict[str, Mapping[str, Any]]:
    files = content.get("files", {})
    good = isinstance(files, dict) and all(isinstance(entry, dict) for entry in files.values())
    _require(good, manifest, "files", "an object of objects")
    written_as = content.get("model")  # a plain model may have been renamed together with its manifest
    return {model if name == written_as else name: entry for name, entry in files.items()}


def _require(good: bool, manifest: Path, what: str, expected: str) -> None:
    if not good:
        raise InputError(f"{what} is not {expected}", where=str(manifest))


def _require_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise InputError("there is no such model", where=str(path), why=str(error)) from error
    if not stat.S_ISREG(mode):
        raise InputError("the model is not a regular file", where=str(path))


def check_files(bundle: Bundle) -> None:
    """Check sizes and digests of the files; raise ``InputError`` on the first mismatch."""
    for name, entry in bundle.files.items():
        path = bundle.model.parent / name
        _require_regular(path)
        size = entry.get("bytes")
        if size is not None and size != path.stat().st_size:
            raise _changed(path, f"it has {path.stat().st_size} bytes instead of {size}")
        for kind in (WHOLE, SAMPLED):
            if kind in entry and entry[kind] != digest(path, kind):
                raise _changed(path, f"its {kind} is another one")


def _changed(path: Path, why: str) -> InputError:
    hint = "compile the model again, or restore the file"
    return InputError("the file is not the one that was compiled", where=str(path), why=why, hint=hint)


# ------------------------------------------------------------------------------------------------ settings


def apply_settings(options: onnxruntime.SessionOptions, settings: Settings) -> None:
    """Set session options and config entries; raise ``InputError`` for what cannot be set.

    Enumerators are given by name, thread counts as numbers or ``"physical"``, booleans of config entries as
    such or as ``"0"`` and ``"1"``, and ``free_dimension_overrides`` as an object of sizes by name.
    """
    for name, value in settings.get("session_options", {}).items():
        if name == _SIZES:
            _override_sizes(options, value)
        else:
            setattr(options, name, _field_value(name, value))
    for key, value in settings.get("config_entries", {}).items():
        options.add_session_config_entry(key, _entry_text(key, value))


def merged_settings(own: Settings, given: Settings) -> dict[str, Any]:
    """Return settings with others over them, option by option."""
    parts = ("session_options", "config_entries")
    return {**own, **given, **{part: {**own.get(part, {}), **given.get(part, {})} for part in parts}}


def choose_providers(settings: Settings, available: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Return the providers that are installed, in their order, with options as the texts that ORT takes."""
    listed = settings.get("providers") or [[_CPU, {}]]
    return [
        (name, {key: _entry_text(key, value) for key, value in options.items()})
        for name, options in listed
        if name in available
    ]


def _override_sizes(options: onnxruntime.SessionOptions, sizes: Any) -> None:
    if not isinstance(sizes, Mapping) or not all(type(size) is int for size in sizes.values()):
        raise InputError(f"{_SIZES} is not an object of sizes by name", why=f"it is {sizes!r}")
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)


def _field_value(name: str, value: Any) -> Any:
    if name in _ENUMS:
        return _enumerator(name, value)
    if name not in _FIELDS:
        valid = ", ".join(sorted([*_FIELDS, *_ENUMS, _SIZES]))
        raise InputError(f"session option {name!r} cannot be set", hint=f"what can be set: {valid}")
    if name.endswith("_num_threads") and value in _THREAD_WORDS:
        return _THREAD_WORDS[value]
    if type(value) is not _FIELDS[name]:
        raise InputError(f"session option {name!r} is not {_FIELDS[name].__name__}", why=f"it is {value!r}")
    return value


def _enumerator(name: str, value: Any) -> Any:
    import onnxruntime as ort

    members = getattr(ort, _ENUMS[name]).__members__
    if value not in members:
        valid = ", ".join(members)
        raise InputError(f"session option {name!r} cannot be {value!r}", hint=f"what it can be: {valid}")
    return members[value]


def _entry_text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise InputError(f"option {key!r} is neither text, number nor boolean", why=f"it is {value!r}")


def _check_settings(settings: Any, manifest: Path) -> None:
    _require(isinstance(settings, dict), manifest, "settings", "an object")
    for part in _PARTS:
        _require(isinstance(settings.get(part, {}), dict), manifest, part, "an object")
    providers = settings.get("providers", [])
    good = isinstance(providers, list) and all(
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], dict)
        for entry in providers
    )
    _require(good, manifest, "providers", "a list of [name, {options}]")


# ------------------------------------------------------------------------------------------------ fallback


def _attempts(bundle: Bundle, available: Sequence[str]) -> Iterator[tuple[Settings, list[tuple[str, Any]]]]:
    """Yield settings with the providers that are installed, the preferred first, the CPU provider last."""
    last = {**bundle.settings, "providers": [[_CPU, {}]]}
    tried: list[Any] = []
    for settings in (bundle.settings, *bundle.fallbacks, last):
        providers = choose_providers(settings, available)
        missing = [name for name, _ in settings.get("providers", []) if name not in available]
        if missing:
            _warn(f"{', '.join(missing)} is not part of the installed onnxruntime")
        if providers and (settings, providers) not in tried:
            tried.append((settings, providers))
            yield settings, providers


def _warn_replaced(
    wanted: Sequence[tuple[str, Any]], found: Sequence[str], failure: Exception | None
) -> None:
    place = f"the session runs on {', '.join(found)}"
    if failure is not None:
        _warn(f"a provider did not start ({failure}); {place}")
    missing = [name for name, _ in wanted if name not in found]
    if missing:
        _warn(f"{', '.join(missing)} did not start; {place}")


def _warn(text: str) -> None:
    warnings.warn(f"load_session: {text}", RuntimeWarning, stacklevel=4)

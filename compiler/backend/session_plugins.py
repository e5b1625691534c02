"""Open a model with execution providers that are packages of their own beside those that ONNX Runtime was built with.

A plugin's library is registered once for each process, and offers the devices that it finds; without one it counts as
not installed.  Its devices are handed to the session's options, which then hold all providers of the session.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from targets.plugins import PLUGINS, installed_plugins

_CPU = "CPUExecutionProvider"
_KIND_OF_BACKEND = {"htp": "NPU", "gpu": "GPU", "cpu": "CPU"}
"""The option ``backend_type`` → the kind of device that it is for."""


def available_providers() -> list[str]:
    """Return the providers that a session may have here: those of the runtime, and plugins that found a device."""
    import onnxruntime as ort

    plugins = [name for name in installed_plugins() if _devices(name)]
    own = [name for name in ort.get_available_providers() if name not in PLUGINS or not _is_plugin(name)]
    return [*plugins, *own]


def open_model(model: str | bytes, options: Any, providers: Sequence[tuple[str, dict[str, str]]]) -> Any:
    """Open a model on providers, asked in their order; ``options`` are session options, to which plugins are added."""
    import onnxruntime as ort

    if not any(_is_plugin(name) for name, _ in providers):
        return ort.InferenceSession(model, options, providers=list(providers), enable_fallback=False)
    for name, own in providers:
        if _is_plugin(name):
            options.add_provider_for_devices([_device(name, own)], own)
        elif name != _CPU:  # which takes what is left in any case
            options.add_provider(name, own)
    return ort.InferenceSession(model, options, enable_fallback=False)


@lru_cache(maxsize=len(PLUGINS))
def _is_plugin(name: str) -> bool:
    """Whether a provider comes from a package of its own, whose library is registered when this is first asked."""
    import onnxruntime as ort

    if name not in installed_plugins() or name in ort.get_available_providers():
        return False
    if not hasattr(ort, "register_execution_provider_library"):
        return False  # a runtime from before there were plugins
    ort.register_execution_provider_library(name, importlib.import_module(PLUGINS[name]).get_library_path())
    return True


def _devices(name: str) -> list[Any]:
    """Return the devices that a plugin found, in its order."""
    import onnxruntime as ort

    return [device for device in ort.get_ep_devices() if device.ep_name == name] if _is_plugin(name) else []


def _device(name: str, own: dict[str, str]) -> Any:
    """Return the device that a provider's options are for, or else the first: a compiler runs without the real one."""
    wanted = _KIND_OF_BACKEND.get(own.get("backend_type", ""), "")
    found = _devices(name)
    return next((device for device in found if device.device.type.name == wanted), found[0])

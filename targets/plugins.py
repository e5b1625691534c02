"""Know the execution providers that are packages of their own: libraries that a stock ONNX Runtime loads when told.

ONNX Runtime does not list such a provider before its library is registered, so what is installed is read from the
packages.  That a provider is installed does not say that it finds a device.

Decision: the table holds what was seen to work; other plugins are opened by the program that deploys them.
"""

from __future__ import annotations

import importlib.util

PLUGINS = {"QNNExecutionProvider": "onnxruntime_qnn"}
"""Provider → the module whose ``get_library_path()`` names its library."""


def installed_plugins() -> tuple[str, ...]:
    """Return the providers that are here as packages of their own."""
    return tuple(name for name, module in PLUGINS.items() if importlib.util.find_spec(module) is not None)

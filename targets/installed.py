"""Identify the installed ONNX Runtime without importing it, which would be the dearest part of a warm start.

The version alone does not tell builds apart (nightly wheels, own builds), and the git revision is only known
after the import. The native libraries' names, sizes and modification times tell both, from a handful of
``stat`` calls.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from targets.errors import TargetError

_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
    "onnxruntime-silicon",
    "onnxruntime-training",
    "ort-nightly",
    "ort-nightly-gpu",
)
"""Distributions that hold the ``onnxruntime`` package."""


@dataclass(frozen=True)
class Installed:
    """Identify one installation."""

    version: str
    """Its version, or ``unknown`` when it was not installed as a distribution."""
    build: str
    """A digest that differs between any two builds; 16 hexadecimal digits."""


def installed() -> Installed:
    """Identify what ``import onnxruntime`` would give; raise ``TargetError`` when there is none."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise TargetError("ONNX Runtime is not installed", hint="install it with: pip install onnxruntime")
    digest = hashlib.sha256(_version().encode())
    folder = Path(next(iter(spec.submodule_search_locations))) / "capi"
    for file in sorted(folder.glob("*onnxruntime*")):
        facts = file.stat()
        digest.update(f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return Installed(_version(), digest.hexdigest()[:16])


def _version() -> str:
    """Ask the metadata of whichever distribution is there."""
    for name in _DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"

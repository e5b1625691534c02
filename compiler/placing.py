"""Where a compiled model would run: what the target's providers take, and whether they are here to be asked.

A target is for a machine that need not be this one.  Where its first execution provider is not installed, the result is
checked on the CPU all the same, and the report says that it was not run on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import InputError, ModelError
from compiler.frontend.binding import open_dims

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.ir.graph import Model
    from compiler.result import Attempt
    from targets import Target

CPU = "CPUExecutionProvider"


def missing_providers(target: Target) -> tuple[str, ...]:
    """Return the execution providers of a target that the installed ONNX Runtime lacks, in the target's order."""
    from targets.kernels import installed_providers

    here = installed_providers()
    return tuple(name for name, _ in target.runtime.providers if name not in here)


def check_device(target: Target, *, required: bool) -> None:
    """Raise ``InputError`` when the target's first provider is not installed and that was to be an error."""
    first = target.runtime.providers[0][0]
    if required and first in missing_providers(target):
        raise InputError(
            f"{first} is not installed, so nothing can be run on the device",
            where=f"target {target.name}",
            why="a device check was asked for",
            hint=f"install a package of ONNX Runtime with it, or leave the check out ({target.summary})",
        )


def require_static(model: Model, target: Target, *, where: str) -> None:
    """Raise ``ModelError`` when a target needs static shapes and dims of the inputs are open."""
    found = open_dims(model.graph) if target.constraints.static_shapes else []
    if found:
        raise ModelError(
            f"the target {target.name} needs the size of every dim, and {len(found)} are open: {', '.join(found)}",
            where=where,
            why=f"{target.runtime.providers[0][0]} compiles the whole graph ahead of time",
            hint="give sizes: " + " ".join(f"--dim {name}=1" for name in found),
        )


def unshared(source: Any) -> Any:
    """Return a source whose declarations may be changed: a model that the caller holds is copied."""
    if isinstance(source, str | Path) or not hasattr(source, "CopyFrom"):
        return source
    copy: ModelProto = type(source)()
    copy.CopyFrom(source)
    return copy


def report_placement(attempt: Attempt, target: Target, *, dims: Mapping[str, int]) -> dict[str, Any]:
    """Return the part of the report that says where nodes go and whether that was seen on the device."""
    from compiler.analysis.placement import place

    first = target.runtime.providers[0][0]
    placement = place(attempt.model, target, opset=_opset(attempt.proto))
    device: dict[str, Any] = {"provider": first, "status": "run on the device"}
    if first in missing_providers(target):
        device |= {"status": "not run on the device", "why": f"{first} is not part of the installed onnxruntime"}
    found: dict[str, Any] = {"placement": placement.to_json(), "device": device}
    return found | ({"dims": dict(sorted(dims.items()))} if dims else {})


def _opset(proto: ModelProto) -> int:
    return next((int(o.version) for o in proto.opset_import if not o.domain), 0)

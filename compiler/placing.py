"""Where a compiled model would run: what the target's providers take, and whether they are here to be asked.

A target is for a machine that need not be this one.  Where its first execution provider is not installed, the result is
checked on the CPU all the same, and the report says that it was not run on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import InputError, ModelError, WorkerError
from compiler.frontend.binding import named_dims, open_dims

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.analysis.placement import Placement
    from compiler.ir.graph import Model, Node
    from compiler.result import Attempt
    from targets import Target

CPU = "CPUExecutionProvider"
RUN = "run on the device"
NOT_RUN = "not run on the device"
_LEGALIZING = ("legalize-floats", "expand", "legalize")
"""Passes whose rewrites are there for the sake of the target."""


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


def placement_of(model: Model, target: Target, *, opset: int = 0) -> Placement:
    """Return where the nodes of a model go; ``opset`` is the one that it is emitted in, by default its own."""
    from compiler.analysis.placement import place
    from compiler.rewrite.legal import Legality
    from targets import TargetError

    providers: list[tuple[str, Callable[[Node], str] | None]] = []
    for name, _ in target.runtime.providers:
        try:
            legality = Legality.of_provider(target, name, opset=opset or model.opsets.get("", 0))
            providers.append((name, legality.why_not))
        except TargetError:
            providers.append((name, None))
    return place(model, target.name, providers)


def report_placement(
    attempt: Attempt, target: Target, *, dims: Mapping[str, int], verified: bool, file: Callable[[], Path]
) -> dict[str, Any]:
    """Return the part of the report that says where nodes go and whether that was seen on the device.

    ``file`` gives the emitted model, which is opened when an accelerator is here to be asked.
    """
    first = target.runtime.providers[0][0]
    placement = placement_of(attempt.model, target, opset=_opset(attempt.proto))
    device: dict[str, Any] = {"provider": first, "status": RUN}
    if first in missing_providers(target):
        device |= {"status": NOT_RUN, "why": f"{first} is not part of the installed onnxruntime"}
    elif not verified:
        device |= {"status": NOT_RUN, "why": "nothing was run"}
    elif first != CPU:
        device |= _observed(placement, file(), target)
    done = _done(attempt)
    found: dict[str, Any] = {"placement": placement.to_json() | {"done": done}, "device": device}
    return found | ({"dims": dict(sorted(dims.items()))} if dims else {})


def _observed(placement: Placement, file: Path, target: Target) -> dict[str, Any]:
    """Return what the runtime really did with the nodes, and whether that is what was foretold."""
    from compiler.measure.assignment import read_assignment

    try:
        real = read_assignment(file, target.session_settings())
    except WorkerError as error:
        return {"status": NOT_RUN, "why": error.why or error.what}
    foretold = {share.provider: share.nodes for share in placement.shares}
    elsewhere = [name for name in real.nodes if name not in foretold]
    as_foretold = not elsewhere and set(real.nodes) == set(foretold)
    return {"assignment": real.to_json(), "as_foretold": as_foretold}


def _done(attempt: Attempt) -> dict[str, int]:
    """Return what legalization did, and how often."""
    found: dict[str, int] = {}
    for record in attempt.records:
        if record.name in _LEGALIZING:
            for kind, count in sorted(record.rewrites.items()):
                found[kind] = found.get(kind, 0) + count
    return found


def usual_sizes(model: Model, given: Mapping[str, int]) -> dict[str, int]:
    """Return a size for every open dim of a model that was just loaded: those given, or else usual ones."""
    from compiler.analysis.work import default_binding
    from compiler.ir.dims import Expr

    usual = default_binding(model, {})
    found = dict(given)
    taken = {str(symbol) for name, symbol in named_dims(model.graph) if name in given}
    for name, symbol in named_dims(model.graph):
        if str(symbol) not in taken and isinstance(symbol, Expr):
            taken.add(str(symbol))
            found[name] = usual.get(str(symbol), 1)
    return found


def _opset(proto: ModelProto) -> int:
    return next((int(o.version) for o in proto.opset_import if not o.domain), 0)

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
from compiler.islands import with_islands

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.analysis.placement import Placement
    from compiler.ir.graph import Model, Node
    from compiler.measure.assignment import Assignment
    from compiler.result import Attempt
    from targets import Target

CPU = "CPUExecutionProvider"
RUN = "run on the device"
NOT_RUN = "not run on the device"
_OFFLOAD = "offload_graph_io_quantization"
"""The option by which a provider leaves the boundary's QuantizeLinear and DequantizeLinear to the CPU."""
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


def opset_notes(attempt: Attempt, target: Target) -> list[str]:
    """Return the note that a model is emitted in an opset that the first provider is not known for, if it is."""
    from compiler.backend.lower import express

    known, opset = target.runtime.opset.known, _opset(attempt.proto)
    if known is None or opset <= known:
        return []
    late = dict.fromkeys(n.qualified for n in attempt.model.graph.all_nodes() if express(n, known) is None)
    first = target.runtime.providers[0][0]
    return [
        f"emitted in opset {opset} because of {', '.join(late) or 'its nodes'}: "
        f"{first} is known up to opset {known}, and what it does not take runs on the next provider"
    ]


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
    for name, options in target.runtime.providers:
        try:
            legality = Legality.of_provider(target, name, opset=opset or model.opsets.get("", 0))
            leaves = _boundary if str(options.get(_OFFLOAD, 0)) == "1" else None
            providers.append((name, _both(leaves, legality.why_not) if leaves else legality.why_not))
        except TargetError:
            providers.append((name, None))
    return place(model, target.name, providers)


def _both(first: Callable[[Node], str], second: Callable[[Node], str]) -> Callable[[Node], str]:
    return lambda node: first(node) or second(node)


def _boundary(node: Node) -> str:
    """Say that a node quantizes what comes in or dequantizes what goes out, and that this was left to the CPU."""
    value = node.inputs[0] if node.inputs else None
    comes_in = node.op == "QuantizeLinear" and value is not None and value.is_input
    goes_out = node.op == "DequantizeLinear" and node.outputs[0].is_output
    return f"{_OFFLOAD} leaves it to the CPU" if comes_in or goes_out else ""


def report_placement(
    attempt: Attempt,
    target: Target,
    *,
    dims: Mapping[str, int],
    verified: bool,
    file: Callable[[], Path],
    required: bool = False,
) -> dict[str, Any]:
    """Return the part of the report that says where nodes go and whether that was seen on the device.

    ``file`` gives the emitted model, which is opened when an accelerator is here to be asked.  Raises ``InputError``
    when that was required and the accelerator does not take the model.
    """
    from targets.plugins import installed_plugins

    first = target.runtime.providers[0][0]
    placement = with_islands(placement_of(attempt.model, target, opset=_opset(attempt.proto)), attempt.model, target)
    device: dict[str, Any] = {"provider": first, "status": RUN}
    if first in missing_providers(target):
        device |= {"status": NOT_RUN, "why": f"{first} is not part of the installed onnxruntime"}
    elif first in installed_plugins():
        device |= {"status": NOT_RUN, "why": f"{first} is a plugin, which compiles the model; checks run on the CPU"}
    elif not verified:
        device |= {"status": NOT_RUN, "why": "nothing was run"}
    if first != CPU and (required or (verified and first not in missing_providers(target))):
        device |= _observed(placement, file(), target, required=required)
    done = _done(attempt)
    found: dict[str, Any] = {"placement": placement.to_json() | {"done": done}, "device": device}
    return found | ({"dims": dict(sorted(dims.items()))} if dims else {})


def _observed(placement: Placement, file: Path, target: Target, *, required: bool) -> dict[str, Any]:
    """Return what the runtime really did with the nodes, and whether that is what was foretold."""
    from compiler.measure.assignment import read_assignment

    first = target.runtime.providers[0][0]
    try:
        real = read_assignment(file, target.session_settings())
    except WorkerError as error:
        return _not_taken(target, error.why or error.what, required=required)
    foretold = {share.provider: share.partitions for share in placement.shares}
    found = {"assignment": real.to_json(), "as_foretold": _as_foretold(real, foretold, target)}
    if first in foretold and first not in real.nodes:
        return found | _not_taken(target, f"{first} did not start, or took no node", required=required)
    return found


def _as_foretold(real: Assignment, foretold: Mapping[str, int], target: Target) -> bool:
    """Whether the same providers have nodes, in as many partitions where the first one compiles them."""
    first = target.runtime.providers[0][0]
    partitions = real.partitions.get(first, 0) if target.constraints.compiles else foretold.get(first, 0)
    return set(real.nodes) == set(foretold) and partitions == foretold.get(first, 0)


def _not_taken(target: Target, why: str, *, required: bool) -> dict[str, Any]:
    """Return the note that a device did not run a model; raise ``InputError`` when it was required to."""
    if not required:
        return {"status": NOT_RUN, "why": why}
    raise InputError(
        f"{target.runtime.providers[0][0]} does not take the model",
        where=f"target {target.name}",
        why=why,
        hint="a device check was asked for; without it the result is written, marked as not run there",
    )


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

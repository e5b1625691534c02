"""Targets and the runtime's limits as the compiler wants them: with its own errors, and with what callers override."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compiler.errors import InputError, UnknownNameError, nearest

if TYPE_CHECKING:
    from targets import Target
    from targets.schema import Constraints, Opset

_TOGGLES = {
    "enable_cuda": ("CUDAExecutionProvider", "gpu_cuda"),
    "enable_tensorrt": ("TensorrtExecutionProvider", "gpu_tensorrt"),
    "enable_openvino": ("OpenVINOExecutionProvider", "cpu_openvino"),
    "enable_coreml": ("CoreMLExecutionProvider", "gpu_mps"),
    "enable_xnnpack": ("XnnpackExecutionProvider", "mobile_cpu"),
    "enable_webgpu": ("WebGpuExecutionProvider", "mobile_gpu"),
    "enable_qnn": ("QNNExecutionProvider", "npu"),
    "enable_nnapi": ("NnapiExecutionProvider", "npu_nnapi"),
}
"""Keys that add an execution provider or take it away, and the target whose options and demands it brings."""

_HOMES = dict(_TOGGLES.values()) | {"CPUExecutionProvider": "cpu"}
"""Provider → the target that says what it demands of a model when it is the first."""

_POOLS = {"XnnpackExecutionProvider": "intra_op_num_threads", "OpenVINOExecutionProvider": "num_of_threads"}
"""Provider that computes on the processor with threads of its own → the option that counts them."""

_DEVICES = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "DmlExecutionProvider", "MIGraphXExecutionProvider")
"""Providers whose option ``device_id`` says which of several GPUs is used."""

_HALF = {
    "TensorrtExecutionProvider": ("trt_fp16_enable", "1", "0"),
    "MIGraphXExecutionProvider": ("migraphx_fp16_enable", "1", "0"),
    "OpenVINOExecutionProvider": ("precision", "FP16", "FP32"),
    "QNNExecutionProvider": ("enable_htp_fp16_precision", "1", "0"),
}
"""Provider → its option for computing in f16, and the values for yes and no."""

MOST_THREADS = 4096
"""Threads of a session at most: more is a slip, and ONNX Runtime would start them all."""

CONFIG_KEYS = ("cpu_threads", "gpu_device_id", "enable_fp16", *_TOGGLES)
"""What ``config`` may override of a target."""


def load_target(name: str | Target) -> Target:
    """Load a target by name or path; raises ``InputError`` with file, key and the nearest valid name.

    A target that is loaded already is returned as it is.
    """
    import targets

    if isinstance(name, targets.Target):
        return name
    try:
        return targets.load_target(name)
    except targets.TargetError as error:
        raise converted(error) from error


def override(target: Target, config: Mapping[str, Any]) -> Target:
    """Return a target with some of its settings replaced; see ``CONFIG_KEYS``.

    ``cpu_threads`` is the number of threads that compute on the processor, 0 for one per core.  ``gpu_device_id`` says
    which of several GPUs is used, ``enable_fp16`` lets providers with a switch for it compute in f16.  ``enable_cuda``
    and its like put a provider before those that are slower, or take it away; the CPU provider always stays.  The
    target then demands of a model what its first provider does, and runs on that provider's machine.  Providers come
    first, whatever the order of the keys.  Raises ``UnknownNameError`` for a key that does not exist, ``InputError``
    for a value that it does not take.
    """
    for key in config:
        if key not in CONFIG_KEYS:
            raise UnknownNameError(f"there is no setting {key!r}", hint=nearest(str(key), list(CONFIG_KEYS)))
    for key, value in sorted(config.items(), key=lambda item: item[0] not in _TOGGLES):
        target = _OVERRIDES[key](target, value) if key in _OVERRIDES else _with_provider(target, key, value)
    return target


def _with_threads(target: Target, count: Any) -> Target:
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST_THREADS:
        hint = f"0 is one per core, {MOST_THREADS} the most"
        raise InputError("'cpu_threads' is not a number of threads", why=f"it is {count!r}", hint=hint)
    first = target.runtime.providers[0][0]
    if not _on_processor(target):
        return _with_session(target, {"intra_op_num_threads": count})
    target = dataclasses.replace(
        target, machine=dataclasses.replace(target.machine, cores=count or target.machine.cores)
    )
    if first in _POOLS:
        target = _with_options(target, {first: {_POOLS[first]: str(target.machine.cores)}})
    if first == "XnnpackExecutionProvider":  # its pool computes, and ONNX Runtime's would fight it for the cores
        return target
    return _with_session(target, {"intra_op_num_threads": count})


def _on_processor(target: Target) -> bool:
    """Return whether the target's machine is a processor: its speed grows with its cores."""
    return any(rate.per_core for rate in target.machine.flops.values())


def _with_session(target: Target, entries: Mapping[str, str | int | bool]) -> Target:
    runtime = dataclasses.replace(target.runtime, session={**target.runtime.session, **entries})
    return dataclasses.replace(target, runtime=runtime)


def _on_device(target: Target, number: Any) -> Target:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise InputError("'gpu_device_id' is not the number of a GPU", why=f"it is {number!r}", hint="0 is the first")
    return _with_options(target, {name: {"device_id": str(number)} for name in _DEVICES})


def _in_half(target: Target, wanted: Any) -> Target:
    if not isinstance(wanted, bool):
        raise InputError("'enable_fp16' is true or false", why=f"it is {wanted!r}")
    return _with_options(target, {name: {key: yes if wanted else no} for name, (key, yes, no) in _HALF.items()})


def _with_options(target: Target, options: Mapping[str, Mapping[str, str]]) -> Target:
    providers = tuple((name, {**own, **options.get(name, {})}) for name, own in target.runtime.providers)
    return dataclasses.replace(target, runtime=dataclasses.replace(target.runtime, providers=providers))


def _with_provider(target: Target, key: str, wanted: Any) -> Target:
    from targets.names import PROVIDERS

    if not isinstance(wanted, bool):
        raise InputError(f"{key!r} is true or false", why=f"it is {wanted!r}")
    provider, home = _TOGGLES[key]
    found = dict(target.runtime.providers)
    if wanted and provider not in found:
        found[provider] = dict(load_target(home).runtime.providers)[provider]
    elif not wanted:
        found.pop(provider, None)
    found.setdefault("CPUExecutionProvider", {})
    providers = tuple(sorted(found.items(), key=lambda item: PROVIDERS.index(item[0])))
    changed = dataclasses.replace(target, runtime=dataclasses.replace(target.runtime, providers=providers))
    first = providers[0][0]
    if first == target.runtime.providers[0][0] or first not in _HOMES:
        return changed
    return _led_by(changed, load_target(_HOMES[first]), added=wanted)


def _led_by(target: Target, home: Target, *, added: bool) -> Target:
    """Return a target that demands what ``home`` does, whose first provider it has got.

    A provider that was ``added`` comes on top: the target's own demands stay, such as those of a user's file.  When the
    first was taken away they were its, and go with it.  A processor stays the one that it is.
    """
    own = target.runtime
    runtime = dataclasses.replace(
        own,
        session=own.session | home.runtime.session,
        opset=_narrower(own.opset, home.runtime.opset) if added else home.runtime.opset,
    )
    same = _on_processor(target) and _on_processor(home)
    return dataclasses.replace(
        target,
        machine=target.machine if same else home.machine,
        detected=target.detected and same,
        numerics=home.numerics,
        constraints=_stricter(target.constraints, home.constraints) if added else home.constraints,
        runtime=runtime,
    )


def _stricter(one: Constraints, other: Constraints) -> Constraints:
    """Return what both demand."""
    contribs = [c.contrib for c in (one, other) if c.contrib is not None]
    return dataclasses.replace(
        one,
        compiles=one.compiles or other.compiles,
        contrib=tuple(op for op in contribs[0] if op in contribs[-1]) if contribs else None,
        lacks=tuple(dict.fromkeys(one.lacks + other.lacks)),
        static_shapes=one.static_shapes or other.static_shapes,
        max_rank=min((c.max_rank for c in (one, other) if c.max_rank is not None), default=None),
        constant_weights=tuple(dict.fromkeys(one.constant_weights + other.constant_weights)),
        empty_tensors=one.empty_tensors and other.empty_tensors,
        narrow_int64=one.narrow_int64 or other.narrow_int64,
    )


def _narrower(one: Opset, other: Opset) -> Opset:
    """Return the opsets that both allow."""
    least = max((o.min for o in (one, other) if o.min is not None), default=None)
    most = min((o.max for o in (one, other) if o.max is not None), default=None)
    bound = min((o.highest for o in (one, other) if o.highest is not None), default=None)
    if least is not None and bound is not None and least > bound:
        raise InputError("no opset suits all providers", why=f"one asks for {least} at least, one for {bound} at most")
    known = min((o.known for o in (one, other) if o.known is not None), default=None)
    asked = (o.prefer for o in (one, other) if o.prefer is not None)
    prefer = next((p for p in asked if (least or p) <= p <= (most or p)), None)
    return dataclasses.replace(one, min=least, max=most, known=known, prefer=prefer)


_OVERRIDES = {"cpu_threads": _with_threads, "gpu_device_id": _on_device, "enable_fp16": _in_half}
"""Keys that change something other than which providers there are."""


def converted(error: ValueError) -> InputError:
    """Return a target's error as the compiler's own."""
    place = ": ".join(p for p in (getattr(error, "file", ""), getattr(error, "key", "")) if p)
    near = getattr(error, "nearest", "")
    hint = f"did you mean {near!r}?" if near else getattr(error, "hint", "")
    return InputError("the target cannot be used", where=place, why=getattr(error, "why", str(error)), hint=hint)


def runtime_limits() -> tuple[int, int]:
    """Return the highest opset and IR version that the installed ONNX Runtime loads."""
    import targets
    from targets.limits import runtime_limits as limits

    try:
        return limits()
    except targets.TargetError as error:
        raise converted(error) from error

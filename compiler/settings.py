"""Targets and the runtime's limits as the compiler wants them: with its own errors, and with what callers override."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compiler.errors import InputError, UnknownNameError, nearest

if TYPE_CHECKING:
    from targets import Target

_TOGGLES = {
    "enable_cuda": ("CUDAExecutionProvider", "gpu_cuda"),
    "enable_tensorrt": ("TensorrtExecutionProvider", "gpu_tensorrt"),
    "enable_openvino": ("OpenVINOExecutionProvider", "cpu_openvino"),
    "enable_coreml": ("CoreMLExecutionProvider", "gpu_mps"),
    "enable_xnnpack": ("XnnpackExecutionProvider", "mobile_cpu"),
    "enable_webgpu": ("WebGpuExecutionProvider", "mobile_gpu"),
    "enable_qnn": ("QNNExecutionProvider", "npu"),
}
"""Keys that add an execution provider or take it away, and the target whose options it gets."""

_DEVICES = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "DmlExecutionProvider", "MIGraphXExecutionProvider")
"""Providers whose option ``device_id`` says which of several GPUs is used."""

_HALF = {
    "TensorrtExecutionProvider": ("trt_fp16_enable", "1", "0"),
    "MIGraphXExecutionProvider": ("migraphx_fp16_enable", "1", "0"),
    "OpenVINOExecutionProvider": ("precision", "FP16", "FP32"),
    "QNNExecutionProvider": ("enable_htp_fp16_precision", "1", "0"),
}
"""Provider → its option for computing in f16, and the values for yes and no."""

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

    ``cpu_threads`` is the number of threads of the CPU provider, 0 for one per core.  ``gpu_device_id`` says which of
    several GPUs is used, ``enable_fp16`` lets providers with a switch for it compute in f16.  ``enable_cuda`` and its
    like put a provider before those that are slower, or take it away; the CPU provider always stays.  Raises
    ``UnknownNameError`` for a key that does not exist, ``InputError`` for a value that it does not take.
    """
    for key, value in config.items():
        if key not in CONFIG_KEYS:
            raise UnknownNameError(f"there is no setting {key!r}", hint=nearest(str(key), list(CONFIG_KEYS)))
        target = _OVERRIDES[key](target, value) if key in _OVERRIDES else _with_provider(target, key, value)
    return target


def _with_threads(target: Target, count: Any) -> Target:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InputError("'cpu_threads' is not a number of threads", why=f"it is {count!r}", hint="0 is one per core")
    session = target.runtime.session | {"intra_op_num_threads": count}
    machine = dataclasses.replace(target.machine, cores=count or target.machine.cores)
    return dataclasses.replace(target, machine=machine, runtime=dataclasses.replace(target.runtime, session=session))


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
    return dataclasses.replace(target, runtime=dataclasses.replace(target.runtime, providers=providers))


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

"""Tell, before anything is timed, whether variants can be timed side by side, and what is wrong where they cannot.

What the runtime would ignore or report in its own words is the user's to mend: settings and execution providers that do
not exist or are not installed, and models that take different inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compiler.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from compiler.ir.graph import Model, Value
    from compiler.measure.instrument import Variant

_OTHERS = ("free_dimension_overrides",)
"""Session options that are no property of a machine, so that targets do not have them."""


def check_settings(variants: Mapping[str, Variant]) -> None:
    """Raise ``InputError`` for the first setting or execution provider that no session here can have."""
    from compiler.backend.session import merged_settings, read_bundle
    from targets.errors import TargetError
    from targets.kernels import installed_providers
    from targets.names import check_provider, check_session_setting

    for name, variant in variants.items():
        given = {**variant.settings.get("session_options", {}), **variant.settings.get("config_entries", {})}
        try:
            for key, value in given.items():
                if key not in _OTHERS:
                    check_session_setting(key, value)
            for provider, _ in variant.settings.get("providers", ()):
                check_provider(provider)
        except TargetError as error:
            hint = f"did you mean {error.nearest!r}?" if error.nearest else error.hint
            raise InputError("a setting cannot be used", where=name, why=error.why, hint=hint) from error
        settings = merged_settings(read_bundle(variant.path).settings, variant.settings)
        here = installed_providers()
        missing = [provider for provider, _ in settings.get("providers", ()) if provider not in here]
        if missing:
            why = f"{', '.join(missing)} is not part of the installed onnxruntime"
            hint = "install a package of ONNX Runtime with it, or time the model on another provider"
            raise InputError("a variant cannot be timed here", where=name, why=why, hint=hint)


def shared_sizes(model: Model, variants: Mapping[str, Variant], dims: Mapping[str, int]) -> dict[str, int]:
    """Return ``dims``, and sizes of the first variant's other dims that another variant fixes.

    ``model`` is the first variant's.  Raises ``InputError`` when another takes inputs of other names, or fixes another
    size.  A model that the IR does not hold is left to the runtime.
    """
    from compiler.backend.session import read_bundle
    from compiler.opening import open_model

    first, *others = variants
    found, seen = dict(dims), {read_bundle(variants[first].path).model}
    for name in others:
        path = read_bundle(variants[name].path).model
        if path in seen:
            continue
        seen.add(path)
        try:
            other = open_model(path)
        except UnsupportedError:
            continue
        mine, its = ({v.name: v for v in m.graph.inputs} for m in (model, other))
        if mine.keys() != its.keys():
            why = f"{first} takes {_listed(mine)}, and {name} takes {_listed(its)}"
            raise InputError(
                "the models take different inputs", where=name, why=why, hint="time models of one interface"
            )
        for key, value in mine.items():
            _agree(value, its[key], found, name)
    return found


def _agree(value: Value, other: Value, found: dict[str, int], name: str) -> None:
    """Add to ``found`` what an input of another variant fixes; raises ``InputError`` when sizes differ."""
    for dim, size in zip(value.shape or (), other.shape or (), strict=False):
        if not isinstance(size, int):
            continue
        known: Any = dim if isinstance(dim, int) else None
        if not isinstance(dim, int) and dim.is_symbol:
            known = found.setdefault(dim.symbols()[0], size)
        if known is not None and known != size:
            why = f"input {value.name!r} has a dim of {known} otherwise, and of {size} in {name}"
            raise InputError("the models take inputs of different sizes", where=name, why=why)


def _listed(inputs: Mapping[str, Value]) -> str:
    return ", ".join(map(repr, inputs)) or "nothing"

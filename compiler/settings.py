"""Targets and the runtime's limits as the compiler wants them: with its own errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import InputError

if TYPE_CHECKING:
    from targets import Target


def load_target(name: str) -> Target:
    """Load a target by name or path; raises ``InputError`` with file, key and the nearest valid name."""
    import targets

    try:
        return targets.load_target(name)
    except targets.TargetError as error:
        raise converted(error) from error


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

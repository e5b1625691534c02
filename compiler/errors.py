"""The exception tree, and how an error is shown.

Every error that reaches a user says what happened, where (file, node, location), why, and what to do about it.
``InputError`` is the user's input (exit code 2), ``CompilerError`` is our fault (exit code 1).  Nothing else may
leave the public functions: the composition root turns any other exception into a ``CompilerError``.
"""

from __future__ import annotations


class AmpcError(Exception):
    """An error with a cause, a place and an advice, each on its own line when printed."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        """Store the four parts; only ``what`` is mandatory."""
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        """Render the parts that are there, one a line."""
        parts = [self.what]
        parts += [f"  {label}: {text}" for label, text in self._details() if text]
        return "\n".join(parts)

    def _details(self) -> tuple[tuple[str, str], ...]:
        return (("where", self.where), ("why", self.why), ("do", self.hint))

    def to_json(self) -> dict[str, str | int]:
        """Return the parts and the exit code as a JSON object."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "do": self.hint,
            "exit_code": self.exit_code,
        }


class InputError(AmpcError):
    """What the user gave cannot be used: a model, a file, a flag, a target."""

    exit_code = 2


class ModelError(InputError):
    """The model is malformed, hostile, or beyond what the installed runtime loads."""


class UnsupportedError(ModelError):
    """Well-formed as far as ampc can see, but more than the IR holds: handed on untouched where the runtime runs it."""


class ParseError(InputError):
    """A text (IR, pipeline, target file) does not parse; ``where`` holds file, line and column."""


class UnknownNameError(InputError):
    """A pass, target, option or node name does not exist; ``hint`` names the nearest valid ones."""


class CompilerError(AmpcError):
    """The compiler broke one of its own promises; a bug report is welcome."""


class InvariantError(CompilerError):
    """The IR verifier found a graph that breaks an invariant."""


class WorkerError(CompilerError):
    """The child process that runs models crashed, hung, or ran out of memory."""

    def __init__(self, what: str, *, kind: str, where: str = "", why: str = "", hint: str = "") -> None:
        """Store ``kind``: one of ``crash``, ``timeout``, ``memory``, ``load``, ``run``."""
        super().__init__(what, where=where, why=why, hint=hint)
        self.kind = kind


_LISTED = 20
"""Names that a hint lists at most."""


def nearest(name: str, valid: list[str]) -> str:
    """Return a hint that names the valid names closest to ``name``; when none is close, all of them, or the first."""
    import difflib

    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    others = f", and {len(valid) - _LISTED} others" if len(valid) > _LISTED else ""
    return "valid names: " + ", ".join(sorted(valid)[:_LISTED]) + others

"""What rules there are, and the documentation of each, read from its class: ``ampc rules``.

Nothing is written twice: a rule's documentation is its docstring, its two sides, its types, the docstring of its guard,
and the gains that were measured.
"""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, Any

from compiler import manager
from compiler.errors import UnknownNameError, nearest
from compiler.settings import converted

if TYPE_CHECKING:
    from compiler.rewrite.rule import Rule

STAGES = {
    "canonical": "normal forms, so that the rules below need to know one form only",
    "raise": "an operator that is written out becomes the operator of the standard",
    "optimize": "what is better on every target",
    "lower": "an operator becomes the form that is best on the target",
    "expand": "an operator that the target lacks is written out",
}
"""The stages in their order, and what the rules of each do."""

_PASSES = {"canonical": "normalize"}
"""Stages whose pass has another name."""


def pass_of(stage: str) -> str:
    """Return the name of the pass that applies the rules of a stage."""
    return _PASSES.get(stage, stage)


def rules(*, stage: str | None = None) -> dict[str, Any]:
    """Return ``{"rules": [...], "stages": {...}}``, in the order of the stages; of one stage, if it is named.

    Raises ``UnknownNameError`` for a stage that does not exist, ``ParseError`` for a rule that is malformed.
    """
    if stage is not None and stage not in STAGES:
        raise UnknownNameError(f"there is no stage {stage!r}", hint=nearest(stage, [*STAGES]))
    for cls in manager.known_rules().values():
        cls.read()
    order = [*STAGES]
    known = sorted(manager.known_rules().values(), key=lambda cls: (order.index(cls.stage), cls.__name__))
    return {
        "rules": [_summary(cls) for cls in known if stage in (None, cls.stage)],
        "stages": {name: text for name, text in STAGES.items() if stage in (None, name)},
    }


def find_rule(name: str) -> type[Rule]:
    """Return a rule by its name; raises ``UnknownNameError`` with the nearest ones."""
    known = manager.known_rules()
    if name not in known:
        raise UnknownNameError(f"there is no rule {name!r}", hint=nearest(name, [*known]))
    return known[name]


def describe_rule(name: str) -> dict[str, Any]:
    """Return all that a rule's class says; raises ``UnknownNameError``."""
    cls = find_rule(name)
    cls.read()
    forms = (cls.before,) if isinstance(cls.before, str) else tuple(cls.before)
    return {
        **_summary(cls),
        "documentation": inspect.getdoc(cls) or "",
        "before": [_text(form) for form in forms],
        "after": _text(cls.after),
        "types": {variable: sorted(d.text for d in allowed) for variable, allowed in sorted(cls.types.items())},
        "shared": sorted(cls.kept),
        "guard": _doc(cls, "guard"),
        "worth": _doc(cls, "worth"),
        "constants": _doc(cls, "constants"),
        "rtol": cls.rtol,
        "domain": dict(cls.domain),
        "gains": _gains(name),
    }


def _summary(cls: type[Rule]) -> dict[str, Any]:
    return {
        "name": cls.__name__,
        "stage": cls.stage,
        "summary": cls.summary(),
        "module": cls.__module__,
    }


def _text(form: str) -> str:
    return textwrap.dedent(form).strip("\n").rstrip()


def _doc(cls: type[Rule], hook: str) -> str:
    """Return the docstring of a hook that the rule has, of its own or from a rule like it, else an empty text."""
    from compiler.rewrite.rule import Rule

    function = getattr(cls, hook)
    if function is getattr(Rule, hook):
        return ""
    return inspect.cleandoc(function.__doc__ or "it has conditions in Python")


def _gains(name: str) -> dict[str, float]:
    """Return provider → how often faster what the rule makes was measured to be there."""
    from targets import TargetError
    from targets.gains import measured_gains
    from targets.names import PROVIDERS

    try:
        tables = {provider: measured_gains(provider) for provider in PROVIDERS}
    except TargetError as error:
        raise converted(error) from error
    return {provider: table[name] for provider, table in tables.items() if name in table}

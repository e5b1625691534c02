"""Rules: local rewrites written as typed theorems in the IR's own text.

A rule says ``before`` and ``after``; its types are its conditions, its docstring is its documentation, and the generic
harness is its test.  Everything is checked against the ONNX schemas; a mistake is told with file, line, column and a
caret.  A rule of another package, which nobody else may have tested, is read when its class is defined, so a wrong one
fails at import.  Ours are held by the tests and by ``ampc rules``, and are read when they are needed first: reading all
of them takes longer than compiling most models, and most have no place in a model (``compiler.rewrite.outline``).

Considered and rejected: patterns as traced Python functions.  They need a tracer, hide attributes that nobody listed,
and cannot be shown, tested or explained without being run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from compiler.errors import ParseError
from compiler.ir.dtype import INTEGERS as ALL_INTEGERS
from compiler.ir.dtype import DType
from compiler.rewrite.check import check_rule
from compiler.rewrite.outline import Outline, glance, outline_of
from compiler.rewrite.pattern import Pattern, expand_forms, read_statements

if TYPE_CHECKING:
    from compiler.rewrite.match import Match

FLOATS = frozenset({DType.F16, DType.BF16, DType.F32, DType.F64})
"""Floating-point types that operators compute in."""

INTEGERS = frozenset(d for d in ALL_INTEGERS if d.bits >= 8)
"""Integer types of whole bytes."""

NUMBERS = FLOATS | INTEGERS
"""Types that arithmetic is defined for."""

STAGES = ("canonical", "raise", "optimize", "lower", "expand")
"""What rules are for, in the order in which a pipeline applies them."""

_OWN = "passes."
"""Where the modules are whose rules are read late."""


class _Unread:
    """Stands in a rule for an attribute that its texts give: the first use of any of them reads the rule."""

    def __init__(self, owner: type[Rule], name: str) -> None:
        self.owner = owner
        self.name = name

    def __get__(self, rule: Rule | None, cls: type[Rule]) -> Any:
        _read_rule(self.owner)
        return vars(self.owner)[self.name]


class Rule:
    """One rewrite: wherever ``before`` is found, ``after`` computes the same.

    Subclasses set class attributes and nothing else; see ``passes/README.md``.  Instances hold no state.
    """

    name: ClassVar[str] = ""
    """The class name."""
    stage: ClassVar[str] = "optimize"
    """When the rule is applied: one of ``STAGES``."""
    before: ClassVar[str | tuple[str, ...]]
    """The form that is replaced, or several that mean the same."""
    after: ClassVar[str]
    """What replaces it."""
    types: ClassVar[Mapping[str, frozenset[DType]]] = {}
    """Type variable → element types that it may stand for."""
    shared: ClassVar[str] = ""
    """Values in between that may have other users; their producers stay for those."""
    rtol: ClassVar[float] = 0.0
    """Relative difference that the rule causes beyond reassociation."""
    domain: ClassVar[Mapping[str, str]] = {}
    """What test data must look like for the theorem to hold: leaf or dim → words of the harness."""

    forms: ClassVar[tuple[Pattern, ...]]
    """All forms of ``before``, optional parts multiplied out, larger ones first."""
    replacement: ClassVar[Pattern]
    """``after``, parsed."""
    outputs: ClassVar[frozenset[str]]
    """Values that both sides define: they are replaced, and may be used by anybody."""
    bound: ClassVar[frozenset[str]]
    """Values that some form of ``before`` binds."""
    kept: ClassVar[frozenset[str]]
    """The names of ``shared``."""
    may_be_missing: ClassVar[frozenset[str]]
    """Values that ``before`` writes with a question mark."""
    _outline: ClassVar[Outline]

    def __init_subclass__(cls) -> None:
        """Name the rule, and read it unless it is ours; raises ``ParseError`` that names file, line and column."""
        cls.name = cls.__name__
        if "before" in vars(cls):
            _leave_unread(cls)
            if not cls.__module__.startswith(_OWN):
                cls.read()

    @classmethod
    def read(cls) -> None:
        """Parse and check the rule unless that was done; raises ``ParseError`` that names file, line and column."""
        _ = cls.forms

    @classmethod
    def outline(cls) -> Outline:
        """Return which operators the rule names, without reading it where that can be told."""
        if "_outline" not in vars(cls):
            cls._outline = glance(_texts(cls), cls.after) or outline_of(cls.forms, cls.replacement)
        return cls._outline

    def guard(self, m: Match) -> str | None:
        """Return why the rule does not apply at a match, with the value at fault; ``None`` when it does."""
        return None

    def worth(self, m: Match) -> str | None:
        """Return why the rule would not pay at a match where it applies; ``None`` when that is for the costs to say.

        Asked where rewrites are selected by cost: for what was measured and no cost model sees.
        """
        return None

    def constants(self, m: Match) -> dict[str, Any]:
        """Return arrays for the ``const`` values of ``after`` and plain values for its ``$`` attributes, by name."""
        return {}

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the documentation."""
        return (cls.__doc__ or "").strip().partition("\n")[0]


def _texts(cls: type[Rule]) -> tuple[str, ...]:
    return (cls.before,) if isinstance(cls.before, str) else tuple(cls.before)


_GIVEN = ("forms", "replacement", "outputs", "bound", "kept", "may_be_missing")
"""Attributes that the texts give."""


def _leave_unread(cls: type[Rule]) -> None:
    for name in _GIVEN:
        setattr(cls, name, _Unread(cls, name))


def _read_rule(cls: type[Rule]) -> None:
    """Define what the texts give, or nothing of it when there is a mistake."""
    try:
        _define_or_say_where(cls)
    except Exception:
        _leave_unread(cls)
        raise


def _define_or_say_where(cls: type[Rule]) -> None:
    try:
        _define(cls, _texts(cls), cls.after)
    except ParseError:
        place = _Place(cls)
        _define(cls, tuple(place.padded(t) for t in _texts(cls)), place.padded(cls.after), source=place.path)
        raise


def _define(cls: type[Rule], texts: tuple[str, ...], after: str, *, source: str = "") -> None:
    source = source or f"rule {cls.__name__}"
    read = [read_statements(text, source=source) for text in texts]
    forms = [form for i, (statements, grammar) in enumerate(read) for form in expand_forms(statements, grammar, i)]
    cls.forms = tuple(sorted(forms, key=lambda f: -len(f.statements)))
    statements, grammar = read_statements(after, source=source)
    cls.replacement = Pattern(statements, grammar)
    cls.kept = frozenset(re.findall(r"[\w.]+", cls.shared))
    cls.bound = frozenset(n for f in cls.forms for n in (*f.defined, *f.leaves))
    cls.outputs = frozenset(n for n in cls.replacement.defined if any(n in f.defined for f in cls.forms))
    cls.may_be_missing = frozenset(o.name for f in cls.forms for o in f.operands() if o.optional)
    check_rule(cls)


class _Place:
    """Where a class stands, so that errors in its texts name the file and the line."""

    def __init__(self, cls: type) -> None:
        module = sys.modules.get(cls.__module__)
        self.path = str(getattr(module, "__file__", None) or f"rule {cls.__name__}")
        self.source = _read(self.path)
        found = re.search(rf"^[ \t]*class {cls.__name__}\b", self.source, re.MULTILINE)
        self.start = found.start() if found else 0

    def padded(self, text: str) -> str:
        """Return the text moved to the line and column where it stands in the file."""
        at = self.source.find(text, self.start)
        if at < 0:
            return text
        lines = self.source.count("\n", 0, at)
        return "\n" * lines + " " * (at - self.source.rfind("\n", 0, at) - 1) + text


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""  # a class that was made without a file: errors count lines from the start of its text

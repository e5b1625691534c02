"""Which operators a rule names, told from its texts without reading them.

Most rules have no place in most models, since operators that they ask for do not occur there: an outline is enough to
leave those alone, and costs a hundredth of parsing and checking them.  A text that a glance cannot take apart for sure
(comments, quoted names, graphs) has none, and its rule is read instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.rewrite.pattern import Pattern

_BRACES = re.compile(r"\{[^{}]*\}")
_STATEMENT = re.compile(r"([^=]*)=\s*(?:([\w.]+)\s*::\s*)?([\w.]+(?:\s*\|\s*[\w.]+)*)\s*(?:@\d+\s*)?\(")
"""What stands before the equals sign, the domain, and the operators."""

_OPTIONAL = re.compile(r"(?<![%\w.])optional\s+%")


@dataclass(frozen=True, slots=True)
class Mention:
    """One statement, as far as it matters here."""

    operators: frozenset[str]
    """What it may be, with the domain."""
    domain: str
    """The domain."""
    optional: bool
    """True when it may be missing."""


Mentions = tuple[Mention, ...]
"""The statements of one text, in their order."""


@dataclass(frozen=True, slots=True)
class Outline:
    """The statements of both sides of a rule."""

    before: tuple[Mentions, ...]
    """Those of each form."""
    after: Mentions
    """Those of the replacement."""

    @property
    def roots(self) -> list[str]:
        """Operators that matching may start from, in order: those of last statements that may be there."""
        return sorted({op for form in self.before for mention in _last(form) for op in mention.operators})

    def possible(self, present: Set[str]) -> bool:
        """True when some form asks for no operators but those that are present."""
        return any(
            all(m.optional or not m.operators.isdisjoint(present) for m in form)
            and any(not m.operators.isdisjoint(present) for m in _last(form))
            for form in self.before
        )

    @property
    def longest(self) -> int:
        """How many statements the longest form has."""
        return max(map(len, self.before))


def _last(form: Mentions) -> Iterable[Mention]:
    """Yield the statements that may be the last: those behind which all may be missing."""
    for mention in reversed(form):
        yield mention
        if not mention.optional:
            return


def glance(texts: Sequence[str], after: str) -> Outline | None:
    """Return the outline of a rule's texts, ``None`` when they must be read to tell."""
    before = [_mentions(text) for text in texts]
    made = _mentions(after)
    found = tuple(form for form in before if form)
    return Outline(found, made) if made and len(found) == len(before) else None


def _mentions(text: str) -> Mentions:
    """Return the statements of a text, none when that is not sure."""
    bare = _BRACES.sub("", text)
    if "//" in text or any(mark in bare for mark in '"{}'):
        return ()
    found = [_mention(match) for match in _STATEMENT.finditer(bare)]
    return tuple(found) if len(found) == bare.count("=") else ()


def _mention(match: re.Match[str]) -> Mention:
    outputs, domain, operators = match.groups("")
    prefix = f"{domain}::" if domain else ""
    named = frozenset(prefix + op.strip() for op in operators.split("|"))
    return Mention(named, domain, _OPTIONAL.search(outputs) is not None)


def outline_of(forms: Iterable[Pattern], replacement: Pattern) -> Outline:
    """Return the outline of a rule that was read; optional statements are multiplied out in its forms."""
    return Outline(tuple(map(_read, forms)), _read(replacement))


def _read(pattern: Pattern) -> Mentions:
    pairs = zip(pattern.statements, pattern.operators, strict=True)
    return tuple(Mention(operators, s.domain, False) for s, operators in pairs)

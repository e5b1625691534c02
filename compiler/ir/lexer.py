"""Split the text form into tokens, and show where a text is wrong.

``//`` starts a comment and ``%`` a value, except within square brackets, where both are operators on dims:
values and comments never stand there.

A tensor type after a colon is one token, since a model has few types and writes each of them thousands of times: the
grammar takes it apart (with ``tokenize`` of its extent) when it sees it first.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from compiler.errors import ParseError
from compiler.ir.spelling import NAME, WORD

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_ATOMS = rf"""
    (?P<digest>\#[0-9a-f]+)
  | (?P<bytes>b{_STRING})
  | (?P<string>{_STRING})
  | (?P<number>0x[0-9a-fA-F]*|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)
  | (?P<word>{WORD})
  | (?P<fresh>\?[0-9]+)
"""
_OUTSIDE = re.compile(
    rf"""
    [ ]*(?:
    (?P<skip>(?:[ \t\r\n]+|//[^\n]*)+)
  | (?P<value>%(?:{NAME}|{_STRING}))
  | (?P<at>@(?:{NAME}|{_STRING}))
  | (?P<type>(?<=:[ ])[A-Za-z0-9]+\[[^\[\]"\n]*\])
  | {_ATOMS}
  | (?P<mark>::|->|[(){{}}\[\]<>,:=+\-*^$?|]))
    """,
    re.VERBOSE,
)
_INSIDE = re.compile(rf"(?P<skip>[ \t\r\n]+) | {_ATOMS} | (?P<mark>//|[()\[\]<>,:+\-*^$?%])", re.VERBOSE)
_HEAD = re.compile(rf"(?P<word>{WORD})")
"""The first token of a type that is taken apart: its element type."""

_WINDOW = 60
"""Characters shown on either side of a mistake in a long line."""


class Token(NamedTuple):
    """A piece of text: its kind (for punctuation the mark itself), its spelling, and where it starts."""

    kind: str
    text: str
    at: int


def tokenize(
    text: str, *, source: str = "text", dims: bool = False, extent: tuple[int, int] | None = None
) -> list[Token]:
    """Return the tokens of a text, the last one of kind ``end``.

    ``dims`` reads it as if within square brackets; ``extent`` reads a part, and a type there is taken apart.
    """
    tokens: list[Token] = []
    at, end = extent or (0, len(text))
    depth, start = int(dims), at
    outside, inside, new = _OUTSIDE.match, _INSIDE.match, tuple.__new__
    while at < end:
        found = inside(text, at) if depth else (outside if at > start or not extent else _HEAD.match)(text, at)
        if found is None:
            at += len(text[at:]) - len(text[at:].lstrip(" "))
            raise error_at(text, at, _stray(text, at), source=source)
        group = found.lastgroup or ""
        kind, spelling, place = group, found.group(group), found.start(group)
        if kind == "mark":
            kind = spelling
            depth += (spelling == "[") - (spelling == "]" and depth > 0)
        if kind != "skip":
            tokens.append(new(Token, (kind, spelling, place)))
        at = found.end()
    tokens.append(Token("end", "", end))
    return tokens


def _stray(text: str, at: int) -> str:
    if text[at] == '"' or text[at : at + 2] in ('%"', '@"', 'b"'):
        return "a string has no end on its line"
    return f"{text[at]!r} does not belong here"


def error_at(text: str, at: int, what: str, *, source: str = "text", hint: str = "") -> ParseError:
    """Return the error for a mistake at an offset, with line, column, and a caret under the place."""
    start = text.rfind("\n", 0, at) + 1
    stop = text.find("\n", at)
    line = text[start : stop if stop >= 0 else len(text)]
    column = at - start
    left = max(0, column - _WINDOW)
    shown = line[left : column + _WINDOW].replace("\t", " ")
    place = f"{source}, line {text.count(chr(10), 0, at) + 1}, column {column + 1}"
    return ParseError(what, where=f"{place}\n    {shown}\n    {' ' * (column - left)}^", hint=hint)

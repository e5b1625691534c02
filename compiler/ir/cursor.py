"""A position in the tokens of a text: what every part of the grammar is written with.

Depth is bounded (``DEPTH``), so that no text exhausts the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from compiler.errors import ParseError
from compiler.ir.dtype import DType
from compiler.ir.lexer import Token, error_at, tokenize
from compiler.ir.spelling import Number, read_integer, unquote

T = TypeVar("T")

DEPTH = 60
"""Levels of nested graphs, types and parentheses that a text may have; protobuf allows 33 levels of graphs."""


class Cursor:
    """A position in a text; each method reads one construct and leaves the position behind it."""

    def __init__(self, text: str, *, source: str = "text", dims: bool = False) -> None:
        """Tokenize the text; ``dims`` reads it as if within square brackets."""
        self.text = text
        self.source = source
        self.tokens = tokenize(text, source=source, dims=dims)
        self._next = 0
        self._depth = 0

    @property
    def token(self) -> Token:
        """The token that comes next."""
        return self.tokens[self._next]

    def ahead(self, kind: str, *, by: int = 1) -> bool:
        """True when the token after the next (or further) is of a kind."""
        at = self._next + by
        return at < len(self.tokens) and self.tokens[at].kind == kind

    def take(self) -> Token:
        """Return the next token and go on."""
        token = self.tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def accept(self, kind: str) -> Token | None:
        """Return the next token and go on when it is of a kind (other than ``end``)."""
        token = self.tokens[self._next]
        if token[0] != kind:
            return None
        self._next += 1
        return token

    def expect(self, kind: str, what: str = "") -> Token:
        """Return the next token, which must be of a kind; ``what`` names it in the error."""
        token = self.tokens[self._next]
        if token[0] != kind:
            self.unexpected(what or repr(kind))
        return self.take()

    def is_word(self, word: str) -> bool:
        """True when the next token is that word."""
        return self.token.kind == "word" and self.token.text == word

    def accept_word(self, word: str) -> Token | None:
        """Return the next token and go on when it is that word."""
        return self.take() if self.is_word(word) else None

    def error(self, what: str, at: int, *, hint: str = "") -> ParseError:
        """Return the error for a mistake at an offset."""
        return error_at(self.text, at, what, source=self.source, hint=hint)

    def unexpected(self, wanted: str) -> NoReturn:
        """Raise the error for a token that cannot stand here."""
        found = "the end of the text" if self.token.kind == "end" else repr(self.token.text)
        raise self.error(f"expected {wanted}, found {found}", self.token.at)

    def end(self) -> None:
        """Require that the text ends here."""
        self.expect("end", "the end of the text")

    def nested(self, read: Callable[[], T]) -> T:
        """Read a construct one level deeper; raises ``ParseError`` beyond ``DEPTH`` levels."""
        if self._depth >= DEPTH:
            raise self.error(f"the text is nested deeper than {DEPTH} levels", self.token.at)
        self._depth += 1
        try:
            return read()
        finally:
            self._depth -= 1

    def list_of(self, read: Callable[[], T], close: str) -> list[T]:
        """Read items separated by commas up to and including the mark that closes the list."""
        items: list[T] = []
        while not self.accept(close):
            if items:
                self.expect(",", f"',' or {close!r}")
            items.append(read())
        return items

    def word(self, what: str) -> str:
        """Read a word, quoted or not."""
        if self.token.kind == "string":
            return unquote(self.take().text)
        return self.expect("word", what).text

    def string(self) -> str:
        """Read a quoted string."""
        return unquote(self.expect("string", "a string in quotes").text)

    def name(self, kind: str, what: str) -> str:
        """Read a value's (``%``) or graph's (``@``) name."""
        text = self.expect(kind, what).text[1:]
        return unquote(text) if text[0] == '"' else text

    def integer(self, dtype: DType = DType.I64) -> int:
        """Read an integer that fits a type."""
        sign, token = self.accept("-"), self.expect("number", "an integer")
        try:
            return read_integer(("-" if sign else "") + token.text, dtype)
        except ValueError as e:
            raise self.error(f"not an integer of type {dtype}: {e}", token.at) from None

    def number(self) -> Number:
        """Read a number, ``inf``, ``nan``, ``true`` or ``false`` as it is written."""
        sign = "-" if self.accept("-") else ""
        if self.token.kind == "number" or self.token.text in ("inf", "nan") or (not sign and self._is_truth()):
            return Number(sign + self.take().text)
        self.unexpected("a number")

    def _is_truth(self) -> bool:
        return self.token.text in ("true", "false")

    def hexadecimal(self) -> bytes:
        """Read bytes as one hexadecimal number in parentheses."""
        self.expect("(")
        token = self.expect("number", "0x and hexadecimal digits")
        self.expect(")")
        try:
            return bytes.fromhex(token.text.removeprefix("0x"))
        except ValueError:
            raise self.error("bytes need two hexadecimal digits each", token.at) from None

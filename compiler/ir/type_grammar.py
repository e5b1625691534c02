"""The grammar of dims and types.

::

    dim   = [ "-" ] term { ("+" | "-") term }
    term  = power { ("*" | "//" | "%") power }
    power = ( INTEGER | SYMBOL | "(" dim ")" | ("min" | "max") "(" dims ")" ) [ "^" INTEGER ]
    type  = ELEMENT "[" ( "*" | dims ) "]" | "?" | ("seq" | "optional" | "sparse" | "map") "<" types ">"

Dims are computed while they are read, so that every text gives the normal form.
"""

from __future__ import annotations

from compiler.ir.cursor import Cursor
from compiler.ir.dims import Dim, Expr, floor_div, maximum, minimum, modulo, product, symbol
from compiler.ir.dtype import DType
from compiler.ir.lexer import Token, tokenize
from compiler.ir.spelling import unquote
from compiler.ir.syntax import Run, TypeSyntax

_TERMS = 4096
"""Terms that a dim may have once it is multiplied out."""

_WRAPPERS = {"seq": 1, "optional": 1, "sparse": 1, "map": 2}
"""Types of other types → how many."""


class TypeGrammar(Cursor):
    """Reads dims and types."""

    def __init__(self, text: str, *, source: str = "text", dims: bool = False) -> None:
        """Tokenize the text; ``dims`` reads it as if within square brackets."""
        super().__init__(text, source=source, dims=dims)
        self._known: dict[str, TypeSyntax] = {}

    def dim(self) -> Dim:
        """Read an integer expression over symbols; the result is in normal form."""
        return self.nested(self._sum)

    def _sum(self) -> Dim:
        total = -self._term() if self.accept("-") else self._term()
        while sign := (self.accept("+") or self.accept("-")):
            total = total + self._term() if sign.kind == "+" else total - self._term()
        return total

    def _term(self) -> Dim:
        left = self._power()
        while mark := (self.accept("*") or self.accept("//") or self.accept("%")):
            right = self._power()
            if mark.kind == "*":
                left = self._times(left, right, mark.at)
            else:
                left = floor_div(left, right) if mark.kind == "//" else modulo(left, right)
        return left

    def _times(self, left: Dim, right: Dim, at: int) -> Dim:
        if isinstance(left, Expr) and isinstance(right, Expr) and len(left.terms) * len(right.terms) > _TERMS:
            raise self.error(f"the dim has more than {_TERMS} terms", at)
        return left * right

    def _power(self) -> Dim:
        atom = self._atom()
        if not (mark := self.accept("^")):
            return atom
        power = self.integer(DType.U8)
        if isinstance(atom, Expr) and len(atom.terms) > 1:
            raise self.error("only a single factor can be raised to a power", mark.at)
        return product([atom] * power)

    def _atom(self) -> Dim:
        if self.token.kind in ("fresh", "string"):
            token = self.take()
            return symbol(unquote(token.text) if token.kind == "string" else token.text)
        if self.accept("("):
            inner = self.dim()
            self.expect(")")
            return inner
        if self.token.kind == "word":
            return self._symbol_or_function()
        if self.token.kind != "number":
            self.unexpected("a dim")
        return self.integer()

    def _symbol_or_function(self) -> Dim:
        word = self.take().text
        if word not in ("min", "max"):
            return symbol(word)
        self.expect("(")
        arguments = self.list_of(self.dim, ")")
        if not arguments:
            self.unexpected(f"an argument of {word}")
        return (minimum if word == "min" else maximum)(*arguments)

    def type(self) -> TypeSyntax:
        """Read a type; one that was written before is the same object, with the place where it stood first."""
        if self.token.kind != "type":
            return self.nested(self._type)
        token = self.take()
        known = self._known.get(token.text)
        if known is None:
            known = self._known[token.text] = self._apart(token)
        return known

    def _apart(self, token: Token) -> TypeSyntax:
        """Read a type that the lexer left in one piece."""
        outer = self.tokens, self._next
        extent = token.at, token.at + len(token.text)
        self.tokens, self._next = tokenize(self.text, source=self.source, extent=extent), 0
        syntax = self.nested(self._type)
        self.end()
        self.tokens, self._next = outer
        return syntax

    def _type(self) -> TypeSyntax:
        at = self.token.at
        head = "?" if self.accept("?") else self.word("a type")
        arguments: list[TypeSyntax] = []
        if head in _WRAPPERS:
            self.expect("<")
            arguments = self.list_of(self.type, ">")
            if len(arguments) != _WRAPPERS[head]:
                raise self.error(f"{head} is a type of {_WRAPPERS[head]} types", at)
        bare = head in _WRAPPERS or not self.accept("[")
        dims = None if bare else self._dims()
        return TypeSyntax(head, dims, bare, tuple(arguments), at)

    def _dims(self) -> tuple[Dim | Run, ...] | None:
        if self.token.kind == "*" and self.ahead("]"):
            self.take()
            self.take()
            return None
        return tuple(self.list_of(self._dim_or_run, "]"))

    def _dim_or_run(self) -> Dim | Run:
        return Run(self.word("the name of a run of dims")) if self.accept("*") else self.dim()

    def optional_type(self) -> TypeSyntax | None:
        """Read ``:`` and a type when they stand here."""
        return self.type() if self.accept(":") else None

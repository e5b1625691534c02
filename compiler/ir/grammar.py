"""The grammar of statements and graphs: text to syntax tree.

::

    model     = { "meta" STRING "=" STRING | "function" "(" HEX ")" } graph
    graph     = "graph" @NAME "(" parameters ")" "->" "(" outputs ")" "{" { constant | statement } return "}"
    constant  = "const" output "=" contents
    statement = [ "optional" ] outputs "=" [ DOMAIN "::" ] OP { "|" OP } [ @VERSION ] "(" operands ")"
                [ "{" attributes "}" ] [ "name" "(" STRING ")" ] [ "loc" "(" [ rewrites ":" ] names ")" ]
    return    = "return" [ operands ]
    contents  = elements | #DIGEST | "proto" "(" HEX ")"

An attribute's form tells its kind: ``1``, ``1.0``, ``"text"``, ``b"bytes"``, ``const TYPE contents``, ``graph ...``,
``type(HEX)``, ``sparse(HEX)``, non-empty lists in brackets, and ``ints(...)``, ``graphs(...)`` for every kind of
list.  What only rules may write is read here too, and refused where a model is built.
"""

from __future__ import annotations

from compiler.ir.dtype import DType
from compiler.ir.graph import Loc
from compiler.ir.lexer import Token
from compiler.ir.spelling import Number, Scalar, read_integer, unquote_bytes
from compiler.ir.syntax import (
    Attribute,
    ConstantSyntax,
    Contents,
    DimList,
    GraphSyntax,
    Literal,
    Operand,
    Output,
    Parameter,
    Statement,
    Tensor,
)
from compiler.ir.type_grammar import TypeGrammar

_LISTS = {
    "ints": "int", "floats": "float", "strings": "string", "tensors": "tensor", "graphs": "graph", "types": "type",
    "sparses": "sparse",
}  # fmt: skip
"""Kind of a list → kind of its items."""

_NUMBER_WORDS = ("inf", "nan", "true", "false")


class Grammar(TypeGrammar):
    """Reads statements and graphs."""

    def elements(self) -> list[Scalar]:
        """Read a scalar, or nested lists of scalars, which are flattened."""
        if self.token.kind != "[":
            return [self.scalar()]
        found: list[Scalar] = []
        depth = 0
        while True:
            while self.accept("["):
                depth += 1
            if self.token.kind != "]":
                found.append(self.scalar())
            while self.accept("]"):
                depth -= 1
                if not depth:
                    return found
            self.expect(",", "',' or ']'")

    def scalar(self) -> Scalar:
        """Read a number, a string, bytes, or a complex number as a pair."""
        if self.token.kind == "string":
            return self.string()
        if self.token.kind == "bytes":
            return self._bytes()
        if not self.accept("("):
            return self.number()
        real = self.number()
        self.expect(",")
        imaginary = self.number()
        self.expect(")")
        return real, imaginary

    def _bytes(self) -> bytes:
        token = self.take()
        try:
            return unquote_bytes(token.text)
        except UnicodeEncodeError:
            raise self.error('a character in b"..." is more than a byte', token.at) from None

    def contents(self) -> Contents:
        """Read the contents of a constant."""
        at = self.token.at
        if token := self.accept("digest"):
            return Contents("digest", token.text[1:], at)
        if self.accept_word("proto"):
            return Contents("opaque", self.hexadecimal(), at)
        return Contents("elements", self.elements(), at)

    def attribute(self) -> Attribute:
        """Read an attribute's value; its form tells its kind."""
        token = self.token
        if token.kind == "word" and token.text in _LISTS and self.ahead("("):
            return self._attribute_list(token)
        if token.kind == "[":
            return self._plain_list(token.at)
        if self.accept("$"):
            return Attribute("variable", self.word("the variable's name"), token.at)
        if token.kind == "value":
            name = self.name("value", "a value")
            return Attribute("operand", Operand(name, None, False, token.at, optional=bool(self.accept("?"))), token.at)
        if token.kind == "word" and token.text in ("type", "sparse"):
            self.take()
            return Attribute(token.text, self.hexadecimal(), token.at)
        if self.is_word("const"):
            return Attribute("tensor", self._tensor(), token.at)
        if self.is_word("graph"):
            return Attribute("graph", self.graph(), token.at)
        if token.kind == "word" and token.text not in _NUMBER_WORDS:
            return Attribute("dim", self.dim(), token.at)
        return self._plain(self.scalar(), token.at)

    def _tensor(self) -> Tensor:
        at = self.take().at
        return Tensor(self.type(), self.contents(), at)

    def _attribute_list(self, token: Token) -> Attribute:
        self.take()
        self.expect("(")
        items = self.list_of(self.attribute, ")")
        wrong = next((i for i in items if i.kind != _LISTS[token.text]), None)
        if wrong is not None:
            raise self.error(f"{wrong.kind} in a list of {token.text}", wrong.at)
        return Attribute(token.text, tuple(i.value for i in items), token.at)

    def _plain_list(self, at: int) -> Attribute:
        items = [self._plain(e, at) for e in self.elements()]
        kinds = list(dict.fromkeys(i.kind for i in items))
        if len(kinds) != 1:
            what = f"a list of {' and '.join(kinds)}" if kinds else "an empty list does not tell its kind"
            raise self.error(what, at, hint="write ints(), floats() or strings(); write 1.0 for a float")
        return Attribute(kinds[0] + "s", tuple(i.value for i in items), at)

    def _plain(self, scalar: Scalar, at: int) -> Attribute:
        if isinstance(scalar, tuple):
            raise self.error("no attribute holds complex numbers", at)
        if not isinstance(scalar, Number):
            return Attribute("string", scalar, at)
        if scalar in ("true", "false"):
            raise self.error("no attribute holds true or false", at, hint="write 1 or 0")
        if any(c in scalar.lower() for c in ".en") and not scalar.startswith(("0x", "-0x")):
            return Attribute("float", scalar, at)
        try:
            return Attribute("int", read_integer(scalar, DType.I64), at)
        except ValueError as e:
            raise self.error(f"not an int attribute: {e}", at) from None

    def statement(self) -> Statement:
        """Read one application of an operator."""
        at = self.token.at
        optional = self.accept_word("optional") is not None
        outputs = self._outputs()
        self.expect("=")
        domain, op = "", self.word("an operator")
        if self.accept("::"):
            domain, op = op, self.word("an operator")
        alternatives = []
        while self.accept("|"):
            alternatives.append(self.word("an operator"))
        version = self._version()
        self.expect("(")
        inputs = tuple(self.list_of(self.operand, ")"))
        attributes = self._attributes() if self.accept("{") else {}
        name = self._parenthesised_string() if self.is_word("name") and self.ahead("(") else None
        loc = self._loc() if self.is_word("loc") and self.ahead("(") else None
        return Statement(
            tuple(outputs), domain, op, version, inputs, attributes, name, loc, at, optional, tuple(alternatives)
        )

    def _outputs(self) -> list[Output | None]:
        if self.accept("("):
            self.expect(")", "')': only a statement without outputs starts with '('")
            return []
        outputs = [self._output_or_absent()]
        while self.accept(","):
            outputs.append(self._output_or_absent())
        return outputs

    def _output_or_absent(self) -> Output | None:
        return None if self.accept_word("_") else self._output()

    def _output(self) -> Output:
        at = self.token.at
        return Output(self.name("value", "a value such as %x"), self.optional_type(), at)

    def _version(self) -> int | None:
        if self.token.kind != "at":
            return None
        token = self.take()
        try:
            return read_integer(token.text[1:], DType.U32)
        except ValueError:
            raise self.error("after '@' stands the version of an operator, a number", token.at) from None

    def operand(self) -> Operand | Literal | DimList | None:
        """Read an operand: a value, ``_``, and in rules a number, dims, a type, ``const``, ``scalar``, ``%x?``."""
        at = self.token.at
        if self.accept_word("_"):
            return None
        if self.token.kind == "[" and self._holds_symbols():
            return self._dim_list()
        if self.token.kind in ("number", "-", "[") or self.token.text in ("inf", "nan", "true", "false"):
            nested = self.token.kind == "["
            return Literal(self.elements(), nested, at)
        scalar = self.accept_word("scalar") is not None
        constant = scalar or self.accept_word("const") is not None
        name = self.name("value", "an operand such as %x")
        optional = self.accept("?") is not None
        return Operand(name, self.optional_type(), constant, at, scalar, optional)

    def _holds_symbols(self) -> bool:
        """True when the list that comes next is one of dims rather than of numbers."""
        by = 1
        while not (self.ahead("]", by=by) or self.ahead("end", by=by)):
            if self.ahead("word", by=by) and self.tokens[self._next + by].text not in _NUMBER_WORDS:
                return True
            by += 1
        return False

    def _dim_list(self) -> DimList:
        at = self.take().at
        return DimList(tuple(self.list_of(self.dim, "]")), at)

    def _attributes(self) -> dict[str, Attribute]:
        found: dict[str, Attribute] = {}
        while not self.accept("}"):
            if found:
                self.expect(",", "',' or '}'")
            at = self.token.at
            name = self.word("an attribute's name")
            if name in found:
                raise self.error(f"attribute {name} is set twice", at)
            self.expect("=")
            found[name] = self.attribute()
        return found

    def _parenthesised_string(self) -> str:
        self.take()
        self.expect("(")
        text = self.string()
        self.expect(")")
        return text

    def _loc(self) -> Loc:
        self.take()
        self.expect("(")
        if self.accept(")"):
            return Loc()
        words, rewrites = [self.word("a name")], False
        while self.accept("<"):
            words.append(self.word("a rewrite"))
            rewrites = True
        if not self.accept(":"):
            if rewrites:
                self.unexpected("':'")
            names = words + (self.list_of(self.string, ")") if self.accept(",") else self._closed())
            return Loc(tuple(names))
        return Loc(tuple(self.list_of(self.string, ")")), tuple(words))

    def _closed(self) -> list[str]:
        self.expect(")")
        return []

    def graph(self) -> GraphSyntax:
        """Read a graph."""
        return self.nested(self._graph)

    def _graph(self) -> GraphSyntax:
        at = self.token.at
        if not self.accept_word("graph"):
            self.unexpected("'graph'")
        name = self.name("at", "the graph's name, such as @main")
        self.expect("(")
        inputs = tuple(self.list_of(self._parameter, ")"))
        self.expect("->")
        self.expect("(")
        outputs = tuple(self.list_of(self._output, ")"))
        self.expect("{")
        constants: list[ConstantSyntax] = []
        statements: list[Statement] = []
        while not self.is_word("return"):
            if self.is_word("const"):
                constants.append(self.constant())
            else:
                statements.append(self.statement())
        self.take()
        return GraphSyntax(name, inputs, outputs, tuple(constants), tuple(statements), self._returned(), at)

    def _parameter(self) -> Parameter:
        output = self._output()
        return Parameter(output.name, output.type, self.contents() if self.accept("=") else None, output.at)

    def _returned(self) -> tuple[Operand, ...]:
        if self.accept("}"):
            return ()
        found: list[Operand] = []
        while True:
            at = self.token.at
            found.append(Operand(self.name("value", "a value to return"), None, False, at))
            if self.accept("}"):
                return tuple(found)
            self.expect(",", "',' or '}'")

    def constant(self) -> ConstantSyntax:
        """Read the definition of a constant."""
        at = self.take().at
        output = self._output()
        if output.type is None:
            self.unexpected("':' and the constant's type")
        self.expect("=")
        return ConstantSyntax(output.name, output.type, self.contents(), at)

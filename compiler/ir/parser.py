"""Read the text form: ``parse_model`` is the inverse of ``print_model``.

The first line is the header, ``// ampc 1, opset 20``; all other comments mean nothing.  Errors are ``ParseError``
with line, column and a caret.  ``parse_type``, ``parse_dim`` and ``parse_statements`` read pieces: rules are written
in the same grammar and take the syntax tree.
"""

from __future__ import annotations

import re
from pathlib import Path

from compiler.errors import InputError, ParseError
from compiler.ir.cursor import Cursor
from compiler.ir.dims import Dim
from compiler.ir.grammar import Grammar
from compiler.ir.graph import Model
from compiler.ir.printer import FORMAT, FORMS, side_path
from compiler.ir.read_model import Builder, type_of_syntax
from compiler.ir.sidefile import ContentsSource, SideFile
from compiler.ir.spelling import Opaque
from compiler.ir.syntax import Statement
from compiler.ir.types import Type

_FRESH = re.compile(r"\?([0-9]{1,18})")
"""Numbers of made-up dims; what looks like one in a string does no harm."""

_LEADING = re.compile(r"[ \t\r\n]*")


def parse_model(text: str, *, side: ContentsSource | None = None, source: str = "text") -> Model:
    """Return the model that a text describes; ``source`` names the text in errors.

    Large constants come from ``side``; without it they have a type and a digest, and asking for their
    contents is an ``InputError``.  Raises ``ParseError``.
    """
    form, model = _header(text, source)
    grammar = Grammar(text, source=source)
    while not grammar.is_word("graph"):
        _metadata_or_function(grammar, model)
    syntax = grammar.graph()
    grammar.end()
    model._fresh_dims = max((int(found.group(1)) for found in _FRESH.finditer(text)), default=0)
    Builder(model, grammar, form=form, side=side).main(syntax)
    return model


def load_text(path: Path) -> Model:
    """Read a model from a text file, large constants from ``PATH.data`` when that is there."""
    try:
        text = path.read_bytes().decode()
    except OSError as e:
        raise InputError("the text cannot be read", where=str(path), why=str(e.strerror)) from None
    except UnicodeDecodeError as e:
        raise ParseError("the file is no UTF-8 text", where=f"{path}, byte {e.start}") from None
    data = side_path(path)
    return parse_model(text, side=SideFile(data) if data.exists() else None, source=str(path))


def parse_type(text: str) -> Type:
    """Return the type that a text such as ``f32[N,2]`` describes."""
    grammar = Grammar(text)
    syntax = grammar.type()
    grammar.end()
    return type_of_syntax(syntax, grammar)


def parse_dim(text: str) -> Dim:
    """Return the dim that a text such as ``2*(N // 4)`` describes, in normal form."""
    grammar = Grammar(text, dims=True)
    dim = grammar.dim()
    grammar.end()
    return dim


def parse_statements(text: str, *, source: str = "text") -> list[Statement]:
    """Return the syntax of all statements of a text, which has no header."""
    grammar = Grammar(text, source=source)
    found = []
    while grammar.token.kind != "end":
        found.append(grammar.statement())
    return found


def parse_statement(text: str, *, source: str = "text") -> Statement:
    """Return the syntax of a text that is one statement."""
    grammar = Grammar(text, source=source)
    statement = grammar.statement()
    grammar.end()
    return statement


def _header(text: str, source: str) -> tuple[int, Model]:
    """Read the first line; return the version of default-domain operators in this text form, and an empty model."""
    at = _LEADING.match(text).end()  # type: ignore[union-attr]  # matches the empty text too
    stop = text.find("\n", at)
    line = text[at : stop if stop >= 0 else len(text)]
    cursor = Cursor(text[:at] + "  " + line[2:] if line.startswith("//") else "", source=source)
    cursor.text = text  # what errors show
    if not cursor.accept_word("ampc"):
        raise ParseError("the text has no header", where=source, hint="begin it with a line like: // ampc 1, opset 20")
    model = Model()
    form_at, form = cursor.token.at, cursor.integer()
    if form not in FORMS:
        raise cursor.error(f"the text is of format {form}, and this ampc reads up to {FORMAT}", form_at)
    while cursor.accept(","):
        _header_entry(cursor, model)
    cursor.end()
    return FORMS[form], model


def _header_entry(cursor: Cursor, model: Model) -> None:
    at, is_quoted = cursor.token.at, cursor.token.kind == "string"
    word = cursor.word("'opset', 'ir' or a domain")
    number = cursor.integer()
    if word == "ir" and not is_quoted:
        model.ir_version = number
        return
    domain = "" if word == "opset" and not is_quoted else word
    if domain in model.opsets:
        raise cursor.error(f"{word} stands here twice", at)
    model.opsets[domain] = number


def _metadata_or_function(grammar: Grammar, model: Model) -> None:
    if grammar.accept_word("meta"):
        key = grammar.string()
        grammar.expect("=")
        model.metadata[key] = grammar.string()
    elif grammar.accept_word("function"):
        model.functions = (*model.functions, Opaque(grammar.hexadecimal()))
    else:
        grammar.unexpected("'graph'")

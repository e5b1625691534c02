"""Print models as text: deterministic, complete, and read back by ``compiler.ir.parser``.

The text holds what the compiler knows of a model.  What only travels from the frontend to the backend (``extra``,
``declared``, ``metadata`` of values) is not in it, and what analysis found (``contents``) is a comment.

Decisions: attributes are sorted by name, since their order has no meaning; everything else keeps its order.  A
constant of up to 16 elements stands in the text, a larger one is named by its digest and goes to the side file.  A
node name that ``loc`` already says is not written twice.  Nested graphs are blocks. Generators are run by a loop and
not by each other, so that nesting costs no stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Loc, Model, Node, Value
from compiler.ir.sidefile import Abbreviations, SideWriter, is_missing, replacing
from compiler.ir.spelling import attribute_float, contents_text, name_text, opaque_bytes, quote, quote_bytes, word_text

FORMS = {1: 26}
"""Version of the text form → version of default-domain operators that is not written out."""

FORMAT = max(FORMS)
"""The version of the text form that is written."""

_INLINE = 16
"""Elements up to which a constant's contents stand in the text."""

_INLINE_CHARACTERS = 1024
"""Bytes of strings up to which a constant of strings stands in the text."""

_CONTEXT = 1
"""Lines shown before and after a match."""


class Line(NamedTuple):
    """A line of the text; that of a constant is rendered late, since its digest takes reading all of it."""

    indent: int
    text: str
    subject: Node | Value | None = None


_Lines = Iterator["Line | _Lines"]


def print_model(
    model: Model, *, loc: bool = True, facts: bool = False, nodes: str | None = None, side: SideWriter | None = None
) -> str:
    """Return the text of a model.

    ``loc`` writes node names and origins, ``facts`` adds what analysis knows as comments, ``nodes`` shows
    only statements whose value names, operator, node name or origin match a pattern such as ``*attn*``,
    with a line of context (such an excerpt is for reading and does not parse), ``side`` receives the large
    constants' contents.
    """
    printer = _Printer(model, loc=loc, facts=facts, side=side)
    lines = list(printer.lines(model.graph))
    if nodes is None:
        return "\n".join([*_header(model), *(printer.render(line) for line in lines), ""])
    return "\n".join([_header(model)[0], *_excerpt(lines, nodes, printer), ""])


def print_graph(graph: Graph, *, loc: bool = True, facts: bool = False) -> str:
    """Return the text of one graph, nested ones included, without the header."""
    printer = _Printer(graph.model, loc=loc, facts=facts, side=None)
    return "\n".join([*(printer.render(line) for line in printer.lines(graph)), ""])


def print_nodes(model: Model, nodes: Iterable[Node]) -> str:
    """Return the text of some nodes, without origins, with the constants that they read; they may stand in no graph."""
    printer = _Printer(model, loc=False, facts=False, side=None)
    nodes = list(nodes)
    constants = dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v.constant is not None)
    return "\n".join([*(printer._constant_line(v) for v in constants), *map(printer.statement, nodes), ""])


def save_text(model: Model, path: Path, *, loc: bool = True, facts: bool = False) -> None:
    """Write the text of a model to a file, and large constants to ``PATH.data`` beside it when there are any."""
    data = side_path(path)
    with replacing(data) as file:
        side = SideWriter(file)
        text = print_model(model, loc=loc, facts=facts, side=side)
        side.finish()
    if not side.entries:
        data.unlink()
    with replacing(path) as file:
        file.write(text.encode())


def side_path(path: Path) -> Path:
    """Return where the side file of a text lies."""
    return path.with_name(path.name + ".data")


def default_version(domain: str, opsets: dict[str, int], form: int) -> int:
    """Return the version of an operator that is not written out, in the text form whose default is ``form``."""
    return opsets.get(domain, 1) if domain else form


def _header(model: Model) -> list[str]:
    parts = [f"ampc {FORMAT}"]
    if model.ir_version:
        parts.append(f"ir {model.ir_version}")
    parts += [f"{_domain_text(d)} {v}" for d, v in sorted(model.opsets.items())]
    lines = ["// " + ", ".join(parts)]
    lines += [f"meta {quote(k)} = {quote(v)}" for k, v in sorted(model.metadata.items())]
    return lines + [f"function({_hex(f)})" for f in model.functions]


def _domain_text(domain: str) -> str:
    if not domain:
        return "opset"
    return quote(domain) if domain in ("opset", "ir") else word_text(domain)


def _hex(message: object) -> str:
    return "0x" + opaque_bytes(message).hex()


def _excerpt(lines: list[Line], pattern: str, printer: _Printer) -> Iterator[str]:
    hits = [i for i, line in enumerate(lines) if _matches(line, pattern)]
    if not hits:
        yield f"// nothing matches {pattern!r}; * stands for any text"
        return
    shown = sorted({i for hit in hits for i in range(hit - _CONTEXT, hit + _CONTEXT + 1) if 0 <= i < len(lines)})
    previous = -1
    for i in shown:
        if i != previous + 1:
            yield "  " * lines[i].indent + "// ..."
        yield printer.render(lines[i])
        previous = i
    if previous + 1 < len(lines):
        yield "// ..."


def _matches(line: Line, pattern: str) -> bool:
    subject = line.subject
    if subject is None:
        return False
    if isinstance(subject, Value):
        return fnmatchcase(subject.name, pattern)
    names = [o.name for o in subject.outputs]
    names += [subject.op, subject.qualified, subject.name, *subject.loc.names, *subject.loc.by]
    return any(fnmatchcase(name, pattern) for name in names if name)


class _Printer:
    def __init__(self, model: Model, *, loc: bool, facts: bool, side: SideWriter | None) -> None:
        self.opsets = model.opsets
        self.loc = loc
        self.facts = facts
        self.side = side
        self.digits = Abbreviations()

    # Lines ---------------------------------------------------------------------------------------

    def lines(self, graph: Graph) -> Iterator[Line]:
        """Yield the lines of a graph and of those nested in it."""
        stack: list[_Lines] = [self._graph(graph, 0, "", "")]
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
            elif isinstance(item, Line):
                yield item
            else:
                stack.append(item)

    def render(self, line: Line) -> str:
        """Return a line as it stands in the text."""
        text = self._constant_line(line.subject) if isinstance(line.subject, Value) else line.text
        return "  " * line.indent + text

    def _graph(self, graph: Graph, indent: int, before: str, after: str) -> _Lines:
        inputs = ", ".join(self._parameter(v) for v in graph.inputs)
        outputs = ", ".join(_typed(v) for v in graph.outputs)
        yield Line(indent, f"{before}graph @{name_text(graph.name)}({inputs}) -> ({outputs}) {{")
        for value in graph.constants:
            yield Line(indent + 1, "", value)
        for node in graph.nodes():
            if node.attributes and node.graphs():
                yield self._block(node, indent + 1)
            else:
                yield Line(indent + 1, self.statement(node), node)
        yield Line(indent + 1, " ".join(["return", ", ".join(_ref(v) for v in graph.outputs)]).rstrip())
        yield Line(indent, "}" + after)

    def _block(self, node: Node, indent: int) -> _Lines:
        comment = self._comment(node) if self.facts else ""
        yield Line(indent, self._head(node) + " {" + comment, node)
        attributes = sorted(node.attributes.items())
        for i, (name, attr) in enumerate(attributes):
            comma = "," if i + 1 < len(attributes) else ""
            if attr.kind == "graph":
                yield self._graph(attr.value, indent + 1, f"{word_text(name)} = ", comma)
            elif attr.kind == "graphs":
                yield self._graph_list(name, attr.value, indent + 1, comma)
            else:
                yield Line(indent + 1, f"{word_text(name)} = {self._attribute(attr)}{comma}")
        yield Line(indent, "}" + self._origin(node))

    def _graph_list(self, name: str, graphs: tuple[Graph, ...], indent: int, comma: str) -> _Lines:
        yield Line(indent, f"{word_text(name)} = graphs(")
        for i, graph in enumerate(graphs):
            yield self._graph(graph, indent + 1, "", "," if i + 1 < len(graphs) else "")
        yield Line(indent, ")" + comma)

    def _parameter(self, value: Value) -> str:
        return _typed(value) + (f" = {self._contents(value.default)}" if value.default is not None else "")

    # Statements ----------------------------------------------------------------------------------

    def statement(self, node: Node) -> str:
        """Return a node without the blocks of nested graphs."""
        attributes = ", ".join(f"{word_text(n)} = {self._attribute(a)}" for n, a in sorted(node.attributes.items()))
        text = self._head(node) + (f" {{{attributes}}}" if attributes else "") + self._origin(node)
        return text + self._comment(node) if self.facts else text

    def _head(self, node: Node) -> str:
        outputs = ", ".join("_" if o.absent else _typed(o) for o in node.outputs) or "()"
        inputs = ", ".join("_" if i is None else _ref(i) for i in node.inputs)
        domain = f"{word_text(node.domain)}::" if node.domain else ""
        version = "" if node.version == self._default(node.domain) else f"@{node.version}"
        return f"{outputs} = {domain}{word_text(node.op)}{version}({inputs})"

    def _default(self, domain: str) -> int:
        return default_version(domain, self.opsets, FORMS[FORMAT])

    def _origin(self, node: Node) -> str:
        if not self.loc:
            return ""
        name = f" name({quote(node.name)})" if node.name != implied_name(node.loc) else ""
        return name + (f" loc({_loc_text(node.loc)})" if node.loc != Loc() else "")

    def _comment(self, node: Node) -> str:
        known = [_facts(o) for o in node.outputs if not o.absent]
        return "  // " + "; ".join(known) if any(known) else ""

    def _attribute(self, attr: Attr) -> str:
        kind, value = attr.kind, attr.value
        if kind in ("ints", "floats", "strings") and value:
            return "[" + ", ".join(self._attribute(Attr(kind[:-1], v)) for v in value) + "]"
        if kind.endswith("s"):
            return f"{kind}(" + ", ".join(self._attribute(Attr(kind[:-1], v)) for v in value) + ")"
        if kind == "float":
            return attribute_float(value)
        if kind == "string":
            return quote_bytes(value) if isinstance(value, bytes) else quote(value)
        if kind == "tensor":
            return f"const {value.dtype}[{','.join(map(str, value.shape))}] {self._contents(value)}"
        if kind in ("type", "sparse"):
            return f"{kind}({_hex(value)})"
        return f"graph @{name_text(value.name)}" if kind == "graph" else str(int(value))

    # Constants -----------------------------------------------------------------------------------

    def _constant_line(self, value: Value) -> str:
        assert value.constant is not None
        comments = []
        if not _is_inline(value.constant):
            comments.append(_size_text(value.constant.dtype.packed_bytes(value.constant.size)))
        if self.facts:
            comments.append(_facts(value))
        comment = "  // " + "; ".join(filter(None, comments)) if any(comments) else ""
        return f"const {_typed(value)} = {self._contents(value.constant)}{comment}"

    def _contents(self, constant: Constant) -> str:
        if constant.opaque is not None:
            return f"proto({_hex(constant.opaque)})"
        if _is_inline(constant):
            return contents_text(constant)
        if self.side is not None:
            self.side.add(constant)
        return "#" + self.digits.of(constant.digest())


def _is_inline(constant: Constant) -> bool:
    if constant.opaque is not None:
        return True
    if constant.size > _INLINE or is_missing(constant):
        return False
    return constant.dtype is not DType.STRING or constant.nbytes <= _INLINE_CHARACTERS


def implied_name(loc: Loc) -> str:
    """Return the node name that an origin says: that of the only node, when no rewrite was at work."""
    return loc.names[0] if len(loc.names) == 1 and not loc.by else ""


def _ref(value: Value) -> str:
    return "%" + name_text(value.name)


def _typed(value: Value) -> str:
    return f"%{name_text(value.name)}: {value.type}"


def _loc_text(loc: Loc) -> str:
    names = ", ".join(quote(n) for n in loc.names)
    return f"{' < '.join(word_text(b) for b in loc.by)}: {names}".rstrip() if loc.by else names


def _facts(value: Value) -> str:
    """Return what is known of a value besides its type: contents, readers, whether a graph returns it."""
    found = []
    if value.contents is not None:
        found.append(f"contents [{', '.join(map(str, value.contents))}]")
    users = [word_text(user.op) for user in value.users()]
    if users:
        found.append("used by " + ", ".join(users[:4]) + (", ..." if len(users) > 4 else ""))
    if value.is_output:
        found.append("returned")
    return ", ".join(found or ["unused"])


def _size_text(size: int) -> str:
    if size < 1024:
        return f"{size} bytes"
    power = min((size.bit_length() - 1) // 10, 3)
    return f"{size / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"

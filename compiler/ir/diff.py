"""Say where two models differ, as far as the text form can tell: the oracle of the round-trip laws.

Not compared: what the text does not hold (``extra``, ``declared``, metadata of values) and what analysis recomputes
(``contents``).  Float attributes are compared as float32, and NaN equals NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.ir.constant import Constant
from compiler.ir.graph import Attr, Graph, Model, Node, Value
from compiler.ir.sidefile import is_missing
from compiler.ir.spelling import attribute_float, opaque_bytes


def structurally_equal(a: Model | Graph, b: Model | Graph, *, loc: bool = True) -> str | None:
    """Return the first difference in words, ``None`` when there is none; ``loc`` compares node names and origins."""
    return next(_differences(a, b, loc), None)


def same_constant(a: Constant | None, b: Constant | None) -> bool:
    """True when both are absent, or have the same type and the same contents, bit for bit.

    Contents that were never read with their text are known by their digest's first digits only.
    """
    if a is None or b is None:
        return a is b
    if (a.dtype, a.shape, a.is_readable) != (b.dtype, b.shape, b.is_readable):
        return False
    if not a.is_readable:
        return opaque_bytes(a.opaque) == opaque_bytes(b.opaque)
    if is_missing(a) or is_missing(b):
        digits = min(len(a.digest()), len(b.digest()))
        return a.digest()[:digits] == b.digest()[:digits]
    return a.digest() == b.digest()


def _differences(a: Model | Graph, b: Model | Graph, loc: bool) -> Iterator[str]:
    if isinstance(a, Model) and isinstance(b, Model):
        yield from _model_differences(a, b)
    todo = [(_graph_of(a), _graph_of(b))]
    while todo:
        left, right = todo.pop()
        yield from _graph_differences(left, right)
        nested: list[tuple[Graph, Graph]] = []
        for i, (m, n) in enumerate(zip(left.nodes(), right.nodes(), strict=False)):
            where = f"graph {left.name!r}, node {i} ({m!r})"
            yield from (f"{where}: {d}" for d in _node_differences(m, n, loc))
            nested += zip(_graphs_by_name(m), _graphs_by_name(n), strict=True)
        todo.extend(reversed(nested))


def _graph_of(a: Model | Graph) -> Graph:
    return a.graph if isinstance(a, Model) else a


def _graphs_by_name(node: Node) -> list[Graph]:
    found: list[Graph] = []
    for _, attr in sorted(node.attributes.items()):
        if attr.kind in ("graph", "graphs"):
            found += [attr.value] if attr.kind == "graph" else attr.value
    return found


def _model_differences(a: Model, b: Model) -> Iterator[str]:
    yield from _unequal("opsets", a.opsets, b.opsets)
    yield from _unequal("IR versions", a.ir_version, b.ir_version)
    yield from _unequal("metadata", a.metadata, b.metadata)
    yield from _unequal("functions", [opaque_bytes(f) for f in a.functions], [opaque_bytes(f) for f in b.functions])


def _unequal(what: str, left: Any, right: Any) -> Iterator[str]:
    if left != right:
        yield f"{what} differ: {left!r} and {right!r}"


def _graph_differences(a: Graph, b: Graph) -> Iterator[str]:
    where = f"graph {a.name!r}"
    yield from _unequal(f"{where}: names", a.name, b.name)
    yield from _unequal(f"{where}: inputs", _typed(a.inputs), _typed(b.inputs))
    yield from _unequal(f"{where}: outputs", _typed(a.outputs), _typed(b.outputs))
    yield from _unequal(f"{where}: constants", _typed(list(a.constants)), _typed(list(b.constants)))
    for v, w in [*zip(a.inputs, b.inputs, strict=False), *zip(a.constants, b.constants, strict=False)]:
        if not same_constant(v.constant, w.constant):
            yield f"{where}: the contents of the constant {v!r} differ"
        if not same_constant(v.default, w.default):
            yield f"{where}: the defaults of the input {v!r} differ"
    yield from _unequal(f"{where}: numbers of nodes", len(a), len(b))


def _typed(values: list[Value]) -> list[tuple[str, str]]:
    return [("", "") if v.absent else (v.name, str(v.type)) for v in values]


def _node_differences(a: Node, b: Node, loc: bool) -> Iterator[str]:
    yield from _unequal("operators", (a.domain, a.op, a.version), (b.domain, b.op, b.version))
    yield from _unequal("operands", _names(a.inputs), _names(b.inputs))
    yield from _unequal("outputs", _typed(list(a.outputs)), _typed(list(b.outputs)))
    yield from _unequal("attributes", _kinds(a), _kinds(b))
    for name, attr in a.attributes.items():
        if not _same_attribute(attr, b.attributes[name]):
            yield f"values of attribute {name} differ: {attr.value!r} and {b.attributes[name].value!r}"
    if loc:
        yield from _unequal("names", a.name, b.name)
        yield from _unequal("origins", a.loc, b.loc)


def _names(values: tuple[Value | None, ...]) -> list[str | None]:
    return [None if v is None else v.name for v in values]


def _kinds(node: Node) -> dict[str, tuple[str, int]]:
    return {n: (a.kind, len(a.value) if a.kind == "graphs" else 0) for n, a in node.attributes.items()}


def _same_attribute(a: Attr, b: Attr) -> bool:
    if a.kind in ("graph", "graphs"):
        return True  # compared on their own, so that nesting costs no stack
    if not a.kind.endswith("s"):
        return _same_value(a.kind, a.value, b.value)
    kind = a.kind[:-1]
    return len(a.value) == len(b.value) and all(_same_value(kind, v, w) for v, w in zip(a.value, b.value, strict=True))


def _same_value(kind: str, a: Any, b: Any) -> bool:
    if kind == "float":
        return attribute_float(a) == attribute_float(b)
    if kind == "tensor":
        return same_constant(a, b)
    if kind in ("type", "sparse"):
        return opaque_bytes(a) == opaque_bytes(b)
    return bool(a == b)

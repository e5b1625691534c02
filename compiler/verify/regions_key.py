"""Say when two rewrite instances are the same but for names and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from compiler.ir.constant import Constant
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.ir.types import TensorType

_SMALL = 256
"""Bytes up to which constants are told apart by their contents, beyond by their type."""

_FOLDED = 1 << 20
"""Bytes of constants up to which a rewrite of nothing but constants is evaluated again."""


def key_of(pass_name: str, before: Sequence[Node], after: Sequence[Node], pairs: Iterable[tuple[Value, Value]]) -> str:
    """Return a digest that equal rewrites share: operators, attributes, types, small constants, connections."""
    writer = _Writer()
    writer.text.append(pass_name)
    for node in (*before, None, *after):
        if node is not None:
            writer.node(node)
        else:
            writer.text.append("=>")
    for a, b in pairs:
        writer.text += [writer.value(a), writer.value(b)]
    return hashlib.blake2b("\n".join(writer.text).encode(errors="surrogatepass"), digest_size=16).hexdigest()


class _Writer:
    def __init__(self) -> None:
        self.text: list[str] = []
        self._numbers: dict[Value, int] = {}

    def node(self, node: Node) -> None:
        inputs = ",".join("_" if v is None else self.value(v) for v in node.inputs)
        outputs = ",".join("" if o.absent else self.value(o) for o in node.outputs)
        self.text.append(f"{outputs}={node.domain}::{node.op}.{node.version}({inputs})")
        for name in sorted(node.attributes):
            self.text.append(name)
            self._attribute(node.attributes[name])

    def value(self, value: Value) -> str:
        number = self._numbers.get(value)
        if number is not None:
            return str(number)
        number = self._numbers[value] = len(self._numbers)
        text = f"{number}:{_type(value)}"
        return text if value.constant is None else f"{text}={_contents(value.constant)}"

    def _attribute(self, attr: Attr) -> None:
        if attr.kind == "graph":
            self._graph(attr.value)
        elif attr.kind == "graphs":
            for g in attr.value:
                self._graph(g)
        elif attr.kind == "tensor":
            self.text.append(_contents(attr.value))
        elif attr.kind == "tensors":
            self.text += [_contents(c) for c in attr.value]
        else:
            self.text.append(f"{attr.kind}{attr.value!r}")

    def _graph(self, graph: Graph) -> None:
        self.text.append("{" + ",".join(self.value(v) for v in graph.inputs))
        for node in graph.nodes():
            self.node(node)
        self.text.append("}" + ",".join(self.value(v) for v in graph.outputs))


def _type(value: Value) -> str:
    """Return the type without the names of its symbols."""
    if not isinstance(value.type, TensorType):
        return str(value.type)
    return f"{value.type.dtype}{[d if isinstance(d, int) else '?' for d in value.type.shape]}"


def _contents(constant: Constant) -> str:
    if not constant.is_readable or constant.nbytes > _SMALL:
        return f"{constant.dtype}{constant.shape}"
    return constant.digest()


def small_constants(nodes: Iterable[Node], pairs: Iterable[tuple[Value, Value]]) -> bool:
    """True when all constants that nodes read and pairs name are small together."""
    values = {v: None for n in nodes for v in n.inputs if v is not None}
    values.update((v, None) for pair in pairs for v in pair)
    return sum(v.constant.nbytes for v in values if v.constant is not None) <= _FOLDED

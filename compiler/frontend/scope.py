"""Names that are visible while a graph is read, and places to name in errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import ModelError
from compiler.ir.graph import Value
from compiler.ir.wire import DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import NodeProto

DEEPEST = DEPTH // 3
"""Levels of nested graphs that a file can hold: each takes three messages (node, attribute, graph)."""


class Scope:
    """Names that are visible: those of a graph and of the graphs around it.

    ``own`` are all names that the graph defines, also those that are not yet defined: a name of a nested graph must
    not hide one that comes later.  A name that stands for a missing argument of a function is bound to ``None``.
    """

    __slots__ = ("depth", "names", "own", "parent")

    def __init__(self, parent: Scope | None = None, own: Iterable[str] = ()) -> None:
        """Open a scope; raises ``ModelError`` when it is nested deeper than any file can be."""
        self.names: dict[str, Value | None] = {}
        self.own = frozenset(own)
        self.parent = parent
        self.depth: int = parent.depth + 1 if parent is not None else 0
        if self.depth > DEEPEST:
            raise ModelError(
                f"graphs are nested more than {DEEPEST} levels deep", why="no runtime can read such a model"
            )

    def find(self, name: str) -> Value | None:
        """Return the innermost value of that name; raises ``KeyError``."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        raise KeyError(name)

    def sees(self, name: str) -> bool:
        """True when the name is visible here, or will be."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names or name in scope.own:
                return True
            scope = scope.parent
        return False


class Place:
    """Where a node stands, as text for errors; the text is made only when it is asked for."""

    __slots__ = ("prefix", "proto")

    def __init__(self, proto: NodeProto, prefix: str = "") -> None:
        """Remember the node, and the prefix of the function call that it is inlined for."""
        self.proto = proto
        self.prefix = prefix

    def __str__(self) -> str:
        """Name the node, or else what it makes, and its operator."""
        proto = self.proto
        first = next((o for o in proto.output if o), "")
        name = f" that makes {first!r}" if first else ""
        if proto.name:
            name = f" {self.prefix + proto.name!r}"
        return f"node{name} ({proto.domain + '::' if proto.domain else ''}{proto.op_type})"

"""The journal of a transaction: each step that changed the model, with its inverse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from compiler.ir.graph import Attr, Graph, Model, Node, Value


@dataclass(slots=True)
class Journal:
    """What changed since the journal was opened.

    ``inserted``, ``erased`` and ``modified`` are nodes in the order in which they were touched; a node that only reads
    a replacement is not modified.  ``inputs_before`` are the operands that an older node had before any change, and
    ``replaced`` are pairs (old value, value that took its uses).  ``constants_before`` is the order of a graph's
    constants before the first of them went.
    """

    undo: list[Callable[[], None]] = field(default_factory=list)
    inserted: dict[Node, None] = field(default_factory=dict)
    erased: dict[Node, Graph] = field(default_factory=dict)
    modified: dict[Node, None] = field(default_factory=dict)
    inputs_before: dict[Node, tuple[Value | None, ...]] = field(default_factory=dict)
    attributes_before: dict[Node, dict[str, Attr]] = field(default_factory=dict)
    replaced: list[tuple[Value, Value]] = field(default_factory=list)
    outputs_before: dict[Graph, list[Value]] = field(default_factory=dict)
    constants_before: dict[Graph, dict[Value, None]] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """True when any step was recorded."""
        return bool(self.undo)

    def rollback(self) -> None:
        """Undo every step, newest first."""
        while self.undo:
            self.undo.pop()()
        for graph, order in self.constants_before.items():
            graph.constants = {value: None for value in order if value in graph.constants}


def begin(model: Model) -> Journal:
    """Open a journal on the model; transactions do not nest."""
    assert model.journal is None, "a transaction is already open"
    model.journal = Journal()
    return model.journal  # type: ignore[no-any-return]


def commit(model: Model) -> Journal:
    """Close the journal and keep the changes."""
    journal: Journal = model.journal
    model.journal = None
    return journal


def rollback(model: Model) -> None:
    """Undo everything since ``begin`` and close the journal."""
    journal: Journal = model.journal
    model.journal = None
    journal.rollback()


def record(model: Model, undo: Callable[[], None]) -> None:
    """Record how to undo a step, if a journal is open."""
    if model.journal is not None:
        model.journal.undo.append(undo)

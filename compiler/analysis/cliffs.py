"""Find cliffs: places where a small thing in the model makes it many times slower, wrong, or unable to load.

An entry is a function and its words.  The function looks at one node (of the operators it names) or, registered
without operators by ``whole``, at the model; it yields or returns *where*, in words that add a number or a name.  The
entries are in ``cliff_operators``, ``cliff_numbers`` and ``cliff_kernels``; this module runs them.

Measured ratios are those of one thread of an AVX-512 server with ONNX Runtime 1.31; they order things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from compiler.ir.graph import Model, Node, Value
from compiler.ir.types import Type

if TYPE_CHECKING:
    from targets import Target
    from targets.kernels import KernelTable

PLACES = 3
"""Places of a cliff that are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class Cliff:
    """One kind of cliff, and where the model stands at it."""

    name: str
    """What it is."""
    count: int
    """How many places there are."""
    where: tuple[str, ...]
    """The first places."""
    why: str
    """What it costs, and why."""
    do: str
    """What to do about it."""
    fatal: bool = False
    """Whether the model does not load or run because of it."""


@dataclass(slots=True)
class Scene:
    """What the entries may look at."""

    model: Model
    """The model, with types."""
    target: Target
    """What it is looked at for."""
    kernels: KernelTable | None
    """Kernels of the target's first provider, when they are known."""
    declared: Mapping[Value, Type] = field(default_factory=dict)
    """Types that the file claims for computed values."""

    @property
    def provider(self) -> str:
        """The target's first execution provider."""
        return self.target.runtime.providers[0][0]

    @property
    def on_cpu(self) -> bool:
        """Whether ONNX Runtime's own CPU kernels run the model."""
        return self.provider == "CPUExecutionProvider"

    @property
    def on_x86(self) -> bool:
        """Whether the target is certainly an x86 processor."""
        return any(e.startswith(("avx", "sse")) for e in self.target.machine.isa)

    @property
    def threads(self) -> int:
        """Threads that inference may use."""
        return self.target.machine.cores


Look = Callable[[Node, Scene], str | None]
LookAll = Callable[[Scene], Iterable[str]]


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    why: str
    do: str
    ops: tuple[str, ...]
    look: Look | None
    look_all: LookAll | None
    fatal: bool


class Entries:
    """A list of entries; each module of entries fills one."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []

    def at(self, *ops: str, name: str, why: str, do: str, fatal: bool = False) -> Callable[[Look], Look]:
        """Register a function of a node: it returns where (``""`` for just there), ``None`` for no cliff."""

        def register(look: Look) -> Look:
            self.entries.append(_Entry(name, why, do, ops, look, None, fatal))
            return look

        return register

    def whole(self, *, name: str, why: str, do: str, fatal: bool = False) -> Callable[[LookAll], LookAll]:
        """Register a function of the model that yields places."""

        def register(look: LookAll) -> LookAll:
            self.entries.append(_Entry(name, why, do, (), None, look, fatal))
            return look

        return register


@dataclass(slots=True)
class _Found:
    count: int = 0
    where: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.where) < PLACES:
            self.where.append(place)


class Search:
    """Runs all entries in one walk through the model."""

    def __init__(self, entries: list[_Entry]) -> None:
        self.entries = entries

    @cached_property
    def _by_op(self) -> dict[str, list[_Entry]]:
        found: dict[str, list[_Entry]] = {}
        for entry in self.entries:
            if entry.look is not None:
                for op in entry.ops or ("",):
                    found.setdefault(op, []).append(entry)
        return found

    def run(self, scene: Scene) -> tuple[Cliff, ...]:
        """Return the cliffs, the fatal ones first, the others in the order of their entries."""
        found = {entry.name: _Found() for entry in self.entries}
        anywhere = self._by_op.get("", [])
        for node in scene.model.graph.all_nodes():
            for entry in (*self._by_op.get(node.op, ()), *anywhere):
                assert entry.look is not None
                place = entry.look(node, scene)
                if place is not None:
                    found[entry.name].add(f"{described(node)}: {place}" if place else described(node))
        for entry in self.entries:
            for place in entry.look_all(scene) if entry.look_all is not None else ():
                found[entry.name].add(place)
        cliffs = [
            Cliff(e.name, found[e.name].count, tuple(found[e.name].where), e.why, e.do, e.fatal)
            for e in self.entries
            if found[e.name].count
        ]
        return tuple(sorted(cliffs, key=lambda c: not c.fatal))


def find_cliffs(scene: Scene) -> tuple[Cliff, ...]:
    """Return all cliffs of a model on a target."""
    from compiler.analysis import cliff_kernels, cliff_numbers, cliff_operators

    modules = (cliff_kernels, cliff_numbers, cliff_operators)
    return Search([entry for module in modules for entry in module.ENTRIES.entries]).run(scene)


def described(node: Node) -> str:
    """Name a node by its name and operator, or by what it computes."""
    name = node.name or next((o.name for o in node.outputs if not o.absent), "")
    return f"{node.qualified} {name!r}" if name else node.qualified

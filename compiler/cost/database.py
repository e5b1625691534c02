"""Fragments that were measured: what nodes took on this machine, kept in an SQLite file from run to run.

The key is a digest of everything that the time depends on: the fragment in a canonical text (operators, attributes,
types with sizes, contents of small constants; no names, no weights), the build of ONNX Runtime, the processor, the
threads, the execution provider, and the settings of the session. So a stale entry is never found, and nothing needs to
be thrown away.  ``store`` knows the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.cost.store import Store
from compiler.cost.work import Sizes
from compiler.ir.graph import Attr, Node, Value

_AND = " + "
"""Stands between the operators of a fragment in what the file says for people."""

_SMALL = 64
"""Elements up to which the contents of a constant belong to the key, if they are no weights."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a fragment took."""

    key: str
    """The fragment's key."""
    us: float
    """Median microseconds."""
    low: float
    """Lower bound of the 95 % confidence interval."""
    high: float
    """Upper bound of it."""
    runs: int
    """Timed runs."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the time of a fragment depends on besides the fragment."""

    runtime: str
    """Version and build of ONNX Runtime."""
    processor: str
    """Model of the processor."""
    threads: int
    """Threads of the session."""
    provider: str = "CPUExecutionProvider"
    """The execution provider."""
    settings: str = "{}"
    """Options of the session as JSON, keys sorted."""

    @classmethod
    def here(cls, *, threads: int, provider: str, settings: Mapping[str, Any] | None = None) -> Circumstances:
        """Return the circumstances on this machine with the installed runtime."""
        from compiler.cost.calibration import processor_name
        from targets.installed import installed

        current = installed()
        text = json.dumps(settings or {}, sort_keys=True)
        return cls(f"{current.version} {current.build}", processor_name(), threads, provider, text)


def default_path() -> Path:
    """Return where measurements are kept, in the user's cache folder; it need not be there."""
    from targets.disk_cache import default_folder

    return default_folder() / "measurements.sqlite"


class Database:
    """Measured fragments under given circumstances, in a store."""

    def __init__(self, store: Store, circumstances: Circumstances) -> None:
        """Take the store that they are in; it stays its owner's."""
        self.store = store
        self.circumstances = circumstances
        self._operators = {_operators(row[4].split(_AND)) for row in store.rows("fragments").values()}

    def find(self, nodes: Sequence[Node], sizes: Sizes) -> Measured | None:
        """Return what was measured of a fragment, ``None`` when nothing was."""
        if not self._operators or _operators(n.qualified for n in nodes) not in self._operators:
            return None  # without a key: most nodes were never measured
        key = self.key(nodes, sizes)
        row = self.store.rows("fragments").get(key)
        return None if row is None else Measured(key, *row[:4])

    def put(self, nodes: Sequence[Node], sizes: Sizes, *, us: float, low: float, high: float, runs: int) -> Measured:
        """Keep what a fragment took, in place of what was known of it.  Raises ``InputError`` in a store to read."""
        found = Measured(self.key(nodes, sizes), us, low, high, runs)
        names = [n.qualified for n in nodes]
        self.store.put("fragments", found.key, (us, low, high, runs, _AND.join(names)))
        self._operators.add(_operators(names))
        return found

    def key(self, nodes: Sequence[Node], sizes: Sizes) -> str:
        """Return the key of a fragment under these circumstances."""
        c = self.circumstances
        parts = [c.runtime, c.processor, str(c.threads), c.provider, c.settings, canonical_text(nodes, sizes)]
        return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


def _operators(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


# The key -----------------------------------------------------------------------------------------


def canonical_text(nodes: Sequence[Node], sizes: Sizes) -> str:
    """Return a fragment as text that does not depend on names, weights, or the order in which nodes are given."""
    numbers: dict[Value, int] = {}
    lines = []
    for node in _ordered(nodes):
        operands = ", ".join("_" if v is None else _operand(v, numbers, sizes) for v in node.inputs)
        made = ", ".join("_" if o.absent else _operand(o, numbers, sizes) for o in node.outputs)
        attributes = ", ".join(f"{name} = {_attribute(a)}" for name, a in sorted(node.attributes.items()))
        lines.append(f"{made} = {node.qualified}@{node.version}({operands}){{{attributes}}}")
    return "\n".join(lines)


def _ordered(nodes: Sequence[Node]) -> list[Node]:
    """Return nodes such that each comes after those that it reads, beginning from the last operands."""
    given = dict.fromkeys(nodes)
    read = {v.node for n in given for v in n.inputs if v is not None and v.node in given}
    done: dict[Node, None] = {}
    todo = [(n, False) for n in given if n not in read][::-1]
    while todo:
        node, ready = todo.pop()
        if node in done:
            continue
        if ready:
            done[node] = None
            continue
        todo.append((node, True))
        todo += [(v.node, False) for v in reversed(node.inputs) if v is not None and v.node in given]
    return list(done)


def _operand(value: Value, numbers: dict[Value, int], sizes: Sizes) -> str:
    if value in numbers:
        return f"%{numbers[value]}"
    numbers[value] = len(numbers)
    shape = sizes.shape(value)
    text = f"%{numbers[value]}: {value.dtype}{'[*]' if shape is None else list(shape)}"
    constant = value.constant
    if constant is None:
        return text
    small = constant.is_readable and constant.size <= _SMALL and not (constant.size > 1 and value.dtype.is_float)
    return f"const {text} = {constant.array().tolist()}" if small else f"const {text}"


def _attribute(attr: Attr) -> str:
    return str(attr.value.digest()) if attr.kind == "tensor" else repr(attr.value)

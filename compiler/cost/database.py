"""Fragments that were measured: what nodes took on this machine, kept in an SQLite file from run to run.

The key is a digest of everything that the time depends on: the fragment in a canonical text (operators, attributes,
types with sizes, contents of small constants; no names, no weights), the build of ONNX Runtime, the processor, the
threads, the execution provider, and the settings of the session. So a stale entry is never found, and nothing needs to
be thrown away. Several processes may write at once: each entry is one transaction, the journal is written ahead, and a
writer waits for the others. A reader opens the file read-only, and goes without when there is none.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from compiler.cost.work import Sizes
from compiler.errors import InputError
from compiler.ir.graph import Attr, Node, Value

_WAIT = 30.0
"""Seconds to wait for another process that writes."""

_SMALL = 64
"""Elements up to which the contents of a constant belong to the key, if they are no weights."""

_TABLE = """
CREATE TABLE IF NOT EXISTS fragments
(key TEXT PRIMARY KEY, us REAL NOT NULL, low REAL NOT NULL, high REAL NOT NULL, runs INTEGER NOT NULL,
 what TEXT NOT NULL, date REAL NOT NULL)
"""


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
    """Measured fragments under given circumstances; use it as a context, or close it."""

    def __init__(self, path: Path, circumstances: Circumstances, *, write: bool = False) -> None:
        """Open the file; it is made only for writing.  Raises ``InputError`` when it is no database."""
        self.path = path
        self.circumstances = circumstances
        self._connection: sqlite3.Connection | None = None
        self._known: dict[str, Measured | None] = {}
        if not write and not path.exists():
            return
        try:
            self._connection = _open(path, write=write)
        except (sqlite3.Error, OSError) as error:
            raise _unusable(path, error) from error

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def find(self, nodes: Sequence[Node], sizes: Sizes) -> Measured | None:
        """Return what was measured of a fragment, ``None`` when nothing was."""
        if self._connection is None or not nodes:
            return None
        key = self.key(nodes, sizes)
        if key not in self._known:
            self._known[key] = self._read(key)
        return self._known[key]

    def put(self, nodes: Sequence[Node], sizes: Sizes, *, us: float, low: float, high: float, runs: int) -> Measured:
        """Keep what a fragment took, in place of what was known of it.  Raises ``InputError``."""
        if self._connection is None:
            raise InputError("the database was opened for reading", where=str(self.path))
        found = Measured(self.key(nodes, sizes), us, low, high, runs)
        row = (found.key, us, low, high, runs, " + ".join(n.qualified for n in nodes), time.time())
        try:
            with self._connection:
                self._connection.execute("INSERT OR REPLACE INTO fragments VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error
        self._known[found.key] = found
        return found

    def key(self, nodes: Sequence[Node], sizes: Sizes) -> str:
        """Return the key of a fragment under these circumstances."""
        c = self.circumstances
        parts = [c.runtime, c.processor, str(c.threads), c.provider, c.settings, canonical_text(nodes, sizes)]
        return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()

    def _read(self, key: str) -> Measured | None:
        assert self._connection is not None
        try:
            row = self._connection.execute("SELECT us, low, high, runs FROM fragments WHERE key = ?", (key,)).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise _unusable(self.path, error) from error
        return None if row is None else Measured(key, *row)


def _open(path: Path, *, write: bool) -> sqlite3.Connection:
    if not write:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT)
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_WAIT)
    connection.execute("PRAGMA journal_mode = WAL")
    with connection:
        connection.execute(_TABLE)
    return connection


def _unusable(path: Path, error: Exception) -> InputError:
    hint = "name another file, or delete this one: what it held will be measured again"
    return InputError("the database of measurements cannot be used", where=str(path), why=str(error), hint=hint)


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

"""The file of what was measured on this machine, in SQLite: two tables, each of records by their key.

``fragments`` holds what nodes took (``database``), ``comparisons`` how variants compare (``compiler.measure``).  A key
is a digest of all that a record depends on, so a stale one is never found, and nothing needs to be thrown away.

Several processes may write at once: each record is one transaction, and a writer waits for the others; what was written
survives a kill.  A reader takes all that there is when it asks first, so that what others write meanwhile changes
nothing.  Measurements can always be done without: trouble with the file (damaged, locked, a full disk) is kept in
``trouble``, and what cannot be written is known to this process at least.  Only a file that the user named to be
written, and that is something else, is an error.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from compiler.errors import InputError

_WAIT = 30.0
"""Seconds to wait for another process that writes."""

_MAGIC = b"SQLite format 3\0"
"""What every SQLite file begins with."""

_TABLES = {
    "fragments": """
CREATE TABLE IF NOT EXISTS fragments
(key TEXT PRIMARY KEY, us REAL NOT NULL, low REAL NOT NULL, high REAL NOT NULL, runs INTEGER NOT NULL,
 what TEXT NOT NULL, date REAL NOT NULL)
""",
    "comparisons": """
CREATE TABLE IF NOT EXISTS comparisons
(key TEXT PRIMARY KEY, what TEXT NOT NULL, record TEXT NOT NULL, date REAL NOT NULL)
""",
}
"""The tables by name; the last column is the time of writing."""

Row = tuple[Any, ...]


class Store:
    """The tables of one file; use it as a context, or close it."""

    def __init__(self, path: Path, *, write: bool = False) -> None:
        """Open the file, which is made only for writing.

        Raises ``InputError`` when it shall be written and is something else than a database, or cannot be made.  One
        that is damaged is moved aside, and a new one made.
        """
        self.path = path
        self.writes = write
        self.trouble = ""
        """What is wrong with the file, for people; empty when nothing is."""
        self._tables: dict[str, dict[str, Row]] = {}
        self._connection: sqlite3.Connection | None = None
        if write:
            self._connection = self._open_to_write()

    @classmethod
    def kept(cls, path: Path) -> Store:
        """Open a file to write which the user did not name: what is in the way costs what was known, no more."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return cls(path, write=True)
        except (InputError, OSError) as error:
            found = cls(path)
            found.writes = True
            found._lament(error.why or error.what if isinstance(error, InputError) else str(error))
            return found

    def __enter__(self) -> Store:
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

    def rows(self, table: str) -> Mapping[str, Row]:
        """Return the rows of a table by their key, without key and date: those at the first call, and what was put."""
        if table not in self._tables:
            self._tables[table] = self._read(table)
        return self._tables[table]

    def put(self, table: str, key: str, row: Sequence[Any], *, replace: bool = True) -> None:
        """Keep a row under a key; without ``replace`` one that is in the file already stays, and is known from now on.

        Raises ``InputError`` when nothing is to be written.
        """
        if not self.writes:
            raise InputError("the database was opened for reading", where=str(self.path))
        self.rows(table)
        self._tables[table][key] = tuple(row)
        if self._connection is None:
            return
        values = (key, *row, time.time())
        marks = ", ".join("?" * len(values))
        instead = "REPLACE" if replace else "IGNORE"
        try:
            with self._connection:
                self._connection.execute(f"INSERT OR {instead} INTO {table} VALUES ({marks})", values)
            if not replace:
                found = self._connection.execute(f"SELECT * FROM {table} WHERE key = ?", (key,)).fetchone()
                self._tables[table][key] = tuple(found[1:-1])
        except sqlite3.Error as error:
            self._lament(f"what is measured is not kept: {error}")

    def _read(self, table: str) -> dict[str, Row]:
        if self._connection is None and not self.path.exists():
            return {}
        try:
            connection = self._connection or _reader(self.path)
            with contextlib.nullcontext() if self._connection is not None else contextlib.closing(connection):
                names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                if not names:
                    return {}
                found = connection.execute(f"SELECT {', '.join(names[:-1])} FROM {table}").fetchall()
        except (sqlite3.Error, OSError) as error:
            self._lament(str(error))
            return {}
        return {row[0]: row[1:] for row in found}

    def _lament(self, why: str) -> None:
        self.trouble = self.trouble or f"the database of measurements {self.path} cannot be used: {why}"

    def _open_to_write(self) -> sqlite3.Connection:
        folder = self.path.absolute().parent
        if not folder.is_dir():
            raise InputError("the database's folder does not exist", where=str(folder), hint="create it first")
        try:
            try:
                return _writer(self.path)
            except sqlite3.DatabaseError:
                if not _is_database(self.path) or _is_sound(self.path):
                    raise
                aside = self.path.with_name(f"{self.path.name}.damaged")
                os.replace(self.path, aside)
                self.trouble = f"the database of measurements was damaged, and is now {aside}; a new one was begun"
                return _writer(self.path)
        except (sqlite3.Error, OSError) as error:
            raise InputError(
                "the database of measurements cannot be used",
                where=str(self.path),
                why=str(error),
                hint="name another file (--database), or move this one away: what it held is measured again",
            ) from error


def _writer(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_WAIT)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        with connection:
            for text in _TABLES.values():
                connection.execute(text)
        _check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _reader(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads, also in a folder where nothing can be written."""
    for flags in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{flags}", uri=True, timeout=_WAIT)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            continue
        except BaseException:
            connection.close()
            raise
        return connection
    raise sqlite3.OperationalError("unable to open the file")


def _check(connection: sqlite3.Connection) -> None:
    """Raise ``sqlite3.DatabaseError`` for a file that is damaged, or none of these at all."""
    (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise sqlite3.DatabaseError(str(state).replace("\n", " "))


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _is_sound(path: Path) -> bool:
    """Tell whether nothing but the moment is wrong with a file: another process holds it, or the disk is full."""
    try:
        with contextlib.closing(_reader(path)) as connection:
            _check(connection)
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False
    return True

"""What was measured before: comparisons of two variants by what they depend on, in an SQLite file.

The tuner asks here first: what is known is not measured again, so that tuning goes on where it was killed, and equal
stores give equal results.  Only what was measured in calm is put here.  Several processes may use one file; a process
that only reads does not make it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from compiler.errors import InputError
from compiler.measure.instrument import Timing
from compiler.measure.intervals import Interval

_WAIT = 30.0
"""Seconds to wait for another process that writes."""

_TABLE = """
CREATE TABLE IF NOT EXISTS comparisons
(key TEXT PRIMARY KEY, what TEXT NOT NULL, record TEXT NOT NULL, date REAL NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of timing two variants against each other."""

    ratio: Interval
    """How many times as fast the second is."""
    before_us: float
    """Microseconds of a run of the first, the median."""
    after_us: float
    """Microseconds of a run of the second, the median."""
    rounds: int
    """Timed runs of the second."""
    verdict: str
    """The ratio in a word: ``faster``, ``slower``, ``same`` or ``cannot tell``."""
    clock: str
    """What was counted: ``processor`` or ``wall``."""

    @classmethod
    def of(cls, before: Timing, after: Timing) -> Comparison:
        """Return what two timings say, rounded to what they carry."""
        ratio = after.ratio
        rounded = Interval(*(round(v, 4) for v in (ratio.value, ratio.low, ratio.high, ratio.coverage)))
        us = [round(1e3 * t.median_ms.value, 3) for t in (before, after)]
        return cls(rounded, us[0], us[1], after.runs, after.verdict, after.conditions.clock)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def comparison_key(what: str, **parts: Any) -> str:
    """Return a digest of a kind of comparison and of all that its result depends on, given as JSON values."""
    text = json.dumps([what, parts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class Comparisons:
    """The table of comparisons in a file; use it as a context."""

    def __init__(self, path: Path, *, write: bool = True) -> None:
        """Open the file, and make it where it is to be written; raises ``InputError`` when it is no such file."""
        self.path = path
        self._connection = self._open(write)

    def _open(self, write: bool) -> sqlite3.Connection | None:
        if not write and not self.path.exists():
            return None
        try:
            if not write:
                return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=_WAIT)
            with connection:
                connection.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise self._odd(error) from error
        return connection

    def __enter__(self) -> Comparisons:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def get(self, key: str) -> Comparison | None:
        """Return what was measured, ``None`` when nothing was."""
        if self._connection is None:
            return None
        try:
            row = self._connection.execute("SELECT record FROM comparisons WHERE key = ?", (key,)).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise self._odd(error) from error
        except sqlite3.Error as error:
            raise self._odd(error) from error
        if row is None:
            return None
        record = json.loads(row[0])
        return Comparison(**{**record, "ratio": Interval(**record["ratio"])})

    def put(self, key: str, what: str, comparison: Comparison) -> None:
        """Keep what was measured; ``what`` says to people what it was."""
        assert self._connection is not None
        record = json.dumps(comparison.to_json(), sort_keys=True)
        try:
            with self._connection:
                self._connection.execute(
                    "INSERT OR REPLACE INTO comparisons VALUES (?, ?, ?, ?)", (key, what, record, time.time())
                )
        except sqlite3.Error as error:
            raise self._odd(error) from error

    def _odd(self, error: Exception) -> InputError:
        return InputError(
            "the file of measurements cannot be used",
            where=str(self.path),
            why=str(error),
            hint="name another file (--database), or move this one away",
        )

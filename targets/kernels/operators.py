"""Know which operators there are: those that some execution provider is known to run."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import msgspec


class _Rows(msgspec.Struct, frozen=True):
    """Be the part of a data file that is read here."""

    kernels: list[tuple[str, str, str, int, int | None, dict[str, int]]]
    """Provider, domain, operator, and what does not matter here."""


@lru_cache(maxsize=1)
def known_operators() -> dict[tuple[str, str], None]:
    """Return every domain and operator of the shipped tables, sorted; ``ai.onnx`` is ``""``."""
    files = [file for file in resources.files(__package__).iterdir() if file.name.endswith(".json")]
    rows = [row for file in files for row in msgspec.json.decode(file.read_bytes(), type=_Rows).kernels]
    return dict.fromkeys(sorted({(row[1], row[2]) for row in rows}))

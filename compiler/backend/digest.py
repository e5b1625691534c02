"""Digests of files: all bytes of small files, samples of large ones, so that opening a bundle stays quick.

Hashing all of a 20 GB data file takes longer than loading it, at every start of the user's program.  Above 64 MiB the
digest covers the size and 4 KiB of every MiB: enough to notice another file, a truncated copy or a damaged disk; it
is no protection against somebody who wants to deceive, and a digest beside the file could not be that anyway.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

WHOLE = "sha256"
SAMPLED = "sampled_sha256"

_LARGE = 64 << 20
"""Bytes from which a file is sampled."""
_EVERY, _SAMPLE = 1 << 20, 4 << 10


def describe(path: Path) -> dict[str, Any]:
    """Return the size of a file and its digest: ``sha256``, or ``sampled_sha256`` of a large one."""
    size = path.stat().st_size
    kind = WHOLE if size < _LARGE else SAMPLED
    return {"bytes": size, kind: digest(path, kind)}


def digest(path: Path, kind: str) -> str:
    """Return the digest of a file; ``kind`` is ``sha256`` or ``sampled_sha256``."""
    with path.open("rb") as file:
        if kind == WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        found = hashlib.sha256(str(size).encode())
        for start in [*range(0, max(size - _SAMPLE, 0), _EVERY), max(size - _SAMPLE, 0)]:
            file.seek(start)
            found.update(file.read(_SAMPLE))
        return found.hexdigest()

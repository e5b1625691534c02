"""Keep what is slow to find out about the installed ONNX Runtime in the user's cache folder.

An entry is one JSON file, written beside its place and moved into it, so that a reader never sees half of
one. The cache can always be done without: a folder that cannot be written is not written, and a file that
does not decode is computed anew and replaced.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


def default_folder() -> Path:
    """Return the user's cache folder for this program; it need not exist."""
    from platformdirs import user_cache_dir  # a few milliseconds, not needed when a folder is given

    return Path(user_cache_dir("ampc"))


def remembered(kind: type[T], compute: Callable[[], T], *, key: str, folder: Path) -> T:
    """Return the value stored under ``key`` if it decodes as a ``kind``, else compute and store it.

    ``key`` becomes a file name and must be made of letters, digits, ``.``, ``-`` and ``_``.
    """
    file = folder / f"{key}.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        pass  # absent, unreadable or corrupt are one case: compute it
    value = compute()
    _store(file, msgspec.json.encode(value))
    return value


def _store(file: Path, content: bytes) -> None:
    """Put a file in its place in one step, or not at all."""
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".new-", delete=False) as out:
            temporary = out.name
            out.write(content)
        os.replace(temporary, file)
    except OSError:  # a read-only or full disk costs time on the next start, and nothing else
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

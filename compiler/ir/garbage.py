"""Let Python's cyclic garbage collector rest while many objects are made that all live on.

Reading or writing a graph of 100,000 nodes makes a million objects and no garbage; the collector would look through
all of them again and again, and double the time.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pause the collector for a block, if it was running."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

"""Text fields of protobufs that hold no text: parsing does not look at them, so that reading one fails later."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from compiler.errors import ModelError


@contextlib.contextmanager
def readable_text() -> Iterator[None]:
    """Turn the failure to decode a text field within the block into a ``ModelError``."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ModelError(
            "a name or a documentation text of the model is not UTF-8",
            why=f"{error.reason} in {bytes(error.object[:40])!r}",
            hint="export the model again with names and documentation in UTF-8",
        ) from error

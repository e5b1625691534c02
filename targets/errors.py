"""Say what is wrong with a target: the one exception that this package raises at its users.

The package imports nothing of the compiler, so it cannot raise the compiler's own ``InputError``; the
compiler catches ``TargetError`` where it loads targets and converts it, field by field.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TargetError(ValueError):
    """Report one mistake in a target, its file or its environment.

    Every part is kept as a field, so that whoever shows the error can lay it out; ``str()`` joins them in a
    line.
    """

    file: str
    """The file at fault (or the plugin, or the provider); empty where no file is involved."""
    key: str
    """The dotted key at fault inside the file, spelled as in TOML; empty where no key is involved."""
    why: str
    """What is wrong, without a full stop."""
    hint: str
    """What the user can do about it; may be empty."""
    nearest: str
    """The valid name closest to what was written; empty when nothing is close."""

    def __init__(
        self, why: str, *, file: object = "", key: str = "", hint: str = "", nearest: str = ""
    ) -> None:
        """Keep the parts; ``file`` may be a path."""
        self.file, self.key, self.why, self.hint, self.nearest = str(file), key, why, hint, nearest
        super().__init__(self._line())

    def _line(self) -> str:
        """Join the parts: ``file: key: why; did you mean 'nearest'?; hint``."""
        where = "".join(f"{part}: " for part in (self.file, self.key) if part)
        guess = f"did you mean {self.nearest!r}?" if self.nearest else ""
        return where + "; ".join(part for part in (self.why, guess, self.hint) if part)


def nearest(word: str, words: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return the one of ``words`` most like ``word``, or ``""`` when none is alike by ``cutoff`` (0 to 1)."""
    spelled = {known.lower(): known for known in words}
    close = difflib.get_close_matches(word.lower(), spelled, n=1, cutoff=cutoff)
    return spelled[close[0]] if close else ""

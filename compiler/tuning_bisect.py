"""Find which of many names are to blame, by leaving out halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def narrowed(names: Sequence[str], is_better: Callable[[Sequence[str]], bool]) -> list[str]:
    """Return the fewest of ``names`` that bisection finds, such that leaving them out is better; none when nothing is.

    ``is_better`` says whether things are better without the given names; it may be wrong in one direction only: what
    it cannot tell is not better.  It is asked about twice the logarithm of their number, when one of them is to blame.
    Where neither half alone is better, both are to blame, and all that is left is returned.
    """
    suspects = list(names)
    if not suspects or not is_better(suspects):
        return []
    while len(suspects) > 1:
        middle = (len(suspects) + 1) // 2
        half = next((h for h in (suspects[:middle], suspects[middle:]) if is_better(h)), None)
        if half is None:
            break
        suspects = half
    return suspects

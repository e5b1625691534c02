"""Sizes for dynamic dims: which number each symbol stands for in a probe.

A *binding* gives every symbol of the inputs a number.  The first two are guesses from the symbols' names that
differ from each other; the others are what to try when the model refuses these.  Sizes are modest: a wrong
rewrite shows at length 12 as well as at 512.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from compiler.ir.dims import Dim, Expr, substitute

Binding = Mapping[str, int]

_PAST, _IMAGE = 5, 64


def bindings(symbols: Sequence[str]) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield named bindings of the symbols, the likeliest first, each once."""
    seen: list[dict[str, int]] = []
    for name, rule in _RULES:
        found = {s: rule(s) for s in symbols}
        if found not in seen:
            seen.append(found)
            yield name, found


def telling_names(inputs: Mapping[str, Sequence[Dim]]) -> dict[str, str]:
    """Return names for symbols whose own say nothing (``s35``), by where they stand in which inputs.

    ``inputs`` are shapes by the input's name.  A leading dim is a batch; of a cache, the last but one is what is past;
    of a mask beside caches, the last is what is past and what is new together.
    """
    caches = any(_CACHE.search(name) for name in inputs)
    new = next((shape[1] for name, shape in inputs.items() if _NEW.search(name) and len(shape) == 2), 1)
    found: dict[str, str] = {}
    for name, shape in inputs.items():
        for axis, dim in enumerate(shape):
            if not isinstance(dim, Expr) or not _MEANINGLESS.fullmatch(dim.text):
                continue
            if axis == 0:
                found.setdefault(dim.text, "batch")
            elif _CACHE.search(name) and axis == len(shape) - 2:
                found.setdefault(dim.text, "past")
            elif caches and "mask" in name and axis == len(shape) - 1 and isinstance(new, int):
                found.setdefault(dim.text, f"past + {new}")
    return found


_MEANINGLESS = re.compile(r"(s|dim_?|unk__|d)\d+")
_CACHE = re.compile(r"past|cache|mem")
_NEW = re.compile(r"ids|tokens?")


def usual(symbols: Sequence[str]) -> dict[str, int]:
    """Return the sizes at which models are timed when nobody says which: batch 1, length 128, images of 224."""
    rule = _guess(1, 128, 224)
    return {s: 1 if s.startswith("?") else rule(s) for s in symbols}


def _guess(batch: int, length: int, image: int) -> Callable[[str], int]:
    def rule(symbol: str) -> int:
        return _by_name(symbol.lower(), batch, length, image)

    return rule


def _by_name(low: str, batch: int, length: int, image: int) -> int:
    letters = re.sub(r"[^a-z_+]", "", low)
    if ("past" in low and "+" in low) or "total" in low or "all_seq" in low:
        plus = re.search(r"\+ *(\d+)$", low)
        return _PAST + (int(plus[1]) if plus else length)
    if "past" in low or "prev" in low:
        return _PAST
    if "batch" in low or letters in ("n", "b", "bs"):
        return batch
    if "seq" in low or "len" in low or letters in ("s", "t", "l"):
        return length
    if letters in ("h", "w") or "height" in low or "width" in low:
        return image
    return 3 if letters == "c" or "channel" in low else 2


def _always(size: int) -> Callable[[str], int]:
    return lambda symbol: size


def _but_batch(size: int) -> Callable[[str], int]:
    return lambda symbol: (
        1 if "batch" in symbol.lower() or symbol.lower() in ("n", "b") or symbol.endswith(".0") else size
    )


_RULES: tuple[tuple[str, Callable[[str], int]], ...] = (
    ("named", _guess(2, 12, _IMAGE)),
    ("other", _guess(1, 7, _IMAGE * 3 // 2)),
    ("ones", _always(1)),
    ("twos", _always(2)),
    ("threes", _always(3)),
    ("fours", _always(4)),
    ("images", _but_batch(64)),
    ("eights", _always(8)),
    ("sixteens", _always(16)),
    ("photos", _but_batch(224)),
    ("sounds", _but_batch(576)),
    ("digits", _but_batch(784)),
)
"""Name → the number for a symbol; unnamed dims are symbols that end in their position."""


def size_of(dim: Dim, binding: Binding) -> int:
    """Return the number that a dim is under a binding; symbols that it lacks count as 2."""
    if isinstance(dim, int):
        return dim
    found = substitute(dim, {s: binding.get(s, 2) for s in dim.symbols()})
    return max(found, 0) if isinstance(found, int) else 2


def symbols_of(shapes: Sequence[Sequence[Dim]]) -> list[str]:
    """Return the symbols in shapes, each once, in order of appearance."""
    return list(dict.fromkeys(s for shape in shapes for d in shape if isinstance(d, Expr) for s in d.symbols()))

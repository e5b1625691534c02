"""Compare what two models computed: the same up to reassociation, or where and how they differ.

Law: a candidate agrees with a reference if types and shapes are equal, NaN stands where NaN stood, infinities
keep their sign, and ``|candidate - reference| <= atol * max(1, largest |reference|) + rtol * |reference|``
elsewhere.  Integers, booleans and strings agree only if equal.  The largest magnitude scales ``atol`` since
sums of large terms that cancel are wrong by what the terms are, not by what is left.

Arrays are walked in chunks, twice at most, and bytes that are equal are never converted: two outputs of a
gigabyte cost no gigabyte of float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CHUNK = 1 << 20
"""Elements converted at a time; the temporaries of a chunk fit a last-level cache."""
_FLOOR = 1e-12
"""The least magnitude that a relative difference is relative to."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How far an element may be off: ``rtol`` of its own magnitude and ``atol`` of the largest, or of 1."""

    rtol: float
    atol: float


_DEFAULT = {
    "float64": Bound(1e-9, 1e-11),
    "float32": Bound(1e-4, 1e-5),
    "float16": Bound(1e-2, 1e-3),
    "bfloat16": Bound(3e-2, 1e-2),
    "float8": Bound(0.15, 0.05),
    "float4": Bound(0.5, 0.25),
}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Bounds per dtype; what is no float is exact."""

    bounds: Mapping[str, Bound] = field(default_factory=lambda: dict(_DEFAULT), hash=False)
    """Bound by name of dtype; ``float8`` and ``float4`` stand for all formats of that width."""

    @classmethod
    def default(cls) -> Tolerance:
        """Return what reassociation and another order of rounding may change."""
        return cls()

    @classmethod
    def exact(cls) -> Tolerance:
        """Return the tolerance that lets nothing through but equal values."""
        return cls({})

    @classmethod
    def within(cls, rtol: float) -> Tolerance:
        """Return the default, widened where it is narrower than ``rtol``, both ways."""
        return cls().widened(rtol)

    def widened(self, rtol: float) -> Tolerance:
        """Return this tolerance, widened where it is narrower than ``rtol``, both ways; exact stays exact."""
        if not rtol:
            return self
        return Tolerance({name: Bound(max(b.rtol, rtol), max(b.atol, rtol)) for name, b in self.bounds.items()})

    def for_dtype(self, dtype: npt.DTypeLike) -> Bound:
        """Return the bound of a dtype; complex numbers have that of their parts."""
        name = np.dtype(dtype).name
        name = {"complex64": "float32", "complex128": "float64"}.get(name, name)
        family = name.split("_", 1)[0]
        return self.bounds.get(name) or self.bounds.get(family) or Bound(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where and how much a candidate differs from its reference."""

    path: str
    """The place inside nested values, such as ``[2]['key']``; empty for the value itself."""
    what: str
    """What differs, in words."""
    max_abs: float = 0.0
    """The largest absolute difference of elements out of bounds; infinite where a finite one became inf."""
    max_rel: float = 0.0
    """The largest difference of elements out of bounds relative to their reference."""
    scale: float = 0.0
    """The largest finite magnitude of the reference."""
    fraction: float = 1.0
    """The part of the elements that is out of bounds."""
    nonfinite: bool = False
    """Whether they differ only where the reference itself is NaN or infinite: the caller's to judge."""
    minor: bool = False
    """Whether integers of at most 8 bits are off by one: the rounding of a quantized output."""
    index: tuple[int, ...] | None = None
    """The index of the worst element."""
    reference: float | None = None
    """The worst element of the reference, where it is a real number."""
    candidate: float | None = None
    """The same element of the candidate."""

    def __str__(self) -> str:
        """Say in one line what differs and where."""
        place = f"{self.path}: " if self.path else ""
        if self.index is None:
            return f"{place}{self.what}"
        worst = "" if self.reference is None else f"{self.reference} became {self.candidate}, "
        return (
            f"{place}{self.what} in {self.fraction:.3g} of the elements, {worst}worst at {list(self.index)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON; NaN and infinities, which JSON lacks, as strings."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def compare(reference: Any, candidate: Any, *, tolerance: Tolerance, path: str = "") -> Difference | None:
    """Return the first difference of two values, or ``None`` when they agree.

    Values are arrays, scalars, lists and tuples, dicts, and ``None``, nested at will.
    """
    if isinstance(reference, (list, tuple)) or isinstance(candidate, (list, tuple)):
        return _compare_lists(reference, candidate, tolerance, path)
    if isinstance(reference, Mapping) or isinstance(candidate, Mapping):
        return _compare_maps(reference, candidate, tolerance, path)
    if reference is None or candidate is None:
        if reference is candidate:
            return None
        return Difference(
            path, "a value where nothing was" if reference is None else "nothing where a value was"
        )
    return _compare_arrays(np.asarray(reference), np.asarray(candidate), tolerance, path)


def _compare_lists(reference: Any, candidate: Any, tolerance: Tolerance, path: str) -> Difference | None:
    if not isinstance(reference, (list, tuple)) or not isinstance(candidate, (list, tuple)):
        return Difference(path, f"{_kind(reference)} became {_kind(candidate)}")
    if len(reference) != len(candidate):
        return Difference(path, f"a sequence of {len(reference)} became one of {len(candidate)}")
    for k, (ref, got) in enumerate(zip(reference, candidate, strict=True)):
        if (found := compare(ref, got, tolerance=tolerance, path=f"{path}[{k}]")) is not None:
            return found
    return None


def _compare_maps(reference: Any, candidate: Any, tolerance: Tolerance, path: str) -> Difference | None:
    if not isinstance(reference, Mapping) or not isinstance(candidate, Mapping):
        return Difference(path, f"{_kind(reference)} became {_kind(candidate)}")
    if reference.keys() != candidate.keys():
        return Difference(path, "the keys of a map differ")
    for key, ref in reference.items():
        place = f"{path}[{key!r}]"
        if (found := compare(_item(ref), _item(candidate[key]), tolerance=tolerance, path=place)) is not None:
            return found
    return None


def _item(value: Any) -> Any:
    # The floats that ORT's maps hold are float32, and come out of Python's API as float.
    return np.float32(value) if isinstance(value, float) else value


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a map"
    return "a sequence" if isinstance(value, (list, tuple)) else "a tensor"


def _compare_arrays(ref: Array, got: Array, tolerance: Tolerance, path: str) -> Difference | None:
    strings = ref.dtype.kind in "OUS" and got.dtype.kind in "OUS"
    if ref.dtype != got.dtype and not strings:
        return Difference(path, f"{ref.dtype.name} became {got.dtype.name}")
    if ref.shape != got.shape:
        return Difference(path, f"shape {_dims(ref)} became {_dims(got)}")
    if strings:
        return _compare_strings(ref, got, path)
    if ref.size == 0 or _same_bytes(ref, got):
        return None
    return _compare_numbers(ref, got, tolerance, path)


def _compare_numbers(ref: Array, got: Array, tolerance: Tolerance, path: str) -> Difference | None:
    if ref.dtype.kind == "c":
        return _compare_floats(ref, got, tolerance, path, np.complex128)
    if ref.dtype.kind == "f" or "float" in ref.dtype.name:
        return _compare_floats(ref, got, tolerance, path, np.float64)
    return _compare_integers(ref, got, path)


def _dims(array: Array) -> str:
    return "x".join(map(str, array.shape)) or "()"


def _compare_strings(ref: Array, got: Array, path: str) -> Difference | None:
    wrong = np.flatnonzero(
        [a != b for a, b in zip(ref.reshape(-1).tolist(), got.reshape(-1).tolist(), strict=True)]
    )
    if wrong.size == 0:
        return None
    return Difference(
        path, "strings differ", fraction=wrong.size / ref.size, index=_index(int(wrong[0]), ref)
    )


def _same_bytes(ref: Array, got: Array) -> bool:
    if not (ref.flags.c_contiguous and got.flags.c_contiguous):
        return False
    a, b = ref.reshape(-1).view(np.uint8), got.reshape(-1).view(np.uint8)
    step = 8 * _CHUNK
    return all(np.array_equal(a[k : k + step], b[k : k + step]) for k in range(0, a.size, step))


def _chunks(ref: Array, got: Array) -> Iterator[tuple[int, Array, Array]]:
    a, b = ref.reshape(-1), got.reshape(-1)
    for start in range(0, a.size, _CHUNK):
        yield start, a[start : start + _CHUNK], b[start : start + _CHUNK]


def _index(flat: int, array: Array) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(flat, array.shape))


# ------------------------------------------------------------------------------------------------ numbers


@dataclass(slots=True)
class _Tally:
    """What a walk over the chunks has found so far."""

    worst: float = -1.0
    at: int = 0
    relative: float = 0.0
    count: int = 0

    def add(self, start: int, bad: Array, diff: Array, magnitude: Array) -> None:
        """Count the elements where ``bad``; ``diff`` may hold infinities."""
        places = np.flatnonzero(bad)
        if places.size == 0:
            return
        wrong = diff[places]
        top = int(np.argmax(wrong))
        self.count += places.size
        self.relative = max(self.relative, float(np.max(wrong / np.maximum(magnitude[places], _FLOOR))))
        if float(wrong[top]) > self.worst:
            self.worst, self.at = float(wrong[top]), start + int(places[top])

    def difference(self, path: str, what: str, ref: Array, got: Array, scale: float) -> Difference:
        """Describe the worst element."""
        index = _index(self.at, ref)
        found = Difference(
            path, what, self.worst, self.relative, scale, fraction=self.count / ref.size, index=index
        )
        if ref.dtype.kind == "c":
            return found
        return replace(found, reference=float(ref[index]), candidate=float(got[index]))


def _compare_integers(ref: Array, got: Array, path: str) -> Difference | None:
    tally = _Tally()
    wide = np.float64 if ref.dtype.itemsize > 4 else np.int64
    for start, a, b in _chunks(ref, got):
        bad = a != b
        if not bad.any():
            continue
        x, y = a.astype(wide), b.astype(wide)
        # Two 64-bit integers may differ and be the same float64.
        tally.add(start, bad, np.maximum(np.abs(x - y), 1).astype(np.float64), np.abs(x).astype(np.float64))
    if tally.count == 0:
        return None
    what = "booleans differ" if ref.dtype.kind == "b" else "integers differ"
    minor = ref.dtype.kind != "b" and ref.dtype.itemsize == 1 and tally.worst <= 1
    return replace(tally.difference(path, what, ref, got, _largest(ref, np.float64)), minor=minor)


def _compare_floats(ref: Array, got: Array, tolerance: Tolerance, path: str, wide: Any) -> Difference | None:
    bound = tolerance.for_dtype(ref.dtype)
    scale = _largest(ref, wide) if bound.atol else 0.0
    slack = bound.atol * max(1.0, scale)
    hard, soft = _Tally(), _Tally()
    with np.errstate(all="ignore"):
        for start, a, b in _chunks(ref, got):
            _tally_floats(start, a.astype(wide), b.astype(wide), slack, bound.rtol, hard, soft)
    if hard.count:
        what = "values differ" if math.isfinite(hard.worst) else "finite values became NaN or infinite"
        return hard.difference(path, what, ref, got, scale)
    if soft.count:
        return replace(soft.difference(path, "NaN or infinities differ", ref, got, scale), nonfinite=True)
    return None


def _tally_floats(
    start: int, x: Array, y: Array, slack: float, rtol: float, hard: _Tally, soft: _Tally
) -> None:
    magnitude = np.abs(x)
    diff = np.abs(x - y)
    good = (diff <= slack + rtol * magnitude) & np.isfinite(diff)
    if good.all():
        return
    good |= (x == y) | (np.isnan(x) & np.isnan(y))
    finite = np.isfinite(x)
    diff[~np.isfinite(diff)] = np.inf
    hard.add(start, ~good & finite, diff, magnitude)
    soft.add(start, ~good & ~finite, diff, np.ones_like(magnitude))


def _largest(ref: Array, wide: Any) -> float:
    largest = 0.0
    for _, chunk, _ in _chunks(ref, ref):
        magnitude = np.abs(chunk.astype(wide))
        largest = max(largest, float(np.max(magnitude, where=np.isfinite(magnitude), initial=0.0)))
    return largest

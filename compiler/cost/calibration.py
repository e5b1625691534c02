"""What this machine's kernels take, by kind: points that were measured, and what lies between them.

A calibration holds for one build of ONNX Runtime, one processor and one number of threads. For each kind it has
points: work, sizes (as base-2 logarithms) and microseconds. In between, the logarithm of the time of a unit of work is
taken to be linear in the sizes near by: a weighted ridge regression, whose weights fall with the distance, so that it
passes near the points and levels out to the mean where there are few. Beyond the measured sizes the time is
proportional to the work, and it is never less than the least that any kernel took.

Rejected: one efficiency by family. Kernels of one family differ tenfold with the sizes of their matrices or channels.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np

from compiler.cost.kinds import Kind
from compiler.errors import InputError

FORMAT = 2
"""Version of the file's form."""

_REACH = 2.0
"""Distance, in doublings of a size, at which a point counts for a third."""

_RIDGE = 0.3
"""How strongly slopes are drawn to none."""


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One measured case of a kind."""

    work: float
    """The amount of work."""
    us: float
    """Microseconds of the kernel."""
    features: tuple[float, ...]
    """Base-2 logarithms of sizes."""


class Calibration(msgspec.Struct, frozen=True, dict=True, kw_only=True):
    """What was measured on one machine."""

    format: int = FORMAT
    """Version of the file's form."""
    runtime: str
    """Version of ONNX Runtime."""
    processor: str
    """The processor's model."""
    threads: int
    """Threads that kernels had."""
    launch_us: float
    """Microseconds that each node takes beside its kernel; negative where profiling a kernel costs more than that."""
    stream: float = 0.0
    """Bytes a microsecond at which weights come from memory that no cache holds; 0 when that was not measured."""
    points: dict[str, tuple[Point, ...]]
    """Points by key of their kind, keys in order."""

    @cached_property
    def _fits(self) -> dict[str, _Fit]:
        return {}

    @cached_property
    def floor(self) -> float:
        """The microseconds that any kernel takes at least."""
        return min(p.us for points in self.points.values() for p in points)

    def us(self, kind: Kind) -> float | None:
        """Return the microseconds of a kind's kernel, ``None`` when nothing like it was measured."""
        key = self.nearest(kind.key)
        if key is None:
            return None
        fit = self._fits.get(key)
        if fit is None:
            fit = self._fits[key] = _Fit(self.points[key], self.floor)
        return fit.us(kind.work, kind.features)

    def nearest(self, key: str) -> str | None:
        """Return the key itself when it was measured, else one of the same operator that comes closest."""
        if key in self.points:
            return key
        op, dtype, *rest = key.split(":")
        same = [k for k in self.points if k.startswith(f"{op}:")]
        if op == "View":
            return same[0] if same else None
        if not same or dtype in _APART:
            return None
        return min(same, key=lambda k: (k.split(":")[1] != dtype, _length(dtype, k), k.split(":")[2:] != rest, k))

    def to_json(self) -> bytes:
        """Return the file's contents."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


_APART = frozenset({"u8", "i8", "f16", "bf16", "str"})
"""Element types whose kernels say nothing of those of others."""


def _length(dtype: str, key: str) -> int:
    """Return how far the width of a key's element type is from another's."""
    width = {"f64": 64, "i64": 64, "f32": 32, "i32": 32, "bool": 8}
    return abs(width.get(dtype, 32) - width.get(key.split(":")[1], 32))


class _Fit:
    """The points of one kind, ready to be asked."""

    def __init__(self, points: Iterable[Point], floor: float) -> None:
        found = list(points)
        self.floor = floor
        self.least = min(p.us for p in found)
        self.x = np.array([p.features for p in found], dtype=float).reshape(len(found), -1)
        self.y = np.log([p.us / max(p.work, 1.0) for p in found])
        self.low, self.high = self.x.min(axis=0), self.x.max(axis=0)

    def us(self, work: float, features: tuple[float, ...]) -> float:
        if work <= 0 or not features or len(features) != self.x.shape[1]:
            return self.least
        at = np.clip(np.array(features), self.low, self.high)
        delta = self.x - at
        weights = np.exp(-(np.sum(delta**2, axis=1) - np.min(np.sum(delta**2, axis=1))) / _REACH**2)
        mean = float(np.average(self.y, weights=weights))
        centre = np.average(delta, axis=0, weights=weights)
        spread = (delta - centre) * np.sqrt(weights)[:, None]
        slopes = np.linalg.solve(
            spread.T @ spread + _RIDGE * np.eye(len(at)), spread.T @ ((self.y - mean) * np.sqrt(weights))
        )
        value = float(np.clip(mean - centre @ slopes, self.y.min() - 0.5, self.y.max() + 0.5))
        return max(self.floor, work * math.exp(value))


def make(
    measured: Iterable[tuple[Kind, float]],
    *,
    runtime: str,
    processor: str,
    threads: int,
    launch_us: float,
    stream: float,
) -> Calibration:
    """Return the calibration that measurements of kinds, in microseconds, give."""
    points: dict[str, list[Point]] = {}
    for kind, us in measured:
        features = tuple(round(f, 4) for f in kind.features)
        points.setdefault(kind.key, []).append(Point(kind.work, round(us, 3), features))
    ordered = {key: tuple(sorted(points[key], key=lambda p: (p.work, p.features))) for key in sorted(points)}
    return Calibration(
        runtime=runtime,
        processor=processor,
        threads=threads,
        launch_us=round(launch_us, 3),
        stream=round(stream, 1),
        points=ordered,
    )


# Files -------------------------------------------------------------------------------------------


def load(path: Path) -> Calibration:
    """Read a calibration; raises ``InputError`` when the file is none."""
    try:
        return _decoded(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            "the calibration cannot be read", where=str(path), why=str(error), hint="make it anew with: ampc calibrate"
        ) from error


def _decoded(data: bytes) -> Calibration:
    found = msgspec.json.decode(data, type=Calibration)
    if found.format != FORMAT:
        raise msgspec.ValidationError(f"its format is {found.format}, this version reads {FORMAT}")
    return found


def default_path(threads: int, *, folder: Path | None = None) -> Path:
    """Return where the calibration of this machine and the installed runtime is kept; it need not be there."""
    import hashlib

    from targets.disk_cache import default_folder
    from targets.installed import installed

    current = installed()
    digest = hashlib.sha256(f"{current.build}\0{processor_name()}".encode()).hexdigest()[:12]
    name = f"calibration-{FORMAT}-{current.version}-{digest}-t{threads}.json"
    return (default_folder() if folder is None else folder) / name


def of_this_machine(threads: int) -> Calibration | None:
    """Return the calibration that ``ampc calibrate`` made here, ``None`` when there is none that can be read."""
    from targets import TargetError

    try:
        return _decoded(default_path(threads).read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, TargetError):
        return None  # not calibrated, or by another version of ours: the shipped one serves


@lru_cache(maxsize=4)
def shipped(provider: str) -> Calibration | None:
    """Return the calibration of a typical machine for a provider, ``None`` when none is shipped."""
    file = resources.files("targets") / "calibrations" / f"{provider}.json"
    return _decoded(file.read_bytes()) if file.is_file() else None


@lru_cache(maxsize=1)
def processor_name() -> str:
    """Return the model of this machine's processor, as far as the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    parts = [facts[k] for k in ("model name", "cpu family", "model", "stepping") if k in facts]
    return " ".join(parts) or platform.processor() or platform.machine()

"""Read processors, caches, memory and control-group limits from Linux' ``/proc`` and ``/sys``.

Every function takes the directory that stands for ``/``, so that other machines can be described in tests,
and understands files that are missing or odd (sandboxes, emulators) as "not known".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from targets.quantity import Size
from targets.schema import Caches

_SCALE = {"K": 2**10, "M": 2**20, "G": 2**30}
_LEVELS = {("1", "Data"): "l1d", ("2", "Unified"): "l2", ("3", "Unified"): "l3"}


@dataclass(frozen=True)
class Processor:
    """Hold one block of ``/proc/cpuinfo``: a hardware thread."""

    processor: int
    """Its number."""
    core: tuple[str, str] | None
    """Package and core that it belongs to; absent where the kernel does not say, as on ARM."""
    flags: frozenset[str]
    """Its extensions; empty where the kernel does not say."""


def read(path: Path) -> str:
    """Return a file's text, or nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""  # the callers' contract: unreadable is unknown


def cpuinfo(text: str) -> list[Processor]:
    """Parse ``/proc/cpuinfo``; blocks without a processor number are left out."""
    found = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        facts = {key.strip(): value.strip() for key, _, value in pairs}
        number = facts.get("processor", "")
        if number.isdecimal():
            package, core = facts.get("physical id"), facts.get("core id")
            place = (package, core) if package is not None and core is not None else None
            flags = facts.get("flags") or facts.get("Features") or ""
            found.append(Processor(int(number), place, frozenset(flags.split())))
    return found


def flags(processors: Sequence[Processor]) -> frozenset[str]:
    """Return the extensions that all processors share."""
    known = [processor.flags for processor in processors if processor.flags]
    return frozenset.intersection(*known) if known else frozenset()


def physical_cores(processors: Sequence[Processor]) -> int:
    """Count physical cores; a processor whose core is not known counts as one of its own."""
    return len({processor.core or processor.processor for processor in processors})


def allowed_processors(root: Path) -> frozenset[int]:
    """Return the processors that this process is bound to; empty when not known."""
    for line in read(root / "proc/self/status").splitlines():
        key, _, value = line.partition(":")
        if key == "Cpus_allowed_list":
            return parse_list(value.strip())
    if root == Path("/") and hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset()


def parse_list(text: str) -> frozenset[int]:
    """Parse a list of processors such as ``0-3,8``; what is not a number or range is left out."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def caches(root: Path, processor: int) -> Caches:
    """Read the caches that one processor sees."""
    sizes: dict[str, Size] = {}
    folder = root / f"sys/devices/system/cpu/cpu{processor}/cache"
    for index in range(8):
        level, kind, size = (
            read(folder / f"index{index}" / name).strip() for name in ("level", "type", "size")
        )
        count = size[:-1] if size[-1:] in _SCALE else size
        if (level, kind) in _LEVELS and count.isdecimal() and int(count):
            sizes[_LEVELS[level, kind]] = Size(float(int(count) * _SCALE.get(size[-1:], 1)))
    return Caches(**sizes)


def memory(root: Path) -> Size | None:
    """Return the machine's memory, or the control group's limit where that is lower."""
    known = list(_memory_limits(root))
    for line in read(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if key == "MemTotal" and words and words[0].isdecimal():
            known.append(int(words[0]) * 1024)
    return Size(float(min(known))) if known else None


def cpu_share(root: Path) -> float | None:
    """Return how many processors' time the control groups grant, or ``None`` when they set no limit."""
    shares = [quota / period for quota, period in _cpu_quotas(root) if quota > 0 and period > 0]
    return min(shares) if shares else None


def _cpu_quotas(root: Path) -> Iterator[tuple[int, int]]:
    """Find every quota above this process: microseconds of processor time, and per how many microseconds."""
    for folder in _groups(root, ""):
        words = read(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal():
            yield int(words[0]), int(words[1])
    for folder in _groups(root, "cpu"):
        quota, period = (read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal():
            yield int(quota), int(period)


def _memory_limits(root: Path) -> Iterator[int]:
    """Find every memory limit above this process, in bytes."""
    places = [(folder, "memory.max") for folder in _groups(root, "")]
    places += [(folder, "memory.limit_in_bytes") for folder in _groups(root, "memory")]
    for folder, name in places:
        text = read(folder / name).strip()
        if text.isdecimal() and int(text):
            yield int(text)


def _groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process' control group and of all above it.

    ``controller`` is empty for version 2, whose single hierarchy is mounted at the top or, on mixed systems,
    at ``unified``. Inside a container the group's path may be the host's, which is not visible: its folders
    then do not exist, and the top of the mount, which is always in the list, is the container's own group.
    """
    mounts = ["", "unified"] if not controller else [controller]
    path = PurePosixPath("/")
    for line in read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, place = rest.partition(":")
        if controller in names.split(","):
            path = PurePosixPath(place)
            mounts += [names] if names and names != controller else []
    above = [path, *path.parents] if ".." not in path.parts else [PurePosixPath("/")]
    top = root / "sys/fs/cgroup"
    return [top / mount / str(place).lstrip("/") for mount in mounts for place in above]

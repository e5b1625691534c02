"""Read this machine: instruction set, cores that we may use, caches and memory.

Nothing here fails: what cannot be read is left empty (cores are then taken from Python), because ``auto``
must come to a usable target in any container. Containers are why the number of cores is not simply asked for.
A process may be bound to some processors or limited to a share of all of them, and a thread pool larger than
that share makes inference many times slower.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets import linux
from targets.quantity import Size
from targets.schema import Caches

_ISA = re.compile(r"sse4_[12]|avx.*|fma|f16c|amx_.*|asimd(hp|dp|fhm)?|i8mm|bf16|s[vm]e2?(_.*)?")
"""Extensions that some kernel of ONNX Runtime uses, spelled as in ``/proc/cpuinfo``."""

_APPLE_X86 = {"avx1.0": "avx", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "avx512vnni": "avx512_vnni"}
"""Extensions that macOS spells differently on Intel processors."""

_NUMPY = {
    "SSE41": "sse4_1",
    "SSE42": "sse4_2",
    "FMA3": "fma",
    "AVX512VNNI": "avx512_vnni",
    "AVX512BF16": "avx512_bf16",
    "AVX512FP16": "avx512_fp16",
}
"""Extensions that numpy spells differently, apart from capitals."""

_APPLE_ARM = {
    "FEAT_FP16": "asimdhp",
    "FEAT_DotProd": "asimddp",
    "FEAT_I8MM": "i8mm",
    "FEAT_BF16": "bf16",
    "FEAT_SME": "sme",
    "FEAT_SME2": "sme2",
}
"""Extensions that macOS reports one by one on Apple silicon."""


@dataclass(frozen=True, kw_only=True)
class ThisMachine:
    """Hold what could be read of the machine that we run on."""

    arch: str
    """``x86_64``, ``arm64``, or whatever else the operating system calls it."""
    isa: tuple[str, ...]
    """Instruction set extensions that matter here, in alphabetical order; empty when unknown."""
    cores: int
    """Physical cores that this process may use."""
    installed: int
    """Physical cores that the machine has."""
    threads: int
    """Hardware threads that this process may use."""
    caches: Caches
    """Cache sizes, as far as known."""
    memory: Size | None
    """Main memory that this process may use; absent when unknown."""

    @property
    def limited(self) -> bool:
        """Whether this process may use only some of the machine's cores."""
        return self.cores < self.installed

    def best_target(self) -> str:
        """Return the name of the CPU target that fits the instruction set."""
        if self.arch != "x86_64":
            return "cpu"
        return next((name for name, needs in _NEEDS if needs <= set(self.isa)), "cpu")


_NEEDS = (
    ("cpu_avx512", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),
    ("cpu_avx512_novnni", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    ("cpu_avx2", {"avx2", "fma"}),
    ("cpu_avx", {"avx"}),
)
"""What each x86 target needs, the best first: the groups by which ONNX Runtime chooses its kernels."""


def machine(
    *, system: str | None = None, arch: str | None = None, root: Path = Path("/"), sysctl: str | None = None
) -> ThisMachine:
    """Read this machine, or, for tests, another one.

    ``system`` and ``arch`` are spelled as by ``platform``; ``root`` is where ``/proc`` and ``/sys`` are on
    Linux, and ``sysctl`` is what that command prints on macOS.
    """
    system = platform.system() if system is None else system
    arch = _arch(platform.machine() if arch is None else arch)
    if system == "Linux":
        return _linux(arch, root)
    if system == "Darwin":
        return _macos(arch, _sysctl() if sysctl is None else sysctl)
    return _elsewhere(arch)


def _arch(name: str) -> str:
    """Give the two usual architectures one name each."""
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name.lower(), name.lower())


def _isa(flags: Iterable[str]) -> tuple[str, ...]:
    """Keep what matters, in order."""
    return tuple(sorted({flag for flag in flags if _ISA.fullmatch(flag)}))


def _linux(arch: str, root: Path) -> ThisMachine:
    """Read ``/proc`` and ``/sys``."""
    allowed = linux.allowed_processors(root)
    blocks = linux.cpuinfo(linux.read(root / "proc/cpuinfo"))
    here = [block for block in blocks if block.processor in allowed] if allowed else blocks
    share = linux.cpu_share(root)
    threads = len(here) or len(allowed) or os.cpu_count() or 1
    cores = linux.physical_cores(here) or threads
    return ThisMachine(
        arch=arch,
        isa=_isa(linux.flags(here or blocks)),
        cores=max(1, min(cores, int(share))) if share else cores,
        installed=max(cores, linux.physical_cores(blocks)),
        threads=max(1, min(threads, int(share))) if share else threads,
        caches=linux.caches(root, min(allowed, default=0)),
        memory=linux.memory(root),
    )


def _sysctl() -> str:
    """Run ``sysctl``; return what it printed, if anything."""
    try:
        command = ["/usr/sbin/sysctl", "hw", "machdep.cpu"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""  # an unreadable machine is described as far as Python knows it


def _macos(arch: str, text: str) -> ThisMachine:
    """Understand lines such as ``hw.physicalcpu: 8``."""
    pairs = (line.partition(":") for line in text.splitlines())
    facts = {key.strip(): value.strip() for key, _, value in pairs}
    spelled = f"{facts.get('machdep.cpu.features', '')} {facts.get('machdep.cpu.leaf7_features', '')}".lower()
    x86 = [_APPLE_X86.get(flag, flag) for flag in spelled.split()]
    arm = [flag for name, flag in _APPLE_ARM.items() if facts.get(f"hw.optional.arm.{name}") == "1"]
    cores = _count(facts, "hw.physicalcpu") or os.cpu_count() or 1
    memory = _count(facts, "hw.memsize")
    sizes = {
        level: _count(facts, f"hw.perflevel0.{level}cachesize") or _count(facts, f"hw.{level}cachesize")
        for level in ("l1d", "l2", "l3")
    }
    return ThisMachine(
        arch=arch,
        isa=_isa([*x86, *arm, *(["asimd"] if arch == "arm64" else [])]),
        cores=cores,
        installed=cores,
        threads=_count(facts, "hw.logicalcpu") or cores,
        caches=Caches(**{level: Size(float(size)) for level, size in sizes.items() if size}),
        memory=Size(float(memory)) if memory else None,
    )


def _count(facts: Mapping[str, str], key: str) -> int:
    """Return a whole number, or 0 where there is none."""
    text = facts.get(key, "")
    return int(text) if text.isdecimal() else 0


def _elsewhere(arch: str) -> ThisMachine:
    """Ask ``psutil`` and numpy, which reads the processor itself; this is the way on Windows."""
    psutil: Any = _optional("psutil")
    threads = os.cpu_count() or 1
    cores = (psutil.cpu_count(logical=False) if psutil else None) or threads
    return ThisMachine(
        arch=arch,
        isa=_isa(_numpy_flags()),
        cores=cores,
        installed=cores,
        threads=threads,
        caches=Caches(),
        memory=Size(float(psutil.virtual_memory().total)) if psutil else None,
    )


def _optional(name: str) -> Any:
    """Import a library that need not be there; return ``None`` when it is not."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _numpy_flags() -> list[str]:
    """Return the extensions by which numpy chooses its own kernels; nothing where it does not tell them."""
    found: Mapping[str, bool] = getattr(_optional("numpy._core._multiarray_umath"), "__cpu_features__", {})
    return [_NUMPY.get(name, name.lower()) for name, here in found.items() if here]

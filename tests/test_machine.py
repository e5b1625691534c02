"""What is read of the machine that we run on: extensions, cores that may be used, caches, memory, on any system."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from pathlib import Path

import pytest

from targets import ThisMachine, linux, load_target, machine
from targets.auto import auto
from targets.catalog import catalog
from targets.quantity import Size
from targets.schema import Caches

CPUINFO = """\
processor\t: {number}
physical id\t: {package}
core id\t\t: {core}
flags\t\t: fpu sse4_1 sse4_2 smep {flags}
"""


def fake(
    root: Path,
    files: Mapping[str, str] | None = None,
    *,
    flags: str = "avx avx2 fma",
    cpus: int = 4,
    smt: int = 2,
) -> Path:
    """Write the ``/proc`` and ``/sys`` of a machine of ``cpus`` threads, ``smt`` a core, plus more files."""
    blocks = [CPUINFO.format(number=number, package=0, core=number // smt, flags=flags) for number in range(cpus)]
    everything = {
        "proc/cpuinfo": "\n".join(blocks),
        "proc/self/status": f"Name:\tx\nCpus_allowed_list:\t0-{cpus - 1}\n",
        "proc/meminfo": "MemTotal:       16384 kB\nMemFree: 1 kB\n",
        "proc/self/cgroup": "0::/\n",
    } | dict(files or {})
    for name, text in everything.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def on(root: Path, arch: str = "x86_64") -> ThisMachine:
    """Read a fake Linux machine."""
    return machine(system="Linux", arch=arch, root=root)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("avx avx2 fma avx512f avx512bw avx512dq avx512vl avx512_vnni", "cpu_avx512"),
        ("avx avx2 fma avx512f avx512bw avx512dq avx512vl", "cpu_avx512_novnni"),
        ("avx avx2 fma avx512f avx512dq avx512vl", "cpu_avx2"),
        ("avx avx2", "cpu_avx"),
        ("avx fma", "cpu_avx"),
        ("", "cpu"),
    ],
)
def test_auto_takes_the_best_target_whose_needs_are_met(tmp_path: Path, flags: str, name: str) -> None:
    """The target is chosen by all of the extensions that it needs."""
    this = on(fake(tmp_path, flags=flags))
    assert this.best_target() == name
    target = auto(this)
    assert target.name == name and target.detected and target.machine.isa == this.isa


def test_arm_is_plain_cpu(tmp_path: Path) -> None:
    """An ARM machine gets the plain CPU target with its own extensions, and exact integer products."""
    text = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm svei8mm sve2\nCPU part\t: 0xd40\n"
    this = on(fake(tmp_path, {"proc/cpuinfo": text, "proc/self/status": ""}), arch="aarch64")
    assert (this.arch, this.cores) == ("arm64", 1)
    assert this.isa == ("asimd", "asimddp", "i8mm", "sve2")
    target = auto(this)
    assert target.name == "cpu" and not target.reduce_range


def test_irrelevant_flags_are_dropped(tmp_path: Path) -> None:
    """Only extensions that kernels use are kept, sorted, and only if all processors have them."""
    root = fake(tmp_path, flags="fma avx")
    text = (root / "proc/cpuinfo").read_text().replace("fma avx", "avx", 1)
    (root / "proc/cpuinfo").write_text(text)
    assert on(root).isa == ("avx", "sse4_1", "sse4_2")


def test_hyperthreads_are_not_cores(tmp_path: Path) -> None:
    """Physical cores are counted by package and core, hardware threads by processor."""
    this = on(fake(tmp_path, cpus=8, smt=2))
    assert (this.cores, this.threads, this.installed, this.limited) == (4, 8, 4, False)


def test_affinity_limits_cores(tmp_path: Path) -> None:
    """A process bound to some processors has their cores, and ONNX Runtime gets as many threads."""
    root = fake(tmp_path, {"proc/self/status": "Cpus_allowed_list:\t1,4-5\n"}, cpus=8, smt=1)
    this = on(root)
    assert (this.cores, this.threads, this.installed, this.limited) == (3, 3, 8, True)
    target = auto(this)
    assert target.machine.cores == 3
    assert target.session_settings()["session_options"]["intra_op_num_threads"] == 3


CGROUPS = [
    ({"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
    ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    ({"sys/fs/cgroup/cpu.max": "garbage"}, 8),
    ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
    (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/cpu.max": "600000 100000",
            "sys/fs/cgroup/a/cpu.max": "200000 100000",
        },
        2,
    ),
    ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
    (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/1\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "50000\n",
        },
        2,
    ),
    (
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        8,
    ),
]


@pytest.mark.parametrize(("files", "cores"), CGROUPS)
def test_control_groups_limit_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    """The lowest quota of this process' control group and those above it bounds the cores, down to one."""
    this = on(fake(tmp_path, files, cpus=8, smt=1))
    assert this.cores == cores and this.limited == (cores < 8)


def test_memory_is_the_lowest_limit(tmp_path: Path) -> None:
    """Memory is the machine's, or the control group's limit where that is lower."""
    assert on(fake(tmp_path / "a")).memory == Size(2.0**24)
    limited = fake(tmp_path / "b", {"sys/fs/cgroup/memory.max": "1048576\n"})
    assert on(limited).memory == Size(2.0**20)
    unlimited = fake(
        tmp_path / "c",
        {
            "proc/self/cgroup": "4:memory:/x\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert on(unlimited).memory == Size(2.0**24)


def test_caches_are_read_for_an_allowed_processor(tmp_path: Path) -> None:
    """Data and unified caches are read by level, and those that are not known stay the target's."""
    files = {"proc/self/status": "Cpus_allowed_list:\t2\n"}
    for index, (level, kind, size) in enumerate([(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2M")]):
        folder = f"sys/devices/system/cpu/cpu2/cache/index{index}"
        files |= {
            f"{folder}/level": f"{level}\n",
            f"{folder}/type": f"{kind}\n",
            f"{folder}/size": f"{size}\n",
        }
    this = on(fake(tmp_path, files))
    assert this.caches == Caches(l1d=Size(49152.0), l2=Size(2.0**21))
    assert auto(this).machine.caches.l3 == load_target("cpu_avx2").machine.caches.l3


@pytest.mark.parametrize("text", ["", "garbage", "\x00\xff" * 50, "processor : x\n\nprocessor : 0\n", "a:b\n\n" * 9])
def test_odd_processor_files_give_plain_cpu(tmp_path: Path, text: str) -> None:
    """Whatever ``/proc/cpuinfo`` holds, a usable target comes out, with at least one core."""
    files = {"proc/cpuinfo": text, "proc/self/status": text, "proc/self/cgroup": text, "proc/meminfo": text}
    this = on(fake(tmp_path, files))
    assert this.best_target() == "cpu" and this.cores >= 1 and this.threads >= 1
    assert auto(this).detected


def test_empty_root_gives_plain_cpu(tmp_path: Path) -> None:
    """Without ``/proc`` and ``/sys`` a usable target comes out."""
    assert auto(on(tmp_path)).name == "cpu"


def test_macos_intel() -> None:
    """An Intel Mac's ``sysctl`` gives extensions under their usual names."""
    text = """\
machdep.cpu.features: FPU SSE4.1 SSE4.2 FMA AVX1.0
machdep.cpu.leaf7_features: RDWRFSGS AVX2 BMI2
hw.physicalcpu: 6
hw.logicalcpu: 12
hw.memsize: 17179869184
hw.l1dcachesize: 32768
hw.l3cachesize: 12582912
"""
    this = machine(system="Darwin", arch="x86_64", sysctl=text)
    assert this.isa == ("avx", "avx2", "fma", "sse4_1", "sse4_2")
    assert (this.cores, this.threads, this.best_target()) == (6, 12, "cpu_avx2")
    assert this.memory == Size(2.0**34) and this.caches == Caches(l1d=Size(32768.0), l3=Size(12582912.0))


def test_macos_apple_silicon() -> None:
    """An Apple silicon Mac is an ARM machine, whose larger cores' caches are taken."""
    text = """\
hw.physicalcpu: 8
hw.perflevel0.l1dcachesize: 131072
hw.l1dcachesize: 65536
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 0
"""
    this = machine(system="Darwin", arch="arm64", sysctl=text)
    assert (this.isa, this.cores, this.best_target()) == (("asimd", "asimddp"), 8, "cpu")
    assert this.caches.l1d == Size(131072.0)
    assert machine(system="Darwin", arch="arm64", sysctl="").cores >= 1


def test_other_systems_do_without_optional_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psutil, and where numpy does not tell, any other system has cores and gets the plain CPU target."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setitem(sys.modules, "numpy._core._multiarray_umath", None)
    this = machine(system="Windows", arch="AMD64")
    assert (this.arch, this.isa, this.memory) == ("x86_64", (), None)
    assert this.cores >= 1 and auto(this).name == "cpu"


@pytest.mark.parametrize(
    ("names", "target"),
    [
        ("AVX", "cpu_avx"),
        ("AVX FMA3 AVX2 F16C", "cpu_avx2"),
        ("AVX FMA3 AVX2 AVX512F AVX512BW AVX512CD AVX512DQ AVX512VL", "cpu_avx512_novnni"),
        ("AVX FMA3 AVX2 AVX512F AVX512BW AVX512CD AVX512DQ AVX512VL AVX512VNNI", "cpu_avx512"),
    ],
)
def test_other_systems_ask_numpy(monkeypatch: pytest.MonkeyPatch, names: str, target: str) -> None:
    """On Windows the extensions are those that numpy found, under the names that targets have for them."""
    fake_numpy = types.SimpleNamespace(__cpu_features__=dict.fromkeys(names.split(), True) | {"AVX512_SPR": False})
    monkeypatch.setitem(sys.modules, "numpy._core._multiarray_umath", fake_numpy)
    this = machine(system="Windows", arch="AMD64")
    assert this.best_target() == target
    assert set(this.isa) <= set(load_target(target).machine.isa)


def test_processor_lists() -> None:
    """Lists of processors are numbers and ranges; what is neither is left out."""
    assert linux.parse_list("0-2,5") == {0, 1, 2, 5}
    assert linux.parse_list("x,3-,4-y,-") == {3}


def test_this_machine_is_read() -> None:
    """The machine that runs the tests can be read and described as a target."""
    this = machine()
    assert 1 <= this.cores <= this.installed
    assert load_target("auto").machine.cores == this.cores
    assert load_target("auto").name in catalog()

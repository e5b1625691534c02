"""Environments in which compiled models meet the runtimes that they were compiled for, one for each device.

Each is a virtual environment of its own in the user's cache folder, made once for each list of packages: the device's
at exactly the versions named here, and what the compiler needs itself at the versions of the environment that runs
the tests.  So the compiler can be run in there as well.  An environment is put in its place in one step when it is
complete, so that tests may run side by side and be interrupted.  What cannot be had is ``Absent``, with the reason.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from targets.disk_cache import default_folder

ROOT = Path(__file__).resolve().parent.parent
INSTALL_SECONDS = 120
"""How long one environment may take; from pip's cache it is a quarter of a minute."""
DOWNLOAD_SECONDS = 60
"""How long each step of fetching SwiftShader may take."""
RUN_SECONDS = 300
SWIFTSHADER = "vk_swiftshader_icd.json"
"""The file that tells a Vulkan loader of SwiftShader, the rasterizer of Chromium that runs on any processor."""
CHROMIUM = ("/usr/lib/chromium", "/usr/lib/chromium-browser", "/usr/lib64/chromium-browser", "/opt/google/chrome")
"""Where distributions put what belongs to Chromium."""


class Absent(Exception):
    """A device, or what is needed to reach it, is not here; the text says what and why."""


@dataclass(frozen=True)
class Device:
    """A kind of machine that the runtime may find here."""

    name: str
    """A short name."""
    provider: str
    """Its execution provider."""
    packages: tuple[str, ...]
    """What to install, at exact versions."""
    require: Callable[[], None]
    """Raises ``Absent`` when the machine cannot be one."""
    variables: Callable[[Path], dict[str, str]] = lambda place: {}
    """Environment variables for programs in the environment that lies in a folder."""


@dataclass(frozen=True)
class Environment:
    """An installed environment."""

    device: Device
    """What it is for."""
    place: Path
    """Its folder."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python with arguments from the root of the repository; the exit status is the caller's to judge."""
        own = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **self.device.variables(self.place)}
        command = [str(python_of(self.place)), *arguments]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | own,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=RUN_SECONDS,
            check=False,
        )

    def open(self, bundle: Path, feeds: Path | None = None, outputs: Path | None = None) -> dict[str, Any]:
        """Open a bundle with its settings, run it if there are feeds, and return what ``devices_program`` answers."""
        run = [str(feeds), str(outputs)] if feeds is not None else []
        done = self.run("-m", "tests.devices_program", str(bundle), *run)
        assert done.returncode == 0, f"status {done.returncode}\n{done.stderr[-3000:]}"
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


def python_of(place: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def environment(device: Device) -> Environment:
    """Return a device's environment, installing it when it is not there yet; raises ``Absent``."""
    found = _environment_or_why(device)
    if isinstance(found, str):
        raise Absent(found)
    return found


@cache
def _environment_or_why(device: Device) -> Environment | str:
    """Return a device's environment, or why there is none; what failed once is not tried for each test again."""
    try:
        return _made(device)
    except Absent as error:
        return str(error)


def _made(device: Device) -> Environment:
    device.require()
    wanted = [*device.packages, *own_requirements()]
    digest = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:12]
    place = default_folder() / "devices" / f"{device.name}-{digest}"
    if not place.is_dir():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{device.name}-", dir=place.parent) as folder:
                _install(Path(folder, "new"), wanted)
                _put(Path(folder, "new"), place)
        except OSError as error:
            raise Absent(f"the environment for {device.name} cannot be made ({error})") from error
    device.variables(place)
    return Environment(device, place)


def own_requirements() -> list[str]:
    """Return what the compiler needs beside a runtime, at the versions that are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = [re.split(r"[^\w.-]", line)[0] for line in project["dependencies"]]
    return [f"{name}=={metadata.version(name)}" for name in names if name != "onnxruntime"]


def _install(place: Path, wanted: list[str]) -> None:
    venv.create(place, with_pip=False)
    command = [sys.executable, "-m", "pip", "--python", str(python_of(place)), "install", "--quiet", "--no-compile"]
    try:
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--retries=1", *wanted],
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Absent(f"installing {wanted[0]} took more than {INSTALL_SECONDS} s") from None
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["pip printed nothing"]
        if any("connection broken" in line for line in said):  # pip's last line is that it found no such version
            raise Absent(f"{wanted[0]} cannot be installed: the package index cannot be reached")
        raise Absent(f"{wanted[0]} cannot be installed: {said[-1]}")


def _put(made: Path, place: Path) -> None:
    """Give what was made its name, unless another process was faster."""
    try:
        made.rename(place)
    except OSError:
        if not place.is_dir():
            raise


# What the machine must be


def x86_linux() -> None:
    """Require the kind of machine that there are builds of these packages for."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Absent(f"there is no build for {sys.platform} on {platform.machine()}")


def recent_glibc() -> None:
    """Require what the libraries of QNN are linked against."""
    x86_linux()
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split("."))) < (2, 35):
        raise Absent(f"QNN needs glibc 2.35, and here is {name or 'no glibc'} {version}")


def nvidia_gpu() -> None:
    """Require a GPU of NVIDIA's with its driver."""
    x86_linux()
    if not Path("/dev/nvidia0").exists():
        raise Absent("there is no NVIDIA GPU: no /dev/nvidia0")
    if ctypes.util.find_library("cuda") is None and shutil.which("nvidia-smi") is None:
        raise Absent("there is an NVIDIA GPU, but no driver: neither libcuda nor nvidia-smi")


def nvidia_libraries(place: Path) -> dict[str, str]:
    """Let the loader find CUDA, cuDNN and TensorRT, which lie in packages of their own."""
    (packages,) = place.glob("lib/python*/site-packages")
    folders = [*sorted(packages.glob("nvidia/*/lib")), *sorted(packages.glob("tensorrt*libs"))]
    return {"LD_LIBRARY_PATH": os.pathsep.join([*map(str, folders), *_inherited()])}


def _inherited() -> list[str]:
    return [entry for entry in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]


# SwiftShader


def swiftshader(_: Path) -> dict[str, str]:
    """Let the Vulkan loader find SwiftShader alone; raises ``Absent`` when it is nowhere."""
    folder = _swiftshader()
    return {
        "VK_ICD_FILENAMES": str(folder / SWIFTSHADER),
        "VK_DRIVER_FILES": str(folder / SWIFTSHADER),
        "LD_LIBRARY_PATH": os.pathsep.join([str(folder), *_inherited()]),  # Chromium brings a loader too
    }


@cache
def _swiftshader() -> Path:
    """Return a folder with SwiftShader: Chromium's, or one unpacked from its Debian package, without installing it."""
    kept = default_folder() / "devices" / "swiftshader"
    for folder in (*map(Path, CHROMIUM), kept):
        if (folder / SWIFTSHADER).is_file():
            return folder
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Absent(f"there is no SwiftShader: no {SWIFTSHADER} in {', '.join(CHROMIUM)}, and no apt-get to get one")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".swiftshader-", dir=kept.parent) as name:
        _put(_unpacked(Path(name)), kept)
    return kept


def _unpacked(folder: Path) -> Path:
    """Download Chromium's package into a folder, and return one with SwiftShader and the Vulkan loader alone."""
    lists, package = folder / "lists", "chromium-common"
    (lists / "partial").mkdir(parents=True)
    options = {"Dir::State::lists": lists, "Dir::Cache": folder, "APT::Sandbox::User": "", "Acquire::Retries": 0}
    private = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    try:
        _call(["apt-get", *private, "update"], folder)
        _call(["apt-get", *private, "download", package], folder)
        (archive,) = folder.glob(f"{package}_*.deb")
        _call(["dpkg-deb", "-x", str(archive), "all"], folder)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        why = said.strip().splitlines()[-1]
        raise Absent(f"there is no SwiftShader, and {package} cannot be had: {why}") from error
    found = next((folder / "all").rglob(SWIFTSHADER), None)
    if found is None:
        raise Absent(f"there is no SwiftShader in {package}")
    kept = folder / "kept"
    kept.mkdir()
    for name in (SWIFTSHADER, "libvk_swiftshader.so", "libvulkan.so.1"):
        shutil.copy2(found.with_name(name), kept / name)
    return kept


def _call(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=True)


# The devices

QNN = Device("qnn", "QNNExecutionProvider", ("onnxruntime-qnn==2.7.0", "onnxruntime==1.32.0"), recent_glibc)
"""Compiles for the tensor processor ahead of time, on any machine; runs nothing."""
OPENVINO = Device("openvino", "OpenVINOExecutionProvider", ("onnxruntime-openvino==1.24.1",), x86_linux)
"""OpenVINO on the processor."""
WEBGPU = Device("webgpu", "WebGpuExecutionProvider", ("onnxruntime-webgpu==1.27.0",), x86_linux, swiftshader)
"""WebGPU on a processor that stands in for a GPU: numbers, and no speed."""
CUDA = Device("cuda", "CUDAExecutionProvider", ("onnxruntime-gpu[cuda,cudnn]==1.31.1",), nvidia_gpu, nvidia_libraries)
"""NVIDIA GPUs."""
TENSORRT = Device(
    "tensorrt",
    "TensorrtExecutionProvider",
    ("onnxruntime-gpu[cuda,cudnn]==1.31.1", "tensorrt-cu13==10.16.1.11"),
    nvidia_gpu,
    nvidia_libraries,
)
"""NVIDIA GPUs with TensorRT, of the major version that this runtime is linked against."""

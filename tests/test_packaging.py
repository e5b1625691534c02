"""The wheel holds what is needed to compile, and nothing else."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source_code import PACKAGES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of the working tree, built without a network."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed here, and building must not fetch it")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def shipped_files() -> Iterator[str]:
    """Yield the files that a wheel must hold: modules, data, the marks of typed packages."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".pyc", ".onnx"}:
                yield str(path.relative_to(ROOT))


def test_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    """Code, target descriptions and data of all four packages are in the wheel."""
    missing = set(shipped_files()) - set(wheel.namelist())
    assert not missing


def test_wheel_holds_targets_and_type_marks(wheel: zipfile.ZipFile) -> None:
    """Targets are data, and every package is typed."""
    names = wheel.namelist()
    assert "targets/cpu.toml" in names
    assert [f"{package}/py.typed" for package in PACKAGES if f"{package}/py.typed" not in names] == []


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No top-level package of ours reaches a user's environment but the four: no ``tests`` above all."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    (metadata,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {*PACKAGES, metadata}


def test_wheel_has_its_license(wheel: zipfile.ZipFile) -> None:
    """The license travels with the code."""
    (path,) = (name for name in wheel.namelist() if name.endswith("/LICENSE"))
    assert b"Apache License" in wheel.read(path)


def test_entry_points_exist() -> None:
    """Every command that the metadata promises can be imported."""
    points = [*PROJECT["scripts"].values()]
    points += [point for group in PROJECT["entry-points"].values() for point in group.values()]
    for point in points:
        module, _, name = point.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), point


def test_requirements_have_no_upper_bounds() -> None:
    """A library's next version is not refused before anything is known to break."""
    for requirement in PROJECT["dependencies"]:
        assert ">=" in requirement and "<" not in requirement and "==" not in requirement, requirement


def test_no_registry_is_named() -> None:
    """Where packages come from is the user's configuration, and no file of ours says it."""
    for path in (ROOT / "pyproject.toml", ROOT / ".ci" / "run"):
        words = Path(path).read_text("utf-8").split()
        assert not [word for word in words if "://" in word or word in {"--index-url", "--extra-index-url"}]

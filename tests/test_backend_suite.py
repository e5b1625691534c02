"""The official ONNX backend suite: what the compiler makes of a model computes what the standard says.

A row counts when plain ONNX Runtime itself passes it.  All rows run uncompiled once while tests are collected, so that
none is collected that could only be skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from compiler.verify.worker import Worker
from tests.onnx_backend import VARIANTS, Survey, Variant, suite, survey

EVERY: dict[Variant, int] = {"plain": 1, "rest": 3, "all": 3}
"""Of each variant, the sample runs every n-th case: what fits into about four minutes on two cores."""

LEAST = 0.85
"""The share of rows that ONNX Runtime passes by itself, at least."""

SUITE = suite()


@lru_cache(maxsize=1)
def rows(full: bool) -> Survey:
    """Return what there is to be passed, of all cases in all variants or of the sample."""
    every = [(case, variant) for variant in VARIANTS for case in list(SUITE)[:: 1 if full else EVERY[variant]]]
    return survey(SUITE, every)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each row that ONNX Runtime passes."""
    if "case" not in metafunc.fixturenames:
        return
    found = rows(metafunc.config.getoption("--backend-suite") == "full")
    named = [pytest.param(case, variant, id=f"{case}-{variant}") for case, variant in found.passed]
    metafunc.parametrize(("case", "variant"), named)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Worker]:
    """A child process that runs models."""
    with Worker() as worker:
        yield worker


def test_case_of_the_standard(
    case: str, variant: Variant, runtime: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiled model passes every case of the standard that ONNX Runtime passes by itself."""
    monkeypatch.setenv("ONNX_MODELS", str(tmp_path))  # where the suite lays out its larger networks' data
    SUITE[case](None, runtime=runtime, variant=variant, compiled=True)


def test_little_is_left_out(request: pytest.FixtureRequest) -> None:
    """ONNX Runtime passes most rows by itself; those that it does not, with its words, are printed (``-rP``)."""
    found = rows(request.config.getoption("--backend-suite") == "full")
    for (case, variant), why in found.refused.items():
        print(f"{case}-{variant}: {why}")
    assert len(found.passed) >= LEAST * (len(found.passed) + len(found.refused))

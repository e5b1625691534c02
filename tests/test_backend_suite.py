"""The official ONNX backend suite: what the compiler makes of a model computes what the standard says.

A case counts when plain ONNX Runtime itself passes it: on a failure the same case runs once more uncompiled,
and is skipped, with the runtime's own words, when it fails then too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.isolation import Child
from tests.onnx_backend import VARIANTS, Variant, suite

SUITE = suite()
EVERY: dict[Variant, int] = {"plain": 1, "rest": 3, "all": 3}
"""Of each variant, the sample runs every n-th case: what fits into about four minutes on two cores."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each case and variant, or of a sample of them."""
    if "case" not in metafunc.fixturenames:
        return
    full = metafunc.config.getoption("--backend-suite") == "full"
    rows = [
        pytest.param(case, variant, id=f"{case}-{variant}")
        for variant in VARIANTS
        for case in list(SUITE)[:: 1 if full else EVERY[variant]]
    ]
    metafunc.parametrize(("case", "variant"), rows)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Child]:
    """A child process that runs models."""
    child = Child(resident_limit=8 << 30)
    yield child
    child.close()


def test_case_of_the_standard(
    case: str, variant: Variant, runtime: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiled model passes every case of the standard that ONNX Runtime passes by itself."""
    monkeypatch.setenv("ONNX_MODELS", str(tmp_path))  # where the suite lays out its larger networks' data
    try:
        SUITE[case](None, runtime=runtime, variant=variant, compiled=True)
    except Exception:  # whatever it is, it only counts if the runtime alone does not fail in the same place
        skip_if_the_runtime_fails(case, variant, runtime)
        raise


def skip_if_the_runtime_fails(case: str, variant: Variant, runtime: Child) -> None:
    """Skip the test when the uncompiled model fails as well."""
    try:
        SUITE[case](None, runtime=runtime, variant=variant, compiled=False)
    except Exception as error:
        pytest.skip(f"plain ONNX Runtime fails here: {str(error).strip().splitlines()[-1]}")

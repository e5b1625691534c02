"""Hold the laws of calibrating that need no measuring: what cannot be kept is not measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.calibrating import calibrate
from compiler.errors import InputError


@pytest.mark.parametrize("place", ["file/calibration.json", "folder"])
def test_a_place_that_cannot_be_written_is_refused_first(tmp_path: Path, place: str) -> None:
    """Before anything is measured it is said that the file cannot be, and nothing is left there."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    told: list[str] = []
    with pytest.raises(InputError, match="calibration cannot be written") as caught:
        calibrate(threads=1, output=tmp_path / place, only="Abs", tell=told.append)
    assert str(tmp_path / place) in caught.value.where
    assert not told and not list((tmp_path / "folder").iterdir())

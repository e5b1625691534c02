"""Hold the laws of calibrating that need no measuring: what cannot be kept is not measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.calibrating import calibrate, calibrate_machine
from compiler.errors import InputError
from targets.machine import machine


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


def test_more_threads_than_processors_are_refused() -> None:
    """Threads that would wait for each other measure the machine's scheduler, so nothing is measured with them."""
    told: list[str] = []
    with pytest.raises(InputError, match="more than this machine's") as caught:
        calibrate_machine(threads=machine().threads + 1, tell=told.append)
    assert caught.value.exit_code == 2 and not told

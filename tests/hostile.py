"""Every hostile and corner case, from all the modules that declare them.

``python -m tests.hostile NAME FOLDER`` lays one of them out, to be looked at or compiled by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests import (
    hostile_bombs,
    hostile_external,
    hostile_files,
    hostile_names,
    hostile_operators,
    hostile_semantics,
    hostile_structure,
    hostile_tensors,
    hostile_types,
)
from tests.hostile_case import CASES, Case

MODULES = (
    hostile_files,
    hostile_external,
    hostile_structure,
    hostile_tensors,
    hostile_names,
    hostile_types,
    hostile_semantics,
    hostile_operators,
    hostile_bombs,
)
"""The declaring modules; importing them fills ``CASES``."""

__all__ = ["CASES", "MODULES", "Case"]


def main(name: str, folder: str) -> None:
    """Lay out one case in a folder, which is made if it is not there."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    CASES[name].lay_out(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])

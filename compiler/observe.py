"""What happens between passes besides the passes: writing the IR, telling progress.

Observers see the model before a pass and after a change that was kept; they never change it.  Validation of what a
pass did is an observer as well (``verify.regions``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from compiler.errors import InputError
from compiler.ir.edit import Journal
from compiler.ir.graph import Model
from compiler.ir.printer import print_model
from compiler.manager import PassRecord


@dataclass(slots=True)
class Dumper:
    """Writes one numbered file for each pass that changed something: ``003-fold.ir``; the input is ``000-input.ir``.

    Raises ``InputError`` when the folder cannot be written.
    """

    folder: Path
    """Where the files go; made when it is not there."""
    written: list[Path] = field(default_factory=list)
    """The files of this run of the pipeline."""

    def start(self, model: Model) -> None:
        """Write the model as it was loaded; what an earlier run of the pipeline wrote goes."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = str(error)
            raise InputError(
                "the folder for IR dumps cannot be made", where=str(self.folder), why=why, hint="choose another folder"
            ) from error
        for path in self.written:
            path.unlink(missing_ok=True)
        self.written.clear()
        self._write(model, "input")

    def before(self, model: Model, name: str) -> None:
        """Do nothing."""

    def after(self, model: Model, record: PassRecord, journal: Journal) -> None:
        """Write the model as the pass left it."""
        self._write(model, record.name)

    def _write(self, model: Model, name: str) -> None:
        path = self.folder / f"{len(self.written):03d}-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.ir"
        try:
            path.write_text(print_model(model, loc=True), encoding="utf-8")
        except OSError as error:
            raise InputError("an IR dump cannot be written", where=str(path), why=str(error)) from error
        self.written.append(path)


@dataclass(slots=True)
class Snapshots:
    """Keeps the text of the model around the runs of one pass, for ``ampc dump --before/--after/--around``."""

    wanted: str
    text: Callable[[Model], str]
    before_text: str = ""
    after_text: str = ""
    seen: bool = False

    def before(self, model: Model, name: str) -> None:
        """Keep the text before the first run of the pass."""
        if name == self.wanted and not self.seen:
            self.before_text = self.after_text = self.text(model)
            self.seen = True

    def after(self, model: Model, record: PassRecord, journal: Journal) -> None:
        """Keep the text after the latest run of the pass that changed something."""
        if record.name == self.wanted:
            self.after_text = self.text(model)


@dataclass(slots=True)
class Progress:
    """Tells a listener which pass is running."""

    tell: Callable[[str], None]

    def before(self, model: Model, name: str) -> None:
        """Name the pass that starts."""
        self.tell(name)

    def after(self, model: Model, record: PassRecord, journal: Journal) -> None:
        """Do nothing."""

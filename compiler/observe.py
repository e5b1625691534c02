"""What happens between passes besides the passes: writing the IR, telling progress.

Observers see the model before a pass and after a change that was kept; they never change it.  Validation of what a
pass did is an observer as well (``verify.regions``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import InputError
from compiler.ir.edit import Journal
from compiler.ir.graph import Model
from compiler.ir.printer import print_model
from compiler.manager import PassRecord

if TYPE_CHECKING:
    from compiler.rewrite.engine import Rewrite


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
class RewriteLog:
    """Writes every rewrite of a rule as a block of text: what it was, and what it became.

    It is an observer, so that it can say which of them were undone with the pass that did them.
    """

    tell: Callable[[str], None]
    """Takes each block; its last line is empty."""
    count: int = 0
    """Rewrites so far, in this run of the pipeline."""
    _pass_name: str = ""
    _pending: int = 0

    @classmethod
    def to(cls, place: str | os.PathLike[str] | Callable[[str], None]) -> RewriteLog:
        """Return a log that writes to a file, or hands each block to a function.

        Raises ``InputError`` when the file cannot be written, or is something else than such a log.
        """
        return cls(place if callable(place) else _file_log(Path(place)))

    def start(self, banned: Mapping[str, str]) -> None:
        """Begin a run of the pipeline; say what is left out of it since an earlier run showed that it is wrong."""
        again = self.count or self._pending or banned
        self.count = self._pending = 0
        if again:
            self.tell(f"// all over again, without {', '.join(banned)}\n\n")

    def write(self, event: Rewrite) -> None:
        """Write one rewrite."""
        self.count += 1
        self._pending += 1
        where = f" at {', '.join(event.locs)}" if event.locs else ""
        head = f"// {self.count}. {event.rule}, stage {event.stage}{where}\n"
        self.tell(f"{head}{event.before.strip()}\n// becomes\n{event.after.strip()}\n\n")

    def before(self, model: Model, name: str) -> None:
        """Say that the rewrites of the pass before were undone, when it has left none."""
        self.close()
        self._pass_name = name

    def after(self, model: Model, record: PassRecord, journal: Journal) -> None:
        """Take note that the rewrites were kept."""
        self._pending = 0

    def close(self) -> None:
        """Say that the latest rewrites were undone, when the pass has left none."""
        if self._pending:
            self.tell(f"// the pass {self._pass_name} failed; its last {self._pending} rewrites were undone\n\n")
        self._pending = 0


_LOG_TITLE = "// rewrites by ampc\n"
"""The first line of a log of rewrites, by which it is known that the file may be written anew."""


def _file_log(path: Path) -> Callable[[str], None]:
    """Return a function that appends to a file; what an earlier log wrote there goes."""
    try:
        if path.is_file() and path.stat().st_size and not _is_log(path):
            raise InputError(
                "the log of rewrites would overwrite another file", where=str(path), hint="choose another name"
            )
        path.write_text(_LOG_TITLE + "\n", encoding="utf-8")
    except OSError as error:
        raise _unwritable_log(path, error) from error

    def append(text: str) -> None:
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise _unwritable_log(path, error) from error

    return append


def _is_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LOG_TITLE)) == _LOG_TITLE.encode()


def _unwritable_log(path: Path, error: OSError) -> InputError:
    return InputError("the log of rewrites cannot be written", where=str(path), why=error.strerror or str(error))


@dataclass(slots=True)
class Progress:
    """Tells a listener which pass is running."""

    tell: Callable[[str], None]

    def before(self, model: Model, name: str) -> None:
        """Name the pass that starts."""
        self.tell(name)

    def after(self, model: Model, record: PassRecord, journal: Journal) -> None:
        """Do nothing."""

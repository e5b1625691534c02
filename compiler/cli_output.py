"""What the command line writes: texts, tables, JSON documents, and the bar of what goes on.

A stream that takes no text is an error like any other, and one that nobody reads any more ends the command quietly.
Rich is imported only to show tables or a bar.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from click.exceptions import Exit

from compiler.errors import InputError


def write(text: str, *, on: Any = None) -> None:
    """Write text; when nobody reads it any more, exit quietly.  Raises ``InputError`` when it cannot be written."""
    stream = sys.stdout if on is None else on
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise Exit(141) from None
    except OSError as error:
        raise unwritable(error, stream) from error


def write_error(text: str) -> None:
    """Write text to standard error."""
    write(text, on=sys.stderr)


class Unwritable(InputError):
    """A stream takes no text."""


def unwritable(error: OSError, stream: Any) -> Unwritable:
    """Return what to say of a stream that takes no text; what is still in its buffer goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return Unwritable(
        "the answer cannot be shown",
        where="standard error" if stream is sys.stderr else "standard output",
        why=error.strerror or str(error),
        hint="send it to a place that takes it",
    )


def show(*parts: Any, on: Any = None) -> None:
    """Print renderables: in colour on a terminal, plain text otherwise."""
    from rich.console import Console

    stream = sys.stdout if on is None else on
    console = Console(file=stream, highlight=False, emoji=False, markup=False)
    if console.is_terminal:
        console.width = min(console.width, 100)
    with console.capture() as captured:
        for part in parts:
            console.print(part, soft_wrap=stream is sys.stderr)
    text = captured.get()
    write("".join(f"{line.rstrip()}\n" for line in text.splitlines()) if not console.is_terminal else text, on=stream)


def write_json(record: Any) -> None:
    """Write one JSON document."""
    write(json.dumps(record, indent=1, default=str) + "\n")


def warn(text: str) -> None:
    """Write a line for people, if somebody can read it."""
    with contextlib.suppress(Exit, Unwritable):
        write(f"{text}\n", on=sys.stderr)


@contextlib.contextmanager
def progress(doing: str, *, hidden: bool) -> Iterator[Callable[[str], None]]:
    """Show a bar on a terminal, with what goes on and for how long; yields a function that takes each step's name."""
    if hidden or not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda step: bar.update(task, description=f"{doing}: {step}")

"""Find targets: the TOML files shipped in this package, those of plugins, and files of the user's own.

A plugin declares an entry point in the group ``ampc.targets`` whose name is the target's name. It loads to
the path of a TOML file, or to a module (or package) beside (or in) which ``<name>.toml`` lies. Entry points
are only loaded when their target is asked for or listed, so a plugin that is broken does no harm to those who
do not use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from importlib.resources.abc import Traversable
from pathlib import Path
from types import ModuleType
from typing import Any

from targets.errors import TargetError, nearest

GROUP = "ampc.targets"
"""The entry point group that plugins use."""
AUTO = "auto"
"""The name that stands for this machine; no file may take it."""


@dataclass(frozen=True)
class Entry:
    """Name a target and tell how to reach its description."""

    name: str
    """The name it goes by; for a file of the user's own, its path as given."""
    locate: Callable[[], Traversable]
    """Returns the TOML file, loading a plugin if need be; raises ``TargetError`` when that fails."""
    by_path: bool = False
    """Whether it was given as a path; otherwise the name inside the file must be ``name``."""


def catalog() -> dict[str, Entry]:
    """Return every target that has a name: the shipped ones, then the plugins', each in alphabetical order.

    Raises ``TargetError`` when a plugin takes a name that is already taken.
    """
    found = {entry.name: entry for entry in _shipped()}
    owner = dict.fromkeys(found, "ampc itself") | {AUTO: "ampc itself"}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        if point.name in owner:
            why = f"the target {point.name!r} of {_describe(point)} is also provided by {owner[point.name]}"
            raise TargetError(why, hint="uninstall one of them, or ask its author for another name")
        owner[point.name] = _describe(point)
        found[point.name] = Entry(point.name, partial(_plugin_file, point))
    return found


def find(name_or_path: str, *, relative_to: Traversable | None = None) -> Entry:
    """Return the target of that name, or at that path (ends in ``.toml`` or has a directory in it).

    ``relative_to`` is the file that a relative path starts beside; by default it starts in the current
    directory.
    """
    if is_path(name_or_path):
        folder = relative_to.parent if isinstance(relative_to, Path) else Path()
        path = folder / Path(name_or_path).expanduser()
        return Entry(name_or_path, partial(_as_is, path), by_path=True)
    known = catalog()
    if name_or_path in known:
        return known[name_or_path]
    raise TargetError(
        f"there is no target {name_or_path!r}",
        file=relative_to or "",
        key="extends" if relative_to else "",
        nearest=nearest(name_or_path, [AUTO, *known]),
        hint=f"targets are {', '.join([AUTO, *known])}, or the path of a .toml file",
    )


def is_path(name_or_path: str) -> bool:
    """Whether a target is meant by path rather than by name."""
    separators = [mark for mark in (os.sep, os.altsep) if mark]
    return name_or_path.endswith(".toml") or any(mark in name_or_path for mark in separators)


def _shipped() -> list[Entry]:
    """List the TOML files of this package."""
    files = sorted(resources.files(__package__).iterdir(), key=lambda file: file.name)
    return [
        Entry(file.name.removesuffix(".toml"), partial(_as_is, file))
        for file in files
        if file.name.endswith(".toml")
    ]


def _as_is(file: Traversable) -> Traversable:
    """Return a file that needs no locating."""
    return file


def _describe(point: EntryPoint) -> str:
    """Name a plugin by its distribution where that is known."""
    return f"plugin {point.dist.name if point.dist else point.value!r}"


def _plugin_file(point: EntryPoint) -> Traversable:
    """Load an entry point and return its TOML file; whatever the plugin raises becomes a ``TargetError``."""
    try:
        loaded: Any = point.load()
    except Exception as error:  # a plugin's code may raise anything
        why = f"cannot be loaded ({type(error).__name__}: {error})"
        raise TargetError(why, file=_describe(point), key=point.name) from error
    if isinstance(loaded, ModuleType):
        return _beside(loaded, f"{point.name}.toml")
    if isinstance(loaded, (str, os.PathLike)):
        return Path(loaded)
    why = f"should load to a path or a module, not {type(loaded).__name__}"
    raise TargetError(why, file=_describe(point), key=point.name)


def _beside(module: ModuleType, name: str) -> Traversable:
    """Return the file called ``name`` in a package, or beside a plain module."""
    if hasattr(module, "__path__"):
        return resources.files(module) / name
    return Path(module.__file__ or "").parent / name

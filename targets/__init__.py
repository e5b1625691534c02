"""Describe the machines that models are compiled for.

A target is a TOML file: what the machine is, which number formats pay there, how ONNX Runtime is set up, and
which passes run. ``schema.py`` defines and documents every key; a file of the user's own works like the
shipped ones and can extend them. ``kernels.py`` tells which operators an execution provider runs and
``limits.py`` which models the installed ONNX Runtime loads; both are imported by those who need them. The
package imports nothing of the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass

from targets.auto import auto
from targets.catalog import AUTO, Entry, catalog
from targets.errors import TargetError
from targets.load import load
from targets.machine import ThisMachine, machine
from targets.schema import Target

__all__ = ["Target", "TargetError", "TargetSummary", "ThisMachine", "list_targets", "load_target", "machine"]


@dataclass(frozen=True)
class TargetSummary:
    """Tell the essentials of a target that can be asked for by name."""

    name: str
    """What ``--target`` takes."""
    summary: str
    """Its own one line about itself."""
    source: str
    """The file it is in; empty for ``auto``."""
    problem: str = ""
    """Why it cannot be used; empty when it can."""


def load_target(name_or_path: str) -> Target:
    """Load a target by name, or from the path of a TOML file; ``auto`` is this machine.

    Raises ``TargetError`` when there is no such target or its description is wrong.
    """
    return auto() if name_or_path == AUTO else load(name_or_path)


def list_targets() -> list[TargetSummary]:
    """List ``auto``, the shipped targets and those of plugins; one that cannot be loaded says why."""
    chosen = machine().best_target()
    here = TargetSummary(AUTO, f"this machine, as far as it can be read: {chosen}", "")
    return [here, *(_summary(entry) for entry in catalog().values())]


def _summary(entry: Entry) -> TargetSummary:
    """Load a target to summarize it."""
    try:
        target = load(entry.name)
    except TargetError as error:
        return TargetSummary(entry.name, "", error.file, str(error))
    return TargetSummary(target.name, target.summary, target.source)

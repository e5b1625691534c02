"""Commands that installed packages add: entry point group ``ampc.commands``, name → ``function(argv) -> exit code``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compiler.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "ampc.commands"
"""The entry point group of further commands."""

_OWN = {
    "tools.bench:command": "Time models, bundles and settings side by side.",
    "tools.demo:command": "Compile, check and time two networks that come with ampc.",
}
"""What the commands that come with ampc do, said without importing them."""


class PluginCommand(click.Command):
    """A command that an installed package adds; it gets its arguments as they are."""

    def __init__(self, entry: EntryPoint) -> None:
        settings = {"allow_extra_args": True, "ignore_unknown_options": True}
        summary = _OWN.get(entry.value, f"From {_distribution(entry)}.")
        super().__init__(entry.name, context_settings=settings, add_help_option=False, help=summary)
        self.entry = entry

    def invoke(self, ctx: click.Context) -> None:
        """Load the function and call it; its return value is the exit code."""
        try:
            function = self.entry.load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"the command {self.entry.name!r} cannot be loaded",
                where=f"{self.entry.value}, from {_distribution(self.entry)}",
                why=str(error),
                hint="reinstall the package, or uninstall it",
            ) from error
        raise click.exceptions.Exit(function([*ctx.args]) or 0)


def plugins() -> dict[str, EntryPoint]:
    """Return the entry points of the group by name, sorted."""
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    return {e.name: e for e in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value))}


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value

"""Completion in the user's shell: the script that a shell needs, and the place where that shell looks for it.

Click writes the scripts; a script asks ``ampc`` itself at each press of the key.  The script as a whole is put into
the shell's own file, since the short ``eval "$(ampc ...)"`` would run ``ampc`` whenever a shell is opened.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from compiler.errors import InputError

SHELLS = ("bash", "zsh", "fish")
"""The shells that there is a script for."""

_PREFACE = {"zsh": "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"}
"""What must stand before a script that is not loaded by the shell's own completion."""


def shell_or_own(name: str) -> str:
    """Return the shell that was named, or for no name the user's own; raises ``InputError`` for one without script."""
    found = name or Path(os.environ.get("SHELL", "")).name
    if found in SHELLS:
        return found
    raise InputError(
        f"there is no completion for the shell {found!r}" if found else "the shell is not known: $SHELL is not set",
        hint=f"name one after the option: {', '.join(SHELLS)}",
    )


def script(shell: str, command: click.Command) -> str:
    """Return the script that makes a shell complete the command ``ampc``."""
    kind = get_completion_class(shell)
    if kind is None:
        raise InputError(f"there is no completion for the shell {shell!r}", hint=f"use one of {', '.join(SHELLS)}")
    return kind(command, {}, "ampc", "_AMPC_COMPLETE").source()


def install(shell: str, text: str) -> str:
    """Append a script to the file that a shell reads, once; return what was done.  Raises ``InputError``."""
    place = _place(shell)
    try:
        if place.exists() and text.encode() in place.read_bytes():
            return f"{shell} completes ampc already: {place}"
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("ab") as file:
            file.write(f"\n# Completion of the command ampc.\n{_PREFACE.get(shell, '')}{text}".encode())
    except OSError as error:
        raise InputError(
            "the completion cannot be installed",
            where=str(place),
            why=error.strerror or str(error),
            hint=f"put what `ampc --show-completion {shell}` prints where {shell} reads it",
        ) from error
    return f"the completion of ampc was added to {place}; open a new {shell} to use it"


def _place(shell: str) -> Path:
    """Return the file that a shell reads when it starts, or, for fish, when it completes ``ampc``."""
    if shell == "fish":
        settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        return settings / "fish" / "completions" / "ampc.fish"
    if shell == "zsh":
        return Path(os.environ.get("ZDOTDIR") or Path.home()) / ".zshrc"
    return Path.home() / ".bashrc"

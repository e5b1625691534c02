"""Errors on the command line: any exception becomes one of ours, and is shown in words or as a JSON object."""

from __future__ import annotations

import sys

import click
from click.exceptions import Exit, NoArgsIsHelpError

from compiler import cli_output
from compiler.errors import AmpcError, InputError


def fail(error: Exception, *, as_json: bool) -> int:
    """Show an error and return its exit code."""
    ours = _as_ours(error)
    if ours is None:
        return int(getattr(error, "exit_code", 2))
    try:
        if as_json and not isinstance(ours, cli_output.Unwritable):
            cli_output.write_json(ours.to_json())
        else:
            from compiler import render

            cli_output.show(render.error(ours), on=sys.stderr)
    except Exit as closed:
        return closed.exit_code
    except cli_output.Unwritable as unwritable:
        cli_output.warn(str(unwritable))
    return ours.exit_code


def _as_ours(error: Exception) -> AmpcError | None:
    """Return any exception as one of ours, ``None`` for a help text that was asked for by giving no arguments."""
    if isinstance(error, AmpcError):
        return error
    if isinstance(error, OSError):  # the functions of the API raise none: help or rich's own flushing
        return cli_output.unwritable(error, sys.stdout)
    if isinstance(error, NoArgsIsHelpError):
        cli_output.write(f"{error.ctx.get_help()}\n")
        return None
    return _misused(error) if isinstance(error, click.ClickException) else _unexpected(error)


def _misused(error: click.ClickException) -> InputError:
    """Return the error for a command line that makes no sense."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message().strip().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        near = f" (Possible options: {', '.join(sorted(error.possibilities))})" if error.possibilities else ""
        message = f"No such option: {error.option_name}{near}"
    return InputError(message, hint=f"see {context.command_path if context is not None else 'ampc'} --help")


def _unexpected(error: Exception) -> AmpcError:
    from compiler.api import guarded

    def again() -> None:
        raise error

    try:
        guarded(again)
    except AmpcError as ours:
        return ours
    raise error

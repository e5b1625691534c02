"""The command line: the only module that prints or exits.

Commands collect their options, call the public functions, and show what came back: tables for people (``render``
makes them), one JSON document for ``--json``.  Whatever goes wrong ends in ``_Commands.main``, as what, where, why and
what to do on standard error, or as a JSON object on standard output; a traceback never gets out.

Exit codes: 0 success, and for what is compiled or checked a verified result only; 1 our fault, or models that differ;
2 the user's input; 130 interrupted; 141 nobody reads what is written.

Decisions: everything heavy is imported inside the commands, and the help is plain text, since typer's coloured help
alone takes half of the 0.3 s in which ``ampc --help`` must answer.  Commands of plugins (``cli_plugins``) are looked
for only when no command of ours has the name.
Typer is told to raise instead of printing, so that a wrong option looks like any other error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from compiler import cli_options as opt
from compiler import cli_plugins
from compiler.errors import AmpcError, InputError, UnknownNameError, nearest

_USAGE: tuple[type[Exception], ...] = tuple(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ in ("ClickException", "TyperException")
)
"""What typer raises when the command line makes no sense; older releases take it from click."""


_STDERR = 2
"""The number of the last of the standard streams."""


# The command line as a whole ---------------------------------------------------------------------


class _Commands(TyperGroup):
    """Our commands and those of plugins, and the place where every error ends."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return our commands in their order, then those of plugins."""
        own = super().list_commands(ctx)
        return own + [name for name in cli_plugins.plugins() if name not in own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command of ours, or else of a plugin."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name.startswith("-"):
            return own
        entry = cli_plugins.plugins().get(cmd_name)
        return None if entry is None else cli_plugins.PluginCommand(entry)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name; raises ``UnknownNameError`` when there is none."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise UnknownNameError(f"there is no command {args[0]!r}", hint=nearest(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run the command line and exit."""
        given = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            code = super().main(given, *rest, **extra)
            code = code if isinstance(code, int) else 0
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        except Exception as error:
            code = _fail(error, as_json="--json" in given)
        if code == 130:
            _warn("interrupted; nothing was left half-written")
        sys.exit(code)


def _fail(error: Exception, *, as_json: bool) -> int:
    """Show an error and return its exit code."""
    ours = _as_ours(error)
    if ours is None:
        return int(getattr(error, "exit_code", 2))
    try:
        if as_json and not isinstance(ours, _Unwritable):
            _json(ours.to_json())
        else:
            from compiler import render

            _show(render.error(ours), on=sys.stderr)
    except typer.Exit as closed:
        return closed.exit_code
    except _Unwritable as unwritable:
        _warn(str(unwritable))
    return ours.exit_code


def _as_ours(error: Exception) -> AmpcError | None:
    """Return any exception as one of ours, ``None`` for a help text that was asked for by giving no arguments."""
    if isinstance(error, AmpcError):
        return error
    if isinstance(error, OSError):  # the functions of the API raise none: help or rich's own flushing
        return _unwritable(error, sys.stdout)
    if not isinstance(error, _USAGE):
        return _unexpected(error)
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        _write(f"{context.get_help()}\n" if context is not None else "")
        return None
    place = context.command_path if context is not None else "ampc"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return InputError(message.strip().rstrip("."), hint=f"see {place} --help")


def _unexpected(error: Exception) -> AmpcError:
    from compiler.api import guarded

    def again() -> None:
        raise error

    try:
        guarded(again)
    except AmpcError as ours:
        return ours
    raise error


# Output ------------------------------------------------------------------------------------------


def _write(text: str, *, on: Any = None) -> None:
    """Write text; when nobody reads it any more, exit quietly.  Raises ``InputError`` when it cannot be written."""
    stream = sys.stdout if on is None else on
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise typer.Exit(141) from None
    except OSError as error:
        raise _unwritable(error, stream) from error


class _Unwritable(InputError):
    """A stream takes no text."""


def _unwritable(error: OSError, stream: Any) -> _Unwritable:
    """Return what to say of a stream that takes no text; what is still in its buffer goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return _Unwritable(
        "the answer cannot be shown",
        where="standard error" if stream is sys.stderr else "standard output",
        why=error.strerror or str(error),
        hint="send it to a place that takes it",
    )


def _show(*parts: Any, on: Any = None) -> None:
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
    _write("".join(f"{line.rstrip()}\n" for line in text.splitlines()) if not console.is_terminal else text, on=stream)


def _json(record: Any) -> None:
    _write(json.dumps(record, indent=1, default=str) + "\n")


def _warn(text: str) -> None:
    with contextlib.suppress(typer.Exit, _Unwritable):
        _write(f"{text}\n", on=sys.stderr)


@contextlib.contextmanager
def _progress(doing: str, *, hidden: bool) -> Iterator[Callable[[str], None]]:
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


# Commands ----------------------------------------------------------------------------------------

app = typer.Typer(
    name="ampc",
    cls=_Commands,
    help="Compile ONNX models for the machine they run on, and prove that they still compute the same.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from compiler.verify.certificate import versions

        ampc, *others = versions().items()
        _write(f"{' '.join(ampc)} ({', '.join(' '.join(o) for o in others)})\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options that come before the command."""


@app.command("compile")
def compile_(
    model: opt.Model,
    output: opt.Output = None,
    target: opt.Target = "auto",
    passes: opt.Passes = None,
    disable: opt.Disable = None,
    until: opt.Until = "",
    listing: opt.List = False,
    verify: opt.Verify = True,
    verify_each: opt.VerifyEach = True,
    inputs: opt.Inputs = None,
    external_data: opt.ExternalData = None,
    dump_ir: opt.DumpIr = None,
    repro: opt.Repro = None,
    timeout: opt.Timeout = 120,
    memory_limit: opt.Memory = None,
    seed: opt.Seed = 0,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Compile MODEL for a target, verify the result, and write it."""
    from compiler import render
    from compiler.api import compile_model

    if listing:
        from compiler.listing import pipeline

        plan = pipeline(passes, target=target, disable=disable or (), until=until)
        _json(plan) if as_json else _show(*render.pipeline(plan))
        return
    if output is None:
        raise InputError("no output was named", hint="add -o out/ for a bundle, or -o NAME.onnx for a plain model")
    with _progress(f"compiling {Path(model).name}", hidden=quiet or as_json) as tell:
        result = compile_model(
            model,
            target=target,
            output=output,
            verify=verify,
            verify_each=verify_each,
            passes=passes,
            disable=disable or [],
            until=until,
            inputs=inputs,
            external_data=external_data,
            dump_ir=dump_ir,
            repro=repro,
            timeout=timeout,
            memory_limit=opt.parse_size(memory_limit),
            seed=seed,
            progress=tell,
        )
    if as_json:
        _json({"output": output, "settings": result.settings, **result.report})
    elif not quiet:
        _show(*render.compiled(model, output, result.report))


@app.command(short_help="Check whether two models compute the same.")
def check(
    first: opt.Reference,
    second: opt.Candidate,
    inputs: opt.Inputs = None,
    timeout: opt.Timeout = 120,
    memory_limit: opt.Memory = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Check whether two models compute the same; exit code 1 when they do not."""
    from compiler import render
    from compiler.api import check_models

    with _progress(f"checking {Path(second).name}", hidden=as_json):
        certificate = check_models(
            first, second, inputs=inputs, timeout=timeout, memory_limit=opt.parse_size(memory_limit), seed=seed
        )
    record = certificate.to_json()
    _json(record) if as_json else _show(*render.certificate(first, second, record))
    if not certificate.verified:
        raise typer.Exit(1)


@app.command(short_help="Show what MODEL is made of, and what slows it down.")
def analyze(
    model: opt.Model,
    target: opt.Target = "auto",
    bind: opt.Bind = None,
    as_json: opt.Json = False,
) -> None:
    """Show what MODEL is made of, what ONNX Runtime does anyway, and which cliffs it stands at."""
    from compiler import render
    from compiler.analyzing import analyze_model

    with _progress(f"analyzing {Path(model).name}", hidden=as_json):
        analysis = analyze_model(model, target=target, binding=opt.parse_binding(bind or []))
    _json(analysis.to_json()) if as_json else _show(*render.analysis(analysis))


@app.command(short_help="Print the IR of MODEL, at any point of the pipeline.")
def dump(
    model: opt.Model,
    output: opt.Text = None,
    before: opt.Before = "",
    after: opt.After = "",
    around: opt.Around = "",
    changed: opt.Changed = False,
    loc: opt.Loc = False,
    facts: opt.Facts = False,
    nodes: opt.Nodes = None,
    passes: opt.Passes = None,
    disable: opt.Disable = None,
    target: opt.Target = "auto",
    as_json: opt.Json = False,
) -> None:
    """Print the IR of MODEL: as loaded, or around a pass of the pipeline."""
    from compiler.dumping import DumpOptions, dump_model

    options = DumpOptions(
        before=before,
        after=after,
        around=around,
        changed=changed,
        loc=loc,
        facts=facts,
        nodes=nodes,
        passes=passes,
        disable=tuple(disable or ()),
        target=target,
        output=Path(output) if output else None,
    )
    with _progress(f"reading {Path(model).name}", hidden=as_json) as tell:
        texts = dump_model(model, options, progress=tell)
    if as_json:
        _json({"output": output, "texts": texts})
    elif output is None:
        several = len(texts) > 1
        _write("\n".join(f"// {title}\n{text}" if several else text for title, text in texts.items()))


@app.command()
def targets(as_json: opt.Json = False) -> None:
    """List the targets, and what this machine is."""
    from compiler import render
    from compiler.listing import targets as listed

    record = listed()
    _json(record) if as_json else _show(*render.targets(record))


@app.command(short_help="List the passes, and the default pipeline.")
def passes(
    name: opt.Pass = None,
    as_json: opt.Json = False,
) -> None:
    """List the passes with their options, and the default pipeline."""
    from compiler import listing, render

    if name is None:
        everything = listing.passes()
        _json(everything) if as_json else _show(*render.passes(everything))
    else:
        record = listing.describe_pass(name)
        _json(record) if as_json else _show(*render.one_pass(record))


def _terminated(number: int, frame: Any) -> None:
    """Leave through the ordinary way out, so that temporary files go."""
    sys.exit(128 + number)


def _lead_closed_streams_nowhere() -> None:
    """Open what the caller closed of the standard streams, before a file of ours gets their numbers."""
    if not os.path.exists(os.devnull):
        return
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        continue
    os.close(fd)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - lives as long as we do


def main() -> None:
    """Run the command line."""
    _lead_closed_streams_nowhere()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminated)
    app(prog_name="ampc")

"""The command line: the only module that prints or exits.

Commands collect their options, call the public functions, and show what came back: tables for people (``render``
makes them), one JSON document for ``--json``.  Whatever goes wrong ends in ``_Commands.main``, as what, where, why and
what to do on standard error, or as a JSON object on standard output; a traceback never gets out.

Exit codes: 0 success, and for what is compiled or checked a verified result only; 1 our fault, or models that differ;
2 the user's input; 130 interrupted; 141 nobody reads what is written.

Decisions: everything heavy is imported inside the commands, and the help is plain text, since typer's coloured help
alone takes half of the 0.3 s in which ``ampc --help`` must answer.  Commands of plugins (entry point group
``ampc.commands``, name → ``function(argv) -> exit code``) are looked for only when no command of ours has the name.
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
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from compiler.errors import AmpcError, InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PLUGINS = "ampc.commands"
"""The entry point group of further commands."""

_USAGE: tuple[type[Exception], ...] = tuple(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ in ("ClickException", "TyperException")
)
"""What typer raises when the command line makes no sense; older releases take it from click."""


# The command line as a whole ---------------------------------------------------------------------


class _PluginCommand(TyperCommand):
    """A command that an installed package adds; it gets its arguments as they are."""

    def __init__(self, entry: EntryPoint) -> None:
        settings = {"allow_extra_args": True, "ignore_unknown_options": True}
        super().__init__(
            entry.name, context_settings=settings, add_help_option=False, help=f"From {_distribution(entry)}."
        )
        self.entry = entry

    def invoke(self, ctx: Any) -> None:
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
        raise typer.Exit(function([*ctx.args]) or 0)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


class _Commands(TyperGroup):
    """Our commands and those of plugins, and the place where every error ends."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return our commands in their order, then those of plugins."""
        own = super().list_commands(ctx)
        return own + [name for name in _plugins() if name not in own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command of ours, or else of a plugin."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name.startswith("-"):
            return own
        entry = _plugins().get(cmd_name)
        return None if entry is None else _PluginCommand(entry)

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


def _plugins() -> dict[str, EntryPoint]:
    from importlib import metadata

    return {e.name: e for e in sorted(metadata.entry_points(group=PLUGINS), key=lambda e: (e.name, e.value))}


def _fail(error: Exception, *, as_json: bool) -> int:
    """Show an error and return its exit code."""
    ours = _as_ours(error)
    if ours is None:
        return int(getattr(error, "exit_code", 2))
    try:
        if as_json:
            _json(ours.to_json())
        else:
            from compiler import render

            _show(render.error(ours), on=sys.stderr)
    except typer.Exit as closed:
        return closed.exit_code
    return ours.exit_code


def _as_ours(error: Exception) -> AmpcError | None:
    """Return any exception as one of ours, ``None`` for a help text that was asked for by giving no arguments."""
    if isinstance(error, AmpcError):
        return error
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
    """Write text; when nobody reads it any more, exit quietly."""
    stream = sys.stdout if on is None else on
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise typer.Exit(141) from None


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
    with contextlib.suppress(typer.Exit):
        _write(f"{text}\n", on=sys.stderr)


@contextlib.contextmanager
def _progress(doing: str, *, hidden: bool) -> Iterator[Callable[[str], None]]:
    """Show on a terminal what goes on; yields a function that takes the name of each step."""
    if hidden or not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(doing)) as status:
        yield lambda step: status.update(escape(f"{doing}: {step}"))


# Options that several commands share -------------------------------------------------------------


def _complete_pass(incomplete: str) -> list[str]:
    """Complete the name of a pass, also the last one of a pipeline."""
    from compiler.manager import known_passes

    start = max(incomplete.rfind(mark) for mark in ",( ") + 1
    with contextlib.suppress(AmpcError, ImportError):
        return [incomplete[:start] + name for name in known_passes() if name.startswith(incomplete[start:])]
    return []


def _complete_target(incomplete: str) -> list[str]:
    """Complete the name of a target."""
    from targets import TargetError
    from targets.catalog import AUTO, catalog

    with contextlib.suppress(TargetError):
        return [name for name in (AUTO, *catalog()) if name.startswith(incomplete)]
    return []


def _pass_option(flag: str, help: str) -> Any:
    return typer.Option(flag, metavar="PASS", help=help, autocompletion=_complete_pass)


ModelArg = Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or .ir text.", show_default=False)]
TargetOpt = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        metavar="TARGET",
        help="A target's name, or the path of a TOML file.",
        autocompletion=_complete_target,
    ),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
InputsOpt = Annotated[
    str | None, typer.Option("--inputs", metavar="NPZ", help="Inputs of your own to check with, by name.")
]
PassesOpt = Annotated[
    str | None,
    typer.Option(
        "--passes",
        metavar="PIPELINE",
        help="A pipeline in place of the default; see `ampc passes`.",
        autocompletion=_complete_pass,
    ),
]
DisableOpt = Annotated[list[str] | None, _pass_option("--disable", "Leave this pass out; may be repeated.")]
TimeoutOpt = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Limit of each run of a model.")
]
MemoryOpt = Annotated[
    str | None,
    typer.Option("--memory-limit", metavar="SIZE", help="Limit of the process that runs models: 8GiB."),
]
SeedOpt = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the generated inputs.")]


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
        from compiler.settings import versions

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


# Commands ----------------------------------------------------------------------------------------


@app.command("compile")
def compile_(
    model: ModelArg,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT", help="A folder for a bundle, or NAME.onnx.")
    ] = None,
    target: TargetOpt = "auto",
    passes: PassesOpt = None,
    disable: DisableOpt = None,
    until: Annotated[str, _pass_option("--until", "Stop after the first run of this pass.")] = "",
    listing: Annotated[
        bool, typer.Option("--list", help="List the passes that would run, and stop.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Check the result against the original; the bundle records it."
        ),
    ] = True,
    verify_each: Annotated[
        bool,
        typer.Option(
            "--verify-each/--no-verify-each", help="Check the graph's invariants after every pass."
        ),
    ] = True,
    inputs: InputsOpt = None,
    external_data: Annotated[
        bool | None,
        typer.Option(
            "--external-data/--embed",
            help="Weights beside the model, or inside; by default beside above 1 GiB.",
        ),
    ] = None,
    dump_ir: Annotated[
        str | None,
        typer.Option("--dump-ir", metavar="DIR", help="Write the IR after each pass that changed it."),
    ] = None,
    repro: Annotated[
        str | None,
        typer.Option("--repro", metavar="DIR", help="Keep a reproduction of each pass rolled back."),
    ] = None,
    timeout: TimeoutOpt = 120,
    memory_limit: MemoryOpt = None,
    seed: SeedOpt = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: JsonOpt = False,
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
            memory_limit=_size(memory_limit),
            seed=seed,
            progress=tell,
        )
    if as_json:
        _json({"output": output, "settings": result.settings, **result.report})
    elif not quiet:
        _show(*render.compiled(model, output, result.report))


@app.command(short_help="Check whether two models compute the same.")
def check(
    first: Annotated[
        str,
        typer.Argument(metavar="A", help="The reference: an .onnx file or a bundle.", show_default=False),
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help="What is compared with it.", show_default=False)
    ],
    inputs: InputsOpt = None,
    timeout: TimeoutOpt = 120,
    memory_limit: MemoryOpt = None,
    seed: SeedOpt = 0,
    as_json: JsonOpt = False,
) -> None:
    """Check whether two models compute the same; exit code 1 when they do not."""
    from compiler import render
    from compiler.api import check_models

    with _progress(f"checking {Path(second).name}", hidden=as_json):
        certificate = check_models(
            first, second, inputs=inputs, timeout=timeout, memory_limit=_size(memory_limit), seed=seed
        )
    record = certificate.to_json()
    _json(record) if as_json else _show(*render.certificate(first, second, record))
    if not certificate.verified:
        raise typer.Exit(1)


@app.command(short_help="Show what MODEL is made of, and what slows it down.")
def analyze(
    model: ModelArg,
    target: TargetOpt = "auto",
    bind: Annotated[
        list[str] | None,
        typer.Option("--bind", metavar="DIM=N", help="What a dynamic dim counts as; may be repeated."),
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Show what MODEL is made of, what ONNX Runtime does anyway, and which cliffs it stands at."""
    from compiler import render
    from compiler.analyzing import analyze_model

    with _progress(f"analyzing {Path(model).name}", hidden=as_json):
        analysis = analyze_model(model, target=target, binding=_binding(bind or []))
    _json(analysis.to_json()) if as_json else _show(*render.analysis(analysis))


@app.command(short_help="Print the IR of MODEL, at any point of the pipeline.")
def dump(
    model: ModelArg,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write FILE.ir, large constants beside it."),
    ] = None,
    before: Annotated[str, _pass_option("--before", "The IR before the first run of a pass.")] = "",
    after: Annotated[str, _pass_option("--after", "The IR after the last run of a pass.")] = "",
    around: Annotated[str, _pass_option("--around", "The IR before and after a pass.")] = "",
    changed: Annotated[bool, typer.Option("--changed", help="Only the lines that the pass changed.")] = False,
    loc: Annotated[bool, typer.Option("--loc", help="Where each node comes from.")] = False,
    facts: Annotated[bool, typer.Option("--facts", help="What analysis knows, as comments.")] = False,
    nodes: Annotated[
        str | None,
        typer.Option("--nodes", metavar="PATTERN", help="Only nodes whose name, operator or origin matches."),
    ] = None,
    passes: PassesOpt = None,
    disable: DisableOpt = None,
    target: TargetOpt = "auto",
    as_json: JsonOpt = False,
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
def targets(as_json: JsonOpt = False) -> None:
    """List the targets, and what this machine is."""
    from compiler import render
    from compiler.listing import targets as listed

    record = listed()
    _json(record) if as_json else _show(*render.targets(record))


@app.command(short_help="List the passes, and the default pipeline.")
def passes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[PASS]", help="Show one pass in full.", show_default=False, autocompletion=_complete_pass
        ),
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """List the passes with their options, and the default pipeline."""
    from compiler import listing, render

    if name is None:
        everything = listing.passes()
        _json(everything) if as_json else _show(*render.passes(everything))
    else:
        record = listing.describe_pass(name)
        _json(record) if as_json else _show(*render.one_pass(record))


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def _size(text: str | None) -> int | None:
    """Return bytes for a text such as ``8GiB``."""
    if text is None:
        return None
    number = text.rstrip("BbGgMmKkIi ")
    unit = text[len(number) :].strip().lower().removesuffix("b")
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise InputError(f"{text!r} is not a size", hint="write a number with a unit: 500MB, 8GiB")
    return size


def _binding(texts: Sequence[str]) -> dict[str, int]:
    """Return what ``NAME=NUMBER`` texts say."""
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            raise InputError(f"{text!r} is not a dim and a number", hint="write --bind batch=4")
        found[name] = int(number)
    return found


def _terminated(number: int, frame: Any) -> None:
    """Leave through the ordinary way out, so that temporary files go."""
    sys.exit(128 + number)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminated)
    app(prog_name="ampc")

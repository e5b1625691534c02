"""The command line: the only module that prints or exits.

Commands collect their options, call the public functions, and show what came back: tables for people, one JSON
document for ``--json``.  Everything heavy is imported inside the commands, so that ``ampc --help`` answers at once.
Further commands come from the entry point group ``ampc.commands`` (name → ``function(argv) -> exit code``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from compiler.errors import AmpcError

app = typer.Typer(
    name="ampc",
    help="Compile ONNX models for the machine they run on, and prove that they still compute the same.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelArg = Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or .ir text.", show_default=False)]
TargetOpt = Annotated[str, typer.Option("--target", "-t", help="A target's name, or the path of a TOML file.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
InputsOpt = Annotated[
    str | None, typer.Option("--inputs", metavar="NPZ", help="Inputs of your own to check with, by name.")
]
PassesOpt = Annotated[
    str | None, typer.Option("--passes", metavar="PIPELINE", help="A pipeline in place of the default; see `ampc passes`.")
]
DisableOpt = Annotated[
    list[str] | None, typer.Option("--disable", metavar="PASS", help="Leave this pass out; may be repeated.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ampc {metadata.version('ampc')}")
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
    model: ModelArg,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT", help="A folder for a bundle, or NAME.onnx.")
    ] = None,
    target: TargetOpt = "auto",
    passes: PassesOpt = None,
    disable: DisableOpt = None,
    until: Annotated[str, typer.Option("--until", metavar="PASS", help="Stop after the first run of this pass.")] = "",
    listing: Annotated[bool, typer.Option("--list", help="List the passes that would run, and stop.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Check the result against the original. The bundle records it.")
    ] = True,
    verify_each: Annotated[
        bool, typer.Option("--verify-each/--no-verify-each", help="Check the graph's invariants after every pass.")
    ] = True,
    inputs: InputsOpt = None,
    external_data: Annotated[
        bool | None,
        typer.Option("--external-data/--embed", help="Weights beside the model, or inside. Default: beside above 1 GiB."),
    ] = None,
    dump_ir: Annotated[
        str | None, typer.Option("--dump-ir", metavar="DIR", help="Write the IR after each pass that changed it.")
    ] = None,
    repro: Annotated[
        str | None, typer.Option("--repro", metavar="DIR", help="Keep a minimal reproduction of each pass rolled back.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Limit of each run of a model.")] = 120,
    memory_limit: Annotated[
        str | None, typer.Option("--memory-limit", metavar="SIZE", help="Limit of the process that runs models: 8GiB.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated inputs.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Compile MODEL for a target, verify the result, and write it."""
    from compiler import render

    def run() -> None:
        from compiler.api import compile_model
        from compiler.errors import InputError

        if listing:
            render.pipeline(passes, target, disable or [], as_json=as_json)
            return
        if output is None:
            raise InputError("no output was named", hint="add -o out/ for a bundle, or -o NAME.onnx for a plain model")
        with render.progress(hidden=quiet or as_json) as tell:
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
            render.compiled(output, result)

    _guarded(run, as_json=as_json)


@app.command()
def check(
    first: Annotated[str, typer.Argument(metavar="A", help="The reference: an .onnx file or a bundle.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="What is compared with it.", show_default=False)],
    inputs: InputsOpt = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Limit of each run of a model.")] = 120,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated inputs.")] = 0,
    as_json: JsonOpt = False,
) -> None:
    """Check whether two models compute the same; exit code 1 when they do not."""
    from compiler import render

    def run() -> None:
        from compiler.api import check_models

        certificate = check_models(first, second, inputs=inputs, timeout=timeout, seed=seed)
        if as_json:
            _json(certificate.to_json())
        else:
            render.certificate(certificate)
        if not certificate.verified:
            raise typer.Exit(1)

    _guarded(run, as_json=as_json)


@app.command()
def analyze(
    model: ModelArg,
    target: TargetOpt = "auto",
    as_json: JsonOpt = False,
) -> None:
    """Show what MODEL is made of, what ONNX Runtime would do anyway, and which cliffs it stands at."""

    def run() -> None:
        from compiler.analysis.report import analyze_model

        analysis = analyze_model(model, target=target)
        if as_json:
            _json(analysis.to_json())
        else:
            from compiler.analysis.show import show

            show(analysis)

    _guarded(run, as_json=as_json)


@app.command()
def dump(
    model: ModelArg,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write FILE.ir, with constants in a side file.")
    ] = None,
    before: Annotated[str, typer.Option("--before", metavar="PASS", help="The IR before the first run of a pass.")] = "",
    after: Annotated[str, typer.Option("--after", metavar="PASS", help="The IR after the last run of a pass.")] = "",
    around: Annotated[str, typer.Option("--around", metavar="PASS", help="The IR before and after a pass.")] = "",
    changed: Annotated[bool, typer.Option("--changed", help="Only the lines that the pass changed.")] = False,
    loc: Annotated[bool, typer.Option("--loc", help="Where each node comes from.")] = False,
    facts: Annotated[bool, typer.Option("--facts", help="What analysis knows, as comments.")] = False,
    nodes: Annotated[
        str | None, typer.Option("--nodes", metavar="PATTERN", help="Only nodes whose name, operator or origin matches.")
    ] = None,
    passes: PassesOpt = None,
    disable: DisableOpt = None,
    target: TargetOpt = "auto",
    as_json: JsonOpt = False,
) -> None:
    """Print the IR of MODEL: as loaded, or around a pass of the pipeline."""

    def run() -> None:
        from compiler.dumping import DumpOptions, dump_model

        texts = dump_model(
            model,
            DumpOptions(
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
            ),
        )
        if as_json:
            _json(texts)
        elif output is None:
            for title, text in texts.items():
                sys.stdout.write(f"// {title}\n{text}" if len(texts) > 1 else text)

    _guarded(run, as_json=as_json)


@app.command()
def targets(as_json: JsonOpt = False) -> None:
    """List the targets, and what this machine is."""
    from compiler import render

    _guarded(lambda: render.targets(as_json=as_json), as_json=as_json)


@app.command()
def passes(
    name: Annotated[str | None, typer.Argument(metavar="PASS", help="Show one pass in full.", show_default=False)] = None,
    as_json: JsonOpt = False,
) -> None:
    """List the passes with their options, and the default pipeline."""
    from compiler import render

    _guarded(lambda: render.passes(name, as_json=as_json), as_json=as_json)


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    from compiler.errors import InputError

    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
    number = text.rstrip("BbGgMmKkIi ")
    unit = text[len(number) :].strip().lower().removesuffix("b")
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise InputError(f"{text!r} is not a size", hint="write a number with a unit: 500MB, 8GiB")
    return size


def _json(record: Any) -> None:
    json.dump(record, sys.stdout, indent=1, default=str)
    sys.stdout.write("\n")


def _guarded(run: Callable[[], None], *, as_json: bool) -> None:
    """Run a command; show an error of ours and exit with its code."""
    try:
        from compiler.api import guarded

        guarded_exit(run, guarded)
    except AmpcError as error:
        if as_json:
            _json(error.to_json())
        else:
            from compiler import render

            render.error(error)
        raise typer.Exit(error.exit_code) from None


def guarded_exit(run: Callable[[], None], guard: Callable[[Callable[[], None]], None]) -> None:
    """Run under a guard that lets ``typer.Exit`` through."""
    code: list[int] = []

    def inner() -> None:
        try:
            run()
        except typer.Exit as done:
            code.append(done.exit_code)

    guard(inner)
    if code:
        raise typer.Exit(code[0])


def _plugin_commands() -> dict[str, metadata.EntryPoint]:
    return {e.name: e for e in metadata.entry_points(group="ampc.commands")}


def main() -> None:
    """Run the command line."""
    plugins = _plugin_commands()
    if len(sys.argv) > 1 and sys.argv[1] in plugins:
        raise SystemExit(plugins[sys.argv[1]].load()(sys.argv[2:]))
    for name, entry in plugins.items():
        _list_plugin(name, entry)
    try:
        app(prog_name="ampc")
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(141) from None


def _list_plugin(name: str, entry: metadata.EntryPoint) -> None:
    summary = {"demo": "Compile, check and time two networks that come with ampc."}.get(name, f"From {entry.value}.")

    @app.command(name, help=summary, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def _run(context: typer.Context) -> None:
        raise typer.Exit(entry.load()(context.args))

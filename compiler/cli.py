"""The command line: the only module that exits.

Commands collect their options, call the public functions, and show what came back (``cli_output``): tables for people
(``render`` makes them), one JSON document for ``--json``.  Whatever goes wrong ends in ``_Commands.main``, as what,
where, why and what to do on standard error, or as a JSON object on standard output; a traceback never gets out.

Exit codes: 0 success, and for what is compiled or checked a verified result only; 1 our fault, or models that differ;
2 the user's input; 130 interrupted; 141 nobody reads what is written.

Decisions: everything heavy is imported inside the commands, ``render`` and with it rich only when tables are shown.
Click is used directly: what makes parameters from annotations costs 0.1 s at each start.  It is told to raise instead
of printing, so that a wrong option looks like any other error.  Commands of plugins (``cli_plugins``) are looked for
only when no command of ours has the name.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.exceptions import Exit

from compiler import cli_completion, cli_errors, cli_output, cli_plugins
from compiler import cli_options as opt
from compiler.errors import InputError, UnknownNameError, nearest

_STDERR = 2
"""The number of the last of the standard streams."""


# The command line as a whole ---------------------------------------------------------------------


class _Commands(click.Group):
    """Our commands and those of plugins, and the place where every error ends."""

    command_class = opt.Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return our commands in their order, then those of plugins."""
        own = [*self.commands]
        return own + [name for name in cli_plugins.plugins() if name not in own]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command of ours, or else of a plugin."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name.startswith("-"):
            return own
        entry = cli_plugins.plugins().get(cmd_name)
        return None if entry is None else cli_plugins.PluginCommand(entry)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the command that the arguments name; raises ``UnknownNameError`` when there is none."""
        known = ctx.resilient_parsing or args[0].startswith("-") or self.get_command(ctx, args[0]) is not None
        if not known:
            raise UnknownNameError(f"there is no command {args[0]!r}", hint=nearest(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run the command line and exit."""
        given = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            code = super().main(given, *rest, **extra)
            code = code if isinstance(code, int) else 0
        except (KeyboardInterrupt, click.Abort):
            code = 130
        except Exception as error:
            code = cli_errors.fail(error, as_json="--json" in given)
        if code == 130:
            cli_output.warn("interrupted; nothing was left half-written")
        sys.exit(code)


# Commands ----------------------------------------------------------------------------------------


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from compiler.verify.certificate import versions

    ampc, *others = versions().items()
    cli_output.write(f"{' '.join(ampc)} ({', '.join(' '.join(o) for o in others)})\n")
    raise Exit(0)


def _show_completion(ctx: click.Context, param: click.Parameter, shell: str | None) -> None:
    if shell is None or ctx.resilient_parsing:
        return
    cli_output.write(cli_completion.script(cli_completion.shell_or_own(shell), ctx.command))
    raise Exit(0)


def _install_completion(ctx: click.Context, param: click.Parameter, shell: str | None) -> None:
    if shell is None or ctx.resilient_parsing:
        return
    name = cli_completion.shell_or_own(shell)
    cli_output.write(cli_completion.install(name, cli_completion.script(name, ctx.command)) + "\n")
    raise Exit(0)


_AT_ONCE: dict[str, Any] = {"is_eager": True, "expose_value": False}
"""Settings of options that do their work in place of a command."""

_SHELL: dict[str, Any] = {"is_flag": False, "flag_value": "", **_AT_ONCE}
"""Settings of options that take the name of a shell, or none for the user's own."""


@click.group(
    "ampc",
    cls=_Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        opt.flag("--version", "Print the version.", callback=_version, **_AT_ONCE),
        opt.option(
            "--install-completion",
            "[SHELL]",
            "Install completion for the current shell.",
            callback=_install_completion,
            **_SHELL,
        ),
        opt.option(
            "--show-completion",
            "[SHELL]",
            "Show completion for the current shell, to copy it or customize the installation.",
            callback=_show_completion,
            **_SHELL,
        ),
    ],
)
def app() -> None:
    """Compile ONNX models for the machine they run on, and prove that they still compute the same."""


@app.command(
    "compile",
    params=[
        opt.MODEL,
        opt.OUTPUT,
        opt.TARGET,
        opt.DIM,
        opt.PASSES,
        opt.DISABLE,
        opt.UNTIL,
        opt.SELECT,
        opt.LIST,
        opt.VERIFY,
        opt.VERIFY_EACH,
        opt.INPUTS,
        opt.EXTERNAL_DATA,
        opt.DUMP_IR,
        opt.LOG_REWRITES,
        opt.REPRO,
        opt.TIMEOUT,
        opt.MEMORY,
        opt.SEED,
        opt.DEVICE_CHECK,
        opt.THREADS,
        opt.TUNE,
        opt.DATABASE,
        opt.EXPLAIN,
        opt.VERBOSE,
        opt.QUIET,
        opt.JSON,
    ],
)
def compile_(
    *,
    model: str,
    output: str | None,
    listing: bool,
    memory_limit: str | None,
    log_rewrites: str | None,
    dim: tuple[str, ...],
    explain: bool,
    verbose: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile MODEL for a target, verify the result, and write it."""
    if listing:
        _list_pipeline(as_json, **{name: options[name] for name in ("passes", "target", "disable", "until")})
        return
    if output is None:
        raise InputError("no output was named", hint="add -o out/ for a bundle, or -o NAME.onnx for a plain model")
    from compiler.api import compile_model

    options |= {"memory_limit": opt.parse_size(memory_limit), "dims": opt.parse_binding(dim)}
    log = cli_output.write_error if log_rewrites == "-" else log_rewrites
    with cli_output.progress(f"compiling {Path(model).name}", hidden=quiet or as_json or log_rewrites == "-") as tell:
        result = compile_model(model, output=output, log_rewrites=log, progress=tell, **options)
    if as_json:
        cli_output.write_json({"output": output, "settings": result.settings, **result.report})
    elif not quiet:
        from compiler import render

        cli_output.show(*render.compiled(model, output, result.report, verbose=verbose))
        if explain:
            from compiler.render_decisions import decisions

            cli_output.show(*decisions(result.report.get("decisions", [])))


def _list_pipeline(as_json: bool, /, passes: str | None, **options: Any) -> None:
    """Show which passes would run."""
    from compiler.listing import pipeline

    plan = pipeline(passes, **options)
    if as_json:
        cli_output.write_json(plan)
        return
    from compiler import render

    cli_output.show(*render.pipeline(plan))


@app.command(
    short_help="Check whether two models compute the same.",
    params=[opt.REFERENCE, opt.CANDIDATE, opt.INPUTS, opt.TIMEOUT, opt.MEMORY, opt.SEED, opt.JSON],
)
def check(*, first: str, second: str, memory_limit: str | None, as_json: bool, **options: Any) -> None:
    """Check whether two models compute the same; exit code 1 when they do not."""
    from compiler.api import check_models

    limit = opt.parse_size(memory_limit)
    with cli_output.progress(f"checking {Path(second).name}", hidden=as_json):
        certificate = check_models(first, second, memory_limit=limit, **options)
    record = certificate.to_json()
    if as_json:
        cli_output.write_json(record)
    else:
        from compiler import render

        cli_output.show(*render.certificate(first, second, record))
    if not certificate.verified:
        raise Exit(1)


@app.command(
    short_help="Show what MODEL is made of, and what slows it down.",
    params=[opt.MODEL, opt.TARGET, opt.SELECT, opt.DIM, opt.BIND, opt.QUICK, opt.HTML, opt.JSON],
)
def analyze(
    *,
    model: str,
    target: str,
    select: str,
    dim: tuple[str, ...],
    bind: tuple[str, ...],
    quick: bool,
    html: str | None,
    as_json: bool,
) -> None:
    """Show what MODEL is made of, where its time goes, what can be gained, and which cliffs it stands at."""
    from compiler.analyzing import analyze_model, write_page

    with cli_output.progress(f"analyzing {Path(model).name}", hidden=as_json) as tell:
        analysis = analyze_model(
            model,
            target=target,
            binding=opt.parse_binding(bind),
            dims=opt.parse_binding(dim),
            opportunities=not quick,
            select=select,
            progress=tell,
        )
    if html is not None:
        write_page(analysis, html)
    if as_json:
        cli_output.write_json(analysis.to_json())
        return
    from compiler import render

    cli_output.show(*render.analysis(analysis))


@app.command(
    short_help="Print the IR of MODEL, at any point of the pipeline.",
    params=[
        opt.MODEL,
        opt.TEXT,
        opt.BEFORE,
        opt.AFTER,
        opt.AROUND,
        opt.CHANGED,
        opt.LOC,
        opt.FACTS,
        opt.NODES,
        opt.PASSES,
        opt.DISABLE,
        opt.SELECT,
        opt.TARGET,
        opt.JSON,
    ],
)
def dump(*, model: str, output: str | None, as_json: bool, **options: Any) -> None:
    """Print the IR of MODEL: as loaded, or around a pass of the pipeline."""
    from compiler.dumping import DumpOptions, dump_model

    wanted = DumpOptions(output=Path(output) if output else None, **options)
    with cli_output.progress(f"reading {Path(model).name}", hidden=as_json) as tell:
        texts = dump_model(model, wanted, progress=tell)
    if as_json:
        cli_output.write_json({"output": output, "texts": texts})
    elif output is None:
        several = len(texts) > 1
        cli_output.write("\n".join(f"// {title}\n{text}" if several else text for title, text in texts.items()))


@app.command(
    short_help="Say why rules did not fire on MODEL.",
    params=[
        opt.MODEL,
        opt.BY_RULE,
        opt.NODE,
        opt.TARGET,
        opt.SELECT,
        opt.PASSES,
        opt.DISABLE,
        opt.SHOWN,
        opt.JSON,
    ],
)
def explain(*, model: str, as_json: bool, **options: Any) -> None:
    """Say why rules did not fire on MODEL: where a form comes near, and at which of its statements it stops."""
    from compiler.api import guarded
    from compiler.explaining import ExplainOptions, explain_model

    wanted = ExplainOptions(**options)
    with cli_output.progress(f"explaining {Path(model).name}", hidden=as_json) as tell:
        record = guarded(lambda: explain_model(model, wanted, progress=tell))
    if as_json:
        cli_output.write_json(record)
        return
    from compiler import render_rules

    cli_output.show(*render_rules.explanation(record))


@app.command(
    short_help="Measure this machine's kernels, about a minute for each number of threads.",
    params=[opt.CALIBRATED_THREADS, opt.CALIBRATION, opt.JSON],
)
def calibrate(*, threads: int | None, output: str | None, as_json: bool) -> None:
    """Measure what the runtime's kernels take on this machine; compiling for `auto` chooses by it from then on."""
    from compiler.calibrating import calibrate_machine

    with cli_output.progress("calibrating", hidden=as_json) as tell:
        records = calibrate_machine(threads=threads, output=Path(output) if output else None, tell=tell)
    if as_json:
        cli_output.write_json({"calibrations": records})
        return
    for record in records:
        text = f"{record['kinds']} kinds of kernels from {record['points']} cases, {record['threads']} thread(s)"
        cli_output.write(f"{text}\nwritten {record['path']}\n")


@app.command(params=[opt.JSON])
def targets(*, as_json: bool) -> None:
    """List the targets, and what this machine is."""
    from compiler.listing import targets as listed

    record = listed()
    if as_json:
        cli_output.write_json(record)
        return
    from compiler import render

    cli_output.show(*render.targets(record))


@app.command(short_help="List the passes, and the default pipeline.", params=[opt.PASS, opt.JSON])
def passes(*, name: str | None, as_json: bool) -> None:
    """List the passes with their options, and the default pipeline."""
    from compiler import listing

    record = listing.passes() if name is None else listing.describe_pass(name)
    if as_json:
        cli_output.write_json(record)
        return
    from compiler import render

    cli_output.show(*(render.passes(record) if name is None else render.one_pass(record)))


@app.command(short_help="List the rules, or show one in full.", params=[opt.RULE, opt.STAGE, opt.JSON])
def rules(*, name: str | None, stage: str | None, as_json: bool) -> None:
    """List the rules by stage, or show all that is known of one."""
    from compiler import ruling

    record = ruling.rules(stage=stage) if name is None else ruling.describe_rule(name)
    if as_json:
        cli_output.write_json(record)
        return
    from compiler import render_rules

    cli_output.show(*(render_rules.rules(record) if name is None else render_rules.one_rule(record)))


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


def _never_collect_cycles() -> None:
    """Leave garbage cycles to the end of the process: searching a large graph for them takes a tenth of the time."""
    gc.disable()
    atexit.register(gc.freeze)  # Python would search once more on its way out


def main() -> None:
    """Run the command line."""
    _lead_closed_streams_nowhere()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminated)
    _never_collect_cycles()
    app(prog_name="ampc")

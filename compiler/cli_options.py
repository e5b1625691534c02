"""Parameters that commands take, the completion of their values, and texts that stand for numbers.

Completion asks the passes and targets themselves, so plugins are completed too; nothing heavier than numpy is imported.
The parameters are objects that commands list, not decorators: several commands share most of them.
Decision: arguments are explained in a section of their own (``Argument``, ``Command``); click does so from 8.5 on only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import click
from click.shell_completion import CompletionItem

from compiler.errors import AmpcError, InputError

Completions: TypeAlias = "list[CompletionItem[str]]"
"""What may stand at a place of the command line."""


# Completion --------------------------------------------------------------------------------------


def complete_pass(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the name of a pass, also the last one of a pipeline."""
    from compiler.manager import known_passes

    start = max(incomplete.rfind(mark) for mark in ",( ") + 1
    with contextlib.suppress(AmpcError, ImportError):
        return [CompletionItem(incomplete[:start] + n) for n in known_passes() if n.startswith(incomplete[start:])]
    return []


def complete_rule(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the name of a rule."""
    from compiler.manager import known_rules

    with contextlib.suppress(AmpcError, ImportError):
        return [CompletionItem(name) for name in known_rules() if name.startswith(incomplete)]
    return []


def complete_pass_or_rule(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the name of a pass or of a rule."""
    return complete_pass(ctx, param, incomplete) + complete_rule(ctx, param, incomplete)


def complete_selection(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete a way to choose among forms of an operator."""
    from compiler.planning import SELECTIONS

    return [CompletionItem(name) for name in SELECTIONS if name.startswith(incomplete)]


def complete_stage(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the name of a stage."""
    from compiler.ruling import STAGES

    return [CompletionItem(name) for name in STAGES if name.startswith(incomplete)]


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete the name of a target, or else of a file."""
    from targets import TargetError
    from targets.catalog import AUTO, catalog

    with contextlib.suppress(TargetError):
        found = [CompletionItem(name) for name in (AUTO, *catalog()) if name.startswith(incomplete)]
        return found or complete_file(ctx, param, incomplete)
    return []


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Let the shell complete the name of a file."""
    return [CompletionItem(incomplete, type="file")]


def complete_folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Let the shell complete the name of a folder."""
    return [CompletionItem(incomplete, type="dir")]


# What click lacks --------------------------------------------------------------------------------


class Argument(click.Argument):
    """An argument that the help explains."""

    def __init__(self, name: str, *, about: str, **settings: Any) -> None:
        super().__init__([name], **settings)
        self.about = about

    def row(self, ctx: click.Context) -> tuple[str, str]:
        """Return how the argument is written, and what it is."""
        return self.make_metavar(ctx), f"{self.about}  [required]" if self.required else self.about


class Command(click.Command):
    """A command whose help explains its arguments before its options."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write usage, purpose, arguments and options."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        if rows := [param.row(ctx) for param in self.params if isinstance(param, Argument)]:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        self.format_options(ctx, formatter)


class Whole(click.IntRange):
    """A whole number within limits."""

    name = "whole number"


class Number(click.FloatRange):
    """A number within limits."""

    name = "number"


# The parameters ----------------------------------------------------------------------------------


def flag(names: str, help: str, **settings: Any) -> click.Option:
    """Return an option without a value."""
    return click.Option(names.split(), is_flag=True, help=help, **settings)


def option(names: str, metavar: str, help: str, **settings: Any) -> click.Option:
    """Return an option with a value, ``None`` when it is not given."""
    return click.Option(names.split(), metavar=metavar, help=help, **settings)


def pass_option(name: str, help: str) -> click.Option:
    """Return an option whose value is the name of a pass, empty when it is not given."""
    return option(name, "PASS", help, default="", show_default=False, shell_complete=complete_pass)


MODEL = Argument("model", metavar="MODEL", about="An .onnx file, or .ir text.", shell_complete=complete_file)
REFERENCE = Argument(
    "first", metavar="A", about="The reference: an .onnx file or a bundle.", shell_complete=complete_file
)
CANDIDATE = Argument("second", metavar="B", about="What is compared with it.", shell_complete=complete_file)
RULE = Argument("name", metavar="[RULE]", about="Show one rule in full.", required=False, shell_complete=complete_rule)
PASS = Argument("name", metavar="[PASS]", about="Show one pass in full.", required=False, shell_complete=complete_pass)

JSON = flag("--json as_json", "Print one JSON document instead of tables.")
QUIET = flag("--quiet -q", "Print errors only.")
TARGET = option(
    "--target -t",
    "TARGET",
    "A target's name, or the path of a TOML file.",
    default="auto",
    show_default=True,
    shell_complete=complete_target,
)
INPUTS = option("--inputs", "NPZ", "Inputs of your own to check with, by name.", shell_complete=complete_file)
PASSES = option(
    "--passes", "PIPELINE", "A pipeline in place of the default; see `ampc passes`.", shell_complete=complete_pass
)
DISABLE = option(
    "--disable",
    "NAME",
    "Leave this pass or rule out; may be repeated.",
    multiple=True,
    shell_complete=complete_pass_or_rule,
)
SELECT = option(
    "--select",
    "HOW",
    "Which form of an operator to take: the most fused one, what pays (cost), or standard operators only.",
    default="cost",
    show_default=True,
    shell_complete=complete_selection,
)
TIMEOUT = option(
    "--timeout",
    "SECONDS",
    "Limit of each run of a model.",
    type=Number(min=0.001),
    default=120,
    show_default=True,
)
MEMORY = option("--memory-limit", "SIZE", "Limit of the process that runs models: 8GiB.")
SEED = option("--seed", "N", "Seed of the generated inputs.", type=Whole(min=0), default=0, show_default=True)

OUTPUT = option("--output -o", "OUT", "A folder for a bundle, or NAME.onnx.", shell_complete=complete_file)
UNTIL = pass_option("--until", "Stop after the first run of this pass.")
LIST = flag("--list listing", "List the passes that would run, and stop.")
VERIFY = flag(
    "--verify/--no-verify",
    "Check the result against the original; the bundle records it.",
    default=True,
    show_default=True,
)
VERIFY_EACH = flag(
    "--verify-each/--no-verify-each",
    "Check the graph's invariants after every pass.",
    default=True,
    show_default=True,
)
EXTERNAL_DATA = flag(
    "--external-data/--embed", "Weights beside the model, or inside; by default beside above 1 GiB.", default=None
)
DUMP_IR = option("--dump-ir", "DIR", "Write the IR after each pass that changed it.", shell_complete=complete_folder)
REPRO = option("--repro", "DIR", "Keep a reproduction of each pass rolled back.", shell_complete=complete_folder)

LOG_REWRITES = option(
    "--log-rewrites",
    "[FILE]",
    "Write each rewrite, before and after; to standard error without a FILE.",
    is_flag=False,
    flag_value="-",
    shell_complete=complete_file,
)
CALIBRATION = option(
    "--output -o", "FILE", "Write the calibration there, not into the cache folder.", shell_complete=complete_file
)
CALIBRATED_THREADS = option(
    "--threads", "N", "Measure with N threads only, not with one and with all cores.", type=Whole(min=1)
)
EXPLAIN = flag("--explain", "Show what was decided where, by which predicted cost.")
VERBOSE = flag("--verbose -v", "Show also what each rule did, and the time that it took.")

THREADS = option("--threads", "N", "Threads of the session, in place of the target's.", type=Whole(min=1))
TUNE = option(
    "--tune",
    "SECONDS",
    "Measure on this machine for at most so long what pays; 0 goes by what was measured before.",
    type=Number(min=0),
)
DATABASE = option(
    "--database", "FILE", "The file of what was measured; else one in your cache folder.", shell_complete=complete_file
)

STAGE = option("--stage", "STAGE", "Only rules of this stage.", shell_complete=complete_stage)
BY_RULE = option("--rule", "RULE", "The rule that is asked about; by default all.", shell_complete=complete_rule)
NODE = option("--node", "PATTERN", "Only places at nodes of yours whose name matches.")
SHOWN = option("--limit", "N", "Places to show; by default 3, without --rule 20.", type=Whole(min=1))

HTML = option("--html", "FILE", "Write the analysis as one HTML page.", shell_complete=complete_file)
QUICK = flag("--quick", "Only look at the model, without trying what could be gained.")

DIM = option("--dim", "NAME=N", "The size of an open dim of the inputs, for good; may be repeated.", multiple=True)
DEVICE_CHECK = flag("--device-check", "Fail when the target's execution provider is not here, or refuses the result.")

BIND = option("--bind", "DIM=N", "What a dynamic dim counts as; may be repeated.", multiple=True)

TEXT = option("--output -o", "FILE", "Write FILE.ir, large constants beside it.", shell_complete=complete_file)
BEFORE = pass_option("--before", "The IR before the first run of a pass.")
AFTER = pass_option("--after", "The IR after the last run of a pass.")
AROUND = pass_option("--around", "The IR before and after a pass.")
CHANGED = flag("--changed", "Only the lines that the pass changed.")
LOC = flag("--loc", "Where each node comes from.")
FACTS = flag("--facts", "What analysis knows, as comments.")
NODES = option("--nodes", "PATTERN", "Only nodes whose name, operator or origin matches.")


# Texts that stand for numbers --------------------------------------------------------------------


def parse_size(text: str | None) -> int | None:
    """Return bytes for a text such as ``8GiB``; raises ``InputError``."""
    from targets.quantity import Size

    try:
        return None if text is None else int(Size.parse(text).value)
    except ValueError as error:
        raise InputError(f"{text!r} is not a size", why=str(error), hint="write for example 500MB or 8GiB") from error


def parse_binding(texts: Sequence[str]) -> dict[str, int]:
    """Return what ``NAME=NUMBER`` texts say; raises ``InputError``."""
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            raise InputError(f"{text!r} is not a dim and a number", hint="write for example batch=4")
        found[name] = int(number)
    return found

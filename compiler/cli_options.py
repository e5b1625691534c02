"""Options that several commands share, the completion of their values, and texts that stand for numbers.

Completion asks the passes and targets themselves, so plugins are completed too; nothing heavier than numpy is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from compiler.errors import AmpcError, InputError


def complete_pass(incomplete: str) -> list[str]:
    """Complete the name of a pass, also the last one of a pipeline."""
    from compiler.manager import known_passes

    start = max(incomplete.rfind(mark) for mark in ",( ") + 1
    with contextlib.suppress(AmpcError, ImportError):
        return [incomplete[:start] + name for name in known_passes() if name.startswith(incomplete[start:])]
    return []


def complete_target(incomplete: str) -> list[str]:
    """Complete the name of a target."""
    from targets import TargetError
    from targets.catalog import AUTO, catalog

    with contextlib.suppress(TargetError):
        return [name for name in (AUTO, *catalog()) if name.startswith(incomplete)]
    return []


def pass_option(flag: str, help: str) -> Any:
    """Return an option whose value is the name of a pass."""
    return typer.Option(flag, metavar="PASS", help=help, autocompletion=complete_pass)


Model = Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or .ir text.", show_default=False)]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        metavar="TARGET",
        help="A target's name, or the path of a TOML file.",
        autocompletion=complete_target,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Inputs = Annotated[
    str | None, typer.Option("--inputs", metavar="NPZ", help="Inputs of your own to check with, by name.")
]
Passes = Annotated[
    str | None,
    typer.Option(
        "--passes",
        metavar="PIPELINE",
        help="A pipeline in place of the default; see `ampc passes`.",
        autocompletion=complete_pass,
    ),
]
Disable = Annotated[list[str] | None, pass_option("--disable", "Leave this pass out; may be repeated.")]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Limit of each run of a model.")
]
Memory = Annotated[
    str | None,
    typer.Option("--memory-limit", metavar="SIZE", help="Limit of the process that runs models: 8GiB."),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the generated inputs.")]

Output = Annotated[
    str | None, typer.Option("--output", "-o", metavar="OUT", help="A folder for a bundle, or NAME.onnx.")
]
Until = Annotated[str, pass_option("--until", "Stop after the first run of this pass.")]
List = Annotated[bool, typer.Option("--list", help="List the passes that would run, and stop.")]
Verify = Annotated[
    bool,
    typer.Option("--verify/--no-verify", help="Check the result against the original; the bundle records it."),
]
VerifyEach = Annotated[
    bool,
    typer.Option("--verify-each/--no-verify-each", help="Check the graph's invariants after every pass."),
]
ExternalData = Annotated[
    bool | None,
    typer.Option(
        "--external-data/--embed",
        help="Weights beside the model, or inside; by default beside above 1 GiB.",
    ),
]
DumpIr = Annotated[
    str | None,
    typer.Option("--dump-ir", metavar="DIR", help="Write the IR after each pass that changed it."),
]
Repro = Annotated[
    str | None,
    typer.Option("--repro", metavar="DIR", help="Keep a reproduction of each pass rolled back."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Reference = Annotated[
    str,
    typer.Argument(metavar="A", help="The reference: an .onnx file or a bundle.", show_default=False),
]
Candidate = Annotated[str, typer.Argument(metavar="B", help="What is compared with it.", show_default=False)]
Bind = Annotated[
    list[str] | None,
    typer.Option("--bind", metavar="DIM=N", help="What a dynamic dim counts as; may be repeated."),
]
Text = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write FILE.ir, large constants beside it."),
]
Before = Annotated[str, pass_option("--before", "The IR before the first run of a pass.")]
After = Annotated[str, pass_option("--after", "The IR after the last run of a pass.")]
Around = Annotated[str, pass_option("--around", "The IR before and after a pass.")]
Changed = Annotated[bool, typer.Option("--changed", help="Only the lines that the pass changed.")]
Loc = Annotated[bool, typer.Option("--loc", help="Where each node comes from.")]
Facts = Annotated[bool, typer.Option("--facts", help="What analysis knows, as comments.")]
Nodes = Annotated[
    str | None,
    typer.Option("--nodes", metavar="PATTERN", help="Only nodes whose name, operator or origin matches."),
]
Pass = Annotated[
    str | None,
    typer.Argument(metavar="[PASS]", help="Show one pass in full.", show_default=False, autocompletion=complete_pass),
]


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
            raise InputError(f"{text!r} is not a dim and a number", hint="write --bind batch=4")
        found[name] = int(number)
    return found

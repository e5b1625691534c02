"""Time models, bundles and settings side by side: ``ampc bench``.

The instrument is the compiler's (``bench_models``): one process per variant, bursts by turns, and intervals.  The
command line finds ``command`` through the entry point group ``ampc.commands``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from compiler import AmpcError, InputError, Timing, Variant, bench_models
from tools.timing_tables import conditions, narrow_console, plain_table, ratio_table, timing_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_NAME = 10
"""Characters of a variant's name in tables."""

_OPERATORS = 15
"""Operators that a profile shows."""

_EXAMPLES = """\
examples:
  ampc bench model.onnx out/                       before and after compiling
  ampc bench model.onnx --settings session.intra_op.allow_spinning=0
  ampc bench a.onnx b.onnx --threads 1 --profile   where the difference is
"""


def command(argv: list[str]) -> int:
    """Run ``ampc bench`` and return the exit code; 0 means that it was measured, whatever came out."""
    as_json = "--json" in argv
    try:
        asked = _parser().parse_args(argv)
        variants = make_variants(asked.models, asked.settings)
        timings = bench_models(
            variants,
            inputs=asked.inputs,
            dims=_sizes(asked.dim),
            threads=asked.threads,
            seconds=asked.seconds,
            profile=asked.profile,
            database=asked.database,
            keep=not asked.forget,
        )
    except AmpcError as error:
        if as_json:
            sys.stdout.write(dumps(error.to_json()) + "\n")
        else:
            sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    if as_json:
        sys.stdout.write(dumps(report(variants, timings), indent=1) + "\n")
    else:
        show(timings, narrow_console())
    return 0


def make_variants(models: Sequence[str], settings: Sequence[str]) -> dict[str, Variant]:
    """Return each model as it is, then each under each text of settings, by names for people.

    A text is ``key=value,key=value``: a key with a dot is a session config entry, ``provider`` an execution provider,
    any other a field of ``SessionOptions``.  Raises ``InputError`` for a text that is not like that.
    """
    names = _names(models)
    found = {name: Variant(str(path)) for name, path in zip(names, models, strict=True)}
    for text in settings:
        given = parse_settings(text)
        for name, path in zip(names, models, strict=True):
            title = text if len(models) == 1 else f"{name}: {text}"
            found[title] = Variant(str(path), given)
    if len(found) < 2 and not settings and not models:
        raise InputError("there is nothing to measure", hint="name models or bundles")
    return found


def parse_settings(text: str) -> dict[str, Any]:
    """Return the settings that a text states; raises ``InputError``."""
    found: dict[str, Any] = {"session_options": {}, "config_entries": {}}
    for part in text.split(","):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not key:
            raise InputError(f"{part!r} is not key=value", where="--settings", hint="write key=value,key=value")
        if key == "provider":
            found.setdefault("providers", []).append([value, {}])
        elif "." in key:
            found["config_entries"][key] = value
        else:
            found["session_options"][key] = _plain(value)
    return found


def report(variants: Mapping[str, Variant], timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Return the JSON document of a measurement."""
    first = next(iter(timings.values()))
    return {
        "variants": {
            name: {"path": variants[name].path, "settings": dict(variants[name].settings), **timing.to_json()}
            for name, timing in timings.items()
        },
        "busy": first.conditions.busy,
    }


def show(timings: Mapping[str, Timing], console: Console) -> None:
    """Print times, ratios, the difference by operator if it was asked for, and what the machine was like."""
    short = dict(zip(_fitted(list(timings)), timings.values(), strict=True))
    console.print(timing_table(short))
    if len(short) > 1:
        console.print(ratio_table(short))
    if any(timing.operators for timing in short.values()):
        console.print(profile_table(short))
    for line in conditions(next(iter(short.values()))):
        console.print(line, markup=False)
    for key, name in zip(short, timings, strict=True):
        if key != name:
            console.print(f"{key}: {name}", markup=False)


def profile_table(timings: Mapping[str, Timing]) -> Table:
    """Tabulate microseconds by operator, those first in which the last variant differs most from the first."""
    profiles = [timing.operators for timing in timings.values()]
    table = plain_table("us by operator (nodes)", *timings, *(["difference"] if len(profiles) > 1 else []))
    operators = dict.fromkeys(op for profile in profiles for op in profile)

    def difference(op: str) -> float:
        return profiles[-1].get(op, (0.0, 0))[0] - (profiles[0].get(op, (0.0, 0))[0] if len(profiles) > 1 else 0.0)

    ordered = sorted(operators, key=lambda op: (-abs(difference(op)), op))
    for op in ordered[:_OPERATORS]:
        cells = [f"{p[op][0]:.0f} ({p[op][1]:.0f})" if op in p else "-" for p in profiles]
        table.add_row(op, *cells, *([f"{difference(op):+.0f}"] if len(profiles) > 1 else []))
    others = ordered[_OPERATORS:]
    if others:
        sums = [sum(p[op][0] for op in others if op in p) for p in profiles]
        last = [f"{sums[-1] - sums[0]:+.0f}"] if len(profiles) > 1 else []
        table.add_row(f"{len(others)} others", *(f"{s:.0f}" for s in sums), *last)
    totals = [sum(us for us, _ in profile.values()) for profile in profiles]
    last = [f"{totals[-1] - totals[0]:+.0f}"] if len(profiles) > 1 else []
    table.add_row("all", *(f"{total:.0f}" for total in totals), *last)
    return table


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours, so that they are shown as those of other commands."""

    def error(self, message: str) -> NoReturn:
        """Raise ``InputError`` for arguments that make no sense."""
        raise InputError(message, hint="see ampc bench --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ampc bench",
        allow_abbrev=False,
        description="Time models, bundles and settings side by side on this machine, each in a process of its own.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="an .onnx file, or the folder of a bundle")
    parser.add_argument(
        "--settings", action="append", default=[], metavar="K=V,...", help="time it with these too; repeatable"
    )
    parser.add_argument("--threads", type=_whole, metavar="N", help="pin each to N processors and threads")
    parser.add_argument("--seconds", type=_positive, default=10.0, metavar="S", help="how long; default: 10")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=N", help="size of a dynamic dim")
    parser.add_argument("--inputs", type=Path, metavar="NPZ", help="inputs by name; default: drawn at random")
    parser.add_argument("--profile", action="store_true", help="show the time of each operator too")
    parser.add_argument("--database", type=Path, metavar="FILE", help="where to keep it; default: the user's cache")
    parser.add_argument("--forget", action="store_true", help="keep nothing of what is measured")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _sizes(texts: Sequence[str]) -> dict[str, int]:
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            raise InputError(f"{text!r} is not a dim and a number", where="--dim", hint="write --dim batch=4")
        found[name] = int(number)
    return found


def _plain(text: str) -> Any:
    """Return a value of ``SessionOptions``: a boolean, a whole number, or a word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if text.removeprefix("-").isdecimal() else text


def _names(models: Sequence[str]) -> list[str]:
    """Return a name for each path: its last part, with more of the path or a number where that is not enough."""
    short = [Path(path).name or str(path) for path in models]
    names = [path if short.count(name) > 1 else name for name, path in zip(short, map(str, models), strict=True)]
    times = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(names, times, strict=True)]


def _fitted(names: Sequence[str]) -> Iterator[str]:
    """Yield names that fit into tables: letters, where one is long."""
    letters = [chr(ord("A") + i) if i < 26 else f"#{i + 1}" for i in range(len(names))]
    yield from names if max(map(len, names)) <= _NAME else letters


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))

"""Show the IR of a model as it is loaded, or around a pass of the pipeline: ``ampc dump``.

Decisions: the pipeline runs as ``ampc compile`` runs it, checks of results excepted.  What is written to a file holds
every name and origin, so that ``ampc compile FILE.ir`` compiles the same model; excerpts and differences are for
reading only and are never written there.
"""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compiler import manager
from compiler.errors import InputError
from compiler.ir.graph import Model
from compiler.manager import PassRecord, Runner
from compiler.observe import Progress, Snapshots
from compiler.planning import check_selection, plan, rule_context
from compiler.settings import load_target


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """What to show, and how; see ``ampc dump --help``."""

    before: str = ""
    """Pass before whose first run the IR is shown."""
    after: str = ""
    """Pass after whose last run the IR is shown."""
    around: str = ""
    """Pass that is shown before and after."""
    changed: bool = False
    """Show only the lines that the pass changed."""
    loc: bool = False
    """Show node names and origins."""
    facts: bool = False
    """Add what analysis knows as comments."""
    nodes: str | None = None
    """Show only statements that match this pattern."""
    passes: str | None = None
    """A pipeline in place of the default."""
    disable: tuple[str, ...] = ()
    """Passes and rules to leave out."""
    select: str = "cost"
    """How lowering chooses among forms."""
    target: str = "auto"
    """The target whose pipeline runs."""
    output: Path | None = None
    """File to write; with ``around`` two files, ``NAME.before.ir`` and ``NAME.after.ir``."""

    @property
    def wanted(self) -> list[str]:
        """The passes that are asked for, each once."""
        return list(dict.fromkeys(name for name in (self.before, self.after, self.around) if name))


def dump_model(
    path: str | os.PathLike[str],
    options: DumpOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Return the texts that were asked for by title; with ``output``, the paths that were written by title.

    ``progress`` is called with the name of each pass that runs.  Raises ``InputError`` for what cannot be read,
    written, or combined, and for a pass that does not run; ``UnknownNameError`` for one that does not exist.
    """
    options = options or DumpOptions()
    source = Path(path)
    _check(options, source)
    check_selection(options.select)
    if not options.wanted:
        text = _texts(options, "") if options.output is None else _saves(options.output)
        return {f"{source.name} as loaded": text(load(source))}
    steps = plan(
        options.passes, target=load_target(options.target), disable=options.disable, reach=options.wanted
    )
    model = load(source)
    found: dict[str, str] = {}
    snapshots = {name: _snapshots(name, options) for name in options.wanted}
    records = _run(model, steps, list(snapshots.values()), options, progress)
    for name, snapshot in snapshots.items():
        if not snapshot.seen:
            raise InputError(f"pass {name!r} never ran", where=str(source), why=_why_not(name, options))
        found |= _titled(name, snapshot, [r for r in records if r.name == name], options)
    return found


def load(path: Path) -> Model:
    """Return a model file or IR text as the pipeline gets it: lifted, with types."""
    from compiler.opening import open_model, prepare

    model = open_model(path)
    prepare(model)
    return model


def _check(options: DumpOptions, source: Path) -> None:
    if options.changed and len(options.wanted) != 1:
        raise InputError(
            "--changed needs the one pass whose changes are to be shown", hint="add --around PASS; see `ampc passes`"
        )
    if options.output is None:
        return
    if options.changed or options.nodes is not None:
        raise InputError(
            "--changed and --nodes show parts of the IR, and a part cannot be compiled",
            hint="leave out -o, and redirect what is printed",
        )
    if options.output.suffix != ".ir":
        raise InputError("the name of IR text must end in .ir", where=str(options.output), hint="add -o NAME.ir")
    if options.output.exists() and source.exists() and options.output.samefile(source):
        raise InputError("the output is the model itself", where=str(options.output), hint="choose another name")
    if len(options.wanted) > 1:
        raise InputError("-o writes the IR around one pass", hint="name one of --before, --after and --around")


def _run(
    model: Model,
    steps: list[manager.Step],
    snapshots: list[Snapshots],
    options: DumpOptions,
    progress: Callable[[str], None] | None,
) -> list[PassRecord]:
    from compiler.verify.fold import runtime_evaluator
    from compiler.verify.worker import shared_worker

    observers: list[manager.Observer] = [*snapshots]
    if progress is not None:
        observers.append(Progress(progress))
    context = rule_context(
        load_target(options.target),
        model,
        evaluate=runtime_evaluator(shared_worker, model=model),
        select=options.select,
        left_out=options.disable,
    )
    return Runner(model, context, observers, disable=frozenset(options.disable)).run(steps)


def _snapshots(name: str, options: DumpOptions) -> Snapshots:
    """Return an observer that keeps (or writes) what was asked for of a pass, and nothing else."""
    before = name in (options.before, options.around) or options.changed
    after = name in (options.after, options.around) or options.changed
    text = _texts(options, name)
    if options.output is None:
        return Snapshots(name, text)
    both = before and after
    first = _saves(options.output.with_suffix(".before.ir") if both else options.output)
    last = _saves(options.output.with_suffix(".after.ir") if both else options.output)
    calls = 0

    def save(model: Model) -> str:
        nonlocal calls
        calls += 1
        if calls > 1:
            return last(model) if after else ""
        written = first(model)
        return last(model) if both else written

    return Snapshots(name, save)


def _texts(options: DumpOptions, name: str) -> Callable[[Model], str]:
    from compiler.ir.printer import print_model

    return functools.partial(print_model, loc=options.loc, facts=options.facts, nodes=options.nodes)


def _saves(path: Path) -> Callable[[Model], str]:
    """Return a function that writes a model's text and returns the path."""
    from compiler.ir.printer import save_text

    def save(model: Model) -> str:
        save_text(model, path)
        return str(path)

    return save


def _titled(name: str, snapshot: Snapshots, records: list[PassRecord], options: DumpOptions) -> dict[str, str]:
    outcome = _outcome(records)
    if options.changed:
        return {f"what {name} changed{outcome}": _difference(snapshot.before_text, snapshot.after_text)}
    found = {}
    if name in (options.before, options.around):
        found[f"before {name}"] = snapshot.before_text
    if name in (options.after, options.around):
        found[f"after {name}{outcome}"] = snapshot.after_text
    if options.output is not None and len(found) == 2:
        found[f"before {name}"] = str(options.output.with_suffix(".before.ir"))
    return found


def _outcome(records: list[PassRecord]) -> str:
    """Say of a pass what its texts do not show: that it failed, or changed nothing."""
    failed = next((r.error for r in records if r.error), "")
    if failed:
        return f" (it failed, and was undone: {failed.splitlines()[0]})"
    return "" if any(r.changed for r in records) else " (it changed nothing)"


def _why_not(name: str, options: DumpOptions) -> str:
    return "it is disabled" if name in options.disable else "nothing had changed since it last had nothing to do"


def _difference(before: str, after: str) -> str:
    """Return the lines that differ, with their places, and no lines around them."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", n=0, lineterm="")
    return "".join(f"{line}\n" for line in lines)

"""Passes, pipelines and transactions: which passes there are, in what order they run, and what happens when one fails.

A pipeline is text: ``canonicalize, fold{budget=16MiB}, fixpoint{bound=8}(no-ops, dead-code)``.  A pass runs in a
transaction: when it raises, or leaves an invalid graph, everything it did is undone, the failure is recorded, and the
pipeline goes on.  A pass that says that it changed nothing, but did (or the other way round), is caught here.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
import re
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from compiler.errors import AmpcError, CompilerError, InputError, ParseError, UnknownNameError, nearest
from compiler.ir import edit
from compiler.ir.edit import Journal
from compiler.ir.graph import Model
from compiler.ir.reinfer import infer_changes
from compiler.ir.verify import verify
from compiler.rewrite.engine import RuleStats
from compiler.rewrite.rule import Rule
from compiler.rewrite.transform import Context, Pass

DEFAULT_PIPELINE = (
    "canonicalize, legalize-floats, "
    "fixpoint{bound=8}(constant-conditions, fold, shape-chains, no-ops, raise-einsum, cancel, "
    "common-subexpressions, dead-code), "
    "fixpoint{bound=8}(normalize, raise, fold, shape-chains, no-ops, cancel, common-subexpressions, dead-code), "
    "fold-batch-normalization, fold-scale, fold-pad, hoist-rows, optimize, fold, cancel, "
    "lower, stagger-rows, expand, legalize, fold, shape-chains, no-ops, cancel, "
    "share-constants, flush-denormals, common-subexpressions, dead-code"
)
"""What runs when neither the target nor the user says otherwise."""

_BOUND = 10
"""Rounds of a fixpoint unless its ``bound`` says otherwise."""


_T = TypeVar("_T")

# What passes there are ---------------------------------------------------------------------------


@functools.cache
def known_passes() -> dict[str, type[Pass]]:
    """Return every pass by its name: those of the package ``passes``, and those of installed plugins.

    Raises ``InputError`` when two passes have one name, a plugin cannot be imported, or ``passes`` is not ours.
    """
    found: dict[str, type[Pass]] = {}
    for cls in _discovered(_passes_in):
        if found.setdefault(cls.name, cls) is not cls:
            other = found[cls.name]
            raise InputError(
                f"two passes are called {cls.name!r}",
                why=f"{other.__module__}.{other.__qualname__} and {cls.__module__}.{cls.__qualname__}",
                hint="rename the plugin's pass (class attribute `name`)",
            )
    return dict(sorted(found.items()))


@functools.cache
def known_rules() -> dict[str, type[Rule]]:
    """Return every rule by its name, in order: those of the package ``passes``, and those of plugins.

    Raises ``InputError`` as ``known_passes`` does, ``ParseError`` for a plugin's rule that is malformed.
    """
    found: dict[str, type[Rule]] = {}
    for cls in _discovered(_rules_in):
        if found.setdefault(cls.name, cls) is not cls:
            raise InputError(
                f"two rules are called {cls.name!r}",
                why=f"{found[cls.name].__module__} and {cls.__module__} define it",
                hint="rename the plugin's rule",
            )
    return dict(sorted(found.items()))


def _discovered(of_module: Callable[[Any], list[type[_T]]]) -> Iterator[type[_T]]:
    for module in _own_modules():
        yield from of_module(module)
    for loaded in _plugins():
        if isinstance(loaded, type):
            holder = types.SimpleNamespace(**{"__name__": loaded.__module__, loaded.__name__: loaded})
            yield from of_module(holder)
        else:
            yield from of_module(loaded)


@functools.cache
def _own_modules() -> tuple[Any, ...]:
    try:
        package: Any = importlib.import_module("passes")
    except Exception as error:  # somebody else's package may fail in any way
        raise _not_ours("?", f"{type(error).__name__}: {error}") from error
    if not hasattr(package, "AMPC"):
        raise _not_ours(str(getattr(package, "__file__", "?")), "a package of yours comes first on sys.path")
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return tuple(importlib.import_module(f"passes.{name}") for name in names)


def _not_ours(where: str, why: str) -> InputError:
    return InputError(
        "the package 'passes' that was imported is not ampc's",
        where=where,
        why=why,
        hint="run ampc from another folder, or install it in an environment of its own",
    )


def _passes_in(module: Any) -> list[type[Pass]]:
    return [cls for cls in _classes(module, Pass) if "run" in vars(cls)]


def _rules_in(module: Any) -> list[type[Rule]]:
    return [cls for cls in _classes(module, Rule) if "before" in vars(cls)]


def _classes(module: Any, kind: type[_T]) -> list[type[_T]]:
    """Return the subclasses of a class that a module defines itself, ordered by name."""
    found = [v for _, v in sorted(vars(module).items()) if isinstance(v, type) and issubclass(v, kind)]
    return [cls for cls in found if cls.__module__ == module.__name__]


def _plugins() -> Iterator[Any]:
    """Yield what the entry points name: modules of passes and rules, or single classes."""
    from importlib.metadata import entry_points

    for entry in sorted(entry_points(group="ampc.passes"), key=lambda e: e.name):
        try:
            yield entry.load()
        except ParseError:
            raise  # a malformed rule; the error names its place
        except Exception as error:  # a plugin may fail in any way
            raise InputError(
                f"the plugin {entry.name!r} cannot be loaded", where=entry.value, why=f"{type(error).__name__}: {error}"
            ) from error


def function_pass(name: str, function: Any) -> Pass:
    """Wrap ``function(graph, ctx) -> bool`` as a pass of the given name, for use in a pipeline list."""

    class _FunctionPass(Pass):
        def run(self, graph: Any, ctx: Context) -> bool:
            return bool(function(graph, ctx))

    _FunctionPass.name = name
    return _FunctionPass()


# Pipelines as text -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fixpoint:
    """Steps that repeat until none of them changes anything, at most ``bound`` times."""

    steps: tuple[Step, ...]
    bound: int = _BOUND


Step = Pass | Fixpoint

_TOKEN = re.compile(r"\s*(?:([A-Za-z][\w-]*)|(\{[^{}]*\})|([(),]))")


def parse_pipeline(text: str) -> list[Step]:
    """Parse a pipeline; raises ``ParseError`` with the column, ``UnknownNameError`` for a name that does not exist."""
    tokens = list(_tokens(text))
    steps, position = _steps(tokens, 0, text, depth=0)
    if position < len(tokens):
        raise _syntax(text, tokens[position][2], "')' without '('")
    return steps


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise _syntax(text, position, f"unexpected {text[position:].strip()[0]!r}")
        kind = "name" if match[1] else "options" if match[2] else match[3]
        yield kind, match[0].strip(), match.end() - len(match[0].strip())
        position = match.end()


def _syntax(text: str, column: int, why: str) -> ParseError:
    return ParseError(
        "the pipeline does not parse",
        where=f"column {column + 1}: {text}\n{' ' * (len(f'  where: column {column + 1}: ') + column)}^",
        why=why,
        hint="write pass,pass{option=value},fixpoint{bound=8}(pass,pass)",
    )


def _steps(tokens: list[tuple[str, str, int]], position: int, text: str, depth: int) -> tuple[list[Step], int]:
    steps: list[Step] = []
    while position < len(tokens):
        kind, word, column = tokens[position]
        if kind == ")" and not steps:
            break
        if kind != "name":
            raise _syntax(text, column, f"a pass name was expected, not {word!r}")
        position += 1
        options: dict[str, str] = {}
        if position < len(tokens) and tokens[position][0] == "options":
            options = _options(tokens[position][1], text, tokens[position][2])
            position += 1
        if word == "fixpoint":
            step, position = _fixpoint(tokens, position, text, column, options, depth)
            steps.append(step)
        else:
            steps.append(make_pass(word, options))
        if position == len(tokens) or tokens[position][0] == ")":
            break
        if tokens[position][0] != ",":
            raise _syntax(text, tokens[position][2], f"a comma was expected, not {tokens[position][1]!r}")
        position += 1
        if position == len(tokens):
            raise _syntax(text, len(text), "a pass name was expected after the comma")
    return steps, position


def _fixpoint(
    tokens: list[tuple[str, str, int]], position: int, text: str, column: int, options: dict[str, str], depth: int
) -> tuple[Fixpoint, int]:
    if position >= len(tokens) or tokens[position][0] != "(" or depth > 8:
        raise _syntax(text, column, "'fixpoint' needs passes in parentheses, nested at most 8 deep")
    inner, position = _steps(tokens, position + 1, text, depth + 1)
    if position >= len(tokens):
        raise _syntax(text, len(text), "')' is missing")
    unknown = [k for k in options if k != "bound"]
    if unknown:
        raise UnknownNameError(f"fixpoint has no option {unknown[0]!r}", hint=nearest(unknown[0], ["bound"]))
    bound = _convert("fixpoint", "bound", options.get("bound", str(_BOUND)), int)
    if bound < 1:
        raise ParseError(f"fixpoint{{bound={bound}}}: the bound must be at least 1")
    return Fixpoint(tuple(inner), bound), position + 1


def _options(word: str, text: str, column: int) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in word[1:-1].split(","))):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not key or not value:
            raise _syntax(text, column, f"{part!r} is not option=value")
        options[key] = value
    return options


def make_pass(name: str, options: dict[str, str] | None = None) -> Pass:
    """Return a pass by name, its options given as text."""
    passes = known_passes()
    if name not in passes:
        raise UnknownNameError(f"there is no pass {name!r}", hint=nearest(name, list(passes)))
    cls = passes[name]
    fields = {f.name: f for f in _options_of(cls)}
    values: dict[str, Any] = {}
    for key, value in (options or {}).items():
        attribute = key.replace("-", "_")
        if attribute not in fields:
            raise UnknownNameError(
                f"pass {name!r} has no option {key!r}", hint=nearest(key, list(fields)) if fields else "it has none"
            )
        values[attribute] = _convert(name, key, value, type(fields[attribute].default))
    try:
        return cls(**values)
    except ValueError as error:
        raise ParseError(f"pass {name!r} refuses its options", why=str(error)) from error


def _options_of(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


def _convert(name: str, key: str, value: str, kind: type) -> Any:
    if kind is bool:
        if value.lower() in ("true", "1", "yes", "on"):
            return True
        if value.lower() in ("false", "0", "no", "off"):
            return False
    elif kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass  # reported below, with the place
    else:
        return value
    raise ParseError(f"{name}{{{key}={value}}}: a value of type {kind.__name__} was expected")


def format_pipeline(steps: Sequence[Step]) -> str:
    """Return the canonical text of a pipeline."""
    return ", ".join(_format_step(s) for s in steps)


def _format_step(step: Step) -> str:
    if isinstance(step, Fixpoint):
        return f"fixpoint{{bound={step.bound}}}({format_pipeline(step.steps)})"
    changed = [
        f"{f.name.replace('_', '-')}={getattr(step, f.name)}"
        for f in _options_of(type(step))
        if getattr(step, f.name) != f.default
    ]
    return step.name + (f"{{{', '.join(changed)}}}" if changed else "")


def pass_names(steps: Iterable[Step]) -> list[str]:
    """Return the names of all passes of a pipeline, in order of their first occurrence."""
    found: dict[str, None] = {}
    for step in steps:
        found.update(dict.fromkeys(pass_names(step.steps) if isinstance(step, Fixpoint) else [step.name]))
    return list(found)


# Running -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class PassRecord:
    """What one run of one pass did; times in milliseconds."""

    name: str
    changed: bool = False
    rewrites: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    rules: dict[str, RuleStats] = field(default_factory=dict)
    decisions: list[Any] = field(default_factory=list)
    ms: float = 0.0
    nodes_before: int = 0
    nodes_after: int = 0
    error: str = ""

    @property
    def fired(self) -> list[str]:
        """Rules whose rewrites were kept, by name."""
        return [name for name, stats in sorted(self.rules.items()) if stats.hits] if self.changed else []

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object; ``rewrites`` is the total, ``kinds`` what it is made of."""
        return {
            "name": self.name,
            "changed": self.changed,
            "rewrites": sum(self.rewrites.values()),
            "kinds": dict(sorted(self.rewrites.items())),
            "refusals": dict(sorted(self.refusals.items())),
            "rules": {name: stats.to_json() for name, stats in sorted(self.rules.items())},
            "ms": round(self.ms, 3),
            "nodes_before": self.nodes_before,
            "nodes_after": self.nodes_after,
            "error": self.error,
        }


class Observer(Protocol):
    """Sees the model around every pass."""

    def before(self, model: Model, name: str) -> None:
        """Look at the model before a pass runs."""

    def after(self, model: Model, record: PassRecord, journal: Journal) -> None:
        """Look at the model after a pass changed it and the change was kept."""


@dataclass(slots=True)
class Runner:
    """Runs pipelines on one model.

    ``verify_each`` checks all invariants after each pass that changed something; ``strict`` raises where the default
    rolls back; ``disable`` names passes that are left out, ``until`` the pass after whose first run everything stops.
    """

    model: Model
    ctx: Context = field(default_factory=Context)
    observers: Sequence[Observer] = ()
    disable: frozenset[str] = frozenset()
    until: str = ""
    verify_each: bool = True
    strict: bool = False
    records: list[PassRecord] = field(default_factory=list)
    _changes: int = 0
    _settled: dict[str, int] = field(default_factory=dict)
    _stopped: bool = False

    def run(self, steps: Sequence[Step]) -> list[PassRecord]:
        """Run the steps in order and return the records of all runs so far."""
        for step in steps:
            if self._stopped:
                break
            if isinstance(step, Fixpoint):
                self._fixpoint(step)
            else:
                self._pass(step)
        return self.records

    def _fixpoint(self, step: Fixpoint) -> None:
        for _ in range(step.bound):
            before = self._changes
            self.run(step.steps)
            if self._changes == before or self._stopped:
                return

    def _pass(self, step: Pass) -> None:
        key = _format_step(step)
        unseen = self._settled.get(key) != self._changes  # otherwise it saw exactly this graph and did nothing
        if unseen and step.name not in self.disable:
            before = self._changes
            self._transaction(step)
            self._settled[key] = before  # out of date at once, if it changed something
        self._stopped = self._stopped or step.name == self.until

    def _transaction(self, step: Pass) -> None:
        model, ctx = self.model, self.ctx
        ctx.rewrites, ctx.refusals, ctx.rules, ctx.decisions = {}, {}, {}, []
        ctx.rule_set = ctx.rule_set or tuple(cls() for cls in known_rules().values())
        record = PassRecord(step.name, nodes_before=_node_count(model))
        for o in self.observers:
            o.before(model, step.name)
        started = time.perf_counter()
        journal = edit.begin(model)
        try:
            said = step.run(model.graph, ctx)
            self._check_truth(step, said, journal)
            if journal.changed:
                infer_changes(model, journal)
                if self.verify_each:
                    verify(model)
            edit.commit(model)
        except Exception as error:
            edit.rollback(model)
            record.error = str(error) if isinstance(error, AmpcError) else f"{type(error).__name__}: {error}"
            if self.strict or isinstance(error, ParseError):  # a malformed rule, which was read just now
                raise
        record.changed = journal.changed and not record.error
        record.rewrites, record.refusals = (ctx.rewrites if record.changed else {}), ctx.refusals
        record.rules = ctx.rules
        record.decisions = ctx.decisions
        record.ms = (time.perf_counter() - started) * 1e3
        record.nodes_after = _node_count(model)
        self.records.append(record)
        if record.changed:
            self._changes += 1
            for o in self.observers:
                o.after(model, record, journal)

    def _check_truth(self, step: Pass, said: bool, journal: Journal) -> None:
        if bool(said) != journal.changed:
            did = "changed the graph" if journal.changed else "changed nothing"
            raise CompilerError(
                f"pass {step.name!r} did not tell the truth",
                why=f"it {did}, and returned {said!r}",
                hint="return True exactly when the graph was changed through compiler.ir.edit",
            )


def _node_count(model: Model) -> int:
    return sum(g.node_count for g in model.graph.all_graphs())


def run_pipeline(model: Model, pipeline: str | Sequence[Step] = DEFAULT_PIPELINE, **options: Any) -> list[PassRecord]:
    """Run a pipeline on a model that was loaded, lifted and inferred; ``options`` are the fields of ``Runner``."""
    steps = parse_pipeline(pipeline) if isinstance(pipeline, str) else list(pipeline)
    return Runner(model, **options).run(steps)

"""What there is to choose from: passes, pipelines and targets, as plain records for tables and JSON."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from compiler import manager
from compiler.errors import UnknownNameError, nearest
from compiler.manager import Fixpoint, Step
from compiler.planning import plan
from compiler.rewrite.transform import Pass
from compiler.settings import converted, load_target


def passes() -> dict[str, Any]:
    """Return ``{"passes": [...], "default_pipeline": text}``."""
    known = manager.known_passes()
    return {
        "passes": [_summary(cls) for cls in known.values()],
        "default_pipeline": manager.DEFAULT_PIPELINE,
    }


def describe_pass(name: str) -> dict[str, Any]:
    """Return one pass with its whole documentation; raises ``UnknownNameError``."""
    known = manager.known_passes()
    if name not in known:
        raise UnknownNameError(f"there is no pass {name!r}", hint=nearest(name, list(known)))
    cls = known[name]
    return {
        **_summary(cls),
        "documentation": inspect.getdoc(cls) or "",
        "notes": inspect.getdoc(inspect.getmodule(cls)) or "",
        "in_default_pipeline": name in manager.pass_names(manager.parse_pipeline(manager.DEFAULT_PIPELINE)),
    }


def _summary(cls: type[Pass]) -> dict[str, Any]:
    fields: dict[str, dataclasses.Field[Any]] = getattr(cls, "__dataclass_fields__", {})
    return {
        "name": cls.name,
        "summary": (inspect.getdoc(cls) or "").partition("\n")[0],
        "options": {f.name.replace("_", "-"): f.default for f in fields.values()},
        "module": cls.__module__,
    }


def pipeline(passes: str | None, *, target: str, disable: Sequence[str] = (), until: str = "") -> dict[str, Any]:
    """Return the steps that a compilation would run, in order, with what groups and bounds them.

    Raises what ``compile_model`` raises for a pipeline, target or pass name that does not exist.
    """
    chosen = load_target(target)
    steps = plan(passes, target=chosen, disable=disable, reach=[until] if until else [])
    rows = list(_rows(steps, depth=0))
    last = next((i for i, row in enumerate(rows) if until and row["pass"] == until), len(rows) - 1)
    for i, row in enumerate(rows):
        row["runs"] = row["pass"] not in disable and i <= last
    return {"target": chosen.name, "pipeline": manager.format_pipeline(steps), "steps": rows}


def _rows(steps: Sequence[Step], *, depth: int) -> Iterator[dict[str, Any]]:
    for step in steps:
        if isinstance(step, Fixpoint):
            yield {"step": f"repeat, at most {step.bound} times:", "pass": "", "depth": depth}
            yield from _rows(step.steps, depth=depth + 1)
        else:
            summary = (inspect.getdoc(type(step)) or "").partition("\n")[0]
            text = manager.format_pipeline([step])
            yield {"step": text, "pass": step.name, "depth": depth, "summary": summary}


def targets() -> dict[str, Any]:
    """Return the targets, which of them ``auto`` takes, and what this machine is."""
    import targets as catalog

    try:
        listed = catalog.list_targets()
    except catalog.TargetError as error:
        raise converted(error) from error
    here = catalog.machine()
    return {
        "targets": [dataclasses.asdict(t) | {"chosen": t.name == here.best_target()} for t in listed],
        "machine": {
            "arch": here.arch,
            "isa": list(here.isa),
            "cores": here.cores,
            "installed_cores": here.installed,
            "threads": here.threads,
            "caches": {
                level: int(size.value) for level in ("l1d", "l2", "l3") if (size := getattr(here.caches, level))
            },
            "memory": int(here.memory.value) if here.memory else None,
        },
    }

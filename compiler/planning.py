"""Which steps a compilation runs: the caller's pipeline or the target's, with every name in it checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compiler import manager
from compiler.errors import InputError
from compiler.manager import Fixpoint, Step
from compiler.rewrite.transform import Pass
from targets import Target


def plan(
    passes: str | Sequence[Any] | None, *, target: Target, disable: Sequence[str] = (), reach: Sequence[str] = ()
) -> list[Step]:
    """Return the steps of a pipeline: that of ``passes``, else that of the target, else the default.

    ``passes`` is text, or a list of passes, pipeline texts and functions ``(graph, ctx) -> bool``.  Raises
    ``ParseError`` and ``UnknownNameError`` for what is no pipeline or names no pass, also in ``disable``, and
    ``InputError`` when a pass of ``reach`` is not among the steps.
    """
    if passes is None:
        passes = ", ".join(target.pipeline.passes) or manager.DEFAULT_PIPELINE
    items = [passes] if isinstance(passes, str) else passes
    steps = [step for index, item in enumerate(items) for step in _steps(item, index)]
    present = manager.pass_names(steps)
    for name in (*disable, *reach):
        if name not in present:
            manager.make_pass(name)  # raises with a suggestion when there is no such pass at all
    for name in reach:
        if name not in present:
            raise InputError(
                f"pass {name!r} is not in the pipeline",
                why=f"the pipeline is {manager.format_pipeline(steps) or 'empty'}",
                hint=f"say which one it is with --passes, for example --passes {name}",
            )
    return steps


def _steps(item: Any, index: int) -> list[Step]:
    if isinstance(item, str):
        return manager.parse_pipeline(item)
    if isinstance(item, Pass | Fixpoint):
        return [item]
    if isinstance(item, type) and issubclass(item, Pass):
        return [item()]
    if callable(item):
        name = getattr(item, "__name__", f"function-{index}").replace("_", "-")
        return [manager.function_pass(name, item)]
    raise InputError(
        f"item {index} of the pipeline is no pass: {item!r}",
        hint="give passes, pipeline texts, and functions (graph, ctx) -> bool",
    )

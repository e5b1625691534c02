"""Which steps a compilation runs: the caller's pipeline or the target's, with every name in it checked.

Passes and rules are left out by the same option: names of passes are in kebab-case, those of rules in CamelCase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from compiler import manager
from compiler.costing import cost_model, fragments
from compiler.errors import InputError, ParseError, UnknownNameError, nearest
from compiler.frontend.bodies import FunctionBodies
from compiler.manager import Fixpoint, Step
from compiler.rewrite.ceiling import ceiling
from compiler.rewrite.legal import Legality
from compiler.rewrite.transform import Context, Evaluator, Pass
from compiler.settings import runtime_limits
from targets import Target
from targets.gains import measured_gains

if TYPE_CHECKING:
    from compiler.cost.model import CostModel
    from compiler.ir.graph import Model
    from compiler.rewrite.engine import Rewrite

SELECTIONS = {
    "fused": "the most fused form that the target runs",
    "cost": "the form that was measured to be fastest there",
    "standard": "operators of ai.onnx only",
}
"""Ways to choose among the forms of an operator, and what each takes."""


def plan(
    passes: str | Sequence[Any] | None, *, target: Target, disable: Sequence[str] = (), reach: Sequence[str] = ()
) -> list[Step]:
    """Return the steps of a pipeline: that of ``passes``, else that of the target, else the default.

    ``passes`` is text, or a list of passes, pipeline texts and functions ``(graph, ctx) -> bool``.  Raises
    ``ParseError`` and ``UnknownNameError`` for what is no pipeline or names no pass (in ``disable``: no pass and no
    rule; in the option ``only``: no rule), and ``InputError`` when a pass of ``reach`` is not among the steps.
    """
    if passes is None:
        passes = ", ".join(checked_pipeline(target)) or manager.DEFAULT_PIPELINE
    items = [passes] if isinstance(passes, str) else passes
    steps = [step for index, item in enumerate(items) for step in _steps(item, index)]
    _check_only(steps)
    present = manager.pass_names(steps)
    _check_disabled([name for name in disable if name not in present])
    for name in reach:
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


def checked_pipeline(target: Target) -> tuple[str, ...]:
    """Return the passes that a target names; raises ``InputError`` with file and key for one that there is not."""
    for index, text in enumerate(target.pipeline.passes):
        try:
            manager.parse_pipeline(text)
        except (ParseError, UnknownNameError) as error:
            raise InputError(
                "the target cannot be used",
                where=f"{target.source}: pipeline.passes[{index}]",
                why=error.what + (f" ({error.why})" if error.why else ""),
                hint=error.hint,
            ) from error
    return target.pipeline.passes


def _check_disabled(names: Sequence[str]) -> None:
    known = [*manager.known_passes(), *manager.known_rules()] if names else []
    for name in names:
        if name not in known:
            raise UnknownNameError(f"there is no pass {name!r}, and no rule", hint=nearest(name, known))


def _check_only(steps: Iterable[Step]) -> None:
    for step in steps:
        if isinstance(step, Fixpoint):
            _check_only(step.steps)
            continue
        only = getattr(step, "only", "")
        if only and only not in manager.known_rules():
            hint = nearest(str(only), [*manager.known_rules()])
            raise UnknownNameError(f"there is no rule {only!r}", where=f"option only of {step.name}", hint=hint)


def rules_among(names: Iterable[str]) -> frozenset[str]:
    """Return those names that are names of rules."""
    given = frozenset(names)
    return given & manager.known_rules().keys() if given else given


def check_selection(name: str) -> str:
    """Return the name of a way to choose among forms; raises ``UnknownNameError`` when it is none."""
    if name not in SELECTIONS:
        raise UnknownNameError(f"nothing is selected by {name!r}", hint=nearest(name, [*SELECTIONS]))
    return name


def rule_context(
    target: Target,
    model: Model,
    *,
    evaluate: Evaluator | None = None,
    select: str = "cost",
    left_out: Iterable[str] = (),
    listeners: Sequence[Callable[[Rewrite], None]] = (),
    cost: CostModel | None = None,
) -> Context:
    """Return what passes may use on a target: what its provider runs, and what was measured there.

    ``model`` says which opset is emitted.  ``left_out`` may name passes too; only its rules count here.
    ``listeners`` are told of each rewrite just before it happens.  ``cost`` is what lowering chooses by; by default
    it is the cost model of the target as it is known here, with what was measured here.
    """
    highest = ceiling(model, target, newest=runtime_limits()[0])
    legality = Legality.of(target, opset=model.opsets.get("", 0), bodies=FunctionBodies(), highest=highest)
    return Context(
        target=target,
        evaluate=evaluate,
        banned_rules=rules_among(left_out),
        select=check_selection(select),
        gains=measured_gains(legality.provider or target.runtime.providers[0][0]),
        legality=legality,
        on_rewrite=_to_all(listeners) if listeners else None,
        cost=cost or cost_model(target, model, database=fragments(target)),
    )


def _to_all(listeners: Sequence[Callable[[Rewrite], None]]) -> Callable[[Rewrite], None]:
    def tell(rewrite: Rewrite) -> None:
        for listener in listeners:
            listener(rewrite)

    return tell


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

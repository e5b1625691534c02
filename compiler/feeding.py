"""Inputs to time a model with: the caller's, or drawn at the sizes at which such models are usually run.

A model may refuse the sizes that its names suggest; then those are tried that verification would try.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.errors import InputError, WorkerError, nearest

if TYPE_CHECKING:
    from compiler.ir.graph import Model
    from compiler.measure.instrument import Instrument, Variant
    from compiler.verify.probes import Probe, ProbePlan

_TRIES = 6
"""Sizes that are tried before a model counts as one that cannot be timed."""


@dataclass(frozen=True, slots=True)
class Feeds:
    """Inputs for one run."""

    values: Mapping[str, Any]
    """Arrays by the names of inputs."""
    binding: Mapping[str, int]
    """Sizes of the dynamic dims."""
    load_s: float = 0.0
    """Seconds that loading took when they were tried out."""
    run_s: float = 0.0
    """Seconds of a warm run then."""

    def shapes(self) -> dict[str, str]:
        """Return element type and shape of each input as text: all that a time depends on."""
        return {name: f"{value.dtype}{list(value.shape)}" for name, value in sorted(self.values.items())}


def choose_feeds(
    model: Model,
    instrument: Instrument,
    variant: Variant,
    *,
    inputs: Mapping[str, Any] | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Feeds:
    """Return the first inputs that the variant runs on.

    ``inputs`` are taken as they are; ``dims`` gives dynamic dims sizes.  Raises ``InputError`` when they do not fit
    the model, ``WorkerError`` when the model does not run.
    """
    from compiler.verify.probes import ProbePlan
    from compiler.verify.probes_draw import CannotDraw

    plan = ProbePlan(model)
    _check_dims(plan, dims or {})
    failure: Exception | None = None
    for _, probe in zip(range(_TRIES), _candidates(plan, inputs, dims or {}, seed), strict=False):
        try:
            load_s, run_s = instrument.try_out("the model", variant, probe.feeds)
        except (WorkerError, CannotDraw) as error:
            failure = failure or error
            continue
        return Feeds(probe.feeds, probe.binding, load_s, run_s)
    if isinstance(failure, WorkerError):
        raise failure
    raise WorkerError("a model cannot be timed", kind="run", why=str(failure), hint="give inputs (--inputs data.npz)")


def _candidates(
    plan: ProbePlan, inputs: Mapping[str, Any] | None, dims: Mapping[str, int], seed: int
) -> Iterator[Probe]:
    from compiler.verify.probes import Probe
    from compiler.verify.probes_bindings import usual

    if inputs is not None:
        yield plan.candidates(seed=seed, user=inputs)[0]
        return
    yield Probe("usual", "normal", {**usual(plan.symbols), **dims}, plan.slots, seed)
    for probe in plan.candidates(seed=seed):
        yield Probe(probe.name, "normal", {**probe.binding, **dims}, plan.slots, seed)


def _check_dims(plan: ProbePlan, dims: Mapping[str, int]) -> None:
    for name in dims:
        if name not in plan.symbols:
            hint = nearest(name, plan.symbols) if plan.symbols else "all dims of the inputs are fixed"
            raise InputError(f"the model's inputs have no dim called {name!r}", hint=hint)

"""Put an analysis together: what a model is made of, what it costs, what happens anyway, what slows it down."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.analysis.census import Census, take_census
from compiler.analysis.cliffs import Cliff, Scene, find_cliffs
from compiler.analysis.opportunities import Opportunities
from compiler.analysis.ort_does import BuiltIn, built_in
from compiler.analysis.placement import Placement
from compiler.analysis.work import Work, default_binding, estimate
from compiler.ir.graph import Model, Value
from compiler.ir.types import Type

if TYPE_CHECKING:
    from targets import Target
    from targets.kernels import KernelTable


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that is known of a model without running it; ``str()`` is a report in plain text."""

    source: str
    """The file, or what stands for it."""
    target: str
    """The target that it was looked at for."""
    provider: str
    """The target's first execution provider."""
    ir_version: int
    """The file's IR version."""
    opsets: dict[str, int]
    """Opset imports by domain; ``ai.onnx`` is ``""``."""
    census: Census
    """What it is made of."""
    work: Work
    """Operations and bytes."""
    anyway: tuple[BuiltIn, ...]
    """What ONNX Runtime does when it loads the model: nothing to gain there."""
    cliffs: tuple[Cliff, ...]
    """What makes the model slow, or keeps it from loading, and what to do."""
    notes: tuple[str, ...] = ()
    """What could not be looked at, and why."""
    opportunities: Opportunities | None = None
    """What the pipeline would gain; ``None`` when it was not tried."""
    placement: Placement | None = None
    """Where the nodes go as the model is; ``None`` when the target runs everything in one place."""
    compiled: Placement | None = None
    """Where they go once the model is compiled; ``None`` when that was not tried."""

    def to_json(self) -> dict[str, Any]:
        """Return the analysis as a JSON object."""
        record = dataclasses.asdict(self)
        record["census"] |= {"nodes": self.census.nodes, "bytes": self.census.nbytes}
        record["work"] |= {"operations": self.work.operations, "bytes": self.work.nbytes}
        if self.opportunities is not None:
            record["opportunities"] |= {"ratio": self.opportunities.ratio, "counts": self.opportunities.counts()}
        return record

    def to_html(self) -> str:
        """Return the analysis as one HTML page that needs nothing else."""
        from compiler.analysis.page import page

        return page(self)

    def __str__(self) -> str:
        from compiler.analysis.show import plain_text

        return plain_text(self)


def analyze(
    model: Model,
    target: Target,
    *,
    source: str,
    declared: Mapping[Value, Type],
    kernels: KernelTable | None,
    binding: Mapping[str, int],
    notes: tuple[str, ...] = (),
    placement: Placement | None = None,
) -> Analysis:
    """Analyze a model that has types.

    ``declared`` are types that the file claims for computed values, ``kernels`` the table of the target's first
    provider when there is one, ``binding`` the sizes that the caller gives to dynamic dims.
    """
    scene = Scene(model, target, kernels, declared)
    return Analysis(
        source=source,
        target=target.name,
        provider=scene.provider,
        ir_version=model.ir_version,
        opsets=dict(sorted(model.opsets.items())),
        census=take_census(model),
        work=estimate(model, target, default_binding(model, binding)),
        anyway=built_in(model, scene.provider),
        cliffs=find_cliffs(scene),
        notes=notes,
        placement=placement,
    )

"""Add to a placement what would better be left to the CPU: the prices of both sides come from the cost model.

A provider that compiles fuses: what is no product of matrices and no convolution costs nothing there, and no node has a
launch of its own: a partition has one, which each change of provider pays.
The CPU beside an accelerator is taken to be that of the target ``cpu``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from compiler.analysis.work import default_binding
from compiler.cost.model import CostModel
from compiler.cost.roofline import roofline
from compiler.cost.work import HEAVY, work_of
from compiler.costing import cost_model, threads_of
from compiler.settings import load_target

if TYPE_CHECKING:
    from compiler.analysis.islands import Prices
    from compiler.analysis.placement import Placement
    from compiler.ir.graph import Model, Node
    from targets import Target

_CPU = "CPUExecutionProvider"

_MOST = 4000
"""Nodes beyond which nobody waits for the answer."""


def with_islands(found: Placement, model: Model, target: Target, binding: Mapping[str, int] | None = None) -> Placement:
    """Return a placement with the islands of its first provider that are better left to the CPU."""
    from compiler.analysis.islands import find_islands
    from compiler.rewrite.legal import Legality
    from targets import TargetError

    first = target.runtime.providers[0][0]
    if first == _CPU or first in found.unknown or model.graph.node_count > _MOST:
        return found
    try:
        legality = Legality.of_provider(target, first, opset=model.opsets.get("", 0))
    except TargetError:
        return found
    here = CostModel(target, default_binding(model, binding or {}), threads=threads_of(target))
    prices = _prices(model, target, here)
    return dataclasses.replace(found, islands=find_islands(model.graph, legality.why_not, prices, here.sizes))


def _prices(model: Model, target: Target, here: CostModel) -> Prices:
    from compiler.analysis.islands import Prices

    cpu = load_target("cpu")
    there = cost_model(cpu, model, binding=here.sizes.known) or CostModel(cpu, here.sizes.known)
    launch = 1e6 * target.machine.launch.value
    rate = target.machine.transfer or target.machine.bandwidth

    def on_provider(node: Node) -> float:
        work = work_of(node, here.sizes)
        if target.constraints.compiles and (work is None or work.family not in HEAVY):
            return 0.0
        return roofline(here.kind(node), target, here.threads)

    return Prices(on_provider, lambda node: there.cost(node).us, launch, 1e6 / rate.value)

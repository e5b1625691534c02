"""Estimate the work of a model from its types: operations and bytes, by family of operators.

A multiply-add is two operations; an elementwise function of an element is one, whatever it is.  Bytes are those of the
operands and results, each counted whenever a node reads or writes it.  Operators that only rename memory cost nothing.

Decisions: dynamic dims need numbers, so a *binding* gives every symbol one, and whoever shows the estimate shows the
binding.  Nodes of nested graphs count once, since nobody knows how often a loop runs.  The time is what the target's
peak rates allow, ``launch + max(operations / peak, bytes / bandwidth)`` for each node: a lower bound that orders
families, not a prediction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.cost.work import USUAL, Sizes, work_of
from compiler.ir.dtype import DType
from compiler.ir.graph import Graph, Model, Node

if TYPE_CHECKING:
    from targets import Target

_BATCH = re.compile(r"(?i)b|n|bs|.*batch.*")
_LENGTH = re.compile(r"(?i)t|s|l|.*(seq|len|time|frame|token|sample).*")
_DEFAULTS = {"batch": 1, "length": 128, "other": USUAL}
"""Sizes of dynamic dims whose size nobody gave."""


@dataclass(frozen=True, slots=True)
class FamilyWork:
    """The work of all nodes of a family."""

    family: str
    """What the operators have in common."""
    nodes: int
    """Number of nodes."""
    operations: float
    """Arithmetic operations; a multiply-add is two."""
    nbytes: float
    """Bytes read and written."""
    seconds: float
    """What the target's peak rates allow at best."""


@dataclass(frozen=True, slots=True)
class Work:
    """An estimate of a model's work."""

    families: tuple[FamilyWork, ...]
    """The families that occur, the longest first."""
    binding: dict[str, int]
    """What the dynamic dims of inputs were taken to be."""
    guessed: int
    """Dynamic dims inside the model that were taken to be of the usual size."""
    unknown: int
    """Nodes that could not be estimated, since types are missing or the operator is opaque."""

    @property
    def operations(self) -> float:
        """Arithmetic operations of the whole model."""
        return sum(f.operations for f in self.families)

    @property
    def nbytes(self) -> float:
        """Bytes that the whole model reads and writes."""
        return sum(f.nbytes for f in self.families)


def default_binding(model: Model, given: Mapping[str, int]) -> dict[str, int]:
    """Return a size for every symbol of the model's inputs: batch 1, lengths 128, others 64, unless given."""
    binding: dict[str, int] = {}
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            for name in [] if isinstance(dim, int) else dim.symbols():
                binding.setdefault(name, given.get(name, _size(name, axis)))
    return {**binding, **given}


def _size(name: str, axis: int) -> int:
    if _BATCH.fullmatch(name) or (axis == 0 and not _LENGTH.fullmatch(name)):
        return _DEFAULTS["batch"]
    return _DEFAULTS["length"] if _LENGTH.fullmatch(name) else _DEFAULTS["other"]


def estimate(model: Model, target: Target, binding: Mapping[str, int]) -> Work:
    """Estimate the work of a model; ``binding`` gives symbols their sizes."""
    sizes = Sizes(binding)
    peaks = _Peaks(target)
    found: dict[str, list[float]] = {}
    unknown = 0
    for graph in model.graph.all_graphs():
        for node in graph.nodes():
            work = work_of(node, sizes)
            if work is None:
                unknown += 1
                continue
            row = found.setdefault(work.family, [0, 0.0, 0.0, 0.0])
            row[0] += 1
            row[1] += work.operations
            row[2] += work.nbytes
            row[3] += peaks.seconds(node, work.operations, work.nbytes)
    families = [FamilyWork(f, int(n), ops, size, seconds) for f, (n, ops, size, seconds) in found.items()]
    return Work(
        families=tuple(sorted(families, key=lambda f: (-f.seconds, f.family))),
        binding={k: v for k, v in binding.items() if not k.startswith("?")},
        guessed=len(sizes.guessed),
        unknown=unknown,
    )


class _Peaks:
    """What a target does at best."""

    def __init__(self, target: Target) -> None:
        machine = target.machine
        self.launch = machine.launch.value
        self.bandwidth = machine.bandwidth.value
        rates: dict[str, float] = {str(k): v.total(machine.cores) for k, v in machine.flops.items()}
        self.rates = rates
        self.usual = rates.get("f32") or max(rates.values(), default=1e9)

    def seconds(self, node: Node, operations: float, nbytes: float) -> float:
        """Return the least time of a node."""
        if not operations and not nbytes:
            return 0.0
        dtype = next((i.dtype for i in node.inputs if i is not None), DType.F32)
        name = "i8" if dtype in (DType.U8, DType.I8) else dtype.text
        return self.launch + max(operations / self.rates.get(name, self.usual), nbytes / self.bandwidth)


def nodes_within(graph: Graph) -> int:
    """Return the number of nodes of a graph, those nested in it included."""
    return sum(g.node_count for g in graph.all_graphs())

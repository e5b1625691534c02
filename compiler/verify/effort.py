"""How long one run of a model takes, roughly and the same on every machine: how many probes are worth running.

Choices made by the clock would make certificates differ from run to run; this estimate counts arithmetic and memory
traffic from types.  It is within a factor of three on one core of a current machine, which is enough to tell a
millisecond from a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from compiler.ir.dims import Dim, product
from compiler.ir.graph import Model, Node
from compiler.ir.types import Shape
from compiler.verify.probes_bindings import size_of

_FLOPS = 6e10
"""Multiplications and additions per second."""
_ELEMENTS = 5e8
"""Elements that an operator writes per second."""


class Effort:
    """The work of one run as a function of the dynamic dims."""

    def __init__(self, model: Model) -> None:
        """Count shapes, each distinct one once: large models repeat a few."""
        self._elements: Counter[Shape] = Counter()
        self._products: Counter[tuple[Shape, Dim]] = Counter()
        self.weights = sum(v.constant.nbytes for g in model.graph.all_graphs() for v in g.constants if v.constant)
        for node in model.graph.all_nodes():
            shape = node.outputs[0].shape if node.outputs else None
            if shape is None:
                continue
            self._elements[shape] += 1
            depth = _depth(node)
            if depth is not None:
                self._products[shape, depth] += 1

    def patience(self, binding: Mapping[str, int]) -> float:
        """Return the seconds after which a run of the original counts as hanging; reading weights takes time too."""
        return 20 + 60 * self.seconds(binding) + self.weights / 5e7

    def seconds(self, binding: Mapping[str, int]) -> float:
        """Return the estimate for one run with the dims bound so."""
        written = sum(n * _size(shape, binding) for shape, n in self._elements.items())
        flops = sum(2 * n * _size(shape, binding) * size_of(k, binding) for (shape, k), n in self._products.items())
        return written / _ELEMENTS + flops / _FLOPS


def _size(shape: Shape, binding: Mapping[str, int]) -> int:
    return math.prod(size_of(d, binding) for d in shape)


def _depth(node: Node) -> Dim | None:
    """Return how many products go into each element of a matrix product or convolution, ``None`` for other nodes."""
    left, right = node.input(0), node.input(1)
    if node.op in ("MatMul", "FusedMatMul", "Gemm") and left is not None and left.shape:
        return left.shape[0] if node.attr("transA", 0) else left.shape[-1]
    if node.op in ("Conv", "FusedConv") and right is not None and right.shape:
        return product(right.shape[1:])
    return None

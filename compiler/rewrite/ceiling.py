"""Choose the highest opset that may be emitted, for one model on one target.

Kernels match the version in which an operator was last defined.  A standard that defines an operator anew, with a type
more, takes the kernel away from everyone who emits the new opset, until the provider registers one again; and the new
operators that make models fast come with the same opsets.  So the ceiling is a choice for each model: the highest opset
in which the fewest of its nodes have no kernel on the target's first provider.  A model that is above it is written in
an older opset, where its nodes can be said in that.

What a provider is known to have kernels of bounds the choice, but forbids nothing: where a node can neither be said in
such an opset nor be written out, the model is emitted in the lowest opset that says it, and what the first provider
then does not take runs on the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compiler.ir.forms import history, standard
from compiler.ir.graph import Model, Node
from compiler.rewrite.legal import says
from targets.errors import TargetError
from targets.kernels import KernelTable, kernels

FLOOR = 13
"""The oldest opset that a newer model is written in: from there on operators take axes and shapes as operands."""


def ceiling(model: Model, target: Any, *, newest: int) -> int:
    """Return the highest opset to emit; ``newest`` is what the runtime loads."""
    bounds = target.runtime.opset
    highest = min(bounds.highest or newest, newest)
    own = model.opsets.get("", 0)
    counts: dict[str, int] = {}
    examples: dict[str, list[Node]] = {}
    for node in model.graph.all_nodes():
        if not node.domain and history(node.op):
            counts[node.op] = counts.get(node.op, 0) + 1
            examples.setdefault(node.op, []).append(node)
    if own > highest:
        highest = min(max(highest, _needed(examples, highest)), bounds.max or newest, newest)
    table = _table(target)
    if table is None:
        return highest
    best, least = highest, -1
    for version in range(highest, min(FLOOR, highest) - 1, -1):
        if version < own and not _all_say(examples, version):
            break
        lost = _without_kernel(counts, table, version)
        if least < 0 or lost < least:
            best, least = version, lost
        if not least:
            break
    return best


def _table(target: Any) -> KernelTable | None:
    try:
        return kernels(target.runtime.providers[0][0])
    except TargetError:
        return None


def _without_kernel(counts: Mapping[str, int], table: KernelTable, version: int) -> int:
    """Count the nodes whose operator has kernels, and none at this opset."""
    found = 0
    for op, count in counts.items():
        definition = standard(op, version)
        if definition is not None and table.has_kernel("", op):
            found += 0 if table.has_kernel("", op, definition.since_version) else count
    return found


def _needed(examples: Mapping[str, list[Node]], highest: int) -> int:
    """Return the lowest opset that says every node that no opset up to ``highest`` says, and nothing defines."""
    needed = 0
    for op, nodes in examples.items():
        for node in nodes:
            definition = standard(op, node.version)
            if says(node, highest) or definition is None or definition.has_function:
                continue
            later = (v for v in history(op) if v > highest and says(node, v))
            needed = max(needed, next(later, node.version))
    return needed


def _all_say(examples: Mapping[str, list[Node]], version: int) -> bool:
    """Whether every node can be said in an opset."""
    return all(says(node, version) for nodes in examples.values() for node in nodes)

"""Say which demands of a target's provider a node does not meet, beyond kernels: constants, ranks, attributes, shapes.

Kernels and what they get wrong are known elsewhere (``legal``, ``restrictions``).  What stands here is data: what
converters of compiling providers want of an operator (``targets/kernels/demands.toml``), and what a target's table
``constraints`` wants of every node.  A demand that cannot be decided counts against a node only when the answer is to
be ``proven``; then a value whose rank is not known may have too many dims.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compiler.ir.dims import is_static
from compiler.ir.dtype import DType
from compiler.ir.graph import Node, Value
from compiler.ir.schema import node_schema
from compiler.rewrite.restrictions import Condition, shaped
from targets.kernels.demands import Demand, demands
from targets.schema import Constraints

_SCANNED = 1 << 16
"""Integers up to which a constant is read to learn whether they are small; larger ones are tables of indices."""

_MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")
"""Operators that folding applies to constants of any size."""

CONTROL = ("If", "Loop", "Scan", "SequenceMap")
"""Operators that hold graphs; providers that compile leave them to the runtime."""


class Demands:
    """What one provider of a target wants of nodes."""

    def __init__(self, provider: str, constraints: Constraints) -> None:
        """Look up the provider; ``constraints`` are the target's."""
        self.constraints = constraints
        self.by_operator = demands().get(provider, {})

    def __bool__(self) -> bool:
        """Whether anything is wanted at all."""
        return bool(self.by_operator) or self.constraints != Constraints()

    def unmet(self, node: Node, *, proven: bool) -> str:
        """Return the first demand that a node does not meet, ``""`` when it meets all."""
        for holds, complaint in self._conditions(node):
            if holds is False or (holds is None and proven):
                return complaint
        return ""

    def _conditions(self, node: Node) -> Iterator[Condition]:
        wanted = self.constraints
        yield node.qualified not in wanted.lacks, f"the target does not run {node.qualified}"
        values = [v for v in (*node.inputs, *node.outputs) if v is not None and not v.absent]
        if wanted.max_rank is not None:
            for value in values:
                yield _within(value, wanted.max_rank), f"{shaped(value)} has more than {wanted.max_rank} dims"
        if not wanted.empty_tensors:
            for value in values:
                yield 0 not in (value.shape or ()), f"{shaped(value)} is empty"
        if wanted.narrow_int64:
            for value in values:
                yield not _is_wide(value, node), f"a constant of {node.op} does not fit 32 bits"
        if node.op in wanted.constant_weights and not node.domain:
            for weight in node.inputs[1:]:
                yield weight is None or is_weight(weight), f"{shaped(weight)} is no constant"
        found = self.by_operator.get(node.op) if not node.domain else None
        if found is not None:
            yield from _of_operator(node, found)


def _of_operator(node: Node, wanted: Demand) -> Iterator[Condition]:
    definition = node_schema(node)
    if definition is None:
        return
    named = {}
    for i, value in enumerate(node.inputs):
        formal = definition.formal_input(i)
        if formal is not None:
            named[formal.name] = value
    for name in wanted.constant:
        value = named.get(name)
        yield value is None or is_weight(value), f"{name} of {node.op} is no constant"
    for name in wanted.absent:
        yield named.get(name) is None, f"{node.op} has the operand {name}"
    first = node.input(0)
    if wanted.ranks and first is not None:
        rank = first.rank
        yield None if rank is None else rank in wanted.ranks, f"{node.op} of {shaped(first)}, which has {rank} dims"
    for name, ranks in wanted.operand_ranks.items():
        value = named.get(name)
        if value is not None:
            yield None if value.rank is None else value.rank in ranks, f"{node.op} with {name} of {value.rank} dims"
    for name, accepted in wanted.attributes.items():
        spec = definition.attributes.get(name)
        found = _plain(node.attr(name, spec.default if spec is not None else None))
        yield found is None or found in accepted, f"{node.op} with {name} = {found}"
    if wanted.after:
        yield first is not None and _is_made_for_it(first, wanted.after), f"{node.op} does not follow what it joins"
    if wanted.outputs:
        asked = sum(not o.absent for o in node.outputs)
        yield asked <= wanted.outputs, f"{node.op} with {asked} results"
    if wanted.last_axis and first is not None:
        spec = definition.attributes.get("axis")
        axis = node.attr("axis", spec.default if spec is not None else -1)
        rank = first.rank
        yield None if rank is None else axis in (-1, rank - 1), f"{node.op} along axis {axis}"


def is_weight(value: Value) -> bool:
    """Whether a value is a constant, one that is stored in few bits and dequantized, or one that will be folded.

    What rewrites make of constants by moving their elements, and shapes that are known, are folded once they are done.
    """
    if value.constant is not None:
        return True
    node = value.node
    if node is None:
        return False
    stored = all(v is None or v.constant is not None for v in node.inputs)
    if stored and node.is_op("DequantizeLinear"):
        return True
    made = node.graph is None or bool(node.loc.by)
    return made and ((stored and node.is_op(*_MOVES)) or is_known_number(value))


def is_known_number(value: Value) -> bool:
    """Whether every element of a value is a number that is known already."""
    return value.contents is not None and is_static(value.contents)


def _is_wide(value: Value, node: Node) -> bool:
    """Whether an operand is a constant with integers beyond 32 bits; bounds of slices only say "to the end"."""
    constant = value.constant
    if constant is None or constant.dtype not in (DType.I64, DType.U64) or (node.op == "Slice" and not node.domain):
        return False
    if not constant.is_readable or not 0 < constant.size <= _SCANNED:
        return False
    array = constant.array()
    return int(array.min()) < -(1 << 31) or int(array.max()) >= 1 << 31


def _is_made_for_it(value: Value, ops: tuple[str, ...]) -> bool:
    return value.node is not None and value.node.is_op(*ops) and len(value.uses) == 1 and not value.returned


def _within(value: Value, most: int) -> bool | None:
    return None if value.rank is None else value.rank <= most


def _plain(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value

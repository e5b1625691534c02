"""What kernels refuse, or get wrong, that their registration does not say: ranks, shapes, attributes, combinations.

A kernel is registered for element types only; what else it wants shows when it runs.  A model that violates one of
these loads, and fails or answers wrongly later, so nothing may be made of operators whose restrictions are not known
to be met.  Each was found by running the kernel of ONNX Runtime 1.32 on small tensors against a float64 reference, and
read in the source that is named; those in code that providers share hold for all of them.

A condition that cannot be decided (a symbolic dim may or may not be 1) counts against a node that a rewrite would
make, and for one that the user's model has: there it is the author's claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from compiler.ir.dims import Dim
from compiler.ir.graph import Node, Value

Condition = tuple[bool | None, str]
"""Whether a condition holds (``None``: it cannot be decided), and what to say when it does not."""

Check = Callable[[Node], Iterator[Condition]]
"""Yields every condition of an operator on one node."""

CPU = "CPUExecutionProvider"
"""ONNX Runtime's own kernels for processors."""
EVERY = ""
"""Stands for all providers: the check is in code that they share."""


@dataclass(frozen=True, slots=True)
class Restriction:
    """What the kernels of one operator want of a node."""

    domain: str
    """The operator's domain."""
    op: str
    """The operator."""
    provider: str
    """The execution provider, ``EVERY`` for all."""
    source: str
    """The file of ONNX Runtime that says so."""
    check: Check
    """The conditions."""


RESTRICTIONS: dict[tuple[str, str], tuple[Restriction, ...]] = {}
"""Domain and operator → its restrictions; filled by the functions below."""


def restricted(domain: str, *ops: str, provider: str, source: str) -> Callable[[Check], Check]:
    """Enter a function that yields conditions into the table."""

    def enter(check: Check) -> Check:
        for op in ops:
            found = Restriction(domain, op, provider, source, check)
            RESTRICTIONS[domain, op] = (*RESTRICTIONS.get((domain, op), ()), found)
        return check

    return enter


def violation(node: Node, provider: str, *, proven: bool) -> str:
    """Return the first condition that a node violates on a provider, ``""`` when there is none.

    With ``proven`` a condition that cannot be decided counts as violated.
    """
    for restriction in RESTRICTIONS.get((node.domain, node.op), ()):
        if restriction.provider not in (EVERY, provider):
            continue
        for holds, complaint in restriction.check(node):
            if holds is False or (holds is None and proven):
                return complaint
    return ""


# Questions about shapes --------------------------------------------------------------------------


def same(left: Dim | None, right: Dim | None) -> bool | None:
    """Whether two dims are equal; ``None`` when that depends on what their symbols stand for."""
    if left is None or right is None:
        return None
    if left == right:
        return True
    return False if isinstance(left, int) and isinstance(right, int) else None


def any_of(*answers: bool | None) -> bool | None:
    """Whether one of several answers is yes."""
    if True in answers:
        return True
    return None if None in answers else False


def all_of(*answers: bool | None) -> bool | None:
    """Whether all of several answers are yes."""
    if False in answers:
        return False
    return None if None in answers else True


def multiple(dim: Dim | None, of: int) -> bool | None:
    """Whether a dim is a multiple of a number."""
    if dim is None:
        return None
    rest = dim % of
    return rest == 0 if isinstance(rest, int) else None


def dim(value: Value | None, axis: int) -> Dim | None:
    """Return a dim, ``None`` when it is not known or the value has no such axis."""
    shape = value.shape if value is not None else None
    return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None


def has_rank(value: Value | None, *ranks: int) -> bool | None:
    """Whether the rank of a value is one of these; a missing value has every rank."""
    if value is None:
        return True
    return None if value.rank is None else value.rank in ranks


def shaped(value: Value | None) -> str:
    """Describe a value for a complaint."""
    return f"%{value.name}: {value.type}" if value is not None else "nothing"


def wanted(node: Node, index: int) -> bool:
    """Whether an output is there."""
    return index < len(node.outputs) and not node.outputs[index].absent


def keeps_state(node: Node, past: int, *presents: int) -> Condition:
    """A past needs all presents: without them kernels refuse it or, worse, ignore it."""
    holds = node.input(past) is None or all(wanted(node, i) for i in presents)
    return holds, f"a past ({shaped(node.input(past))}) needs outputs for the present too"


def _sum(left: Dim | None, right: Dim | None) -> Dim | None:
    return None if left is None or right is None else left + right


def plus(left: Dim | None, right: Dim | None) -> Dim | None:
    """Return a sum of dims, ``None`` when one is not known."""
    return None if left is None or right is None else left + right


def times(size: Dim | None, count: int) -> Dim | None:
    """Return a multiple of a dim, ``None`` when it is not known."""
    return None if size is None else size * count

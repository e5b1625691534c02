"""The vocabulary of ``row_axes``: what a node needs for some rows of its result, and where rows of operands lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from compiler.ir.constant import Array
from compiler.ir.graph import Attr, Node, Value
from compiler.ir.types import Shape
from passes.row_selections import Rows


class Blocked(Exception):
    """Rows of the result need more than rows of the operands; the text says why."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a node needs to make some rows of its result only."""

    operands: tuple[Rows | None, ...]
    """For each operand its rows, ``None`` for all of it."""
    constants: Mapping[int, Array] = field(default_factory=dict)
    """Operands that are written anew."""
    attributes: Mapping[str, Attr] = field(default_factory=dict)
    """Attributes that change."""


Rule: TypeAlias = Callable[[Node, Rows], Need]
"""What an operator needs for some rows of its result; raises ``Blocked``."""


def shape_of(value: Value | None) -> Shape:
    """Return the dims of an operand; without them nothing moves."""
    if value is None or value.shape is None:
        raise Blocked("the rank is not known")
    return value.shape


def aligned(operand: Value | None, rows: Rows, rank: int) -> Rows | None:
    """Return the rows of an operand that broadcasts to a result of that rank, as the last axes."""
    if operand is None:
        return None
    shape = shape_of(operand)
    lead = rank - len(shape)
    axis, batch = rows.axis - lead, rows.batch - lead
    if axis < 0 or shape[axis] == 1:
        return None
    if shape[axis] != rows.size:
        raise Blocked(f"{shape[axis]} rows are not {rows.size}")
    if rows.selection.batch is None:
        return replace(rows, axis=axis)
    if rows.batch == rows.axis:
        return replace(rows, axis=axis, batch=axis)
    if batch >= 0 and shape[batch] == rows.selection.batch:
        return replace(rows, axis=axis, batch=batch)
    if batch < 0 or shape[batch] == 1:
        return replace(rows, lead=lead, shared=True)
    raise Blocked(f"a batch of {shape[batch]} is not {rows.selection.batch}")


def avoid(rows: Rows, *axes: int) -> None:
    """Refuse rows of axes that an operator works along, and batches that are such an axis."""
    if rows.axis in axes or (rows.selection.batch is not None and rows.batch in axes):
        raise Blocked("it works along the axis")


def moved(rows: Rows, axes: list[int] | tuple[int, ...]) -> Rows:
    """Return rows where axis ``i`` of the result is axis ``axes[i]`` of the operand."""
    batch = axes[rows.batch] if rows.selection.batch is not None else -1
    return replace(rows, axis=axes[rows.axis], batch=batch)

"""Whether a form may match at a node, going by what makes the operands of the node and theirs.

Most attempts to match fail on the operators around the root.  Those two steps up are taken together as the node's
surroundings; which forms they admit is found once for all nodes that have the same.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from compiler.ir.graph import Node, Value
from compiler.rewrite.pattern import ANYTHING, COMMUTATIVE, CONSTANT, Pattern

Mark: TypeAlias = Any
"""What an operand is: an operator that makes it, with or without the marks of its own operands; or one of these two."""

_CONSTANT = "="
_OTHER = ""

_WIDEST = 8
"""Operands of a node that are looked at."""

Surroundings = tuple[str, tuple[Mark, ...]]
"""A node's operator, and the marks of its operands."""


def surroundings(node: Node) -> Surroundings:
    """Return what is around a node, two steps up."""
    return node.qualified, tuple([_far(v) for v in node.inputs[:_WIDEST]])


def _far(value: Value | None) -> Mark:
    maker = value.node if value is not None else None
    if maker is None:
        return _near(value)
    return maker.qualified, tuple([_near(v) for v in maker.inputs[:_WIDEST]])


def _near(value: Value | None) -> str:
    if value is None:
        return _OTHER
    if value.node is not None:
        return value.node.qualified
    return _OTHER if value.constant is None else _CONSTANT


def may_match(pattern: Pattern, statement: int, found: Surroundings) -> bool:
    """True unless the surroundings of a node exclude that a statement matches there."""
    operator, marks = found
    if operator not in pattern.operators[statement]:
        return False
    if _agree(pattern, pattern.wants[statement], marks):
        return True
    if operator not in COMMUTATIVE or len(marks) < 2:
        return False
    return _agree(pattern, pattern.wants[statement], (marks[1], marks[0], *marks[2:]))


def _agree(pattern: Pattern, wants: tuple[int, ...], marks: tuple[Mark, ...]) -> bool:
    for i, want in enumerate(wants[:_WIDEST]):
        if want == ANYTHING:
            continue
        mark = marks[i] if i < len(marks) else _OTHER
        if want == CONSTANT:
            agrees = mark == _CONSTANT
        elif isinstance(mark, tuple):
            agrees = may_match(pattern, want, mark)
        else:
            agrees = mark in pattern.operators[want]
        if not agrees:
            return False
    return True


def may_match_here(pattern: Pattern, statement: int, node: Node) -> bool:
    """True unless what makes the operands of a node excludes that a statement of its operator matches there."""
    wants = pattern.wants[statement]
    if max(wants, default=ANYTHING) == ANYTHING:
        return True
    return may_match(pattern, statement, (node.qualified, tuple([_near(v) for v in node.inputs[:_WIDEST]])))

"""Which operands of a rule share an element type, and which types they may have.

Operands that the schema of their operator gives the same type variable share one, as do all uses of a name and all
types that a rule writes with the same variable.  What is left is drawn: float32 half the time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from compiler.ir.dtype import DType
from compiler.ir.syntax import DimList, Operand, Statement
from compiler.rewrite.pattern import ANY, Pattern
from tests.rule_harness_choices import Choices
from tests.rule_harness_formals import formals_of

DRAWN = (
    DType.F32, DType.I64, DType.BOOL, DType.F16, DType.F64, DType.I32, DType.BF16, DType.U8, DType.I8, DType.I16,
    DType.U16, DType.U32, DType.U64,
)  # fmt: skip
"""Element types that are drawn, simplest first: those that both a kernel or a reference may take."""

_NAMES = {d.text: d for d in DType}


@dataclass
class Classes:
    """Groups of operands that share an element type, by key: ``%name``, ``T`` or ``(statement, operand)``."""

    parent: dict[object, object]
    allowed: dict[object, frozenset[DType]]
    """Group → what it may be."""

    def find(self, key: object) -> object:
        """Return the group of a key."""
        root = key
        while self.parent.setdefault(root, root) != root:
            root = self.parent[root]
        self.parent[key] = root
        return root

    def join(self, left: object, right: object) -> None:
        """Let two keys share an element type."""
        a, b = self.find(left), self.find(right)
        if a != b:
            self.parent[b] = a
            self.restrict(a, self.allowed.pop(b, None))

    def restrict(self, key: object, dtypes: frozenset[DType] | None) -> None:
        """Allow a group no other element types than these."""
        if dtypes is not None:
            root = self.find(key)
            self.allowed[root] = self.allowed.get(root, dtypes) & dtypes


@functools.cache
def classes(pattern: Pattern, types: tuple[tuple[str, frozenset[DType]], ...]) -> Classes:
    """Return the groups of a form, given what its type variables may be."""
    found = Classes({}, {})
    for head, dtypes in types:
        found.restrict(head, dtypes)
    for i, statement in enumerate(pattern.statements):
        _join_statement(found, i, statement, dict(types))
    return found


def _join_statement(found: Classes, i: int, statement: Statement, types: Mapping[str, frozenset[DType]]) -> None:
    formals = formals_of(statement, statement.op)
    for side, operands in (("input", statement.inputs), ("output", statement.outputs)):
        for k, operand in enumerate(operands):
            if operand is None:
                continue
            key = operand_key(i, k, operand)
            written = getattr(operand, "type", None)
            if written is not None and written.head in types:
                found.join(written.head, key)
            elif written is not None and written.head in _NAMES:
                found.restrict(key, frozenset({_NAMES[written.head]}))
            if formals is None:
                continue
            formal = formals.input(k) if side == "input" else formals.output(k)
            if formal is not None and formal.types:
                found.join((i, formal.types), key)
                found.restrict(key, formals.dtypes(formal))
    if statement.op == "Slice" and any(_may_be_computed(o) for o in statement.inputs):
        found.restrict((i, "Tind"), frozenset({DType.I64}))
    to = statement.attributes.get("to")
    if statement.op == "Cast" and to is not None and to.kind == "int" and statement.outputs[0] is not None:
        found.restrict(f"%{statement.outputs[0].name}", frozenset({DType.from_code(to.value)}))


def _may_be_computed(operand: object) -> bool:
    """True for dims, which are computed from shapes where they are symbols."""
    return isinstance(operand, DimList) or getattr(operand, "name", "") == ANY


def operand_key(statement: int, index: int, operand: object) -> object:
    """Return the key of an operand: its name, or its place when it has none."""
    name = getattr(operand, "name", ANY)
    return f"%{name}" if name != ANY else (statement, "operand", index)


class ElementTypes:
    """Element types drawn for one instance."""

    def __init__(self, groups: Classes, choices: Choices) -> None:
        """Draw when asked."""
        self._groups = groups
        self._choices = choices
        self._drawn: dict[object, DType] = {}

    def of(self, key: object) -> DType | None:
        """Return the element type of a key, ``None`` when none is possible."""
        group = self._groups.find(key)
        if group not in self._drawn:
            allowed = self._groups.allowed.get(group)
            options = [d for d in DRAWN if allowed is None or d in allowed]
            if not options:
                return None
            self._drawn[group] = self._draw(options)
        return self._drawn[group]

    def _draw(self, options: list[DType]) -> DType:
        """Draw an element type; one that the instance has already is likely, so that most compute in one."""
        for dtype in self._drawn.values():
            if dtype.is_float and dtype in options and not self._choices.chance(15):
                return dtype
        return self._choices.pick(options) if self._choices.chance(50) else options[0]

    def fix(self, key: object, dtype: DType) -> None:
        """Decide for an element type."""
        self._drawn[self._groups.find(key)] = dtype

    def of_operand(self, statement: int, index: int, operand: Operand | object) -> DType | None:
        """Return the element type of an operand or result."""
        return self.of(operand_key(statement, index, operand))

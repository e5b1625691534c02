"""One statement of a rule while its node is drawn: what is known of its operands, attributes and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.ir.dims import Dim, is_static
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Value
from compiler.ir.syntax import Statement, TypeSyntax
from compiler.ir.types import Shape
from tests.rule_harness_choices import Choices
from tests.rule_harness_draft import Draft, Undrawable
from tests.rule_harness_formals import Formals
from tests.rule_harness_values import SIZES


@dataclass
class Site:
    """A statement, and as much of its node as has been drawn."""

    draft: Draft
    index: int
    """Position of the statement."""
    statement: Statement
    op: str
    """The operator, one of the statement's alternatives."""
    formals: Formals | None
    operands: list[Value | None]
    """Operands so far; those still to be drawn are ``None`` too."""
    pending: list[int] = field(default_factory=list)
    """Positions of operands still to be drawn."""
    attributes: dict[str, Attr] = field(default_factory=dict)

    @property
    def choices(self) -> Choices:
        """The source of decisions."""
        return self.draft.choices

    def shape(self, index: int) -> Shape | None:
        """Return the dims of an operand, ``None`` when it is missing or not drawn yet."""
        value = self.operands[index] if index < len(self.operands) else None
        return None if value is None else value.shape

    def need(self, index: int) -> Shape:
        """Return the dims of an operand that must be there."""
        found = self.shape(index)
        if found is None:
            raise Undrawable(f"operand {index} of {self.op} is not known")
        return found

    def known(self, *without: int) -> list[Shape]:
        """Return the dims of the operands that are there."""
        shapes = (self.shape(i) for i in range(len(self.operands)) if i not in without)
        return [s for s in shapes if s is not None]

    def written(self, output: int = 0) -> TypeSyntax | None:
        """Return the type that the rule writes for a result, here or where it is read."""
        outputs = self.statement.outputs
        found = outputs[output] if output < len(outputs) else None
        if found is None:
            return None
        if found.type is not None and not found.type.bare:
            return found.type
        types = (o.type for o in self.draft.pattern.operands() if o.name == found.name)
        return next((t for t in types if t is not None and not t.bare), None)

    def wanted(self, output: int = 0) -> Shape | None:
        """Return the dims that a result must have, as far as these follow from what has been drawn."""
        written = self.written(output)
        return self.draft.shape(written) if written is not None and self.draft.is_bound(written) else None

    def demand(self, output: int = 0) -> Shape | None:
        """Return the dims that a result must have, drawing what is still open; ``None`` when the rule writes none."""
        written = self.written(output)
        return None if written is None else self.draft.shape(written)

    def dtype(self, index: int) -> DType:
        """Return the element type of an operand."""
        found = self.draft.dtypes.of_operand(self.index, index, self.statement.inputs[index])
        if found is None:
            raise Undrawable(f"no element type suits operand {index} of {self.op}")
        return found

    def integers(self, index: int, numbers: Sequence[int]) -> Value:
        """Return a constant vector of integers for an operand, in the element type that it has."""
        dtype = self.dtype(index)
        limits = np.iinfo(dtype.numpy)
        return self.draft.integers([min(max(n, limits.min), limits.max) for n in numbers], dtype)

    def plain(self, name: str) -> Any:
        """Return an attribute's value, its default when it is not set, ``None`` without either."""
        if name in self.attributes:
            return self.attributes[name].value
        return self.formals.defaults.get(name) if self.formals is not None else None

    def random_shape(self, least: int = 0) -> Shape:
        """Return any dims, of at least some rank."""
        rank = max(least, self.choices.pick((2, 1, 3, 0, 2, 3, 4)))
        return tuple(self.random_dim() for _ in range(rank))

    def random_dim(self) -> Dim:
        """Return any dim."""
        return self.draft.fresh(self.choices.pick(SIZES), "d")

    def static(self, shape: Sequence[Dim]) -> Shape:
        """Return dims as numbers."""
        return tuple(shape) if is_static(shape) else self.draft.sizes(shape)

    def axis(self, name: str = "axis", rank: int | None = None) -> int:
        """Return an axis attribute counted from the front."""
        rank = len(self.need(0)) if rank is None else rank
        value = self.plain(name)
        if not isinstance(value, int) or not -rank <= value < max(rank, 1):
            raise Undrawable(f"{self.op} has axis {value} at rank {rank}")
        return value % rank if rank else 0

"""One statement of a rule while its node is drawn: what is known of its operands, attributes and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.ir.dims import Dim, is_static
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Value
from compiler.ir.schema import operator_names
from compiler.ir.syntax import Operand, Output, Statement, TypeSyntax
from compiler.ir.types import Shape
from compiler.rewrite.pattern import ANY, Pattern
from tests.rule_harness_choices import Choices
from tests.rule_harness_draft import Draft, Undrawable
from tests.rule_harness_formals import Formals
from tests.rule_harness_values import SIZES

BROADCASTING = operator_names("""
        Add Sub Mul Div Mod Pow PRelu Max Min Sum Mean Where And Or Xor Equal Less Greater LessOrEqual
        GreaterOrEqual BitShift BitwiseAnd BitwiseOr BitwiseXor
""")
"""Operators whose operands broadcast to each other."""

APART = BROADCASTING | operator_names("""
        Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu
        HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Sigmoid
        Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
""")
"""Operators that work element by element."""


def written_type(pattern: Pattern, name: str) -> TypeSyntax | None:
    """Return the type with dims that a form writes for a value, where it is made or read; ``None`` for none."""
    seen: list[Operand | Output] = [o for s in pattern.statements for o in s.outputs if o is not None]
    seen += pattern.operands()
    types = (o.type for o in seen if o.name == name and name != ANY)
    return next((t for t in types if t is not None and not t.bare), None)


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
    guesses: dict[str, TypeSyntax | None] = field(default_factory=dict)
    """Result → the type that it must have, or that it is drawn to have."""

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
        if found.name not in self.guesses:
            typed = written_type(self.draft.pattern, found.name)
            self.guesses[found.name] = typed if typed is not None else self._likely(found.name)
        return self.guesses[found.name]

    def _likely(self, name: str) -> TypeSyntax | None:
        """Return the type that a result most likely has: that of the first thing made of it, element by element."""
        statements = self.draft.pattern.statements[self.index + 1 :]
        for _ in range(6):
            made = next((s for s in statements if any(getattr(o, "name", "") == name for o in s.inputs)), None)
            if made is None or made.domain or made.op not in APART or made.outputs[0] is None:
                return None
            name = made.outputs[0].name
            found = written_type(self.draft.pattern, name)
            if found is not None:
                return found if not self.choices.chance(15) else None
        return None

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

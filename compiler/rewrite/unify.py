"""What the variables of a rule stand for at one place, and the unification of written types with types of values.

Plain names of dims bind where they are seen first and are compared, in normal form, wherever they are seen again;
expressions over them are checked at the end, when all names are bound.  Every binding is on a trail, so that the
matcher can take back an attempt.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from compiler.ir.dims import Dim, Expr, substitute
from compiler.ir.dtype import DType
from compiler.ir.graph import Node, Value
from compiler.ir.syntax import Run, TypeSyntax
from compiler.ir.types import Shape, TensorType

_DTYPES = {d.text: d for d in DType}

Allowed = Mapping[str, frozenset[DType]]
"""Type variable → element types that it may stand for."""


class Binding:
    """Bindings of one attempt to match, with a trail to undo them."""

    __slots__ = ("attributes", "deferred", "dims", "dtypes", "nodes", "runs", "trail", "values")

    def __init__(self) -> None:
        self.values: dict[str, Value | None] = {}
        self.nodes: dict[int, Node] = {}
        self.dims: dict[str, Dim] = {}
        self.runs: dict[str, Shape] = {}
        self.dtypes: dict[str, DType] = {}
        self.attributes: dict[str, Any] = {}
        self.deferred: dict[int, tuple[Expr, Dim]] = {}
        self.trail: list[tuple[dict[Any, Any], Any]] = []

    def bind(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        """Bind a variable and remember it on the trail."""
        table[key] = value
        self.trail.append((table, key))

    def undo(self, mark: int) -> None:
        """Take back every binding made since the trail was ``mark`` long."""
        while len(self.trail) > mark:
            table, key = self.trail.pop()
            del table[key]

    # Types ---------------------------------------------------------------------------------------

    def unify_type(self, written: TypeSyntax, value: Value, allowed: Allowed) -> str:
        """Unify a written type with a value's; return why that is not possible, ``""`` when it is."""
        reason = self._unify_element(written.head, value.dtype, allowed)
        if reason or written.bare:
            return reason
        if not isinstance(value.type, TensorType):
            return "its rank is not known"
        return "" if written.dims is None else self._unify_shape(written.dims, value.type.shape)

    def _unify_element(self, head: str, dtype: DType, allowed: Allowed) -> str:
        if head not in allowed:
            return "" if _DTYPES[head] is dtype else f"its element type is {dtype}, not {head}"
        if dtype not in allowed[head]:
            return f"{head} cannot be {dtype}"
        bound = self.dtypes.get(head)
        if bound is None:
            self.bind(self.dtypes, head, dtype)
        return "" if bound in (None, dtype) else f"{head} is {bound} elsewhere and {dtype} here"

    def _unify_shape(self, written: tuple[Dim | Run, ...], shape: Shape) -> str:
        at = next((i for i, d in enumerate(written) if isinstance(d, Run)), None)
        if at is None:
            return self._unify_dims(written, shape) if len(written) == len(shape) else _ranks(len(written), shape)
        behind = len(written) - at - 1
        if len(shape) < at + behind:
            return f"its rank is {len(shape)}, at least {at + behind} was expected"
        end = len(shape) - behind
        run = written[at]
        assert isinstance(run, Run)
        return (
            self._unify_dims(written[:at], shape[:at])
            or self._unify_run(run.name, shape[at:end])
            or self._unify_dims(written[at + 1 :], shape[end:])
        )

    def _unify_run(self, name: str, dims: Shape) -> str:
        bound = self.runs.get(name)
        if bound is None:
            self.bind(self.runs, name, dims)
            return ""
        return "" if bound == dims else f"*{name} is [{_text(bound)}] elsewhere and [{_text(dims)}] here"

    def _unify_dims(self, written: tuple[Dim | Run, ...], dims: Shape) -> str:
        for expected, dim in zip(written, dims, strict=True):
            assert not isinstance(expected, Run)
            reason = self._unify_dim(expected, dim)
            if reason:
                return reason
        return ""

    def _unify_dim(self, expected: Dim, dim: Dim) -> str:
        if not isinstance(expected, Expr):
            return "" if expected == dim else f"a dim is {dim}, not {expected}"
        name = _plain_name(expected)
        if not name:
            self.bind(self.deferred, len(self.trail), (expected, dim))
            return ""
        bound = self.dims.get(name)
        if bound is None:
            self.bind(self.dims, name, dim)
            return ""
        return "" if bound == dim else f"{name} is {bound} elsewhere and {dim} here"

    def check_expressions(self) -> str:
        """Check the dims that were written as expressions; return the first contradiction."""
        for expected, dim in self.deferred.values():
            value = substitute(expected, self.dims)
            if value != dim:
                return f"{expected} is {value}, and the dim is {dim}"
        return ""


@functools.cache
def _plain_name(dim: Expr) -> str:
    """Return the name of a dim that is one, ``""`` for an expression; the dims are those of rules."""
    return dim.symbols()[0] if dim.is_symbol else ""


def _ranks(expected: int, shape: Shape) -> str:
    return f"its rank is {len(shape)}, not {expected}"


def _text(dims: Shape) -> str:
    return ",".join(map(str, dims))

"""Make rows wider by columns that nothing reads: which rows can be, and how.

Rows that are made by products with constant weights, and by elementwise operators on such, get more columns when each
weight gets columns of zeros and each vector zeros.  What the columns then hold follows from the operators alone; a
bound of it is computed along the way, so that it is known to be finite.  A product that reads the rows gets rows of
zeros in its weight: ``[x, p] [w; 0] = x w`` for any finite ``p``.  All of that takes the operands of the first products
to be finite: an infinite one makes NaN of every new column, and so of its row.

Decisions: operators for which there is no bound, such as ``Div`` and ``Exp``, are not passed through.  A weight that
something else reads is left alone: the model would hold it twice.  A weight that gets both rows and columns is made
from the original in one step, since what lies between would be kept in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Array, Constant
from compiler.ir.dtype import DType
from compiler.ir.facts import scalar_constant
from compiler.ir.graph import Node, Value
from compiler.ir.schema import operator_names
from compiler.ir.types import TensorType, Type
from passes.affine import is_shared
from passes.node_forms import erase_unused
from passes.weights import computed, shape_of

_TAME = operator_names("""
        Abs Cos Erf FastGelu Gelu HardSigmoid HardSwish Mish Neg QuickGelu Relu Sigmoid Sin Softsign Swish Tanh
""")
"""Functions of one operand whose result is no larger than the operand, or than two."""

_SUMS = operator_names("Add Sub Sum BiasGelu FastGelu")
"""Operators whose result is no larger than the sum of their operands, or than two."""

_LARGEST = 1e30
"""What numbers in new columns must stay below."""

_REACH = 32
"""Operators through which columns are followed."""


def is_product(node: Node) -> bool:
    """Return whether a node multiplies rows by a matrix of single-precision weights that nothing else reads."""
    known = node.is_op("MatMul", "Gemm") or node.qualified == "com.microsoft::FusedMatMul"
    weight = node.input(1)
    if not known or weight is None or weight.constant is None or not weight.constant.is_readable:
        return False
    turned = any(node.attr(name, 0) for name in ("transA", "transBatchA", "transBatchB"))
    return len(weight.constant.shape) == 2 and weight.dtype is DType.F32 and not is_shared(weight) and not turned


@dataclass(slots=True)
class Columns:
    """The nodes that make rows of some width, and what new columns of these would hold."""

    width: int
    """Columns that the rows have."""
    nodes: dict[Node, None] = field(default_factory=dict)
    """Products and elementwise operators in order; none when the rows cannot be followed."""
    bounds: dict[Value, float] = field(default_factory=dict)
    """Value that these nodes make → the largest absolute number that its new columns can hold."""

    def follow(self, value: Value) -> str:
        """Take in what makes a value; return why the value cannot be widened, ``""`` when it can."""
        if value in self.bounds:
            return ""
        node = value.node
        if node is None or len(self.nodes) >= _REACH or not value.shape or value.shape[-1] != self.width:
            return f"%{value.name} is not made of products by weights"
        bound = self._of_product(node) if is_product(node) else self._of_function(node)
        if isinstance(bound, str):
            return bound
        if not bound < _LARGEST:
            return f"new columns of %{value.name} may not be finite"
        self.nodes[node] = None
        self.bounds[value] = bound
        return ""

    def _of_product(self, node: Node) -> float | str:
        bias = node.input(2)
        bound = 0.0 if bias is None else self._of_constant(bias)
        return bound if isinstance(bound, str) else bound * abs(node.attr("beta", 1.0))

    def _of_function(self, node: Node) -> float | str:
        operands = [v for v in node.inputs if v is not None]
        adds = node.op in _SUMS and (len(operands) > 1 or node.op not in _TAME)
        known = adds or node.op == "Mul" or (node.op in _TAME and len(operands) == 1)
        if node.domain not in ("", "com.microsoft") or not known or len(operands) < len(node.inputs):
            return f"new columns are not known to stay finite in {node.qualified}"
        bounds: list[float] = []
        for operand in operands:
            bound = self._of_operand(operand)
            if isinstance(bound, str):
                return bound
            bounds.append(bound)
        return math.prod(bounds) if node.op == "Mul" else max(sum(bounds), 2.0 if node.op in _TAME else 0.0, *bounds)

    def _of_operand(self, value: Value) -> float | str:
        if value.constant is not None:
            return self._of_constant(value)
        return self.follow(value) or self.bounds[value]

    def _of_constant(self, value: Value) -> float | str:
        """Return the size of a number, and 0 for what gets zeros behind its rows."""
        number = scalar_constant(value)
        if number is not None:
            return abs(float(number))
        constant = value.constant
        widens = constant is not None and constant.is_readable and constant.shape[-1:] == (self.width,)
        return 0.0 if widens else f"%{value.name} is neither a number nor as wide as the rows"

    def read_elsewhere(self, readers: Sequence[Node]) -> str:
        """Return which value is read by others than these nodes and the rows' readers, ``""`` when none is."""
        for value in self.bounds:
            ours = all((n in readers and i == 0) or (n in self.nodes and not is_product(n)) for n, i in value.uses)
            if value.is_output or not ours:
                return f"%{value.name} is read elsewhere"
        return ""


@dataclass(slots=True)
class Widening:
    """Makes nodes anew with more columns."""

    more: int
    """How many columns come behind those that there are."""
    by: str
    """The pass, for the origin of what is made."""
    _from: dict[Value, tuple[Value, tuple[int, ...]]] = field(default_factory=dict)
    """Constant that was made → what it was made from, and how much longer its axes are."""

    def rows(self, columns: Columns, rows: Value) -> Value:
        """Make all nodes anew, and return what stands for the rows."""
        new: dict[Value, Value] = {}
        for node in columns.nodes:
            if is_product(node):
                weight = self.longer(node.inputs[1], 0 if node.attr("transB", 0) else 1)
                inputs = [node.input(0), weight, *(self._wider(v) for v in node.inputs[2:])]
            else:
                inputs = [new[v] if v in new else self._wider(v) for v in node.inputs if v is not None]
            new[node.output] = self._put(node, inputs, self.type(node.output)).output
        return new[rows]

    def padded(self, rows: Value, before: Node) -> Value:
        """Return the rows with zeros behind them, by a ``Pad`` before a node."""
        graph, rank = before.graph, rows.rank or 0
        assert graph is not None
        amounts = edit.add_constant(graph, Constant.of([0] * (2 * rank - 1) + [self.more], DType.I64), hint="amounts")
        version, loc = edit.latest_version(graph.model), edit.merge_locs([before], self.by)
        hint, type_ = f"{rows.name}/wider", self.type(rows)
        return edit.add_node(
            graph, "Pad", [rows, amounts], [type_], version=version, before=before, hint=hint, loc=loc
        ).output

    def read(self, reader: Node, rows: Value) -> None:
        """Let a product read wider rows."""
        weight = self.longer(reader.inputs[1], 1 if reader.attr("transB", 0) else 0)
        old, name = reader.output, reader.output.name
        made = self._put(reader, [rows, weight, *reader.inputs[2:]], old.type)
        made.name = reader.name
        edit.replace(old, made.output)
        edit.erase(reader)
        if old.name == name and made.output.name != name:
            edit.rename(made.output, name)

    def type(self, rows: Value) -> TensorType:
        """Return the type of rows that are wider."""
        *rest, width = rows.shape or ()
        assert isinstance(width, int)
        return TensorType(rows.dtype, (*rest, width + self.more))

    def longer(self, value: Value | None, axis: int) -> Value:
        """Return a constant with zeros at the end of an axis."""
        assert value is not None
        assert value.graph is not None
        source, added = self._from.get(value, (value, (0,) * len(shape_of(value))))
        added = tuple(a + (self.more if i == axis else 0) for i, a in enumerate(added))

        def filled(array: Array) -> Array:
            return np.pad(array, [(0, a) for a in added])

        shape = tuple(d + a for d, a in zip(shape_of(source), added, strict=True))
        made = edit.add_constant(value.graph, computed(shape, filled, source), hint=source.name)
        self._from[made] = source, added
        return made

    def _wider(self, value: Value | None) -> Value | None:
        """Return a constant with zeros behind its rows; a number stays."""
        if value is None or scalar_constant(value) is not None:
            return value
        return self.longer(value, len(shape_of(value)) - 1)

    def _put(self, node: Node, inputs: Iterable[Value | None], type_: Type) -> Node:
        """Put a node of the same operator with other operands before a node."""
        assert node.graph is not None
        return edit.add_node(
            node.graph,
            node.op,
            list(inputs),
            [type_],
            dict(node.attributes),
            domain=node.domain,
            version=node.version,
            before=node,
            names=[node.output.name],
            loc=edit.merge_locs([node], self.by),
        )


def erase(columns: Columns) -> None:
    """Erase the nodes that made rows which nothing reads any more."""
    erase_unused(*reversed(columns.bounds))

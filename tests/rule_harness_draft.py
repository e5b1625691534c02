"""An instance of a rule while it is drawn: what its variables stand for, and the values and nodes made so far.

Dims are numbers or symbols.  A symbol stands for a number that is drawn too: it is what the test data has.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from compiler.ir.constant import Array, Constant
from compiler.ir.dims import Dim, Expr, floor_div, is_static, substitute, symbol
from compiler.ir.dtype import DType
from compiler.ir.edit import NEWEST
from compiler.ir.graph import Attr, Model, Node, Value
from compiler.ir.infer import infer_detached
from compiler.ir.syntax import DimList, Operand, Run, TypeSyntax
from compiler.ir.types import Shape, TensorType
from compiler.rewrite import Rule
from compiler.rewrite.pattern import ANY, Pattern
from compiler.rewrite.unify import Binding
from tests.rule_harness_choices import Choices
from tests.rule_harness_validity import why_invalid
from tests.rule_harness_values import SIZES, STATIC, BadDomain, draw, draw_within, sizes_within

if TYPE_CHECKING:
    from tests.rule_harness_dtypes import ElementTypes


_LIKE_STANDARD = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "FusedConv"})
"""Operators of the runtime whose conditions are known."""


class Undrawable(Exception):
    """This attempt to draw an instance came to nothing; the text says why."""


@dataclass
class Draft:
    """One attempt."""

    rule: Rule
    pattern: Pattern
    choices: Choices
    model: Model
    """Numbers the symbols of dims of which nothing is known."""
    prefix: str
    """What the names of this instance begin with."""
    dtypes: ElementTypes
    mode: str
    """How numbers are drawn."""
    dynamic: bool
    """Whether dims may be symbols."""
    random: np.random.Generator
    env: Binding = field(default_factory=Binding)
    numbers: dict[str, Dim] = field(default_factory=dict)
    """Symbol of the model → what it is in the test data."""
    values: dict[str, Value | None] = field(default_factory=dict)
    """Name in the rule → value."""
    nodes: list[Node] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    constants: list[Value] = field(default_factory=list)
    feeds: dict[str, Array] = field(default_factory=dict)
    twins: dict[Value, Value] = field(default_factory=dict)
    """Value → the same with the shape of the data."""
    axes: list[int] = field(default_factory=list)
    """Axes that were drawn last: rules tend to mean the same ones again."""
    resized_by_sizes: bool = False
    """Whether a ``Resize`` is given sizes rather than scales."""

    # Dims ----------------------------------------------------------------------------------------

    def dim(self, name: str) -> Dim:
        """Return what a dim's name stands for, drawn when it is new."""
        if name not in self.env.dims:
            words = self.rule.domain.get(name)
            self.env.dims[name] = self.fresh(self._number(words), name)
        return self.env.dims[name]

    def _number(self, words: str | None) -> int:
        """Return a size; one that another dim has already is likely, since operators want many to be equal."""
        drawn = [d for d in self.env.dims.values() if isinstance(d, int)]
        options = sizes_within(words) if words else SIZES
        if drawn and self.choices.chance(30):
            options = tuple(d for d in drawn if not words or d in options) or options
        return self.choices.pick(options)

    def fresh(self, number: int, name: str) -> Dim:
        """Return a dim of a given number: the number, or a symbol for it."""
        known = name in self._static_names() or self.rule.domain.get(name, "").startswith(STATIC)
        if not self.dynamic or known or not self.choices.chance(50):
            return number
        found = symbol(f"{self.prefix}{name}{len(self.numbers)}")
        self.numbers[found.text] = number
        return found

    def _static_names(self) -> frozenset[str]:
        return static_names(self.pattern)

    def run(self, name: str) -> Shape:
        """Return what a run of dims stands for, drawn when it is new; a domain ``[] [1] [B,1]`` says among which."""
        words = self.rule.domain.get(name)
        if words and name not in self.env.runs:
            written = self.choices.pick(words.split()).strip("[]")
            self.env.runs[name] = tuple(int(d) if d.isdigit() else self.dim(d) for d in written.split(",") if d)
        if name not in self.env.runs:
            length = self.choices.pick((1, 2, 0, 1, 2, 3))
            if self.env.runs and self.choices.chance(70):
                length = len(next(reversed(self.env.runs.values())))
            self.env.runs[name] = tuple(self.fresh(self.choices.pick(SIZES), name) for _ in range(length))
        return self.env.runs[name]

    def evaluate(self, dim: Dim | Run) -> Shape:
        """Return the dims of the model that a dim, or a run of them, of the rule stands for."""
        if isinstance(dim, Run):
            return self.run(dim.name)
        if isinstance(dim, Expr):
            return (substitute(dim, {name: self.dim(name) for name in dim.symbols()}),)
        return (dim,)

    def shape(self, written: TypeSyntax) -> Shape | None:
        """Return the dims that a type writes, ``None`` when it writes none."""
        if written.bare or written.dims is None:
            return None
        return tuple(d for w in written.dims for d in self.evaluate(w))

    def is_bound(self, written: TypeSyntax) -> bool:
        """True when all variables of a type's dims have been drawn."""
        for dim in written.dims or ():
            if isinstance(dim, Run):
                if dim.name not in self.env.runs:
                    return False
            elif isinstance(dim, Expr) and any(name not in self.env.dims for name in dim.symbols()):
                return False
        return True

    def size(self, dim: Dim) -> int:
        """Return the number that a dim of the model is in the test data."""
        number = substitute(dim, self.numbers)
        if not isinstance(number, int) or number < 0:
            raise Undrawable(f"the dim {dim} is not known")
        return number

    def sizes(self, shape: Sequence[Dim]) -> tuple[int, ...]:
        """Return the numbers that dims are in the test data."""
        return tuple(map(self.size, shape))

    # Values --------------------------------------------------------------------------------------

    def constant(self, array: Array, dtype: DType, name: str = "c") -> Value:
        """Add a constant."""
        value = Value(f"{self.prefix}{name}{len(self.constants)}", TensorType(dtype, tuple(array.shape)))
        value.constant = Constant.from_array(array, dtype)
        self.constants.append(value)
        return value

    def integers(self, numbers: Sequence[int], dtype: DType = DType.I64) -> Value:
        """Add a constant vector of integers."""
        return self.constant(np.asarray(numbers, dtype.numpy).reshape(len(numbers)), dtype, "ints")

    def leaf(self, name: str, dtype: DType, shape: Shape, *, constant: bool, within: str = "") -> Value:
        """Add a leaf with its data: a constant or an input; ``within`` says which data, unless the rule does."""
        sizes = self.sizes(shape)
        if math.prod(sizes) > 4096:
            raise Undrawable(f"%{name} has {math.prod(sizes)} elements")
        words = self.rule.domain.get(name, "")
        rotary = words == "rotary" and bool(sizes) and sizes[-1] % 2 == 0 and not self.choices.chance(5)
        if rotary and not constant and not (is_static(shape) and self.choices.chance(30)):
            return self._repeated(name, dtype, shape)
        array = self._twice(dtype, sizes) if rotary else self.data(name, dtype, sizes, within)
        if constant or (is_static(shape) and (rotary or self.choices.chance(12))):
            if not is_static(shape):
                raise Undrawable(f"%{name} is constant, and its dims {shape} are not")
            made = self.constant(array, dtype, f"{name}_")
        else:
            number = len(self.inputs) if name == ANY else ""
            made = Value(f"{self.prefix}{name}{number}", TensorType(dtype, tuple(shape)))
            self._feed(made, array)
            if words == "nonnegative":
                made = self.apply("Abs", [made], {}, f"{name}_abs")
        self._name(name, made)
        return made

    def _name(self, name: str, made: Value) -> None:
        if name != ANY:
            self.values[name] = made

    def _feed(self, value: Value, array: Array) -> None:
        self.inputs.append(value)
        self.feeds[value.name] = array

    @functools.cached_property
    def _neighbours(self) -> bool:
        """Whether the columns of rotary caches come twice side by side, rather than as two halves."""
        return self.choices.chance(50)

    def _twice(self, dtype: DType, sizes: tuple[int, ...]) -> Array:
        """Return a rotary cache."""
        half = draw_within("-1..1", self.random, (*sizes[:-1], sizes[-1] // 2), dtype, self._bound)
        return np.repeat(half, 2, axis=-1) if self._neighbours else np.concatenate([half, half], axis=-1)

    def _repeated(self, name: str, dtype: DType, shape: Shape) -> Value:
        """Add a rotary cache that is computed in the graph: each column of one half its width, twice."""
        half = floor_div(shape[-1], 2)
        if half * 2 != shape[-1]:
            raise Undrawable("the last dim of a rotary cache is even")
        part = Value(f"{self.prefix}{name}_half{len(self.inputs)}", TensorType(dtype, (*shape[:-1], half)))
        self._feed(part, draw_within("-1..1", self.random, self.sizes((*shape[:-1], half)), dtype, self._bound))
        if not self._neighbours:
            made = self.apply("Concat", [part, part], {"axis": Attr("int", -1)}, name)
        else:
            column = self.apply("Unsqueeze", [part, self.integers([-1])], {}, f"{name}_column")
            pairs = self.apply("Concat", [column, column], {"axis": Attr("int", -1)}, f"{name}_pairs")
            made = self.apply("Reshape", [pairs, self.integers([*(0 for _ in shape[:-1]), -1])], {}, name)
        self._name(name, made)
        return made

    def data(self, name: str, dtype: DType, sizes: tuple[int, ...], within: str = "") -> Array:
        """Return the numbers of a leaf."""
        words = self.rule.domain.get(name) or within
        try:
            if words:
                return draw_within(words, self.random, sizes, dtype, self._bound)
        except BadDomain as error:
            raise Undrawable(f"domain of %{name}: {error}") from error
        return draw(self.random, sizes, dtype, self.mode)

    def _bound(self, word: str) -> int:
        try:
            return int(word)
        except ValueError:
            return self.size(self.dim(word))

    def apply(self, op: str, inputs: Sequence[Value | None], attributes: dict[str, Attr], hint: str) -> Value:
        """Add a node of the default domain that has one output."""
        out = Value(f"{self.prefix}{hint}{len(self.nodes)}")
        return self.add(Node(op, tuple(inputs), (out,), attributes, version=NEWEST, name=out.name)).output

    def add(self, node: Node) -> Node:
        """Add a node and infer its outputs; raises ``Undrawable`` when that gives nothing definite."""
        for i, out in enumerate(node.outputs):
            out.node, out.index = node, i
        sizes = [None if v is None or v.shape is None else self.sizes(v.shape) for v in node.inputs]
        reason = why_invalid(node, sizes) if not node.domain or node.op in _LIKE_STANDARD else ""
        if reason:
            raise Undrawable(f"{node.qualified}: {reason}")
        self._infer(node)
        if self.dynamic:
            self._infer_sizes(node)
        self.nodes.append(node)
        return node

    def _infer(self, node: Node) -> None:
        infer_detached(node, self.model)
        for out in node.outputs:
            if not out.absent and not isinstance(out.type, TensorType):
                operands = ", ".join("_" if v is None else str(v.type) for v in node.inputs)
                raise Undrawable(f"{node.qualified}({operands}) has no known type")

    def _infer_sizes(self, node: Node) -> None:
        """Infer the node again on the shapes of the data: symbols may hide that these contradict each other."""
        outputs = tuple(Value(out.name) for out in node.outputs)
        inputs = tuple(None if v is None else self._measured(v) for v in node.inputs)
        twin = Node(node.op, inputs, outputs, node.attributes, domain=node.domain, version=node.version)
        for i, out in enumerate(outputs):
            out.node, out.index = twin, i
        self._infer(twin)
        self.twins.update(zip(node.outputs, outputs, strict=True))

    def _measured(self, value: Value) -> Value:
        """Return a value that has the shape of the data where this one has symbols."""
        if value.constant is not None:
            return value
        if value not in self.twins:
            self.twins[value] = Value(value.name, TensorType(value.dtype, self.sizes(value.shape or ())))
        return self.twins[value]


@functools.cache
def static_names(pattern: Pattern) -> frozenset[str]:
    """Return the names of dims and runs that must be numbers: those of constants, and those that attributes hold."""
    found = {
        name
        for operand in pattern.operands()
        if operand.constant and operand.type is not None
        for name in names_in(operand.type.dims or ())
    }
    written = (a.value for s in pattern.statements for a in s.attributes.values() if a.kind == "dim")
    return frozenset(found | {name for dim in written for name in names_in([dim])})


def names_in(dims: Sequence[Dim | Run]) -> list[str]:
    """Return the names of dims and runs, in order."""
    found: list[str] = []
    for dim in dims:
        found += [dim.name] if isinstance(dim, Run) else dim.symbols() if isinstance(dim, Expr) else []
    return found


def dims_of(operand: Operand | DimList) -> tuple[Dim | Run, ...]:
    """Return the dims that an operand writes."""
    if isinstance(operand, DimList):
        return operand.dims
    return operand.type.dims or () if operand.type is not None else ()

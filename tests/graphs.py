"""Random models at the level of the IR: valid by construction, with types that are right.

``models`` draws models that run: what exporters write (broadcasting, shape chains, nested graphs, constants) and what
optimizers are for (duplicates, chains of ``Identity``, dead nodes, shared constants).  ``odd_models`` draws models that
only need to be well formed: every kind of attribute, type, element type and name that the IR holds.

A model is a list of steps, each of which takes operands from a pool and adds to it; shrinking drops steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dims import Dim, minimum, product, symbol
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Loc, Model, Node, Value
from compiler.ir.spelling import Opaque
from compiler.ir.types import (
    UNKNOWN,
    MapType,
    OptionalType,
    SequenceType,
    Shape,
    SparseType,
    TensorType,
    Type,
    UnrankedType,
)

Draw = Callable[[st.SearchStrategy[Any]], Any]
F32, I64, BOOL = DType.F32, DType.I64, DType.BOOL
BATCH = symbol("N")
"""The dynamic dim of the models that run; bind it to any number from 1."""


@dataclass
class Build:
    """A graph under construction, and the values that steps may read."""

    draw: Draw
    graph: Graph
    pool: list[Value] = field(default_factory=list)

    def node(self, op: str, inputs: Sequence[Value | None], *types: Type, **attributes: Any) -> list[Value]:
        """Add a node of the default domain and put its outputs into the pool."""
        attrs = {name: as_attr(value) for name, value in attributes.items()}
        hint = self.draw(st.sampled_from(["x", "layer/out", "h"]))
        loc = Loc((f"{hint}/{op}",)) if self.draw(st.booleans()) else None
        node = edit.add_node(self.graph, op, inputs, types, attrs, version=edit.NEWEST, hint=hint, loc=loc)
        self.pool += node.outputs
        return list(node.outputs)

    def constant(self, values: Any, dtype: DType) -> Value:
        """Add a constant."""
        return edit.add_constant(self.graph, Constant.of(values, dtype), hint="c")

    def numbers(self, shape: Sequence[int], dtype: DType = F32) -> Value:
        """Add a constant of small random numbers."""
        random = np.random.default_rng(self.draw(st.integers(0, 3)))
        return self.constant(random.integers(-3, 4, tuple(shape)) / (2 if dtype is F32 else 1), dtype)

    def pick(self, fits: Callable[[Value], bool]) -> Value | None:
        """Draw a value from the pool, ``None`` when none fits."""
        found = [v for v in self.pool if fits(v)]
        return self.draw(st.sampled_from(found)) if found else None

    def tensor(self, *, rank: int = 0, dtypes: Sequence[DType] = (F32,)) -> Value | None:
        """Draw a value of at least this rank."""
        return self.pick(lambda v: v.dtype in dtypes and (v.rank or 0) >= rank)


def as_attr(value: Any) -> Attr:
    """Return an int, a float, a string or a list of ints as an attribute."""
    if isinstance(value, tuple):
        return Attr("ints", value)
    return Attr({int: "int", float: "float", str: "string"}[type(value)], value)


def shape_of(value: Value) -> Shape:
    """Return the dims of a value of known rank."""
    assert value.shape is not None
    return value.shape


# Steps -------------------------------------------------------------------------------------------


def _unary(b: Build) -> None:
    x = b.tensor(dtypes=(F32, I64, BOOL))
    if x is not None:
        ops = {F32: ["Relu", "Neg", "Abs", "Tanh", "Sigmoid", "Identity"], I64: ["Neg", "Abs", "Identity"]}
        b.node(b.draw(st.sampled_from(ops.get(x.dtype, ["Not", "Identity"]))), [x], x.type)


def _broadcast(left: Shape, right: Shape) -> Shape | None:
    rank = max(len(left), len(right))
    pairs = zip((1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right, strict=True)
    dims: list[Dim] = []
    for d, e in pairs:
        if d != e and 1 not in (d, e):
            return None
        dims.append(e if d == 1 else d)
    return tuple(dims)


def _partner(b: Build, x: Value) -> Value:
    """Return a value that broadcasts against ``x``: one from the pool, or a new constant."""
    other = b.pick(lambda v: v.dtype is x.dtype and _broadcast(shape_of(x), v.shape or ()) is not None)
    if other is not None and b.draw(st.booleans()):
        return other
    keep = b.draw(st.integers(0, len(shape_of(x))))
    dims = [d if isinstance(d, int) and b.draw(st.booleans()) else 1 for d in shape_of(x)[keep:]]
    return b.numbers(dims, x.dtype)


def _joined(x: Value, y: Value) -> Shape:
    shape = _broadcast(shape_of(x), shape_of(y))
    assert shape is not None
    return shape


def _binary(b: Build) -> None:
    x = b.tensor(dtypes=(F32, I64))
    if x is not None:
        y = _partner(b, x)
        pair = [x, y] if b.draw(st.booleans()) else [y, x]
        op = b.draw(st.sampled_from(["Add", "Sub", "Mul", "Min", "Max"]))
        b.node(op, pair, TensorType(x.dtype, _joined(x, y)))


def _where(b: Build) -> None:
    x = b.tensor(dtypes=(F32, I64))
    if x is None:
        return
    y = _partner(b, x)
    shape = _joined(x, y)
    (mask,) = b.node(b.draw(st.sampled_from(["Less", "Equal"])), [x, y], TensorType(BOOL, shape))
    b.node("Where", [mask, x, y], TensorType(x.dtype, shape))


def _matmul(b: Build) -> None:
    x = b.pick(lambda v: v.dtype is F32 and (v.rank or 0) >= 2 and isinstance(shape_of(v)[-1], int))
    if x is not None:
        columns = b.draw(st.integers(1, 4))
        inner = shape_of(x)[-1]
        assert isinstance(inner, int)
        b.node("MatMul", [x, b.numbers([inner, columns])], TensorType(F32, (*shape_of(x)[:-1], columns)))


def _transpose(b: Build) -> None:
    x = b.tensor(rank=2, dtypes=(F32, I64))
    if x is not None:
        order = tuple(b.draw(st.permutations(range(len(shape_of(x))))))
        b.node("Transpose", [x], TensorType(x.dtype, tuple(shape_of(x)[i] for i in order)), perm=order)


def _reshape(b: Build) -> None:
    """Exchange the last dim with the product of the others, which is left to the operator."""
    x = b.pick(lambda v: v.dtype is F32 and (v.rank or 0) >= 2 and isinstance(shape_of(v)[-1], int))
    if x is not None:
        last, rest = shape_of(x)[-1], product(shape_of(x)[:-1])
        b.node("Reshape", [x, b.constant([last, -1], I64)], TensorType(F32, (last, rest)))


def _shape_chain(b: Build) -> None:
    """Flatten all dims after the first, with a target computed from the shape, as exporters do."""
    x = b.pick(lambda v: v.dtype is F32 and (v.rank or 0) >= 2 and all(isinstance(d, int) for d in shape_of(v)[1:]))
    if x is not None:
        rest = product(shape_of(x)[1:])
        (dims,) = b.node("Shape", [x], TensorType(I64, (len(shape_of(x)),)))
        (first,) = b.node("Gather", [dims, b.constant([0], I64)], TensorType(I64, (1,)), axis=0)
        (target,) = b.node("Concat", [first, b.constant([rest], I64)], TensorType(I64, (2,)), axis=0)
        b.node("Reshape", [x, target], TensorType(F32, (shape_of(x)[0], rest)))


def _static_axis(b: Build, x: Value) -> int | None:
    axes = [i for i, d in enumerate(shape_of(x)) if isinstance(d, int)]
    return b.draw(st.sampled_from(axes)) if axes else None


def _with_dim(x: Value, axis: int, dim: Dim) -> TensorType:
    shape = list(shape_of(x))
    shape[axis] = dim
    return TensorType(x.dtype, tuple(shape))


def _concat(b: Build) -> None:
    x = b.tensor(rank=1)
    if x is None or (axis := _static_axis(b, x)) is None:
        return
    rest = _with_dim(x, axis, 0)
    y = b.pick(lambda v: v.rank == x.rank and _with_dim(v, axis, 0) == rest)
    assert y is not None  # x itself is one
    b.node("Concat", [x, y], _with_dim(x, axis, shape_of(x)[axis] + shape_of(y)[axis]), axis=axis)


def _split(b: Build) -> None:
    x = b.pick(lambda v: v.dtype is F32 and any(isinstance(d, int) and d > 1 for d in v.shape or ()))
    if x is not None:
        axis = next(i for i, d in enumerate(shape_of(x)) if isinstance(d, int) and d > 1)
        size = shape_of(x)[axis]
        assert isinstance(size, int)
        sizes = b.constant([1, size - 1], I64)
        b.node("Split", [x, sizes], _with_dim(x, axis, 1), _with_dim(x, axis, size - 1), axis=axis)


def _slice(b: Build) -> None:
    x = b.tensor(rank=1, dtypes=(F32, I64))
    if x is not None and (axis := _static_axis(b, x)) is not None:
        end = b.draw(st.integers(1, 3))
        operands = [x, *(b.constant([n], I64) for n in (0, end, axis))]
        b.node("Slice", operands, _with_dim(x, axis, minimum(shape_of(x)[axis], end)))


def _gather(b: Build) -> None:
    x = b.tensor(rank=1)
    if x is not None and (axis := _static_axis(b, x)) is not None:
        count = b.draw(st.integers(1, 3))
        shape = (*shape_of(x)[:axis], count, *shape_of(x)[axis + 1 :])
        b.node("Gather", [x, b.constant([0] * count, I64)], TensorType(F32, shape), axis=axis)


def _reduce(b: Build) -> None:
    x = b.tensor(rank=1)
    if x is not None:
        axis, keep = b.draw(st.integers(0, len(shape_of(x)) - 1)), b.draw(st.integers(0, 1))
        shape = (*shape_of(x)[:axis], *(1,) * keep, *shape_of(x)[axis + 1 :])
        op = b.draw(st.sampled_from(["ReduceSum", "ReduceMean", "ReduceMax"]))
        b.node(op, [x, b.constant([axis], I64)], TensorType(F32, shape), keepdims=keep)


def _cast(b: Build) -> None:
    """Change the element type; from float to double and back there is a node in between.

    ONNX Runtime 1.32 takes two such casts in a row out of a graph even when it is told not to optimize, and then misses
    their result where a nested graph reads it.
    """
    x = b.tensor(dtypes=(F32, I64, BOOL))
    if x is None:
        return
    to = {F32: DType.F64, I64: F32, BOOL: F32}[x.dtype]
    (y,) = b.node("Cast", [x], TensorType(to, shape_of(x)), to=to.code)
    if to is DType.F64:
        (z,) = b.node("Neg", [y], y.type)
        b.node("Cast", [z], x.type, to=F32.code)


def _duplicate(b: Build) -> None:
    """Repeat a node, so that there is something to merge."""
    x = b.pick(lambda v: v.node is not None and v.node.graph is b.graph and not v.node.graphs())
    if x is not None and x.node is not None:
        old = x.node
        types = [o.type for o in old.outputs]
        new = edit.add_node(b.graph, old.op, old.inputs, types, dict(old.attributes), version=edit.NEWEST, hint="again")
        b.pool += new.outputs


def _identities(b: Build) -> None:
    x = b.tensor(dtypes=(F32, I64, BOOL))
    if x is not None:
        (y,) = b.node("Identity", [x], x.type)
        b.node("Identity", [y], x.type)


def _if(b: Build) -> None:
    """Choose between two branches that read values of the enclosing graph."""
    flag = b.pick(lambda v: v.dtype is BOOL and v.rank == 0)
    x = b.tensor()
    if flag is None or x is None or b.graph.owner is not None:
        return
    node = Node("If", (flag,), (Value(b.graph.model.fresh_name("if"), x.type),), version=edit.NEWEST)
    for name in ("else_branch", "then_branch"):
        node.attributes[name] = Attr("graph", _branch(b, name, node, x))
    edit.attach(b.graph, node)
    b.pool += node.outputs


def _branch(b: Build, name: str, node: Node, x: Value) -> Graph:
    inner = Build(b.draw, edit.new_graph(name, b.graph.model, node), list(b.pool))
    for step in b.draw(st.lists(st.sampled_from(STEPS), max_size=3)):
        step(inner)
    (y,) = inner.node(b.draw(st.sampled_from(["Relu", "Neg", "Identity"])), [x], x.type)
    edit.add_output(inner.graph, y)
    return inner.graph


STEPS = (
    _unary, _binary, _where, _matmul, _transpose, _reshape, _shape_chain, _concat, _split, _slice, _gather, _reduce,
    _cast, _duplicate, _identities, _if,
)  # fmt: skip
"""What may be added to a graph."""


def new_model(draw: Draw, name: str = "main") -> Build:
    """Return an empty model of opset 20 to build on."""
    model = Model(opsets={"": 20}, ir_version=10)
    model.graph = edit.new_graph(name, model)
    return Build(draw, model.graph)


@st.composite
def models(draw: Draw, *, steps: int = 10, dynamic: bool = True) -> Model:
    """Draw a model that runs; ``dynamic`` gives some inputs the batch dim ``N``."""
    b = new_model(draw)
    first = [BATCH, 2] if dynamic else [2]
    for name in ("a", "b"):
        dims = (draw(st.sampled_from(first)), *draw(st.lists(st.integers(1, 4), max_size=2)))
        b.pool.append(edit.add_input(b.graph, Value(b.graph.model.claim(name), TensorType(F32, dims))))
    b.pool.append(edit.add_input(b.graph, Value(b.graph.model.claim("flag"), TensorType(BOOL, ()))))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=steps)):
        step(b)
    made = [v for v in b.pool if v.node is not None] or b.node("Identity", [b.pool[0]], b.pool[0].type)
    chosen = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    for value in chosen:
        edit.add_output(b.graph, value)
    return b.graph.model


# Odd models --------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
"""Any text that a protobuf can hold."""

DIMS = st.recursive(
    st.integers(0, 9) | st.sampled_from(["N", "batch size", "?3", "min", 'q"\\', "é"]).map(symbol),
    lambda inner: st.tuples(st.sampled_from("+-*/%<"), inner, inner).map(lambda t: _combined(*t)),
    max_leaves=6,
)
"""Dims in normal form."""


def _combined(operator: str, left: Dim, right: Dim) -> Dim:
    if operator in "+-*":
        return {"+": left + right, "-": left - right, "*": left * right}[operator]
    if operator == "<":
        return minimum(left, right)
    divisor = right if right != 0 else 1
    return left // divisor if operator == "/" else left % divisor


ELEMENT_TYPES = st.sampled_from(list(DType))
SHAPES = st.lists(DIMS.filter(lambda d: not isinstance(d, int) or d >= 0), max_size=3).map(tuple)
TYPES = st.recursive(
    st.just(UNKNOWN)
    | ELEMENT_TYPES.map(UnrankedType)
    | st.builds(TensorType, ELEMENT_TYPES, SHAPES)
    | st.builds(SparseType, ELEMENT_TYPES, SHAPES),
    lambda inner: (
        inner.map(SequenceType)
        | inner.map(OptionalType)
        | st.builds(MapType, st.sampled_from([I64, DType.STRING]), inner)
    ),
    max_leaves=3,
)


@st.composite
def constants(draw: Draw) -> Constant:
    """Draw a constant of any element type: any bits, any strings, any small shape."""
    dtype = draw(ELEMENT_TYPES.filter(lambda d: d is not DType.UNKNOWN))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = int(np.prod(shape))
    if dtype is DType.STRING:
        array = np.empty(size, object)
        array[:] = draw(st.lists(TEXTS | st.just(b"\xff\x00"), min_size=size, max_size=size))
        return Constant(dtype, shape, array=array.reshape(shape))
    data = draw(st.binary(min_size=dtype.packed_bytes(size), max_size=dtype.packed_bytes(size)))
    if dtype is BOOL:
        data = bytes(c & 1 for c in data)
    if dtype.is_sub_byte and size * dtype.bits % 8:
        data = data[:-1] + bytes([data[-1] & ((1 << size * dtype.bits % 8) - 1)])
    return Constant(dtype, shape, buffer=data)


ATTRIBUTES = {
    "int": st.integers(-(1 << 63), (1 << 63) - 1),
    "float": st.floats(width=32),
    "string": TEXTS | st.just(b"\xff"),
    "tensor": constants(),
    "type": st.binary(max_size=4).map(Opaque),
    "sparse": st.binary(max_size=4).map(Opaque),
}
"""Kind of an attribute → its values; each kind has a plural."""


@st.composite
def attributes(draw: Draw) -> Attr:
    """Draw an attribute of any kind but a graph."""
    kind = draw(st.sampled_from(list(ATTRIBUTES)))
    if draw(st.booleans()):
        return Attr(kind, draw(ATTRIBUTES[kind]))
    return Attr(kind + "s", tuple(draw(st.lists(ATTRIBUTES[kind], max_size=3))))


@st.composite
def odd_models(draw: Draw) -> Model:
    """Draw a model that is well formed and need not mean anything."""
    b = new_model(draw, draw(TEXTS))
    model = b.graph.model
    model.opsets |= draw(st.dictionaries(TEXTS, st.integers(1, 30), max_size=2))
    model.metadata = draw(st.dictionaries(TEXTS, TEXTS, max_size=2))
    model.functions = tuple(draw(st.lists(st.binary(max_size=4).map(Opaque), max_size=1)))
    for _ in range(draw(st.integers(0, 3))):
        default = draw(st.none() | constants())
        type_ = draw(TYPES) if default is None else TensorType(default.dtype, default.shape)
        b.pool.append(edit.add_input(b.graph, _odd_value(b, type_)))
        b.pool[-1].default = default
    _odd_body(b, depth=2)
    return model


def _odd_value(b: Build, type_: Type) -> Value:
    return Value(b.graph.model.fresh_name(b.draw(TEXTS)), type_)


def _odd_body(b: Build, *, depth: int) -> None:
    for constant in b.draw(st.lists(constants(), max_size=2)):
        b.pool.append(edit.add_constant(b.graph, constant, hint=b.draw(TEXTS)))
    for _ in range(b.draw(st.integers(0, 3))):
        _odd_node(b, depth)
    for value in b.draw(st.lists(st.sampled_from(b.pool), max_size=2, unique=True)) if b.pool else ():
        edit.add_output(b.graph, value)


def _odd_node(b: Build, depth: int) -> None:
    draw = b.draw
    inputs = draw(st.lists(st.sampled_from([None, *b.pool]), max_size=3))
    outputs = [Value("") if draw(st.booleans()) else _odd_value(b, draw(TYPES)) for _ in range(draw(st.integers(0, 2)))]
    loc = draw(
        st.none() | st.builds(Loc, st.lists(TEXTS, max_size=2).map(tuple), st.lists(TEXTS, max_size=2).map(tuple))
    )
    op, domain = draw(st.sampled_from(["Add", "a b", "return", ""]) | TEXTS), draw(st.sampled_from(["", "ir"]) | TEXTS)
    version = draw(st.sampled_from([0, 1, 20, edit.NEWEST]))
    node = Node(op, tuple(inputs), tuple(outputs), {}, domain=domain, version=version, name=draw(TEXTS), loc=loc)
    node.attributes = draw(st.dictionaries(TEXTS, attributes(), max_size=2))
    for kind in draw(st.lists(st.sampled_from(["graph", "graphs"]), max_size=1)) if depth else ():
        graphs = tuple(_odd_nested(b, node, depth) for _ in range(draw(st.integers(0, 2)) if kind == "graphs" else 1))
        node.attributes["body"] = Attr(kind, graphs if kind == "graphs" else graphs[0])
    edit.attach(b.graph, node)
    b.pool += [o for o in outputs if o.name]


def _odd_nested(b: Build, owner: Node, depth: int) -> Graph:
    inner = Build(b.draw, edit.new_graph(b.draw(TEXTS), b.graph.model, owner), list(b.pool))
    if b.draw(st.booleans()):
        inner.pool.append(edit.add_input(inner.graph, _odd_value(inner, b.draw(TYPES))))
    _odd_body(inner, depth=depth - 1)
    return inner.graph

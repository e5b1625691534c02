"""Laws of ``compiler.ir.evaluate``: the same bits as ONNX Runtime, or no answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.ir.constant import Array
from compiler.ir.dims import symbol
from compiler.ir.dtype import DType
from compiler.ir.evaluate import EVALUATIONS, evaluate, output_bytes_bound
from compiler.ir.graph import Node, Value
from compiler.ir.types import TensorType
from tests.one_node import NoKernel, ir_node, run

Random = np.random.Generator
Case = tuple[Sequence[Array | None], dict[str, Any], int]
"""Operands, attributes, number of outputs."""

INTEGERS = [np.int32, np.int64, np.uint8, np.int8, np.int16, np.uint32, np.uint64, np.uint16]
FLOATS = [np.float32, np.float64]


def numbers(random: Random, shape: Sequence[int], types: Sequence[Any]) -> Array:
    """Draw numbers of one of the types: small ones, great ones, and the special ones of floats."""
    dtype: np.dtype[Any] = np.dtype(types[int(random.integers(len(types)))])
    if dtype == np.bool_:
        return random.integers(0, 2, shape).astype(np.bool_)
    if dtype.kind == "f":
        top = float(np.finfo(dtype).max)
        drawn = random.standard_normal(shape) * 10.0 ** random.integers(-3, 4)
        special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, top])[random.integers(0, 7, shape)]
        return np.where(random.random(shape) < 0.2, special, drawn).astype(dtype)
    info = np.iinfo(dtype)
    great = random.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    small = random.integers(0 if dtype.kind == "u" else -5, 6, shape).astype(dtype)
    return np.asarray(np.where(random.random(shape) < 0.2, great, small).astype(dtype))


def shape(random: Random, *, least: int = 0) -> tuple[int, ...]:
    """Draw a shape of at most three small dims, now and then one of zero."""
    return tuple(
        int(d) for d in random.choice([0, 1, 2, 3, 4], random.integers(least, 4), p=[0.05, 0.2, 0.25, 0.25, 0.25])
    )


def pair(random: Random, types: Sequence[Any]) -> list[Array]:
    """Draw two operands of one type that mostly broadcast."""
    full = shape(random)
    left = tuple(1 if random.random() < 0.2 else d for d in full)
    right = tuple(1 if random.random() < 0.2 else d for d in full)[random.integers(0, len(full) + 1) :]
    chosen = [types[int(random.integers(len(types)))]]
    return [numbers(random, left, chosen), numbers(random, right, chosen)]


def vector(*items: Any) -> Array:
    """Return a vector of 64-bit integers."""
    return np.array(items, np.int64)


def binary(types: Sequence[Any]) -> Callable[[Random], Case]:
    """Return a generator of cases with two operands."""
    return lambda random: (pair(random, types), {}, 1)


def unary(types: Sequence[Any]) -> Callable[[Random], Case]:
    """Return a generator of cases with one operand."""
    return lambda random: ([numbers(random, shape(random), types)], {}, 1)


ANY = [*INTEGERS, *FLOATS, np.float16, np.bool_]


def data(random: Random, *, least: int = 1) -> Array:
    """Draw a tensor of any type."""
    return numbers(random, shape(random, least=least), ANY)


def axis(random: Random, rank: int) -> int:
    """Draw an axis, now and then one that is out of range."""
    return int(random.integers(-rank, rank)) if random.random() < 0.95 else rank


def cast(random: Random) -> Case:
    """Draw a case of ``Cast``."""
    codes = [DType.from_numpy(np.dtype(t)).code for t in ANY]
    return [numbers(random, shape(random), ANY)], {"to": int(random.choice(codes))}, 1


def where(random: Random) -> Case:
    """Draw a case of ``Where``."""
    left, right = pair(random, ANY)
    return (
        [numbers(random, left.shape, [np.bool_]), left, right],
        {},
        1,
    )


def reduction(random: Random) -> Case:
    """Draw a case of ``Reduction``."""
    x = numbers(random, shape(random), [np.int32, np.int64])
    axes = (
        None if random.random() < 0.3 else vector(*(axis(random, max(x.ndim, 1)) for _ in range(random.integers(0, 3))))
    )
    return [x, axes], {"keepdims": int(random.integers(2)), "noop_with_empty_axes": int(random.integers(2))}, 1


def shape_case(random: Random) -> Case:
    """Draw a case of ``Shape``."""
    return [data(random, least=0)], {"start": int(random.integers(-4, 4)), "end": int(random.integers(-4, 5))}, 1


def reshape(random: Random) -> Case:
    """Draw a case of ``Reshape``."""
    x = data(random, least=0)
    dims = [int(d) for d in random.permutation(np.array(x.shape, np.int64))] + [1] * int(random.integers(2))
    if dims and random.random() < 0.6:
        dims[int(random.integers(len(dims)))] = int(random.choice([-1, 0]))
    return [x, vector(*dims)], {"allowzero": int(random.integers(2))}, 1


def flatten(random: Random) -> Case:
    """Draw a case of ``Flatten``."""
    x = data(random, least=0)
    return [x], {"axis": int(random.integers(-x.ndim - 1, x.ndim + 2))}, 1


def squeeze(random: Random) -> Case:
    """Draw a case of ``Squeeze``."""
    x = data(random)
    ones = [i for i, d in enumerate(x.shape) if d == 1]
    return [x, None if random.random() < 0.3 or not ones else vector(int(random.choice(ones)))], {}, 1


def unsqueeze(random: Random) -> Case:
    """Draw a case of ``Unsqueeze``."""
    x = data(random, least=0)
    return [x, vector(*(axis(random, x.ndim + 2) for _ in range(2)))], {}, 1


def transpose(random: Random) -> Case:
    """Draw a case of ``Transpose``."""
    x = data(random, least=0)
    return [x], {} if random.random() < 0.3 or not x.ndim else {"perm": [int(p) for p in random.permutation(x.ndim)]}, 1


def concat(random: Random) -> Case:
    """Draw a case of ``Concat``."""
    full = shape(random, least=1)
    at, kind = axis(random, len(full)), [ANY[random.integers(len(ANY))]]
    parts = []
    for _ in range(random.integers(1, 4)):
        dims = list(full)
        dims[at % len(full)] = int(random.integers(0, 4))
        parts.append(numbers(random, dims, kind))
    return parts, {"axis": at}, 1


def split(random: Random) -> Case:
    """Draw a case of ``Split``."""
    x = data(random)
    at = int(random.integers(x.ndim))
    cut = int(random.integers(0, x.shape[at] + 1))
    sizes = vector(cut, x.shape[at] - cut + int(random.random() < 0.1))
    return ([x, sizes], {"axis": at}, 2) if random.random() < 0.6 else ([x], {"axis": at, "num_outputs": 2}, 2)


def slice_case(random: Random) -> Case:
    """Draw a case of ``Slice``."""
    x = data(random)
    count = int(random.integers(1, x.ndim + 1))
    axes = [int(a) for a in random.permutation(x.ndim)[:count]]
    far = np.array([-(1 << 62), -9, -2, -1, 0, 1, 2, 3, 9, (1 << 63) - 1])
    bounds = [vector(*(int(far[random.integers(len(far))]) for _ in axes)) for _ in range(2)]
    steps = vector(*(int(random.integers(1, 4)) * (1 if random.random() < 0.9 else -1) for _ in axes))
    return [x, *bounds, vector(*axes), steps], {}, 1


def indices(random: Random, dim: int, dims: Sequence[int]) -> Array:
    """Draw indices into an axis, now and then some that are out of range."""
    slack = int(random.random() < 0.1)
    drawn = random.integers(-dim - slack, max(dim, 1) + slack, tuple(dims))
    return np.asarray(drawn.astype([np.int32, np.int64][random.integers(2)]))


def gather(random: Random) -> Case:
    """Draw a case of ``Gather``."""
    x = data(random)
    at = int(random.integers(x.ndim))
    return [x, indices(random, x.shape[at], shape(random))], {"axis": at}, 1


def gather_elements(random: Random) -> Case:
    """Draw a case of ``GatherElements``."""
    x = data(random)
    at = int(random.integers(x.ndim))
    dims = [int(random.integers(0, 4)) if i == at else int(random.integers(0, d + 1)) for i, d in enumerate(x.shape)]
    return [x, indices(random, x.shape[at], dims)], {"axis": at}, 1


def expand(random: Random) -> Case:
    """Draw a case of ``Expand``."""
    left, right = pair(random, ANY)
    return [left, vector(*right.shape)], {}, 1


def tile(random: Random) -> Case:
    """Draw a case of ``Tile``."""
    x = data(random)
    return [x, vector(*random.integers(0, 4, x.ndim))], {}, 1


def constant_of_shape(random: Random) -> Case:
    """Draw a case of ``ConstantOfShape``."""
    dims = vector(*shape(random))
    return [dims], {} if random.random() < 0.3 else {"value": numbers(random, [1], ANY)}, 1


def range_case(random: Random) -> Case:
    """Draw a case of ``Range``."""
    kind = [np.int16, np.int32, np.int64][random.integers(3)]
    return [np.array(int(v), kind) for v in random.integers(-20, 21, 3)], {}, 1


def pad(random: Random) -> Case:
    """Draw a case of ``Pad``."""
    x = data(random)
    fill = None if random.random() < 0.4 else numbers(random, [], [x.dtype])
    if random.random() < 0.5:
        return [x, vector(*random.integers(0, 3, 2 * x.ndim)), fill], {}, 1
    return [x, vector(*random.integers(0, 3, 2)), fill, vector(int(random.integers(-x.ndim, x.ndim)))], {}, 1


CASES: dict[str, Callable[[Random], Case]] = {
    **dict.fromkeys(["Add", "Sub", "Mul", "Div"], binary([*INTEGERS, *FLOATS])),
    "Mod": lambda random: (pair(random, INTEGERS), {"fmod": int(random.integers(2))}, 1),
    **dict.fromkeys(["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"], binary([*INTEGERS, *FLOATS])),
    **dict.fromkeys(["And", "Or", "Xor"], binary([np.bool_])),
    "Not": unary([np.bool_]),
    **dict.fromkeys(["Neg", "Abs"], unary([*INTEGERS, *FLOATS])),
    **dict.fromkeys(["Sqrt", "Floor", "Ceil"], unary(FLOATS)),
    **dict.fromkeys(["Max", "Min"], binary(INTEGERS)),
    "Where": where,
    "Cast": cast,
    **dict.fromkeys(["ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin"], reduction),
    "Identity": unary(ANY),
    "Shape": shape_case,
    "Size": unary(ANY),
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_case,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Expand": expand,
    "Tile": tile,
    "ConstantOfShape": constant_of_shape,
    "Range": range_case,
    "Pad": pad,
    "NonZero": unary(ANY),
}


def same_bits(left: Array, right: Array) -> bool:
    """True when two arrays agree in type, shape and every bit, NaNs taken as one."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype.kind != "f":
        return bool(np.array_equal(left, right))
    signs = np.signbit(left) == np.signbit(right)
    return bool(np.all((np.isnan(left) & np.isnan(right)) | ((left == right) & signs)))


def test_every_evaluation_has_cases() -> None:
    """What can be evaluated is tested."""
    assert set(CASES) == set(EVALUATIONS)


@pytest.mark.parametrize("op", CASES)
def test_same_bits_as_the_runtime(op: str) -> None:
    """An evaluated node has the runtime's outputs bit for bit, and what the runtime rejects is not evaluated."""
    compared = []

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        arrays, attributes, outputs = CASES[op](np.random.default_rng(seed))
        found = evaluate(ir_node(op, arrays, attributes, outputs=outputs), arrays)
        if found is None:
            return
        try:
            expected = run(op, arrays, attributes, outputs=outputs)
        except NoKernel:
            return
        what = f"{op} {[None if a is None else (a.dtype, a.tolist()) for a in arrays]} {attributes}"
        assert expected is not None, f"rejected by the runtime: {what}"
        for ours, theirs in zip(found, expected, strict=True):
            assert same_bits(ours, theirs), f"{what}: {ours.tolist()} is not {theirs.tolist()}"
        compared.append(seed)

    check()
    assert len(compared) >= 8


BOMBS = [
    ("Range", [np.array(0), np.array(10**12), np.array(1)]),
    ("ConstantOfShape", [np.array([1 << 40, 1 << 40])]),
    ("Expand", [np.zeros((1, 1), np.float32), np.array([1 << 20, 1 << 20])]),
    ("Tile", [np.zeros((2, 2), np.float32), np.array([1 << 31, 1 << 31])]),
    ("Pad", [np.zeros(1, np.float32), np.array([0, 1 << 40])]),
    ("Add", [np.zeros((1 << 20, 1), np.float32), np.zeros((1, 1 << 20), np.float32)]),
    ("Gather", [np.zeros((1, 1 << 16), np.float32), np.zeros(1 << 16, np.int64)]),
]


@pytest.mark.parametrize(("op", "arrays"), BOMBS, ids=[op for op, _ in BOMBS])
def test_nothing_large_is_allocated(op: str, arrays: list[Array]) -> None:
    """A result above the limit is refused before memory is asked for."""
    import tracemalloc

    node = ir_node(op, arrays, {})
    tracemalloc.start()
    try:
        assert evaluate(node, arrays) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_bound_of_a_range_is_at_least_its_size() -> None:
    """The bound is known without the result, and holds."""
    arrays: list[Array] = [np.array(0.0, np.float32), np.array(1e6, np.float32), np.array(0.3, np.float32)]
    node = ir_node("Range", arrays, {})
    node.outputs[0].type = TensorType(DType.F32, (symbol("n"),))
    bound = output_bytes_bound(node)
    assert bound is not None
    assert 4 * 3_333_334 <= bound < 4 * 3_400_000
    node.outputs[0].type = TensorType(DType.F32, (1 << 50,))
    assert output_bytes_bound(node) == 4 << 50


def test_what_nothing_bounds_has_no_bound() -> None:
    """Without static types there is no bound."""
    node = Node("Mul", (Value("a"), Value("b")), (Value("c"),), version=21)
    assert output_bytes_bound(node) is None


def test_other_domains_are_not_evaluated() -> None:
    """An operator of another domain is not the standard's of the same name."""
    arrays = [np.ones(2, np.float32), np.ones(2, np.float32)]
    node = ir_node("Add", arrays, {})
    node.domain = "my.domain"
    assert evaluate(node, arrays) is None

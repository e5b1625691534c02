"""Dims: the normal form computes what the expression says, and equal expressions are equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from compiler.ir.dims import (
    Dim,
    Expr,
    ceil_div,
    floor_div,
    is_fresh,
    is_static,
    maximum,
    minimum,
    modulo,
    product,
    substitute,
    symbol,
)
from compiler.ir.facts import nonnegative_dim
from compiler.ir.parser import parse_dim
from tests.graphs import DIMS

M, N, K = symbol("M"), symbol("N"), symbol("K")
BINDINGS = st.fixed_dictionaries(dict.fromkeys(("M", "N", "K"), st.integers(1, 7)))
LEAVES = st.integers(-6, 9) | st.sampled_from([M, N, K])
Tree: TypeAlias = "Dim | tuple[str, Tree, Tree]"
"""A dim as it was built: a leaf, or an operator and two trees."""
TREES = st.recursive(LEAVES, lambda inner: st.tuples(st.sampled_from("+-*/%<>"), inner, inner), max_leaves=8)

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": floor_div,
    "%": modulo,
    "<": minimum,
    ">": maximum,
}


def build(tree: Tree) -> Dim:
    """Return the dim that a tree describes, in normal form."""
    if not isinstance(tree, tuple):
        return tree
    built: Dim = OPERATORS[tree[0]](build(tree[1]), build(tree[2]))
    return built


def compute(tree: Tree, binding: dict[str, int]) -> int:
    """Return the number that a tree stands for; a division by zero gives up the example."""
    if not isinstance(tree, tuple):
        return binding[str(tree)] if isinstance(tree, Expr) else tree
    left, right = compute(tree[1], binding), compute(tree[2], binding)
    assume(right != 0 or tree[0] not in "/%")
    number: int = OPERATORS[tree[0]](left, right)
    return number


@given(TREES, BINDINGS)
def test_the_normal_form_computes_the_same(tree: Tree, binding: dict[str, int]) -> None:
    """Binding the symbols of a normal form gives what the expression itself gives."""
    assert substitute(build(tree), binding) == compute(tree, binding)


@given(TREES, BINDINGS)
def test_dims_that_count_as_nonnegative_are(tree: Tree, binding: dict[str, int]) -> None:
    """Whatever sizes the symbols stand for, a dim of which analysis says so is not negative."""
    dim = build(tree)
    assume(nonnegative_dim(dim))
    assert compute(tree, binding) >= 0


@given(TREES, TREES, TREES)
def test_dims_form_a_ring(x: Tree, y: Tree, z: Tree) -> None:
    """Sums and products commute, associate and distribute, by ``==`` and by hash."""
    a, b, c = build(x), build(y), build(z)
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert (a * b) * c == a * (b * c)
    assert a * (b + c) == a * b + a * c
    assert a - a == 0
    assert hash(a * b + c) == hash(c + b * a)


@given(DIMS)
def test_the_text_of_a_dim_is_that_dim(dim: Dim) -> None:
    """``parse_dim(str(d))`` is ``d``, whatever the symbols are called."""
    assert parse_dim(str(dim)) == dim


@given(DIMS, DIMS)
def test_equal_dims_have_one_text(a: Dim, b: Dim) -> None:
    """Two dims are equal exactly when their texts are."""
    assert (a == b) == (str(a) == str(b))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (2 * N // 2, N),
        (N * M, M * N),
        (N * N * M + N * M * M, M * M * N + M * N * N),
        ((4 * N + 3) // 4, N),
        ((4 * N + 6) % 4, 2),
        (N * M // M, N),
        (minimum(N, N, 3, 5), minimum(3, N)),
        (maximum(2, 3), 3),
        (ceil_div(4 * N, 4), N),
        (ceil_div(7, 2), 4),
        (N % 1, 0),
        (0 // N, 0),
        (7 % N, modulo(7, N)),
        (7 // N, floor_div(7, N)),
        (product([2, N, 3]), 6 * N),
        (product([]), 1),
        (floor_div(5, 0), 0),
        (modulo(5, 0), 0),
    ],
)
def test_simplifications(left: Dim, right: Dim) -> None:
    """What shape chains compute comes out as the dim it is."""
    assert left == right


def test_numbers_are_plain() -> None:
    """An expression without symbols is an ``int``."""
    assert type(N - N + 3) is int
    assert type(substitute(N * M + 1, {"N": 2, "M": 3})) is int


@pytest.mark.parametrize("name", ["min", "max", "a b", "", "é", "?x", "//", 'q"\\\n', "N + 1", "1"])
def test_any_text_is_a_symbol(name: str) -> None:
    """A symbol that looks like something else is quoted, and stays one symbol."""
    if name:
        assert parse_dim(str(2 * symbol(name) + 1)) == 2 * symbol(name) + 1
        assert symbol(name).symbols() == [name]


def test_questions_about_dims() -> None:
    """Dims know whether they are static, symbols, made up, and which symbols occur, sorted."""
    assert is_static([1, 2])
    assert not is_static([1, N])
    assert N.is_symbol
    double = 2 * N
    assert isinstance(double, Expr)
    assert not double.is_symbol
    assert is_fresh(symbol("?1"))
    assert not is_fresh(N)
    mixed = N * minimum(M, K // 2)
    assert isinstance(mixed, Expr)
    assert mixed.symbols() == ["K", "M", "N"]


@pytest.mark.parametrize("text", ["", "N +", "(N", "N N", "N ** 2", "1.5", "%x", "N // ", "min(N", "-", "N^", "N^-1"])
def test_what_is_no_dim(text: str) -> None:
    """A text that is no dim is an error with a place."""
    from compiler.errors import ParseError

    with pytest.raises(ParseError, match="line 1"):
        parse_dim(text)

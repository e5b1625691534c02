"""Weights that rules make of other weights: computed when somebody reads them, not when a rule fires."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compiler.ir.constant import Array, Constant
from compiler.ir.graph import Value
from compiler.rewrite import Match, Refusal
from passes.affine import is_shared


def constant_of(value: Value) -> Constant:
    """Return the constant that a value is; raises ``Refusal`` when it is none."""
    if value.constant is None or not value.constant.is_readable:
        raise Refusal(f"%{value.name} is not a constant")
    return value.constant


def shape_of(value: Value) -> tuple[int, ...]:
    """Return the shape of a constant."""
    return constant_of(value).shape


def computed(shape: tuple[int, ...], compute: Callable[..., Array], *sources: Value) -> Constant:
    """Return a constant of a shape and the first source's element type: ``compute`` of the sources' arrays, later.

    ``compute`` may return any floating-point type; what it returns is rounded once.
    """
    constants = [constant_of(s) for s in sources]
    dtype = constants[0].dtype

    def contents() -> Array:
        made = compute(*(c.array() for c in constants)).astype(dtype.numpy, copy=False)
        assert made.shape == shape, f"{made.shape} is not {shape}"
        return np.ascontiguousarray(made)

    return Constant(dtype, shape, source=contents)


def more_work(m: Match, inner: int, middle: int, outer: int) -> str | None:
    """Return why maps by ``v`` (``inner`` to ``middle`` numbers) and ``w`` (to ``outer``) should not become one."""
    if is_shared(m["v"]) or is_shared(m["w"]):
        return "a weight is shared"
    grows = inner * outer > middle * (inner + outer)
    return f"one map of {inner} to {outer} is more work than {middle} in between" if grows else None


def product(left: Array, right: Array) -> Array:
    """Return the product over the last dim of one array and the first of the other, in float64."""
    with np.errstate(all="ignore"):  # what is not finite becomes NaN, as it would have been
        found: Array = np.tensordot(left.astype(np.float64), right.astype(np.float64), axes=1)
    return found

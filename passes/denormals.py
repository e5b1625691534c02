"""Set denormal weights to zero.

A number below 1.2e-38 contributes nothing to a result of ordinary size, but on most processors each
multiplication with one takes a hundred cycles: networks whose training drove weights towards zero have been
seen to run 10 to 30 times slower for it.  Only constants of type f32 and f64 are looked at; in f16 denormals
are ordinary numbers.

Decisions:

* This is the one clean-up that changes a value, by less than 1.2e-38 absolutely.  The sign of the zero is
  kept.
* Every weight must be read once.  The scan works on pieces that fit in the cache and takes two operations a
  piece when there are no zeros in it: doubling the bits drops the sign, and the least result tells whether
  any exponent is zero.
* A tensor is copied only when it holds denormals.  One that a graph returns stays as it is.
* ``limit`` bounds the bytes that are read, in graph order, so that a model of 20 GB is not read from disk for
  this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Array, Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Graph, Value
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import open_graphs
from passes.sizes import parse_bytes

_PIECE = 1 << 18
"""Bytes that are scanned at a time: with the scratch buffer they fit in a second-level cache."""

_MANTISSA: dict[DType, tuple[Any, int]] = {DType.F32: (np.uint32, 23), DType.F64: (np.uint64, 52)}
"""Element type → unsigned type of the same width, and bits of the mantissa."""


@dataclass(frozen=True)
class FlushDenormals(Pass):
    """Set denormal f32 and f64 weights to zero of the same sign; reads at most ``limit`` bytes of weights."""

    limit: str = "2GiB"

    def __post_init__(self) -> None:
        """Refuse a limit that is no size, before anything runs."""
        self._limit()

    def _limit(self) -> int:
        return parse_bytes(self.limit, where=f"option limit of {self.name}")

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Scan the floating-point constants and replace those that hold denormals."""
        left = self._limit()
        flushed = 0
        for g in open_graphs(graph):
            for value in list(g.constants):
                if value.constant is None or value.constant.dtype not in _MANTISSA or value.is_output:
                    continue
                if not value.constant.is_readable or value.constant.nbytes > left:
                    ctx.refuse("not scanned for denormals: beyond the limit")
                    continue
                left -= value.constant.nbytes
                flushed += _flush(value, value.constant)
        if flushed:
            ctx.count("denormal weight", flushed)
        return flushed > 0


def _flush(value: Value, constant: Constant) -> int:
    """Replace a constant that holds denormals, and return how many it held."""
    bits = constant.array().reshape(-1).view(_MANTISSA[constant.dtype][0])
    pieces = _pieces_with_denormals(bits, constant.dtype)
    if not pieces:
        return 0
    flushed = bits.copy()
    count = sum(_clear(flushed[piece], constant.dtype) for piece in pieces)
    array = flushed.view(constant.dtype.numpy).reshape(constant.shape)
    _replace(value, Constant.from_array(array, constant.dtype))
    return count


def _pieces_with_denormals(bits: Array, dtype: DType) -> list[slice]:
    """Return the pieces of an array of bit patterns in which there are denormals."""
    unsigned, mantissa = _MANTISSA[dtype]
    step = _PIECE // bits.itemsize
    least_normal = unsigned(1 << (mantissa + 1))
    one = unsigned(1)
    scratch = np.empty(step, unsigned)
    found = []
    for start in range(0, bits.size, step):
        piece = bits[start : start + step]
        doubled = np.add(piece, piece, out=scratch[: piece.size])
        if doubled.min() >= least_normal:
            continue
        np.subtract(doubled, one, out=doubled)  # zero becomes the greatest number
        if doubled.min() < least_normal - one:
            found.append(slice(start, start + step))
    return found


def _clear(piece: Array, dtype: DType) -> int:
    """Set the denormals of a piece to zero of the same sign, and return their number."""
    unsigned, mantissa = _MANTISSA[dtype]
    sign = unsigned(1 << (piece.itemsize * 8 - 1))
    magnitude = piece & ~sign
    denormal = (magnitude != 0) & (magnitude < unsigned(1 << mantissa))
    piece[denormal] &= sign
    return int(np.count_nonzero(denormal))


def _replace(value: Value, constant: Constant) -> None:
    """Let a constant have other contents, under its own name."""
    graph, name = value.graph, value.name
    assert graph is not None
    made = edit.add_constant(graph, constant, hint=name)
    edit.replace(value, made)
    edit.erase_constant(value)
    edit.rename(made, name)

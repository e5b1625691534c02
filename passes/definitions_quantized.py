"""Define products by weights of few bits: the weights are unpacked and scaled when the model is compiled.

This trades memory for running at all: a weight of four bits becomes one of 16 or 32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.constant import Array, Constant
from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match, Rule

_PACKED_BITS = (2, 4, 8)
_STATED = {"rows": "32..33", "columns": "3..4", "bits": "4..5", "block": "16..17", "level": "0..2"}

_LAYOUTS = (
    ("O,J", ("_", "const %z: u8[O,Z]", "const %z: T[O,J]")),
    ("O*J", ("_", "const %z: u8[Y]")),
)
"""Dims of the scales, and what zero points may be beside them: older models have both in one row."""


class DefineMatMulNBits(Rule):
    """MatMulNBits is a product by ``(weight - zero point) * scale``, block by block of the rows, plus a bias.

    Blocks of a column stand one behind the other in rows of bytes, low bits first; so do their zero points.
    """

    stage = "expand"
    before = tuple(
        f"""
        %y = com.microsoft::MatMulNBits(%x: T[*S,I], const %w: u8[O,J,L], const %s: T[{dims}], {zero}, _, %b?: T[O]){{
            K = $rows, N = $columns, bits = $bits, block_size = $block, accuracy_level = $level}}
        """
        for dims, zeros in _LAYOUTS
        for zero in zeros
    )
    after = """
        %p = MatMul(%x, const %weight)
        optional %y = Add(%p, %b?)
    """
    types = {"T": FLOATS}

    domain = {
        "I": "32",
        "O": "3",
        "J": "2",
        "L": "8",
        "Z": "1",
        "Y": "3",
        "z": "0..9",
        "s": "0.1..1",
        "x": "-2..2",
        **_STATED,
    }

    def guard(self, m: Match) -> str | None:
        """The operands have the sizes that the attributes say."""
        bits, block = m.attr("bits") or 4, m.attr("block") or 0
        if bits not in _PACKED_BITS or block < 1:
            return f"weights have {bits} bits in blocks of {block}"
        blocks = -(-m.attr("rows") // block)
        wanted = (m.attr("columns"), blocks, block * bits // 8)
        if (m.dim("O"), m.dim("J"), m.dim("L")) != wanted or m.dim("I") != m.attr("rows"):
            return f"the weights are {m['w'].type}, and {wanted} is stated"
        zero = m.get("z")
        packed = zero.constant if zero is not None and zero.dtype is DType.U8 else None
        if packed is not None and packed.size != m.attr("columns") * -(-blocks * bits // 8):
            return f"the zero points are {m['z'].type}"
        return None if all(v is None or v.array() is not None for v in map(m.get, "wsz")) else "they are not readable"

    def constants(self, m: Match) -> dict[str, Any]:
        """The weight, unpacked when somebody reads it."""
        rows, columns, dtype = m.attr("rows"), m.attr("columns"), m.dtype("T")
        made = Constant(dtype, (rows, columns), source=lambda: _unpacked(m).astype(dtype.numpy))
        return {"weight": made}


def _unpacked(m: Match) -> Array:
    """Return the weight ``[K, N]`` in single precision."""
    bits, block, rows, columns = m.attr("bits") or 4, m.attr("block"), m.attr("rows"), m.attr("columns")
    blocks = -(-rows // block)
    numbers = _split(m.array("w").reshape(columns, -1), bits)[:, : blocks * block].astype(np.float32)
    scales = m.array("s").reshape(columns, blocks).astype(np.float32)
    zeros = _zero_points(m, columns, blocks, bits)
    scaled = (numbers.reshape(columns, blocks, block) - zeros[:, :, None]) * scales[:, :, None]
    return np.ascontiguousarray(scaled.reshape(columns, -1)[:, :rows].T)


def _zero_points(m: Match, columns: int, blocks: int, bits: int) -> Array:
    given = m.get("z")
    if given is None:
        return np.full((columns, blocks), 2.0 ** (bits - 1), np.float32)
    zeros = m.array("z").reshape(columns, -1)
    packed = _split(zeros, bits)[:, :blocks] if zeros.dtype == np.uint8 else zeros
    return packed.astype(np.float32)


def _split(packed: Array, bits: int) -> Array:
    """Return the numbers in rows of bytes, low bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return numbers.reshape(packed.shape[0], -1)

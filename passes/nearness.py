"""What theorems about numbers need to know of constants: which number is meant, and which numbers a type holds.

Models write them with few digits (``0.7071``), compute them in half precision, or got them by dividing one rounded
number by another.  A number counts as meant when it differs by no more than rounding, or by no more than what is lost
by writing four digits.
"""

from __future__ import annotations

from collections.abc import Mapping

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, Match

FEW_DIGITS = 2e-5
"""Largest relative difference of a number that is written with four digits, for those of this package."""

UP_TO_SINGLE = FLOATS - {DType.F64}
"""Types whose numbers an attribute holds, which is single precision."""

SMALLEST_NORMAL = {DType.F16: 2.0**-14, DType.BF16: 2.0**-126, DType.F32: 2.0**-126, DType.F64: 2.0**-1022}
"""Magnitudes below which a type keeps fewer digits."""

_ROUNDING = {DType.F16: 2.0**-10, DType.BF16: 2.0**-7}


def other_number(m: Match, meant: Mapping[str, float]) -> str | None:
    """Return which scalar of the match is not the number that is meant; ``None`` when all are.

    Names that the form that matched does not bind are skipped.
    """
    for name, number in meant.items():
        value = m.get(name)
        if value is not None and not is_near(float(m.scalar(name)), number, value.dtype):
            return f"%{name} is {m.scalar(name):.8g}, not {number:.8g}"
    return None


def is_near(found: float, meant: float, dtype: DType = DType.F32) -> bool:
    """True when a number of an element type stands for another one."""
    return abs(found - meant) <= max(FEW_DIGITS, _ROUNDING.get(dtype, 0.0)) * abs(meant)

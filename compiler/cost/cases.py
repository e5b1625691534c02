"""All cases that calibration measures."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.cost.case import Case
from compiler.cost.cases_convolutions import convolution_cases
from compiler.cost.cases_elementwise import elementwise_cases
from compiler.cost.cases_movement import movement_cases
from compiler.cost.cases_products import product_cases


def cases() -> Iterator[Case]:
    """Yield all cases, in an order that stays the same."""
    yield from product_cases()
    yield from convolution_cases()
    yield from elementwise_cases()
    yield from movement_cases()

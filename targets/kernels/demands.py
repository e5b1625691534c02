"""Know what execution providers want of a node beyond its operator, version and types: ``demands.toml``."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib import resources
from typing import Any

import msgspec


class Demand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Say what one provider wants of the nodes of one operator, in the form of the newest opset."""

    constant: tuple[str, ...] = ()
    """Operands that must be constants, by their names in the standard."""
    absent: tuple[str, ...] = ()
    """Operands that must be left out."""
    ranks: tuple[int, ...] = ()
    """Ranks that the first operand may have; empty for all."""
    operand_ranks: dict[str, tuple[int, ...]] = {}
    """Ranks that other operands may have, by their names in the standard."""
    attributes: dict[str, tuple[int | float | str, ...]] = {}
    """Values that attributes may have; an attribute that a node leaves out has the standard's default."""
    outputs: int = 0
    """How many results may be asked for; 0 for no bound."""
    after: tuple[str, ...] = ()
    """Operators of which one must make the first operand for this node alone; empty for no such demand."""
    last_axis: bool = False
    """Whether the attribute ``axis`` must name the last axis."""


@lru_cache(maxsize=1)
def demands() -> dict[str, dict[str, Demand]]:
    """Return provider → operator of ``ai.onnx`` → what it wants; what is not there is not restricted."""
    text = (resources.files(__package__) / "demands.toml").read_text(encoding="utf-8")
    read: dict[str, Any] = tomllib.loads(text)
    return msgspec.convert(read, dict[str, dict[str, Demand]])

"""Parse quantities that carry their unit: ``"40 GB/s"``, ``"2 us"``, ``"48 KiB"``, ``"120 GF/s/core"``.

Every kind of quantity is a class with the units it can be written in; a bare number is always an error, since
the reader of a target file could not know what was meant. Values are kept in the base unit (bytes, seconds,
bytes per second, operations per second) and print as they were written.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

_FORM = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-zµ][A-Za-zµ/]*)\s*")


@dataclass(frozen=True, order=True)
class Quantity:
    """Hold a finite, positive number of base units, and the text that it was written as."""

    value: float
    """The number of base units."""
    text: str = field(default="", compare=False)
    """The quantity as its author wrote it; empty for a computed one."""

    UNITS: ClassVar[dict[str, float]] = {}
    """Every unit of this kind and how many base units it is."""
    EXAMPLE: ClassVar[str] = ""
    """A well-formed quantity, for error messages."""

    @classmethod
    def parse(cls, text: Any) -> Self:
        """Read a number and one of ``UNITS``; raise ``ValueError`` that lists the units for anything else."""
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is not a quantity with a unit; {cls.expected()}")
        form = _FORM.fullmatch(text)
        if form is None:
            raise ValueError(f"{text!r} is not a number followed by a unit; {cls.expected()}")
        number, unit = form.groups()
        if unit not in cls.UNITS:
            raise ValueError(f"{unit!r} is not a unit here; {cls.expected()}")
        value = float(number) * cls.UNITS[unit]
        if not 0 < value < math.inf:
            raise ValueError(f"{text!r} should be positive and finite; {cls.expected()}")
        return cls(value, text.strip())

    @classmethod
    def expected(cls) -> str:
        """Say how a quantity of this kind is written."""
        return f'write for example "{cls.EXAMPLE}"; units are {", ".join(cls.UNITS)}'

    def __str__(self) -> str:
        """Print the quantity as written, or its value in the largest unit that leaves at least one."""
        if self.text:
            return self.text
        fitting = {unit: size for unit, size in self.UNITS.items() if size <= self.value} or self.UNITS
        unit = max(fitting, key=fitting.__getitem__)
        return f"{self.value / self.UNITS[unit]:.6g} {unit}"


class Size(Quantity):
    """Measure memory in bytes; ``KiB`` is 1024 bytes and ``kB`` is 1000."""

    UNITS: ClassVar[dict[str, float]] = {
        "B": 1.0,
        "kB": 1e3,
        "KiB": 2.0**10,
        "MB": 1e6,
        "MiB": 2.0**20,
        "GB": 1e9,
        "GiB": 2.0**30,
    }
    EXAMPLE = "48 KiB"


class Duration(Quantity):
    """Measure time in seconds."""

    UNITS: ClassVar[dict[str, float]] = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
    EXAMPLE = "2 us"


class Bandwidth(Quantity):
    """Measure memory traffic in bytes per second, by all cores together."""

    UNITS: ClassVar[dict[str, float]] = {"MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12}
    EXAMPLE = "40 GB/s"


_RATES = {"MF/s": 1e6, "GF/s": 1e9, "TF/s": 1e12, "Mop/s": 1e6, "Gop/s": 1e9, "Top/s": 1e12}


class Throughput(Quantity):
    """Measure arithmetic in operations per second (a multiply-add is two), of a core or of the whole device.

    ``F`` counts floating-point operations and ``op`` counts integer ones; the distinction is for the reader.
    """

    UNITS: ClassVar[dict[str, float]] = _RATES | {f"{unit}/core": size for unit, size in _RATES.items()}
    EXAMPLE = "120 GF/s/core"

    @property
    def per_core(self) -> bool:
        """Whether the number is what one core does."""
        return self.text.endswith("/core")

    def total(self, cores: int) -> float:
        """Return operations per second of ``cores`` cores; a device-wide number does not depend on them."""
        return self.value * cores if self.per_core else self.value

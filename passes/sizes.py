"""Sizes in the options of passes: ``"16MiB"``, ``"64 KiB"``, ``"0 B"``."""

from __future__ import annotations

import re

from compiler.errors import InputError

_UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip

_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def parse_bytes(text: str, *, where: str) -> int:
    """Return a number of bytes; raise ``InputError`` for what is no size with a unit."""
    form = _FORM.fullmatch(text)
    if form is None or form.group(2) not in _UNITS:
        raise InputError(
            f"{text!r} is not a size",
            where=where,
            hint=f"write for example 16MiB; units are {', '.join(_UNITS)}",
        )
    return int(float(form.group(1)) * _UNITS[form.group(2)])

"""Gains that were measured: which lowering rules pay on which execution provider.

``PROVIDER.toml`` says how often faster a form is than the one that it replaces.  What is not in the table was not
measured, and is not chosen by cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import msgspec

from targets.errors import TargetError


@cache
def measured_gains(provider: str) -> Mapping[str, float]:
    """Return rule name → time before over time after on a provider; empty when nothing was measured there."""
    data = resources.files(__package__) / f"{provider}.toml"
    if not data.is_file():
        return {}
    try:
        return msgspec.toml.decode(data.read_bytes(), type=dict[str, float])
    except msgspec.DecodeError as error:
        raise TargetError(str(error), file=data, hint="reinstall ampc") from error

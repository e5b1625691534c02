"""Gains that were measured: which lowering rules pay on which execution provider.

``measured.toml`` says, for each provider, how often faster a form is than the one that it replaces.  What is not in the
table was not measured, and is not chosen by cost.
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
    data = resources.files(__package__) / "measured.toml"
    try:
        table = msgspec.toml.decode(data.read_bytes(), type=dict[str, dict[str, float]])
    except (OSError, msgspec.DecodeError) as error:
        raise TargetError(str(error), file="measured.toml", hint="reinstall ampc") from error
    return table.get(provider, {})

"""Scale and shift channels in one pass over the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import Match, Rule
from passes.norm_axes import PER_CHANNEL


class LowerChannelAffine(Rule):
    """A factor and a summand for each channel are a ``BatchNormalization`` of mean 0 and variance 1.

    With epsilon 0 its result is ``(x - 0) / 1 * scale + bias``, exactly.  The operator is also known to optimizers of
    convolutions, which two element-wise operators are not.
    """

    stage = "lower"
    before = tuple(
        f"""
        %m = Mul(%x: T[{data}], const %w: T[{weight}])
        %y: T[{data}] = Add(%m, const %b: T[{weight}])
        """
        for _, data, _, weight in PER_CHANNEL
    )
    after = "%y = BatchNormalization(%x, const %scale, const %bias, const %mean, const %variance){epsilon = 0.0}"
    types = {"T": frozenset({DType.F32, DType.F64})}

    def constants(self, m: Match) -> dict[str, Any]:
        """The constants as vectors."""
        scale = m.array("w").reshape(-1)
        mean, variance = np.zeros_like(scale), np.ones_like(scale)
        return {"scale": scale, "bias": m.array("b").reshape(-1), "mean": mean, "variance": variance}

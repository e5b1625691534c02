"""Scale and shift channels in one pass over the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.rewrite import Match, Rule
from passes.norm_axes import channel_vector


class LowerChannelAffine(Rule):
    """A factor and a summand for each channel are a ``BatchNormalization`` of mean 0 and variance 1.

    With epsilon 0 its result is ``(x - 0) / 1 * scale + bias``, exactly.  The operator is also known to optimizers of
    convolutions, which two element-wise operators are not.
    """

    stage = "lower"
    before = """
        %m = Mul(%x: T[N,C,S,*R], const %w: T)
        %y: T[N,C,S,*R] = Add(%m, const %b: T)
    """
    after = "%y = BatchNormalization(%x, const %scale, const %bias, const %mean, const %variance){epsilon = 0.0}"
    types = {"T": frozenset({DType.F32, DType.F64})}

    def constants(self, m: Match) -> dict[str, Any]:
        """The vectors; refuses constants that do not differ along channels alone."""
        size, rank = m.size("C"), len(m.run("R")) + 3
        scale = m.array("w").reshape(channel_vector(m["w"], 1, rank, size))
        bias = m.array("b").reshape(channel_vector(m["b"], 1, rank, size))
        return {"scale": scale, "bias": bias, "mean": np.zeros_like(scale), "variance": np.ones_like(scale)}

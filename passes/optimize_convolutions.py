"""Fold what is done to the channels of images into the weights of the convolutions before and after.

Normalizing an image before the first convolution, and permuting channels, are linear in the weights.

Decisions:

* A convolution that pads pads the normalized image with zeros, so that only factors can be folded past it, no summands.
* A weight that something else reads too is left alone: the model would hold it twice.
* Considered and rejected: one number for all pixels of a padded border in place of a summand (``Pad`` costs more).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.constant import Array
from compiler.rewrite import FLOATS, Match, Rule
from passes.affine import is_shared
from passes.weights import computed, shape_of

_ATTRIBUTES = (
    "auto_pad = $auto, dilations = $dilations, group = E, kernel_shape = $kernel, pads = $pads, strides = $strides"
)
_CONV = "%y = Conv(%d, const %w: T[M,G,J,K], const %b?: T[M]) {" + _ATTRIBUTES + "}"
_SMALL = {"E": "1,2", "G": "1..3", "M": "2,4", "H": "6", "W": "6", "J": "1,2", "K": "1,2"}
_CHANNELWISE = ("scalar %c", "const %c: T[E*G,1,1]", "const %c: T[1,E*G,1,1]")
"""Operands that are one number for each channel of an image."""


def _elementwise(op: str) -> tuple[str, ...]:
    """Return the forms in which an operator changes the channels of an image before a convolution."""
    image = "T[N,E*G,H,W]"
    return tuple(f"%d: {image} = {op}(%x: {image}, {operand})\n{_CONV}" for operand in _CHANNELWISE)


def per_channel(m: Match) -> Array:
    """Return the operand ``%c`` as float64 ``[channels]``."""
    return np.broadcast_to(m.array("c").reshape(-1).astype(np.float64), (m.size("E") * m.size("G"),))


def _unfit(m: Match) -> str | None:
    """Return why an operand cannot be folded."""
    if m.size("M") % m.size("E"):
        return f"{m.size('E')} groups do not divide {m.size('M')} channels"
    return None if np.all(np.isfinite(per_channel(m))) else "an operand is not finite"


def _grouped(m: Match, values: Array) -> Array:
    """Return numbers of input channels, ``[channels]``, as ``[outputs, inputs of a group]``."""
    group = m.size("E")
    return np.repeat(values.reshape(group, -1), m.size("M") // group, axis=0)


class FoldFactorIntoConv(Rule):
    """A factor of each channel before a convolution is one of the weights that read the channel."""

    before = _elementwise("Mul")
    after = "%y = Conv(%x, const %v, %b?) {" + _ATTRIBUTES + "}"
    types = {"T": FLOATS}
    domain = _SMALL

    def guard(self, m: Match) -> str | None:
        """Refuse factors that are not finite, and shared weights."""
        return "the weight is shared" if is_shared(m["w"]) else _unfit(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """The weights times the factors of their channels."""
        spread = _grouped(m, per_channel(m))

        def scaled(w: Array) -> Array:
            found: Array = w * spread.reshape(*spread.shape, *(1 for _ in w.shape[2:]))
            return found

        return {"v": computed(shape_of(m["w"]), scaled, m["w"])}


class FoldSummandIntoConv(Rule):
    """A summand of each channel before a convolution that does not pad is one of its bias."""

    before = _elementwise("Add") + _elementwise("Sub")
    after = "%y = Conv(%x, %w, const %e) {" + _ATTRIBUTES + "}"
    types = {"T": FLOATS}
    domain = {**_SMALL, "pads": "[0,0,0,0]"}

    def guard(self, m: Match) -> str | None:
        """Refuse summands that are not finite, and padding."""
        if m.attr("auto") not in ("NOTSET", "VALID") or any(m.attr("pads") or ()):
            return "the convolution pads"
        return _unfit(m) or (None if np.all(np.isfinite(self._bias(m))) else "the bias would not be finite")

    def constants(self, m: Match) -> dict[str, Any]:
        """The bias, and what the weights make of the summands."""
        return {"e": self._bias(m).astype(m.dtype("T").numpy)}

    @staticmethod
    def _bias(m: Match) -> Array:
        weights, summands = m.array("w"), per_channel(m)
        with np.errstate(all="ignore"):
            sums = weights.reshape(*weights.shape[:2], -1).sum(axis=2, dtype=np.float64)
            spread = _grouped(m, summands if m.form < len(_CHANNELWISE) else -summands)
            found: Array = (sums * spread).sum(axis=1)
        return found if m.get("b") is None else found + m.array("b")


class FoldGatherIntoConv(Rule):
    """A convolution of permuted channels reads the channels where they are."""

    before = """
        %g: T[N,D,H,W] = Gather(%x: T[N,D,H,W], const %i: i64[D]) {axis = 1}
        %y = Conv(%g, const %w: T[M,D,J,K], const %b?: T[M])
            {auto_pad = $auto, dilations = $dilations, kernel_shape = $kernel, pads = $pads, strides = $strides}
    """
    after = """
        %y = Conv(%x, const %v, %b?)
            {auto_pad = $auto, dilations = $dilations, kernel_shape = $kernel, pads = $pads, strides = $strides}
    """
    types = {"T": FLOATS}
    domain = {"D": "4", "i": "permutation", "H": "6", "W": "6", "J": "1,2", "K": "1,2"}

    def guard(self, m: Match) -> str | None:
        """Refuse what leaves channels out, and shared weights."""
        if sorted(m.array("i").tolist()) != list(range(m.size("D"))):
            return "it is no permutation"
        return "the weight is shared" if is_shared(m["w"]) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The weights in the order of the channels."""
        places = np.argsort(m.array("i"))
        return {"v": computed(shape_of(m["w"]), lambda w: w[:, places], m["w"])}


class FoldGatherOfConv(Rule):
    """Gathering channels of a convolution gathers its weights, if it makes no more channels than before."""

    before = """
        %c: T[N,M,P,Q] = Conv(%x: T[N,G,H,W], const %w: T[M,G,J,K], const %b?: T[M])
            {auto_pad = $auto, dilations = $dilations, kernel_shape = $kernel, pads = $pads, strides = $strides}
        %y = Gather(%c, const %i: i64[D]) {axis = 1}
    """
    after = """
        %y = Conv(%x, const %v, const %e?)
            {auto_pad = $auto, dilations = $dilations, kernel_shape = $kernel, pads = $pads, strides = $strides}
    """
    types = {"T": FLOATS}
    domain = {"M": "4", "D": "4", "i": "0..M", "H": "6", "W": "6", "J": "1,2", "K": "1,2"}

    def guard(self, m: Match) -> str | None:
        """Refuse channels that are gathered several times, and shared weights."""
        if m.size("D") > m.size("M"):
            return f"{m.size('D')} channels are made of {m.size('M')}"
        return "the weight is shared" if is_shared(m["w"]) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The weights and the biases of the channels that are wanted."""
        index = m.array("i")
        shape = (m.size("D"), *shape_of(m["w"])[1:])
        bias = m.get("b")
        made = {"v": computed(shape, lambda w: w[index], m["w"])}
        return made if bias is None else made | {"e": computed(shape[:1], lambda b: b[index], bias)}

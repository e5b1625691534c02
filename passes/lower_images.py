"""Keep images in the blocked layout of convolutions: fill channels, and put operators that leave it in other forms.

When that pays was measured; ``targets/gains`` has the cases.

Considered and rejected, since measured to gain nothing or lose: batch normalization as a depthwise convolution (ONNX
Runtime does it itself) or as ``Mul`` and ``Add`` (0.55), gates of one number per channel spread out by ``Resize``
(0.9 to 1.05), clips and leaky rectifiers after a sum as operators that can stay in blocks (1.0).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.constant import Array
from compiler.rewrite import Match, Rule
from passes.affine import is_shared
from passes.blocked_layout import ATTRIBUTES, SINGLE, fills_blocks
from passes.weights import computed, shape_of

_WIDEST_FILLING = 15
"""A channel of zeros for so many of data is less work than leaving the blocked layout."""


class FillChannels(Rule):
    """Input channels are filled up with zeros to a multiple of four, which a blocked layout asks for."""

    stage = "lower"
    before = "%y = Conv(%x: T[N,C,H,W], const %w: T[M,C,J,K], const %b?: T[M]) {" + ATTRIBUTES + "}"
    after = (
        """
        %p = Pad(%x, const %amounts)
        %y = Conv(%p, const %v, %b?) {"""
        + ATTRIBUTES
        + """}
    """
    )
    types = SINGLE
    domain = {"C": "15,30,31", "M": "16,32", "H": "6", "W": "6"}

    def guard(self, m: Match) -> str | None:
        """Refuse channels that fit, or are so few that the zeros are much of the work, and windows of one element."""
        inputs = m.size("C")
        if inputs % 4 == 0 or inputs < _WIDEST_FILLING * (-inputs % 4) or m.size("J") * m.size("K") == 1:
            return f"{inputs} channels and a window of {m.size('J')} x {m.size('K')}"
        return "the weight is shared" if is_shared(m["w"]) else fills_blocks(m.size("M"))

    def constants(self, m: Match) -> dict[str, Any]:
        """Zeros for channels, and the weight with zeros for them."""
        outputs, inputs, *window = shape_of(m["w"])
        more = -inputs % 4

        def filled(w: Array) -> Array:
            return np.pad(w, ((0, 0), (0, more), (0, 0), (0, 0)))

        return {
            "amounts": np.array([0, 0, 0, 0, 0, more, 0, 0]),
            "v": computed((outputs, inputs + more, *window), filled, m["w"]),
        }


class StrideOverBlocks(Rule):
    """A convolution of blocks of pixels is one of pixels with a larger window, whose stride is a block."""

    stage = "lower"
    before = (
        """
        %s: T[N,C*R*R,H,W] = SpaceToDepth(%x: T[N,C,H*R,W*R]) {blocksize = R}
        %y = Conv(%s, const %w: T[M,C*R*R,J,K], const %b?: T[M]) {
    """
        + ATTRIBUTES
        + "}"
    )
    after = """
        %y = Conv(%x, const %v, %b?) {auto_pad = $auto, kernel_shape = $kernel2, pads = $pads2, strides = $strides2}
    """
    types = SINGLE
    domain = {"C": "1..4", "R": "2,3", "H": "5", "W": "5", "J": "1,2", "K": "1,2"}

    def guard(self, m: Match) -> str | None:
        """Refuse large windows of many channels: those are no faster; dilations; and pads that depend on the size."""
        channels = m.size("C")
        if any(d != 1 for d in m.attr("dilations") or ()):
            return "it has dilations"
        if m.attr("auto") not in ("NOTSET", "VALID"):
            return f"its padding is {m.attr('auto')}"
        if m.size("J") * m.size("K") > 1 and channels > 3:
            return f"the window is {m.size('J')} x {m.size('K')}, of {channels} channels"
        return "the weight is shared" if is_shared(m["w"]) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """A window of ``R`` times as many pixels: the channels of a block are its pixels."""
        outputs, _, *window = shape_of(m["w"])
        block, channels = m.size("R"), m.size("C")
        size = tuple(block * k for k in window)

        def spread(w: Array) -> Array:
            blocks = w.reshape(outputs, block, block, channels, *window)
            return blocks.transpose(0, 3, 4, 1, 5, 2).reshape(outputs, channels, *size)

        return {
            "v": computed((outputs, channels, *size), spread, m["w"]),
            "kernel2": size,
            "pads2": tuple(block * p for p in m.attr("pads") or ()) or None,
            "strides2": tuple(block * s for s in m.attr("strides") or (1, 1)),
        }


_CONVOLVED = "Conv(%i: T[N,D,*I], const %w, const %b?) {group = $group, " + ATTRIBUTES + "}\n"
_IMAGES = (
    "%x: T[N,C,H,W] = " + _CONVOLVED,
    "%c = " + _CONVOLVED + "%x: T[N,C,H,W] = Relu|Sigmoid|HardSwish(%c)\n",
    "%c = " + _CONVOLVED + "%x: T[N,C,H,W] = Swish(%c) {alpha = $alpha}\n",
    "%c = " + _CONVOLVED + "%x: T[N,C,H,W] = Clip(%c, %low?, %high?)\n",
    "%c: T[N,C,H,W] = " + _CONVOLVED + "%s: T[N,C,H,W] = Add(%c, %d)\n%x = Relu(%s)\n",
)
"""Images that come from a convolution, and are in its layout; of its dims, so that they have pixels."""
_SPATIAL = ("[2, 3]", "[3, 2]")


class PoolInBlocks(Rule):
    """The mean of images that a convolution made is ``GlobalAveragePool``, which reads the convolution's layout."""

    stage = "lower"
    before = tuple(f"{images} %y = ReduceMean(%x, {axes})" for images in _IMAGES for axes in _SPATIAL)
    after = "%y = GlobalAveragePool(%x)"
    types = SINGLE
    shared = "%c %s %x"


class PoolInBlocksToRows(Rule):
    """The same without the pooled dims in the result."""

    stage = "lower"
    before = tuple(f"{images} %y = ReduceMean(%x, {axes}) {{keepdims = 0}}" for images in _IMAGES for axes in _SPATIAL)
    after = """
        %p = GlobalAveragePool(%x)
        %y = Squeeze(%p, [2, 3])
    """
    types = SINGLE
    shared = "%c %s %x"


_SPLIT_CONVOLUTION = "%c = Conv(%x: T[N,C,H,W], const %w: T[M,C,J,K], const %b?: T[M]) {" + ATTRIBUTES + "}\n"
_FIRST = "%d = Conv(%x, const %v1, const %b1) {" + ATTRIBUTES + "}\n"
_SECOND = "%e = Conv(%x, const %v2, const %b2) {" + ATTRIBUTES + "}\n"


class _SplitConvolution(Rule):
    """What the rules about splitting the channels of a convolution have in common."""

    stage = "lower"
    types = SINGLE
    domain = {"C": "16", "M": "32", "P": "16", "Q": "16", "H": "6", "W": "6", "J": "1,2", "K": "1,3"}

    def guard(self, m: Match) -> str | None:
        """Refuse parts that do not fill blocks of channels."""
        if is_shared(m["w"]):
            return "the weight is shared"
        return fills_blocks(m.size("C"), m.size("P"), m.size("Q"))

    def constants(self, m: Match) -> dict[str, Any]:
        """Weight and bias of each part."""
        first, second = m.size("P"), m.size("Q")
        window = shape_of(m["w"])[1:]
        bias = m.get("b")
        zeros = np.zeros(first + second, np.float32)
        return {
            "v1": computed((first, *window), lambda w: w[:first], m["w"]),
            "v2": computed((second, *window), lambda w: w[first:], m["w"]),
            "b1": computed((first,), lambda b: b[:first], bias) if bias is not None else zeros[:first],
            "b2": computed((second,), lambda b: b[first:], bias) if bias is not None else zeros[first:],
        }


class SplitConvolution(_SplitConvolution):
    """The parts of the channels of a convolution are two convolutions: splitting would leave the blocked layout."""

    before = _SPLIT_CONVOLUTION + "%p: T[N,P,*S], %q: T[N,Q,*S] = Split(%c, %_) {axis = 1, num_outputs = $count}"
    after = _FIRST.replace("%d", "%p") + _SECOND.replace("%e", "%q")


class SplitRectifiedConvolution(_SplitConvolution):
    """The same with ``Relu`` in between."""

    before = (
        _SPLIT_CONVOLUTION
        + """
        %a = Relu(%c)
        %p: T[N,P,*S], %q: T[N,Q,*S] = Split(%a, %_) {axis = 1, num_outputs = $count}
    """
    )
    after = (
        _FIRST
        + _SECOND
        + """
        %p = Relu(%d)
        %q = Relu(%e)
    """
    )


class SplitSwishedConvolution(_SplitConvolution):
    """The same with ``Swish`` in between."""

    before = (
        _SPLIT_CONVOLUTION
        + """
        %a = Swish(%c) {alpha = $alpha}
        %p: T[N,P,*S], %q: T[N,Q,*S] = Split(%a, %_) {axis = 1, num_outputs = $count}
    """
    )
    after = (
        _FIRST
        + _SECOND
        + """
        %p = Swish(%d) {alpha = $alpha}
        %q = Swish(%e) {alpha = $alpha}
    """
    )

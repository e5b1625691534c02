"""Bring convolutions and pooling into the forms for which CPU runtimes have their fast kernels.

ONNX Runtime convolves images fast in a layout that keeps blocks of channels together.  It takes single-precision
convolutions of four dims with constant weights, whose channels fill its blocks, and leaves all others to a general
kernel.  What is brought into that form here, and when it pays, was measured; ``targets/gains`` has the cases.

Decisions:

* ``_BLOCK`` is the widest block; narrower ones divide it, so what fits it fits everywhere.
* Convolutions over rows become convolutions over images of one row, not of one column, which are slower.
* Considered and rejected, since measured to gain nothing or lose: filling groups that are narrower than a block (0.9),
  making a grouped convolution dense (0.28), ``ConvTranspose`` of disjoint windows as ``DepthToSpace`` (0.36), batch
  normalization as a depthwise convolution (ONNX Runtime does it itself) or as ``Mul`` and ``Add`` (0.55), gates of one
  number per channel spread out by ``Resize`` so that they stay in blocks (0.9 to 1.05), clips and leaky rectifiers
  after a sum as operators that can stay in blocks (1.0).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.constant import Array
from compiler.ir.dtype import DType
from compiler.ir.graph import Value
from compiler.rewrite import Match, Rule
from passes.affine import is_shared
from passes.weights import computed, shape_of

_SINGLE = {"T": frozenset({DType.F32})}

_BLOCK = 16
"""Channels of the widest block that a layout keeps together."""

_WIDEST_FILLING = 15
"""A channel of zeros for so many of data is less work than leaving the blocked layout."""

_BLOCKED = frozenset(
    {
        "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu",
        "MaxPool", "Mul", "Relu", "Sigmoid", "Swish", "Tanh",
    }
)  # fmt: skip
"""Operators that hand a blocked layout on, next to a convolution."""

_REACH = 4
"""Operators through which a convolution is looked for."""

_ATTRIBUTES = "auto_pad = $auto, dilations = $dilations, kernel_shape = $kernel, pads = $pads, strides = $strides"
_FLAT = "auto_pad = $auto, dilations = $dilations2, kernel_shape = $kernel2, pads = $pads2, strides = $strides2"
_WINDOW = ("dilations", "kernel", "strides")


def is_blocked(value: Value) -> bool:
    """True when a value comes from a convolution of images, so that it can be had in a blocked layout."""
    current: Value | None = value
    for _ in range(_REACH):
        node = current.node if current is not None else None
        if node is None:
            return False
        if node.is_op("Conv"):
            return node.output.rank == 4
        if node.domain not in ("", "com.microsoft") or node.op not in (*_BLOCKED, "QuickGelu"):
            return False
        current = node.input(0)
    return False


def fills_blocks(*channels: int) -> str | None:
    """Return which number of channels does not fill blocks."""
    odd = next((c for c in channels if c % _BLOCK), None)
    return None if odd is None else f"{odd} channels do not fill blocks of {_BLOCK}"


class _OverRows(Rule):
    """What the rules about convolutions over rows have in common."""

    stage = "lower"
    types = _SINGLE

    def constants(self, m: Match) -> dict[str, Any]:
        """The window is one row high: weight, dilations, sizes, strides and pads."""
        outputs, inputs, size = shape_of(m["w"])
        made: dict[str, Any] = {f"{n}2": (1, *m.attr(n)) if m.attr(n) else None for n in _WINDOW}
        pads = m.attr("pads")
        made["pads2"] = (0, pads[0], 0, pads[1]) if pads else None
        return made | {"v": computed((outputs, inputs, 1, size), lambda w: w[:, :, np.newaxis], m["w"])}


_TO_IMAGE = "%u = Unsqueeze(%x, [2])\n"
_FROM_IMAGE = "\n%y = Squeeze(%i, [2])"


class ConvolveRowsDepthwise(_OverRows):
    """A depthwise convolution over rows is one over images of one row."""

    before = "%y = Conv(%x: T[N,C,L], const %w: T[C,1,K], const %b?: T[C]) {group = C, " + _ATTRIBUTES + "}"
    after = _TO_IMAGE + "%i = Conv(%u, const %v, %b?) {group = C, " + _FLAT + "}" + _FROM_IMAGE
    domain = {"C": "4,8", "L": "8"}

    def guard(self, m: Match) -> str | None:
        """Refuse channels that no layout keeps together."""
        return f"{m.size('C')} channels are no multiple of 4" if m.size("C") % 4 else None


class ConvolveRowsInGroups(_OverRows):
    """A convolution over rows in groups that fill blocks of channels is one over images of one row."""

    before = "%y = Conv(%x: T[N,E*G,L], const %w: T[R,G,K], const %b?) {group = E, " + _ATTRIBUTES + "}"
    after = _TO_IMAGE + "%i = Conv(%u, const %v, %b?) {group = E, " + _FLAT + "}" + _FROM_IMAGE
    domain = {"E": "2,3", "G": "16", "R": "96", "L": "8"}

    def guard(self, m: Match) -> str | None:
        """Refuse one group, and groups that are narrow."""
        return "there is one group" if m.size("E") < 2 else fills_blocks(m.size("G"), m.size("R") // m.size("E"))


class ConvolveRows(_OverRows):
    """A convolution over rows is one over images of one row; it pays where the result is no wider than the data."""

    before = "%y = Conv(%x: T[N,C,L], const %w: T[M,C,K], const %b?: T[M]) {" + _ATTRIBUTES + "}"
    after = _TO_IMAGE + "%i = Conv(%u, const %v, %b?) {" + _FLAT + "}" + _FROM_IMAGE
    domain = {"C": "32", "M": "16,32", "L": "8"}

    def guard(self, m: Match) -> str | None:
        """Refuse windows of one element, which are plain products, and channels that do not fill blocks."""
        inputs, outputs = m.size("C"), m.size("M")
        if m.size("K") == 1:
            return "the window has one element"
        return f"{outputs} channels are made of {inputs}" if outputs > inputs else fills_blocks(inputs, outputs)


class RepeatBeforeDepthwise(Rule):
    """A depthwise convolution that makes several channels of each is one of repeated channels, one each."""

    stage = "lower"
    before = "%y = Conv(%x: T[N,C,H,W], const %w: T[M,1,J,K], const %b?: T[M]) {group = C, " + _ATTRIBUTES + "}"
    after = """
        %r = Gather(%x, const %repeated) {axis = 1}
        %y = Conv(%r, %w, %b?) {group = M, """ + _ATTRIBUTES + """}
    """
    types = _SINGLE
    domain = {"C": "4,8", "M": "16,32", "H": "6", "W": "6"}

    def guard(self, m: Match) -> str | None:
        """Refuse one channel of each, and channels that do not fit the layout."""
        inputs, outputs = m.size("C"), m.size("M")
        if outputs <= inputs or inputs < 4 or outputs % 4:
            return f"{outputs} channels are made of {inputs}"
        return None

    def constants(self, m: Match) -> dict[str, Any]:
        """Each channel as often as it is convolved."""
        inputs = m.size("C")
        return {"repeated": np.repeat(np.arange(inputs), m.size("M") // inputs)}


class ConvolvePlanes(Rule):
    """A convolution of volumes whose window is one plane deep is one of all planes as images."""

    stage = "lower"
    before = """
        %y: T[N,M,D,P,Q] = Conv(%x: T[N,C,D,H,W], const %w: T[M,C,1,J,K], const %b?: T[M]) {
    """ + _ATTRIBUTES + "}"
    after = """
        %t = Transpose(%x) {perm = [0, 2, 1, 3, 4]}
        %u = Reshape(%t, [N*D,C,H,W])
        %i = Conv(%u, const %v, %b?) {""" + _FLAT + """}
        %r = Reshape(%i, [N,D,M,P,Q])
        %y = Transpose(%r) {perm = [0, 2, 1, 3, 4]}
    """
    types = _SINGLE
    domain = {"C": "16", "M": "16,32", "D": "3", "H": "6", "W": "6", "J": "1,2", "K": "1,2,3"}

    def guard(self, m: Match) -> str | None:
        """Refuse strides and pads along the planes, and windows of one element."""
        pads, strides = m.attr("pads") or (0,) * 6, m.attr("strides") or (1,) * 3
        if pads[0] or pads[3] or strides[0] != 1:
            return "it strides or pads along the planes"
        if m.size("J") * m.size("K") == 1:
            return "the window has one element"
        return fills_blocks(m.size("C"), m.size("M"))

    def constants(self, m: Match) -> dict[str, Any]:
        """The window without its first dim."""
        outputs, inputs, _, *window = shape_of(m["w"])
        made: dict[str, Any] = {f"{n}2": m.attr(n)[1:] if m.attr(n) else None for n in _WINDOW}
        pads = m.attr("pads")
        made["pads2"] = (*pads[1:3], *pads[4:6]) if pads else None
        return made | {"v": computed((outputs, inputs, *window), lambda w: w[:, :, 0], m["w"])}


class ConvolveFrames(Rule):
    """A convolution of volumes whose window is one pixel wide is one of images with a row for each plane."""

    stage = "lower"
    before = """
        %y: T[N,M,E,H,W] = Conv(%x: T[N,C,D,H,W], const %w: T[M,C,K,1,1], const %b?: T[M]) {
    """ + _ATTRIBUTES + "}"
    after = """
        %u = Reshape(%x, [N,C,D,H*W])
        %i = Conv(%u, const %v, %b?) {""" + _FLAT + """}
        %y = Reshape(%i, [N,M,E,H,W])
    """
    types = _SINGLE
    domain = {"C": "16", "M": "16,32", "D": "3", "H": "6", "W": "6", "J": "1,2", "K": "1,2,3"}

    def guard(self, m: Match) -> str | None:
        """Refuse strides and pads within the planes, and windows of one element."""
        pads, strides = m.attr("pads") or (0,) * 6, m.attr("strides") or (1,) * 3
        if any((*pads[1:3], *pads[4:6])) or strides[1:] != (1, 1):
            return "it strides or pads within the planes"
        if m.size("K") == 1:
            return "the window has one element"
        return fills_blocks(m.size("C"), m.size("M"))

    def constants(self, m: Match) -> dict[str, Any]:
        """The window without its last dim."""
        made: dict[str, Any] = {f"{n}2": m.attr(n)[:2] if m.attr(n) else None for n in _WINDOW}
        pads = m.attr("pads")
        made["pads2"] = (pads[0], 0, pads[3], 0) if pads else None
        return made | {"v": computed(shape_of(m["w"])[:4], lambda w: w[..., 0], m["w"])}


class FillChannels(Rule):
    """Input channels are filled up with zeros to a multiple of four, which a blocked layout asks for."""

    stage = "lower"
    before = "%y = Conv(%x: T[N,C,H,W], const %w: T[M,C,J,K], const %b?: T[M]) {" + _ATTRIBUTES + "}"
    after = """
        %p = Pad(%x, const %amounts)
        %y = Conv(%p, const %v, %b?) {""" + _ATTRIBUTES + """}
    """
    types = _SINGLE
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
    before = """
        %s: T[N,C*R*R,H,W] = SpaceToDepth(%x: T[N,C,H*R,W*R]) {blocksize = R}
        %y = Conv(%s, const %w: T[M,C*R*R,J,K], const %b?: T[M]) {
    """ + _ATTRIBUTES + "}"
    after = """
        %y = Conv(%x, const %v, %b?) {auto_pad = $auto, kernel_shape = $kernel2, pads = $pads2, strides = $strides2}
    """
    types = _SINGLE
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


_CONVOLVED = "Conv(%i: T[N,D,*I], const %w, const %b?) {group = $group, " + _ATTRIBUTES + "}\n"
_IMAGES = (
    "%x: T[N,C,H,W] = " + _CONVOLVED,
    "%c = " + _CONVOLVED + "%x: T[N,C,H,W] = Relu|Sigmoid|HardSwish(%c)\n",
    "%c = " + _CONVOLVED + "%x: T[N,C,H,W] = Swish(%c) {alpha = $alpha}\n",
    "%c = " + _CONVOLVED + "%x: T[N,C,H,W] = Clip(%c, %low?, %high?)\n",
    "%c = " + _CONVOLVED + "%s = Add(%c, %d)\n%x: T[N,C,H,W] = Relu(%s)\n",
)
"""Images that come from a convolution, and are in its layout."""
_SPATIAL = ("[2, 3]", "[3, 2]")


class PoolInBlocks(Rule):
    """The mean of images that a convolution made is ``GlobalAveragePool``, which reads the convolution's layout."""

    stage = "lower"
    before = tuple(f"{images} %y = ReduceMean(%x, {axes})" for images in _IMAGES for axes in _SPATIAL)
    after = "%y = GlobalAveragePool(%x)"
    types = _SINGLE
    shared = "%c %s %x"


class PoolInBlocksToRows(Rule):
    """The same without the pooled dims in the result."""

    stage = "lower"
    before = tuple(f"{images} %y = ReduceMean(%x, {axes}) {{keepdims = 0}}" for images in _IMAGES for axes in _SPATIAL)
    after = """
        %p = GlobalAveragePool(%x)
        %y = Squeeze(%p, [2, 3])
    """
    types = _SINGLE
    shared = "%c %s %x"


_SPLIT_CONVOLUTION = "%c = Conv(%x: T[N,C,H,W], const %w: T[M,C,J,K], const %b?: T[M]) {" + _ATTRIBUTES + "}\n"
_FIRST = "%d = Conv(%x, const %v1, const %b1) {" + _ATTRIBUTES + "}\n"
_SECOND = "%e = Conv(%x, const %v2, const %b2) {" + _ATTRIBUTES + "}\n"


class _SplitConvolution(Rule):
    """What the rules about splitting the channels of a convolution have in common."""

    stage = "lower"
    types = _SINGLE
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

    before = _SPLIT_CONVOLUTION + """
        %a = Relu(%c)
        %p: T[N,P,*S], %q: T[N,Q,*S] = Split(%a, %_) {axis = 1, num_outputs = $count}
    """
    after = _FIRST + _SECOND + """
        %p = Relu(%d)
        %q = Relu(%e)
    """


class SplitSwishedConvolution(_SplitConvolution):
    """The same with ``Swish`` in between."""

    before = _SPLIT_CONVOLUTION + """
        %a = Swish(%c) {alpha = $alpha}
        %p: T[N,P,*S], %q: T[N,Q,*S] = Split(%a, %_) {axis = 1, num_outputs = $count}
    """
    after = _FIRST + _SECOND + """
        %p = Swish(%d) {alpha = $alpha}
        %q = Swish(%e) {alpha = $alpha}
    """

"""Mix the channels of images where the images are small, and in one step.

A pointwise convolution is linear in each pixel, and resizing is a weighted mean of pixels for each channel, so that
they commute.  Heads that resize maps of several sizes, concatenate and mix them do most of their work on pixels that
were made of few.

Decisions:

* The weights with which ``Resize`` makes a pixel sum to one in all modes but those that read a region of interest; so
  a bias may be added before or after.
* Of a ``Concat``, one resized part after the other is taken out while that pays, and the rest is mixed as before; the
  bias stays there.  A ``Concat`` of many is written as a form for each length and place.
* What pays is decided by counting multiply-adds; making a pixel by ``Resize``, or adding it to another, counts as some
  of these.  Measured on ONNX Runtime with images of 7 to 64 pixels and 12 to 512 channels: whatever is admitted gains
  1.1 to 38, but for one tie, in a blocked layout or out of it.
* Two linear maps in a row with constant weights are one where that is no more multiply-adds, as for products of
  matrices (``passes/raise_linear.py``).  The second must be pointwise, the first may be any convolution: pads are zeros
  before both.
* A product with the pixels of an image that is flattened and transposed for it becomes a convolution, which the two
  decisions above are about.  By itself that gains 1.1 to 2.2, for images of 4 to 64 pixels and 32 to 768 channels.
* Considered and rejected: one ``Sum`` of all parts in place of several ``Add`` (1.0).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.constant import Array, Constant
from compiler.rewrite import FLOATS, NUMBERS, Match, Refusal, Rule
from passes.affine import is_shared
from passes.blocked_layout import ATTRIBUTES
from passes.weights import computed, more_work, product, shape_of

_RESIZED = 32
"""Multiply-adds that making a pixel by ``Resize`` counts as."""

_ADDED = 8
"""Multiply-adds that adding a pixel to another counts as."""

_PARTS = 8
"""Operands of a ``Concat`` up to which resized ones are taken out."""

_OTHER = "auto_pad = $auto2, dilations = $dilations2, kernel_shape = $kernel2, pads = $pads2, strides = $strides2"
_SAMPLES = (
    "coordinate_transformation_mode = $coordinates, cubic_coeff_a = $cubic, exclude_outside = $exclude, "
    "mode = $mode, nearest_mode = $nearest"
)
_RESIZE = "T[N,C,P,Q] = Resize(%x: T[N,C,H,W], %_, const %scales?, %sizes?) {" + _SAMPLES + "}\n"
_MIXED_AND_RESIZED = "Resize(%m, _, const %factors?, const %pixels?) {axes = $axes, " + _SAMPLES + "}"

_FLOAT = {"T": FLOATS}


def _strides_or_pads(m: Match, strides: str = "strides", pads: str = "pads") -> str | None:
    """Return why a convolution is not pointwise, although its window is one pixel."""
    moved = any(s != 1 for s in m.attr(strides) or ()) or any(m.attr(pads) or ())
    return "the convolution strides or pads" if moved else None


# Resize ------------------------------------------------------------------------------------------


class DropResize(Rule):
    """Resizing to the size that an image has leaves it as it is."""

    stage = "canonical"
    before = "%y: T[*S] = Resize(%x: T[*S], %_, %_, %sizes) {axes = $axes, antialias = $antialias, " + _SAMPLES + "}"
    after = "%y = Identity(%x)"
    types = _FLOAT

    def guard(self, m: Match) -> str | None:
        """Refuse coordinates that read a region."""
        return _reads_region(m)


class ResizeByFactors(Rule):
    """Enlarging to whole multiples of an image's dims is enlarging by these factors.

    Factors are constants where sizes, which hold the number of images too, are not; layouts of convolutions ask for
    constants.
    """

    stage = "canonical"
    before = "%y: T[N,C,P,Q] = Resize(%x: T[N,C,H,W], %_, _, %sizes) {" + _SAMPLES + "}"
    after = "%y = Resize(%x, _, const %factors) {" + _SAMPLES + "}"
    types = _FLOAT

    def guard(self, m: Match) -> str | None:
        """Refuse coordinates that read a region, and dims that are no multiples."""
        for old, new in (("H", "P"), ("W", "Q")):
            if not m.size(old) or m.size(new) % m.size(old):
                return f"{m.size(old)} pixels become {m.size(new)}"
        return _reads_region(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """The factors."""
        return {"factors": np.asarray([1, 1, m.size("P") // m.size("H"), m.size("Q") // m.size("W")], np.float32)}


def _reads_region(m: Match) -> str | None:
    chosen = m.attr("coordinates")
    return f"the coordinates are {chosen}" if chosen == "tf_crop_and_resize" else None


class _BeforeResize(Rule):
    """What the rules about mixing before resizing have in common."""

    types = _FLOAT
    domain = {"N": "1..3", "C": "4", "M": "1..3", "strides": "[1,1]", "pads": "[0,0,0,0]"}

    def why_not(self, m: Match, added: int) -> str | None:
        """Return why mixing before resizing is not cheaper, if each pixel is added to others ``added`` times."""
        refused = _strides_or_pads(m) or _reads_region(m)
        if refused:
            return refused
        inputs, outputs, grows = m.size("C"), m.size("M"), _growth(m)
        if grows <= 1:
            return "the image does not grow"
        saved = inputs * outputs * (1 - 1 / grows)
        costs = (outputs - inputs) * _RESIZED + outputs * added
        return None if saved > costs else f"{outputs} channels would be resized in place of {inputs}"

    @staticmethod
    def sizes(m: Match) -> dict[str, Any]:
        """Return the factors of an image's dims or its sizes, and the axes that these are for."""
        if m.get("scales") is not None:
            return {"factors": m.array("scales"), "axes": None}
        pixels, images = [m.size("P"), m.size("Q")], m.dim("N")
        if isinstance(images, int):  # axes ask for a later opset
            return {"pixels": np.asarray([images, m.size("M"), *pixels]), "axes": None}
        return {"pixels": np.asarray(pixels), "axes": [2, 3]}


def _growth(m: Match) -> float:
    """Return how many pixels are made of one; raises ``Refusal`` when that is not known."""
    if m.get("scales") is None:
        before, after = m.size("H") * m.size("W"), m.size("P") * m.size("Q")
        return after / before if before else 0.0
    scales = m.array("scales").tolist()
    if len(scales) != 4 or scales[:2] != [1, 1]:
        raise Refusal(f"the scales are {scales}")
    return float(scales[2] * scales[3])


class MixBeforeResize(_BeforeResize):
    """A pointwise convolution of a resized image is the resized convolution of the image."""

    before = "%r: " + _RESIZE + "%y: T[N,M,P,Q] = Conv(%r, const %w: T[M,C,1,1], const %b?: T[M]) {" + ATTRIBUTES + "}"
    after = "%m = Conv(%x, %w, %b?)\n%y = " + _MIXED_AND_RESIZED

    def guard(self, m: Match) -> str | None:
        """Refuse what does not save multiply-adds."""
        return self.why_not(m, 0)

    def constants(self, m: Match) -> dict[str, Any]:
        """The sizes, or factors, of rows and columns."""
        return self.sizes(m)


_NAMES = tuple("adefghi")
"""Names of the other parts of a ``Concat``."""


def _parts(length: int, place: int) -> str:
    """Return the form in which one of the operands of a ``Concat`` is resized."""
    others = [f"%{n}: T[N,{n.upper()}1,P,Q]" for n in _NAMES[: length - 1]]
    operands = ", ".join([*others[:place], "%p", *others[place:]])
    mixed = "%y: T[N,M,P,Q] = Conv(%t, const %w: T[M,D,1,1], const %b?: T[M]) {" + ATTRIBUTES + "}"
    return "%p: " + _RESIZE + f"%t: T[N,D,P,Q] = Concat({operands}) {{axis = 1}}\n" + mixed


class MixPartBeforeResize(_BeforeResize):
    """Mixing the channels of several images, one of them resized, is the sum of mixing that one first and the rest."""

    before = tuple(_parts(length, place) for length in range(2, _PARTS + 1) for place in range(length))
    after = (
        "%m = Conv(%x, const %v)\n"
        + "%r = " + _MIXED_AND_RESIZED + "\n"
        + "%c = Concat(%a, " + ", ".join(f"%{n}?" for n in _NAMES[1:]) + ") {axis = 1}\n"
        + "%s = Conv(%c, const %u, %b?)\n%y = Add(%r, %s)"
    )  # fmt: skip

    def guard(self, m: Match) -> str | None:
        """Refuse what does not save multiply-adds, and shared weights."""
        return "the weight is shared" if is_shared(m["w"]) else self.why_not(m, _ADDED)

    def constants(self, m: Match) -> dict[str, Any]:
        """The weights of the part and of the rest, and the sizes, or factors, of rows and columns."""
        outputs, inputs = shape_of(m["w"])[:2]
        first, size = self._first(m), m.size("C")
        own = slice(first, first + size)
        return self.sizes(m) | {
            "v": computed((outputs, size, 1, 1), lambda w: w[:, own], m["w"]),
            "u": computed((outputs, inputs - size, 1, 1), lambda w: np.delete(w, own, axis=1), m["w"]),
        }

    @staticmethod
    def _first(m: Match) -> int:
        """Return the first channel of the part."""
        found = 0
        for operand in m.node("t").inputs:
            if operand is m["p"]:
                break
            dim = operand.shape[1] if operand is not None and operand.shape is not None else None
            if not isinstance(dim, int):
                raise Refusal(f"a part has {dim} channels")
            found += dim
        return found


class DropConcatOfOne(Rule):
    """The concatenation of one tensor is that tensor."""

    before = "%y: T = Concat(%x) {axis = $axis}"
    after = "%y = Identity(%x)"
    types = {"T": NUMBERS}


# Linear maps in a row ----------------------------------------------------------------------------


def _composed(mixing: Array, first: Array) -> Array:
    """Return ``[M,R,1,1]`` times ``[R,...]``."""
    return product(mixing[:, :, 0, 0], first)


def _bias(m: Match) -> Constant | None:
    """Return ``W b + c``, where either may be missing."""
    first, second, shape = m.get("b"), m.get("c"), (m.size("M"),)
    if first is None:
        return None if second is None else computed(shape, lambda c: c, second)
    if second is None:
        return computed(shape, _composed, m["w"], first)
    return computed(shape, lambda w, b, c: _composed(w, b) + c, m["w"], first, second)


class MergePointwise(Rule):
    """A pointwise convolution of a convolution is one convolution with the product of the weights."""

    before = (
        "%m = Conv(%x: T[N,C,H,W], const %v: T[R,C,J,K], const %b?: T[R]) {" + ATTRIBUTES + "}\n"
        "%y = Conv(%m, const %w: T[M,R,1,1], const %c?: T[M]) {" + _OTHER + "}"
    )
    after = "%y = Conv(%x, const %vw, const %e?) {" + ATTRIBUTES + "}"
    types = _FLOAT
    domain = {
        "C": "1..3",
        "M": "1..3",
        "R": "3",
        "H": "6",
        "W": "6",
        "J": "1,2",
        "K": "1,2",
        "strides2": "[1,1]",
        "pads2": "[0,0,0,0]",
    }

    def guard(self, m: Match) -> str | None:
        """Refuse what would be more work, and a second convolution that strides or pads."""
        refused = _strides_or_pads(m, "strides2", "pads2")
        return refused or more_work(m, m.size("C") * m.size("J") * m.size("K"), m.size("R"), m.size("M"))

    def constants(self, m: Match) -> dict[str, Any]:
        """The product, in float64, rounded once."""
        shape = (m.size("M"), *shape_of(m["v"])[1:])
        made: dict[str, Any] = {"vw": computed(shape, _composed, m["w"], m["v"])}
        bias = _bias(m)
        return made if bias is None else made | {"e": bias}


_ROWS = """
    %p: T[N,L,R] = MatMul(%x: T[N,L,K], const %v: T[K,R])
    optional %s = Add(%p, const %b: T[R])
"""
_POINTWISE = "%y: T[N,M,H,W] = Conv(%i, const %w: T[M,R,1,1], const %c?: T[M]) {" + _OTHER + "}"


class MergeProductIntoPointwise(Rule):
    """A pointwise convolution of an image whose pixels come from a product is one product with both weights."""

    before = (
        _ROWS
        + """
        %t: T[N,R,L] = Transpose(%s) {perm = [0, 2, 1]}
        %i: T[N,R,H,W] = Reshape(%t, %_) {allowzero = $z}
        """
        + _POINTWISE,
        _ROWS
        + """
        %t: T[N,H,W,R] = Reshape(%s, %_) {allowzero = $z}
        %i = Transpose(%t) {perm = [0, 3, 1, 2]}
        """
        + _POINTWISE,
    )
    after = """
        %q = MatMul(%x, const %vw)
        optional %a = Add(%q, const %e?)
        %u = Transpose(%a) {perm = [0, 2, 1]}
        %y = Reshape(%u, [N,M,H,W])
    """
    types = _FLOAT

    def guard(self, m: Match) -> str | None:
        """Refuse what would be more work, and a convolution that strides or pads."""
        return _strides_or_pads(m, "strides2", "pads2") or more_work(m, m.size("K"), m.size("R"), m.size("M"))

    def constants(self, m: Match) -> dict[str, Any]:
        """The products, in float64, rounded once."""
        shape = (m.size("K"), m.size("M"))
        made: dict[str, Any] = {"vw": computed(shape, lambda v, w: _composed(w, v.T).T, m["v"], m["w"])}
        bias = _bias(m)
        return made if bias is None else made | {"e": bias}


class ConvolveFlattened(Rule):
    """A product with the pixels of a flattened image, as an image again, is a pointwise convolution."""

    before = """
        %f: T[N,C,L] = Reshape(%x: T[N,C,H,W], %_) {allowzero = $z0}
        %t = Transpose(%f) {perm = [0, 2, 1]}
        %p = MatMul(%t, const %v: T[C,M])
        optional %s = Add(%p, const %b: T[M])
        %u = Transpose(%s) {perm = [0, 2, 1]}
        %y: T[N,M,H,W] = Reshape(%u, %_) {allowzero = $z1}
    """
    after = "%y = Conv(%x, const %w, %b?)"
    shared = "%f %t"
    types = _FLOAT

    def guard(self, m: Match) -> str | None:
        """Refuse a weight that others read."""
        return "the weight is shared" if is_shared(m["v"]) else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The matrix as a window of one pixel."""
        inputs, outputs = shape_of(m["v"])
        return {"w": computed((outputs, inputs, 1, 1), lambda v: v.T[:, :, np.newaxis, np.newaxis], m["v"])}

"""Recognise data movement and pooling that is written out: pixel shuffles, space to depth, channel shuffles, means.

Decisions:

* A general ``Transpose`` of six dims costs two to ten times the operator that says what was meant.
* ``Reshape`` is matched by its types, whatever computes its target, so ``allowzero`` does not matter.
* A mean over all spatial dims stays ``ReduceMean``: ``GlobalAveragePool`` reads a blocked layout, and without a
  convolution before it that costs more than it gains (``passes/lower_convolutions.py`` knows where it pays).
* Considered and rejected: ``AveragePool`` over the whole image as ``GlobalAveragePool``; both take the same time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler.rewrite import FLOATS, NUMBERS, Match, Rule

_ALL = {"T": NUMBERS}


class RaisePixelShuffle(Rule):
    """Spreading blocks of ``R x R`` channels over the image, channels outermost, is ``DepthToSpace`` of mode CRD."""

    stage = "raise"
    before = """
        %b: T[N,C,R,R,H,W] = Reshape(%x: T[N,C*R*R,H,W], %_) {allowzero = $z0}
        %t = Transpose(%b) {perm = [0, 1, 4, 2, 5, 3]}
        %y: T[N,C,H*R,W*R] = Reshape(%t, %_) {allowzero = $z1}
    """
    after = """%y = DepthToSpace(%x) {blocksize = R, mode = "CRD"}"""
    types = _ALL


class RaiseDepthToSpace(Rule):
    """Spreading blocks of ``R x R`` channels over the image, blocks outermost, is ``DepthToSpace`` of mode DCR."""

    stage = "raise"
    before = """
        %b: T[N,R,R,C,H,W] = Reshape(%x: T[N,C*R*R,H,W], %_) {allowzero = $z0}
        %t = Transpose(%b) {perm = [0, 3, 4, 1, 5, 2]}
        %y: T[N,C,H*R,W*R] = Reshape(%t, %_) {allowzero = $z1}
    """
    after = """%y = DepthToSpace(%x) {blocksize = R, mode = "DCR"}"""
    types = _ALL


class RaiseSpaceToDepth(Rule):
    """Collecting blocks of ``R x R`` pixels in channels, blocks outermost, is ``SpaceToDepth``."""

    stage = "raise"
    before = """
        %b: T[N,C,H,R,W,R] = Reshape(%x: T[N,C,H*R,W*R], %_) {allowzero = $z0}
        %t = Transpose(%b) {perm = [0, 3, 5, 1, 2, 4]}
        %y: T[N,C*R*R,H,W] = Reshape(%t, %_) {allowzero = $z1}
    """
    after = "%y = SpaceToDepth(%x) {blocksize = R}"
    types = _ALL


class RaisePixelUnshuffle(Rule):
    """Collecting blocks of pixels in channels, channels outermost, is ``SpaceToDepth`` and a ``Gather`` of channels.

    Even so it is several times cheaper than a ``Transpose`` of six dims: ``Gather`` copies whole images.
    """

    stage = "raise"
    before = """
        %b: T[N,C,H,R,W,R] = Reshape(%x: T[N,C,H*R,W*R], %_) {allowzero = $z0}
        %t = Transpose(%b) {perm = [0, 1, 3, 5, 2, 4]}
        %y: T[N,C*R*R,H,W] = Reshape(%t, %_) {allowzero = $z1}
    """
    after = """
        %s = SpaceToDepth(%x) {blocksize = R}
        %y = Gather(%s, const %order) {axis = 1}
    """
    types = _ALL

    def constants(self, m: Match) -> dict[str, Any]:
        """Channel ``c`` of block ``k`` stands at ``k * C + c`` and is wanted at ``c * R * R + k``."""
        blocks, channels = m.size("R") ** 2, m.size("C")
        return {"order": np.arange(blocks * channels).reshape(blocks, channels).T.reshape(-1)}


_END = "[9223372036854775807]"
_BLOCKS_OF_PIXELS = f"""
    %u = Slice(%x: T[N,C,2*H,2*W], [0], {_END}, [2], [2])
    %v = Slice(%x, [1], {_END}, [2], [2])
    %p: T[N,C,H,W] = Slice(%u, [0], {_END}, [3], [2])
    %q: T[N,C,H,W] = Slice(%v, [0], {_END}, [3], [2])
    %r: T[N,C,H,W] = Slice(%u, [1], {_END}, [3], [2])
    %s: T[N,C,H,W] = Slice(%v, [1], {_END}, [3], [2])
"""


class RaiseSlicesByRow(Rule):
    """Four slices of every second pixel, one row of a block after the other, concatenated: ``SpaceToDepth``."""

    stage = "raise"
    before = _BLOCKS_OF_PIXELS + "%y = Concat(%p, %r, %q, %s) {axis = 1}"
    after = "%y = SpaceToDepth(%x) {blocksize = 2}"
    types = _ALL
    shared = "%u %v"


class RaiseSlicesByColumn(Rule):
    """The same, one column of a block after the other: the middle two quarters of the channels change places."""

    stage = "raise"
    before = _BLOCKS_OF_PIXELS + "%y = Concat(%p, %q, %r, %s) {axis = 1}"
    after = """
        %d = SpaceToDepth(%x) {blocksize = 2}
        %y = Gather(%d, const %order) {axis = 1}
    """
    types = _ALL
    shared = "%u %v"

    def constants(self, m: Match) -> dict[str, Any]:
        """Quarters 0, 2, 1 and 3."""
        return {"order": np.arange(4 * m.size("C")).reshape(4, -1)[[0, 2, 1, 3]].reshape(-1)}


class RaiseChannelShuffle(Rule):
    """Interleaving ``G`` groups of ``K`` channels is a ``Gather`` of channels, which copies whole images."""

    stage = "raise"
    before = """
        %b: T[N,G,K,H,W] = Reshape(%x: T[N,G*K,H,W], %_) {allowzero = $z0}
        %t = Transpose(%b) {perm = [0, 2, 1, 3, 4]}
        %y: T[N,G*K,H,W] = Reshape(%t, %_) {allowzero = $z1}
    """
    after = "%y = Gather(%x, const %order) {axis = 1}"
    types = _ALL

    def constants(self, m: Match) -> dict[str, Any]:
        """Channel ``k`` of group ``g`` is wanted at ``k * G + g``."""
        groups, channels = m.size("G"), m.size("K")
        return {"order": np.arange(groups * channels).reshape(groups, channels).T.reshape(-1)}


_ROWS_OF_PATCHES = f"""
    %u = Slice(%x: T[N,2*H,2*W,C], [0], {_END}, [1], [2])
    %v = Slice(%x, [1], {_END}, [1], [2])
    %p: T[N,H,W,C] = Slice(%u, [0], {_END}, [2], [2])
    %q: T[N,H,W,C] = Slice(%v, [0], {_END}, [2], [2])
    %r: T[N,H,W,C] = Slice(%u, [1], {_END}, [2], [2])
    %s: T[N,H,W,C] = Slice(%v, [1], {_END}, [2], [2])
"""


class MergePatches(Rule):
    """Four slices of every second pixel, channels last, concatenated: one ``Transpose`` that copies whole pixels.

    Pixels ``(0,0) (1,0) (0,1) (1,1)`` of each block of two by two, by row and column, become one.
    """

    before = _ROWS_OF_PATCHES + "%y: T[N,H,W,4*C] = Concat(%p, %q, %r, %s) {axis = -1}"
    after = """
        %b = Reshape(%x, [N,H,2,W,2,C])
        %t = Transpose(%b) {perm = [0, 1, 3, 4, 2, 5]}
        %y = Reshape(%t, [N,H,W,4*C])
    """
    types = _ALL
    shared = "%u %v"


class MergePatchesByRow(Rule):
    """The same with the pixels ``(0,0) (0,1) (1,0) (1,1)``."""

    before = _ROWS_OF_PATCHES + "%y: T[N,H,W,4*C] = Concat(%p, %r, %q, %s) {axis = -1}"
    after = """
        %b = Reshape(%x, [N,H,2,W,2,C])
        %t = Transpose(%b) {perm = [0, 1, 3, 2, 4, 5]}
        %y = Reshape(%t, [N,H,W,4*C])
    """
    types = _ALL
    shared = "%u %v"


class _Mean(Rule):
    """What the rules about sums that are divided by the number of their terms have in common."""

    stage = "raise"
    types = {"T": FLOATS}
    rtol = 1e-6
    """The reciprocal of the number of terms was rounded."""

    def guard(self, m: Match) -> str | None:
        """The divisor is the number of terms."""
        terms = math.prod(m.size(n) for n in "KHW" if m.binds_dim(n))
        number = m.scalar("n") if m.form == 0 else 1.0 / (m.scalar("r") or math.inf)
        return None if terms and abs(number - terms) <= 1e-6 * terms else f"{terms} terms are divided by {number:g}"


class RaiseMeanOfRow(_Mean):
    """The sum along the last axis, divided by the number of its terms, is the mean."""

    before = (
        """
        %s = ReduceSum(%x: T[*S,K], [-1]) {keepdims = $keep}
        %y: T = Div(%s, scalar %n)
        """,
        """
        %s = ReduceSum(%x: T[*S,K], [-1]) {keepdims = $keep}
        %y: T = Mul(%s, scalar %r)
        """,
    )
    after = "%y = ReduceMean(%x, [-1]) {keepdims = $keep}"
    domain = {"K": "4", "n": "4..4", "r": "0.25..0.25"}


class RaiseMeanOfImage(_Mean):
    """The sum over an image, divided by the number of its pixels, is the mean."""

    before = (
        """
        %s = ReduceSum(%x: T[N,C,H,W], [2, 3]) {keepdims = $keep}
        %y: T = Div(%s, scalar %n)
        """,
        """
        %s = ReduceSum(%x: T[N,C,H,W], [2, 3]) {keepdims = $keep}
        %y: T = Mul(%s, scalar %r)
        """,
    )
    after = "%y = ReduceMean(%x, [2, 3]) {keepdims = $keep}"
    domain = {"H": "2", "W": "2", "n": "4..4", "r": "0.25..0.25"}


class UsePlainHalfPixel(Rule):
    """``pytorch_half_pixel`` is ``half_pixel`` where no result is one pixel wide; blocked layouts know the latter."""

    stage = "canonical"
    before = """
        %y: T = Resize(%x: T, %roi?, %scales?, %sizes?)
            {mode = $mode, coordinate_transformation_mode = "pytorch_half_pixel", nearest_mode = $nearest,
             cubic_coeff_a = $cubic, exclude_outside = $exclude, axes = $axes,
             keep_aspect_ratio_policy = $policy, antialias = $antialias}
    """
    after = """
        %y = Resize(%x, %roi?, %scales?, %sizes?)
            {mode = $mode, coordinate_transformation_mode = "half_pixel", nearest_mode = $nearest,
             cubic_coeff_a = $cubic, exclude_outside = $exclude, axes = $axes,
             keep_aspect_ratio_policy = $policy, antialias = $antialias}
    """
    types = {"T": NUMBERS}

    def guard(self, m: Match) -> str | None:
        """Each dim of the result has two elements or more, or is not resized, or is a multiple."""
        old, new, scales = m["x"].shape, m["y"].shape, m.get("scales")
        if old is None or new is None:
            return "the rank is not known"
        array = scales.array() if scales is not None else None
        factors = array.tolist() if array is not None and array.size == len(new) else [None] * len(new)
        if scales is not None and m.get("sizes") is None and None in factors:
            return "the scales are not known for each dim"
        for before, after, factor in zip(old, new, factors, strict=True):
            many = isinstance(after, int) and after > 1
            if not many and factor != 1 and not (factor is None and before == after) and (factor or 0) < 2:
                return f"a dim of {before} becomes {after}, which may be one"
        return None


class UseFloorOfNearest(Rule):
    """The nearest pixel of an image enlarged by a whole factor is the same by rounding and by ``asymmetric`` floor.

    The centre of pixel ``i`` lies at ``(i + 0.5) / s - 0.5``, less than half a pixel from ``floor(i / s)``, never in
    the middle between two: all ways to round agree.  Layouts of convolutions know only the second form.
    """

    stage = "canonical"
    before = (
        """
        %y: T = Resize(%x: T, %_, const %scales)
            {coordinate_transformation_mode = "half_pixel", nearest_mode = $nearest}
        """,
        """
        %y: T = Resize(%x: T, %_, %_, const %sizes)
            {coordinate_transformation_mode = "half_pixel", nearest_mode = $nearest}
        """,
    )
    after = """
        %y = Resize(%x, _, %scales?, %sizes?) {coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"}
    """
    types = {"T": NUMBERS}

    def guard(self, m: Match) -> str | None:
        """Each dim grows by a whole factor, and the rounding is one to the nearest."""
        nearest = m.attr("nearest")
        if nearest not in ("round_prefer_floor", "round_prefer_ceil"):
            return f"it rounds by {nearest}"
        for factor in self._factors(m):
            if factor is None or factor < 1 or factor > _FACTOR_LIMIT or factor != int(factor):
                return f"a factor is {factor}"
        return None

    @staticmethod
    def _factors(m: Match) -> list[float | None]:
        if m.form == 0:
            return list(m.array("scales").tolist())
        old, new = m["x"].shape or (), m["y"].shape or ()
        return [
            1.0 if a == b else b / a if isinstance(a, int) and isinstance(b, int) and a else None
            for a, b in zip(old, new, strict=True)
        ]


_FACTOR_LIMIT = 64
"""Factor up to which half a pixel of the result is no rounding error of coordinates in f32."""

"""Bring convolutions over rows and volumes, and depthwise ones, into the forms of the fast kernels of CPU runtimes.

These are convolutions of images in a blocked layout (``passes/blocked_layout.py``).  When a form pays was measured;
``targets/gains`` has the cases.

Decisions:

* Convolutions over rows become convolutions over images of one row, not of one column, which are slower.
* Considered and rejected, since measured to gain nothing or lose: filling groups that are narrower than a block (0.9),
  making a grouped convolution dense (0.28), ``ConvTranspose`` of disjoint windows as ``DepthToSpace`` (0.36).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import Match, Rule
from passes.blocked_layout import ATTRIBUTES, SINGLE, fills_blocks
from passes.weights import computed, shape_of

_FLAT = "auto_pad = $auto, dilations = $dilations2, kernel_shape = $kernel2, pads = $pads2, strides = $strides2"
_WINDOW = ("dilations", "kernel", "strides")


class _OverRows(Rule):
    """What the rules about convolutions over rows have in common."""

    stage = "lower"
    types = SINGLE

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

    before = "%y = Conv(%x: T[N,C,L], const %w: T[C,1,K], const %b?: T[C]) {group = C, " + ATTRIBUTES + "}"
    after = _TO_IMAGE + "%i = Conv(%u, const %v, %b?) {group = C, " + _FLAT + "}" + _FROM_IMAGE
    domain = {"C": "4,8", "L": "8"}

    def guard(self, m: Match) -> str | None:
        """Refuse channels that no layout keeps together."""
        return f"{m.size('C')} channels are no multiple of 4" if m.size("C") % 4 else None


class ConvolveRowsInGroups(_OverRows):
    """A convolution over rows in groups that fill blocks of channels is one over images of one row."""

    before = "%y = Conv(%x: T[N,E*G,L], const %w: T[R,G,K], const %b?) {group = E, " + ATTRIBUTES + "}"
    after = _TO_IMAGE + "%i = Conv(%u, const %v, %b?) {group = E, " + _FLAT + "}" + _FROM_IMAGE
    domain = {"E": "2,3", "G": "16", "R": "96", "L": "8"}

    def guard(self, m: Match) -> str | None:
        """Refuse windows of one element, which are plain products, one group, and groups that are narrow."""
        if m.size("K") == 1:
            return "the window has one element"
        return "there is one group" if m.size("E") < 2 else fills_blocks(m.size("G"), m.size("R") // m.size("E"))


class ConvolveRows(_OverRows):
    """A convolution over rows is one over images of one row; it pays where the result is no wider than the data."""

    before = "%y = Conv(%x: T[N,C,L], const %w: T[M,C,K], const %b?: T[M]) {" + ATTRIBUTES + "}"
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
    before = "%y = Conv(%x: T[N,C,H,W], const %w: T[M,1,J,K], const %b?: T[M]) {group = C, " + ATTRIBUTES + "}"
    after = (
        """
        %r = Gather(%x, const %repeated) {axis = 1}
        %y = Conv(%r, %w, %b?) {group = M, """
        + ATTRIBUTES
        + """}
    """
    )
    types = SINGLE
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
    before = (
        """
        %y: T[N,M,D,P,Q] = Conv(%x: T[N,C,D,H,W], const %w: T[M,C,1,J,K], const %b?: T[M]) {
    """
        + ATTRIBUTES
        + "}"
    )
    after = (
        """
        %t = Transpose(%x) {perm = [0, 2, 1, 3, 4]}
        %u = Reshape(%t, [N*D,C,H,W])
        %i = Conv(%u, const %v, %b?) {"""
        + _FLAT
        + """}
        %r = Reshape(%i, [N,D,M,P,Q])
        %y = Transpose(%r) {perm = [0, 2, 1, 3, 4]}
    """
    )
    types = SINGLE
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
    before = (
        """
        %y: T[N,M,E,H,W] = Conv(%x: T[N,C,D,H,W], const %w: T[M,C,K,1,1], const %b?: T[M]) {
    """
        + ATTRIBUTES
        + "}"
    )
    after = (
        """
        %u = Reshape(%x, [N,C,D,H*W])
        %i = Conv(%u, const %v, %b?) {"""
        + _FLAT
        + """}
        %y = Reshape(%i, [N,M,E,H,W])
    """
    )
    types = SINGLE
    domain = {"C": "16", "M": "16,32", "D": "3,4", "H": "3", "W": "3,4", "K": "2,3,1"}

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

"""Compute convolutions by windows of three in tiles, with fewer products (Winograd's minimal filtering).

A tile of 4 x 4 results is a bilinear function of 6 x 6 pixels and 3 x 3 weights.  Written as
``A' [(G w G') * (B' x B)] A``, it takes 36 products instead of 144 for each pair of channels; the three small matrices
come from interpolation at 0, 1, -1, 2, -2 and infinity (Lavin and Gray 2015, "Fast algorithms for convolutional neural
networks").  So a convolution is

* ``B' x B`` of every tile: a convolution of each channel, 6 x 6 with stride 4, that makes 36 numbers of each tile,
* for each of these 36 one product of all weights and all tiles, and
* ``A' . A``: a product with a 16 x 36 matrix, and ``DepthToSpace``, which puts the tiles side by side.

Decisions:

* Weights are transformed when the model is compiled, in double precision; they take four times their memory.
* The result differs by some 1e-5 of its largest number, about ten times what reordering a sum does: hence ``rtol``.
  Tiles of 2 x 2 differ less, but gain little: moving tiles about costs as much as the products that they save.
* Moving numbers costs the same whatever the channels are, products grow with them: ``worth`` weighs both, as measured.
* The transforms add up to a hundred pixels before and hundreds of products after: numbers beyond some 1e36 overflow
  where the sum itself would not, and one pixel that is infinite or NaN makes all results of its tiles NaN, four in
  each direction, rather than those that it is part of.  Networks compute neither; ``--disable ConvolveInTiles
  --disable ConvolveInTilesWithoutBias`` is for those that do.
* Only single precision: in half precision the large constants of the transform would cost digits that are not there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.constant import Array
from compiler.rewrite import Match, Rule
from passes.blocked_layout import ATTRIBUTES, SINGLE
from passes.weights import computed

_TILE, _WINDOW = 4, 6
"""Results of a tile along an axis, and the pixels that they are made of."""

_PIXELS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=np.float64,
)
"""``B'``: what becomes of six pixels."""

_WEIGHTS = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=np.float64) / 24
"""``G``: what becomes of three weights."""

_RESULTS = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=np.float64
)
"""``A'``: what the results are made of."""

_MOVED = 215
"""Products that moving and transforming a channel's pixel is worth, over that of data and that of results."""

_GAIN = 1.3
"""How many times fewer operations there have to be: the runtime's own convolution is nearer to the machine's peak."""

_LEAST_TILES = 16
"""Tiles of an image below which products with many weights have too few columns."""

_TILED = """
    %rows = Reshape(%x, const %apart)
    %pixels = Conv(%rows, const %analysis) {kernel_shape = [6,6], pads = $ends, strides = [4,4]}
    %tiles = Reshape(%pixels, const %together)
    %columns = Transpose(%tiles) {perm = [0,2,1,3]}
    %products = MatMul(const %u, %columns)
    %flat = Reshape(%products, const %flattened)
    %results = MatMul(const %synthesis, %flat)
    %blocks = Reshape(%results, const %stacked)
    %wide = DepthToSpace(%blocks) {blocksize = 4, mode = "DCR"}
    %z = Slice(%wide, [0,0], [P,Q], [2,3])
"""

_CONV = "{" + ATTRIBUTES + "}"


def _both(matrix: Array) -> Array:
    """Return the matrix that does to tiles, row by row, what ``matrix`` does to their rows and columns."""
    return np.kron(matrix, matrix)


class ConvolveInTiles(Rule):
    """A convolution by 3 x 3 is 36 products of channels and tiles of 6 x 6 pixels, which overlap.

    Holds for finite numbers below some 1e36: a pixel that is none spreads over the results of its tiles.
    """

    stage = "lower"
    before = "%y: T[N,M,P,Q] = Conv(%x: T[N,C,H,W], const %w: T[M,C,3,3], const %b: T[M]) " + _CONV
    after = _TILED + "%y = Add(%z, const %bias)"
    types = SINGLE
    domain = {"C": "1..6", "M": "1..6", "H": "1..13", "W": "1..13"}
    rtol = 1e-4
    """Interpolation loses two or three bits."""

    def guard(self, m: Match) -> str | None:
        """Refuse windows with gaps, strides, and pads that follow from sizes."""
        if m.attr("auto") not in (None, "NOTSET"):
            return f"auto_pad is {m.attr('auto')}"
        found = next((n for n in ("dilations", "strides") if m.attr(n) not in (None, (1, 1))), None)
        return f"{found} are {m.attr(found)}" if found else None

    def worth(self, m: Match) -> str | None:
        """Refuse few channels, and images of few tiles."""
        inputs, outputs = m.size("C"), m.size("M")
        high, wide = _tiles(m)
        if high * wide < _LEAST_TILES:
            return f"{m.size('P')} x {m.size('Q')} pixels are {high * wide} tiles"
        used = m.size("P") * m.size("Q") / (high * wide * _TILE**2)
        fewer = 9 * inputs * outputs * used / (2.25 * inputs * outputs + _MOVED * (inputs + outputs))
        return None if fewer >= _GAIN else f"{outputs} of {inputs} channels: {fewer:.2f} times fewer operations"

    def constants(self, m: Match) -> dict[str, Any]:
        """Shapes of tiles, the transforms, and the transformed weights."""
        outputs, inputs = m.size("M"), m.size("C")
        high, wide = _tiles(m)
        tiles, points = high * wide, _WINDOW**2
        top, left, *_ = m.attr("pads") or (0,) * 4
        ends = [_TILE * n + 2 - size - pad for n, size, pad in ((high, m.size("H"), top), (wide, m.size("W"), left))]
        single = computed((points, 1, _WINDOW, _WINDOW), lambda _: _both(_PIXELS).reshape(points, 1, 6, 6), m["w"])
        return {
            "apart": [-1, 1, m.size("H"), m.size("W")],
            "ends": (top, left, *ends),
            "together": [-1, inputs, points, tiles],
            "flattened": [-1, points, outputs * tiles],
            "stacked": [-1, _TILE**2 * outputs, high, wide],
            "analysis": single,
            "synthesis": computed((_TILE**2, points), lambda _: _both(_RESULTS), m["w"]),
            "u": computed((points, outputs, inputs), _transformed, m["w"]),
        } | ({"bias": computed((outputs, 1, 1), lambda b: b[:, None, None], m["b"])} if m.get("b") else {})


class ConvolveInTilesWithoutBias(ConvolveInTiles):
    """``ConvolveInTiles``, where nothing is added."""

    before = "%z: T[N,M,P,Q] = Conv(%x: T[N,C,H,W], const %w: T[M,C,3,3]) " + _CONV
    after = _TILED


def _tiles(m: Match) -> tuple[int, int]:
    """Return the tiles of an image of results, down and across."""
    return -(-m.size("P") // _TILE), -(-m.size("Q") // _TILE)


def _transformed(w: Array) -> Array:
    """Return ``G w G'`` of all pairs of channels, ``[36, M, C]``."""
    changed = np.einsum("ai,mcij,bj->abmc", _WEIGHTS, w.astype(np.float64), _WEIGHTS, optimize=True)
    return np.asarray(changed.reshape(_WINDOW**2, *w.shape[:2]))

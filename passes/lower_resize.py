"""Write ``Resize`` of images as two products with constant matrices, where that is faster.

Along each axis, every pixel of the result is a weighted sum of pixels of the data; the weights depend on sizes and
scales only.  So with static sizes ``y = A x B`` for each image, where ``A`` holds the weights along the rows and ``B``
those along the columns.

* The weights are those of ONNX Runtime, coordinates in single precision included, for all its coordinate modes except
  those that read a region of interest.
* A weight of zero times an infinity or NaN is NaN: such a pixel spreads over its row and column, where ``Resize`` would
  only show it nearby.
* Cubic resizing has a slow general kernel, so that products pay up to large images.  Linear resizing has a good one;
  products pay for small images that grow.  Within a blocked layout linear resizing is faster still.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.ir.constant import Array, Constant
from compiler.ir.dtype import DType
from compiler.rewrite import Match, Rule
from passes.blocked_layout import is_blocked

_LARGEST = 1024
"""Pixels along an axis up to which products are cheaper than the cubic kernel."""

_SMALL = 32
"""Pixels along an axis up to which products are cheaper than the linear kernel, if the image grows by two or more."""

_RESIZE = """
    %y: T[N,C,P,Q] = Resize(%x: T[N,C,H,W], %_, const %scales?, const %sizes?)
"""


def matrix(
    size: int, resized: int, scale: float, *, mode: str, coordinates: str, a: float = -0.75, exclude: bool = False
) -> Array:
    """Return the weights, ``[resized, size]``, with which pixels along an axis make those of the result."""
    places = _places(coordinates, size, resized, np.float32(scale))
    if scale == 1:
        places = np.arange(resized, dtype=np.float32)
    weights = np.zeros((resized, size))
    rows = np.arange(resized)
    if mode == "linear":
        places = np.clip(places, 0, size - 1)
    first = np.floor(places).astype(np.int64)
    rest = (places - first).astype(np.float64)
    for offset, weight in _taps(mode, rest, a):
        index = first + offset
        inside = (index >= 0) & (index < size)
        np.add.at(weights, (rows, np.clip(index, 0, size - 1)), np.where(inside | (not exclude), weight, 0.0))
    return weights / weights.sum(axis=1, keepdims=True) if exclude else weights


def _places(coordinates: str, size: int, resized: int, scale: np.float32) -> Array:
    """Return where the pixels of the result lie in the data; single precision, as the runtime computes it."""
    half, one = np.float32(0.5), np.float32(1)
    index = np.arange(resized, dtype=np.float32)
    if coordinates == "asymmetric":
        return np.asarray(index / scale)
    if coordinates == "align_corners":
        return np.asarray(index * np.float32(size - 1) / np.float32(max(resized - 1, 1)))
    places = (index + half) / scale - half
    if coordinates == "pytorch_half_pixel" and resized == 1:
        return np.zeros_like(places)
    if coordinates == "half_pixel_symmetric":
        adjustment = np.float32(resized) / (scale * np.float32(size))
        offset = np.float32(size) / np.float32(2) * (one - adjustment)
        return np.asarray(offset + (index + half) / scale - half)
    return np.asarray(places)


def _taps(mode: str, rest: Array, a: float) -> list[tuple[int, Array]]:
    """Return offset and weight of each pixel that counts, by how far the place lies behind a pixel."""
    if mode == "linear":
        return [(0, 1 - rest), (1, rest)]
    return [(k, _cubic(np.abs(k - rest), a)) for k in (-1, 0, 1, 2)]


def _cubic(d: Array, a: float) -> Array:
    """The cubic convolution kernel at a distance (Keys 1981)."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")


def _scales(m: Match) -> tuple[float, float] | None:
    """Return the scales of both axes, ``None`` when they are not known, and unless exactly these axes are resized.

    What keeps all its sizes is copied by the runtime, whatever the scales are.
    """
    old, new = [m.size("H"), m.size("W")], [m.size("P"), m.size("Q")]
    if 0 in old or old[0] == new[0] or old[1] == new[1]:
        return None
    if m.get("sizes") is not None:
        return new[0] / old[0], new[1] / old[1]
    scales = m.array("scales").tolist() if m.get("scales") is not None else []
    return (scales[2], scales[3]) if len(scales) == 4 and scales[:2] == [1, 1] else None


class _ResizeByProducts(Rule):
    """What the rules about resizing by products have in common."""

    stage = "lower"
    types = {"T": frozenset({DType.F32})}
    domain = {"x": "-3..3"}
    rtol = 1e-5
    """Weights at a place that is rounded otherwise."""
    mode = ""

    def guard(self, m: Match) -> str | None:
        """Refuse coordinates that read a region, and scales that are not known."""
        if m.attr("coordinates") not in _COORDINATES:
            return f"the coordinates are {m.attr('coordinates')}"
        return "the scales are not known, or not two axes are resized" if _scales(m) is None else None

    def constants(self, m: Match) -> dict[str, Any]:
        """The weights along the rows, and those along the columns, transposed."""
        down, across = _scales(m) or (1.0, 1.0)
        height, width, rows, columns = (m.size(n) for n in "HWPQ")
        a = m.attr("cubic") if m.binds_attribute("cubic") else -0.75
        exclude = bool(m.attr("exclude")) if m.binds_attribute("exclude") else False
        chosen: dict[str, Any] = {"mode": self.mode, "coordinates": m.attr("coordinates"), "a": a, "exclude": exclude}
        return {
            "rows": _later((rows, height), lambda: matrix(height, rows, down, **chosen)),
            "columns": _later((width, columns), lambda: matrix(width, columns, across, **chosen).T),
        }


def _later(shape: tuple[int, ...], compute: Callable[[], Array]) -> Constant:
    return Constant(DType.F32, shape, source=lambda: np.ascontiguousarray(compute(), dtype=np.float32))


_BY_PRODUCTS = """
    %t = MatMul(const %rows, %x)
    %y = MatMul(%t, const %columns)
"""


class ResizeCubicByProducts(_ResizeByProducts):
    """Cubic resizing is a product with the weights along each axis."""

    before = (
        _RESIZE
        + """
        {mode = "cubic", coordinate_transformation_mode = $coordinates, cubic_coeff_a = $cubic,
         exclude_outside = $exclude, nearest_mode = $nearest}
    """
    )
    after = _BY_PRODUCTS
    mode = "cubic"

    def worth(self, m: Match) -> str | None:
        """Refuse very large images."""
        largest = max(m.size("H"), m.size("W"))
        return f"the image is {largest} pixels wide or high" if largest > _LARGEST else None


class ResizeLinearByProducts(_ResizeByProducts):
    """Linear resizing is a product with the weights along each axis."""

    before = (
        _RESIZE
        + """
        {mode = "linear", coordinate_transformation_mode = $coordinates, cubic_coeff_a = $cubic,
         nearest_mode = $nearest}
    """
    )
    after = _BY_PRODUCTS
    mode = "linear"

    def worth(self, m: Match) -> str | None:
        """Refuse images that are large, do not grow by two, or are in a blocked layout that resizing keeps."""
        for old, new in (("H", "P"), ("W", "Q")):
            if m.size(old) > _SMALL or m.size(new) < 2 * m.size(old):
                return f"{m.size(old)} pixels become {m.size(new)}"
        return "the images are in a blocked layout" if is_blocked(m["x"]) and self._keeps(m) else None

    @staticmethod
    def _keeps(m: Match) -> bool:
        scales = _scales(m) or (0.5, 0.5)
        known = m.attr("coordinates") in ("half_pixel", "asymmetric", "align_corners")
        return known and all(s == int(s) for s in scales)

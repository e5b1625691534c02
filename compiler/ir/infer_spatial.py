"""Inference for convolutions, pooling, resizing and sampling: operators on ``[N, C, spatial…]``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compiler.ir.dims import Dim, Expr, ceil_div, floor_div
from compiler.ir.dtype import DType
from compiler.ir.facts import known_contents
from compiler.ir.graph import Node, Value
from compiler.ir.infer_elementwise import first_dtype
from compiler.ir.infer_rules import (
    MICROSOFT,
    Contradiction,
    Scope,
    Types,
    axis_indices,
    dtype_at,
    integer,
    integers,
    operand,
    rule,
    shape_of,
    tensor,
    text,
    type_of,
    unify,
)
from compiler.ir.types import Shape

_FLOAT_EXACT = 1 << 24


@dataclass(frozen=True, slots=True)
class _Windows:
    """Attributes of an operator that moves windows over space, one item for each spatial axis."""

    kernel: Shape
    """Extent of the window in elements that it reads."""
    strides: tuple[int, ...]
    """Distance between windows."""
    dilations: tuple[int, ...]
    """Distance between the elements that a window reads."""
    pads: tuple[int, ...]
    """Elements added before each axis, then those after each axis."""
    auto_pad: str
    """``NOTSET``, ``SAME_UPPER``, ``SAME_LOWER``, ``VALID``, or anything else in broken models."""

    def pad(self, axis: int) -> int:
        """Return the elements added to an axis on both sides together."""
        return self.pads[axis] + self.pads[axis + len(self.kernel)]

    def extent(self, axis: int) -> Dim:
        """Return the length of the window, gaps included."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1


def _windows(node: Node, kernel: Shape) -> _Windows:
    rank = len(kernel)
    found = _Windows(
        kernel,
        integers(node, "strides") or (1,) * rank,
        integers(node, "dilations") or (1,) * rank,
        integers(node, "pads") or (0,) * (2 * rank),
        text(node, "auto_pad", "NOTSET"),
    )
    if len(found.strides) != rank or len(found.dilations) != rank or len(found.pads) != 2 * rank:
        raise Contradiction("attributes of a window disagree about the rank")
    if min((*found.strides, *found.dilations, 1)) < 1:
        raise Contradiction("a stride or dilation below 1")
    return found


def _window_count(dim: Dim, w: _Windows, axis: int, ceil_mode: int) -> Dim | None:
    """Return how many windows fit on an axis; ``None`` when it is not known."""
    stride = w.strides[axis]
    if w.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return ceil_div(dim, stride) if w.dilations[axis] == 1 else None
    if w.auto_pad not in ("NOTSET", "VALID"):
        return None
    pad = w.pad(axis) if w.auto_pad == "NOTSET" else 0
    room = dim + pad - w.extent(axis)
    if not ceil_mode:
        return None if isinstance(room, int) and room < 0 else floor_div(room, stride) + 1
    if not isinstance(room, int) or not isinstance(dim, int) or not 0 <= room < _FLOAT_EXACT:
        return None
    count = math.ceil(room / stride) + 1
    before = w.pads[axis] if w.auto_pad == "NOTSET" else 0
    return count - 1 if (count - 1) * stride >= dim + before else count


def _spatial(shape: Shape, w: _Windows, scope: Scope, *, ceil_mode: int = 0) -> Shape:
    if len(shape) != len(w.kernel) + 2:
        raise Contradiction("input and kernel disagree about the rank")
    counts = [_window_count(dim, w, i, ceil_mode) for i, dim in enumerate(shape[2:])]
    return tuple(scope.fresh() if c is None else c for c in counts)


def _convolved(node: Node, data: Value, weight: Value, scope: Scope) -> Shape | None:
    if data.shape is None:
        return None if weight.shape is None else scope.fresh_shape(len(weight.shape))
    if weight.shape is None:
        return (data.shape[0], *scope.fresh_shape(len(data.shape) - 1))
    stated = integers(node, "kernel_shape")
    kernel = weight.shape[2:]
    if stated is not None:
        if len(stated) != len(kernel):
            raise Contradiction("kernel_shape is for another rank")
        kernel = tuple(unify(a, b) for a, b in zip(stated, kernel, strict=True))
    return (data.shape[0], weight.shape[0], *_spatial(data.shape, _windows(node, kernel), scope))


@rule("Conv")
def conv(node: Node, scope: Scope) -> Types:
    """Convolve; the weight gives channels and window."""
    return tensor(first_dtype(node, 0, 1), _convolved(node, operand(node, 0), operand(node, 1), scope))


@rule("FusedConv", domain=MICROSOFT)
def fused_conv(node: Node, scope: Scope) -> Types:
    """Convolve, add, and apply an activation."""
    return conv(node, scope)


@rule("ConvInteger")
def conv_integer(node: Node, scope: Scope) -> Types:
    """Convolve bytes into 32-bit integers."""
    return tensor(DType.I32, _convolved(node, operand(node, 0), operand(node, 1), scope))


@rule("QLinearConv")
def quantized_conv(node: Node, scope: Scope) -> Types:
    """Convolve quantized data; the output's zero point gives the element type."""
    return tensor(dtype_at(node, 7), _convolved(node, operand(node, 0), operand(node, 3), scope))


@rule("QLinearConv", domain=MICROSOFT)
def quantized_conv_microsoft(node: Node, scope: Scope) -> Types:
    """Convolve quantized data whose channels may be last."""
    if integer(node, "channels_last", 0):
        shape = shape_of(node, 0)
        return tensor(dtype_at(node, 7), None if shape is None else scope.fresh_shape(len(shape)))
    return quantized_conv(node, scope)


@rule("ConvTranspose")
def conv_transpose(node: Node, scope: Scope) -> Types:
    """Invert the shape arithmetic of a convolution."""
    data, weight = operand(node, 0), operand(node, 1)
    dtype = first_dtype(node, 0, 1)
    if data.shape is None or weight.shape is None or len(data.shape) != len(weight.shape):
        return tensor(dtype, None)
    rank = len(data.shape) - 2
    w = _windows(node, weight.shape[2:])
    given = integers(node, "output_shape")
    extra = integers(node, "output_padding") or (0,) * rank
    if len(extra) != rank or (given is not None and len(given) not in (rank, rank + 2)):
        raise Contradiction("attributes of a window disagree about the rank")
    spatial: Shape = () if given is None else given[-rank:] if rank else ()
    if given is None:
        spatial = tuple(_transposed_dim(d, w, i, extra[i], scope) for i, d in enumerate(data.shape[2:]))
    return tensor(dtype, (data.shape[0], weight.shape[1] * integer(node, "group", 1), *spatial))


def _transposed_dim(dim: Dim, w: _Windows, axis: int, extra: int, scope: Scope) -> Dim:
    if w.auto_pad not in ("NOTSET", "VALID"):
        return scope.fresh()
    pad = w.pad(axis) if w.auto_pad == "NOTSET" else 0
    return (dim - 1) * w.strides[axis] + extra + w.extent(axis) - pad


@rule("MaxPool", "AveragePool", "LpPool")
def pool(node: Node, scope: Scope) -> Types:
    """Pool over windows; ``MaxPool`` may give the indices too."""
    data = operand(node, 0)
    kernel = integers(node, "kernel_shape")
    if data.shape is None or kernel is None:
        return [tensor(data.dtype, None), tensor(DType.I64, None)]
    ceil_mode = integer(node, "ceil_mode", 0)
    shape = (*data.shape[:2], *_spatial(data.shape, _windows(node, kernel), scope, ceil_mode=ceil_mode))
    return [tensor(data.dtype, shape), tensor(DType.I64, shape)]


@rule("NhwcMaxPool", domain=MICROSOFT)
def channels_last_pool(node: Node, scope: Scope) -> Types:
    """Pool over windows with the channels last."""
    data = operand(node, 0)
    kernel = integers(node, "kernel_shape")
    if data.shape is None or kernel is None or len(data.shape) < 2:
        return tensor(data.dtype, None)
    moved = (data.shape[0], data.shape[-1], *data.shape[1:-1])
    spatial = _spatial(moved, _windows(node, kernel), scope, ceil_mode=integer(node, "ceil_mode", 0))
    return tensor(data.dtype, (data.shape[0], *spatial, data.shape[-1]))


@rule("QLinearAveragePool", domain=MICROSOFT)
def quantized_pool(node: Node, scope: Scope) -> Types:
    """Pool quantized data."""
    if integer(node, "channels_last", 0):
        return channels_last_pool(node, scope)
    return pool(node, scope)


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(node: Node, scope: Scope) -> Types:
    """Leave 1 for each spatial dim."""
    data = operand(node, 0)
    if data.shape is None or len(data.shape) < 2:
        return tensor(data.dtype, None)
    return tensor(data.dtype, (*data.shape[:2], *(1 for _ in data.shape[2:])))


@rule("QLinearGlobalAveragePool", domain=MICROSOFT)
def quantized_global_pool(node: Node, scope: Scope) -> Types:
    """Leave 1 for each spatial dim of quantized data."""
    data = operand(node, 0)
    if data.shape is None or len(data.shape) < 2:
        return tensor(data.dtype, None)
    ones = tuple(1 for _ in data.shape[2:])
    last = integer(node, "channels_last", 0)
    return tensor(data.dtype, (data.shape[0], *ones, data.shape[-1]) if last else (*data.shape[:2], *ones))


@rule("Resize", "Upsample")
def resize(node: Node, scope: Scope) -> Types:
    """Read the dims from ``sizes``, or multiply them by ``scales`` in float32 as ONNX Runtime does."""
    data = operand(node, 0)
    if data.shape is None:
        return tensor(data.dtype, None)
    rank = len(data.shape)
    free = tensor(data.dtype, scope.fresh_shape(rank))
    odd_mode = node.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
    if odd_mode or text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return free
    axes = axis_indices(integers(node, "axes") or range(rank), rank)
    shape: list[Dim] = list(data.shape)
    sizes = known_contents(node.input(3))
    if node.input(3) is not None and (sizes is None or sizes):
        wanted = [scope.fresh() for _ in axes] if sizes is None else list(sizes)
    else:
        scales = _scales(node)
        if scales is None or len(scales) != len(axes):
            return free
        wanted = [_scaled(shape[a], s, scope) for a, s in zip(axes, scales, strict=True)]
    for axis, dim in zip(axes, wanted, strict=True):
        shape[axis] = dim
    return tensor(data.dtype, tuple(shape))


def _scales(node: Node) -> tuple[float, ...] | None:
    attribute = node.attr("scales")
    if isinstance(attribute, tuple):
        return tuple(float(np.float32(s)) for s in attribute)
    value = node.input(1 if node.op == "Upsample" or 0 < node.version < 11 else 2)
    array = None if value is None else value.array()
    if array is None or array.ndim != 1 or array.size > 64 or not np.all(np.isfinite(array)):
        return None
    return tuple(float(s) for s in array)


def _scaled(dim: Dim, scale: float, scope: Scope) -> Dim:
    if scale == int(scale) and 0 < scale < _FLOAT_EXACT:
        return dim * int(scale)
    if isinstance(dim, Expr) or dim >= _FLOAT_EXACT or scale <= 0:
        return scope.fresh()
    return math.floor(float(np.float32(scale) * np.float32(dim)))


@rule("GridSample")
@rule("GridSample", domain=MICROSOFT)
def grid_sample(node: Node, scope: Scope) -> Types:
    """Give a pixel for each place of the grid."""
    data, grid = operand(node, 0), operand(node, 1)
    if data.shape is None or grid.shape is None or len(data.shape) < 3 or len(data.shape) != len(grid.shape):
        return tensor(data.dtype, None)
    return tensor(data.dtype, (data.shape[0], data.shape[1], *grid.shape[1:-1]))


@rule("RoiAlign")
def roi_align(node: Node, scope: Scope) -> Types:
    """Give a patch for each region."""
    data, regions = shape_of(node, 0), shape_of(node, 2)
    height, width = integer(node, "output_height", 1), integer(node, "output_width", 1)
    count = regions[0] if regions else scope.fresh()
    return tensor(dtype_at(node, 0), (count, data[1] if data and len(data) == 4 else scope.fresh(), height, width))


@rule("AffineGrid")
def affine_grid(node: Node, scope: Scope) -> Types:
    """Give a grid of coordinates for ``[N, C, spatial…]``."""
    wanted = known_contents(node.input(1))
    if wanted is None or len(wanted) < 3:
        return tensor(dtype_at(node, 0), None)
    return tensor(dtype_at(node, 0), (wanted[0], *wanted[2:], len(wanted) - 2))


@rule("STFT")
def short_time_fourier(node: Node, scope: Scope) -> Types:
    """Give frames and frequencies, as pairs of numbers; the schema's own function errs for one-sided transforms."""
    shape = operand(node, 0).shape
    return tensor(dtype_at(node, 0), (shape[0] if shape else scope.fresh(), *scope.fresh_shape(2), 2))


@rule("NhwcConv", "NhwcFusedConv", domain=MICROSOFT)
def channels_last_conv(node: Node, scope: Scope) -> Types:
    """Keep the rank; the layout of the weight differs between kernels."""
    data = type_of(node, 0)
    shape = shape_of(node, 0)
    free = None if shape is None else (shape[0], *scope.fresh_shape(len(shape) - 1))
    return tensor(dtype_at(node, 0), free) if shape is not None else data

"""Cases of convolutions and pools, in the blocked layout and as they are written."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.cost.case import BLOCKED, Case


def convolution_cases() -> Iterator[Case]:
    """Yield them, in an order that stays the same."""
    yield from _convolutions()
    yield from _plain_convolutions()
    yield from _pools()


# Convolutions ------------------------------------------------------------------------------------


def _conv(
    domain: str, channels: tuple[int, int], size: int, window: int, *, stride: int = 1, group: int = 1, pad: int = -1
) -> Case:
    inward, outward = channels
    pad = window // 2 if pad < 0 else pad
    call = (
        f"{domain}Conv(%x, %w, %b){{kernel_shape = [{window}, {window}], pads = [{pad}, {pad}, {pad}, {pad}], "
        f"strides = [{stride}, {stride}], dilations = [1, 1], group = {group}}}"
    )
    weights = f"=f32[{outward},{inward // group},{window},{window}]"
    return Case(call, {"x": f"f32[1,{inward},{size},{size}]", "w": weights, "b": f"=f32[{outward}]"})


_POINTWISE = (
    (16, 16, 112), (16, 96, 56), (96, 32, 56), (32, 192, 28), (192, 64, 28), (64, 64, 56), (64, 256, 56), (256, 64, 56),
    (128, 512, 28), (384, 64, 14), (512, 256, 14), (1024, 256, 14), (256, 1024, 14), (960, 160, 7), (512, 2048, 7),
    (2048, 512, 7), (48, 128, 1), (960, 240, 1), (1152, 48, 1), (320, 1280, 7),
)  # fmt: skip
_WINDOWS = (
    (16, 16, 112), (32, 32, 56), (64, 64, 56), (128, 128, 28), (256, 256, 14), (512, 512, 7), (64, 64, 112),
    (32, 64, 14), (512, 128, 28), (128, 512, 14), (320, 320, 16), (64, 256, 96),
)  # fmt: skip
_DEPTHWISE = (
    (32, 112, 3, 1), (96, 112, 3, 2), (144, 56, 3, 1), (192, 28, 3, 1), (384, 14, 3, 1), (960, 7, 3, 1),
    (240, 28, 5, 1), (672, 14, 5, 2), (96, 56, 7, 1), (384, 14, 7, 1), (768, 7, 7, 1), (64, 56, 3, 1),
)  # fmt: skip


def _convolutions() -> Iterator[Case]:
    for inward, outward, size in _POINTWISE:
        yield _conv(BLOCKED, (inward, outward), size, 1)
    for inward, outward, size in ((256, 512, 56), (64, 128, 56)):
        yield _conv(BLOCKED, (inward, outward), size, 1, stride=2)
    for inward, outward, size in _WINDOWS:
        yield _conv(BLOCKED, (inward, outward), size, 3)
    for inward, outward, size, window in (
        (128, 128, 56, 3),
        (256, 256, 28, 3),
        (32, 64, 56, 3),
        (64, 192, 28, 5),
        (32, 32, 56, 5),
    ):
        yield _conv(BLOCKED, (inward, outward), size, window, stride=1 if window == 5 else 2)
    for inward, outward, size, window in ((32, 32, 64, 8), (64, 64, 32, 4), (160, 160, 16, 2)):
        yield _conv(BLOCKED, (inward, outward), size, window, stride=window, pad=0)
    for outward, size, window, stride in (
        (32, 224, 3, 2),
        (64, 224, 7, 2),
        (16, 224, 3, 2),
        (64, 64, 3, 1),
        (64, 128, 9, 1),
    ):
        yield _conv(BLOCKED, (3, outward), size, window, stride=stride)
    for channels, size, window, stride in _DEPTHWISE:
        yield _conv(BLOCKED, (channels, channels), size, window, stride=stride, group=channels)
    for channels, size, group in ((128, 56, 8), (256, 28, 16), (512, 14, 32), (64, 28, 4)):
        yield _conv(BLOCKED, (channels, channels), size, 3, group=group)


def _plain_convolutions() -> Iterator[Case]:
    for inward, outward, size in ((64, 64, 56), (256, 64, 28), (512, 512, 14), (30, 90, 28), (960, 240, 1)):
        yield _conv("", (inward, outward), size, 1)
    for inward, outward, size in (
        (16, 16, 56),
        (64, 64, 28),
        (128, 128, 28),
        (3, 64, 64),
        (256, 256, 14),
        (320, 4, 32),
    ):
        yield _conv("", (inward, outward), size, 3)
    yield _conv("", (3, 768), 224, 16, stride=16, pad=0)
    yield _conv("", (3, 96), 224, 4, stride=4, pad=0)
    for channels, size, window in ((64, 28, 3), (192, 14, 3), (96, 28, 7)):
        yield _conv("", (channels, channels), size, window, group=channels)
    for channels, size, group in ((128, 28, 8), (128, 14, 32)):
        yield _conv("", (channels, channels), size, 3, group=group)
    for inward, outward, length, window, stride in _LINES:
        weights = f"=f32[{outward},{inward},{window}]"
        attributes = f"kernel_shape = [{window}], strides = [{stride}], pads = [{window // 2}, {window // 2}]"
        yield Case(f"Conv(%x, %w, %b){{{attributes}}}", _weighted(f"f32[1,{inward},{length}]", weights, outward))
    for channels, length, window in ((256, 400, 31), (512, 100, 3), (128, 1000, 7)):
        attributes = f"kernel_shape = [{window}], pads = [{window // 2}, {window // 2}], group = {channels}"
        weights = f"=f32[{channels},1,{window}]"
        yield Case(f"Conv(%x, %w, %b){{{attributes}}}", _weighted(f"f32[1,{channels},{length}]", weights, channels))
    for width, length, window, group in ((768, 100, 128, 16), (256, 200, 15, 4)):
        attributes = f"kernel_shape = [{window}], pads = [{window // 2}, {window // 2}], group = {group}"
        weights = f"=f32[{width},{width // group},{window}]"
        yield Case(f"Conv(%x, %w, %b){{{attributes}}}", _weighted(f"f32[1,{width},{length}]", weights, width))
    for inward, outward, size, window in ((64, 64, 14, 3), (128, 64, 28, 2), (256, 128, 14, 4)):
        weights = f"=f32[{inward},{outward},{window},{window}]"
        call = f"ConvTranspose(%x, %w, %b){{kernel_shape = [{window}, {window}], strides = [2, 2]}}"
        yield Case(call, _weighted(f"f32[1,{inward},{size},{size}]", weights, outward))
    for inward, outward, length, window, stride in (
        (512, 256, 50, 16, 8),
        (256, 128, 400, 16, 8),
        (128, 64, 3200, 4, 2),
    ):
        weights = f"=f32[{inward},{outward},{window}]"
        call = f"ConvTranspose(%x, %w, %b){{kernel_shape = [{window}], strides = [{stride}]}}"
        yield Case(call, _weighted(f"f32[1,{inward},{length}]", weights, outward))
    weights = "=f32[64,64,3,3,3]"
    call = "Conv(%x, %w, %b){kernel_shape = [3, 3, 3], pads = [1, 1, 1, 1, 1, 1]}"
    yield Case(call, _weighted("f32[1,64,8,14,14]", weights, 64))


_LINES = (
    (1, 512, 16000, 10, 5), (512, 512, 3200, 3, 2), (512, 512, 800, 2, 2), (80, 384, 3000, 3, 1),
    (384, 384, 3000, 3, 2), (128, 128, 400, 7, 1), (64, 64, 1600, 3, 1), (32, 32, 6400, 11, 1),
    (256, 1024, 100, 1, 1), (32, 1, 6400, 7, 1),
)  # fmt: skip


def _weighted(x: str, w: str, outward: int) -> dict[str, str]:
    return {"x": x, "w": w, "b": f"=f32[{outward}]"}


def _pools() -> Iterator[Case]:
    for domain in (BLOCKED, ""):
        for channels, size, window, stride in ((64, 112, 3, 2), (192, 28, 3, 1), (128, 28, 2, 2), (16, 14, 2, 2)):
            pad = window // 2 if window == 3 else 0
            pads = f"pads = [{pad}, {pad}, {pad}, {pad}]"
            attributes = f"kernel_shape = [{window}, {window}], strides = [{stride}, {stride}], {pads}"
            for op in ("MaxPool", "AveragePool"):
                yield Case(f"{domain}{op}(%x){{{attributes}}}", {"x": f"f32[1,{channels},{size},{size}]"})
        for channels, size in ((32, 112), (240, 28), (960, 7), (2048, 7)):
            yield Case(f"{domain}GlobalAveragePool(%x)", {"x": f"f32[1,{channels},{size},{size}]"})

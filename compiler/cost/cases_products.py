"""Cases of products, attention, recurrent operators and integer arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.cost.case import CONTRIB, Case


def product_cases() -> Iterator[Case]:
    """Yield them, in an order that stays the same."""
    yield from _products()
    yield from _attention()
    yield from _recurrent()
    yield from _integers()


# Products ----------------------------------------------------------------------------------------

_ROWS = (1, 4, 16, 64, 256, 1024)
_WEIGHTS = ((64, 64), (192, 192), (512, 512), (768, 3072), (2048, 512), (384, 1000))
_COLLIDING = ((1024, 1024), (1040, 1024), (2064, 512), (3072, 768), (3088, 768), (1024, 4096), (1040, 4096))
"""Depth and columns of products whose rows collide in the cache, and of neighbours whose rows do not."""


def _products() -> Iterator[Case]:
    for depth, columns in (*_WEIGHTS, *_COLLIDING):
        for rows in _ROWS:
            if rows * depth * columns <= 1 << 29:
                yield Case("MatMul(%x, %w)", {"x": f"f32[{rows},{depth}]", "w": f"=f32[{depth},{columns}]"})
    for rows, depth, columns in ((256, 768, 2), (3136, 32, 96), (3136, 96, 32), (12544, 16, 16), (128, 384, 8000)):
        yield Case("MatMul(%x, %w)", {"x": f"f32[{rows},{depth}]", "w": f"=f32[{depth},{columns}]"})
    for batch, rows, depth, columns in _BATCHED:
        x = f"f32[1,{batch},{rows},{depth}]"
        yield Case("MatMul(%x, %w)", {"x": x, "w": f"f32[1,{batch},{depth},{columns}]"})
        turned = f"{CONTRIB}FusedMatMul(%x, %w){{transB = 1, alpha = 0.125}}"
        yield Case(turned, {"x": x, "w": f"f32[1,{batch},{columns},{depth}]"})


_BATCHED = (
    (8, 1, 64, 128), (8, 1, 128, 64), (4, 16, 64, 16), (12, 128, 64, 128), (12, 128, 128, 64), (6, 197, 64, 197),
    (6, 197, 197, 64), (64, 49, 32, 49), (64, 49, 49, 32), (1, 256, 64, 1024), (4, 1024, 32, 1024), (2, 1500, 64, 1500),
    (2, 1500, 1500, 64),
)  # fmt: skip
"""Batch, rows, depth, columns of products of two activations, as attention has them."""


# Attention and recurrence ------------------------------------------------------------------------

_HEADS = ((4, 16, 16), (12, 128, 64), (6, 197, 64), (6, 512, 64), (6, 768, 64), (8, 1024, 40), (4, 1500, 64))
"""Heads, length and size of a head."""


def _attention() -> Iterator[Case]:
    for heads, length, size in _HEADS:
        width = heads * size
        qkv = dict.fromkeys(("q", "k", "v"), f"f32[1,{length},{width}]")
        call = f"{CONTRIB}MultiHeadAttention(%q, %k, %v"
        yield Case(f"{call}){{num_heads = {heads}}}", qkv)
        bias = {**qkv, "m": f"f32[1,1,{length},{length}]"}
        yield Case(f"{call}, _, _, %m){{num_heads = {heads}}}", bias)
        yield Case(f"Attention(%q, %k, %v){{q_num_heads = {heads}, kv_num_heads = {heads}}}", qkv)
        yield Case(f"Attention(%q, %k, %v, %m){{q_num_heads = {heads}, kv_num_heads = {heads}}}", bias)
        apart = dict.fromkeys(("q", "k", "v"), f"f32[1,{heads},{length},{size}]")
        yield Case("Attention(%q, %k, %v)", apart)
        yield Case("Attention(%q, %k, %v, %m)", {**apart, "m": f"f32[1,1,{length},{length}]"})
        caches = {"c": f"f32[{length},{size // 2}]", "s": f"f32[{length},{size // 2}]", "p": f"i64[1,{length}]"}
        yield Case("RotaryEmbedding(%q, %c, %s, %p)", {"q": apart["q"], **caches}, largest=length)
        yield Case(f"{CONTRIB}RotaryEmbedding(%q, %p, %c, %s)", {"q": apart["q"], **caches}, largest=length)


def _recurrent() -> Iterator[Case]:
    for op, gates in (("LSTM", 4), ("GRU", 3)):
        for length, batch, width, hidden in ((16, 1, 64, 64), (64, 1, 256, 256), (100, 4, 128, 256)):
            operands = {
                "x": f"f32[{length},{batch},{width}]",
                "w": f"=f32[1,{gates * hidden},{width}]",
                "r": f"=f32[1,{gates * hidden},{hidden}]",
            }
            yield Case(f"{op}(%x, %w, %r){{hidden_size = {hidden}}}", operands)


_SIZES = (64, 16384, 1 << 19)
"""Elements of tensors that are quantized."""


def _integers() -> Iterator[Case]:
    for rows, depth, columns in ((1, 768, 768), (128, 768, 768), (16, 256, 256)):
        w = f"=i8[{depth},{columns}]"
        yield Case("MatMulInteger(%x, %w)", {"x": f"u8[{rows},{depth}]", "w": w})
        scale = {"x": f"f32[{rows},{depth}]", "w": w, "s": "f32[] = 0.01"}
        yield Case(f"{CONTRIB}DynamicQuantizeMatMul(%x, %w, %s)", scale)
    for n in _SIZES:
        scales = {"s": "f32[] = 0.01", "z": "u8[] = 128"}
        yield Case("QuantizeLinear(%x, %s, %z)", {"x": f"f32[1,{n}]", **scales})
        yield Case("DequantizeLinear(%x, %s, %z)", {"x": f"u8[1,{n}]", **scales})
        yield Case("DynamicQuantizeLinear(%x)", {"x": f"f32[1,{n}]"}, results=3)
    for channels, size, window in ((64, 56, 3), (256, 28, 1), (128, 14, 3)):
        operands = {
            "x": f"u8[1,{channels},{size},{size}]", "s": "f32[] = 0.01", "z": "u8[] = 128",
            "w": f"=i8[{channels},{channels},{window},{window}]", "t": "f32[] = 0.01", "o": "i8[] = 0",
        }  # fmt: skip
        pad = window // 2
        attributes = f"kernel_shape = [{window}, {window}], pads = [{pad}, {pad}, {pad}, {pad}]"
        yield Case(f"QLinearConv(%x, %s, %z, %w, %t, %o, %s, %z){{{attributes}}}", operands)

"""Cases of elementwise functions, normalizations and reductions."""

from __future__ import annotations

from collections.abc import Iterator

from compiler.cost.case import CONTRIB, Case


def elementwise_cases() -> Iterator[Case]:
    """Yield them, in an order that stays the same."""
    yield from _elementwise()
    yield from _pairs()
    yield from _others()
    yield from _norms()
    yield from _reductions()


# Elementwise -------------------------------------------------------------------------------------

_SIZES = (64, 4096, 65536, 1 << 19, 1 << 22)
_FEW_SIZES = (64, 16384, 1 << 19)
_UNARY = (
    "Relu Sigmoid Tanh Exp Sqrt Erf Neg Abs LeakyRelu HardSigmoid HardSwish Reciprocal Floor Log Sin Cos Softplus "
    "Elu Selu Gelu Mish Swish Sign Round Ceil"
)
_DEFINED = frozenset({"Swish", "Mish"})
"""Operators without a kernel, which the runtime replaces by their definition."""


def _elementwise() -> Iterator[Case]:
    for op in _UNARY.split():
        for n in _SIZES if op in ("Relu", "Sigmoid", "Gelu") else _FEW_SIZES:
            yield Case(f"{op}(%x)", {"x": f"f32[1,{n}]"}, optimized=op in _DEFINED)
    for n in _FEW_SIZES:
        one = {"x": f"f32[1,{n}]"}
        yield Case('Gelu(%x){approximate = "tanh"}', one)
        yield Case(f"{CONTRIB}QuickGelu(%x){{alpha = 1.0}}", one)
        yield Case(f"{CONTRIB}FastGelu(%x)", one)
        yield Case(f"{CONTRIB}Gelu(%x)", one)
        yield Case("Clip(%x, %a, %b)", {**one, "a": "f32[] = 0.0", "b": "f32[] = 6.0"})
        yield Case("Pow(%x, %a)", {**one, "a": "f32[] = 2.0"})
        yield Case("Pow(%x, %a)", {**one, "a": "f32[] = 0.5"})
        for op in ("BiasGelu", "FastGelu"):
            operands = {"x": f"f32[{max(1, n // 512)},512]", "b": "=f32[512]"}
            yield Case(f"{CONTRIB}{op}(%x, %b)", operands)


def _pairs() -> Iterator[Case]:
    for op in ("Add", "Mul", "Sub", "Div"):
        for rows in (1, 16, 128, 2048):
            yield Case(f"{op}(%x, %b)", {"x": f"f32[{rows},256]", "b": f"f32[{rows},256]"})
        if op in ("Add", "Mul"):
            yield Case(f"{op}(%x, %b)", {"x": "f32[8192,512]", "b": "f32[8192,512]"})
        for rows, width in ((16, 256), (128, 768), (3136, 96), (4096, 512)):
            yield Case(f"{op}(%x, %b)", {"x": f"f32[{rows},{width}]", "b": f"=f32[{width}]"})
            yield Case(f"{op}(%x, %b)", {"x": f"f32[{rows},{width}]", "b": f"f32[{rows},1]"})
        for n in _FEW_SIZES:
            yield Case(f"{op}(%x, %b)", {"x": f"f32[1,{n}]", "b": "f32[] = 1.5"})
        for channels, size in ((16, 14), (96, 56), (512, 28)):
            yield Case(f"{op}(%x, %b)", {"x": f"f32[1,{channels},{size},{size}]", "b": f"f32[1,{channels},1,1]"})
        yield Case(f"{op}(%x, %b)", {"x": "f32[1,8,128,128]", "b": "f32[1,1,128,128]"})
        yield Case(f"{op}(%x, %b)", {"x": "f32[1,8,64,64]", "b": "f32[1,1,64,1]"})


def _others() -> Iterator[Case]:
    for n in _FEW_SIZES:
        yield Case("PRelu(%x, %b)", {"x": f"f32[1,{n}]", "b": "=f32[1]"})
        yield Case("Sum(%x, %b)", {"x": f"f32[1,{n}]", "b": f"f32[1,{n}]"})
        for op in ("Max", "Min"):
            yield Case(f"{op}(%x, %b)", {"x": f"f32[1,{n}]", "b": "f32[] = 0.5"})
        for op in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
            yield Case(f"{op}(%x, %b)", {"x": f"f32[1,{n}]", "b": "f32[] = 0.5"})
        yield Case("IsNaN(%x)", {"x": f"f32[1,{n}]"})
        yield Case("And(%x, %b)", {"x": f"bool[1,{n}]", "b": f"bool[1,{n}]"})
        yield Case("Not(%x)", {"x": f"bool[1,{n}]"})
        yield Case("Where(%c, %x, %b)", {"c": f"bool[1,{n}]", "x": f"f32[1,{n}]", "b": f"f32[1,{n}]"})
        yield Case("Where(%c, %x, %b)", {"c": f"bool[1,{n}]", "x": f"f32[1,{n}]", "b": "f32[] = 0.0"})
        for source, to in (
            ("f32", "f16"),
            ("f16", "f32"),
            ("i64", "f32"),
            ("bool", "f32"),
            ("i64", "i32"),
            ("f32", "i64"),
        ):
            yield Case(f"Cast(%x){{to = {_CODES[to]}}}", {"x": f"{source}[1,{n}]"})
        for op in ("Add", "Mul", "Sub", "Div", "Equal", "Less"):
            yield Case(f"{op}(%x, %b)", {"x": f"i64[1,{n}]", "b": "i64[] = 3"})
        yield Case("Where(%c, %x, %b)", {"c": f"bool[1,{n}]", "x": f"i64[1,{n}]", "b": "i64[] = 3"})


_CODES = {"f32": 1, "f16": 10, "i64": 7, "i32": 6}


# Normalization and reduction ---------------------------------------------------------------------

_ROWS_WIDTHS = ((1, 64), (16, 256), (128, 768), (197, 384), (1500, 384), (3136, 96), (8192, 512))


def _norms() -> Iterator[Case]:
    for rows, width in (*_ROWS_WIDTHS, (1536, 128), (2364, 197), (12000, 49), (12000, 1500)):
        yield Case("Softmax(%x){axis = -1}", {"x": f"f32[{rows},{width}]"})
    for shape, axis in (("1,21,64,64", 1), ("1,4,16,400", 2), ("8,64,128", 1)):
        yield Case(f"Softmax(%x){{axis = {axis}}}", {"x": f"f32[{shape}]"})
        yield Case(f"LogSoftmax(%x){{axis = {axis}}}", {"x": f"f32[{shape}]"})
    for rows, width in ((16, 256), (128, 32000)):
        yield Case("LogSoftmax(%x){axis = -1}", {"x": f"f32[{rows},{width}]"})
    for rows, width in _ROWS_WIDTHS:
        x, w, b = f"f32[1,{rows},{width}]", f"=f32[{width}]", f"=f32[{width}]"
        yield Case("LayerNormalization(%x, %w, %b){axis = -1}", {"x": x, "w": w, "b": b})
        yield Case(f"{CONTRIB}SkipLayerNormalization(%x, %s, %w, %b)", {"x": x, "s": x, "w": w, "b": b})
        yield Case("SimplifiedLayerNormalization@1(%x, %w){axis = -1}", {"x": x, "w": w})
        yield Case("RMSNormalization(%x, %w){axis = -1}", {"x": x, "w": w})
        skip = f"{CONTRIB}SkipSimplifiedLayerNormalization(%x, %s, %w)"
        yield Case(skip, {"x": x, "s": x, "w": w})
    for channels, size in ((32, 32), (64, 64), (320, 32), (512, 16), (128, 128)):
        x, w, b = f"f32[1,{channels},{size},{size}]", f"=f32[{channels}]", f"=f32[{channels}]"
        yield Case("InstanceNormalization(%x, %w, %b)", {"x": x, "w": w, "b": b})
        yield Case(
            "InstanceNormalization(%x, %w, %b)",
            {"x": f"f32[1,32,{channels * size * size // 32}]", "w": "=f32[32]", "b": "=f32[32]"},
        )
        yield Case("GroupNormalization(%x, %w, %b){num_groups = 32}", {"x": x, "w": w, "b": b}, optimized=True)
        stats = {"w": w, "b": b, "m": w, "v": f"=f32[{channels}]"}
        yield Case("BatchNormalization(%x, %w, %b, %m, %v)", {"x": x, **stats})


def _reductions() -> Iterator[Case]:
    for op in ("ReduceMean", "ReduceSum", "ReduceMax"):
        for rows, width in ((16, 256), (128, 768), (3136, 96)):
            yield Case(f"{op}(%x, %a)", {"x": f"f32[1,{rows},{width}]", "a": "i64[1] = [-1]"})
            yield Case(f"{op}(%x, %a)", {"x": f"f32[1,{rows},{width}]", "a": "i64[1] = [1]"})
        for channels, size in ((64, 56), (960, 7), (240, 28)):
            yield Case(f"{op}(%x, %a)", {"x": f"f32[1,{channels},{size},{size}]", "a": "i64[2] = [2, 3]"})
        yield Case(f"{op}(%x, %a)", {"x": "f32[8,16,32,64]", "a": "i64[1] = [1]"})
        yield Case(f"{op}(%x, %a)", {"x": "f32[4,196,8,64]", "a": "i64[1] = [1]"})
    for rows, width in ((16, 256), (128, 768)):
        yield Case("ReduceL2(%x, %a)", {"x": f"f32[1,{rows},{width}]", "a": "i64[1] = [-1]"})
        yield Case("ArgMax(%x){axis = -1, keepdims = 0}", {"x": f"f32[{rows},{width}]"})
        yield Case("CumSum(%x, %a)", {"x": f"i64[{rows},{width}]", "a": "i64[] = 1"})

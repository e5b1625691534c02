"""The small models that calibration measures: one operator each, at a few sizes, as texts of the IR.

A case is one statement with the types of what it reads.  ``=f32[8,8]`` is a constant of drawn contents, ``i64[1] = [2]``
a constant with these, anything else an input.  Operators that the runtime replaces by their definition (``Swish``) are
measured as it runs them, optimizations included; everything else is measured as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

BLOCKED = "com.microsoft.nchwc::"
CONTRIB = "com.microsoft::"


@dataclass(frozen=True, slots=True)
class Case:
    """A model of one operator."""

    call: str
    """The right side of the statement: ``MatMul(%x, %w)``."""
    operands: dict[str, str] = field(default_factory=dict)
    """Name → type, ``=`` type, or type ``=`` contents."""
    optimized: bool = False
    """Whether the runtime's optimizations run, as they do on what it replaces by a definition."""
    results: int = 1
    """Number of results."""
    largest: int = 0
    """For operands of indices: their values are below it."""
    inside: bool = False
    """Whether it stands between two other nodes (``Abs``), since a view of an input, or as an output, is a copy."""

    def text(self, copies: int = 1) -> str:
        """Return the model as IR text: so many nodes like this, each with operands of its own."""
        inputs, constants, statements, outs = [], [], [], []
        for k in range(copies):
            names = {}
            for name, kind in self.operands.items():
                if "= " in kind and k:
                    names[name] = f"{name}0"  # contents that are written out are shared
                    continue
                names[name] = f"{name}{k}"
                (constants if "=" in kind else inputs).append(f"%{name}{k}: {_constant(kind, k)}")
            made = [f"%y{k}_{i}" for i in range(self.results)]
            call = re.sub(r"%(\w+)", lambda found, names=names: f"%{names[found[1]]}", self.call)
            if self.inside:
                call = call.replace(f"%x{k}", f"%a{k}")
                statements += [f"%a{k} = Abs(%x{k})", f"{', '.join(made)} = {call}", f"%z{k} = Abs(%y{k}_0)"]
                outs.append(f"%z{k}")
            else:
                statements.append(f"{', '.join(made)} = {call}")
                outs += made
        header = "// ampc 1, ir 10, opset 24, com.microsoft 1, com.microsoft.nchwc 1\n"
        lines = [f"  const {c}\n" for c in constants] + [f"  {s}\n" for s in statements]
        returns = ", ".join(outs)
        return f"{header}graph @case({', '.join(inputs)}) -> ({returns}) {{\n{''.join(lines)}  return {returns}\n}}\n"


def _constant(kind: str, number: int) -> str:
    return f"{kind[1:]} = #{number:08d}" if kind.startswith("=") else kind


def cases() -> Iterator[Case]:
    """Yield all cases, in an order that stays the same."""
    yield from _products()
    yield from _convolutions()
    yield from _plain_convolutions()
    yield from _pools()
    yield from _elementwise()
    yield from _norms()
    yield from _reductions()
    yield from _movement()
    yield from _attention()
    yield from _recurrent()
    yield from _integers()


# Products ----------------------------------------------------------------------------------------

_ROWS = (1, 4, 16, 64, 256, 1024)
_WEIGHTS = ((64, 64), (192, 192), (512, 512), (768, 3072), (2048, 512), (384, 1000))


def _products() -> Iterator[Case]:
    for depth, columns in _WEIGHTS:
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


# Convolutions ------------------------------------------------------------------------------------


def _conv(domain: str, channels: tuple[int, int], size: int, window: int, *, stride: int = 1, group: int = 1, pad: int = -1) -> Case:
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
    (16, 16, 112), (32, 32, 56), (64, 64, 56), (128, 128, 28), (256, 256, 14), (512, 512, 7), (64, 64, 112), (32, 64, 14),
    (512, 128, 28), (128, 512, 14), (320, 320, 16), (64, 256, 96),
)  # fmt: skip
_DEPTHWISE = (
    (32, 112, 3, 1), (96, 112, 3, 2), (144, 56, 3, 1), (192, 28, 3, 1), (384, 14, 3, 1), (960, 7, 3, 1), (240, 28, 5, 1),
    (672, 14, 5, 2), (96, 56, 7, 1), (384, 14, 7, 1), (768, 7, 7, 1), (64, 56, 3, 1),
)  # fmt: skip


def _convolutions() -> Iterator[Case]:
    for inward, outward, size in _POINTWISE:
        yield _conv(BLOCKED, (inward, outward), size, 1)
    for inward, outward, size in ((256, 512, 56), (64, 128, 56)):
        yield _conv(BLOCKED, (inward, outward), size, 1, stride=2)
    for inward, outward, size in _WINDOWS:
        yield _conv(BLOCKED, (inward, outward), size, 3)
    for inward, outward, size, window in ((128, 128, 56, 3), (256, 256, 28, 3), (32, 64, 56, 3), (64, 192, 28, 5), (32, 32, 56, 5)):
        yield _conv(BLOCKED, (inward, outward), size, window, stride=1 if window == 5 else 2)
    for inward, outward, size, window in ((32, 32, 64, 8), (64, 64, 32, 4), (160, 160, 16, 2)):
        yield _conv(BLOCKED, (inward, outward), size, window, stride=window, pad=0)
    for outward, size, window, stride in ((32, 224, 3, 2), (64, 224, 7, 2), (16, 224, 3, 2), (64, 64, 3, 1), (64, 128, 9, 1)):
        yield _conv(BLOCKED, (3, outward), size, window, stride=stride)
    for channels, size, window, stride in _DEPTHWISE:
        yield _conv(BLOCKED, (channels, channels), size, window, stride=stride, group=channels)
    for channels, size, group in ((128, 56, 8), (256, 28, 16), (512, 14, 32), (64, 28, 4)):
        yield _conv(BLOCKED, (channels, channels), size, 3, group=group)


def _plain_convolutions() -> Iterator[Case]:
    for inward, outward, size in ((64, 64, 56), (256, 64, 28), (512, 512, 14), (30, 90, 28), (960, 240, 1)):
        yield _conv("", (inward, outward), size, 1)
    for inward, outward, size in ((16, 16, 56), (64, 64, 28), (128, 128, 28), (3, 64, 64), (256, 256, 14), (320, 4, 32)):
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
    for inward, outward, length, window, stride in ((512, 256, 50, 16, 8), (256, 128, 400, 16, 8), (128, 64, 3200, 4, 2)):
        weights = f"=f32[{inward},{outward},{window}]"
        call = f"ConvTranspose(%x, %w, %b){{kernel_shape = [{window}], strides = [{stride}]}}"
        yield Case(call, _weighted(f"f32[1,{inward},{length}]", weights, outward))
    weights = "=f32[64,64,3,3,3]"
    call = "Conv(%x, %w, %b){kernel_shape = [3, 3, 3], pads = [1, 1, 1, 1, 1, 1]}"
    yield Case(call, _weighted("f32[1,64,8,14,14]", weights, 64))


_LINES = (
    (1, 512, 16000, 10, 5), (512, 512, 3200, 3, 2), (512, 512, 800, 2, 2), (80, 384, 3000, 3, 1), (384, 384, 3000, 3, 2),
    (128, 128, 400, 7, 1), (64, 64, 1600, 3, 1), (32, 32, 6400, 11, 1), (256, 1024, 100, 1, 1), (32, 1, 6400, 7, 1),
)  # fmt: skip


def _weighted(x: str, w: str, outward: int) -> dict[str, str]:
    return {"x": x, "w": w, "b": f"=f32[{outward}]"}


def _pools() -> Iterator[Case]:
    for domain in (BLOCKED, ""):
        for channels, size, window, stride in ((64, 112, 3, 2), (192, 28, 3, 1), (128, 28, 2, 2), (16, 14, 2, 2)):
            pad = window // 2 if window == 3 else 0
            attributes = f"kernel_shape = [{window}, {window}], strides = [{stride}, {stride}], pads = [{pad}, {pad}, {pad}, {pad}]"
            for op in ("MaxPool", "AveragePool"):
                yield Case(f"{domain}{op}(%x){{{attributes}}}", {"x": f"f32[1,{channels},{size},{size}]"})
        for channels, size in ((32, 112), (240, 28), (960, 7), (2048, 7)):
            yield Case(f"{domain}GlobalAveragePool(%x)", {"x": f"f32[1,{channels},{size},{size}]"})


# Elementwise -------------------------------------------------------------------------------------

_SIZES = (64, 4096, 65536, 1 << 19, 1 << 22)
_FEW_SIZES = (64, 16384, 1 << 19)
_UNARY = (
    "Relu Sigmoid Tanh Exp Sqrt Erf Neg Abs LeakyRelu HardSigmoid HardSwish Reciprocal Floor Log Sin Cos Softplus Elu Selu "
    "Gelu Mish Swish Sign Round Ceil"
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
        for source, to in (("f32", "f16"), ("f16", "f32"), ("i64", "f32"), ("bool", "f32"), ("i64", "i32"), ("f32", "i64")):
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
        yield Case("InstanceNormalization(%x, %w, %b)", {"x": f"f32[1,32,{channels * size * size // 32}]", "w": "=f32[32]", "b": "=f32[32]"})
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


# Movement ----------------------------------------------------------------------------------------


def _movement() -> Iterator[Case]:
    for shape in ("1,128,12,64", "1,16,4,16", "1,197,6,64", "8,49,3,32", "1,1500,6,64", "64,49,4,32"):
        yield Case("Transpose(%x){perm = [0, 2, 1, 3]}", {"x": f"f32[{shape}]"})
        yield Case("Transpose(%x){perm = [0, 2, 3, 1]}", {"x": f"f32[{shape}]"})
    for shape in ("1,96,56,56", "1,16,14,14", "1,512,28,28"):
        yield Case("Transpose(%x){perm = [0, 2, 3, 1]}", {"x": f"f32[{shape}]"})
        yield Case("Transpose(%x){perm = [0, 3, 1, 2]}", {"x": f"f32[{shape}]"})
    for shape in ("768,128", "64,64", "1500,384"):
        yield Case("Transpose(%x){perm = [1, 0]}", {"x": f"f32[{shape}]"})
    yield Case("Transpose(%x){perm = [0, 1, 3, 2, 4, 5]}", {"x": "f32[1,8,7,8,7,96]"})
    yield Case("Transpose(%x){perm = [0, 2, 1, 3]}", {"x": "f32[1,1,384,64]"})
    yield Case("Transpose(%x){perm = [0, 1, 4, 2, 5, 3]}", {"x": "f32[1,64,2,2,64,64]"})
    yield Case("Transpose(%x){perm = [2, 0, 3, 1, 4]}", {"x": "f32[1,197,3,6,64]"})
    for shape, axis in (("1,64,56,56", 1), ("1,128,768", 2), ("1,12,128,64", 2), ("1,4", 1), ("1,12,128,32", 3)):
        yield Case(f"Concat(%x, %b){{axis = {axis}}}", {"x": f"f32[{shape}]", "b": f"f32[{shape}]"})
        half = [int(d) for d in shape.split(",")][axis] // 2
        yield Case(f"Split(%x, %s){{axis = {axis}}}", {"x": f"f32[{shape}]", "s": f"i64[2] = [{half}, {half}]"}, results=2)
        slice_ = {"x": f"f32[{shape}]", "s": "i64[1] = [0]", "e": f"i64[1] = [{half}]", "a": f"i64[1] = [{axis}]"}
        yield Case("Slice(%x, %s, %e, %a)", slice_)
    steps = {"s": "i64[1] = [0]", "e": "i64[1] = [9999]", "a": "i64[1] = [1]", "t": "i64[1] = [2]"}
    yield Case("Slice(%x, %s, %e, %a, %t)", {"x": "f32[1,56,56,96]", **steps})
    for shape, rows, width in (("30000,768", 128, 768), ("512,64", 16, 64), ("1000,8", 4096, 8)):
        yield Case("Gather(%x, %i)", {"x": f"=f32[{shape}]", "i": f"i64[1,{rows}]"}, largest=int(shape.split(",", 1)[0]))
    yield Case("Gather(%x, %i){axis = 1}", {"x": "f32[1,197,384]", "i": "i64[] = 0"})
    yield Case("Gather(%x, %i){axis = 0}", {"x": "i64[4]", "i": "i64[] = 0"})
    for shape in ("3,1,6,197,64", "3,64,3,49,32"):
        yield Case("Gather(%x, %i){axis = 0}", {"x": f"f32[{shape}]", "i": "i64[] = 1"})
    for shape in ("1,6,1,128", "1,1,64,64"):
        whole = "[1, 6, 128, 128]" if shape.endswith("128") else "[8, 16, 64, 64]"
        yield Case("Expand(%x, %s)", {"x": f"f32[{shape}]", "s": f"i64[4] = {whole}"})
    yield Case("Tile(%x, %s)", {"x": "f32[1,64,64]", "s": "i64[3] = [1, 4, 1]"})
    for shape in ("1,64,56,56", "1,16,14,14"):
        yield Case("Pad(%x, %p)", {"x": f"f32[{shape}]", "p": "i64[8] = [0, 0, 1, 1, 0, 0, 1, 1]"})
    for channels, size in ((16, 14), (64, 56), (512, 28), (192, 112)):
        x = f"f32[1,{channels},{size},{size}]"
        yield Case(f"{BLOCKED}ReorderInput(%x)", {"x": x})
        yield Case(f"{BLOCKED}ReorderOutput(%x){{channels = {channels}}}", {"x": x})
        yield Case(f"{BLOCKED}ReorderInput(%x){{channels_last = 1}}", {"x": f"f32[1,{size},{size},{channels}]"})
        yield Case(f"{BLOCKED}ReorderOutput(%x){{channels = {channels}, channels_last = 1}}", {"x": x})
    for channels, size in ((64, 28), (256, 14)):
        x = f"f32[1,{channels},{size},{size}]"
        scales = {"x": x, "s": "f32[4] = [1.0, 1.0, 2.0, 2.0]"}
        yield Case('Resize(%x, _, %s){mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"}', scales)
        yield Case('Resize(%x, _, %s){mode = "linear", coordinate_transformation_mode = "half_pixel"}', scales)
        yield Case('Resize(%x, _, %s){mode = "cubic", coordinate_transformation_mode = "half_pixel"}', scales)
        yield Case(f"{BLOCKED}Upsample(%x){{scales = [1, 1, 2, 2]}}", {"x": x})
        yield Case("DepthToSpace(%x){blocksize = 2}", {"x": x})
        yield Case("SpaceToDepth(%x){blocksize = 2}", {"x": x})
    yield Case("GatherElements(%x, %i){axis = 1}", {"x": "f32[64,512]", "i": "i64[64,512]"}, largest=512)
    yield Case("Trilu(%x)", {"x": "f32[1,128,128]"})
    yield Case("Reshape(%x, %s)", {"x": "f32[128,768]", "s": "i64[3] = [1, 128, 768]"}, inside=True)
    yield Case("Unsqueeze(%x, %s)", {"x": "i64[4]", "s": "i64[1] = [0]"}, inside=True)


# Attention and recurrence ------------------------------------------------------------------------


def _attention() -> Iterator[Case]:
    for heads, length, size in ((4, 16, 16), (12, 128, 64), (6, 197, 64), (6, 512, 64), (8, 1024, 40)):
        width = heads * size
        qkv = {n: f"f32[1,{length},{width}]" for n in ("q", "k", "v")}
        call = f"{CONTRIB}MultiHeadAttention(%q, %k, %v"
        yield Case(f"{call}){{num_heads = {heads}}}", qkv)
        bias = {**qkv, "m": f"f32[1,1,{length},{length}]"}
        yield Case(f"{call}, _, _, %m){{num_heads = {heads}}}", bias)
        apart = {n: f"f32[1,{heads},{length},{size}]" for n in ("q", "k", "v")}
        yield Case("Attention(%q, %k, %v)", apart)
        yield Case("Attention(%q, %k, %v, %m)", {**apart, "m": f"f32[1,1,{length},{length}]"})
        caches = {"c": f"f32[{length},{size // 2}]", "s": f"f32[{length},{size // 2}]", "p": f"i64[1,{length}]"}
        yield Case("RotaryEmbedding(%q, %c, %s, %p)", {"q": apart["q"], **caches}, largest=length)
        yield Case(
            f"{CONTRIB}RotaryEmbedding(%q, %p, %c, %s)", {"q": apart["q"], **caches}, largest=length
        )


def _recurrent() -> Iterator[Case]:
    for op, gates in (("LSTM", 4), ("GRU", 3)):
        for length, batch, width, hidden in ((16, 1, 64, 64), (64, 1, 256, 256), (100, 4, 128, 256)):
            operands = {
                "x": f"f32[{length},{batch},{width}]",
                "w": f"=f32[1,{gates * hidden},{width}]",
                "r": f"=f32[1,{gates * hidden},{hidden}]",
            }
            yield Case(f"{op}(%x, %w, %r){{hidden_size = {hidden}}}", operands)


def _integers() -> Iterator[Case]:
    for rows, depth, columns in ((1, 768, 768), (128, 768, 768), (16, 256, 256)):
        w = f"=i8[{depth},{columns}]"
        yield Case("MatMulInteger(%x, %w)", {"x": f"u8[{rows},{depth}]", "w": w})
        scale = {"x": f"f32[{rows},{depth}]", "w": w, "s": "f32[] = 0.01"}
        yield Case(f"{CONTRIB}DynamicQuantizeMatMul(%x, %w, %s)", scale)
    for n in _FEW_SIZES:
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

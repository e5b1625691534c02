"""What a hostile or corner case is, how one is declared, and the shorthands its builders share.

A case is a function whose name is the case's name and whose docstring says why it exists.  ``@case``
declares one that makes a model (or the bytes of a file), ``@folder_case`` one that lays out a whole folder.
Building is deterministic: no clock, no unseeded randomness, so a failing case is the same case everywhere.

Models are written in ONNX's own text form wherever that form can say them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, parser

Array = npt.NDArray[Any]
Expect = Literal["ok", "error", "either"]
Law = Callable[[onnx.ModelProto, onnx.ModelProto], None]
MODEL = "model.onnx"


@dataclass(frozen=True)
class Case:
    """One file or folder to compile, and what must come of it."""

    name: str
    """Unique; also the id of the tests that run it."""
    expect: Expect
    """``error``: refused as the user's fault, nothing written; ``ok``: a correct model; ``either``."""
    lay_out: Callable[[Path], Path]
    """Fill an empty folder and return the path to compile."""
    feeds: Mapping[str, Array] = field(default_factory=dict)
    """Inputs to run on; those not named here are drawn from the declared types."""
    runs: bool = True
    """Whether ORT can be asked to run the original: false for bombs, and for operators that nobody has."""
    random: bool = False
    """Whether outputs differ from run to run, so that only their types and shapes are compared."""
    law: Law | None = None
    """What else must hold between the original and the compiled model."""


CASES: dict[str, Case] = {}
"""Every declared case by name, in order of declaration."""


def case(expect: Expect, **facts: Any) -> Callable[[Callable[[], onnx.ModelProto | bytes]], Any]:
    """Declare a case made of one file from a function that returns a model or the file's bytes."""

    def declare(build: Callable[[], onnx.ModelProto | bytes]) -> Callable[[], onnx.ModelProto | bytes]:
        def lay_out(folder: Path) -> Path:
            return write(folder / MODEL, build())

        _register(build, expect, lay_out, facts)
        return build

    return declare


def folder_case(expect: Expect, **facts: Any) -> Callable[[Callable[[Path], Path]], Any]:
    """Declare a case from a function that fills a folder and returns the path to compile."""

    def declare(build: Callable[[Path], Path]) -> Callable[[Path], Path]:
        _register(build, expect, build, facts)
        return build

    return declare


def _register(build: Callable[..., Any], expect: Expect, lay_out: Callable[[Path], Path], facts: Any) -> None:
    name = build.__name__
    if name in CASES or not build.__doc__:
        raise ValueError(f"case {name} is declared twice or lacks its docstring")
    CASES[name] = Case(name=name, expect=expect, lay_out=lay_out, **facts)


def write(path: Path, content: onnx.ModelProto | bytes) -> Path:
    """Write a model or bytes and return the path."""
    data = content if isinstance(content, bytes) else content.SerializeToString(deterministic=True)
    path.write_bytes(data)
    return path


def text(body: str, *, opset: int = 20, ir: int = 10, domains: str = "") -> onnx.ModelProto:
    """Parse a graph (and functions) in ONNX text; ``domains`` adds imports such as ``"local" : 1``."""
    imports = f'"" : {opset}' + (f", {domains}" if domains else "")
    return parser.parse_model(f"<ir_version: {ir}, opset_import: [{imports}]>\n{body}")


def relu_model() -> onnx.ModelProto:
    """Return the smallest sound model that has a weight: ``y = Relu(x + w)``."""
    return text("g (float[2,3] x) => (float[2,3] y) <float[3] w = {1, -2, 3}> { h = Add(x, w) y = Relu(h) }")


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto] | None = None,
    *,
    opset: int = 20,
    ir: int = 10,
) -> onnx.ModelProto:
    """Build a model from parts, for what the text form cannot say."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def value(name: str, shape: list[int | str] | None, dtype: int = onnx.TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """Return the declaration of a tensor value."""
    return helper.make_tensor_value_info(name, dtype, shape)


def tensor(name: str, array: Array) -> onnx.TensorProto:
    """Return an initializer that holds ``array``."""
    return numpy_helper.from_array(np.asarray(array), name)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of the graph, its subgraphs and the functions, without recursion."""
    todo = [list(model.graph.node), *(list(f.node) for f in model.functions)]
    while todo:
        for node in todo.pop():
            yield node
            for attribute in node.attribute:
                todo += [list(g.node) for g in (*attribute.graphs, attribute.g) if g.node]


def count(model: onnx.ModelProto, op_type: str) -> int:
    """Return how many nodes of one type a model holds, subgraphs and functions included."""
    return sum(node.op_type == op_type for node in all_nodes(model))


def keeps(op_type: str) -> Law:
    """Return the law that nodes of this type are neither folded nor merged nor duplicated."""

    def law(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        assert count(after, op_type) == count(before, op_type), f"{op_type} was folded, merged or copied"

    return law


def default_feeds(model: onnx.ModelProto, given: Mapping[str, Array]) -> dict[str, Array]:
    """Return a value for every input that needs one, drawn from its declared type and its name."""
    initialized = {t.name for t in model.graph.initializer} | {s.values.name for s in model.graph.sparse_initializer}
    feeds = dict(given)
    for entry in model.graph.input:
        if entry.name not in feeds and entry.name not in initialized:
            feeds[entry.name] = _draw(entry)
    return feeds


def _draw(entry: onnx.ValueInfoProto) -> Array:
    kind = entry.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else 2 for d in kind.shape.dim]
    rng = np.random.default_rng(zlib.crc32(entry.name.encode("utf-8", "surrogatepass")))
    if kind.elem_type == onnx.TensorProto.STRING:
        return np.array([f"s{k}" for k in range(int(np.prod(shape)))], dtype=object).reshape(shape)
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.integers(0, 3, shape).astype(dtype)

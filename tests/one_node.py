"""One node, as an ONNX model that ONNX Runtime runs and as IR: what tests of operators are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from compiler.ir.constant import Array, Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Node, Value
from compiler.ir.types import TensorType

OPSET = 21
"""Version of the default domain that single nodes have."""

Attributes = Mapping[str, Any]


class NoKernel(Exception):
    """ONNX Runtime has no kernel for these types, or takes the model for invalid."""


def run(
    op: str,
    arrays: Sequence[Array | None],
    attributes: Attributes,
    *,
    outputs: int = 1,
    domain: str = "",
    static: bool = False,
) -> list[Array] | None:
    """Run a node on ONNX Runtime; ``None`` when it rejects the operands, ``NoKernel`` when there is no session.

    The model declares the operands' shapes only if ``static``.
    """
    arrays = without_trailing(arrays)
    names = ["" if a is None else f"i{k}" for k, a in enumerate(arrays)]
    node = helper.make_node(op, names, [f"o{k}" for k in range(outputs)], domain=domain, **_plain(attributes))
    inputs = [
        helper.make_tensor_value_info(n, DType.from_numpy(a.dtype).code, a.shape if static else [None] * a.ndim)
        for n, a in zip(names, arrays, strict=True)
        if a is not None
    ]
    results = [onnx.ValueInfoProto(name=f"o{k}") for k in range(outputs)]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "one", inputs, results), opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception as error:
        raise NoKernel(str(error)) from error
    try:
        found: list[Array] = session.run(None, {n: a for n, a in zip(names, arrays, strict=True) if a is not None})
    except Exception:
        return None
    return found


def without_trailing(arrays: Sequence[Array | None]) -> list[Array | None]:
    """Return operands without missing ones at the end, as nodes have them."""
    kept = list(arrays)
    while kept and kept[-1] is None:
        kept.pop()
    return kept


def _plain(attributes: Attributes) -> dict[str, Any]:
    return {k: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in attributes.items()}


def ir_node(
    op: str,
    arrays: Sequence[Array | None],
    attributes: Attributes,
    *,
    outputs: int = 1,
    version: int = OPSET,
    constants: bool = True,
) -> Node:
    """Return a node of the IR that belongs to no graph, with the operands as constants or as typed values."""
    given = enumerate(without_trailing(arrays))
    values = [None if a is None else _value(f"i{k}", a, constants) for k, a in given]
    results = tuple(Value(f"o{k}") for k in range(outputs))
    return Node(op, tuple(values), results, {k: _attr(v) for k, v in attributes.items()}, version=version)


def _value(name: str, array: Array, constant: bool) -> Value:
    value = Value(name, TensorType(DType.from_numpy(array.dtype), array.shape))
    value.constant = Constant.from_array(array) if constant else None
    return value


def _attr(value: Any) -> Attr:
    if isinstance(value, np.ndarray):
        return Attr("tensor", Constant.from_array(value))
    if isinstance(value, list | tuple):
        kind = {int: "ints", float: "floats", str: "strings"}[type(value[0])] if value else "ints"
        return Attr(kind, tuple(value))
    return Attr({int: "int", float: "float", str: "string"}[type(value)], value)

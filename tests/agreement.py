"""When two models agree: the same interface, and the same outputs up to reassociated floating point."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

TOLERANCE = {"float16": (1e-2, 1e-3), "bfloat16": (3e-2, 1e-2), "float64": (1e-6, 1e-9)}
"""Relative and absolute tolerance by element type; every other float has float32's."""
FLOAT32 = (1e-3, 1e-5)


def same_outputs(expected: Any, found: Any, *, values: bool = True, place: str = "outputs") -> None:
    """Assert that two outputs agree; ``values=False`` holds only structure, types and shapes to it."""
    if isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple) and len(found) == len(expected), f"{place}: lengths differ"
        for k, (one, other) in enumerate(zip(expected, found, strict=True)):
            same_outputs(one, other, values=values, place=f"{place}[{k}]")
    elif isinstance(expected, dict):
        assert isinstance(found, dict) and found.keys() == expected.keys(), f"{place}: keys differ"
        for key, one in expected.items():
            same_outputs(one, found[key], values=values, place=f"{place}[{key!r}]")
    elif expected is None:
        assert found is None, f"{place}: something in place of nothing"
    else:
        _same_arrays(np.asarray(expected), np.asarray(found), values, place)


def _same_arrays(expected: Any, found: Any, values: bool, place: str) -> None:
    assert found.dtype == expected.dtype, f"{place}: {expected.dtype} became {found.dtype}"
    assert found.shape == expected.shape, f"{place}: {expected.shape} became {found.shape}"
    if not values:
        return
    if expected.dtype.kind not in "fcV":
        assert np.array_equal(found, expected), f"{place}: {expected!r} became {found!r}"
        return
    relative, absolute = TOLERANCE.get(expected.dtype.name, FLOAT32)
    np.testing.assert_allclose(
        found.astype(np.float64),
        expected.astype(np.float64),
        rtol=relative,
        atol=absolute * max(1.0, _magnitude(expected)),
        err_msg=place,
    )


def _magnitude(array: Any) -> float:
    """Return the largest finite absolute value, at most 1e6: beyond that an absolute error hides too much."""
    numbers = np.abs(array.astype(np.float64))
    return min(1e6, float(numbers[np.isfinite(numbers)].max(initial=0.0)))


def same_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Assert that inputs and outputs kept their names, order, types and declared shapes."""
    assert _required(after) == _required(before), "the inputs that a caller must feed changed"
    assert [o.name for o in after.graph.output] == [o.name for o in before.graph.output], "outputs changed"
    if before.ir_version >= 4:
        assert _overridable(after) == _overridable(before), "the inputs that have defaults changed"
    types = {entry.name: entry.type for entry in (*after.graph.input, *after.graph.output)}
    for entry in before.graph.input:
        if entry.name in types:
            _same_type(entry.name, entry.type, types[entry.name], shape=True)
    for entry in before.graph.output:
        _same_type(entry.name, entry.type, types[entry.name], shape=False)


def _required(model: onnx.ModelProto) -> list[str]:
    return [entry.name for entry in model.graph.input if entry.name not in _initialized(model)]


def _overridable(model: onnx.ModelProto) -> list[str]:
    return [entry.name for entry in model.graph.input if entry.name in _initialized(model)]


def _initialized(model: onnx.ModelProto) -> set[str]:
    sparse = {entry.values.name for entry in model.graph.sparse_initializer}
    return {entry.name for entry in model.graph.initializer} | sparse


def _same_type(name: str, before: onnx.TypeProto, after: onnx.TypeProto, *, shape: bool) -> None:
    kind = before.WhichOneof("value")
    assert after.WhichOneof("value") == kind, f"{name} is another kind of value"
    if kind != "tensor_type":
        return
    old, new = before.tensor_type, after.tensor_type
    assert new.elem_type == old.elem_type, f"the element type of {name} changed"
    if shape and old.HasField("shape"):
        assert new.HasField("shape"), f"the shape of {name} was lost"
        assert _sizes(new) == _sizes(old), f"the declared shape of {name} changed"


def _sizes(kind: onnx.TypeProto.Tensor) -> list[int | None]:
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]

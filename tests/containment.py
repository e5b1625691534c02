"""What it means that an inferred type is true of a value that was computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from compiler.ir.dims import Dim, substitute
from compiler.ir.dtype import DType
from compiler.ir.types import OptionalType, SequenceType, TensorType, Type, UnrankedType


def misfit(type_: Type, value: Any, binding: Mapping[str, Dim]) -> str:
    """Return what a type claims that is not true of a value; the empty text when all is true.

    Symbols that the binding does not have may stand for anything.
    """
    if value is None:
        return ""
    if isinstance(type_, OptionalType):
        return misfit(type_.element, value, binding)
    if isinstance(type_, SequenceType):
        return next((m for m in (misfit(type_.element, v, {}) for v in value) if m), "")
    if not isinstance(type_, TensorType | UnrankedType):
        return ""
    if isinstance(value, list | dict):
        return f"{type_} is no sequence or map"
    array = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    dtype = DType.from_numpy(array.dtype)
    if type_.dtype not in (DType.UNKNOWN, dtype):
        return f"{type_} has elements of {dtype}"
    return "" if isinstance(type_, UnrankedType) else _shape_misfit(type_, array.shape, binding)


def _shape_misfit(type_: TensorType, shape: tuple[int, ...], binding: Mapping[str, Dim]) -> str:
    dims = [substitute(d, binding) for d in type_.shape]
    fits = len(dims) == len(shape) and all(not isinstance(d, int) or d == n for d, n in zip(dims, shape, strict=True))
    return "" if fits else f"{type_} has shape {list(shape)}"

"""ONNX types and tensors to IR types and constants; nothing is copied that a view can hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import ModelError, UnsupportedError
from compiler.frontend.attributes import text
from compiler.frontend.files import ExternalFiles, tensor_bytes_expected
from compiler.ir.constant import Constant
from compiler.ir.dims import Dim, symbol
from compiler.ir.dtype import DType
from compiler.ir.graph import Model
from compiler.ir.types import (
    UNKNOWN,
    MapType,
    OptionalType,
    SequenceType,
    Shape,
    SparseType,
    TensorType,
    Type,
    UnrankedType,
)

if TYPE_CHECKING:
    from onnx import TensorProto, TypeProto

EXTERNAL = 1
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_LAZY_BYTES = 4096
"""Raw data above this size is fetched from its protobuf only when somebody asks."""


def type_of(proto: TypeProto, model: Model) -> Type:
    """Return the IR type of a TypeProto; a negative or missing dim is a fresh symbol."""
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        tensor = proto.tensor_type
        dtype = DType.from_code(tensor.elem_type)
        return TensorType(dtype, _shape(tensor.shape, model)) if tensor.HasField("shape") else UnrankedType(dtype)
    if kind == "sequence_type":
        return SequenceType(type_of(proto.sequence_type.elem_type, model))
    if kind == "optional_type":
        return OptionalType(type_of(proto.optional_type.elem_type, model))
    if kind == "map_type":
        return MapType(DType.from_code(proto.map_type.key_type), type_of(proto.map_type.value_type, model))
    if kind == "sparse_tensor_type":
        sparse = proto.sparse_tensor_type
        return SparseType(DType.from_code(sparse.elem_type), _shape(sparse.shape, model))
    return UNKNOWN


def without_contradiction(declared: Type, default: Constant, name: str, where: str) -> Type:
    """Return the type of an input that callers may override, given its declared type and its default.

    The runtime does not compare the two shapes: where the declared one does not fit, nothing is known of it.
    """
    if not isinstance(declared, TensorType | UnrankedType) or declared.dtype is not default.dtype:
        raise ModelError(
            f"the input {name!r} is declared as {declared} and its initializer is {default.dtype}", where=where
        )
    if isinstance(declared, UnrankedType):
        return declared
    fits = len(declared.shape) == len(default.shape) and all(
        not isinstance(d, int) or d == n for d, n in zip(declared.shape, default.shape, strict=True)
    )
    return declared if fits else UnrankedType(declared.dtype)


def _shape(proto: Any, model: Model) -> Shape:
    return tuple(_dim(d, model) for d in proto.dim)


def _dim(proto: Any, model: Model) -> Dim:
    if proto.HasField("dim_value") and proto.dim_value >= 0:
        return int(proto.dim_value)
    if proto.dim_param and not proto.dim_param.startswith("?"):
        return symbol(proto.dim_param)
    return model.fresh_dim()


class TensorReader:
    """Makes constants of the tensors of one model file.

    ``payload`` gives the bytes that were left in the file, if any; ``external`` opens external data, ``None`` for a
    model that was given without a folder.
    """

    def __init__(
        self, payload: Callable[[TensorProto], memoryview | None] | None, external: ExternalFiles | None
    ) -> None:
        self._payload = payload
        self._external = external

    def constant(self, tensor: TensorProto, where: str) -> Constant:
        """Return the constant of a tensor; raises ``ModelError`` when type, dims and data do not fit each other."""
        dtype = DType.from_code(tensor.data_type)
        dims = tuple(int(d) for d in tensor.dims)
        if tensor.HasField("segment"):
            raise UnsupportedError(f"tensor {tensor.name!r} is stored in segments", where=where)
        expected = tensor_bytes_expected(tensor.data_type, dims, where=where)
        if dtype is DType.UNKNOWN:
            return self._opaque(tensor, dims, where)
        buffer = self._buffer(tensor, where)
        if buffer is not None:
            if dtype is DType.STRING or len(buffer) != expected:
                raise _mismatch(
                    tensor, where, f"{len(buffer)} bytes of data, {expected} expected for {dtype}{list(dims)}"
                )
            return Constant(dtype, dims, buffer=buffer)
        if tensor.HasField("raw_data") and dtype is not DType.STRING:
            return self._raw(tensor, dtype, dims, expected or 0, where)
        return self._typed(tensor, dtype, dims, where)

    def _opaque(self, tensor: TensorProto, dims: tuple[int, ...], where: str) -> Constant:
        if tensor.data_location == EXTERNAL or (self._payload is not None and self._payload(tensor) is not None):
            raise UnsupportedError(
                f"tensor {tensor.name!r} has element type {tensor.data_type}, which ampc does not know",
                where=where,
                hint="store it inside the model file, or install a newer onnx",
            )
        return Constant(DType.UNKNOWN, dims, opaque=tensor)

    def _buffer(self, tensor: TensorProto, where: str) -> memoryview | None:
        if tensor.data_location == EXTERNAL:
            if self._external is None:
                raise ModelError(
                    f"tensor {tensor.name!r} keeps its data in another file",
                    where=where,
                    why="the model was given as an object, so there is no folder to look in",
                    hint="pass the path of the model file, or load it with onnx.load(path)",
                )
            return self._external.tensor(tensor)
        return self._payload(tensor) if self._payload is not None else None

    def _raw(self, tensor: TensorProto, dtype: DType, dims: tuple[int, ...], expected: int, where: str) -> Constant:
        data = tensor.raw_data
        if len(data) != expected:
            raise _mismatch(tensor, where, f"{len(data)} bytes of data, {expected} expected for {dtype}{list(dims)}")
        if any(len(getattr(tensor, f)) for f in _TYPED_FIELDS):
            raise UnsupportedError(f"tensor {tensor.name!r} holds its data twice", where=where)
        if expected > _LAZY_BYTES:
            return Constant(dtype, dims, source=lambda: tensor.raw_data)
        return Constant(dtype, dims, buffer=data)

    def _typed(self, tensor: TensorProto, dtype: DType, dims: tuple[int, ...], where: str) -> Constant:
        from onnx import numpy_helper

        if dtype is DType.STRING:
            return self._strings(tensor, dims, where)
        try:
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise _mismatch(tensor, where, str(error)) from error
        if array.dtype != dtype.numpy:
            array = array.astype(dtype.numpy)
        return Constant(dtype, dims, array=array)

    def _strings(self, tensor: TensorProto, dims: tuple[int, ...], where: str) -> Constant:
        """Return a constant of strings; those that are not UTF-8 stay bytes."""
        count = math.prod(dims)
        if len(tensor.string_data) != count:
            raise _mismatch(tensor, where, f"{len(tensor.string_data)} strings, {count} expected")
        array = np.empty(count, dtype=object)
        for i, data in enumerate(tensor.string_data):
            array[i] = text(data)
        return Constant(DType.STRING, dims, array=array.reshape(dims))


def _mismatch(tensor: TensorProto, where: str, why: str) -> ModelError:
    return ModelError(
        f"the data of tensor {tensor.name!r} does not fit its type",
        where=where,
        why=why,
        hint="export the model again; the file is damaged",
    )

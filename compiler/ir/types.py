"""Types of values: tensors, and the non-tensor types of ONNX, which are carried through.

Every value has a type.  What is not known is a type too: ``TensorType`` with fresh symbols for unknown dims,
``UnrankedType`` for a tensor of unknown rank, ``UnknownType`` when nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from compiler.ir.dims import Dim, is_static
from compiler.ir.dtype import DType

Shape: TypeAlias = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor with an element type and a known rank."""

    dtype: DType
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    @property
    def is_static(self) -> bool:
        """True when all dims are numbers."""
        return is_static(self.shape)


@dataclass(frozen=True, slots=True)
class UnrankedType:
    """A dense tensor of unknown rank."""

    dtype: DType

    def __str__(self) -> str:
        return f"{self.dtype}[*]"


@dataclass(frozen=True, slots=True)
class SparseType:
    """A sparse tensor, carried through untouched."""

    dtype: DType
    shape: Shape | tuple[()]

    def __str__(self) -> str:
        return f"sparse<{self.dtype}[{','.join(map(str, self.shape))}]>"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A sequence of values of one type."""

    element: Type

    def __str__(self) -> str:
        return f"seq<{self.element}>"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value that may be absent at run time."""

    element: Type

    def __str__(self) -> str:
        return f"optional<{self.element}>"


@dataclass(frozen=True, slots=True)
class MapType:
    """A map from keys of an element type to values of a type."""

    key: DType
    value: Type

    def __str__(self) -> str:
        return f"map<{self.key},{self.value}>"


@dataclass(frozen=True, slots=True)
class UnknownType:
    """A value of which nothing is known: not even whether it is a tensor."""

    def __str__(self) -> str:
        return "?"


Type: TypeAlias = TensorType | UnrankedType | SparseType | SequenceType | OptionalType | MapType | UnknownType

UNKNOWN = UnknownType()


def dtype_of(type_: Type) -> DType:
    """Return the element type of a tensor type, ``DType.UNKNOWN`` for anything else."""
    return type_.dtype if isinstance(type_, TensorType | UnrankedType | SparseType) else DType.UNKNOWN

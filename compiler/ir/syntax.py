"""The syntax tree of the text form: what was written, before names are looked up.

Models and rules share it.  ``compiler.ir.parser`` makes graphs of it; a rule reads the same tree with variables where
a model has element types (``T``), runs of dims (``*S``), attribute values (``$a``) and numbers as operands.

``at`` is the offset in the text, for error messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from compiler.ir.dims import Dim
from compiler.ir.graph import Loc
from compiler.ir.spelling import Scalar


@dataclass(frozen=True, slots=True)
class Run:
    """A variable number of dims: ``*S``."""

    name: str


@dataclass(frozen=True, slots=True)
class TypeSyntax:
    """A type as written: ``f32[N,4]``, ``f32[*]``, ``?``, ``T``, ``seq<f32[2]>``."""

    head: str
    """The element type, a rule's variable, ``sparse``, ``seq``, ``optional``, ``map`` or ``?``."""
    dims: tuple[Dim | Run, ...] | None
    """Dims in the brackets; ``None`` for ``[*]`` and where no brackets stand."""
    bare: bool
    """True when no brackets stand."""
    arguments: tuple[TypeSyntax, ...]
    """What stands between ``<`` and ``>``."""
    at: int


@dataclass(frozen=True, slots=True)
class Output:
    """A name that a statement defines, with its type when one is written."""

    name: str
    type: TypeSyntax | None
    at: int


@dataclass(frozen=True, slots=True)
class Operand:
    """A value that a statement reads; rules may add its type, and that it must be a constant or may be missing."""

    name: str
    type: TypeSyntax | None
    constant: bool
    at: int
    scalar: bool = False
    """True when it was written ``scalar %e``: a constant of one element."""
    optional: bool = False
    """True when it was written ``%b?``."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A number where an operand stands: rules only."""

    scalars: list[Scalar]
    nested: bool
    """True when it was written as a list."""
    at: int


@dataclass(frozen=True, slots=True)
class DimList:
    """Dims where an operand stands, ``[B,S,H*D]``: rules only."""

    dims: tuple[Dim, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a constant: its elements, the digest of contents held elsewhere, or a protobuf's bytes."""

    kind: str
    """``elements``, ``digest`` or ``opaque``."""
    value: Any
    """A list of ``Scalar``; the digest's digits; ``bytes``."""
    at: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A typed constant: ``const f32[2] [1.0, 2.0]`` as an attribute."""

    type: TypeSyntax
    contents: Contents
    at: int


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute's value: ``kind`` is one of ``Attr.kind``, or in a rule ``variable``, ``operand`` or ``dim``.

    ``value`` is an int, ``Number`` (float), str, bytes, ``Tensor``, ``GraphSyntax``, a variable's name (``$a``), an
    ``Operand`` (``%e``), a dim (``H``), or a tuple.
    """

    kind: str
    value: Any
    at: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One application of an operator; a ``None`` among outputs and operands is ``_``."""

    outputs: tuple[Output | None, ...]
    domain: str
    op: str
    version: int | None
    """What follows ``@``; ``None`` when nothing does."""
    inputs: tuple[Operand | Literal | DimList | None, ...]
    attributes: dict[str, Attribute]
    name: str | None
    """What ``name("...")`` says; ``None`` when it does not stand there."""
    loc: Loc | None
    at: int
    optional: bool = False
    """True when it was written ``optional %y = ...``: rules only."""
    alternatives: tuple[str, ...] = ()
    """Further operators after ``|``: rules only."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A graph's input, with the initializer that callers may override when there is one."""

    name: str
    type: TypeSyntax | None
    default: Contents | None
    at: int


@dataclass(frozen=True, slots=True)
class ConstantSyntax:
    """A constant's definition."""

    name: str
    type: TypeSyntax
    contents: Contents
    at: int


@dataclass(frozen=True, slots=True)
class GraphSyntax:
    """A graph: its interface, constants, statements, and what it returns."""

    name: str
    inputs: tuple[Parameter, ...]
    outputs: tuple[Output, ...]
    constants: tuple[ConstantSyntax, ...]
    statements: tuple[Statement, ...]
    returns: tuple[Operand, ...]
    at: int


@dataclass(frozen=True, slots=True)
class ModelSyntax:
    """A whole text."""

    format: int
    """The version of the text form."""
    ir_version: int
    opsets: dict[str, int]
    metadata: dict[str, str]
    functions: tuple[bytes, ...]
    graph: GraphSyntax
    freshest: int
    """The highest number of a made-up dim (``?12``)."""


Item: TypeAlias = ConstantSyntax | Statement
"""What stands in the body of a graph before ``return``."""

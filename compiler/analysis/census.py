"""Count what a model is made of: operators, element types, parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from compiler.ir.graph import Graph, Model, Value
from compiler.ir.schema import is_known
from compiler.ir.types import dtype_of

BIGGEST = 8
"""Tensors that are listed by name."""

_SHARED_FROM = 1024
"""Bytes from which it is worth saying that a tensor is shared."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the model."""

    name: str
    """Its name."""
    type: str
    """Its type in the text form, ``f32[N,3,224,224]``."""
    overridable: bool = False
    """Whether it is an input with a default."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A constant tensor."""

    name: str
    """Its name."""
    type: str
    """Its type in the text form."""
    nbytes: int
    """Bytes of its contents."""
    readers: int
    """Operands that read it."""


@dataclass(frozen=True, slots=True)
class Census:
    """What a model is made of."""

    operators: dict[str, int]
    """Operator, with its domain, → number of nodes, nested graphs included; the most frequent first."""
    nested: dict[str, int]
    """The same for nodes in nested graphs only."""
    opaque: dict[str, int]
    """Operators of which neither the standard nor ONNX Runtime is known to say anything → number of nodes."""
    element_types: dict[str, int]
    """Element type → number of computed values."""
    untyped: int
    """Computed values of which not even the element type is known."""
    inputs: tuple[Port, ...]
    """Inputs in order."""
    outputs: tuple[Port, ...]
    """Outputs in order."""
    functions: int
    """Model-local functions that could not be inlined."""
    parameters: int
    """Elements of all constants, inputs with defaults included."""
    tensors: int
    """Number of constants."""
    bytes_by_type: dict[str, int]
    """Element type → bytes of constants; the most first."""
    biggest: tuple[Parameter, ...]
    """The biggest tensors."""
    shared: tuple[Parameter, ...]
    """Tensors of at least a KiB that several operands read: tied weights must stay tied."""

    @property
    def nodes(self) -> int:
        """Number of nodes, nested graphs included."""
        return sum(self.operators.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all constants."""
        return sum(self.bytes_by_type.values())


@dataclass(slots=True)
class _Counts:
    operators: dict[str, int] = field(default_factory=dict)
    nested: dict[str, int] = field(default_factory=dict)
    opaque: dict[str, int] = field(default_factory=dict)
    element_types: dict[str, int] = field(default_factory=dict)
    untyped: int = 0


def take_census(model: Model) -> Census:
    """Count everything, once through the model; contents of constants are not read."""
    counts = _Counts()
    for graph in model.graph.all_graphs():
        _count_nodes(graph, counts)
    parameters, sizes, elements = [], dict[str, int](), 0
    for value in _constants(model):
        constant = value.constant or value.default
        assert constant is not None
        readers = len(value.uses) + len(value.returned)
        nbytes = constant.dtype.packed_bytes(constant.size)
        parameters.append(Parameter(value.name, str(value.type), nbytes, readers))
        sizes[str(constant.dtype)] = sizes.get(str(constant.dtype), 0) + nbytes
        elements += constant.size
    by_size = sorted(parameters, key=lambda p: (-p.nbytes, p.name))
    return Census(
        operators=_most_first(counts.operators),
        nested=_most_first(counts.nested),
        opaque=_most_first(counts.opaque),
        element_types=_most_first(counts.element_types),
        untyped=counts.untyped,
        inputs=tuple(_port(v) for v in model.graph.inputs),
        outputs=tuple(_port(v) for v in model.graph.outputs),
        functions=len(model.functions),
        parameters=elements,
        tensors=len(parameters),
        bytes_by_type=_most_first(sizes),
        biggest=tuple(by_size[:BIGGEST]),
        shared=tuple(p for p in by_size if p.readers > 1 and p.nbytes >= _SHARED_FROM),
    )


def _count_nodes(graph: Graph, counts: _Counts) -> None:
    for node in graph.nodes():
        _add(counts.operators, node.qualified)
        if graph.owner is not None:
            _add(counts.nested, node.qualified)
        if not is_known(node):
            _add(counts.opaque, node.qualified)
        for value in node.outputs:
            if value.absent:
                continue
            dtype = dtype_of(value.type)
            if dtype.code:
                _add(counts.element_types, str(dtype))
            else:
                counts.untyped += 1


def _add(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _constants(model: Model) -> Iterator[Value]:
    for graph in model.graph.all_graphs():
        yield from (v for v in graph.inputs if v.default is not None)
        yield from graph.constants


def _port(value: Value) -> Port:
    return Port(value.name, str(value.type), value.default is not None)


def _most_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

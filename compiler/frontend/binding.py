"""Give symbolic dims of a model's inputs their sizes, before anything else is done with the model.

The model's own declarations are changed with the graph, so that the bound model is what results are compared with.
A dim is named as the model names it (``batch``), or by input and axis (``pixels.0``), which every dim has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compiler.errors import InputError, nearest
from compiler.ir.dims import Dim, is_fresh, substitute
from compiler.ir.graph import Graph, Model, Value
from compiler.ir.types import TensorType


def bind_dims(model: Model, sizes: Mapping[str, int]) -> None:
    """Bind dims of a model that was just loaded; raises ``InputError`` for a name that no open dim has."""
    known = dict(named_dims(model.graph))
    wrong = next((name for name in sizes if name not in known), None)
    if wrong is not None:
        hint = nearest(wrong, [*known]) if known else "no dim of the inputs is open: leave it out"
        raise InputError(f"the model's inputs have no open dim called {wrong!r}", hint=hint)
    by_symbol = {str(symbol): sizes[name] for name, symbol in known.items() if name in sizes}
    bad = next((name for name in sizes if by_symbol[str(known[name])] != sizes[name]), None)
    if bad is not None:
        raise InputError(f"dim {bad!r} is given two sizes")
    for graph in model.graph.all_graphs():
        _bind_values(graph, by_symbol)
    _bind_declarations(model, by_symbol)


def open_dims(graph: Graph) -> list[str]:
    """Return the names of the dims of a graph's inputs that are no numbers, each once."""
    first: dict[str, str] = {}
    for name, symbol in named_dims(graph):
        first.setdefault(str(symbol), name)
    return list(first.values())


def named_dims(graph: Graph) -> Iterator[tuple[str, Dim]]:
    """Yield every name of every open dim of the inputs, its own first."""
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, int):
                continue
            if not is_fresh(dim):
                yield str(dim), dim
            yield f"{value.name}.{axis}", dim


def _bind_values(graph: Graph, sizes: Mapping[str, int]) -> None:
    for value in (*graph.inputs, *(o for n in graph.nodes() for o in n.outputs)):
        if isinstance(value.type, TensorType):
            value.type = TensorType(value.type.dtype, tuple(_bound(d, sizes) for d in value.type.shape))


def _bound(dim: Dim, sizes: Mapping[str, int]) -> Dim:
    return dim if isinstance(dim, int) else substitute(dim, {s: n for s, n in sizes.items() if s in dim.symbols()})


def _bind_declarations(model: Model, sizes: Mapping[str, int]) -> None:
    """Change what the file says of inputs, outputs and values; unnamed dims are found by their place."""
    for value in model.graph.inputs:
        _bind_input(value)
    for graph in model.graph.all_graphs():
        declared = [v.declared for v in graph.outputs if v.declared is not None]
        listed = (*getattr(graph.extra, "output", ()), *getattr(graph.extra, "value_info", ()))  # some are there twice
        for info in (*declared, *listed):
            for dim in _dims(info):
                if dim.dim_param in sizes:
                    dim.dim_value = sizes[dim.dim_param]


def _bind_input(value: Value) -> None:
    if value.declared is None or not isinstance(value.type, TensorType):
        return
    for dim, size in zip(_dims(value.declared), value.type.shape, strict=False):
        if isinstance(size, int):
            dim.dim_value = size


def _dims(info: Any) -> list[Any]:
    kind = info.type
    return list(kind.tensor_type.shape.dim) if kind.HasField("tensor_type") else []

"""IR → onnx-graphsurgeon, the authoring library that users know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.backend.emit import to_proto
from compiler.errors import UnsupportedError
from compiler.ir.dtype import DType
from compiler.ir.graph import Model

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def to_surgeon(model: Model) -> gs.Graph:
    """Return the model as a GraphSurgeon graph; weights are copied.

    Raises ``UnsupportedError`` for what GraphSurgeon cannot hold: TYPE_PROTO and sparse attributes, sparse constants,
    and tensors of element types that ampc carries unread.
    """
    import onnx_graphsurgeon as gs

    for node in model.graph.all_nodes():
        for name, attr in node.attributes.items():
            if attr.kind in ("type", "types", "sparse", "sparses"):
                raise UnsupportedError(
                    f"GraphSurgeon cannot hold attribute {name!r} of {node.op}", where=f"node {node.name!r}"
                )
    for graph in model.graph.all_graphs():
        for value in graph.constants:
            if value.constant is not None and (value.constant.opaque is not None or value.dtype is DType.UNKNOWN):
                raise UnsupportedError(f"GraphSurgeon cannot hold the constant {value.name!r} ({value.type})")
    return gs.import_onnx(to_proto(model))

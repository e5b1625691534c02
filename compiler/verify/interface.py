"""What callers see of a model: names, order and types of inputs and outputs, and which outputs are random."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from compiler.ir.schema import RANDOM

if TYPE_CHECKING:
    from onnx import ModelProto

_RANDOM = frozenset({*RANDOM, "BiasDropout", "BitmaskBiasDropout", "BitmaskDropout", "Sampling"})
_MANDATORY_INITIALIZERS = 4
"""IR version below which every initializer had to be listed as an input."""


def interface_differences(original: ModelProto, emitted: ModelProto) -> list[str]:
    """Return what callers would notice: names, order and types of inputs and outputs, overridable initializers."""
    found = []
    for what, before, after in (
        ("inputs", _inputs(original), _inputs(emitted)),
        ("outputs", list(original.graph.output), list(emitted.graph.output)),
    ):
        if [v.name for v in before] != [v.name for v in after]:
            found.append(f"{what} {[v.name for v in before][:4]} became {[v.name for v in after][:4]}")
            continue
        found += [
            f"{what[:-1]} {a.name!r} changed its type"
            for a, b in zip(before, after, strict=True)
            if not _same_type(a.type, b.type)
        ]
    if original.ir_version >= _MANDATORY_INITIALIZERS:
        lost = [n for n in _overridable(original) if n not in _overridable(emitted)]
        found += [f"the initializer {n!r} can no longer be overridden" for n in lost]
    return found


def _inputs(model: ModelProto) -> list[Any]:
    inner = _initializers(model)
    return [i for i in model.graph.input if i.name not in inner]


def _overridable(model: ModelProto) -> list[str]:
    inner = _initializers(model)
    return [i.name for i in model.graph.input if i.name in inner]


def _initializers(model: ModelProto) -> set[str]:
    return {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}


def _same_type(a: Any, b: Any) -> bool:
    if not a.WhichOneof("value"):
        return True  # the original does not say
    if a.WhichOneof("value") != b.WhichOneof("value"):
        return False
    if not a.HasField("tensor_type"):
        return bool(a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True))
    x, y = a.tensor_type, b.tensor_type
    if x.elem_type != y.elem_type:
        return False
    return not x.HasField("shape") or [_dim(d) for d in x.shape.dim] == [_dim(d) for d in y.shape.dim]


def _dim(dim: Any) -> int | str:
    return int(dim.dim_value) if dim.HasField("dim_value") else str(dim.dim_param)


# Randomness --------------------------------------------------------------------------------------


def random_outputs(model: ModelProto) -> frozenset[str]:
    """Return the names of the outputs that depend on random numbers."""
    functions = {f.name for f in model.functions if any(_draws(n, frozenset()) for n in f.node)}
    for _ in range(len(model.functions)):  # functions that call such functions
        functions |= {f.name for f in model.functions if any(_draws(n, frozenset(functions)) for n in f.node)}
    known = frozenset(functions)
    nodes = list(model.graph.node)
    if not any(_draws(n, known) for n in nodes):
        return frozenset()
    tainted = _tainted(nodes, known)
    return frozenset(o.name for o in model.graph.output if o.name in tainted)


def _tainted(nodes: list[Any], functions: frozenset[str]) -> set[str]:
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in _reads(node):
            readers.setdefault(name, []).append(node)
    todo = [n for n in nodes if _draws(n, functions)]
    tainted: set[str] = set()
    while todo:
        for name in todo.pop().output:
            if name and name not in tainted:
                tainted.add(name)
                todo += readers.get(name, [])
    return tainted


def _draws(node: Any, functions: frozenset[str]) -> bool:
    return any(_draws_itself(n, functions) for n in _with_nested(node))


def _draws_itself(node: Any, functions: frozenset[str]) -> bool:
    if node.op_type in functions:
        return True
    if node.op_type in ("Dropout", "TrainableDropout"):
        return len(node.input) > 2 and bool(node.input[2])
    return node.op_type in _RANDOM and node.domain in ("", "ai.onnx", "com.microsoft")


def _reads(node: Any) -> Iterator[str]:
    for n in _with_nested(node):
        yield from n.input


def _with_nested(node: Any) -> Iterator[Any]:
    todo = [node]
    while todo:
        n = todo.pop()
        yield n
        for a in n.attribute:
            if a.HasField("g"):
                todo += a.g.node
            for g in a.graphs:
                todo += g.node

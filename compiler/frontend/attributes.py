"""Attributes of ONNX nodes to attributes of the IR: all kinds that need neither tensors nor graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from compiler.errors import ModelError
from compiler.frontend.scope import Place
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr

if TYPE_CHECKING:
    from onnx import AttributeProto, NodeProto

Bindings = Mapping[str, "AttributeProto"] | None
"""The attributes that a call passes to the body of a function; ``None`` outside of functions."""

KINDS = {
    1: ("float", "f"), 2: ("int", "i"), 3: ("string", "s"), 4: ("tensor", "t"), 5: ("graph", "g"),
    6: ("floats", "floats"), 7: ("ints", "ints"), 8: ("strings", "strings"), 9: ("tensors", "tensors"),
    10: ("graphs", "graphs"), 11: ("sparse", "sparse_tensor"), 12: ("sparses", "sparse_tensors"),
    13: ("type", "tp"), 14: ("types", "type_protos"),
}  # fmt: skip
"""AttributeProto.type → (kind in the IR, field of the protobuf)."""

TENSOR, GRAPH, TENSORS, GRAPHS = 4, 5, 9, 10


def text(value: bytes) -> str | bytes:
    """Return a string attribute as text, or as it is when it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


PLAIN: dict[int, Callable[[Any], Attr]] = {
    1: lambda a: Attr("float", a.f),
    2: lambda a: Attr("int", a.i),
    3: lambda a: Attr("string", text(a.s)),
    6: lambda a: Attr("floats", tuple(a.floats)),
    7: lambda a: Attr("ints", tuple(a.ints)),
    8: lambda a: Attr("strings", tuple(map(text, a.strings))),
    11: lambda a: Attr("sparse", a.sparse_tensor),
    12: lambda a: Attr("sparses", tuple(a.sparse_tensors)),
    13: lambda a: Attr("type", a.tp),
    14: lambda a: Attr("types", tuple(a.type_protos)),
}
"""AttributeProto.type → function that converts such an attribute."""


def code_of(a: AttributeProto, place: Place) -> int:
    """Return the type of an attribute; one that does not say it has the type of its only filled field."""
    if a.type in KINDS:
        return int(a.type)
    filled = [code for code, (_, name) in KINDS.items() if _is_filled(a, name)]
    if len(filled) != 1:
        raise ModelError(f"attribute {a.name!r} has no type", where=str(place))
    return filled[0]


def _is_filled(a: AttributeProto, name: str) -> bool:
    if a.DESCRIPTOR.fields_by_name[name].has_presence:
        return bool(a.HasField(name))
    return len(getattr(a, name)) > 0


def bound(proto: NodeProto, bindings: Bindings, place: Place) -> Iterator[AttributeProto]:
    """Yield the attributes of a node; references to a function's attributes become what the call passed."""
    for a in proto.attribute:
        if not a.ref_attr_name:
            yield a
        elif bindings is None:
            raise ModelError(
                f"attribute {a.name!r} refers to {a.ref_attr_name!r} outside of a function", where=str(place)
            )
        elif (passed := bindings.get(a.ref_attr_name)) is not None:
            yield _renamed(passed, a.name)


def _renamed(a: AttributeProto, name: str) -> AttributeProto:
    if a.name == name:
        return a
    copy = type(a)()
    copy.CopyFrom(a)
    copy.name = name
    return copy


def spelled_constant(a: AttributeProto) -> Constant | None:
    """Return what a ``Constant`` node says in its ``value_…`` attributes, ``None`` for any other attribute."""
    if a.name == "value_int":
        return Constant.of(a.i, DType.I64)
    if a.name == "value_ints":
        return Constant.of(list(a.ints), DType.I64)
    if a.name == "value_float":
        return Constant.of(a.f, DType.F32)
    if a.name == "value_floats":
        return Constant.of(list(a.floats), DType.F32)
    if a.name == "value_string":
        return Constant.of(text(a.s), DType.STRING)
    if a.name == "value_strings":
        return Constant.of([text(s) for s in a.strings], DType.STRING)
    return None

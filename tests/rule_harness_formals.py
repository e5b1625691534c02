"""What an operator expects of its operands: the type variables of its schema, for ONNX's operators and ONNX Runtime's.

Statements of a rule are looked at without a model around them, at the version whose forms rules are written in.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compiler.ir.dtype import DType
from compiler.ir.edit import NEWEST
from compiler.ir.schema import Schema, schema
from compiler.ir.syntax import Statement


@dataclass(frozen=True)
class Formal:
    """A formal operand or result."""

    name: str
    types: str
    """A type variable, or a type such as ``tensor(int64)``."""
    optional: bool
    variadic: bool


@dataclass(frozen=True)
class Formals:
    """What an operator takes and gives."""

    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    allowed: Mapping[str, frozenset[DType]]
    """Type variable or type → element types."""
    defaults: Mapping[str, Any]
    """Attribute → its default, where it has one."""
    kinds: Mapping[str, str]
    """Attribute → its kind, as in ``Attr.kind``."""
    required: frozenset[str] = frozenset()
    """Attributes that a node must set."""

    def input(self, index: int) -> Formal | None:
        """Return the formal of an operand."""
        return _at(self.inputs, index)

    def output(self, index: int) -> Formal | None:
        """Return the formal of a result."""
        return _at(self.outputs, index)

    def dtypes(self, formal: Formal | None) -> frozenset[DType] | None:
        """Return the element types that a formal allows; ``None`` when nothing is known."""
        return None if formal is None else self.allowed.get(formal.types)


def _at(formals: tuple[Formal, ...], index: int) -> Formal | None:
    if index < len(formals):
        return formals[index]
    return formals[-1] if formals and formals[-1].variadic else None


def formals_of(statement: Statement, op: str) -> Formals | None:
    """Return what the operator that a statement names takes and gives, ``None`` when nobody defines it."""
    found = schema(statement.domain, op, statement.version or NEWEST)
    return _standard(found) if found is not None else _runtime(statement.domain, op)


@functools.cache
def _standard_cached(domain: str, op: str, version: int) -> Formals:
    found = schema(domain, op, version)
    assert found is not None
    allowed = dict(found.constraints)
    for formal in (*found.inputs, *found.outputs):
        allowed.setdefault(formal.type_str, found.allowed(formal))
    kinds = {a.name: a.kind for a in found.attributes.values()}
    defaults = {a.name: a.default for a in found.attributes.values() if a.default is not None}
    ins, outs = (
        tuple(Formal(f.name, f.type_str, f.option == "optional", f.option == "variadic") for f in formals)
        for formals in (found.inputs, found.outputs)
    )
    required = frozenset(a.name for a in found.attributes.values() if a.required)
    return Formals(ins, outs, allowed, defaults, kinds, required)


def _standard(found: Schema) -> Formals:
    return _standard_cached(found.domain, found.name, found.since_version)


@functools.cache
def _runtime_schemas() -> Mapping[tuple[str, str], Any]:
    from onnxruntime.capi import _pybind_state

    found: dict[tuple[str, str], Any] = {}
    for one in _pybind_state.get_all_operator_schema():
        known = found.get((one.domain, one.name))
        if known is None or known.since_version < one.since_version:
            found[one.domain, one.name] = one
    return found


@functools.cache
def _runtime(domain: str, op: str) -> Formals | None:
    found = _runtime_schemas().get((domain, op))
    if found is None:
        return None
    allowed = {c.type_param_str: _dtypes(c.allowed_type_strs) for c in found.type_constraints}
    ins, outs = (
        tuple(Formal(f.name, f.typeStr, "Optional" in str(f.option), "Variadic" in str(f.option)) for f in formals)
        for formals in (found.inputs, found.outputs)
    )
    for formal in (*ins, *outs):
        allowed.setdefault(formal.types, _dtypes([formal.types]))
    kinds = {name: str(a.type).rpartition(".")[2].lower() for name, a in found.attributes.items()}
    required = frozenset(name for name, a in found.attributes.items() if a.required)
    return Formals(ins, outs, allowed, _runtime_defaults(found), kinds, required)


def _runtime_defaults(found: Any) -> dict[str, Any]:
    import onnx

    defaults = {}
    for name, attribute in found.attributes.items():
        proto = onnx.AttributeProto.FromString(attribute._default_value)
        if proto.type:
            value = onnx.helper.get_attribute_value(proto)
            defaults[name] = value.decode() if isinstance(value, bytes) else value
    return defaults


def _dtypes(texts: list[str]) -> frozenset[DType]:
    import onnx

    known = {f"tensor({n.lower()})": DType.from_code(code) for n, code in onnx.TensorProto.DataType.items() if code}
    return frozenset(known[t] for t in texts if t in known)

"""Inline model-local functions, keeping where each node came from.

A call ``y = f(x)`` is replaced by the body of ``f`` with its names prefixed by the call's name; attributes that the
body refers to take the call's values, or the function's defaults.  The runtime inlines the same way, so nothing is
lost, and every pass sees through the call.

A function stays a call, and is carried through untouched, when it shares its name with an operator that the runtime
would prefer.  Recursion and expansion beyond a budget are errors: both would run for ever or exhaust memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.errors import ModelError, UnsupportedError
from compiler.ir import edit
from compiler.ir.graph import Graph, Loc, Node, Value

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, NodeProto

    from compiler.frontend.load import Scope, _Loader

_NODE_BUDGET = 2_000_000
"""Nodes that inlining may make in all."""
_DEPTH_LIMIT = 60
"""Calls within calls."""

_Key = tuple[str, str, str]


class FunctionTable:
    """The functions of a model, and how much of them was inlined."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._functions: dict[_Key, FunctionProto] = {}
        self._active: list[_Key] = []
        self._made = 0

    def add(self, function: FunctionProto) -> None:
        """Register a function; a second one of the same name is an error."""
        key = (_domain(function.domain), function.name, function.overload)
        if key in self._functions:
            raise ModelError(f"function {_shown(key)} is defined twice")
        self._functions[key] = function

    def kept(self) -> tuple[FunctionProto, ...]:
        """Return the functions that calls still refer to: none, since all are inlined."""
        return ()

    def inlines(self, domain: str, op: str, overload: str) -> bool:
        """True when a node is a call of one of the functions."""
        return bool(self._functions) and (domain, op, overload) in self._functions

    def inline(
        self, graph: Graph, call: NodeProto, scope: Scope, opsets: dict[str, int], *, prefix: str, bindings: Any
    ) -> None:
        """Append the body of the called function to ``graph``."""
        key = (_domain(call.domain), call.op_type, call.overload)
        function = self._functions[key]
        self._enter(key, len(function.node))
        first = next((o for o in call.output if o), call.op_type)
        inner_prefix = f"{prefix}{call.name or first}/"
        inner = self._bind_inputs(function, call, scope, inner_prefix)
        values = self._bind_attributes(function, call, bindings)
        imports = {_domain(o.domain): int(o.version) for o in function.opset_import} or dict(opsets)
        self._carry_imports(imports)
        for node in function.node:
            self._loader.add(graph, node, inner, imports, prefix=inner_prefix, bindings=values)
        for formal, actual in zip(function.output, call.output, strict=False):
            if actual:
                self._bind_output(graph, scope, inner, formal, prefix, actual, inner_prefix)
        self._active.pop()

    def _enter(self, key: _Key, nodes: int) -> None:
        if key in self._active:
            raise ModelError(f"function {_shown(key)} calls itself", why=" → ".join(map(_shown, [*self._active, key])))
        if len(self._active) >= _DEPTH_LIMIT:
            raise UnsupportedError(f"functions call each other more than {_DEPTH_LIMIT} levels deep")
        self._made += nodes + 1
        if self._made > _NODE_BUDGET:
            raise ModelError(f"inlining the model's functions makes more than {_NODE_BUDGET:,} nodes")
        self._active.append(key)

    def _bind_inputs(self, function: FunctionProto, call: NodeProto, scope: Scope, where: str) -> Scope:
        from compiler.frontend.load import Scope as NewScope

        if len(call.input) > len(function.input):
            raise ModelError(f"the call {where!r} passes more inputs than {function.name!r} takes")
        inner = NewScope()
        for i, formal in enumerate(function.input):
            name = call.input[i] if i < len(call.input) else ""
            inner.names[formal] = self._loader._operand(name, scope, f"call {where!r}")
        return inner

    def _bind_attributes(self, function: FunctionProto, call: NodeProto, bindings: Any) -> dict[str, AttributeProto]:
        values = {a.name: a for a in function.attribute_proto}
        passed = {a.name: a for a in self._loader._bound(call, bindings, f"call of {call.op_type}")}
        return {**values, **passed}

    def _carry_imports(self, imports: dict[str, int]) -> None:
        for domain, version in imports.items():
            self._loader.result.opsets.setdefault(domain, version)

    def _bind_output(
        self, graph: Graph, scope: Scope, inner: Scope, formal: str, prefix: str, actual: str, where: str
    ) -> None:
        try:
            value = inner.find(formal)
        except KeyError:
            value = None
        if value is None:
            raise ModelError(f"function output {formal!r} is produced by nothing", where=f"call {where!r}")
        if actual in scope.names:
            raise ModelError(f"{actual!r} is defined twice", where=f"call {where!r}")
        own = value.graph is graph and value.node is not None and value.name.startswith(where)
        if own and not prefix and not self._loader.result.is_taken(actual):
            edit.rename(value, actual)
            scope.names[actual] = value
            return
        if prefix:  # an inner call: names do not matter
            scope.names[actual] = value
            return
        carrier = Node("Identity", (value,), (Value(self._loader.result.claim(actual), value.type),), loc=Loc((where,)))
        carrier.version = max(self._loader.result.opsets.get("", 1), 1)
        edit.attach(graph, carrier)
        scope.names[actual] = carrier.output


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _shown(key: _Key) -> str:
    return f"{key[0]}::{key[1]}" + (f":{key[2]}" if key[2] else "")

"""Inline model-local functions, keeping where each node came from.

A call ``y = f(x)`` is replaced by the body of ``f`` with its names prefixed by the call's name; attributes that the
body refers to take the call's values, or the function's defaults.  The runtime inlines the same way, so nothing is
lost, and every pass sees through the call.

Recursion, and expansion beyond a budget, are errors: both would run for ever or exhaust memory.  How many nodes a
call makes is counted before the first one is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import ModelError, UnsupportedError
from compiler.frontend.attributes import bound
from compiler.frontend.order import definitions, in_order
from compiler.frontend.scope import Place, Scope
from compiler.ir import edit
from compiler.ir.graph import Loc, Node, Value
from compiler.ir.schema import is_runtime_operator, schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

    from compiler.frontend.load import Frame, _Loader

_NODE_BUDGET = 1_000_000
"""Nodes that inlining may make in all."""
_DEPTH_LIMIT = 60
"""Calls within calls."""

_Key = tuple[str, str, str]


class FunctionTable:
    """The functions of a model, and how much of them was inlined."""

    def __init__(self, loader: _Loader) -> None:
        """Start without functions; ``loader`` makes the nodes."""
        self._loader = loader
        self._functions: dict[_Key, FunctionProto] = {}
        self._sizes: dict[_Key, int] = {}
        self._active: list[_Key] = []
        self._made = 0

    def add(self, function: FunctionProto) -> None:
        """Register a function; a second one of the same name is an error."""
        key = (_domain(function.domain), function.name, function.overload)
        if key in self._functions:
            raise ModelError(
                f"function {_shown(key)} is defined twice",
                where="the model's functions",
                hint="rename one of the functions, or give it an overload name",
            )
        self._functions[key] = function

    def inlines(self, frame: Frame, domain: str, op: str, proto: NodeProto) -> bool:
        """True when a node calls one of the functions; the runtime prefers operators that it has."""
        if not self._functions or (domain, op, proto.overload) not in self._functions:
            return False
        return schema(domain, op, frame.opsets.get(domain, 0)) is None and not is_runtime_operator(domain, op)

    def inline(self, frame: Frame, call: NodeProto) -> None:
        """Append the body of the called function to the graph of ``frame``."""
        from compiler.frontend.load import Frame as NewFrame

        key = _called(call)
        function = self._functions[key]
        place = Place(call, frame.prefix)
        if not frame.prefix:  # what the body calls is counted with it
            self._pay(key)
        first = next((o for o in call.output if o), call.op_type)
        prefix = f"{frame.prefix}{call.name or first}/"
        opsets = {_domain(o.domain): int(o.version) for o in function.opset_import} or dict(frame.opsets)
        for domain, version in opsets.items():
            self._loader.result.opsets.setdefault(domain, version)
        inner = NewFrame(
            frame.graph,
            self._bind_inputs(function, call, frame.scope, place),
            opsets,
            prefix,
            self._bind_attributes(function, call, frame, place),
        )
        for node in in_order(function.node, definitions(function.node), f"function {_shown(key)}"):
            self._loader.add(inner, node)
        self._bind_outputs(function, call, frame, inner, place)

    def _pay(self, key: _Key) -> None:
        self._made += self._size(key)
        if self._made > _NODE_BUDGET:
            raise ModelError(
                f"inlining the model's functions makes more than {_NODE_BUDGET:,} nodes",
                where=f"function {_shown(key)}",
                why="its body calls functions that call functions, each many times",
                hint="export the model with fewer calls of functions",
            )

    def _size(self, key: _Key) -> int:
        """Return the number of nodes that a call makes; raises for functions that call themselves."""
        if key in self._sizes:
            return self._sizes[key]
        if key in self._active:
            chain = " → ".join(map(_shown, [*self._active, key]))
            raise ModelError(f"function {_shown(key)} calls itself", why=chain)
        if len(self._active) >= _DEPTH_LIMIT:
            raise UnsupportedError(f"functions call each other more than {_DEPTH_LIMIT} levels deep")
        self._active.append(key)
        size = 1
        for node in _all_nodes(self._functions[key].node):
            inner = _called(node)
            size += self._size(inner) if inner in self._functions else 1
        self._active.pop()
        self._sizes[key] = size
        return size

    def _bind_inputs(self, function: FunctionProto, call: NodeProto, scope: Scope, place: Place) -> Scope:
        if len(call.input) > len(function.input) or len(call.output) > len(function.output):
            raise ModelError(
                f"the call passes {len(call.input)} inputs and takes {len(call.output)} outputs",
                where=str(place),
                why=f"{function.name!r} has {len(function.input)} inputs and {len(function.output)} outputs",
            )
        inner = Scope()
        for i, formal in enumerate(function.input):
            name = call.input[i] if i < len(call.input) else ""
            inner.names[formal] = self._loader.operand(name, scope, place)
        return inner

    def _bind_attributes(
        self, function: FunctionProto, call: NodeProto, frame: Frame, place: Place
    ) -> dict[str, AttributeProto]:
        values = {a.name: a for a in function.attribute_proto}
        values.update({a.name: a for a in bound(call, frame.bindings, place)})
        return values

    def _bind_outputs(self, function: FunctionProto, call: NodeProto, frame: Frame, inner: Frame, place: Place) -> None:
        for formal, actual in zip(function.output, call.output, strict=False):
            if not actual:
                continue
            value = inner.scope.names.get(formal)
            if value is None:
                raise ModelError(
                    f"output {formal!r} of function {function.name!r} is produced by nothing", where=str(place)
                )
            if actual in frame.scope.names:
                raise ModelError(f"{actual!r} is defined twice", where=str(place))
            frame.scope.names[actual] = self._named(value, actual, frame, inner.prefix)

    def _named(self, value: Value, actual: str, frame: Frame, own_prefix: str) -> Value:
        """Return a function's output under the name that the caller gives it."""
        if frame.prefix:  # an inner call: names do not matter
            return value
        model = self._loader.result
        own = value.graph is frame.graph and value.node is not None and value.name.startswith(own_prefix)
        if own and not value.is_output and not model.is_taken(actual):
            edit.rename(value, actual)
            return value
        made = self._loader.value(frame, actual)
        made.type = value.type
        carrier = Node("Identity", (value,), (made,), loc=Loc((own_prefix.rstrip("/"),)))
        carrier.version = max(model.opsets.get("", 1), 1)
        edit.attach(frame.graph, carrier)
        return carrier.output


def _all_nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes and those of their nested graphs, the latter after all of the outer ones."""
    todo: list[Sequence[NodeProto]] = [nodes]
    while todo:
        for node in todo.pop():
            yield node
            for a in node.attribute:
                nested: list[GraphProto] = [a.g, *a.graphs] if a.HasField("g") else list(a.graphs)
                todo.extend(g.node for g in nested)


def _called(call: NodeProto) -> _Key:
    return _domain(call.domain), call.op_type, call.overload


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _shown(key: _Key) -> str:
    return f"{key[0]}::{key[1]}" + (f":{key[2]}" if key[2] else "")

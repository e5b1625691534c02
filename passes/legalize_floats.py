"""Compute in a float format that the target has kernels for, where the model's own has none.

A processor without arithmetic in f16 or bf16 has kernels for neither, or for a few operators only: the runtime then
puts casts around each of the others, or does not load the model at all (bf16).  Here every node that computes in such a
format computes in f32 instead, and casts stay at the boundary: inputs and outputs of the model keep their types, and so
does what nested graphs take and give.

Theorem: every f16 and every bf16 number is an f32 number, so nothing is lost on the way in; what is left out is the
rounding of each result, so that results are those of a more exact computation.  A value that is rounded on purpose, by
a ``Cast`` that narrows it, is not rounded any more either; the tolerance of a comparison in the narrow format covers
it.

Decisions: each node is made anew with wide operands, and its types are inferred; a node whose results do not all become
wide (because an attribute says otherwise, or nothing is known of it) is left as it is, between casts.  Weights are
converted, which doubles them in the file; the runtime would do the same in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.ir.infer import infer_nodes
from compiler.ir.schema import is_known
from compiler.ir.types import UNKNOWN, TensorType, Type, UnrankedType
from compiler.rewrite.engine import open_graphs
from compiler.rewrite.transform import Context, Pass

NARROW = {"f16": DType.F16, "bf16": DType.BF16}
"""Formats that may have to be left, by the name that targets give them."""

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
"""Attributes that hold an element type."""


@dataclass(frozen=True)
class LegalizeFloats(Pass):
    """Compute in f32 what the target has no arithmetic for: f16 and bf16 on most processors."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Make every node anew that computes in a format that the target lacks."""
        lacking = formats_to_leave(ctx.target)
        if not lacking or not _occurs(graph, lacking):
            return False
        widening = _Widening(lacking, self.name, ctx)
        for body in list(open_graphs(graph)):
            for node in list(body.nodes()):
                widening.visit(node)
        widening.clean()
        return widening.changed


def formats_to_leave(target: object) -> frozenset[DType]:
    """Return the narrow formats that a target has no arithmetic for; none where it prefers one."""
    numerics = getattr(target, "numerics", None)
    if numerics is None or "f32" not in numerics.floats:
        return frozenset()
    return frozenset(dtype for name, dtype in NARROW.items() if name not in numerics.floats)


def _occurs(graph: Graph, lacking: frozenset[DType]) -> bool:
    return any(v.dtype in lacking for n in graph.all_nodes() for v in (*n.inputs, *n.outputs) if v is not None)


class _Widening:
    """One run over a model: which value is the wide form of which."""

    def __init__(self, lacking: frozenset[DType], by: str, ctx: Context) -> None:
        self.lacking = lacking
        self.by = by
        self.ctx = ctx
        self.wide: dict[Value, Value] = {}
        self.changed = False
        self._casts: list[Node] = []
        self._constants: list[Value] = []

    def visit(self, node: Node) -> None:
        """Widen a node if it has a narrow operand or result."""
        narrow_in = any(v is not None and v.dtype in self.lacking for v in node.inputs)
        narrow_out = any(not v.absent and v.dtype in self.lacking for v in node.outputs)
        if node.is_op("Cast"):
            if narrow_in or narrow_out:
                self._cast(node)
        elif (narrow_in or narrow_out) and not node.graphs() and is_known(node):
            self._widen(node)

    def _cast(self, node: Node) -> None:
        """Cast from or to the wide form."""
        source, result = node.inputs[0], node.output
        assert source is not None
        if source.dtype not in self.lacking and source.dtype is not DType.F32:
            made = self._made(node, "Cast", [source], {"to": Attr("int", DType.F32.code)})
            self._stands(result, made.output, node)
        elif result.dtype in self.lacking or result.dtype is DType.F32:
            wide = self._operand(source, node)
            if result.dtype is DType.F32:
                edit.replace(result, wide)
                self._erase(node)
            else:
                self._stands(result, wide, node)
        else:
            edit.set_input(node, 0, self._operand(source, node))
            self.changed = True

    def _widen(self, node: Node) -> None:
        """Make a node anew with wide operands; leave it alone when its results would not all be wide."""
        operands = [self._operand(v, node) if v is not None else None for v in node.inputs]
        attributes = {name: self._attribute(name, a) for name, a in node.attributes.items()}
        made = self._made(node, node.op, operands, attributes)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            if not old.absent and new.dtype is not (DType.F32 if old.dtype in self.lacking else old.dtype):
                self.ctx.refuse(f"{node.qualified} stays in {old.dtype}: its wide form gives {new.dtype}")
                edit.erase(made)
                return
        self.ctx.count(node.qualified)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            if old.absent:
                continue
            if old.dtype in self.lacking:
                self._stands(old, new, node)
            else:
                edit.replace(old, new)
        self._erase(node)

    def _made(self, node: Node, op: str, operands: list[Value | None], attributes: dict[str, Attr]) -> Node:
        graph = node.graph
        assert graph is not None
        made = edit.add_node(
            graph,
            op,
            operands,
            [self._wide_type(o.type) if not o.absent else UNKNOWN for o in node.outputs],
            attributes,
            domain=node.domain,
            version=node.version,
            before=node,
            names=[f"{o.name}/f32" if not o.absent else "" for o in node.outputs],
            loc=edit.merge_locs([node], self.by),
        )
        for out in made.outputs:
            edit.set_type(out, UNKNOWN)
        infer_nodes([made])
        self.changed = True
        return made

    def _wide_type(self, type_: Type) -> Type:
        if isinstance(type_, TensorType | UnrankedType) and type_.dtype in self.lacking:
            return replace(type_, dtype=DType.F32)
        return type_

    def _attribute(self, name: str, attribute: Attr) -> Attr:
        if name in _TYPE_ATTRIBUTES and attribute.kind == "int" and DType.from_code(attribute.value) in self.lacking:
            return Attr("int", DType.F32.code)
        if attribute.kind == "tensor" and attribute.value.dtype in self.lacking:
            return Attr("tensor", _converted(attribute.value))
        return attribute

    # Values --------------------------------------------------------------------------------------

    def _operand(self, value: Value, reader: Node) -> Value:
        """Return the wide form of an operand, made where its value is."""
        if value.dtype not in self.lacking:
            return value
        if value not in self.wide:
            self.wide[value] = self._widened_source(value, reader)
        return self.wide[value]

    def _widened_source(self, value: Value, reader: Node) -> Value:
        home = value.graph
        assert home is not None
        self.changed = True
        if value.constant is not None and value.constant.is_readable:
            self._constants.append(value)
            return edit.add_constant(home, _converted(value.constant), hint=f"{value.name}/f32")
        first = value.node.next if value.node is not None else next(home.nodes(), None)
        cast = edit.add_node(
            home,
            "Cast",
            [value],
            [self._wide_type(value.type)],
            {"to": Attr("int", DType.F32.code)},
            version=edit.latest_version(home.model),
            before=first,
            names=[f"{value.name}/f32"],
            loc=edit.merge_locs([reader], self.by),
        )
        return cast.output

    def _stands(self, narrow: Value, wide: Value, node: Node) -> None:
        """Let a wide value stand for a narrow one, which is cast from it for those that still want it."""
        graph = node.graph
        assert graph is not None
        cast = edit.add_node(
            graph,
            "Cast",
            [wide],
            [narrow.type],
            {"to": Attr("int", narrow.dtype.code)},
            version=edit.latest_version(graph.model),
            before=node,
            names=[narrow.name],
            loc=edit.merge_locs([node], self.by),
        )
        self._casts.append(cast)
        edit.replace(narrow, cast.output)
        self.wide[cast.output] = wide
        if node.is_op("Cast"):
            self._erase(node)

    def _erase(self, node: Node) -> None:
        edit.erase(node)
        self.changed = True

    def clean(self) -> None:
        """Erase casts and constants that nothing reads any more."""
        for cast in reversed(self._casts):
            if cast.graph is not None and not cast.output.is_used:
                edit.erase(cast)
        for value in dict.fromkeys(self._constants):
            if not value.is_used:
                edit.erase_constant(value)


def _converted(constant: Constant) -> Constant:
    """Return a constant in f32; the array is made when it is needed."""
    return Constant(DType.F32, constant.shape, source=lambda: constant.array().astype(np.float32))

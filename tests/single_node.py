"""Models of one node with operands at hand: what tests of kernels, and of what stands for them, are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.backend.emit import to_proto
from compiler.ir import edit
from compiler.ir.constant import Array, Constant
from compiler.ir.dims import Dim, symbol
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Model, Node, Value
from compiler.ir.infer import infer
from compiler.ir.types import TensorType
from tests.isolation import Child, ChildDied, Remote


def numbers(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    """Return normal random numbers, others for each shape."""
    made: Array = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)
    return made


def integers(*values: Any, dtype: Any = np.int32) -> Array:
    """Return a vector of integers, or of vectors."""
    return np.array(values, dtype)


@dataclass(frozen=True)
class Single:
    """One node: ``Single("com.microsoft::Gelu", [x])``."""

    op: str
    """The operator, with its domain."""
    operands: Sequence[Array | None]
    """What it reads; ``None`` for what is missing."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Attributes by name."""
    outputs: str = "y"
    """A letter for each output: ``y`` for one that is wanted, ``_`` for one that is not."""
    opset: int = 21
    """The opset of the model."""
    constants: Sequence[int] = ()
    """Positions of the operands that are constants of the model."""
    open_dims: Sequence[int] = ()
    """Positions of the operands whose dims the model does not say."""

    def __str__(self) -> str:
        """Name the node for a test."""
        shapes = ",".join("_" if a is None else f"{a.dtype}{list(a.shape)}".replace(" ", "") for a in self.operands)
        stated = "".join(f" {k}={v}" for k, v in self.attributes.items())
        return f"{self.op.rpartition('::')[2]}@{self.opset}({shapes}){stated} {self.outputs}"

    @property
    def feeds(self) -> dict[str, Array]:
        """The operands that are inputs of the model, by name."""
        pairs = enumerate(self.operands)
        return {f"i{k}": a for k, a in pairs if a is not None and k not in self.constants}

    def model(self) -> Model:
        """Return the node in the IR, in a model of its own."""
        model = Model(opsets={"": self.opset, "com.microsoft": 1}, ir_version=10)
        graph = model.graph = edit.new_graph("main", model)
        operands = [None if a is None else self._operand(model, k, a) for k, a in enumerate(self.operands)]
        domain, _, op = self.op.rpartition("::")
        outputs = tuple(Value(model.claim(f"o{k}") if letter == "y" else "") for k, letter in enumerate(self.outputs))
        attributes = {name: _attribute(value) for name, value in self.attributes.items()}
        version = 1 if domain or op == "SimplifiedLayerNormalization" else edit.NEWEST
        edit.attach(graph, Node(op, tuple(operands), outputs, attributes, domain=domain, version=version, name="node"))
        infer(graph)
        for value in outputs:
            if not value.absent:
                edit.add_output(graph, value)
        return model

    def _operand(self, model: Model, index: int, array: Array) -> Value:
        dtype = DType.from_numpy(array.dtype)
        shape: tuple[Dim, ...] = array.shape
        if index in self.open_dims:
            shape = tuple(symbol(f"d{index}_{k}") for k in range(array.ndim))
        value = Value(model.claim(f"i{index}"), TensorType(dtype, shape))
        if index in self.constants:
            return edit.attach_constant(model.graph, value, Constant.from_array(array, dtype))
        return edit.add_input(model.graph, value)

    def node(self) -> Node:
        """Return the node in a model of its own."""
        return next(iter(self.model().graph.nodes()))


def _attribute(value: Any) -> Attr:
    kinds = {int: "int", float: "float", str: "string"}
    if isinstance(value, list):
        return Attr(f"{kinds[type(value[0])]}s", tuple(value))
    return Attr(kinds[type(value)], value)


def outcome(runtime: Child, model: Model, feeds: dict[str, Array]) -> list[Array] | str:
    """Return what a model gives on plain ONNX Runtime, or why it does not run."""
    try:
        found: list[Array] = runtime.call("tests.hostile_runner:run", to_proto(model).SerializeToString(), feeds)
    except (ChildDied, Remote) as error:
        return str(error).strip().splitlines()[-1]
    return found

"""Layers in the decomposed form that tracing exporters write, on top of ``onnx_graphsurgeon``.

``Exporter`` keeps what an exporter keeps: the scope that names nodes and parameters, and numbered names for
what repeats.  Layers are functions ``layer(x, h, ...) -> h``.  Rejected: ``gs.Graph.register`` and
``gs.Graph.layer``, which scan every name in the graph for each node and know no scopes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

Array: TypeAlias = npt.NDArray[Any]
Tensor: TypeAlias = Any  # gs.Variable or gs.Constant; GraphSurgeon carries no types


class Exporter:
    """Append nodes to a graph under scoped, numbered names, drawing weights from one seeded stream."""

    def __init__(self, *, opset: int, ir_version: int, seed: int) -> None:
        """Start an empty graph at ``opset``; equal seeds and equal calls give equal bytes."""
        self.graph = gs.Graph(opset=opset, ir_version=ir_version, name="main_graph", producer_name="ampc")
        self.rng = np.random.default_rng(seed)
        self._scope: list[str] = []
        self._used: Counter[str] = Counter()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Name everything written inside after ``name`` as well."""
        self._scope.append(name)
        yield
        self._scope.pop()

    def input(self, name: str, shape: Sequence[str | int]) -> Tensor:
        """Declare a float32 graph input; strings in ``shape`` are dynamic dimensions."""
        tensor = gs.Variable(name, dtype=np.float32, shape=list(shape))
        self.graph.inputs.append(tensor)
        return tensor

    def output(self, tensor: Tensor, name: str, shape: Sequence[str | int]) -> None:
        """Make ``tensor`` the float32 graph output ``name``."""
        tensor.name, tensor.dtype, tensor.shape = name, np.float32, list(shape)
        self.graph.outputs.append(tensor)

    def op(self, kind: str, *inputs: Tensor, **attributes: object) -> Tensor:
        """Append a node of type ``kind`` and return its only output."""
        name = self._numbered("/".join(["", *self._scope, kind]))
        output = gs.Variable(f"{name}_output_0")
        node = gs.Node(kind, name=name, attrs=attributes, inputs=list(inputs), outputs=[output])
        self.graph.nodes.append(node)
        return output

    def constant(self, value: float | int | Sequence[int]) -> Tensor:
        """Append a ``Constant`` node: float32 for a float, int64 otherwise."""
        dtype = np.float32 if isinstance(value, float) else np.int64
        return self.op("Constant", value=gs.Constant("", np.asarray(value, dtype)))

    def parameter(self, name: str, values: Array) -> Tensor:
        """Return a float32 initializer named after the module that owns it."""
        return gs.Constant(".".join([*self._scope, name]), np.ascontiguousarray(values, np.float32))

    def matrix(self, values: Array) -> Tensor:
        """Return the initializer of a folded transpose, which exporters name after its use only."""
        return gs.Constant(self._numbered("onnx::MatMul"), np.ascontiguousarray(values, np.float32))

    def normal(self, *shape: int, std: float) -> Array:
        """Draw float32 values of mean 0 and standard deviation ``std``."""
        return self.rng.standard_normal(shape, np.float32) * np.float32(std)

    def model(self) -> onnx.ModelProto:
        """Return the finished model, checked against the ONNX schemas with full shape inference."""
        model: onnx.ModelProto = gs.export_onnx(self.graph)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _numbered(self, name: str) -> str:
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}_{self._used[name] - 1}"


def conv(
    x: Exporter, h: Tensor, weight: Array, *, bias: Array | None = None, stride: int = 1, padding: int = 0
) -> Tensor:
    """Convolve ``h`` [N, C, *space] with ``weight`` [M, C, *kernel], with every attribute spelled out."""
    rank = weight.ndim - 2
    inputs = [h, x.parameter("weight", weight)]
    if bias is not None:
        inputs.append(x.parameter("bias", bias))
    return x.op(
        "Conv",
        *inputs,
        dilations=[1] * rank,
        group=1,
        kernel_shape=list(weight.shape[2:]),
        pads=[padding] * (2 * rank),
        strides=[stride] * rank,
    )


def linear(
    x: Exporter, h: Tensor, inputs: int, outputs: int, *, bias: bool = True, gain: float = 1.0
) -> Tensor:
    """Map the last axis of ``h`` from ``inputs`` to ``outputs`` features, bias first in the ``Add``."""
    h = x.op("MatMul", h, x.matrix(x.normal(inputs, outputs, std=gain * inputs**-0.5)))
    if not bias:
        return h
    return x.op("Add", x.parameter("bias", x.normal(outputs, std=0.05)), h)


def gelu(x: Exporter, h: Tensor) -> Tensor:
    """Apply the exact GELU, ``h * (1 + erf(h / sqrt 2)) * 0.5``, in five nodes."""
    erf = x.op("Erf", x.op("Div", h, x.constant(float(np.sqrt(2.0)))))
    return x.op("Mul", x.op("Mul", h, x.op("Add", erf, x.constant(1.0))), x.constant(0.5))


def layer_norm(x: Exporter, h: Tensor, width: int, *, weight: Tensor | None = None) -> Tensor:
    """Normalise the last axis of ``h`` in nine nodes; ``weight`` [width] may belong to another module."""
    if weight is None:
        weight = x.parameter("weight", 1.0 + x.normal(width, std=0.1))
    h = x.op("Cast", h, to=onnx.TensorProto.FLOAT)
    centred = x.op("Sub", h, x.op("ReduceMean", h, axes=[-1], keepdims=1))
    variance = x.op("ReduceMean", x.op("Pow", centred, x.constant(2.0)), axes=[-1], keepdims=1)
    h = x.op("Div", centred, x.op("Sqrt", x.op("Add", variance, x.constant(1e-5))))
    return x.op("Add", x.op("Mul", h, weight), x.parameter("bias", x.normal(width, std=0.1)))


def size(x: Exporter, h: Tensor, axis: int) -> Tensor:
    """Return the size of one axis as a vector of one element: ``Shape``, ``Gather``, ``Unsqueeze``."""
    return x.op("Unsqueeze", x.op("Gather", x.op("Shape", h), x.constant(axis), axis=0), x.constant([0]))


def reshape(x: Exporter, h: Tensor, *dims: Tensor | int) -> Tensor:
    """Reshape ``h`` to dims that are numbers or one-element vectors from ``size``."""
    vectors = [x.constant([dim]) if isinstance(dim, int) else dim for dim in dims]
    return x.op("Reshape", h, x.op("Concat", *vectors, axis=0))

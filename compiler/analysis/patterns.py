"""Small questions about a node's neighbours, which the reports ask again and again."""

from __future__ import annotations

import math

from compiler.ir.facts import scalar_constant
from compiler.ir.graph import Node, Value

ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Selu", "Softplus", "Softsign")
"""Elementwise functions of one input that follow a product or convolution."""


def producer(node: Node, index: int) -> Node | None:
    """Return the node that computes an operand, ``None`` for inputs, constants and missing operands."""
    value = node.input(index)
    return None if value is None else value.node


def only_user(node: Node) -> Node | None:
    """Return the only node that reads the first output, ``None`` when there are others or a graph returns it."""
    users = node.output.users() if node.outputs else []
    return users[0] if len(users) == 1 and not node.output.is_output else None


def feeds(node: Node, index: int, *ops: str) -> bool:
    """True when an operand comes from one of these operators and nobody else reads it."""
    made = producer(node, index)
    return made is not None and made.is_op(*ops) and only_user(made) is node


def is_scalar(value: Value | None) -> bool:
    """True for a constant of one element."""
    return value is not None and value.constant is not None and value.constant.size == 1


def tail_of(node: Node, length: int = 2) -> list[str]:
    """Return the operators of the only users that follow, one after the other."""
    found: list[str] = []
    user = only_user(node)
    while user is not None and len(found) < length:
        found.append(user.op)
        user = only_user(user)
    return found


def decomposed_layer_norm(node: Node) -> str:
    """Say how a ``Div`` ends ``(x - mean) / sqrt(mean((x - mean)²) + eps)``: ``Pow``, ``Mul``, or not at all."""
    centred, root = producer(node, 0), producer(node, 1)
    if not node.is_op("Div") or centred is None or root is None or not (centred.is_op("Sub") and root.is_op("Sqrt")):
        return ""
    shifted = producer(root, 0)
    means = [producer(shifted, i) for i in (0, 1)] if shifted is not None and shifted.is_op("Add") else []
    mean = next((m for m in means if m is not None and m.is_op("ReduceMean")), None)
    square = producer(mean, 0) if mean is not None else None
    average = producer(centred, 1)
    if square is None or average is None or not average.is_op("ReduceMean"):
        return ""
    if square.is_op("Pow"):
        return "Pow" if scalar_constant(square.input(1)) == 2 else ""
    return "Mul" if square.is_op("Mul") and square.input(0) is square.input(1) else ""


def erf_gelu(node: Node) -> str:
    """Say how an ``Erf`` stands inside of a Gelu: scaled by ``Div`` or by ``Mul``, or not at all."""
    scaled = producer(node, 0)
    if not node.is_op("Erf") or scaled is None or tail_of(node)[:1] != ["Add"]:
        return ""
    factors = [scalar_constant(v) for v in scaled.inputs]
    if scaled.is_op("Div"):
        return "Div" if _near(factors[1], math.sqrt(2)) else ""
    return "Mul" if scaled.is_op("Mul") and any(_near(f, math.sqrt(0.5)) for f in factors) else ""


def _near(value: object, wanted: float) -> bool:
    return isinstance(value, int | float) and abs(value - wanted) < 1e-3

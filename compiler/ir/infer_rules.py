"""What inference rules are made of: the registry, shape arithmetic, and access to operands.

A rule is a function from a node to the types of its outputs.  It may raise ``Contradiction``, or trip over an
operand that is not what the operator wants: the engine then knows nothing of the outputs.  A rule that lacks
information says so by fresh symbols (``Scope.fresh``) or by ``UnrankedType``; it never guesses.

What a rule claims of *static* dims holds in every execution that ONNX Runtime accepts; that symbols of one
name have one value is the model author's claim, which ONNX Runtime does not check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from compiler.ir.dims import Dim, Expr, Func, is_fresh, minimum
from compiler.ir.dtype import DType
from compiler.ir.facts import Contents, at_least, known_contents
from compiler.ir.graph import Model, Node, Value
from compiler.ir.types import UNKNOWN, Shape, TensorType, Type, UnrankedType

MICROSOFT = "com.microsoft"
"""Domain of the operators that ONNX Runtime adds."""

DIM_LIMIT = 1 << 62
"""Static dims of this size or more cannot occur."""

_TERMS_LIMIT = 16
_TEXT_LIMIT = 256


class Contradiction(ValueError):
    """The node cannot be executed as far as inference can tell; nothing is known of its outputs."""


@dataclass(slots=True)
class Scope:
    """Where rules get fresh symbols from; one for each run of inference.

    Equal questions get equal answers within a run: two broadcasts of the same two symbols give the same
    symbol.
    """

    model: Model
    """Model that numbers the symbols."""
    _answers: dict[str, Expr] = field(default_factory=dict)

    def fresh(self) -> Expr:
        """Return a symbol of which nothing is known."""
        return self.model.fresh_dim()

    def fresh_shape(self, rank: int) -> Shape:
        """Return a shape of which only the rank is known."""
        return tuple(self.fresh() for _ in range(rank))

    def answer(self, question: str) -> Expr:
        """Return the symbol that stands for the answer to a question."""
        found = self._answers.get(question)
        if found is None:
            found = self._answers[question] = self.fresh()
        return found

    def bounded(self, dim: Dim) -> Dim:
        """Return the dim, or a symbol for it when the expression got too large to be of use."""
        if isinstance(dim, int):
            return dim if 0 <= dim < DIM_LIMIT else self.fresh()
        if len(dim.terms) > _TERMS_LIMIT or len(dim.text) > _TEXT_LIMIT:
            return self.answer(dim.text)
        return dim

    def product(self, dims: Iterable[Dim]) -> Dim:
        """Return the product of dims, bounded on the way."""
        result: Dim = 1
        for d in dims:
            if isinstance(result, int) and isinstance(d, int):
                result *= d
            else:
                result = self.bounded(result * d)
        return result

    def broadcast(self, *shapes: Shape) -> Shape:
        """Return the shape that multidirectional broadcasting gives; raises ``Contradiction``."""
        result = shapes[0]
        for shape in shapes[1:]:
            result = self._broadcast(result, shape)
        return result

    def _broadcast(self, left: Shape, right: Shape) -> Shape:
        if left == right:
            return left
        if len(left) < len(right):
            left, right = right, left
        skip = len(left) - len(right)
        return left[:skip] + tuple(self.broadcast_dim(a, b) for a, b in zip(left[skip:], right, strict=True))

    def broadcast_dim(self, left: Dim, right: Dim) -> Dim:
        """Return the dim that two dims broadcast to; raises ``Contradiction``."""
        if right in (left, 1):
            return left
        if left == 1:
            return right
        if isinstance(left, int):
            if isinstance(right, int):
                raise Contradiction(f"dims {left} and {right} do not broadcast")
            return left
        if isinstance(right, int):
            return right
        return _only_broadcast(left, right) or self.answer(
            f"broadcast {min(left.text, right.text)}|{max(left.text, right.text)}"
        )


def _only_broadcast(left: Expr, right: Expr) -> Expr | None:
    """Return ``N`` for ``min(N,k)`` with ``N`` where ``k >= 2``: they broadcast only when they are equal."""
    for clamped, dim in ((left, right), (right, left)):
        (monomial, coefficient), *rest = clamped.terms
        atom = monomial[0][0] if monomial else None
        single = not rest and coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1
        if not single or not isinstance(atom, Func) or atom.name != "min" or dim not in atom.args:
            continue
        if all(a == dim or (isinstance(a, int) and a >= 2) for a in atom.args):
            return dim
    return None


def unify(left: Dim, right: Dim) -> Dim:
    """Return what is known of a dim that both are; raises ``Contradiction`` when they are different numbers."""
    if left == right:
        return left
    if isinstance(left, int):
        if isinstance(right, int):
            raise Contradiction(f"dims {left} and {right} must be equal")
        return left
    if isinstance(right, int):
        return right
    return right if is_fresh(left) or (len(right.text) < len(left.text) and not is_fresh(right)) else left


def smallest(left: Dim, right: Dim) -> Dim:
    """Return the smaller of two dims, decided where the signs of symbols decide it."""
    if at_least(left, right):
        return right
    return left if at_least(right, left) else minimum(left, right)


Types: TypeAlias = "Type | Sequence[Type]"
Rule: TypeAlias = Callable[[Node, Scope], Types]

RULES: dict[tuple[str, str], Rule] = {}
"""Rules by domain and operator."""


def rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for operators of a domain."""

    def register(function: Rule) -> Rule:
        for op in ops:
            assert (domain, op) not in RULES, f"two inference rules for {op}"
            RULES[domain, op] = function
        return function

    return register


# Operands and attributes -------------------------------------------------------------------------


def operand(node: Node, index: int) -> Value:
    """Return an operand that must be there; raises ``Contradiction``."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise Contradiction(f"operand {index} is missing")
    return value


def type_of(node: Node, index: int) -> Type:
    """Return an operand's type, unknown when it is missing."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return UNKNOWN if value is None else value.type


def shape_of(node: Node, index: int) -> Shape | None:
    """Return an operand's dims, ``None`` when it is missing or its rank is unknown."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else value.shape


def dtype_at(node: Node, index: int) -> DType:
    """Return an operand's element type, unknown when it is missing."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return DType.UNKNOWN if value is None else value.dtype


def tensor(dtype: DType, shape: Shape | None) -> Type:
    """Return a tensor type; without a shape the rank is unknown."""
    return UnrankedType(dtype) if shape is None else TensorType(dtype, shape)


def has(node: Node, index: int) -> bool:
    """True when an operand is there."""
    return index < len(node.inputs) and node.inputs[index] is not None


def integer(node: Node, name: str, default: int) -> int:
    """Return an integer attribute; raises ``Contradiction`` when it is something else."""
    value = node.attr(name, default)
    if type(value) is not int:
        raise Contradiction(f"attribute {name} is not an integer")
    return value


def integers(node: Node, name: str) -> tuple[int, ...] | None:
    """Return an integer list attribute, ``None`` when it is not set; raises ``Contradiction``."""
    value = node.attr(name)
    if value is None:
        return None
    if not isinstance(value, tuple) or not all(type(v) is int for v in value):
        raise Contradiction(f"attribute {name} is not a list of integers")
    return value


def text(node: Node, name: str, default: str) -> str:
    """Return a string attribute; raises ``Contradiction`` when it is something else."""
    value = node.attr(name, default)
    if not isinstance(value, str):
        raise Contradiction(f"attribute {name} is not a string")
    return value


def dtype_attribute(node: Node, name: str, default: DType) -> DType:
    """Return the element type that an attribute names by its ONNX code; 0 means the default."""
    code = integer(node, name, 0)
    return DType.from_code(code) if code else default


def number_list(node: Node, name: str, index: int) -> Contents | None:
    """Return integers that are an attribute in old versions and an operand in new ones; ``None`` when unknown."""
    found = integers(node, name)
    return found if found is not None else known_contents(node.input(index))


def static_list(node: Node, name: str, index: int) -> tuple[int, ...] | None:
    """Return ``number_list`` when all of it are numbers, else ``None``."""
    found = number_list(node, name, index)
    if found is None or not all(isinstance(d, int) for d in found):
        return None
    return tuple(d for d in found if isinstance(d, int))


def list_length(node: Node, index: int) -> int | None:
    """Return the number of elements of a vector operand, ``None`` when it is not known."""
    shape = shape_of(node, index)
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int):
        return None
    return shape[0] if shape[0] <= 1024 else None


def axis_index(axis: int, rank: int) -> int:
    """Return an axis counted from the front; raises ``Contradiction`` when it is out of range."""
    if not -rank <= axis < rank:
        raise Contradiction(f"axis {axis} of rank {rank}")
    return axis % rank if rank else 0


def axis_indices(axes: Iterable[int], rank: int) -> list[int]:
    """Return axes counted from the front, each once, in the given order; raises ``Contradiction``."""
    return list(dict.fromkeys(axis_index(a, rank) for a in axes))


def with_dim(shape: Shape, axis: int, dim: Dim) -> Shape:
    """Return the shape with one dim replaced."""
    return (*shape[:axis], dim, *shape[axis + 1 :])


def attribute_constant(node: Node, name: str) -> Any:
    """Return a tensor attribute's ``Constant``, ``None`` when it is not set or not a tensor."""
    found = node.attributes.get(name)
    return found.value if found is not None and found.kind == "tensor" else None

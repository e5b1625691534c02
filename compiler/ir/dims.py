"""Dims: integers, or integer expressions over named symbols in a normal form.

A static dim is a plain ``int`` (no wrapper: most dims of most models are static).  A dynamic dim is an ``Expr``: a
polynomial with integer coefficients whose factors are symbols or the functions ``//``, ``%``, ``min``, ``max``.  Two
expressions are equal exactly when their normal forms are, so ``2*H//2 == H`` and ``B*S == S*B`` hold by ``==``.

Symbols that users wrote keep their names, whatever these are (ONNX gives a ``dim_param`` no meaning but its name).
Symbols that ampc made up because nothing is known start with ``?`` and are never written into a model.

Considered and rejected: sympy (2 s to import, simplification with side conditions that do not hold for zero dims).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Monomial: TypeAlias = tuple[tuple["Atom", int], ...]
"""Factors with their powers, sorted by text; the empty tuple is 1."""


@functools.total_ordering
class Func:
    """A function of dims that is not a polynomial: ``//``, ``%``, ``min`` or ``max``."""

    __slots__ = ("_hash", "args", "name", "text")

    def __init__(self, name: str, args: tuple[Dim, ...]) -> None:
        self.name = name
        self.args = args
        self.text = self._render()
        self._hash = hash(self.text)

    def _render(self) -> str:
        if self.name in ("min", "max"):
            return f"{self.name}({', '.join(str(a) for a in self.args)})"
        left, right = (_parenthesised(a) for a in self.args)
        return f"({left} {self.name} {right})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Func) and self.text == other.text

    def __lt__(self, other: Func) -> bool:
        return self.text < other.text

    def __hash__(self) -> int:
        return self._hash


Atom: TypeAlias = str | Func
"""A symbol's name, or a function of dims."""


def _atom_text(atom: Atom) -> str:
    if isinstance(atom, Func):
        return atom.text
    if atom.isascii() and (atom.isidentifier() or (atom[:1] == "?" and atom[1:].isdigit())):
        return atom if atom not in ("min", "max") else f'"{atom}"'
    return '"' + atom.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _atom_key(atom: Atom) -> str:
    return _atom_text(atom)


class Expr:
    """A dynamic dim: a sum of integer multiples of monomials, sorted, without zero terms.

    Build one with ``symbol`` and the operators ``+ - * // %``; an operation whose result is a number returns ``int``.
    Division rounds down; ``exact`` division by a factor cancels, which assumes the divisor is not zero.
    """

    __slots__ = ("_hash", "terms", "text")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self.text = _render(terms)
        self._hash = hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Expr({self.text})"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.text == other.text

    def __add__(self, other: Dim) -> Dim:
        return _sum([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return _sum([(m, -c) for m, c in self.terms])

    def __sub__(self, other: Dim) -> Dim:
        return _sum([*self.terms, *((m, -c) for m, c in _terms(other))])

    def __rsub__(self, other: Dim) -> Dim:
        return _sum([*_terms(other), *((m, -c) for m, c in self.terms)])

    def __mul__(self, other: Dim) -> Dim:
        return _sum([(_times(m, n), c * d) for m, c in self.terms for n, d in _terms(other)])

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floor_div(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floor_div(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return modulo(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return modulo(other, self)

    def symbols(self) -> list[str]:
        """Return the names of the symbols that occur, sorted, each once."""
        found: set[str] = set()
        todo: list[Dim] = [self]
        while todo:
            dim = todo.pop()
            for monomial, _ in _terms(dim):
                for atom, _power in monomial:
                    if isinstance(atom, str):
                        found.add(atom)
                    else:
                        todo.extend(atom.args)
        return sorted(found)

    @property
    def is_symbol(self) -> bool:
        """True when the expression is one symbol and nothing else."""
        (monomial, coefficient), *rest = self.terms
        if rest or coefficient != 1 or len(monomial) != 1:
            return False
        atom, power = monomial[0]
        return power == 1 and isinstance(atom, str)


Dim: TypeAlias = int | Expr
"""A static or a dynamic dim."""


@functools.lru_cache(maxsize=65536)
def symbol(name: str) -> Expr:
    """Return the dim that is the symbol ``name``; the name may be any non-empty text."""
    return Expr(((((name, 1),), 1),))


def is_static(dims: Iterable[Dim]) -> bool:
    """True when every dim is a number."""
    return all(isinstance(d, int) for d in dims)


def is_fresh(dim: Dim) -> bool:
    """True for a symbol that ampc made up."""
    return isinstance(dim, Expr) and dim.is_symbol and dim.text.startswith("?")


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, Expr):
        return dim.terms
    return (((), dim),) if dim else ()


def _times(left: Monomial, right: Monomial) -> Monomial:
    if not left:
        return right
    if not right:
        return left
    powers: dict[Atom, int] = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: _atom_key(item[0])))


def _sum(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    kept = [(m, c) for m, c in total.items() if c]
    if not kept:
        return 0
    if len(kept) == 1 and kept[0][0] == ():
        return kept[0][1]
    kept.sort(key=lambda item: (-sum(p for _, p in item[0]), [(_atom_key(a), -p) for a, p in item[0]]))
    return Expr(tuple(kept))


def _exact_quotient(dim: Dim, divisor: Dim) -> Dim | None:
    """Return ``q`` with ``q * divisor == dim`` when the divisor has one term and divides every term."""
    terms = _terms(divisor)
    if len(terms) != 1:
        return 1 if dim == divisor else None
    monomial, coefficient = terms[0]
    quotient: list[tuple[Monomial, int]] = []
    for m, c in _terms(dim):
        powers = dict(m)
        for atom, power in monomial:
            powers[atom] = powers.get(atom, 0) - power
        if c % coefficient or any(p < 0 for p in powers.values()):
            return None
        left = tuple(sorted(((a, p) for a, p in powers.items() if p), key=lambda item: _atom_key(item[0])))
        quotient.append((left, c // coefficient))
    return _sum(quotient)


def floor_div(dim: Dim, divisor: Dim) -> Dim:
    """Return ``floor(dim / divisor)`` in normal form; a divisor of zero gives zero."""
    if isinstance(dim, int) and isinstance(divisor, int):
        return dim // divisor if divisor else 0
    if divisor == 1 or dim == 0:
        return dim
    exact = _exact_quotient(dim, divisor) if divisor != 0 else 0
    if exact is not None:
        return exact
    if isinstance(divisor, int):  # (a*k + r) // k == a + r // k
        whole = [(m, c // divisor) for m, c in _terms(dim) if c % divisor == 0]
        rest = _sum([(m, c) for m, c in _terms(dim) if c % divisor])
        if whole:
            return _sum([*whole, *_terms(floor_div(rest, divisor))])
    return _function("//", (dim, divisor))


def ceil_div(dim: Dim, divisor: Dim) -> Dim:
    """Return ``ceil(dim / divisor)`` in normal form."""
    return -floor_div(-dim, divisor)


def modulo(dim: Dim, divisor: Dim) -> Dim:
    """Return the remainder with the sign of the divisor, in normal form."""
    if isinstance(dim, int) and isinstance(divisor, int):
        return dim % divisor if divisor else 0
    if divisor == 1 or _exact_quotient(dim, divisor) is not None:
        return 0
    if isinstance(divisor, int) and divisor:
        dim = _sum([(m, c % divisor) for m, c in _terms(dim)])
    if isinstance(dim, int) and isinstance(divisor, int):
        return dim % divisor
    return _function("%", (dim, divisor))


def minimum(*dims: Dim) -> Dim:
    """Return the smallest of the dims; what cannot be decided stays a ``min``."""
    return _extreme("min", dims)


def maximum(*dims: Dim) -> Dim:
    """Return the largest of the dims; what cannot be decided stays a ``max``."""
    return _extreme("max", dims)


def _extreme(name: str, dims: tuple[Dim, ...]) -> Dim:
    pick = min if name == "min" else max
    numbers = [d for d in dims if isinstance(d, int)]
    others = sorted({d.text: d for d in dims if isinstance(d, Expr)}.items())
    rest: list[Dim] = [d for _, d in others]
    if numbers:
        rest.append(pick(numbers))
    return rest[0] if len(rest) == 1 else _function(name, tuple(rest))


def _function(name: str, args: tuple[Dim, ...]) -> Expr:
    return Expr(((((Func(name, args), 1),), 1),))


def product(dims: Iterable[Dim]) -> Dim:
    """Return the product of the dims; 1 for none."""
    result: Dim = 1
    for d in dims:
        result = result * d
    return result


def substitute(dim: Dim, binding: Mapping[str, Dim]) -> Dim:
    """Return the dim with symbols replaced; symbols that are not bound stay."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        part: Dim = coefficient
        for atom, power in monomial:
            value = _substitute_atom(atom, binding)
            for _ in range(power):
                part = part * value
        total = total + part
    return total


def _substitute_atom(atom: Atom, binding: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, str):
        return binding.get(atom, symbol(atom))
    args = tuple(substitute(a, binding) for a in atom.args)
    if atom.name == "//":
        return floor_div(args[0], args[1])
    if atom.name == "%":
        return modulo(args[0], args[1])
    return _extreme(atom.name, args)


def _parenthesised(dim: Dim) -> str:
    text = str(dim)
    simple = isinstance(dim, Expr) and len(dim.terms) == 1 and dim.terms[0][1] == 1 and len(dim.terms[0][0]) == 1
    return text if (isinstance(dim, int) and dim >= 0) or simple else f"({text})"


def _render(terms: tuple[tuple[Monomial, int], ...]) -> str:
    out = ""
    for monomial, coefficient in terms:
        factors = [_atom_text(a) + (f"^{p}" if p > 1 else "") for a, p in monomial]
        if not factors or abs(coefficient) != 1:
            factors.insert(0, str(abs(coefficient)))
        sign = " - " if coefficient < 0 else " + "
        out += (sign if out else ("-" if coefficient < 0 else "")) + "*".join(factors)
    return out

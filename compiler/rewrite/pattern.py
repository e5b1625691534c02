"""The two sides of a rule as the engine uses them: statements, who defines and who reads each name, and the root.

A ``before`` text is one or more forms.  ``optional`` statements multiply a form: each may be there, or its result is
the operand that it passes on.  So the matcher knows one kind of thing only: a list of statements that must all match.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from compiler.ir.dims import Expr
from compiler.ir.grammar import Grammar
from compiler.ir.syntax import DimList, Literal, Operand, Statement, TypeSyntax

FORMS_LIMIT = 64
"""Forms that the optional statements of one text may give."""

COMMUTATIVE = frozenset(
    {"Add", "Mul", "Max", "Min", "Sum", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)
"""Operators of two operands whose order does not matter."""

ANY = "_"
"""The name of the operand ``%_``, which may be anything."""

CONSTANT, ANYTHING = -1, -2
"""What a statement wants of an operand that no other statement makes."""

Written = Operand | Literal | DimList | None
"""What may stand where an operand stands."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """One form: statements in the order of the text; the last one is the root."""

    statements: tuple[Statement, ...]
    grammar: Grammar
    """Places errors in the text."""
    index: int = 0
    """Which text of ``before`` the form is of."""
    skipped: tuple[str, ...] = field(default=())
    """Results of the optional statements that this form leaves out."""
    stands_for: Mapping[str, str] = field(default_factory=dict)
    """Each of them → the name of the operand that it stands for."""

    @property
    def root(self) -> int:
        """Position of the statement that matching starts from."""
        return len(self.statements) - 1

    @cached_property
    def defined(self) -> dict[str, tuple[int, int]]:
        """Name → position of the statement that defines it, and of the output there."""
        return {
            o.name: (i, k)
            for i, s in enumerate(self.statements)
            for k, o in enumerate(s.outputs)
            if o is not None and o.name != ANY
        }

    @cached_property
    def reads(self) -> dict[str, int]:
        """Name → how many operands read it."""
        found: dict[str, int] = {}
        for operand in self.operands():
            found[operand.name] = found.get(operand.name, 0) + 1
        return found

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """Names that statements read and none defines, in order of appearance."""
        return tuple(n for n in self.reads if n not in self.defined and n != ANY)

    @cached_property
    def operators(self) -> tuple[frozenset[str], ...]:
        """The operators that each statement may be."""
        return tuple(operators(s) for s in self.statements)

    @cached_property
    def wants(self) -> tuple[tuple[int, ...], ...]:
        """For each operand of each statement, the position of the statement that makes it, or one of the two below."""
        return tuple(tuple(map(self._want, s.inputs)) for s in self.statements)

    @cached_property
    def unreached(self) -> tuple[int, ...]:
        """Positions of the statements that the root does not lead to through operands."""
        reached: set[int] = set()
        todo = [self.root]
        while todo:
            index = todo.pop()
            if index in reached:
                continue
            reached.add(index)
            for operand in self.statements[index].inputs:
                if isinstance(operand, Operand) and operand.name in self.defined:
                    todo.append(self.defined[operand.name][0])
        return tuple(i for i in range(len(self.statements)) if i not in reached)

    @cached_property
    def types(self) -> tuple[TypeSyntax, ...]:
        """Every type that is written."""
        return tuple(t for s in self.statements for t in types_of(s))

    @cached_property
    def dims(self) -> frozenset[str]:
        """Names of dims that are bound: those that stand alone somewhere."""
        dims = [d for t in self.types for d in t.dims or ()]
        for s in self.statements:
            dims += [d for o in s.inputs if isinstance(o, DimList) for d in o.dims]
            dims += [a.value for a in s.attributes.values() if a.kind == "dim"]
        return frozenset(d.symbols()[0] for d in dims if isinstance(d, Expr) and d.is_symbol)

    def _want(self, written: Written) -> int:
        if isinstance(written, Literal):  # contents in a list may be known of what is no constant
            return ANYTHING if written.nested else CONSTANT
        if not isinstance(written, Operand) or written.optional:
            return ANYTHING
        at = self.defined.get(written.name)
        return at[0] if at is not None else CONSTANT if written.constant else ANYTHING

    def operands(self) -> Iterator[Operand]:
        """Yield every named operand of every statement."""
        for statement in self.statements:
            yield from (o for o in statement.inputs if isinstance(o, Operand))


def types_of(statement: Statement) -> list[TypeSyntax]:
    """Return the types that a statement writes, those of its outputs first."""
    outputs = [o.type for o in statement.outputs if o is not None and o.type is not None]
    return outputs + [o.type for o in statement.inputs if isinstance(o, Operand) and o.type is not None]


def operators(statement: Statement) -> frozenset[str]:
    """Return the operators that a statement may be, with their domain."""
    prefix = f"{statement.domain}::" if statement.domain else ""
    return frozenset(prefix + op for op in (statement.op, *statement.alternatives))


def read_statements(text: str, *, source: str) -> tuple[tuple[Statement, ...], Grammar]:
    """Parse the statements of one text; raises ``ParseError`` with a caret."""
    grammar = Grammar(text, source=source)
    found = []
    while grammar.token.kind != "end":
        found.append(grammar.statement())
    if not found:
        raise grammar.error("a rule needs a statement", 0)
    return tuple(found), grammar


def expand_forms(statements: tuple[Statement, ...], grammar: Grammar, index: int) -> list[Pattern]:
    """Return the forms that optional statements give, those with more statements first."""
    optional = [i for i, s in enumerate(statements) if s.optional]
    if 1 << len(optional) > FORMS_LIMIT:
        raise grammar.error(
            f"{len(optional)} optional statements give more than {FORMS_LIMIT} forms",
            statements[optional[-1]].at,
            hint="absorb one part by a rule of its own",
        )
    forms = []
    for count in range(len(optional) + 1):
        for left_out in itertools.combinations(optional, count):
            forms.append(_without(statements, left_out, grammar, index))
    return forms


def _without(statements: Sequence[Statement], left_out: tuple[int, ...], grammar: Grammar, index: int) -> Pattern:
    alias: dict[str, Operand] = {}
    kept: list[Statement] = []
    above: set[str] = set()
    for i, s in enumerate(statements):
        inputs = tuple(_renamed(o, alias) for o in s.inputs)
        name = s.outputs[0].name if s.outputs and s.outputs[0] is not None else ""
        if i in left_out:
            alias[name] = _passed_on(replace(s, inputs=inputs), above, grammar)
            continue
        kept.append(replace(s, inputs=inputs, optional=False))
        above.update(o.name for o in s.outputs if o is not None)
    return Pattern(tuple(kept), grammar, index, tuple(alias), {name: o.name for name, o in alias.items()})


def _renamed(operand: Written, alias: dict[str, Operand]) -> Written:
    if not isinstance(operand, Operand) or operand.name not in alias:
        return operand
    standing = alias[operand.name]
    return replace(standing, type=operand.type or standing.type, at=operand.at)


def _passed_on(statement: Statement, above: set[str], grammar: Grammar) -> Operand:
    """Return the operand that stands for an optional statement's result when it is not there."""
    named = [o for o in statement.inputs if isinstance(o, Operand) and o.name != ANY]
    for operand in named:
        if operand.name in above:
            return operand
    if not named:
        raise grammar.error("an optional statement needs an operand that it passes on", statement.at)
    return named[0]

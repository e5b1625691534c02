"""Check a rule when it is defined: every name bound, every operator, attribute and operand as its schema has it.

A mistake is a ``ParseError`` with a caret under the place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from compiler.errors import nearest
from compiler.ir.dims import Dim, Expr
from compiler.ir.dtype import DType
from compiler.ir.schema import NEWEST_KNOWN, Schema, is_runtime_operator, schema
from compiler.ir.syntax import DimList, Operand, Run, Statement, TypeSyntax
from compiler.rewrite.pattern import ANY, Pattern, types_of

if TYPE_CHECKING:
    from compiler.rewrite.rule import Rule

_DTYPES = {d.text for d in DType}
_CHECKED_DOMAINS = frozenset({"", "com.microsoft"})


def check_rule(rule: type[Rule]) -> None:
    """Raise ``ParseError`` for the first mistake in a rule."""
    from compiler.rewrite.rule import STAGES

    first = rule.forms[0]
    if not rule.summary():
        hint = "say the theorem in its first line"
        raise first.grammar.error(f"the rule {rule.__name__} has no docstring", 0, hint=hint)
    if rule.stage not in STAGES:
        raise first.grammar.error(f"there is no stage {rule.stage!r}", 0, hint=nearest(rule.stage, list(STAGES)))
    for form in rule.forms:
        _Side(rule, form).check_before()
    _Side(rule, rule.replacement).check_after()


class _Side:
    """One side of a rule under examination."""

    def __init__(self, rule: type[Rule], pattern: Pattern) -> None:
        self.rule, self.pattern = rule, pattern
        self.error = pattern.grammar.error

    def check_before(self) -> None:
        """Check a form that is matched."""
        self._definitions()
        for s in self.pattern.statements if not self.pattern.skipped else ():  # parts of a form are as the whole is
            self._statement(s)
        self._connected()
        self._dims_bound()
        root = self.pattern.statements[self.pattern.root]
        if not any(o is not None and o.name in self.rule.outputs for o in root.outputs):
            raise self.error("the last statement makes nothing that `after` replaces", root.at)

    def check_after(self) -> None:
        """Check what is put in its place."""
        self._definitions()
        defined: set[str] = set()
        for s in self.pattern.statements:
            self._statement(s)
            for operand in s.inputs:
                self._bound(operand, defined)
            self._attributes_bound(s)
            defined.update(o.name for o in s.outputs if o is not None)
        self._all_used()

    # Names ---------------------------------------------------------------------------------------

    def _definitions(self) -> None:
        seen: set[str] = set()
        for s in self.pattern.statements:
            for o in s.outputs:
                if o is None or o.name == ANY:
                    continue
                if o.name in seen:
                    raise self.error(f"%{o.name} is defined twice", o.at)
                seen.add(o.name)

    def _connected(self) -> None:
        """Every statement must be tied to the root by the values that it reads or makes."""
        names = {i: self._names(s) for i, s in enumerate(self.pattern.statements)}
        reached, todo = {self.pattern.root}, [self.pattern.root]
        while todo:
            here = names[todo.pop()]
            for i, other in names.items():
                if i not in reached and here & other:
                    reached.add(i)
                    todo.append(i)
        for i, s in enumerate(self.pattern.statements):
            if i not in reached:
                raise self.error("this statement has nothing to do with the last one", s.at)
            made = {o.name for o in s.outputs if o is not None}
            if i != self.pattern.root and not made & (set(self.pattern.reads) | self.rule.outputs):
                raise self.error("nothing reads what this statement makes, and `after` does not define it", s.at)

    @staticmethod
    def _names(s: Statement) -> set[str]:
        read = {o.name for o in s.inputs if isinstance(o, Operand) and o.name != ANY}
        return read | {o.name for o in s.outputs if o is not None}

    def _bound(self, operand: Any, defined: set[str]) -> None:
        if isinstance(operand, DimList):
            self._known_dims(operand.dims, operand.at)
        if not isinstance(operand, Operand) or operand.name in defined:
            return
        name = operand.name
        if name == ANY:
            raise self.error("%_ stands for nothing here", operand.at)
        if operand.constant and name not in self.rule.bound:
            if not _overrides(self.rule, "constants"):
                raise self.error(f"%{name} is computed by `constants`, which the rule does not define", operand.at)
            return
        if name not in self.rule.bound:
            raise self.error(f"%{name} is not bound", operand.at, hint=nearest(name, sorted(self.rule.bound)))
        missing = [f for f in self.rule.forms if not (name in f.defined or name in f.leaves or name in f.stands_for)]
        if missing and not operand.optional:
            raise self.error(f"%{name} is not bound in every form", operand.at, hint=f"write %{name}?")

    def _attributes_bound(self, s: Statement) -> None:
        matched = [a for f in self.rule.forms for t in f.statements for a in t.attributes.values()]
        variables = {a.value for a in matched if a.kind == "variable"}
        for a in s.attributes.values():
            if a.kind == "variable" and a.value not in variables and not _overrides(self.rule, "constants"):
                raise self.error(f"${a.value} is not bound", a.at)
            if a.kind == "operand" and a.value.name not in self.rule.bound:
                raise self.error(f"%{a.value.name} is not bound", a.at)
            if a.kind == "dim":
                self._known_dims((a.value,), a.at)

    def _known_dims(self, dims: Iterable[Dim], at: int) -> None:
        for name in symbols(dims):
            if not any(name in f.dims for f in self.rule.forms):
                known = {n for f in self.rule.forms for n in f.dims}
                raise self.error(f"the dim {name} is not bound", at, hint=nearest(name, sorted(known)) if known else "")

    def _dims_bound(self) -> None:
        for written in self.pattern.types:
            for name in symbols(d for d in written.dims or () if not isinstance(d, Run)):
                if name not in self.pattern.dims:
                    raise self.error(f"the dim {name} stands only in expressions", written.at)

    def _all_used(self) -> None:
        for s in self.pattern.statements:
            made = {o.name for o in s.outputs if o is not None}
            if not made & (set(self.pattern.reads) | self.rule.outputs):
                raise self.error("nothing reads what this statement makes", s.at)

    # Operators -----------------------------------------------------------------------------------

    def _statement(self, s: Statement) -> None:
        for written in types_of(s):
            self._type(written)
        for op in (s.op, *s.alternatives):
            self._operator(s, op)

    def _type(self, written: TypeSyntax) -> None:
        if written.head not in self.rule.types and written.head not in _DTYPES:
            hint = nearest(written.head, [*self.rule.types, *sorted(_DTYPES)])
            raise self.error(f"{written.head!r} is no element type and not among `types`", written.at, hint=hint)
        if sum(isinstance(d, Run) for d in written.dims or ()) > 1:
            raise self.error("a type has at most one run of dims", written.at)

    def _operator(self, s: Statement, op: str) -> None:
        if s.domain not in _CHECKED_DOMAINS:
            return
        definition = schema(s.domain, op, s.version or NEWEST_KNOWN)
        if definition is None:
            if not is_runtime_operator(s.domain, op):
                raise self.error(f"there is no operator {op!r}", s.at)
            return
        if not definition.min_input <= len(s.inputs) <= definition.max_input and not _any_behind(s, definition):
            raise self.error(
                f"{op} takes {_span(definition.min_input, definition.max_input)} operands, not {len(s.inputs)}", s.at
            )
        if len(s.outputs) > definition.max_output:
            raise self.error(f"{op} has at most {definition.max_output} outputs", s.at)
        for name, a in s.attributes.items():
            if name not in definition.attributes:
                hint = nearest(name, list(definition.attributes)) if definition.attributes else "it has none"
                raise self.error(f"{op} has no attribute {name!r}", a.at, hint=hint)


def _any_behind(s: Statement, definition: Schema) -> bool:
    """True when the operands beyond the last of the schema may be missing."""
    return all(isinstance(o, Operand) and o.name == ANY for o in s.inputs[definition.max_input :])


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}" if high < 100 else f"at least {low}"


def _overrides(rule: type[Rule], hook: str) -> bool:
    return any(hook in vars(c) for c in rule.__mro__ if c.__name__ != "Rule" and c is not object)


def symbols(dims: Iterable[Any]) -> list[str]:
    """Return the names that occur in dims."""
    return [name for d in dims if isinstance(d, Expr) for name in d.symbols()]

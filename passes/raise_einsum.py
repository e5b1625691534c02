"""Write ``Einsum`` as the operators that its equation means: ``MatMul``, ``Mul``, ``ReduceSum`` and ``Transpose``.

A pass rather than rules, since an equation may name its letters as it likes, and the forms are many.  With two operands
each letter belongs to one class, by where it stands:

* in both operands and the result: *batch*; in both, not in the result: *contracted*;
* in one operand and the result: *free*; in one operand only: *summed*, by ``ReduceSum`` before anything else.

Theorem.  With contracted letters, the result is the ``MatMul`` of the first operand, with its letters in the order
batch, free, contracted, and the second, in the order batch, contracted, free, up to the order of the result's letters.
Without, it is the ``Mul`` of both operands, each with a dim of one where it lacks a letter of the result.  Without free
letters, the product over the contracted ones is ``Mul`` and ``ReduceSum``.

Decisions:

* A contracted letter must have the same dim in both operands, symbol by symbol: runtimes stretch a dim of one.
* Several free letters beside batch letters are left alone: runtimes merge them into fewer, larger products, which
  ``MatMul`` would need reshapes to runtime shapes for.  Without batch letters the second operand is reshaped to a
  matrix, which costs nothing when it is constant; so a constant is the second operand, as in a linear layer.
* A vector becomes a matrix of one column: ONNX Runtime 1.32 computes ``MatMul`` of a transposed matrix and a vector
  wrongly, since its fusion with the transpose forgets that case.
* One operand or two; letters that repeat within an operand (diagonals) are left alone.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dims import Dim, is_static, product
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Node, Value
from compiler.ir.types import Shape, TensorType
from compiler.rewrite.transform import Context, Pass
from passes.node_forms import is_current, let_stand_for, open_graphs

_ELLIPSIS = "..."
_SPARE = string.digits
"""Stand for the dims of an ellipsis, which letters cannot."""


@dataclass(frozen=True)
class RaiseEinsum(Pass):
    """Write Einsum as MatMul, Mul, ReduceSum and Transpose, which other rewrites know."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Visit every Einsum once."""
        changed = False
        for g in open_graphs(graph):
            for node in g.nodes():
                if not is_current(node, "Einsum"):
                    continue
                reason = _rewrite(node)
                if reason:
                    ctx.refuse(f"raise-einsum: {reason}")
                    continue
                ctx.count("Einsum")
                changed = True
        return changed


@dataclass(frozen=True, slots=True)
class _Term:
    """A tensor and the letters of its dims."""

    value: Value
    letters: str

    @property
    def shape(self) -> Shape:
        """Its dims."""
        kind = self.value.type
        assert isinstance(kind, TensorType)
        return kind.shape

    def dim(self, letter: str) -> Dim:
        """Return the dim of a letter."""
        return self.shape[self.letters.index(letter)]


def _rewrite(node: Node) -> str:
    """Replace an Einsum; return why not, or nothing."""
    found = _operands(node)
    if isinstance(found, str):
        return found
    terms, out = found
    if len(terms) == 2:
        terms = _matrix_last(terms, out)
        classes = _Classes.of(terms[0].letters, terms[1].letters, out)
        reason = _disagreement(terms[0], terms[1], out) or _unfit(classes, terms[1])
        if reason:
            return reason
    build = _Build(node)
    kept = [build.summed(t, out + "".join(u.letters for u in terms if u is not t)) for t in terms]
    if len(kept) == 2:
        kept = [build.combined(kept[0], kept[1], classes, out)]
    build.finish(kept[0], out)
    return ""


def _operands(node: Node) -> tuple[list[_Term], str] | str:
    """Return the operands of an Einsum with their letters, and the letters of the result, or why they cannot be had."""
    values = [v for v in node.inputs if v is not None]
    if not isinstance(node.output.type, TensorType) or not all(isinstance(v.type, TensorType) for v in values):
        return "a rank is not known"
    if not 1 <= len(values) <= 2:
        return f"it has {len(values)} operands"
    written, out = read_equation(str(node.attr("equation", "")), [v.rank or 0 for v in values])
    if len(written) != len(values) or set(out) - set("".join(written)):
        return "the equation does not fit the operands"
    if any(len(set(t)) < len(t) for t in (*written, out)):
        return "a letter repeats within an operand"
    terms = [_Term(v, t) for v, t in zip(values, written, strict=True)]
    if any(len(t.shape) != len(t.letters) or 0 in t.shape for t in terms):
        return "the equation does not fit the operands, or they are empty"
    return terms, out


def read_equation(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result; an ellipsis becomes digits, counted from the last dim.

    Without an arrow, the result has the dims of the ellipsis, then the letters that occur once, in alphabetical order.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    written = left.split(",")
    counts = [rank - len(t.replace(_ELLIPSIS, "")) for t, rank in zip(written, ranks, strict=False)]
    spare = max((n for t, n in zip(written, counts, strict=False) if _ELLIPSIS in t), default=0)
    if not 0 <= spare <= len(_SPARE) or any(n < 0 for n in counts):
        return [], ""
    terms = [t.replace(_ELLIPSIS, _SPARE[spare - n : spare]) for t, n in zip(written, counts, strict=False)]
    if arrow:
        return terms, right.replace(_ELLIPSIS, _SPARE[:spare])
    everything = left.replace(",", "").replace(".", "")
    return terms, _SPARE[:spare] + "".join(sorted(c for c in set(everything) if everything.count(c) == 1))


def _matrix_last(terms: Sequence[_Term], out: str) -> list[_Term]:
    """Return the operands with the one second that is constant, else the one with fewer free letters."""
    first, second = terms
    constant = [t.value.constant is not None for t in terms]
    free = [sum(c in out and c not in u.letters for c in t.letters) for t, u in ((first, second), (second, first))]
    turn = constant[0] if constant[0] != constant[1] else free[0] < 2 <= free[1]
    return [second, first] if turn else [first, second]


def _disagreement(first: _Term, second: _Term, out: str) -> str:
    """Return which contracted letter has two dims; those of batch letters broadcast in products as they do here."""
    for letter in first.letters:
        if letter in second.letters and letter not in out and first.dim(letter) != second.dim(letter):
            return f"{letter} is {first.dim(letter)} in one operand and {second.dim(letter)} in the other"
    return ""


@dataclass(frozen=True, slots=True)
class _Classes:
    """The letters of two operands by where they stand, each class in the order of the first operand that has it."""

    batch: str
    contracted: str
    rows: str
    """Free letters of the first operand."""
    columns: str
    """Free letters of the second operand."""

    @classmethod
    def of(cls, first: str, second: str, out: str) -> _Classes:
        """Sort the letters of two operands."""
        both = [c for c in first if c in second]
        return cls(
            "".join(c for c in both if c in out),
            "".join(c for c in both if c not in out),
            "".join(c for c in first if c in out and c not in both),
            "".join(c for c in second if c in out and c not in both),
        )


def _unfit(classes: _Classes, second: _Term) -> str:
    """Return why one product of matrices does not give the result."""
    if not classes.contracted or not (classes.rows or classes.columns):
        return ""
    if classes.batch and max(len(classes.rows), len(classes.columns), len(classes.contracted)) > 1:
        return "it has several free or contracted letters beside batch letters"
    merged = [second.dim(c) for letters in (classes.contracted, classes.columns) if len(letters) > 1 for c in letters]
    return "" if is_static(merged) else "a dim that must be merged is symbolic"


@dataclass(slots=True)
class _Build:
    """Puts nodes in the place of one Einsum."""

    node: Node

    def summed(self, term: _Term, kept: str) -> _Term:
        """Sum over the letters that nothing else has."""
        axes = [i for i, c in enumerate(term.letters) if c not in kept]
        if not axes:
            return term
        letters = "".join(c for c in term.letters if c in kept)
        shape = tuple(term.dim(c) for c in letters)
        value = self._add("ReduceSum", [term.value, self._ints(axes)], shape, {"keepdims": Attr("int", 0)})
        return _Term(value, letters)

    def combined(self, first: _Term, second: _Term, by: _Classes, out: str) -> _Term:
        """Return the product of two operands with the letters of the result, in some order."""
        if not by.contracted:
            return self.scaled(first, second, out)
        if by.rows or by.columns:
            return self.product(first, second, by)
        return self.summed(self.scaled(first, second, by.batch + by.contracted), by.batch)

    def product(self, first: _Term, second: _Term, by: _Classes) -> _Term:
        """Return the product over the contracted letters, with the letters in the order batch, rows, columns."""
        lead = len(by.batch)
        left = self._ordered(first, by.batch + by.rows + by.contracted)
        left = self._merged(left, lead + len(by.rows), len(by.contracted))
        right = self._merged(self._ordered(second, by.batch + by.contracted + by.columns), lead, len(by.contracted))
        right = self._merged(right, lead + 1, len(by.columns))
        if not by.rows:
            left = self._with_one(left, lead)
        if not by.columns:
            right = self._with_one(right, lead + 1)
        shape = tuple(self.dim(c, first, second) for c in by.batch + by.rows + by.columns)
        batch = shape[:lead]
        value = self._add("MatMul", [left.value, right.value], (*batch, *left.shape[lead:-1], *right.shape[lead + 1 :]))
        ones = [axis for axis, letters in ((lead, by.rows), (-1, by.columns)) if not letters]
        if ones:
            value = self._add("Squeeze", [value, self._ints(ones)], shape)
        if len(by.columns) > 1:
            sizes = [d for d in shape[-len(by.columns) :] if isinstance(d, int)]
            value = self._add("Reshape", [value, self._ints([0] * len(by.rows) + sizes)], shape)
        return _Term(value, by.batch + by.rows + by.columns)

    def scaled(self, first: _Term, second: _Term, out: str) -> _Term:
        """Return the elementwise product, in the order of the result."""
        factors = [self._spread(t, out) for t in (first, second)]
        shape = tuple(self.dim(c, first, second) for c in out)
        return _Term(self._add("Mul", factors, shape), out)

    @staticmethod
    def dim(letter: str, first: _Term, second: _Term) -> Dim:
        """Return the dim of a letter in the result: that of the operand that is not stretched."""
        found = [t.dim(letter) for t in (first, second) if letter in t.letters]
        return found[0] if found[0] != 1 else found[-1]

    def finish(self, term: _Term, out: str) -> None:
        """Let a term, in the order of the result, stand for it."""
        let_stand_for(self.node, self._ordered(term, out).value)

    # Steps ---------------------------------------------------------------------------------------

    def _ordered(self, term: _Term, letters: str) -> _Term:
        if term.letters == letters:
            return term
        perm = tuple(term.letters.index(c) for c in letters)
        shape = tuple(term.shape[i] for i in perm)
        return _Term(self._add("Transpose", [term.value], shape, {"perm": Attr("ints", perm)}), letters)

    def _merged(self, term: _Term, start: int, count: int) -> _Term:
        """Merge ``count`` static dims from ``start``, behind which at most one dim is symbolic."""
        if count < 2:
            return term
        before, merged, behind = term.shape[:start], term.shape[start : start + count], term.shape[start + count :]
        target = [0] * start + [d if isinstance(d, int) else -1 for d in (product(merged), *behind)]
        shape = (*before, product(merged), *behind)
        letters = term.letters[: start + 1] + term.letters[start + count :]
        return _Term(self._add("Reshape", [term.value, self._ints(target)], shape), letters)

    def _with_one(self, term: _Term, axis: int) -> _Term:
        shape = (*term.shape[:axis], 1, *term.shape[axis:])
        letters = term.letters[:axis] + " " + term.letters[axis:]
        return _Term(self._add("Unsqueeze", [term.value, self._ints([axis])], shape), letters)

    def _spread(self, term: _Term, out: str) -> Value:
        """Return a tensor that broadcasts along the letters of the result that it lacks."""
        ordered = self._ordered(term, "".join(c for c in out if c in term.letters))
        lead = out.index(ordered.letters[0]) if ordered.letters else len(out)
        axes = [i - lead for i, c in enumerate(out) if i > lead and c not in term.letters]
        if not axes:
            return ordered.value
        shape = tuple(term.dim(c) if c in term.letters else 1 for c in out[lead:])
        return self._add("Unsqueeze", [ordered.value, self._ints(axes)], shape)

    def _ints(self, numbers: Sequence[int]) -> Value:
        assert self.node.graph is not None
        return edit.add_constant(self.node.graph, Constant.of(list(numbers), DType.I64), hint="dims")

    def _add(self, op: str, inputs: Sequence[Value], shape: Shape, attributes: dict[str, Attr] | None = None) -> Value:
        graph, name = self.node.graph, self.node.output.name
        assert graph is not None
        made = edit.add_node(
            graph,
            op,
            inputs,
            [TensorType(self.node.output.dtype, shape)],
            attributes,
            version=edit.latest_version(graph.model),
            before=self.node,
            names=[f"{name}_{op.lower()}"],
            loc=edit.merge_locs([self.node], RaiseEinsum.name),
        )
        return made.output

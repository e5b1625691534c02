"""Which lowering rules pay on this model: what they matched, cut out and timed before and after.

Rules whose gain is known to be clear, one way or the other, are not timed.  For the others the pipeline runs once with
all of them admitted; each rewrite is cut out as two small models, and rewrites that differ in nothing but names and
weights are timed once.  A rule is taken when all of its fragments together are faster, left out when they are slower,
and stays as it was when that cannot be told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.backend.fragment import fragment
from compiler.cost.work import Sizes
from compiler.errors import AmpcError
from compiler.ir import edit
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Model, Node, Value
from compiler.ir.types import TensorType
from compiler.measure.intervals import CONFIDENCE, Interval, verdict

if TYPE_CHECKING:
    from compiler.measure.comparisons import Comparison
    from compiler.rewrite.engine import Rewrite

CLEAR = (0.75, 1.35)
"""Known gains outside of these bounds need no measuring."""

_LARGEST = 64 << 20
"""Elements of all inputs of a fragment that is timed."""

_KINDS = "fiub"
"""Kinds of element types that inputs are drawn for."""


def idle_model() -> Model:
    """Return a model that does next to nothing, by which it is known what a run costs besides its nodes."""
    model = Model(opsets={"": 17})
    model.graph = edit.new_graph("idle", model)
    given, made = (Value(name, TensorType(DType.F32, (1,))) for name in ("x", "y"))
    edit.add_input(model.graph, given)
    edit.attach(model.graph, Node("Identity", (given,), (made,), version=1))
    edit.add_output(model.graph, made)
    return model


def uncertain(rules: Iterable[str], gains: Mapping[str, float]) -> frozenset[str]:
    """Return the rules whose gain is not known, or too near to 1."""
    return frozenset(name for name in rules if CLEAR[0] < gains.get(name, 1.0) < CLEAR[1])


@dataclass(slots=True)
class Pair:
    """A rewrite as two models, and how often it occurs."""

    rule: str
    """The rule's name."""
    key: str
    """What it is, but for names and weights."""
    before: Model
    """What matched."""
    after: Model
    """What replaces it."""
    feeds: Mapping[str, Any]
    """Inputs for both."""
    elements: int
    """Elements that the matched nodes make."""
    sides: tuple[Sequence[Node], Sequence[Node]] | None
    """The nodes of both models, where these hold all that goes and all that comes, and nothing else."""
    count: int = 1
    """How often it occurs."""

    @property
    def weight(self) -> int:
        """How much the pair counts for its rule: the elements of all of its occurrences, and each at least a little."""
        return self.count * (self.elements + 1)


@dataclass(slots=True)
class Fragments:
    """Collects the rewrites of some rules as pairs; it is told of each rewrite just before it happens."""

    rules: frozenset[str]
    """The rules whose rewrites are kept."""
    sizes: Sizes
    """Sizes of dynamic dims."""
    pairs: dict[str, Pair] = field(default_factory=dict)
    """Key → pair."""
    left_out: dict[str, None] = field(default_factory=dict)
    """Why some rewrites cannot be timed apart."""

    def rewrote(self, rewrite: Rewrite) -> None:
        """Cut out a rewrite."""
        if rewrite.rule not in self.rules:
            return
        try:
            self._keep(rewrite)
        except (AmpcError, _CannotCut) as error:
            self.left_out[f"{rewrite.rule}: {error}"] = None

    def ordered(self) -> list[Pair]:
        """Return the pairs: of each rule the one that makes most, then the second of each, and so on."""
        ranks: dict[str, int] = {}
        ordered = []
        for pair in sorted(self.pairs.values(), key=lambda p: (-p.weight, p.rule, p.key)):
            ranks[pair.rule] = ranks.get(pair.rule, 0) + 1
            ordered.append((ranks[pair.rule], pair))
        return [pair for _, pair in sorted(ordered, key=lambda item: item[0])]

    def _keep(self, rewrite: Rewrite) -> None:
        match, made = rewrite.match, rewrite.made
        old = _sorted(match.nodes())
        names = [n for n in sorted(match.rule.outputs) if match.get(n) is not None]
        outputs, results = [match[n] for n in names], [made.values.get(n) for n in names]
        kept = [o for n in old for o in n.outputs if o not in outputs and any(u not in old for u in o.users())]
        new = [*_closure(old, kept), *made.nodes]
        if any(v is None for v in results):
            raise _CannotCut("it gives no value for one of its outputs")
        pairs = [(outputs + kept, old), ([v for v in results if v is not None] + kept, new)]
        inputs = list(dict.fromkeys(v for _, nodes in pairs for v in _read(nodes)))
        key = _key(rewrite.rule, [(nodes, outs) for outs, nodes in pairs], self.sizes)
        known = self.pairs.get(key)
        if known is not None:
            known.count += 1
            return
        feeds = {v.name: _draw(v, self.sizes) for v in inputs}
        model = match.root.graph.model if match.root.graph is not None else Model()
        ports = [(v, v.type) for v in inputs]
        named = [f"result{i}" for i in range(len(outputs) + len(kept))]
        before, after = (
            fragment(nodes, inputs=ports, outputs=outs, like=model, names=named) for outs, nodes in pairs
        )
        elements = sum(self.sizes.elements(o) for n in old for o in n.outputs)
        copies = tuple(list(m.graph.nodes())[: -len(named)] for m in (before, after))
        sides = None if kept or not all(copies) else (copies[0], copies[1])
        self.pairs[key] = Pair(rewrite.rule, key, before, after, feeds, elements, sides)


class _CannotCut(Exception):
    """A rewrite that does not stand alone."""


def _sorted(nodes: Sequence[Node]) -> list[Node]:
    """Return nodes such that each comes after those that it reads."""
    waiting, done = dict.fromkeys(nodes), dict[Node, None]()

    def visit(node: Node) -> None:
        waiting.pop(node, None)
        for value in node.inputs:
            if value is not None and value.node in waiting:
                visit(value.node)
        done[node] = None

    while waiting:
        visit(next(iter(waiting)))
    return list(done)


def _closure(nodes: Sequence[Node], values: Sequence[Value]) -> list[Node]:
    """Return those of some nodes that values are made from, in order."""
    wanted, found = set(values), []
    for node in reversed(nodes):
        if any(o in wanted for o in node.outputs):
            found.append(node)
            wanted.update(v for v in node.inputs if v is not None)
    return found[::-1]


def _read(nodes: Sequence[Node]) -> list[Value]:
    """Return the values that nodes read and do not make, constants apart."""
    made = {o for n in nodes for o in n.outputs}
    read = dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v.constant is None and v not in made)
    if any(n.graphs() for n in nodes):
        raise _CannotCut("it holds nested graphs")
    return list(read)


def _draw(value: Value, sizes: Sizes) -> Any:
    """Return contents for an input; raises ``_CannotCut`` where none can be made."""
    shape = sizes.shape(value)
    dtype = value.dtype.numpy if isinstance(value.type, TensorType) else None
    if shape is None or dtype is None or dtype.kind not in _KINDS:
        raise _CannotCut(f"its input {value!r} cannot be drawn")
    if sizes.elements(value) > _LARGEST:
        raise _CannotCut(f"its input {value!r} is too large")
    rng = np.random.default_rng(0)
    if dtype.kind == "f":
        return rng.standard_normal(shape, np.float32).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


# Keys --------------------------------------------------------------------------------------------


def _key(rule: str, sides: Sequence[tuple[Sequence[Node], Sequence[Value]]], sizes: Sizes) -> str:
    """Return a digest of a rewrite: operators, attributes, sizes, and constants that are not weights."""
    writer = _Writer(sizes)
    writer.lines.append(rule)
    for nodes, outputs in sides:
        for node in nodes:
            writer.node(node)
        writer.lines.append("gives " + ",".join(writer.value(v) for v in outputs))
    return hashlib.blake2b("\n".join(writer.lines).encode(errors="surrogatepass"), digest_size=20).hexdigest()


class _Writer:
    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.lines: list[str] = []
        self._numbers: dict[Value, int] = {}

    def node(self, node: Node) -> None:
        inputs = ",".join("_" if v is None else self.value(v) for v in node.inputs)
        outputs = ",".join("" if o.absent else self.value(o) for o in node.outputs)
        attributes = ",".join(f"{k}={_attribute(node.attributes[k])}" for k in sorted(node.attributes))
        self.lines.append(f"{outputs}={node.domain}::{node.op}.{node.version}({inputs}){{{attributes}}}")

    def value(self, value: Value) -> str:
        number = self._numbers.get(value)
        if number is not None:
            return f"%{number}"
        number = self._numbers[value] = len(self._numbers)
        text = f"%{number}:{value.dtype}{list(self.sizes.shape(value) or ())}"
        constant = value.constant
        if constant is None:
            return text
        weight = constant.size > 1 and value.dtype.numpy.kind == "f"
        return f"{text} weight" if weight or not constant.is_readable else f"{text}={constant.digest()}"


def _attribute(attr: Attr) -> str:
    return attr.value.digest() if attr.kind == "tensor" else repr(attr.value)


# Gains -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleGain:
    """What a rule gains on this model: time before over time after, all of its rewrites together."""

    rule: str
    """The rule's name."""
    gain: float
    """The ratio of medians."""
    low: float
    """The ratio at the lower bounds of all fragments."""
    high: float
    """The ratio at the upper bounds of all fragments."""
    fragments: int
    """Different fragments that were timed."""
    rewrites: int
    """Rewrites that they stand for."""

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, ``same``, or ``cannot tell``."""
        return verdict(Interval(self.gain, self.low, self.high, CONFIDENCE))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        numbers = {"gain": round(self.gain, 4), "low": round(self.low, 4), "high": round(self.high, 4)}
        counts = {"fragments": self.fragments, "rewrites": self.rewrites}
        return {"rule": self.rule, **numbers, **counts, "verdict": self.verdict}


def gains_of(
    found: Iterable[tuple[Pair, Comparison]], missed: Iterable[Pair]
) -> tuple[dict[str, RuleGain], list[str]]:
    """Return the gain of each rule by name, and the rules of which it is not known.

    It is known when the pairs that were timed weigh as much as those that were not.
    """
    by_rule: dict[str, list[tuple[Pair, Comparison]]] = {}
    balance: dict[str, int] = {}
    for pair, comparison in found:
        by_rule.setdefault(pair.rule, []).append((pair, comparison))
        balance[pair.rule] = balance.get(pair.rule, 0) + pair.weight
    for pair in missed:
        balance[pair.rule] = balance.get(pair.rule, 0) - pair.weight
    known = [rule for rule in sorted(balance) if balance[rule] >= 0]
    return {rule: _gain(rule, by_rule[rule]) for rule in known}, [r for r in sorted(balance) if balance[r] < 0]


def _gain(rule: str, found: Sequence[tuple[Pair, Comparison]]) -> RuleGain:
    before = sum(p.count * c.before_us for p, c in found)

    def over(ratios: Iterable[float]) -> float:
        return before / sum(p.count * c.before_us / max(r, 1e-6) for (p, c), r in zip(found, ratios, strict=True))

    value, low, high = (over(getattr(c.ratio, end) for _, c in found) for end in ("value", "low", "high"))
    return RuleGain(rule, value, low, high, len(found), sum(p.count for p, _ in found))

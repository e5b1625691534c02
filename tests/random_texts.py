"""Random models in IR text: shapes with a symbol, clutter as exporters leave it, branches that capture values."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SHAPES = (("N", 4, 6), ("N", 24), (4, "N", 6), ("N", 1, 4, 6))
"""Shapes that values take: all of them have ``24 * N`` elements."""

UNARY = ("Relu", "Neg", "Abs", "Sigmoid", "Identity", "Floor", "Exp")
BINARY = ("Add", "Mul", "Sub", "Max")


@dataclass
class Text:
    """A model that grows statement by statement."""

    random: random.Random
    lines: list[str] = field(default_factory=list)
    visible: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)
    count: int = 0

    def name(self) -> str:
        """Return a new name."""
        self.count += 1
        return f"v{self.count}"

    def emit(self, shape: tuple[object, ...], call: str, dtype: str = "f32") -> str:
        """Add a statement and return the name of its value."""
        name = self.name()
        self.lines.append(f"%{name}: {dtype}[{','.join(map(str, shape))}] = {call}")
        if dtype == "f32":
            self.visible.append((name, shape))
        return name

    def const(self, dtype: str, shape: str, contents: object) -> str:
        """Add a constant and return its name."""
        name = self.name()
        self.lines.append(f"const %{name}: {dtype}[{shape}] = {contents}")
        return name

    def pick(self, shape: tuple[object, ...] | None = None) -> tuple[str, tuple[object, ...]]:
        """Return a value, recent ones more often than old ones."""
        fitting = [v for v in self.visible if shape is None or v[1] == shape]
        return fitting[-1 - min(int(self.random.expovariate(0.4)), len(fitting) - 1)]


def unary(t: Text) -> None:
    """Add an elementwise operator."""
    name, shape = t.pick()
    t.emit(shape, f"{t.random.choice(UNARY)}(%{name})")


def binary(t: Text) -> None:
    """Add an operator on two values of one shape."""
    name, shape = t.pick()
    t.emit(shape, f"{t.random.choice(BINARY)}(%{name}, %{t.pick(shape)[0]})")


def with_scalar(t: Text) -> None:
    """Add an operator on a constant, which may be neutral and may stand first."""
    name, shape = t.pick()
    scalar = t.const("f32", *t.random.choice([("", "0.0"), ("1", "[1.0]"), ("", "2.0")]))
    operands = [f"%{name}", f"%{scalar}"]
    if t.random.random() < 0.5:
        operands.reverse()
    t.emit(shape, f"{t.random.choice(BINARY)}({', '.join(operands)})")


def transpose(t: Text) -> None:
    """Add a transpose from one known shape to another one."""
    name, shape = t.pick()
    if shape in (SHAPES[0], SHAPES[2]):
        t.emit((shape[1], shape[0], shape[2]), f"Transpose(%{name}) {{perm = [1, 0, 2]}}")


def reshape(t: Text) -> None:
    """Add a reshape between shapes whose first dim is the symbol, to a constant or a computed target."""
    name, shape = t.pick()
    target = t.random.choice([s for s in SHAPES if s[0] == "N"])
    if shape[0] != "N":
        return
    rest = [d for d in target if d != "N"]
    if t.random.random() < 0.5:
        constant = t.const("i64", str(len(target)), [0 if t.random.random() < 0.5 else -1, *rest])
        t.emit(target, f"Reshape(%{name}, %{constant})")
        return
    whole = t.emit((len(shape),), f"Shape(%{name})", "i64")
    zero, one = t.const("i64", "1", [0]), t.const("i64", "1", [1])
    first = t.emit((1,), f"Slice(%{whole}, %{zero}, %{one})", "i64")
    tail = t.const("i64", str(len(rest)), rest)
    built = t.emit((len(target),), f"Concat(%{first}, %{tail}) {{axis = 0}}", "i64")
    t.emit(target, f"Reshape(%{name}, %{built})")


def casts(t: Text) -> None:
    """Add a cast to another type and back."""
    name, shape = t.pick()
    code, dtype = t.random.choice([(11, "f64"), (10, "f16"), (1, "f32")])
    wide = t.emit(shape, f"Cast(%{name}) {{to = {code}}}", dtype)
    t.emit(shape, f"Cast(%{wide}) {{to = 1}}")


def split_and_concat(t: Text) -> None:
    """Split along the last axis and put the parts together, in either order."""
    name, shape = t.pick(t.random.choice([s for s in {s: 0 for _, s in t.visible} if s[-1] == 6] or [t.visible[0][1]]))
    sizes = t.const("i64", "2", [2, 4])
    parts = [t.name(), t.name()]
    front = ",".join(map(str, shape[:-1]))
    t.lines.append(f"%{parts[0]}: f32[{front},2], %{parts[1]}: f32[{front},4] = Split(%{name}, %{sizes}) {{axis = -1}}")
    if t.random.random() < 0.5:
        parts.reverse()
    t.emit(shape, f"Concat(%{parts[0]}, %{parts[1]}) {{axis = {len(shape) - 1}}}")


def branch(t: Text) -> None:
    """Add an ``If`` on an input or a constant, whose branches read values from outside."""
    name, shape = t.pick()
    condition = t.random.choice(["c", t.const("bool", "", t.random.choice(["true", "false"]))])
    graphs = []
    for which in ("else", "then"):
        inner = Text(t.random, [], list(t.visible), t.count)
        for _ in range(t.random.randint(0, 3)):
            t.random.choice(STEPS)(inner)
        result, found = inner.pick(shape)
        last = inner.emit(found, f"{t.random.choice(UNARY)}(%{result})")
        t.count = inner.count
        kind = f"f32[{','.join(map(str, shape))}]"
        graphs.append(
            f"{which}_branch = graph @{which}() -> (%{last}: {kind}) {{\n"
            + "\n".join(inner.lines)
            + f"\nreturn %{last}\n}}"
        )
    t.emit(shape, f"If(%{condition}) {{{', '.join(graphs)}}}")
    assert name


STEPS = (unary, binary, binary, with_scalar, transpose, reshape, casts, split_and_concat, branch)


def random_text(seed: int, *, steps: int = 30) -> str:
    """Return a model of three outputs; the same seed gives the same text."""
    t = Text(random.Random(seed), visible=[("x", SHAPES[0]), ("k", SHAPES[0])])
    for _ in range(steps):
        t.random.choice(STEPS)(t)
    outputs = t.visible[-3:]
    declared = ", ".join(f"%{name}: f32[{','.join(map(str, shape))}]" for name, shape in outputs)
    body = "\n".join(t.lines)
    returned = ", ".join(f"%{name}" for name, _ in outputs)
    return (
        f"// ampc 1, opset 20\ngraph @main(%x: f32[N,4,6], %k: f32[N,4,6], %c: bool[]) -> ({declared}) {{\n"
        f"{body}\nreturn {returned}\n}}\n"
    )

"""Laws of the proof that the columns of a tensor come twice."""

from __future__ import annotations

import pytest

from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from passes.repeated_columns import why_not_repeated

_HEAD = """// ampc 1, opset 20
graph @main(%f: f32[S,2], %g: f32[S,2], %rows: i64[B,S], %three: f32[3,S,4]) -> (%y: ?) {
  const %one: i64[1] = [1]
  const %last: i64[1] = [-1]
  const %index: i64[] = 1
  const %twice: i64[2] = [1, 2]
  const %pairs: i64[3] = [1, 1, 2]
  const %wide: i64[2] = [-1, 4]
  const %halves: f32[3,4] = [[1.0, 2.0, 1.0, 2.0], [3.0, 4.0, 3.0, 4.0], [0.0, 1.0, 0.0, 1.0]]
  const %neighbours: f32[2,4] = [[1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0]]
  const %scale: f32[] = 0.5
"""

HALVES = {
    "cos": "%c = Concat(%f, %f){axis = -1}\n %u = Cos(%c)\n %y = Mul(%u, %scale)",
    "tile": "%y = Tile(%f, %twice)",
    "table": "%y = Gather(%halves, %rows){axis = 0}",
    "unsqueezed": "%c = Concat(%f, %f){axis = -1}\n %u = Unsqueeze(%c, %one)\n %y = Transpose(%u){perm = [1, 0, 2]}",
    "sections": """
        %a, %b, %c, %d = Split(%halves){axis = -1, num_outputs = 4}
        %y = Concat(%b, %a, %d, %c){axis = -1}
    """,
}
PAIRS = {
    "expand": "%u = Unsqueeze(%f, %last)\n %e = Expand(%u, %pairs)\n %y = Reshape(%e, %wide)",
    "stack": "%u = Unsqueeze(%f, %last)\n %e = Concat(%u, %u){axis = -1}\n %y = Reshape(%e, %wide)",
    "table": "%y = Sin(%neighbours)",
}
NEITHER = {
    "two tensors": "%y = Concat(%f, %g){axis = -1}",
    "one half negated": "%n = Neg(%f)\n %y = Concat(%f, %n){axis = -1}",
    "two rows": """
        %a = Gather(%three, %index){axis = 0}
        %y = Add(%a, %a)
    """,
}


def _why_not(body: str, *, pairs: bool) -> str:
    model = parse_model(_HEAD + body + "\n  return %y\n}\n")
    infer(model.graph)
    return why_not_repeated(model.graph.outputs[0], pairs=pairs)


@pytest.mark.parametrize("name", sorted(HALVES))
def test_halves_that_are_equal_are_proved_equal(name: str) -> None:
    """Columns that were written a second time behind the first are found, however they were made."""
    assert _why_not(HALVES[name], pairs=False) == ""


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_neighbours_that_are_equal_are_proved_equal(name: str) -> None:
    """Columns that were written twice in turn are found, and are not taken for halves."""
    assert _why_not(PAIRS[name], pairs=True) == ""
    assert _why_not(PAIRS[name], pairs=False) != ""


@pytest.mark.parametrize("name", sorted(NEITHER))
def test_columns_that_may_differ_are_not_proved_equal(name: str) -> None:
    """What differs, or may differ, is refused with a reason."""
    assert "may differ" in _why_not(NEITHER[name], pairs=False)
    assert "may differ" in _why_not(NEITHER[name], pairs=True)

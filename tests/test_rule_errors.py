"""A mistake in a rule is told when its module is imported: file, line, column, and a caret under the place."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from compiler.errors import ParseError

MODULE = '''"""Rules with a mistake."""

from compiler.rewrite import FLOATS, Match, Rule


class Right(Rule):
    """Hold."""

    before = "%y: T = Neg(%x: T)"
    after = "%y = Mul(%x, -1.0)"
    types = {{"T": FLOATS}}


class Wrong(Rule):
    """Hold no longer."""

    stage = "optimize"
    before = """
        %h: {type} = {op}(%x: T[*S]{more}){attributes}
        %y = Relu({read})
    """
    after = "%y = {made}"
    types = {{"T": FLOATS}}
'''

PLAIN = {
    "type": "T[*S]", "op": "Neg", "more": "", "attributes": "", "read": "%h", "made": "Identity(%x)",
}  # fmt: skip

MISTAKES = {
    "an unknown operator": ({"op": "Negate"}, "there is no operator 'Negate'", "%h: T[*S] = Negate"),
    "an unknown attribute": ({"attributes": "{alpha = 1.0}"}, "no attribute 'alpha'", "1.0"),
    "too many operands": ({"more": ", %z, %z"}, "operands, not 3", "%h: T[*S] = Neg"),
    "an undeclared element type": ({"type": "U[*S]"}, "'U' is no element type", "U[*S]"),
    "two runs of dims": ({"type": "T[*S,*R]"}, "at most one run", "T[*S,*R]"),
    "a dim that is never bound": ({"type": "T[*S,2*H]"}, "the dim H stands only in expressions", "T[*S,2*H]"),
    "a result that nobody reads": ({"read": "%x"}, "nothing reads what this statement makes", "%h: T[*S] = Neg"),
    "an unbound name in after": ({"made": "Neg(%z)"}, "%z is not bound", "%z)"),
    "an unbound dim in after": ({"made": "Reshape(%x, [K])"}, "the dim K is not bound", "[K]"),
    "a constant that nobody computes": ({"made": "Add(%x, const %c)"}, "%c is computed by", "const %c"),
    "an unbound attribute in after": ({"made": "Elu(%x){alpha = $a}"}, "$a is not bound", "$a"),
    "a text that breaks off": ({"attributes": "{alpha = "}, "expected", ""),
}


def imported(path: Path, changes: dict[str, str]) -> str:
    """Import a module with a mistake; return its text."""
    text = MODULE.format(**(PLAIN | changes))
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return text


def test_the_module_without_a_mistake_is_imported(tmp_path: Path) -> None:
    """It is the mistakes below that make the import fail."""
    imported(tmp_path / "rules_without_a_mistake.py", {})


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_with_their_place(mistake: str, tmp_path: Path) -> None:
    """The error names the file, and the line and column where the mistake stands in it, with a caret below."""
    changes, said, at = MISTAKES[mistake]
    path = tmp_path / "rules_with_a_mistake.py"
    with pytest.raises(ParseError) as caught:
        imported(path, changes)
    assert said in str(caught.value)
    lines = path.read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if "class Wrong" in line)
    place, _, shown = caught.value.where.partition("\n")
    assert place.startswith(str(path)), place
    line, column = (int("".join(c for c in word if c.isdigit())) for word in place.split()[-3::2])
    assert line > number
    if at:
        assert lines[line - 1][column - 1 :].startswith(at), (lines[line - 1], column)
    assert "^" in shown

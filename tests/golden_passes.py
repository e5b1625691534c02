"""Golden cases of passes: a text before, the text after, and what both compute.

A file is called ``PASS.CASE.ir``.  It holds a model, the line ``// becomes``, and the model that the pass
makes of it; the second line says the law.  ``python -m tests.golden_passes PATTERN`` writes the second half
of the files that match anew: read the difference before you keep it.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from compiler.ir import edit
from compiler.ir.dims import Dim, Expr, substitute
from compiler.ir.graph import Model
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.ir.printer import print_model
from compiler.ir.schema import is_known, is_random
from compiler.ir.types import TensorType
from compiler.ir.verify import verify
from compiler.manager import make_pass
from compiler.rewrite.transform import Context, Pass

FOLDER = Path(__file__).resolve().parent / "golden"
BECOMES = "// becomes\n"


def cases(*passes: str) -> list[str]:
    """Return the names of the cases of some passes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.ir") if path.stem.partition(".")[0] in passes)


def halves(case: str) -> tuple[str, str]:
    """Return the texts before and after."""
    before, _, after = (FOLDER / f"{case}.ir").read_text().partition(BECOMES)
    return before, after


def read(text: str) -> Model:
    """Return the model of a text, with everything inferred."""
    model = parse_model(text)
    infer(model.graph)
    verify(model)
    return model


def apply(step: Pass, model: Model, ctx: Context | None = None) -> bool:
    """Run a pass as the manager does, hold it to its contract, and return whether it changed anything."""
    journal = edit.begin(model)
    said = step.run(model.graph, ctx or Context())
    edit.commit(model)
    assert said == journal.changed, f"{step.name} said {said}, but the journal has {len(journal.undo)} steps"
    infer(model.graph)
    verify(model)
    return said


def transformed(case: str) -> Model:
    """Return what the pass that the case names makes of its first half."""
    model = read(halves(case)[0])
    apply(make_pass(case.partition(".")[0]), model)
    return model


def can_run(model: Model) -> bool:
    """True when two runs of the model must agree: nothing in it is random or unknown."""
    return all(is_known(n) and not is_random(n) for n in model.graph.all_nodes())


def feeds(model: Model, binding: dict[str, Dim]) -> dict[str, Any]:
    """Return tensors for the inputs, special values included; symbols that are not bound are 3."""
    random = np.random.default_rng(7)
    found = {}
    for value in model.graph.inputs:
        kind = value.type
        assert isinstance(kind, TensorType)
        shape = tuple(_size(d, binding) for d in kind.shape)
        found[value.name] = _draw(random, shape, kind)
    return {name: array for name, array in found.items() if array is not None}


def _size(dim: Dim, binding: dict[str, Dim]) -> int:
    if isinstance(dim, Expr):
        dim = substitute(dim, dict.fromkeys(dim.symbols(), 3) | binding)
    assert isinstance(dim, int)
    return dim


def _draw(random: np.random.Generator, shape: tuple[int, ...], kind: TensorType) -> Any:
    if kind.dtype.numpy.kind == "b":
        return np.asarray(random.random(shape) < 0.5)
    if kind.dtype.is_integer:
        return np.asarray(random.integers(0, 4, shape)).astype(kind.dtype.numpy)
    if kind.dtype.bits < 16:
        return None
    numbers = np.asarray(random.standard_normal(shape)).astype(kind.dtype.numpy)
    special = np.array([np.nan, np.inf, -np.inf, -0.0], kind.dtype.numpy)
    flat = numbers.reshape(-1)
    flat[1 : 1 + special.size] = special[: max(0, flat.size - 1)]
    return numbers


def write_anew(pattern: str) -> list[str]:
    """Write the second half of the cases that match a pattern, and return their names."""
    names = [path.stem for path in sorted(FOLDER.glob("*.ir")) if fnmatchcase(path.stem, pattern)]
    for case in names:
        after = print_model(transformed(case))
        (FOLDER / f"{case}.ir").write_text(f"{halves(case)[0]}{BECOMES}{after}")
    return names


if __name__ == "__main__":
    for name in write_anew(sys.argv[1]):
        sys.stdout.write(f"{name}\n")

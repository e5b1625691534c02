"""Golden cases: a text before, the text after, and what both compute.

A file is called ``PASS.CASE.ir``.  It holds a model, the line ``// becomes``, and the model that the pass makes of
it; the second line says the law.  ``// becomes, by PIPELINE`` is for a case of several passes, which is called
``pipeline.CASE.ir``.  ``pytest tests/test_golden.py --bless`` writes the second halves anew: read the difference
before you keep it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from compiler.ir import edit
from compiler.ir.dims import Dim, Expr, substitute
from compiler.ir.graph import Model
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.ir.schema import is_known, is_random
from compiler.ir.types import TensorType
from compiler.ir.verify import verify
from compiler.manager import parse_pipeline, run_pipeline
from compiler.rewrite.transform import Context, Pass

FOLDER = Path(__file__).resolve().parent / "golden"
FAILING = {"fold.left_alone"}
"""Cases whose model fails at run time, before and after."""
MARK = re.compile(r"^// becomes(?:, by (.+))?\n", re.MULTILINE)
"""The line between the halves."""


def cases(*passes: str) -> list[str]:
    """Return the names of the cases of some passes (all when none is named), sorted."""
    names = sorted(path.stem for path in FOLDER.glob("*.ir"))
    return [name for name in names if not passes or name.partition(".")[0] in passes]


def parts(case: str) -> tuple[str, str, str]:
    """Return the text before, the pipeline, and the text after."""
    before, pipeline, after = MARK.split((FOLDER / f"{case}.ir").read_text())
    return before, pipeline or case.partition(".")[0], after


def halves(case: str) -> tuple[str, str]:
    """Return the texts before and after."""
    before, _, after = parts(case)
    return before, after


def bless(case: str, after: str) -> None:
    """Write the second half of a case."""
    path = FOLDER / f"{case}.ir"
    mark = MARK.search(path.read_text())
    assert mark is not None
    path.write_text(path.read_text()[: mark.end()] + after)


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
    """Return what the pass or the pipeline of a case makes of its first half."""
    before, pipeline, _ = parts(case)
    model = read(before)
    steps = parse_pipeline(pipeline)
    if len(steps) == 1 and isinstance(steps[0], Pass):
        apply(steps[0], model)
    else:
        run_pipeline(model, steps, strict=True)
        verify(model)
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

"""Golden cases (``tests.golden_passes`` says how they are written), and random models through the default pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from compiler.backend.emit import to_proto
from compiler.ir.diff import structurally_equal
from compiler.ir.graph import Model
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.ir.printer import print_model
from compiler.ir.types import UNKNOWN
from compiler.ir.verify import verify
from compiler.manager import run_pipeline
from tests.golden_passes import FAILING, bless, can_run, cases, feeds, halves, read, transformed
from tests.graphs import models
from tests.isolation import Child, Remote


def run(oracle: Child, model: Model, inputs: dict[str, Any]) -> list[Any]:
    """Run a model on ONNX Runtime without optimization."""
    found: list[Any] = oracle.call("tests.hostile_runner:run", to_proto(model).SerializeToString(), inputs)
    return found


@pytest.mark.parametrize("case", cases())
def test_a_case_becomes_what_is_expected(case: str, request: pytest.FixtureRequest) -> None:
    """The pass or the pipeline of a golden case makes its second half of its first."""
    made = print_model(transformed(case))
    if request.config.getoption("--bless"):
        bless(case, made)
        return
    assert made == halves(case)[1], f"run pytest tests/test_golden.py --bless and read the difference in {case}.ir"


@pytest.mark.parametrize("case", sorted({*cases()} - FAILING))
def test_a_case_keeps_what_is_computed(case: str, oracle: Child) -> None:
    """Text before and text after compute the same on ONNX Runtime."""
    original, result = (read(text) for text in halves(case))
    given = {name: _finite(array) for name, array in feeds(original, {}).items()}
    if not can_run(original) or len(given) < len(original.graph.inputs):
        return
    for a, b in zip(run(oracle, original, given), run(oracle, result, given), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


def _finite(array: Any) -> Any:
    """Return an input without the special values, which folding may round otherwise."""
    return np.asarray(np.nan_to_num(array, nan=0.5, posinf=1.5, neginf=-1.5)) if array.dtype.kind == "f" else array


@pytest.mark.parametrize("case", cases())
def test_golden_texts_are_read_back(case: str) -> None:
    """What a golden case expects prints as itself; what it starts from is valid, and its canonical text is too."""
    before, after = halves(case)
    assert print_model(parse_model(after)) == after
    model = parse_model(before)
    verify(model)
    assert structurally_equal(parse_model(print_model(model)), model) is None


@given(models())
def test_inferred_types_are_those_that_were_built(model: Model) -> None:
    """Inference finds the types of a random model again, exactly."""
    before = print_model(model)
    for node in model.graph.all_nodes():
        for output in node.outputs:
            output.type = UNKNOWN
    infer(model.graph)
    assert print_model(model) == before


@given(models())
def test_the_default_pipeline_keeps_what_random_models_compute(oracle: Child, model: Model) -> None:
    """What ampc does to a random model by default changes no output; the text of the model reproduces a failure."""
    text = print_model(model)
    inputs = feeds(model, {})
    try:
        expected = run(oracle, model, inputs)
    except Remote as error:
        raise AssertionError(f"the model does not run: {error}\n{text}") from error
    run_pipeline(model, strict=True)
    verify(model)
    for a, b in zip(expected, run(oracle, model, inputs), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5, err_msg=text)

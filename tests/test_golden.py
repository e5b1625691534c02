"""Golden cases of whole pipelines, the texts of all golden cases, and random models through the default pipeline.

A file ``pipeline.CASE.ir`` holds a model, the line ``// RUN: PIPELINE``, the line ``// EXPECT``, and the model that the
pipeline makes of it; comments after the first line say the law.  ``pytest tests/test_golden.py --bless`` writes what is
expected anew: read the difference before you keep it.  (Cases of single passes: ``tests.golden_passes``.)
"""

from __future__ import annotations

import re
from pathlib import Path
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
from tests.golden_passes import BECOMES, FOLDER, feeds, read
from tests.graphs import models
from tests.isolation import Child, Remote

RUN = "// RUN: "
EXPECT = "// EXPECT\n"
PIPELINES = sorted(FOLDER.glob("pipeline.*.ir"))
TEXTS = sorted(FOLDER.glob("*.ir"))


def parts(path: Path) -> tuple[str, str, str]:
    """Return the text before, the pipeline, and the text that is expected."""
    before, _, rest = path.read_text().partition(RUN)
    pipeline, _, expected = rest.partition("\n" + EXPECT)
    assert pipeline, f"{path.name} has no line that begins with {RUN!r}"
    return before, pipeline.strip(), expected


def transformed(before: str, pipeline: str) -> Model:
    """Return what a pipeline makes of a text."""
    model = read(before)
    run_pipeline(model, pipeline, strict=True)
    verify(model)
    return model


def run(oracle: Child, model: Model, inputs: dict[str, Any]) -> list[Any]:
    """Run a model on ONNX Runtime without optimization."""
    found: list[Any] = oracle.call("tests.hostile_runner:run", to_proto(model).SerializeToString(), inputs)
    return found


@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: p.stem)
def test_pipeline_makes_what_is_expected(path: Path, request: pytest.FixtureRequest) -> None:
    """A pipeline makes the expected text of the text before it."""
    before, pipeline, expected = parts(path)
    made = print_model(transformed(before, pipeline), loc=False)
    if request.config.getoption("--bless"):
        path.write_text(f"{before}{RUN}{pipeline}\n{EXPECT}{made}")
        return
    assert made == expected, f"run pytest tests/test_golden.py --bless and read the difference in {path.name}"


@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: p.stem)
def test_pipeline_keeps_what_is_computed(path: Path, oracle: Child) -> None:
    """Text before and text expected compute the same on ONNX Runtime."""
    before, _, expected = parts(path)
    original, result = read(before), read(expected)
    given = feeds(original, {})
    for a, b in zip(run(oracle, original, given), run(oracle, result, given), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.stem)
def test_golden_texts_are_read_back(path: Path) -> None:
    """What a golden case expects prints as itself; what it starts from is valid, and its canonical text is too."""
    before, after = re.split(f"{RUN}.*\n{EXPECT}|{BECOMES}", path.read_text())
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

"""When results of the two sides of a rule agree.

Numbers agree when they differ by what rounding and another order of summation explain: some units of the coarsest
element type involved, more with more elements, plus what the rule's ``rtol`` claims.  float64 is held to float32's
precision, since attributes and exporters' constants are float32.

A difference beyond that is forgiven when the original itself moves that much when its inputs move by one unit
(``compiler.verify.tolerating``), or when it is small against what the original computes on its way: sums that cancel
are wrong by what was summed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from compiler.errors import WorkerError
from compiler.ir.dims import substitute
from compiler.ir.dtype import DType
from compiler.ir.graph import Value
from compiler.rewrite import Rule
from compiler.verify.compare import Bound, Difference, Tolerance, compare
from compiler.verify.tolerating import forgives
from tests.rule_harness_instance import Instance

_UNITS = {DType.F64: 2.0**-23, DType.F32: 2.0**-23, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}
"""Rounding that is promised for an element type, relative."""

_STEPS = 4
"""Times that a rewritten form may round more often than a model's inputs are moved by one unit."""

_FLOATS = ("float64", "float32", "float16", "bfloat16")

Oracle = Callable[[onnx.ModelProto, Any], list[Any] | WorkerError | str]
"""Runs a model, or says why it does not run."""


def disagreement(
    rule: Rule, instance: Instance, place: int, sides: tuple[Any, Any], original: onnx.ModelProto, oracle: Oracle
) -> str:
    """Return how the two sides of output number ``place`` differ, ``""`` when they agree."""
    expected, found = sides
    tolerance = tolerance_for(rule, instance)
    difference = compare(expected, found, tolerance=tolerance)
    if difference is None:
        return ""
    difference = replace(difference, minor=False)  # integers are exact here
    if _moves_as_much(difference, instance, expected, place, original, oracle):
        return ""
    bound = tolerance.for_dtype(np.asarray(expected).dtype).atol
    if not difference.nonfinite and difference.max_abs <= bound * _largest(original, instance, oracle):
        return ""
    return str(difference)


def tolerance_for(rule: Rule, instance: Instance) -> Tolerance:
    """Return how far results may be apart: rounding, times what the number of elements explains, plus ``rtol``."""
    unit = max((_UNITS.get(d, 0.0) for d in instance.dtypes), default=0.0)
    sizes = [_size(instance, v) for n in instance.nodes for v in n.outputs if not v.absent]
    bound = unit * (8 + min(64, max(sizes, default=1)) / 2) + rule.rtol
    return Tolerance({name: Bound(bound, bound) for name in _FLOATS})


def _size(instance: Instance, value: Value) -> int:
    """Return the number of elements of a value; dims that are not known count as 1."""
    count = 1
    for dim in value.shape or ():
        size = substitute(dim, instance.numbers)
        count *= size if isinstance(size, int) else 1
    return count


def _moves_as_much(
    found: Difference, instance: Instance, expected: Any, place: int, original: onnx.ModelProto, oracle: Oracle
) -> bool:
    def run(feeds: Any) -> list[Any]:
        made = oracle(original, feeds)
        if isinstance(made, list):
            return made
        raise made if isinstance(made, WorkerError) else WorkerError(made, kind="run")

    part = replace(found, max_abs=found.max_abs / _STEPS)
    return bool(forgives(part, instance.feeds, expected, run, place))


def _largest(model: onnx.ModelProto, instance: Instance, oracle: Oracle) -> float:
    """Return the largest finite number that the original computes on its way, 0 when nothing is known."""
    told = onnx.ModelProto()
    told.CopyFrom(model)
    del told.graph.output[:]
    told.graph.output.extend(onnx.ValueInfoProto(name=n) for node in model.graph.node for n in node.output if n)
    made = oracle(told, instance.feeds)
    largest = 0.0
    for array in made if isinstance(made, list) else []:
        if np.asarray(array).dtype.name in _FLOATS:
            magnitude = np.abs(np.asarray(array).astype(np.float64))
            largest = max(largest, float(np.max(magnitude, where=np.isfinite(magnitude), initial=0.0)))
    return largest

"""Two oracles: ONNX Runtime without optimization, in the compiler's own child process, and ONNX's reference evaluator.

ONNX Runtime has no kernels for some types and operators; instances that it does not run are left to the reference,
which has no operators but the standard's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from compiler.errors import WorkerError
from compiler.verify.worker import Worker
from tests.rule_harness_definitions import DEFINITIONS

_NODE = re.compile(r"node with name '([^']*)'|\(node:'([^']*)'")

_DEFINED = frozenset(op.__name__ for op in DEFINITIONS)

Feeds = Mapping[str, Any]


class Runtime:
    """ONNX Runtime in a child process."""

    def __init__(self) -> None:
        """Start the child with the first model."""
        self.worker = Worker(timeout=30)

    def run(self, model: onnx.ModelProto, feeds: Feeds) -> list[Any] | WorkerError:
        """Run a model, or return why it does not run."""
        needed = {entry.name for entry in model.graph.input}
        try:
            return self.worker.evaluate(
                model.SerializeToString(), {name: array for name, array in feeds.items() if name in needed}
            )
        except WorkerError as error:
            return error

    def close(self) -> None:
        """End the child process."""
        self.worker.close()


def culprit(error: WorkerError) -> str:
    """Return the name of the node that the runtime does not run, ``""`` when it names none."""
    found = _NODE.search(str(error.why))
    return next((g for g in found.groups() if g), "") if found is not None else ""


def evaluate_by_reference(model: onnx.ModelProto, feeds: Feeds) -> list[Any] | str:
    """Run a model on ONNX's reference evaluator, or return why that does not work."""
    from onnx.reference import ReferenceEvaluator

    if any(n.domain and n.op_type not in _DEFINED for n in model.graph.node):
        return "the reference does not know these operators"
    needed = {entry.name for entry in model.graph.input}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            given = {n: a for n, a in feeds.items() if n in needed}
            found = ReferenceEvaluator(model, new_ops=list(DEFINITIONS)).run(None, given)
        except Exception as error:  # whatever the evaluator trips over, it is no oracle here
            return f"the reference evaluator fails: {type(error).__name__}: {str(error)[:120]}"
    return [np.asarray(v) for v in found]

"""Two oracles: ONNX Runtime without optimization, in the compiler's own child process, and ONNX's reference evaluator.

ONNX Runtime has no kernels for some types and operators.  A standard operator that has none is replaced by its
function body from the schemas, which is its definition; an instance that still cannot run is left to the reference.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from compiler.errors import WorkerError
from compiler.verify.worker import Worker

_NODE = re.compile(r"node with name '([^']*)'|\(node:'([^']*)'")
_OPERATOR = re.compile(r"implementation for (\w+)\(\d+\)|kernel for (\w+)\(\d+\)")

Feeds = Mapping[str, Any]


class Runtime:
    """ONNX Runtime, and what it was found not to run."""

    def __init__(self) -> None:
        """Start without knowledge."""
        self.worker = Worker(timeout=30)
        self._expanded: dict[str, None] = {}
        """Standard operators without a kernel: their bodies are run instead."""

    def run(self, model: onnx.ModelProto, feeds: Feeds) -> list[Any] | WorkerError:
        """Run a model, or return why it does not run."""
        needed = {entry.name for entry in model.graph.input}
        given = {name: array for name, array in feeds.items() if name in needed}
        for _ in range(4):
            try:
                return self.worker.evaluate(self._ready(model), given)
            except WorkerError as error:
                if not self._learn(error, model):
                    return error
        return error

    def _ready(self, model: onnx.ModelProto) -> bytes:
        found = [op for op in self._expanded if any(n.op_type == op and not n.domain for n in model.graph.node)]
        return (expanded(model, found) if found else model).SerializeToString()

    def _learn(self, error: WorkerError, model: onnx.ModelProto) -> bool:
        """Take note of a standard operator that has no kernel but a body; return whether that is new."""
        found = _OPERATOR.search(str(error.why))
        op = next((g for g in found.groups() if g), "") if found is not None else ""
        used = any(n.op_type == op and not n.domain for n in model.graph.node)
        if not op or op in self._expanded or not used or not _has_body(op):
            return False
        self._expanded[op] = None
        return True

    def run_defined(self, model: onnx.ModelProto, feeds: Feeds) -> list[Any] | None:
        """Run a model whose operators are replaced by their definitions where they have one; ``None`` if that fails."""
        operators = dict.fromkeys(n.op_type for n in model.graph.node if not n.domain and _has_body(n.op_type))
        if not operators:
            return None
        found = self.run(expanded(model, list(operators)), feeds)
        return None if isinstance(found, WorkerError) else found

    def close(self) -> None:
        """End the child process."""
        self.worker.close()


def culprit(error: WorkerError) -> str:
    """Return the name of the node that the runtime does not run, ``""`` when it names none."""
    found = _NODE.search(str(error.why))
    return next((g for g in found.groups() if g), "") if found is not None else ""


def _has_body(op: str) -> bool:
    definition = onnx.defs.get_schema(op, 26)
    return bool(definition.has_function or definition.has_context_dependent_function)


def expanded(model: onnx.ModelProto, operators: Sequence[str]) -> onnx.ModelProto:
    """Return a model in which some operators are replaced by their bodies."""
    from onnx import inliner

    pairs = [("", op) for op in operators]
    return inliner.inline_selected_functions(model, pairs, exclude=False, inline_schema_functions=True)


def evaluate_by_reference(model: onnx.ModelProto, feeds: Feeds) -> list[Any] | str:
    """Run a model on ONNX's reference evaluator, or return why that does not work."""
    from onnx.reference import ReferenceEvaluator

    if any(n.domain for n in model.graph.node):
        return "the reference knows no other domains"
    needed = {entry.name for entry in model.graph.input}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = ReferenceEvaluator(model).run(None, {n: a for n, a in feeds.items() if n in needed})
        except Exception as error:  # whatever the evaluator trips over, it is no oracle here
            return f"the reference evaluator fails: {type(error).__name__}: {str(error)[:120]}"
    return [np.asarray(v) for v in found]

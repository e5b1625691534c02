"""Compute constants with the runtime's own kernels, so that folding changes no bit.

Folding with another library differs: in how it rounds float16, in where it saturates.  The nodes to fold
become a small model, which the child process runs without optimization under its limits of time and memory.
Who asks for many nodes at once and is refused asks again for fewer: the pass knows which nodes belong
together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.backend.emit import Limits
from compiler.backend.fragment import fragment, fragment_bytes
from compiler.backend.places import Places
from compiler.errors import AmpcError, WorkerError
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Model, Node, Value

if TYPE_CHECKING:
    from compiler.verify.worker import Worker

_SECONDS = 20.0
"""Time limit of one evaluation."""


def runtime_evaluator(
    worker: Worker | Callable[[], Worker], *, model: Model, max_ir: int = 10, seconds: float = _SECONDS
) -> RuntimeEvaluator:
    """Return the evaluator of a model: it computes constants in the worker, which starts when first needed."""
    return RuntimeEvaluator(worker, model, Limits(max_ir=max_ir), seconds)


@dataclass(slots=True)
class RuntimeEvaluator:
    """What passes call as ``Context.evaluate``."""

    worker: Worker | Callable[[], Worker]
    model: Model
    limits: Limits
    seconds: float
    places: Places | None = field(default=None)

    def __call__(self, nodes: Sequence[Node], wanted: Sequence[Value]) -> list[Constant] | str:
        """Return the constants of ``wanted``, all of them, or why one of them cannot be had."""
        missing = [v for v in wanted if v.node not in nodes]
        if missing:
            return f"{missing[0]!r} is made by none of the nodes"
        try:
            return self._evaluate(nodes, wanted)
        except WorkerError as error:
            return f"the runtime does not evaluate it ({_first_line(error)})"
        except AmpcError as error:
            return _first_line(error)

    def _evaluate(self, nodes: Sequence[Node], wanted: Sequence[Value]) -> list[Constant]:
        small = fragment(nodes, inputs=[], outputs=wanted, like=self.model)
        if self.places is None:
            self.places = Places.now()
        data, folder = fragment_bytes(small, limits=self.limits, places=self.places)
        worker = self.worker() if callable(self.worker) else self.worker
        values = worker.evaluate(data, {}, [v.name for v in wanted], external_folder=folder, timeout=self.seconds)
        return [_constant(v, name.name) for v, name in zip(values, wanted, strict=True)]


def _constant(value: Any, name: str) -> Constant:
    if not isinstance(value, np.ndarray):
        raise WorkerError("the result is no tensor", kind="run", why=f"{name!r} is a sequence, a map or absent")
    dtype = DType.STRING if value.dtype == object else DType.from_numpy(value.dtype)
    return Constant.from_array(value, dtype)


def _first_line(error: AmpcError) -> str:
    return ((error.why or error.what).strip().splitlines() or ["refused"])[0][:300]

"""Make models comparable that compute in a format without any kernels here: bf16, which no runtime on a CPU loads.

Such a model is widened before anything else, by the pass that legalizes floats, and written to a temporary file.  What
the compiler makes is then compared with that: the original itself cannot be run, and the note in the report says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compiler import manager
from compiler.backend import bundle
from compiler.backend.emit import emit, payload_table
from compiler.ir.dtype import DType
from compiler.rewrite.transform import Context

if TYPE_CHECKING:
    from compiler.ir.graph import Model
    from targets import Target

NOTE = "the model computes in bf16, which cannot be run here: it was widened to f32, and the result compared with that"

_MOVES = ("Cast", "Identity", "Shape", "If", "Loop", "Scan")
"""Operators that every runtime runs in bf16."""


def needs_widening(model: Model, target: Target) -> bool:
    """Whether a model computes in bf16, and the target does not."""
    if "bf16" in target.numerics.floats:
        return False
    return any(
        v.dtype is DType.BF16
        for node in model.graph.all_nodes()
        if node.op not in _MOVES
        for v in (*node.inputs, *node.outputs)
        if v is not None and not v.absent
    )


def widened(model: Model, target: Target, folder: Path) -> Path:
    """Widen a model that nobody needs any more, write it into a folder, and return the file."""
    steps = manager.parse_pipeline("legalize-floats, dead-code")
    manager.Runner(model, Context(target=target), strict=True).run(steps)
    table = payload_table(model)
    bundle.write_model(folder, "widened.onnx", emit(model, table), table)
    return folder / "widened.onnx"

"""The child side of the tests: compile a file, run a model on plain ONNX Runtime.

Called through ``tests.isolation``; everything that goes in and comes out is plain data.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.hostile_external import SECRET

LIMITS: dict[str, Any] = {"timeout": 15.0, "memory_limit": 2 << 30}
"""What a run of the user's model may cost: seconds and bytes."""

_forbidden: list[str] = []
"""What the interpreter was asked to do since the last compilation and must not: filled by the audit hook."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and Path(str(arguments[0])).name == SECRET:
        _forbidden.append(f"opened {arguments[0]}")
    if event in {"socket.connect", "socket.getaddrinfo"} and not isinstance(arguments[-1], str | bytes):
        _forbidden.append(f"{event} {arguments[1:]}")  # a text is the path of a local socket


def compile_file(path: str, output: str, verify: bool) -> dict[str, Any]:
    """Compile a file; return the error's class, exit code and text (if any), and what was forbidden."""
    from compiler import compile_model
    from compiler.errors import AmpcError

    if not hasattr(sys, "_ampc_audited"):
        sys.addaudithook(_audit)
        sys._ampc_audited = True  # type: ignore[attr-defined]  # hooks cannot be removed: add it once
    _forbidden.clear()
    verdict: dict[str, Any] = {}
    try:
        compile_model(path, target="cpu", output=output, verify=verify, **LIMITS)
    except AmpcError as error:
        verdict = {"error": type(error).__name__, "exit_code": error.exit_code, "text": str(error)}
    return verdict | {"forbidden": list(_forbidden)}


def run(model: str | bytes, feeds: dict[str, Any], optimize: bool = False) -> list[Any]:
    """Run a model, given as a path or as its bytes, with graph optimizations off unless wanted; return its outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))

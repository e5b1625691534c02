"""ampc: a compiler from ONNX to ONNX that verifies what it hands over.

``compile_model`` compiles, ``check_models`` compares two models, ``analyze_model`` looks at one, ``bench_models`` times
some side by side, ``load_session`` opens a bundle.  ``optimize_operators`` and ``OperatorOptimizer`` do the same for
one model in a call, or step by step.  Errors derive from ``AmpcError``.  The names are imported when they are first
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.errors import AmpcError, CompilerError, InputError, ModelError

if TYPE_CHECKING:
    from compiler.analysis.report import Analysis
    from compiler.analyzing import analyze_model
    from compiler.api import check_models, compile_model, load_session
    from compiler.benching import bench_models
    from compiler.measure.instrument import Timing, Variant
    from compiler.operators import OperatorType
    from compiler.optimizer import OperatorOptimizer, OptimizationTarget, optimize_operators
    from compiler.predicting import ModelTime, predict_model, profile_model
    from compiler.result import Result
    from compiler.surgeon import from_surgeon, surgeon_pass, to_surgeon

__all__ = [
    "AmpcError",
    "Analysis",
    "CompilerError",
    "InputError",
    "ModelError",
    "ModelTime",
    "OperatorOptimizer",
    "OperatorType",
    "OptimizationTarget",
    "Result",
    "Timing",
    "Variant",
    "analyze_model",
    "bench_models",
    "check_models",
    "compile_model",
    "from_surgeon",
    "load_session",
    "optimize_operators",
    "predict_model",
    "profile_model",
    "surgeon_pass",
    "to_surgeon",
]

_HOMES = {
    "Analysis": "compiler.analysis.report",
    "ModelTime": "compiler.predicting",
    "OperatorOptimizer": "compiler.optimizer",
    "OperatorType": "compiler.operators",
    "OptimizationTarget": "compiler.optimizer",
    "Result": "compiler.result",
    "Timing": "compiler.measure.instrument",
    "Variant": "compiler.measure.instrument",
    "analyze_model": "compiler.analyzing",
    "bench_models": "compiler.benching",
    "check_models": "compiler.api",
    "compile_model": "compiler.api",
    "from_surgeon": "compiler.surgeon",
    "load_session": "compiler.api",
    "optimize_operators": "compiler.optimizer",
    "predict_model": "compiler.predicting",
    "profile_model": "compiler.predicting",
    "surgeon_pass": "compiler.surgeon",
    "to_surgeon": "compiler.surgeon",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'compiler' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__

"""Optimize a model in one call, or step by step: analyze, optimize, keep the metadata.

These names are thin: ``compile_model`` and ``analyze_model`` do the work, targets are those of ``ampc targets``, and
what is written is verified as by ``ampc compile``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.analyzing import analyze_model
from compiler.api import compile_model, guarded
from compiler.errors import InputError
from compiler.operators import OperatorType

if TYPE_CHECKING:
    from onnx import ModelProto

    from compiler.analysis.opportunities import Opportunities
    from compiler.analysis.report import Analysis
    from compiler.metadata import Metadata
    from compiler.result import Result
    from targets import Target


class OptimizationTarget(StrEnum):
    """The targets that come with ampc, one member for each; the value is the name that ``--target`` takes."""

    AUTO = "auto"
    """This machine."""
    CPU_GENERIC = "cpu"
    """Any CPU."""
    CPU_AVX = "cpu_avx"
    """x86-64 with AVX."""
    CPU_AVX2 = "cpu_avx2"
    """x86-64 with AVX2 and FMA."""
    CPU_AVX512 = "cpu_avx512"
    """x86-64 with AVX-512 and VNNI."""
    CPU_AVX512_NO_VNNI = "cpu_avx512_novnni"
    """x86-64 with AVX-512, without its integer products."""
    CPU_OPENVINO = "cpu_openvino"
    """x86-64 through OpenVINO."""
    GPU_CUDA = "gpu_cuda"
    """NVIDIA GPUs through CUDA."""
    GPU_TENSORRT = "gpu_tensorrt"
    """NVIDIA GPUs through TensorRT."""
    GPU_MPS = "gpu_mps"
    """GPUs of Apple through CoreML."""
    MOBILE_CPU = "mobile_cpu"
    """CPUs of phones through XNNPACK."""
    MOBILE_GPU = "mobile_gpu"
    """GPUs of phones through WebGPU."""
    MOBILE_GPU_QNN = "mobile_gpu_qnn"
    """GPUs of phones through QNN."""
    NPU = "npu"
    """Neural processors of Qualcomm through QNN."""
    NPU_COREML = "npu_coreml"
    """Neural engines of Apple through CoreML."""
    NPU_OPENVINO = "npu_openvino"
    """Neural processors of Intel through OpenVINO."""
    NPU_NNAPI = "npu_nnapi"
    """Neural processors of Android through NNAPI."""


class OpportunityCounts(dict[OperatorType, int]):
    """Operator type → places where something would be done for the better; printing it gives a table.

    Every type that occurs in the model is there, with 0 where there is nothing to do; a type that does not occur has 0
    as well, and is not listed.
    """

    def __init__(self, analysis: Analysis) -> None:
        """Take what an analysis found."""
        found = analysis.opportunities
        if found is None:
            raise InputError("what could be gained is not known", why="; ".join(analysis.notes))
        super().__init__(found.counts())
        self.analysis = analysis
        """Everything that was found: ``analysis.opportunities`` has the rewrites, their gains, and what blocks more."""
        self.opportunities: Opportunities = found

    def __missing__(self, kind: OperatorType) -> int:
        """Return 0 for what does not occur."""
        return 0

    def __str__(self) -> str:
        from compiler.analysis.show import opportunities_text

        return opportunities_text(self.opportunities)


class OperatorOptimizer:
    """Optimizes one model for one target.

    ``model`` is a path or an ``onnx.ModelProto``, which is never changed.  ``target`` is an ``OptimizationTarget``, a
    name, or the path of a target file; by default this machine.  ``config`` overrides settings of the target:
    ``cpu_threads``, ``enable_cuda``, ``enable_tensorrt`` and so on.  Raises ``InputError`` for a target or a setting
    that does not exist.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelProto,
        target: OptimizationTarget | str | os.PathLike[str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if config is not None and not isinstance(config, Mapping):
            hint = 'give settings by name: {"cpu_threads": 4}'
            raise InputError(f"settings cannot be made of {type(config).__name__}", hint=hint)
        self._model = model
        self._config = dict(config or {})
        self._target = guarded(lambda: _loaded(target, self._config))
        self._result: Result | None = None

    @property
    def target(self) -> Target:
        """The target, with what ``config`` overrides."""
        return self._target

    @property
    def result(self) -> Result:
        """What the last optimization gave: model, settings, report.  Raises ``InputError`` before the first."""
        if self._result is None:
            raise InputError("the model is not optimized yet", hint="call apply_optimizations() first")
        return self._result

    def analyze_model(self) -> OpportunityCounts:
        """Return how often something would be done for each type of operator; nothing is run or written."""
        return guarded(lambda: OpportunityCounts(self._analysis))

    @cached_property
    def _analysis(self) -> Analysis:
        return analyze_model(self._model, target=self._target)

    def apply_optimizations(self, output_path: str | os.PathLike[str] | None = None, **options: Any) -> ModelProto:
        """Optimize the model, verify the result, and return it; it is written too when there is a path.

        A path that ends in ``.onnx`` is a model file, with its settings beside it; any other is a folder for a bundle.
        ``options`` are those of ``compile_model``.  Raises ``InputError`` and ``CompilerError``; nothing is written
        then.
        """
        self._result = compile_model(self._model, target=self._target, output=output_path, **options)
        return self._result.model

    @property
    def metadata(self) -> Metadata:
        """The metadata of the last optimization.  Raises ``InputError`` before the first."""
        from compiler.metadata import metadata_of

        source = Path(self._model).name if isinstance(self._model, str | os.PathLike) else "ModelProto"
        return guarded(lambda: metadata_of(self.result, source=source, target=self._target, config=self._config))

    def save_optimization_metadata(self, path: str | os.PathLike[str]) -> None:
        """Write the metadata of the last optimization as JSON; see ``compiler/metadata.schema.json``.

        Raises ``InputError`` before the first optimization, and when the file cannot be written.
        """
        from compiler.backend.atomic import write_atomic
        from compiler.metadata import to_bytes

        text = to_bytes(self.metadata)
        guarded(lambda: write_atomic(path, [text]))


def optimize_operators(
    model_path: str | os.PathLike[str] | ModelProto,
    output_path: str | os.PathLike[str] | None = None,
    target: OptimizationTarget | str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    metadata_path: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ModelProto:
    """Optimize a model for a target, by default this machine, verify the result, write it, and return it.

    ``config`` overrides settings of the target, ``options`` are those of ``compile_model``; ``metadata_path`` is where
    to write the metadata.  Raises ``InputError`` and ``CompilerError``; no model is written then.
    """
    optimizer = OperatorOptimizer(model_path, target, config)
    optimized = optimizer.apply_optimizations(output_path, **options)
    if metadata_path is not None:
        optimizer.save_optimization_metadata(metadata_path)
    return optimized


def _loaded(target: OptimizationTarget | str | os.PathLike[str] | None, config: Mapping[str, Any]) -> Target:
    from compiler.settings import load_target, override

    return override(load_target(str(target or OptimizationTarget.AUTO)), config)

"""ampc as an ONNX backend: compile the model, then run it on ONNX Runtime without further optimization.

The official suite runs on it as on any other backend.  Most of its models are one node whose operands are all
inputs, which leaves a compiler little to do, so there are two more variants of the same cases, with the same
inputs and expected outputs: ``rest`` makes every input but the first an initializer, as real models have it;
``all`` makes every input one, so that everything may be folded.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.runner import Runner

from tests.isolation import Child

Variant = Literal["plain", "rest", "all"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
RUN_SECONDS = 120.0


class PreparedModel(BackendRep):
    """A model that is ready to run, and is compiled first if so asked."""

    def __init__(self, model: onnx.ModelProto, *, runtime: Child, variant: Variant, compiled: bool) -> None:
        """Compile at once where the model does not depend on the inputs."""
        self._model = model
        self._runtime = runtime
        self._variant = variant
        self._compile = compile_plainly if compiled else as_it_is
        self._ready = self._compile(model) if variant == "plain" else None

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        """Run on inputs in the order of the model's own."""
        feeds = dict(zip(input_names(self._model, len(inputs)), inputs, strict=False))
        model = self._ready
        if model is None:
            model = self._compile(bake(self._model, feeds, keep_first=self._variant == "rest"))
        fed = {entry.name for entry in model.graph.input}
        feeds = {name: array for name, array in feeds.items() if name in fed}
        data = model.SerializeToString()
        return tuple(self._runtime.call("tests.hostile_runner:run", data, feeds, seconds=RUN_SECONDS))


class AmpcBackend(Backend):
    """The backend that the suite's runner calls; its keywords come from the test."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        """Return the model ready to run."""
        return PreparedModel(model, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Return whether this backend runs there: on the CPU."""
        return device == "CPU"


def compile_plainly(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compile without verification: what the suite checks is the passes themselves."""
    from compiler import compile_model

    return compile_model(model, target="cpu", verify=False).model


def as_it_is(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model: what the runtime does with it by itself."""
    return model


def input_names(model: onnx.ModelProto, count: int) -> list[str]:
    """Return the inputs that a case of ``count`` values feeds: those without a default, or all."""
    initialized = {entry.name for entry in model.graph.initializer}
    names = [entry.name for entry in model.graph.input]
    required = [name for name in names if name not in initialized]
    return required if count <= len(required) else names


def bake(model: onnx.ModelProto, feeds: Mapping[str, Any], *, keep_first: bool) -> onnx.ModelProto:
    """Return a copy whose tensor inputs have become initializers; skip the test when there are none."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ir_version = max(result.ir_version, 4)  # before, initializers had to be inputs too
    left = []
    for k, entry in enumerate(model.graph.input):
        if (keep_first and k == 0) or not is_bakeable(entry, feeds.get(entry.name)):
            left.append(entry)
        else:
            weight = numpy_helper.from_array(np.asarray(feeds[entry.name]), entry.name)
            result.graph.initializer.append(weight)
    if len(left) == len(model.graph.input):
        raise unittest.SkipTest("no input can become an initializer")
    del result.graph.input[:]
    result.graph.input.extend(left)
    return result


def is_bakeable(entry: onnx.ValueInfoProto, fed: Any) -> bool:
    """Return whether an input is fed a tensor of its declared type."""
    if not isinstance(fed, np.ndarray) or not entry.type.HasField("tensor_type"):
        return False
    return helper.np_dtype_to_tensor_dtype(fed.dtype) == entry.type.tensor_type.elem_type


def suite() -> dict[str, Callable[..., None]]:
    """Return every case of the official suite for the CPU by name, in order."""
    cases = {}
    for group in Runner(AmpcBackend).test_cases.values():
        for name, function in vars(group).items():
            if name.startswith("test_") and name.endswith("_cpu"):
                cases[name.removesuffix("_cpu")] = function
    return dict(sorted(cases.items()))

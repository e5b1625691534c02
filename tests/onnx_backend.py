"""ampc as an ONNX backend: compile the model, then run it on ONNX Runtime without further optimization.

The official suite runs on it as on any other backend.  Most of its models are one node whose operands are all
inputs, which leaves a compiler little to do, so there are two more variants of the same cases, with the same
inputs and expected outputs: ``rest`` makes every input but the first an initializer, as real models have it;
``all`` makes every input one, so that everything may be folded.

Models run in the compiler's own child process, which feeds and returns what the binding of ONNX Runtime for numpy does
not: bfloat16, the small floats and integers.  ``survey`` tells which rows plain ONNX Runtime passes; only those can say
something about the compiler.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from unittest import mock

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.runner import Runner

from compiler.verify.worker import Worker

Variant = Literal["plain", "rest", "all"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
RUN_SECONDS = 120.0

Row = tuple[str, Variant]
"""A case of the suite by its name, and the form in which it runs."""


class NothingToBake(Exception):
    """A model without an input that may become an initializer: the variant is no other than the plain one."""


class PreparedModel(BackendRep):
    """A model that is ready to run, and is compiled first if so asked."""

    def __init__(self, model: onnx.ModelProto, *, runtime: Worker, variant: Variant, compiled: bool) -> None:
        """Compile at once where the model does not depend on the inputs."""
        self._model = model
        self._runtime = runtime
        self._variant = variant
        self._compile = compile_plainly if compiled else as_it_is
        self._ready = self._compile(model) if variant == "plain" else None

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        """Run on inputs in the order of the model's own."""
        values = [np.asarray(value) if isinstance(value, np.generic) else value for value in inputs]
        feeds = dict(zip(input_names(self._model, len(values)), values, strict=False))
        model = self._ready
        if model is None:
            model = self._compile(bake(self._model, feeds, keep_first=self._variant == "rest"))
        fed = {entry.name for entry in model.graph.input}
        feeds = {name: array for name, array in feeds.items() if name in fed}
        return tuple(self._runtime.evaluate(model.SerializeToString(), feeds, timeout=RUN_SECONDS))


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
    """Return a copy whose tensor inputs have become initializers; raises ``NothingToBake`` when there are none."""
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
        raise NothingToBake
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


@dataclass
class Survey:
    """Which rows there are to be passed."""

    passed: list[Row] = field(default_factory=list)
    """Rows that plain ONNX Runtime passes."""
    refused: dict[Row, str] = field(default_factory=dict)
    """Rows that it does not, and why: no kernel, an operator that it does not know, other results."""


def survey(cases: Mapping[str, Callable[..., None]], rows: Iterable[Row]) -> Survey:
    """Run rows uncompiled, and leave out those that are the same as their plain form: about 5 ms each."""
    found = Survey()
    with (
        Worker() as runtime,
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, ONNX_MODELS=folder),  # where the suite lays out its larger networks' data
        np.errstate(all="ignore"),
    ):
        for case, variant in rows:
            try:
                cases[case](None, runtime=runtime, variant=variant, compiled=False)
            except NothingToBake:
                continue
            except Exception as error:  # whatever it is: the compiler is held to what passes
                found.refused[case, variant] = " ".join(str(error).split())[-300:]
            else:
                found.passed.append((case, variant))
    return found

"""Models that ONNX Runtime runs and that were once refused or misread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from compiler.errors import UnsupportedError
from compiler.frontend.load import load_model
from tests.hostile_case import relu_model, tensor, text


def test_an_operator_of_the_standard_is_not_a_functions_call() -> None:
    """A function that has the name of a standard operator is not called: the runtime takes its own."""
    model = text(
        "g (float[2] x) => (float[2] y) { y = Relu(x) }\n"
        '<domain: "", opset_import: ["" : 20]> Relu (x) => (y) { y = Neg(x) }'
    )
    assert [n.op for n in load_model(model).graph.nodes()] == ["Relu"]


def test_a_function_of_the_default_domain_is_called() -> None:
    """A function whose name no operator has is inlined, whatever its domain."""
    model = text(
        "g (float[2] x) => (float[2] y) { y = Mine(x) }\n"
        '<domain: "", opset_import: ["" : 20]> Mine (x) => (y) { y = Neg(x) }'
    )
    assert [n.op for n in load_model(model).graph.nodes()] == ["Neg"]


def test_external_data_of_length_zero_has_the_length_of_its_tensor(tmp_path: Path) -> None:
    """A length of zero means that none was given."""
    model = relu_model()
    weight = model.graph.initializer[0]
    weight.Clear()
    weight.name, weight.data_type, weight.data_location = "w", onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
    weight.dims.append(3)
    for key, value in (("location", "w.bin"), ("length", "0")):
        weight.external_data.add(key=key, value=value)
    (tmp_path / "w.bin").write_bytes(np.array([1, -2, 3], np.float32).tobytes())
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    (found,) = load_model(tmp_path / "model.onnx").graph.constants
    assert found.constant is not None
    assert found.constant.array().tolist() == [1, -2, 3]


def test_initializers_of_one_name_are_left_to_the_runtime() -> None:
    """What ampc cannot tell apart is handed on, not refused."""
    model = relu_model()
    model.graph.initializer.append(tensor("w", np.ones(3, np.float32)))
    with pytest.raises(UnsupportedError, match="occurs twice"):
        load_model(model)

"""Hold the laws of ``--dim``: what a model declares is bound wherever it is declared, and mistakes are answered."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from compiler import InputError, compile_model


def relu(path: Path, batch: str | int, *, twice: bool = False) -> Path:
    """Save a model of one node, whose output may be listed twice."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:] * (1 + twice))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_an_output_that_is_listed_twice_is_bound_twice(tmp_path: Path) -> None:
    """Both entries get the size, so that the result verifies and is what the target asks for."""
    result = compile_model(relu(tmp_path / "m.onnx", "b", twice=True), target="npu", dims={"b": 2})
    assert result.report["status"] == "verified"
    assert [o.type.tensor_type.shape.dim[0].dim_value for o in result.model.graph.output] == [2, 2]


def test_a_model_without_open_dims_says_so(tmp_path: Path) -> None:
    """Where no dim is open no names are offered."""
    with pytest.raises(InputError, match="no open dim called 'b'") as caught:
        compile_model(relu(tmp_path / "m.onnx", 2), target="cpu", dims={"b": 2})
    assert "no dim of the inputs is open" in caught.value.hint

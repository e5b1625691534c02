"""Laws of ``compiler.ir.schema``: what is known of operators is what the standard and the runtime say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx.defs
import pytest

from compiler.ir import edit
from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Model, Node, Value
from compiler.ir.schema import (
    _RUNTIME_PURE,
    attribute,
    is_known,
    is_pure,
    is_random,
    node_schema,
    schema,
    since_version,
)


def node(op: str, *inputs: Value | None, domain: str = "", version: int = 21, **attributes: Attr) -> Node:
    """Return a node with one output that belongs to no graph."""
    return Node(op, inputs, (Value("y"),), attributes, domain=domain, version=version)


def test_import_costs_no_onnx() -> None:
    """Importing the module does not import ``onnx``."""
    code = "import sys, compiler.ir.schema; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_schemas_follow_the_standard() -> None:
    """Every schema of the standard is found by name and version, with its arity and attributes."""
    for found in onnx.defs.get_all_schemas_with_history():
        ours = schema(found.domain, found.name, found.since_version)
        assert ours is not None, found.name
        assert ours.since_version == found.since_version
        assert (ours.min_input, ours.max_input) == (found.min_input, found.max_input)
        assert [f.name for f in ours.outputs] == [f.name for f in found.outputs]
        assert set(ours.attributes) == set(found.attributes)
        assert {n for n, a in ours.attributes.items() if a.required} == {
            a.name for a in found.attributes.values() if a.required
        }


def test_a_version_between_two_means_the_older() -> None:
    """A node's definition is the newest that is not newer than its version; version 0 means the newest."""
    assert since_version(node("Softmax", version=12)) == 11
    assert since_version(node("Softmax", version=21)) == 13
    assert since_version(node("Softmax", version=0)) == 13
    assert since_version(node("Softmax", version=1)) == 1


@pytest.mark.parametrize(("domain", "op"), [("", "NoSuchOperator"), ("my.domain", "Add"), ("", ""), ("", "A\0b")])
def test_unknown_operators_have_no_schema(domain: str, op: str) -> None:
    """An operator that the standard does not have has no schema, whatever its name is."""
    assert schema(domain, op, 21) is None
    assert node_schema(node(op, domain=domain)) is None
    assert not is_pure(node(op, domain=domain))
    assert not is_known(node(op, domain=domain))


def test_attribute_falls_back_to_the_default() -> None:
    """A node's own value comes first, then the schema's default, then nothing."""
    assert attribute(node("Softmax", axis=Attr("int", 2)), "axis") == 2
    assert attribute(node("Softmax"), "axis") == -1
    assert attribute(node("Softmax", version=11), "axis") == 1
    assert attribute(node("Conv"), "auto_pad") == "NOTSET"
    assert attribute(node("Conv"), "strides") is None
    assert attribute(node("Gelu", domain="com.microsoft"), "approximate") is None


def test_type_constraints_are_element_types() -> None:
    """Type variables and concrete types both give the element types that they allow."""
    found = schema("", "Gather", 13)
    assert found is not None
    data, indices = found.inputs
    assert found.allowed(indices) == {DType.I32, DType.I64}
    assert {DType.F32, DType.STRING, DType.BF16} <= found.allowed(data)
    shape = schema("", "Shape", 21)
    assert shape is not None
    assert shape.allowed(shape.outputs[0]) == {DType.I64}


def test_variadic_formals_cover_all_operands() -> None:
    """Operands beyond the formals belong to the variadic one, if there is one."""
    concat, relu = schema("", "Concat", 13), schema("", "Relu", 13)
    assert concat is not None
    assert relu is not None
    assert concat.formal_input(17) is concat.inputs[0]
    assert relu.formal_input(1) is None


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniformLike", "Multinomial", "Bernoulli"])
def test_random_operators_are_not_pure(op: str) -> None:
    """Operators that draw random numbers are known, random and not pure."""
    assert is_random(node(op))
    assert not is_pure(node(op))
    assert is_known(node(op))


def constant(array: object) -> Value:
    """Return a constant value."""
    value = Value("c")
    value.constant = Constant.from_array(np.asarray(array))
    return value


def test_dropout_is_random_only_in_training() -> None:
    """``Dropout`` is pure when its training mode is certainly off."""
    data = Value("x")
    assert is_pure(node("Dropout", data))
    assert is_pure(node("Dropout", data, None, constant(False)))
    assert not is_pure(node("Dropout", data, None, constant(True)))
    assert not is_pure(node("Dropout", data, None, Value("mode")))
    assert not is_pure(node("Dropout", data, version=6))
    assert is_pure(node("Dropout", data, version=6, is_test=Attr("int", 1)))
    assert is_pure(node("Dropout", data, version=7))


def test_what_is_nested_decides_purity() -> None:
    """An ``If`` with a random operator in a branch, however deep, is not pure."""
    assert is_pure(_if(_if(None, "Neg"), "Neg"))
    assert not is_pure(_if(_if(None, "RandomNormal"), "Neg"))
    assert not is_pure(_if(None, "NoSuchOperator"))


def _if(inner: Node | None, op: str) -> Node:
    model = Model()
    branch = Graph("branch", model)
    model.graph = branch
    edit.attach(branch, inner or node(op, Value("x")))
    edit.attach(branch, node(op, Value("x")))
    return node("If", Value("c"), then_branch=Attr("graph", branch), else_branch=Attr("graph", branch))


def test_runtime_operators_are_the_runtimes() -> None:
    """Every operator that is listed as known to be pure is one that ONNX Runtime has."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    real = {(s.domain, s.name) for s in state.get_all_operator_schema()}
    for domain, ops in _RUNTIME_PURE.items():
        assert [op for op in ops if (domain, op) not in real] == []
    assert is_pure(node("Gelu", domain="com.microsoft", version=1))
    assert not is_pure(node("PagedAttention", domain="com.microsoft", version=1))
    assert not is_pure(node("BitmaskDropout", domain="com.microsoft", version=1))

"""End to end: what a certificate says of equal, different, random, odd and broken models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import InputError
from compiler.frontend.load import load_model
from compiler.ir.infer import infer
from compiler.verify.certificate import Certificate
from compiler.verify.equivalence import check_equivalence
from compiler.verify.fold import runtime_evaluator
from compiler.verify.reference import Original, Reference
from compiler.verify.worker import Worker

MAX_IR = 10


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One child process for all tests of this file."""
    with Worker(timeout=30) as one:
        yield one


def parse(
    body: str, *, inputs: str = "float[N,4] x", outputs: str = "float[N,4] y", opset: int = 18
) -> onnx.ModelProto:
    """Return a model in ONNX's own text form."""
    return onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}, "com.microsoft" : 1]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )


def check(worker: Worker, original: Any, candidate: Any, **options: Any) -> Certificate:
    """Compare two models."""
    return check_equivalence(original, candidate, worker=worker, max_ir=MAX_IR, **options)


DEPLOYED = {
    "providers": [["CPUExecutionProvider", {}]],
    "session_options": {"graph_optimization_level": "ORT_ENABLE_ALL"},
}


def test_equal_models_are_verified(worker: Worker) -> None:
    """Two ways to say the same are verified, plain and deployed, at two sizes."""
    certificate = check(
        worker, parse("y = Relu(x)"), parse("z = Neg(x) w = Min(z) n = Neg(w) y = Relu(n)"), settings=DEPLOYED
    )
    assert certificate.verified, certificate.reason
    assert {p.how for p in certificate.probes} == {"plain", "deployed"}
    assert len({p.binding["N"] for p in certificate.probes}) == 2
    assert certificate.summary().startswith("verified")


def test_different_models_fail_with_the_output_and_the_probe(worker: Worker) -> None:
    """A wrong result is not accepted, and the reason names output and probe."""
    outputs = "float[N,4] y, float[N,4] z"
    original = parse("y = Relu(x) z = Neg(x)", outputs=outputs)
    certificate = check(worker, original, parse("y = Relu(x) z = Abs(x)", outputs=outputs))
    assert not certificate.accepted
    assert "output 'z' on named/normal" in certificate.reason
    assert next(row for row in certificate.render_rows() if row[2] == "y")[4] == "0.00e+00"


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": "float[N,4] q", "body": "y = Neg(q)"},
        {"outputs": "float[N,4] q", "body": "q = Neg(x)"},
        {"inputs": "float[2,4] x", "body": "y = Neg(x)"},
        {"inputs": "double[N,4] x", "body": "w = Cast<to = 1>(x) y = Neg(w)"},
    ],
)
def test_a_changed_interface_fails(worker: Worker, changed: dict[str, str]) -> None:
    """Names and types of inputs and outputs are what callers rely on."""
    body = changed.pop("body")
    assert not check(worker, parse("y = Neg(x)"), parse(body, **changed)).accepted


def test_an_initializer_that_callers_override_must_stay_so(worker: Worker) -> None:
    """Freezing an initializer that is an input fails; one that stays is fed with other values too."""
    original = parse("y = Mul(x, s)", inputs="float[N,4] x, float[1] s")
    original.graph.initializer.append(numpy_helper.from_array(np.array([2.0], np.float32), "s"))
    frozen = onnx.ModelProto()
    frozen.CopyFrom(original)
    del frozen.graph.input[1]
    assert "overridden" in check(worker, original, frozen).reason
    baked = parse("c = Constant<value = float {2.0}>() y = Mul(x, c)", inputs="float[N,4] x, float[1] s")
    baked.graph.initializer.append(original.graph.initializer[0])
    assert not check(worker, original, baked).accepted


def test_random_outputs_are_compared_by_type_and_shape(worker: Worker) -> None:
    """What depends on random numbers may differ in value only; what does not may not differ."""
    outputs = "float[N,4] y, float[N,4] z"
    original = parse("r = RandomNormalLike(x) y = Add(x, r) z = Neg(x)", outputs=outputs)
    same = parse("r = RandomUniformLike(x) y = Add(x, r) z = Neg(x)", outputs=outputs)
    wrong = parse("r = RandomUniformLike(x) y = Add(x, r) z = Abs(x)", outputs=outputs)
    certificate = check(worker, original, same)
    assert certificate.verified and certificate.stochastic
    assert not check(worker, original, wrong).accepted


def test_an_original_that_does_not_run_is_not_comparable(worker: Worker) -> None:
    """When the original has no kernel here, the result is neither verified nor refused."""
    model = parse("y = com.microsoft.GemmFastGelu(x, x)", inputs="float[4,4] x", outputs="float[4,4] y")
    certificate = check(worker, model, model)
    assert certificate.status == "unverified"
    assert certificate.accepted and not certificate.verified
    assert "not comparable" in certificate.reason


def test_a_result_that_does_not_load_fails(worker: Worker) -> None:
    """An emitted model that the runtime refuses is not accepted."""
    broken = parse("y = NoSuchOperator(x)")
    assert "does not load" in check(worker, parse("y = Neg(x)"), broken).reason


def test_noise_that_the_original_makes_itself_is_forgiven(worker: Worker) -> None:
    """Where one ulp of the inputs moves the original as far, a difference counts as noise, and is told."""
    original = parse("c = Constant<value = float {10000.0}>() m = Mul(x, c) y = Sin(m)")
    regrouped = parse(
        "c = Constant<value = float {3000.0}>() d = Constant<value = float {0.3}>() "
        "m = Mul(x, c) n = Div(m, d) y = Sin(n)"
    )
    certificate = check(worker, original, regrouped)
    assert certificate.verified, certificate.reason
    assert any("ill-conditioned" in note for note in certificate.notes)


def test_differences_on_special_values_are_told_and_count_as_none(worker: Worker) -> None:
    """Folding ``x - x`` is right for every finite input and wrong for the others."""
    original = parse("z = Sub(x, x) y = Exp(z)")
    folded = parse("s = Shape(x) y = ConstantOfShape<value = float[1] {1.0}>(s)")
    certificate = check(worker, original, folded)
    assert certificate.verified, certificate.reason
    assert any("NaN and infinities" in note for note in certificate.notes)


def test_an_ir_version_beyond_the_runtime_is_compared_all_the_same(worker: Worker) -> None:
    """The stamp of a newer ONNX says nothing about the graph."""
    original = parse("y = Neg(x)")
    original.ir_version = 99
    assert check(worker, original, parse("y = Neg(x)")).verified


def test_weights_stay_in_their_files(worker: Worker, tmp_path: Path) -> None:
    """Weights of a file, embedded or external, are referred to and not sent, and the values are right."""
    weight = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    model = parse("y = MatMul(x, w)", inputs="float[N,256] x", outputs="float[N,256] y")
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    embedded, external = tmp_path / "embedded.onnx", tmp_path / "external.onnx"
    onnx.save(model, embedded)
    onnx.save(model, external, save_as_external_data=True, size_threshold=0, location="weights.bin")
    for path in (embedded, external):
        data, folder = Original.of(path).image(max_ir=MAX_IR)
        assert len(data) < 4096 and folder is not None
    certificate = check(worker, embedded, external, settings=DEPLOYED)
    assert certificate.verified, certificate.reason
    reference = Reference(Original.of(external), worker, MAX_IR)
    x = np.ones((2, 256), np.float32)
    np.testing.assert_allclose(reference.run_feeds({"x": x})[0], x @ weight, rtol=1e-3, atol=1e-3)


def test_external_data_outside_of_the_folder_is_refused(worker: Worker, tmp_path: Path) -> None:
    """A hostile model cannot make the runtime read other files."""
    model = parse("y = Add(x, w)", inputs="float[N,4] x", outputs="float[N,4] y")
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value="../secret.bin")
    path = tmp_path / "inside" / "model.onnx"
    path.parent.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError):
        check(worker, path, path)


def test_the_users_inputs_are_used_and_checked(worker: Worker) -> None:
    """Given inputs are a probe of their own; a name that the model lacks is the user's error."""
    certificate = check(worker, parse("y = Neg(x)"), parse("y = Neg(x)"), inputs={"x": np.ones((3, 4), np.float32)})
    assert certificate.probes[0].kind == "user"
    with pytest.raises(InputError, match="no input 'z'"):
        check(worker, parse("y = Neg(x)"), parse("y = Neg(x)"), inputs={"z": np.ones(3)})


def test_a_certificate_is_json_and_repeatable(worker: Worker) -> None:
    """Two verifications of the same models write the same JSON."""
    texts = [
        json.dumps(
            check(worker, parse("y = Sin(x)"), parse("y = Sin(x)"), settings=DEPLOYED).to_json(), allow_nan=False
        )
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


def test_outputs_that_are_nan_throughout_are_marked(worker: Worker) -> None:
    """A comparison of nothing but NaN says little, and the certificate shows it."""
    model = parse("z = Sub(x, x) y = Div(z, z)")
    certificate = check(worker, model, model)
    assert certificate.verified
    assert all(o.nan for p in certificate.probes for o in p.outputs)


# Folding -----------------------------------------------------------------------------------------


def evaluate(worker: Any, model: onnx.ModelProto) -> Any:
    """Fold all nodes of a model without inputs."""
    ir = load_model(model)
    infer(ir.graph)
    nodes = list(ir.graph.nodes())
    return runtime_evaluator(worker, model=ir, max_ir=MAX_IR)(nodes, [n.output for n in nodes])


def constants(body: str, output: str) -> onnx.ModelProto:
    """Return a model without inputs."""
    return parse(body, inputs="", outputs=output)


def test_the_evaluator_computes_constants(worker: Worker) -> None:
    """Results have the runtime's values and types, whether the worker is given or made when needed."""
    model = constants("a = Constant<value = float[2] {1.0, 2.0}>() b = Add(a, a) y = Cast<to = 10>(b)", "float16[2] y")
    for given in (worker, lambda: worker):
        first, second = evaluate(given, model)
        assert first.array().tolist() == [2.0, 4.0]
        assert second.array().dtype == np.float16 and second.array().tolist() == [2.0, 4.0]


def test_the_evaluator_gives_a_reason_when_it_cannot(worker: Worker) -> None:
    """Nodes that fail at run time, and results that are no tensors, are reasons and no exceptions."""
    bad_index = constants(
        "a = Constant<value = float[2] {1.0, 2.0}>() i = Constant<value = int64[1] {7}>() y = Gather(a, i)",
        "float[1] y",
    )
    sequence = constants("a = Constant<value = float[2] {1.0, 2.0}>() y = SequenceConstruct(a)", "seq(float[2]) y")
    assert "does not evaluate" in evaluate(worker, bad_index)
    assert isinstance(evaluate(worker, sequence), str)


def test_the_evaluator_computes_strings(worker: Worker) -> None:
    """Texts are constants like others."""
    node = helper.make_node("StringConcat", ["a", "a"], ["y"])
    text = numpy_helper.from_array(np.array(["x", "y"], dtype=object), "a")
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", TensorProto.STRING, [2])], [text])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    assert evaluate(worker, model)[0].array().tolist() == ["xx", "yy"]

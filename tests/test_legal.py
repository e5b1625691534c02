"""Legality: what it allows runs on ONNX Runtime, what it forbids does not, and it says so in no time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from compiler.frontend.bodies import FunctionBodies
from compiler.ir.graph import Node
from compiler.opening import open_model, prepare
from compiler.rewrite.legal import Legality
from targets import load_target
from targets.kernels import KernelTable
from tests.isolation import Child
from tests.single_node import Single, integers, numbers, outcome
from tools.models import resnet50, whisper_tiny_encoder

MS = "com.microsoft::"
N, F16, F64, I64 = numbers, np.float16, np.float64, np.int64
Q = N(2, 4, 5, 8)
"""Queries: batch 2, 4 heads, 5 rows, heads of 8."""
ROWS = N(2, 5, 32)
"""The same, with the heads side by side."""
PAST = N(2, 4, 3, 8)
GROUPS = N(2, 5, 16), N(2, 5, 16)
WIDE = N(2, 5, 64), N(2, 5, 32), N(2, 5, 32)
"""Queries of 4 heads and keys of 2, of size 16."""
COUNTS = integers(4, 4), integers(5)
X, W = N(2, 5, 8), N(8)
ANGLES = np.cos(N(10, 4)), np.sin(N(10, 4))
PLACES = np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]], I64)
HEADS = {"num_heads": 4}
GQA = {"num_heads": 4, "kv_num_heads": 2}


def attend(*more: object, outputs: str = "y", opset: int = 23, **attributes: object) -> Single:
    """Return ``Attention`` of four dims with a mask, a past key and a past value."""
    return Single("Attention", [Q, Q, Q, *more], attributes, outputs, opset)  # type: ignore[list-item]  # arrays


def multi_head(*operands: object, outputs: str = "y", **attributes: object) -> Single:
    """Return ``MultiHeadAttention`` of four heads."""
    return Single(MS + "MultiHeadAttention", operands, HEADS | attributes, outputs)  # type: ignore[arg-type]  # arrays


def grouped(*operands: object, outputs: str = "yyy", **attributes: object) -> Single:
    """Return ``GroupQueryAttention`` of four heads in two groups."""
    return Single(MS + "GroupQueryAttention", operands, GQA | attributes, outputs)  # type: ignore[arg-type]  # arrays


def skip_norm(*operands: object, outputs: str = "y", op: str = "SkipLayerNormalization") -> Single:
    """Return the norm of a sum."""
    return Single(MS + op, operands, {"epsilon": 1e-5}, outputs)  # type: ignore[arg-type]  # arrays


def fused(op: str, *operands: object, **attributes: object) -> Single:
    """Return an operator of ``com.microsoft``."""
    return Single(MS + op, operands, attributes)  # type: ignore[arg-type]  # arrays


CASES = [
    *(attend(N(*shape), opset=opset) for opset in (23, 24) for shape in [(5, 5), (1, 5), (2, 1, 1, 5), (2, 4, 5, 5)]),
    *(attend(N(*shape)) for shape in [(5,), (1, 5, 5), (4, 5, 5), (1, 4, 5, 5), (2, 1, 5, 3)]),
    attend(N(5, 5) > 0, is_causal=1, softcap=2.0),
    attend(scale=-1.0),
    attend(scale=0.5),
    attend(None, PAST, PAST, outputs="yyy"),
    attend(None, PAST, PAST),
    attend(N(2, 1, 5, 8), PAST, PAST, outputs="yyy"),
    attend(N(2, 1, 5, 5), PAST, PAST, outputs="yyy"),
    Single("Attention", [N(0, 4, 5, 8)] * 3, opset=23),
    Single("Attention", [N(2, 4, 5, 8, dtype=F16)] * 3, opset=23),
    Single("Attention", [ROWS, ROWS, ROWS], {"q_num_heads": 4, "kv_num_heads": 4}, opset=23),
    multi_head(ROWS, ROWS, ROWS),
    multi_head(ROWS, ROWS, ROWS, N(96), integers([1] * 5, [1] * 5), N(1, 1, 5, 5)),
    *(
        multi_head(ROWS, ROWS, ROWS, None, None, N(*shape))
        for shape in [(5, 5), (2, 1, 1, 5), (2, 4, 5, 5), (1, 1, 5, 4)]
    ),
    multi_head(ROWS, ROWS, N(2, 5, 24)),
    multi_head(ROWS, ROWS, N(2, 5, 24), None, None, None, PAST, N(2, 4, 3, 6), outputs="yyy"),
    multi_head(ROWS, ROWS, ROWS, None, None, None, PAST, PAST, outputs="yyy"),
    multi_head(ROWS, N(2, 4, 7, 8), N(2, 4, 7, 8)),
    multi_head(ROWS, N(2, 4, 7, 8), N(2, 4, 7, 6)),
    multi_head(ROWS, N(2, 5, 16), N(2, 5, 16)),
    multi_head(ROWS, N(1, 5, 32), N(1, 5, 32)),
    multi_head(N(2, 5, 4, 3, 8)),
    multi_head(ROWS, N(2, 7, 4, 2, 8)),
    multi_head(ROWS, ROWS, ROWS, None, N(2, 5) > 0),
    grouped(*WIDE, None, None, *COUNTS),
    grouped(*WIDE, None, None, *COUNTS, local_window_size=2, softcap=1.0),
    grouped(N(2, 5, 48), N(2, 5, 24), N(2, 5, 24), None, None, *COUNTS),
    grouped(N(0, 5, 64), N(0, 5, 32), N(0, 5, 32), None, None, integers(), integers(5)),
    grouped(WIDE[0], N(2, 7, 32), N(2, 7, 32), None, None, *COUNTS),
    grouped(*WIDE, N(2, 2, 3, 16), N(2, 2, 3, 16), integers(7, 7), integers(8)),
    grouped(*(a[:1] for a in WIDE), N(1, 2, 3, 16), N(1, 2, 3, 16), integers(7), integers(8)),
    grouped(*(a[:, :1] for a in WIDE), N(2, 2, 3, 16), N(2, 2, 3, 16), integers(3, 3), integers(4)),
    grouped(*WIDE, None, None, *COUNTS, None, None, None, N(5, 5)),
    grouped(*WIDE, None, None, *COUNTS, None, None, None, N(2, 1, 5, 5)),
    grouped(*WIDE, None, None, *COUNTS, N(9, 8), N(9, 8), do_rotary=1),
    grouped(*WIDE, None, None, *COUNTS, N(9, 6), N(9, 6), do_rotary=1),
    Single("RotaryEmbedding", [Q, *ANGLES, PLACES], opset=23),
    Single("RotaryEmbedding", [Q, *ANGLES, PLACES[:1]], opset=23),
    Single("RotaryEmbedding", [Q, N(2, 5, 4), N(2, 5, 4)], opset=23),
    Single("RotaryEmbedding", [Q, N(1, 5, 4), N(1, 5, 4)], opset=23),
    Single("RotaryEmbedding", [ROWS, N(2, 5, 4), N(2, 5, 4)], {"num_heads": 4}, opset=23),
    fused("RotaryEmbedding", Q, PLACES, *ANGLES),
    fused("RotaryEmbedding", Q, PLACES[:1], *ANGLES),
    fused("RotaryEmbedding", Q, integers(2, dtype=I64), *ANGLES),
    fused("RotaryEmbedding", Q, PLACES, np.cos(N(3, 4)), np.sin(N(3, 4))),
    fused("RotaryEmbedding", Q, PLACES % 9, np.cos(N(10, 2)), np.sin(N(10, 2)), rotary_embedding_dim=4),
    fused("RotaryEmbedding", Q, PLACES, np.cos(N(10, 2)), np.sin(N(10, 2)), rotary_embedding_dim=4, num_heads=4),
    *(skip_norm(X, skip, W, outputs="y__y") for skip in (X, X[:1], X[0], X[:1, :1], X[:, :1], X[0, 0])),
    skip_norm(X[0], X[0], W),
    skip_norm(X[0], X[0, :1], W),
    skip_norm(N(2, 3, 5, 8), N(2, 3, 5, 8), W),
    skip_norm(X, X, W[None]),
    skip_norm(X, X, W, W, W, outputs="y__y"),
    skip_norm(X, X, W, W, op="SkipSimplifiedLayerNormalization"),
    skip_norm(X.astype(F16), X.astype(F16), W.astype(F16)),
    skip_norm(X.astype(F64), X.astype(F64), W.astype(F64)),
    Single("RMSNormalization", [X, W], opset=23),
    Single("RMSNormalization", [X.astype(F16), W], opset=23),
    Single("SimplifiedLayerNormalization", [X, W], {"epsilon": 1e-5}),
    Single("LayerNormalization", [N(2, 0), N(0)]),
    Single("LayerNormalization", [N(0, 2), N(2)]),
    Single("Gelu", [X]),
    Single("Gelu", [X.astype(F16)]),
    Single("Gelu", [X.astype(F64)]),
    Single("Mish", [X]),
    Single("HardSwish", [X]),
    Single("GroupNormalization", [N(2, 8, 5), W, W], {"num_groups": 2}),
    Single("Swish", [X], opset=24),
    Single("Swish", [X], opset=25),
    Single("Attention", [Q, Q, Q], opset=25),
    Single("MatMul", [X.astype(F16), N(8, 3, dtype=F16)]),
    Single("Bernoulli", [np.abs(np.tanh(X))], opset=22),
    fused("BiasGelu", X, W),
    fused("BiasGelu", X, W[None]),
    fused("FastGelu", X, N(5, 8)),
    fused("QuickGelu", X, alpha=1.0),
    fused("FusedMatMul", X, N(8, 3), alpha=0.5),
    fused("FusedMatMul", X.astype(np.int32), np.ones((8, 3), np.int32)),
    *(fused("FusedGemm", X[0], N(8, 3), N(3), activation=a) for a in ("Relu", "Softplus", "LeakyRelu", "Gelu")),
    fused("FusedGemm", X[0], N(8, 3), N(3), activation="LeakyRelu", activation_alpha=0.1),
    *(fused("FusedConv", N(1, 4, 6, 6), N(8, 4, 3, 3), activation=a) for a in ("Relu", "Clip", "Elu")),
    fused("FusedConv", N(1, 4, 6, 6), N(8, 4, 3, 3), activation="Clip", activation_params=[0.0, 6.0]),
    fused("FusedConv", N(1, 4, 6, 6), N(8, 4, 3, 3), activation="HardSwish", activation_params=[1 / 6, 0.5]),
    fused("FusedConv", N(1, 4, 6, 6), N(8, 4, 3, 3), None, N(1, 8, 4, 4)),
    fused("FusedConv", N(1, 4, 6, 6), N(8, 4, 3, 3), None, N(1, 8, 1, 1)),
    fused("Attention", X, N(8, 24), N(24), num_heads=2),
    fused("Attention", X, N(8, 24), N(24), None, N(2, 2, 2, 3, 4), num_heads=2),
    fused("Attention", X, N(8, 24), N(24), None, N(2, 2, 2, 3, 4), N(1, 1, 5, 8), num_heads=2),
    fused("BiasAdd", X, W, X),
    Single("LSTM", [X, N(1, 12, 8), N(1, 12, 3)], {"hidden_size": 3, "layout": 1}),
    Single("LSTM", [X, N(1, 12, 8), N(1, 12, 3)], {"hidden_size": 3}),
]
"""Nodes that kernels run, and nodes that they refuse: when they are loaded, or only when they run."""

WRONG = [
    multi_head(ROWS, ROWS, ROWS, None, None, None, PAST, PAST),
    grouped(*(a[:, :1] for a in WIDE), N(2, 2, 3, 16), N(2, 2, 3, 16), integers(3, 3), integers(4), outputs="y"),
    grouped(*WIDE, None, None, *COUNTS, N(9, 8), N(9, 8), PLACES, do_rotary=1),
    fused("RotaryEmbedding", Q, PLACES, *ANGLES, scale=0.5),
    fused("FusedConv", N(1, 4, 6, 6), N(8, 4, 3, 3), activation="HardSwish", activation_params=[0.2, 0.5]),
]
"""Nodes that kernels run, but not as they should: they ignore an operand or an attribute."""


@pytest.fixture(scope="module")
def runtime() -> Iterator[Child]:
    """A child process that runs models."""
    child = Child()
    yield child
    child.close()


def of_cpu(opset: int) -> Legality:
    """Return what runs on ONNX Runtime's own kernels in a model of an opset."""
    return Legality.of(load_target("cpu"), opset=opset, bodies=FunctionBodies())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_legal_runs_and_nothing_else_does(case: Single, runtime: Child) -> None:
    """A node is legal exactly when ONNX Runtime runs it."""
    model = case.model()
    found = outcome(runtime, model, case.feeds)
    reason = of_cpu(case.opset)(next(iter(model.graph.nodes())))
    assert (reason == "") == (not isinstance(found, str)), f"legal: {reason or 'yes'}; ONNX Runtime: {found}"


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_what_kernels_get_wrong_is_not_legal(case: Single, runtime: Child) -> None:
    """A node that a kernel runs without something that it says is not legal."""
    model = case.model()
    assert not isinstance(outcome(runtime, model, case.feeds), str), "the kernel refuses it: then this is a case above"
    assert of_cpu(case.opset)(next(iter(model.graph.nodes())))


@pytest.mark.parametrize("build", [whisper_tiny_encoder, resnet50])
def test_whole_networks_are_legal(build: object) -> None:
    """Every node of a network that runs is legal."""
    model = open_model(build())  # type: ignore[operator]  # a builder of models
    prepare(model)
    legality = of_cpu(model.opsets[""])
    assert [reason for n in model.graph.all_nodes() if (reason := legality.why_not(n))] == []


def test_definitions_are_told_from_kernels() -> None:
    """A node that runs by its definition only is legal and told apart; one with a kernel is not."""
    by_definition = [Single("Mish", [X]), Single("Gelu", [X.astype(F16)]), Single("Attention", [Q] * 3, opset=25)]
    by_kernel = [Single("Gelu", [X]), Single("Attention", [Q] * 3, opset=24), Single("MatMul", [X, N(8, 3)])]
    assert [of_cpu(c.opset).fused_by_function(c.node()) for c in by_definition] == [True] * 3
    assert [of_cpu(c.opset).fused_by_function(c.node()) for c in by_kernel] == [False] * 3


def test_what_cannot_be_decided_counts_against_what_a_rewrite_makes() -> None:
    """A mask that may or may not have a row for each query is refused to rewrites, and left to the model's author."""
    node = Single("Attention", [Q, Q, Q, N(2, 1, 5, 5)], opset=23, open_dims=(3,)).node()
    legality = of_cpu(23)
    assert "mask" in legality.why_not(node)
    assert legality.why_not(node, proven=False) == ""


def test_reasons_name_the_provider_and_the_operator() -> None:
    """The reason says who lacks a kernel of what."""
    assert of_cpu(21)(fused("BiasAdd", X, W, X).node()) == (
        "CPUExecutionProvider has no kernel of com.microsoft::BiasAdd"
    )


def test_without_a_target_everything_is_legal() -> None:
    """Nothing is known of no target, and nothing of an operator of an unknown domain."""
    node = fused("BiasAdd", X, W, X).node()
    assert Legality.of(None)(node) == "" and not Legality.of(None).fused_by_function(node)
    assert of_cpu(21)(Node("Anything", (), (), domain="com.example")) == ""


def test_a_provider_without_a_table_takes_what_its_target_says() -> None:
    """Where a provider whose kernels are not known comes first, fused operators are legal only by the target's word."""
    target = load_target("cpu_openvino")
    legality = Legality.of(target, opset=21)
    assert target.constraints.contrib is not None and "BiasGelu" in target.constraints.contrib
    assert legality(fused("BiasGelu", X, W).node()) == ""
    assert "does not run" in legality(multi_head(ROWS, ROWS, ROWS).node())
    assert legality(Single("MatMul", [X, N(8, 3)]).node()) == ""


def test_asking_for_many_nodes_asks_the_table_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel table is asked once for all nodes of one form and one type."""
    asked = []
    plain = KernelTable.supports

    def counting(self: KernelTable, *arguments: object) -> object:
        asked.append(arguments)
        return plain(self, *arguments)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(KernelTable, "supports", counting)
    legality, nodes = of_cpu(21), [Single("Gelu", [X]).node(), fused("QuickGelu", X).node()]
    for _ in range(100):
        assert [legality(n) for n in nodes] == ["", ""]
    assert len(asked) <= 2 * len(nodes)

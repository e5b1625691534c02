"""Probes: legal, telling, repeatable inputs for every type, at several sizes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from compiler.errors import InputError, WorkerError
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.verify.probes import Probe, ProbePlan, make_probes, settle
from compiler.verify.probes_bindings import bindings
from compiler.verify.probes_draw import CannotDraw


def plan_of(text: str) -> ProbePlan:
    """Return the plan for a model in text form."""
    model = parse_model("// ampc 1, opset 20\n" + text)
    infer(model.graph)
    return ProbePlan(model)


def passing(inputs: str, body: str, outputs: str) -> str:
    """Return the text of a graph that returns what its body makes."""
    names = ", ".join(o.split(":")[0] for o in outputs.split(", "))
    return f"graph @main({inputs}) -> ({outputs}) {{\n{body}\nreturn {names}\n}}"


def first(text: str, name: str = "x") -> Any:
    """Return what the first candidate feeds to an input."""
    return plan_of(text).candidates()[0].feeds[name]


DTYPES = {
    "f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "f8e4m3fn": ml_dtypes.float8_e4m3fn, "f8e5m2": ml_dtypes.float8_e5m2, "f4e2m1": ml_dtypes.float4_e2m1fn,
    "i8": np.int8, "u8": np.uint8, "i16": np.int16, "u16": np.uint16, "i32": np.int32, "u32": np.uint32,
    "i64": np.int64, "u64": np.uint64, "i4": ml_dtypes.int4, "u4": ml_dtypes.uint4, "bool": np.bool_,
    "c64": np.complex64, "c128": np.complex128, "str": np.object_,
}  # fmt: skip


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_element_type_has_values_in_every_manner(dtype: str) -> None:
    """An input of any element type gets arrays of that type and shape, whatever the manner."""
    plan = plan_of(passing(f"%x: {dtype}[2,3]", f"%y: {dtype}[2,3] = Identity(%x)", f"%y: {dtype}[2,3]"))
    for probe in plan.candidates():
        assert probe.feeds["x"].dtype == np.dtype(DTYPES[dtype])
        assert probe.feeds["x"].shape == (2, 3)


def test_sequences_optionals_and_maps_have_values() -> None:
    """Values that are no tensors are lists, values that are there, and dicts."""
    text = passing(
        "%x: seq<f32[2]>, %o: optional<f32[2]>, %m: map<i64,f32[]>", "%y: f32[2] = Identity(%o)", "%y: f32[2]"
    )
    feeds = plan_of(text).candidates()[0].feeds
    assert [v.shape for v in feeds["x"]] == [(2,)] * 3
    assert feeds["o"].shape == (2,)
    assert all(isinstance(k, int) for k in feeds["m"])


def test_a_symbol_is_one_number_in_all_inputs() -> None:
    """Within a probe a symbol has one size everywhere, and products of symbols follow."""
    text = passing(
        "%x: f32[batch,seq], %z: f32[seq,batch]", "%y: f32[batch,batch] = MatMul(%x, %z)", "%y: f32[batch,batch]"
    )
    for probe in plan_of(text).candidates():
        assert probe.feeds["x"].shape == probe.feeds["z"].shape[::-1]
        assert probe.feeds["x"].shape == (probe.binding["batch"], probe.binding["seq"])


def test_past_and_total_lengths_fit_each_other() -> None:
    """A name that adds a length to a past length is their sum."""
    name, found = next(bindings(["past_len", "sequence_length", "past_len + sequence_length", "past_len + 1"]))
    assert name == "named"
    assert found["past_len + sequence_length"] == found["past_len"] + found["sequence_length"]
    assert found["past_len + 1"] == found["past_len"] + 1


def test_the_first_two_bindings_differ() -> None:
    """A model with named dims is tried at two sizes before anything else."""
    (_, one), (_, other) = list(bindings(["batch_size", "sequence_length"]))[:2]
    assert one["batch_size"] != other["batch_size"]
    assert one["sequence_length"] != other["sequence_length"]


def test_indices_stay_in_their_table() -> None:
    """Integers that select rows are at least 0 and below the number of rows, also behind a cast."""
    body = "%i: i64[N] = Cast(%x) {to = 7}\n%y: f32[N,4] = Gather(%w, %i)"
    text = passing("%x: i32[N], %w: f32[3,4]", body, "%y: f32[N,4]")
    for probe in plan_of(text).candidates():
        if probe.kind not in ("small", "mid", "ones", "zeros"):
            assert probe.feeds["x"].min() >= 0 and probe.feeds["x"].max() < 3


def test_masks_are_zeros_and_ones_with_padding_at_the_end() -> None:
    """A mask, by name or by use, never rises within a row, and its first place is one."""
    by_use = "%f: f32[N,8] = Cast(%x) {to = 1}\nconst %one: f32[] = 1.0\n%y: f32[N,8] = Sub(%one, %f)"
    by_name = "%y: f32[N,8] = Cast(%attention_mask) {to = 1}"
    for text, name in (
        (passing("%x: i64[N,8]", by_use, "%y: f32[N,8]"), "x"),
        (passing("%attention_mask: i64[N,8]", by_name, "%y: f32[N,8]"), "attention_mask"),
    ):
        mask = next(p for p in plan_of(text).candidates() if p.kind == "structured").feeds[name]
        assert set(np.unique(mask)) <= {0, 1}
        assert (np.diff(mask.astype(int)) <= 0).all() and mask[:, 0].all()


def test_shapes_and_axes_are_legal() -> None:
    """Integers that are shapes, axes, counts or divisors get values that the operators take."""
    body = """%r: f32[2,3] = Reshape(%x, %shape)
    %s: f32[2] = ReduceSum(%r, %axes) {keepdims = 0}
    %v: f32[1], %i: i64[1] = TopK(%s, %k)
    %d: i64[2] = Div(%n, %by)"""
    inputs = "%x: f32[6], %shape: i64[2], %axes: i64[1], %k: i64[1], %n: i64[2], %by: i64[2]"
    feeds = plan_of(passing(inputs, body, "%v: f32[1], %d: i64[2]")).candidates()[0].feeds
    assert feeds["x"].reshape(feeds["shape"]).ndim == 2
    assert feeds["axes"].tolist() == [0]
    assert feeds["k"].tolist() == [1]
    assert (feeds["by"] != 0).all()


def test_special_values_come_only_where_asked_for() -> None:
    """NaN and infinities are in the special probe, and in no other."""
    plan = plan_of(passing("%x: f32[64]", "%y: f32[64] = Neg(%x)", "%y: f32[64]"))
    candidates = plan.candidates()
    assert all(np.isfinite(p.feeds["x"]).all() for p in candidates)
    special = plan.special(candidates[0])
    assert special is not None and not np.isfinite(special.feeds["x"]).all()


def test_equal_seeds_draw_equal_values() -> None:
    """Two plans of one model draw the same, another seed draws something else."""
    text = passing("%x: f32[8]", "%y: f32[8] = Neg(%x)", "%y: f32[8]")
    one, same, other = (plan_of(text).candidates(seed=s)[0].feeds["x"] for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_huge_inputs_are_not_made() -> None:
    """An input beyond the limit is refused before anything is allocated."""
    plan = plan_of(passing("%x: f32[100000,100000]", "%y: f32[100000,100000] = Neg(%x)", "%y: f32[100000,100000]"))
    with pytest.raises(CannotDraw):
        _ = plan.candidates()[0].feeds


@pytest.mark.parametrize(
    ("given", "says"),
    [({"q": np.zeros(2)}, "no input 'q'"), ({}, "lack 'x'"), ({"x": np.array(["a", "b"])}, "takes f32")],
)
def test_wrong_inputs_of_the_user_are_errors(given: dict[str, Any], says: str) -> None:
    """Unknown and missing names and types that do not convert are the user's errors, named."""
    plan = plan_of(passing("%x: f32[2]", "%y: f32[2] = Neg(%x)", "%y: f32[2]"))
    with pytest.raises(InputError, match=says):
        plan.candidates(user=given)


def test_the_users_inputs_come_first_and_give_the_sizes() -> None:
    """What the user gives is the first probe, and the next ones have its sizes."""
    plan = plan_of(passing("%x: f32[N]", "%y: f32[N] = Neg(%x)", "%y: f32[N]"))
    candidates = plan.candidates(user={"x": np.arange(5)})
    assert candidates[0].feeds["x"].dtype == np.float32
    assert candidates[1].binding == {"N": 5}


def test_at_least_the_wanted_number_of_candidates_is_made() -> None:
    """``make_probes`` gives as many candidates as asked for, each under its own name."""
    model = parse_model("// ampc 1, opset 20\n" + passing("%x: f32[2]", "%y: f32[2] = Neg(%x)", "%y: f32[2]"))
    assert len(make_probes(model, count=40)) == 40


class Picky:
    """Runs probes of some sizes only."""

    def __init__(self, *sizes: int, kind: str = "run") -> None:
        """Take the sizes of the one symbol that run."""
        self.sizes = sizes
        self.kind = kind
        self.runs = 0

    def run(self, probe: Probe) -> list[Any]:
        """Refuse all other sizes."""
        self.runs += 1
        if probe.binding["N"] not in self.sizes:
            raise WorkerError("refused", kind=self.kind, why="wrong size")
        return []


NEG = passing("%x: f32[N]", "%y: f32[N] = Neg(%x)", "%y: f32[N]")


def test_settling_finds_sizes_that_run() -> None:
    """A model that takes few sizes is probed at these, and the refusals are told."""
    found = settle(Picky(1, 4), plan_of(NEG).candidates())
    assert {p.binding["N"] for p in found.probes} == {1, 4}
    assert set(found.refused.values()) == {"wrong size"}


def test_settling_wants_two_sizes_but_not_at_any_price() -> None:
    """A model that takes one size only is probed at that one, with a bounded number of attempts."""
    picky = Picky(2)
    found = settle(picky, plan_of(NEG).candidates())
    assert len(found.probes) == 3
    assert picky.runs < 12


def test_settling_stops_when_the_model_does_not_load() -> None:
    """A model that does not load is not tried again."""
    picky = Picky(kind="load")
    found = settle(picky, plan_of(NEG).candidates())
    assert (found.probes, picky.runs) == ([], 1)
    assert found.error is not None


def test_the_users_probe_must_run() -> None:
    """When the original refuses the user's inputs, that is the user's error."""
    with pytest.raises(InputError, match="does not run on the given inputs"):
        settle(Picky(1), plan_of(NEG).candidates(user={"x": np.zeros(3, np.float32)}))

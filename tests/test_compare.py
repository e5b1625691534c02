"""The comparison: what agrees, what differs, and what is said about it."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compiler.verify import compare as module
from compiler.verify.compare import Bound, Difference, Tolerance, compare

DEFAULT, EXACT = Tolerance.default(), Tolerance.exact()
FLOATS = [
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
]
INTEGERS = [
    np.int8,
    np.uint8,
    np.int16,
    np.uint16,
    np.int32,
    np.uint32,
    np.int64,
    np.uint64,
    ml_dtypes.int4,
    ml_dtypes.uint4,
]
DIGITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7, "float8_e4m3fn": 3, "float8_e5m2": 2}
NAN, INF = math.nan, math.inf


def f32(*values: float) -> Any:
    """Return a vector of float32."""
    return np.array(values, np.float32)


def differ(reference: Any, candidate: Any, tolerance: Tolerance = DEFAULT) -> Difference:
    """Return the difference that there must be."""
    found = compare(reference, candidate, tolerance=tolerance)
    assert found is not None
    return found


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
        hnp.array_shapes(min_dims=0, min_side=0),
    )
)
def test_every_array_equals_its_copy(array: Any) -> None:
    """Any array agrees with its copy exactly, NaN and infinities included, in whatever memory layout."""
    assert compare(array, array.copy(), tolerance=EXACT) is None
    assert compare(np.asfortranarray(array), np.ascontiguousarray(array), tolerance=EXACT) is None


@given(hnp.arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)), st.floats(-1e-3, 1e-3))
def test_the_law_of_floats(array: Any, error: float) -> None:
    """Arrays agree iff all differences are within atol times the largest magnitude plus rtol of their own."""
    bound = DEFAULT.for_dtype(np.float32)
    other = (array * (1 + error)).astype(np.float32)
    wide, got = array.astype(np.float64), other.astype(np.float64)
    allowed = bound.atol * max(1.0, np.abs(wide).max()) + bound.rtol * np.abs(wide)
    assert (compare(array, other, tolerance=DEFAULT) is None) == bool((np.abs(wide - got) <= allowed).all())


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda t: np.dtype(t).name)
def test_every_float_type_has_a_bound_above_its_precision(dtype: Any) -> None:
    """One unit in the last place agrees and half as much again does not; exactly, equal values only do."""
    reference, above = np.array([0.5, 1.0]).astype(dtype), np.array([0.5, 1.5]).astype(dtype)
    step = np.array([0.5, 1 + 2.0 ** -DIGITS[np.dtype(dtype).name]]).astype(dtype)
    coarse = np.dtype(dtype).name == "float8_e5m2"
    assert coarse or compare(reference, step, tolerance=DEFAULT) is None
    assert differ(reference, above).max_abs == 0.5
    assert differ(reference, step, EXACT).index == (1,)
    assert compare(reference, reference.copy(), tolerance=EXACT) is None


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda t: np.dtype(t).name)
def test_integers_are_exact_and_off_by_one_is_minor_in_8_bits(dtype: Any) -> None:
    """Integers that differ by one differ, and that is minor if they have at most 8 bits."""
    reference, other = np.array([[1, 2], [3, 4]]).astype(dtype), np.array([[1, 2], [2, 4]]).astype(dtype)
    found = differ(reference, other)
    assert (found.max_abs, found.fraction, found.index) == (1, 0.25, (1, 0))
    assert found.minor == (np.dtype(dtype).itemsize == 1)
    assert not differ(reference, np.array([[1, 2], [3, 6]]).astype(dtype)).minor


def test_large_integers_are_not_compared_as_floats() -> None:
    """Neighbours above 2^53, which are one float64, differ; so do the ends of the range."""
    assert differ(np.array([2**62]), np.array([2**62 + 1])).max_abs == 1
    ends = np.array([0], np.uint64), np.array([2**64 - 1], np.uint64)
    assert differ(*ends).max_abs > 1e19


def test_booleans_are_exact_and_never_minor() -> None:
    """A flipped boolean is a difference that is not minor."""
    found = differ(np.array([True, False]), np.array([True, True]))
    assert not found.minor and found.what == "booleans differ" and found.index == (1,)


def test_strings_are_exact_in_whatever_array() -> None:
    """Arrays of strings compare by content, as objects or as fixed-width text."""
    texts = np.array(["a", "bc"], object)
    assert compare(texts, np.array(["a", "bc"]), tolerance=DEFAULT) is None
    found = differ(texts, np.array(["a", "b"], object))
    assert found.index == (1,) and found.fraction == 0.5


def test_types_and_shapes_must_be_equal() -> None:
    """Another dtype or shape is a difference even where all values are equal."""
    assert differ(f32(1), np.array([1.0])).what == "float32 became float64"
    assert differ(f32(1), np.float32(1)).what == "shape 1 became ()"
    assert differ(np.zeros((2, 0), np.float32), np.zeros((0, 2), np.float32)).what == "shape 2x0 became 0x2"


def test_nested_values_are_compared_to_the_leaf() -> None:
    """Lists, tuples and maps compare element by element, and the path names the one that differs."""
    value = [f32(1), {"a": f32(2), 3: (None, 4.0)}]
    assert compare(value, [f32(1), {"a": f32(2), 3: [None, 4.0]}], tolerance=EXACT) is None
    assert differ(value, [f32(1), {"a": f32(2), 3: (None, 5.0)}]).path == "[1][3][1]"
    others: list[Any] = [
        [f32(1)],
        f32(1),
        None,
        {},
        [f32(1), [f32(2)]],
        [f32(1), {"a": f32(2)}],
        [None, value[1]],
    ]
    for other in others:
        differ(value, other)
        differ(other, value)


def test_maps_hold_float32() -> None:
    """Python floats, as ORT's maps give them, agree within the bound of float32."""
    assert compare({1: 0.1}, {1: 0.1 + 1e-6}, tolerance=DEFAULT) is None
    differ({1: 0.1}, {1: 0.2})


@pytest.mark.parametrize("dtype", FLOATS[:4], ids=lambda t: np.dtype(t).name)
def test_what_is_not_finite_in_the_reference_is_told_apart(dtype: Any) -> None:
    """NaN and infinities agree with themselves; lost ones are ``nonfinite``, new ones plain differences."""

    def array(*values: float) -> Any:
        return np.array(values).astype(dtype)

    assert compare(array(NAN, INF, -INF, 1), array(NAN, INF, -INF, 1.0), tolerance=EXACT) is None
    for lost in (array(0, INF, 1), array(NAN, -INF, 1), array(NAN, 3, 1), array(INF, NAN, 1)):
        found = differ(array(NAN, INF, 1), lost)
        assert found.nonfinite and found.max_abs == INF and found.index in ((0,), (1,))
    for new in (array(NAN, INF, NAN), array(NAN, INF, -INF), array(0, 0, 2)):
        assert not differ(array(NAN, INF, 1), new).nonfinite
    assert differ(array(NAN, INF, 1), array(0, 0, 2)).index == (2,)


def test_complex_numbers_compare_by_distance() -> None:
    """Complex arrays have the bound of their parts, measured by the modulus."""
    z = np.array([3 + 4j, NAN], np.complex64)
    assert compare(z, z * np.complex64(1 + 1e-6), tolerance=DEFAULT) is None
    found = differ(z, np.array([3 + 5j, NAN], np.complex64))
    assert (found.max_abs, found.scale, found.reference) == (1, 5, None)


def test_cancellation_is_measured_by_what_cancelled() -> None:
    """An element near zero may be off by what the largest element allows, and not by ten times that."""
    assert compare(f32(1e4, 0), f32(1e4, 0.09), tolerance=DEFAULT) is None
    assert differ(f32(1e4, 0), f32(1e4, 0.9)).index == (1,)


def test_a_difference_describes_the_worst_element() -> None:
    """All fields are those of the worst element out of bounds, and the JSON is valid JSON."""
    reference, candidate = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    reference[1, 2], candidate[1, 2], candidate[0, 1] = 4, 2, 1
    found = differ([reference], [candidate])
    assert (found.path, found.index, found.max_abs, found.scale) == ("[0]", (1, 2), 2, 4)
    assert (found.reference, found.candidate) == (4, 2)
    assert found.fraction == pytest.approx(1 / 3)
    assert "[0]" in str(found) and "4.0 became 2.0" in str(found) and "[1, 2]" in str(found)
    lost = json.dumps(differ(f32(NAN, 1), f32(1, 1)).to_json(), allow_nan=False)
    assert json.loads(lost)["index"] == [0] and json.loads(lost)["max_abs"] == "inf"


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walking in chunks of three gives what walking at once gives, the index included."""
    rng = np.random.default_rng(7)
    reference = rng.standard_normal((7, 11)).astype(np.float32)
    candidate = reference + (rng.random((7, 11)) < 0.1).astype(np.float32)
    integers = (reference * 100).astype(np.int32), (candidate * 100).astype(np.int32)
    whole = differ(reference, candidate), differ(*integers)
    monkeypatch.setattr(module, "_CHUNK", 3)
    assert (differ(reference, candidate), differ(*integers)) == whole
    assert compare(reference, reference.copy(), tolerance=EXACT) is None


def test_large_arrays_are_not_converted_as_a_whole() -> None:
    """Comparing two arrays of 64 MiB that differ everywhere a little takes less memory than one of them."""
    reference = np.ones(1 << 24, np.float32)
    candidate = reference + np.float32(1e-6)
    tracemalloc.start()
    try:
        assert compare(reference, candidate, tolerance=DEFAULT) is None
        assert tracemalloc.get_traced_memory()[1] < reference.nbytes
    finally:
        tracemalloc.stop()


def test_tolerances_are_ordered() -> None:
    """Coarser formats have wider bounds, the exact tolerance has none, and ``within`` only widens."""
    widths = [DEFAULT.for_dtype(dtype).rtol for dtype in FLOATS[:5]]
    assert widths == sorted(widths) and widths[0] > 0
    assert {DEFAULT.for_dtype(np.int32), EXACT.for_dtype(np.float32)} == {Bound(0, 0)}
    assert Tolerance.within(1e-3).for_dtype(np.float32) == Bound(1e-3, 1e-3)
    assert Tolerance.within(1e-3).for_dtype(np.float16) == DEFAULT.for_dtype(np.float16)
    assert hash(DEFAULT) == hash(Tolerance.default()) and Tolerance.default() == DEFAULT

"""The harness of rules can fail: rules that are wrong on purpose are caught, and rules that never apply as well."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from compiler.ir.dtype import DType
from compiler.rewrite import FLOATS, INTEGERS, NUMBERS, Match, Rule
from tests.rule_harness import BATCH, Harness, RuleFailure
from tests.rule_harness_batch import Tally
from tests.rule_harness_choices import LENGTH, Choices, derived, smaller
from tests.rule_harness_report import why_too_few
from tests.rule_harness_values import BadDomain, draw_within, sizes_within

EXAMPLES = 200
"""Instances that a wrong rule must be caught within: as many as are drawn of every rule."""


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    """The oracles; their child process ends with the module."""
    harness = Harness()
    yield harness
    harness.runtime.close()


def swept(harness: Harness, rule: Rule) -> Tally:
    """Check all forms of a rule, and return what became of the instances."""
    tally = Tally()
    for form, pattern in enumerate(rule.forms):
        for k in range(EXAMPLES // BATCH):
            harness.sweep(rule, pattern, random.Random(f"{rule.name} {form} {k}").randbytes(BATCH * LENGTH), tally)
    return tally


# Rules that hold ---------------------------------------------------------------------------------


class RaiseRootMeanSquare(Rule):
    """A root mean square norm that is written out is ``RMSNormalization``."""

    stage = "raise"
    before = """
        %s: T[*S,N] = Mul(%x: T[*S,N], %x)
        %m = ReduceMean(%s, [-1]){keepdims = 1}
        %v = Add(%m, scalar %e)
        %r = Sqrt(%v)
        %i = Reciprocal(%r)
        %n: T[*S,N] = Mul(%x, %i)
        %y: T[*S,N] = Mul(%n, %w: T[N])
    """
    after = "%y = RMSNormalization(%x, %w){axis = -1, epsilon = %e}"
    types = {"T": FLOATS}
    domain = {"e": "0.001..0.1"}


class FuseProductAndSum(Rule):
    """A product of matrices and the sum with a bias are one ``Gemm``."""

    before = """
        %h: T[M,N] = MatMul(%a: T[M,K], %b: T[K,N])
        %y: T[M,N] = Add(%h, %c: T[N])
    """
    after = "%y = Gemm(%a, %b, %c)"
    types = {"T": FLOATS}


class RaiseExactGelu(Rule):
    """The Gelu that is written with ``Erf`` is ``Gelu``; the types of its values follow from each other."""

    stage = "raise"
    before = """
        %d = Mul(%x, 0.70710678)
        %e = Erf(%d)
        %f = Add(%e, 1)
        %g = Mul(%x, %f)
        %y = Mul(%g, 0.5)
    """
    after = "%y = Gelu(%x)"


class MergeTransposes(Rule):
    """Two transposes are one, whose permutation is computed."""

    before = """
        %t = Transpose(%x){perm = $p}
        %y = Transpose(%t){perm = $q}
    """
    after = "%y = Transpose(%x){perm = $r}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Compose the permutations; one that is not written reverses the axes."""
        rank = m["x"].rank or 0
        first, second = (m.attr(name) or tuple(reversed(range(rank))) for name in ("p", "q"))
        return {"r": [first[k] for k in second]}


class SplitHeads(Rule):
    """Splitting heads by ``Reshape`` and ``Transpose``, twice over, is once; dims may be symbols."""

    before = """
        %r: T[B,S,H,D] = Reshape(%x: T[B,S,H*D], %_)
        %t: T[B,H,S,D] = Transpose(%r){perm = [0,2,1,3]}
        %y: T[B,S,H,D] = Transpose(%t){perm = [0,2,1,3]}
    """
    after = "%y = Reshape(%x, [B,S,H,D])"
    types = {"T": NUMBERS}


class MergeMasks(Rule):
    """Adding integers commutes with gathering rows; indices, negative ones too, are drawn within range."""

    before = """
        %g: T[*I,N] = Gather(%x: T[M,N], %i){axis = 0}
        %y: T[*I,N] = Add(%g, %c: T[N])
    """
    after = """
        %s: T[M,N] = Add(%x, %c)
        %y = Gather(%s, %i){axis = 0}
    """
    types = {"T": INTEGERS}


RIGHT = [RaiseRootMeanSquare(), FuseProductAndSum(), RaiseExactGelu(), MergeTransposes(), SplitHeads(), MergeMasks()]


@pytest.mark.parametrize("rule", RIGHT, ids=lambda rule: rule.name)
def test_correct_rules_pass(rule: Rule, harness: Harness) -> None:
    """A rule that holds is found to hold, on nearly every instance that was drawn."""
    tally = swept(harness, rule)
    assert tally.checked > EXAMPLES // 2, why_too_few(rule, rule.forms[0], tally)


# Rules that do not -------------------------------------------------------------------------------


class MergeAnyClips(Rule):
    """Two clips are one whose bounds are those of the narrower; wrong where the ranges do not meet."""

    before = """
        %h: T[*S] = Clip(%x: T[*S], scalar %a: T[], scalar %b: T[])
        %y: T[*S] = Clip(%h, scalar %c: T[], scalar %d: T[])
    """
    after = """
        %lo: T[] = Max(%a, %c)
        %hi: T[] = Min(%b, %d)
        %y = Clip(%x, %lo, %hi)
    """
    types = {"T": FLOATS}


class ReluIntoClip(Rule):
    """A rectified clip is the clip; wrong when the clip gives negative numbers only."""

    before = """
        %h: T[*S] = Clip(%x: T[*S], scalar %a: T[], scalar %b: T[])
        %y = Relu(%h)
    """
    after = "%y = Clip(%x, %a, %b)"
    types = {"T": FLOATS}


class NormOverAnotherAxis(Rule):
    """A norm over the last axis but one is ``RMSNormalization``; wrong, since that is over the last."""

    stage = "raise"
    before = """
        %s: T[*S,N,N] = Mul(%x: T[*S,N,N], %x)
        %m = ReduceMean(%s, [-2]){keepdims = 1}
        %v = Add(%m, scalar %e)
        %r = Sqrt(%v)
        %n: T[*S,N,N] = Div(%x, %r)
        %y: T[*S,N,N] = Mul(%n, %w: T[N])
    """
    after = "%y = RMSNormalization(%x, %w){axis = -1, epsilon = %e}"
    types = {"T": FLOATS}
    domain = {"e": "0.001..0.1"}


class BiasOfAnyRank(Rule):
    """A product and a sum are one ``Gemm`` whatever the bias; wrong for a bias of rank three."""

    before = """
        %h: T[M,N] = MatMul(%a: T[M,K], %b: T[K,N])
        %y = Add(%h, %c: T)
    """
    after = "%y: T[M,N] = Gemm(%a, %b, %c)"
    types = {"T": FLOATS}


class DropFactorOfGemm(Rule):
    """A ``Gemm`` without bias is a product; wrong, since ``alpha`` is dropped."""

    before = "%y: T[M,N] = Gemm(%a: T[M,K], %b: T[K,N]){alpha = $alpha}"
    after = "%y = MatMul(%a, %b)"
    types = {"T": FLOATS}


class SoftmaxOfTheLastAxis(Rule):
    """The logarithm of a softmax is ``LogSoftmax``; wrong, since the axis is dropped."""

    before = """
        %p: T[*S] = Softmax(%x: T[*S]){axis = $axis}
        %y = Log(%p)
    """
    after = "%y = LogSoftmax(%x)"
    types = {"T": FLOATS}


class GeluWithAnotherConstant(Rule):
    """The tanh form of Gelu is its definition; wrong, since a constant is off by a thousandth."""

    before = "%y: T[*S] = Gelu(%x: T[*S])"
    after = """
        %d = Mul(%x, 0.70781389)
        %e = Erf(%d)
        %f = Add(%e, 1)
        %g = Mul(%x, %f)
        %y = Mul(%g, 0.5)
    """
    types = {"T": FLOATS}


class ReciprocalOfInfinity(Rule):
    """A quotient of a value by itself is one; wrong for zero, infinities and NaN."""

    before = "%y: T[*S] = Div(%x: T[*S], %x)"
    after = """
        %z = Mul(%x, 0)
        %y = Add(%z, 1)
    """
    types = {"T": FLOATS}


class ForgetBroadcast(Rule):
    """A sum with zeros is the other operand; wrong when the zeros are the larger shape, which types would tell."""

    before = "%y: T = Mul(%x: T, 1.0)"
    after = "%y = Abs(%x)"
    types = {"T": FLOATS}


class WrapAround(Rule):
    """Twice a number, halved, is the number; wrong for integers that wrap around."""

    before = """
        %d: T[*S] = Add(%x: T[*S], %x)
        %y = Div(%d, 2)
    """
    after = "%y = Identity(%x)"
    types = {"T": INTEGERS}


class HeadsInAnotherOrder(Rule):
    """Transposing heads and merging them is a ``Reshape``; wrong, since the order of elements differs."""

    before = """
        %t: T[B,S,H,D] = Transpose(%x: T[B,H,S,D]){perm = [0,2,1,3]}
        %y: T[B,S,H*D] = Reshape(%t, %_)
    """
    after = "%y = Reshape(%x, [B,S,H*D])"
    types = {"T": FLOATS}


class ReuseInnerName(Rule):
    """A sum that others read as well takes up the bias; wrong for the others."""

    before = """
        %s: T[*S] = Add(%a: T[*S], %b: T[*S])
        %y: T[*S] = Add(%s, %c: T[*S])
    """
    after = """
        %d: T[*S] = Add(%b, %c)
        %s = Add(%a, %d)
        %y = Mul(%s, 1)
    """
    types = {"T": FLOATS}


class RaisesInItsHook(Rule):
    """Divide by a constant, which fails in the hook when the constant is zero."""

    before = "%y: T[*S] = Div(%x: T[*S], const %c: T[])"
    after = "%y = Mul(%x, const %i)"
    types = {"T": FLOATS}
    domain = {"c": "0|1|2"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the reciprocal."""
        return {"i": np.asarray(1 / float(m.scalar("c")), m["c"].dtype.numpy)}


class NeverEnds(Rule):
    """A sum is a sum, again and again."""

    before = "%y: T[*S] = Add(%a: T[*S], %b: T[*S])"
    after = "%y = Add(%b, %a)"
    types = {"T": FLOATS}


WRONG = [
    MergeAnyClips(), ReluIntoClip(), NormOverAnotherAxis(), DropFactorOfGemm(), SoftmaxOfTheLastAxis(),
    GeluWithAnotherConstant(), ReciprocalOfInfinity(), ForgetBroadcast(), WrapAround(), HeadsInAnotherOrder(),
    ReuseInnerName(), RaisesInItsHook(), NeverEnds(),
]  # fmt: skip


@pytest.mark.parametrize("rule", WRONG, ids=lambda rule: rule.name)
def test_wrong_rules_are_caught(rule: Rule, harness: Harness) -> None:
    """A rule that does not hold fails, and the failure shows both graphs, the data, and how to repeat it."""
    with pytest.raises(RuleFailure) as caught:
        swept(harness, rule)
    told = str(caught.value)
    assert rule.name in told
    assert "which became:" in told
    assert f"repeat: python -m tests.rule_harness {__name__}:{rule.name} 0 " in told


def test_a_bias_of_rank_three_is_refused(harness: Harness) -> None:
    """The engine refuses what would change a type, so that a rule without the condition does no harm."""
    tally = swept(harness, BiasOfAnyRank())
    assert any("would change its type" in reason for reason in tally.refusals), str(tally)


def test_a_failure_is_made_small(harness: Harness) -> None:
    """What is told is one instance of few elements, which fails again when it is drawn again."""
    with pytest.raises(RuleFailure) as caught:
        swept(harness, DropFactorOfGemm())
    data = bytes.fromhex(str(caught.value).rpartition(" ")[2])
    assert data.count(0) > LENGTH // 2
    assert harness.what(DropFactorOfGemm(), DropFactorOfGemm.forms[0], data)


class NeverFires(Rule):
    """A sum is a difference, which the guard never believes."""

    before = "%y: T[*S] = Add(%a: T[*S], %b: T[*S])"
    after = "%y = Sub(%a, %b)"
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Refuse always."""
        return "sums are no differences"


def test_a_rule_that_never_applies_is_told(harness: Harness) -> None:
    """Instances that are not rewritten prove nothing; the reason of the refusals is told."""
    tally = swept(harness, NeverFires())
    assert (tally.fired, tally.checked) == (0, 0)
    assert "sums are no differences" in why_too_few(NeverFires(), NeverFires.forms[0], tally)


# The parts ---------------------------------------------------------------------------------------


def test_decisions_are_a_function_of_the_bytes() -> None:
    """The same bytes decide the same, zeros decide for the first option, and the end of the bytes is no end."""
    first, second, simplest = Choices(b"\x07\x99"), Choices(b"\x07\x99"), Choices(bytes(8))
    assert [first.below(10) for _ in range(20)] == [second.below(10) for _ in range(20)]
    assert [simplest.pick("abc") for _ in range(4)] == ["a"] * 4
    assert not Choices(bytes(8)).chance(99)
    assert Choices(bytes(8)).permutation(4) == (0, 1, 2, 3)


def test_bytes_are_made_smaller_as_long_as_they_fail() -> None:
    """What shrinking keeps is what the failure needs."""
    assert smaller(bytes([9, 200, 7, 7]), lambda data: data[1] >= 50) == bytes([0, 50, 0, 0])


def test_later_rounds_draw_something_else() -> None:
    """Bytes that came to nothing are followed by others, the same each time."""
    data = bytes(LENGTH)
    assert derived(data, 0) == data
    assert derived(data, 1) == derived(data, 1) != derived(data, 2)


@pytest.mark.parametrize("words", ["positive", "finite", "nonnegative", "-2..3", "0.5", "zeros", "1|2"])
def test_words_of_a_domain_are_kept(words: str) -> None:
    """Drawn numbers are within what the words say."""
    low, high = {"positive": (0.1, 3), "nonnegative": (0, np.inf), "-2..3": (-2, 3), "0.5": (0.5, 0.5)}.get(
        words, {"zeros": (0, 0), "1|2": (1, 2)}.get(words, (-1e30, 1e30))
    )
    found = draw_within(words, np.random.default_rng(3), (40,), DType.F32, int)
    assert np.isfinite(found).all() and (found >= np.float32(low)).all() and (found <= np.float32(high)).all()


def test_masks_of_a_domain_hide_no_row() -> None:
    """A causal mask is a lower triangle; every row of a mask sees something."""
    random = np.random.default_rng(1)
    assert (draw_within("causal", random, (2, 4, 4), DType.BOOL, int) == np.tril(np.ones((2, 4, 4), bool))).all()
    assert (draw_within("mask", random, (5, 6), DType.F32, int) == 0).any(axis=-1).all()


@pytest.mark.parametrize("words", ["nonsense", "3..x"])
def test_unknown_words_are_an_error(words: str) -> None:
    """A word that means nothing is not taken for some number."""
    with pytest.raises((BadDomain, ValueError)):
        draw_within(words, np.random.default_rng(0), (2,), DType.I64, int)
    with pytest.raises(BadDomain):
        sizes_within(words)

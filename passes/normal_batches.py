"""Move reshapes of the scores of attention to its operands and masks, where they meet others and vanish.

Scores have a row for each query and a column for each key of each head, so they are the largest tensor at hand.
Exporters reshape them between two batched products to add a mask for each image, head, window, or axis.
"""

from __future__ import annotations

from typing import Any

from compiler.rewrite import FLOATS, Match, Rule
from passes.attention_scores import factor


class SplitBatchBeforeProduct(Rule):
    """Split the batch of the operands of a batched product where that of its result is split: reshapes meet there."""

    stage = "raise"
    before = """
        %s: T[B*H,S,N] = MatMul(%q: T[B*H,S,D], %k: T[B*H,F,N])
        %y: T[B,H,S,N] = Reshape(%s, %_) {allowzero = $z}
    """
    after = """
        %x = Reshape(%q, [B,H,S,D])
        %r = Reshape(%k, [B,H,F,N])
        %y = MatMul(%x, %r)
    """
    types = {"T": FLOATS}
    domain = {"D": "1..5"}


class SplitBatchBeforeScale(Rule):
    """Split the batch of scores before they are scaled."""

    stage = "raise"
    before = """
        %s = MatMul(%q: T[B*H,S,D], %k: T[B*H,D,N])
        %t = Mul|Div(%s, scalar %c)
        %y: T[B,H,S,N] = Reshape(%t, %_) {allowzero = $z}
    """
    after = """
        %x = Reshape(%s, [B,H,S,N])
        %y = Mul(%x, const %f)
    """
    types = {"T": FLOATS}
    domain = {"c": "positive"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the factor."""
        return {"f": factor(m)}


class SplitBatchBeforeMask(Rule):
    """Split the batch of scores and of what is added to them before the sum."""

    stage = "raise"
    before = """
        %s = MatMul(%q: T[B*H,S,D], %k: T[B*H,D,N])
        optional %t = Mul|Div(%s, scalar %c)
        %a: T[B*H,S,W] = Add(%t, %m: T[B*H,R,L])
        %y: T[B,H,S,W] = Reshape(%a, %_) {allowzero = $z}
    """
    after = """
        %x = Reshape(%t, [B,H,S,N])
        %o = Reshape(%m, [B,H,R,L])
        %y = Add(%x, %o)
    """
    types = {"T": FLOATS}


class SplitBatchBeforeSoftmax(Rule):
    """Split the batch of scores before a ``Softmax`` over their last axis."""

    stage = "raise"
    before = """
        %p: T[B*H,S,N] = Softmax(%a)
        %y: T[B,H,S,N] = Reshape(%p, %_) {allowzero = $z}
    """
    after = """
        %x = Reshape(%a, [B,H,S,N])
        %y = Softmax(%x)
    """
    types = {"T": FLOATS}


class MergeBatchAfterProduct(Rule):
    """Merge the batch and the heads of scores after the product with the values instead of before the ``Softmax``."""

    stage = "raise"
    before = """
        %r: T[B*H,S,N] = Reshape(%a: T[B,H,S,N], %_) {allowzero = $z}
        %p = Softmax(%r)
        %y: T[B*H,S,E] = MatMul(%p, %v: T[B*H,L,E])
    """
    after = """
        %w = Softmax(%a)
        %x = Reshape(%v, [B,H,L,E])
        %u = MatMul(%w, %x)
        %y = Reshape(%u, [B*H,S,E])
    """
    types = {"T": FLOATS}
    domain = {"E": "1..5"}


class AddMaskOfWindows(Rule):
    """Add a mask of ``M`` windows to scores whose batch holds ``B`` images of ``M`` windows, without reshaping them.

    The mask is repeated for each image; it has no heads of its own, or the reshape of the scores costs as much.
    """

    stage = "raise"
    before = """
        %s: T[B*M,H,S,N] = MatMul(%q: T[B*M,H,S,D], %k)
        optional %t = Mul|Div(%s, %c)
        optional %d = Add(%t, %o)
        %r: T[B,M,H,S,N] = Reshape(%d, %_) {allowzero = $z}
        %a: T[B,M,H,S,N] = Add(%r, %m: T[U,M,V,S,N])
        optional %g = Add(%a, %i: T[U,M,V,S,N])
        %y: T[B*M,H,S,N] = Reshape(%g, %_) {allowzero = $e}
    """
    after = """
        %batch = Shape(%q) {start = 0, end = 1}
        %images = Div(%batch, [M])
        %shape = Concat(%images, [1,1,1,1]) {axis = 0}
        optional %sum = Add(%m, %i?)
        %each = Expand(%sum, %shape)
        %mask = Reshape(%each, [B*M,V,S,N])
        %y = Add(%d, %mask)
    """
    types = {"T": FLOATS}


class AddPositionsOfAxes(Rule):
    """Add what depends on the rows and columns of an image to scores of its pixels, without reshaping the scores."""

    stage = "raise"
    before = """
        %s: T[P,S,N] = MatMul(%q, %k)
        optional %t = Mul|Div(%s, %c)
        %r: T[P,A,B,C,D] = Reshape(%t, %_) {allowzero = $z}
        %a: T[P,A,B,C,D] = Add(%r, %m: T[P,A,B,C,1])
        %g: T[P,A,B,C,D] = Add(%a, %n: T[P,A,B,1,D])
        %y: T[P,S,N] = Reshape(%g, %_) {allowzero = $e}
    """
    after = """
        %sum = Add(%m, %n)
        %mask = Reshape(%sum, [P,S,N])
        %y = Add(%t, %mask)
    """
    types = {"T": FLOATS}


class SwapBeforeSplitting(Rule):
    """Split the batch of a matrix before its rows and columns are swapped: then two reshapes meet, and often vanish."""

    stage = "canonical"
    before = """
        %b: T[B*H,D,S] = Transpose(%x: T[B*H,S,D]) {perm = [0, 2, 1]}
        %y: T[B,H,D,S] = Reshape(%b, %_) {allowzero = $z}
    """
    after = """
        %r = Reshape(%x, [B,H,S,D])
        %y = Transpose(%r) {perm = [0, 1, 3, 2]}
    """
    types = {"T": FLOATS}


class UnsqueezeMatrix(Rule):
    """Write ``Unsqueeze`` for an ``Expand`` that gives a matrix two leading dims of one: no element is copied."""

    stage = "canonical"
    before = "%y: T[1,1,S,N] = Expand(%x: T[S,N], %_)"
    after = "%y = Unsqueeze(%x, [0,1])"
    types = {"T": FLOATS}


class UnsqueezeMatrices(Rule):
    """Write ``Unsqueeze`` for an ``Expand`` that gives matrices one leading dim of one."""

    stage = "canonical"
    before = "%y: T[1,H,S,N] = Expand(%x: T[H,S,N], %_)"
    after = "%y = Unsqueeze(%x, [0])"
    types = {"T": FLOATS}

"""Lower the sum of a residual stream and its norm to one operator that reads and writes each element once.

``com.microsoft::SkipLayerNormalization`` and ``SkipSimplifiedLayerNormalization`` compute ``norm(x + skip + bias)`` and
can give the sum as their fourth output, which the next block reads.

Decisions:

* There are two rules for each: with the sum and without it, since a kernel that need not write the sum is faster.
* A bias of the projection before the sum goes in as well; it is added in another order, and a norm of rows that cancel
  magnifies what that rounds away.
* Tensors of rank 4 are viewed as matrices: the norm is over the last axis.  The views cost nothing where ONNX Runtime
  can reuse the buffer.
* Their kernels are not always the fast ones: which of these rules pay is measured (``targets/gains``), and ONNX Runtime
  fuses some of these sums itself when it loads a model, faster or not.  ``LowerSumBeforeLayerNormalization`` writes a
  sum in a way that it leaves alone.
* What the kernels want of shapes stands in ``compiler.rewrite.restrictions_fused``.
"""

from __future__ import annotations

from compiler.rewrite import FLOATS, Rule


class LowerAddLayerNormalization(Rule):
    """The layer norm of a sum that nothing else reads is one ``SkipLayerNormalization``.

    The skip may be the same for each item of a batch.
    """

    stage = "lower"
    before = (
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[B,S,H])
        %y = LayerNormalization(%s, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[S,H] = Add(%a: T[S,H], %k: T[H])
        %s = Add(%p: T[S,H], %b: T[S,H])
        %y = LayerNormalization(%s, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[1,S,H])
        %y = LayerNormalization(%s, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[S,H])
        %y = LayerNormalization(%s, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
    )
    after = "%y = com.microsoft::SkipLayerNormalization(%a, %b, %w, %c?, %k?){epsilon = $e}"
    types = {"T": FLOATS}
    rtol = 1e-4


class LowerAddLayerNormalizationWithSum(Rule):
    """A sum and its layer norm are one ``SkipLayerNormalization`` with two results.

    The skip may be the same for each item of a batch.
    """

    stage = "lower"
    before = (
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[B,S,H])
        %y = LayerNormalization(%s, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[S,H] = Add(%a: T[S,H], %k: T[H])
        %s = Add(%p: T[S,H], %b: T[S,H])
        %y = LayerNormalization(%s, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[1,S,H])
        %y = LayerNormalization(%s, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[S,H])
        %y = LayerNormalization(%s, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
    )
    after = "%y, _, _, %s = com.microsoft::SkipLayerNormalization(%a, %b, %w, %c?, %k?){epsilon = $e}"
    types = {"T": FLOATS}
    rtol = 1e-4


class LowerAddLayerNormalizationOfImages(Rule):
    """The layer norm of a sum of rank 4 that nothing else reads is one ``SkipLayerNormalization`` of matrices."""

    stage = "lower"
    before = """
        optional %p: T[A,B,C,H] = Add(%a: T[A,B,C,H], %k: T[H])
        %s = Add(%p: T[A,B,C,H], %b: T[A,B,C,H])
        %y = LayerNormalization(%s, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $t}
    """
    after = """
        %a2 = Reshape(%a, [A*B*C,H])
        %b2 = Reshape(%b, [A*B*C,H])
        %y2 = com.microsoft::SkipLayerNormalization(%a2, %b2, %w, %c?, %k?){epsilon = $e}
        %y = Reshape(%y2, [A,B,C,H])
    """
    types = {"T": FLOATS}
    rtol = 1e-4


class LowerAddLayerNormalizationOfImagesWithSum(Rule):
    """A sum of rank 4 and its layer norm are one ``SkipLayerNormalization`` of matrices with two results."""

    stage = "lower"
    before = """
        optional %p: T[A,B,C,H] = Add(%a: T[A,B,C,H], %k: T[H])
        %s = Add(%p: T[A,B,C,H], %b: T[A,B,C,H])
        %y = LayerNormalization(%s, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $t}
    """
    after = """
        %a2 = Reshape(%a, [A*B*C,H])
        %b2 = Reshape(%b, [A*B*C,H])
        %y2, _, _, %s2 = com.microsoft::SkipLayerNormalization(%a2, %b2, %w, %c?, %k?){epsilon = $e}
        %s = Reshape(%s2, [A,B,C,H])
        %y = Reshape(%y2, [A,B,C,H])
    """
    types = {"T": FLOATS}
    rtol = 1e-4


class LowerAddRmsNormalization(Rule):
    """The root mean square norm of a sum that nothing else reads is one ``SkipSimplifiedLayerNormalization``.

    The skip may be the same for each item of a batch.
    """

    stage = "lower"
    before = (
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[B,S,H])
        %y = RMSNormalization(%s, %w: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[S,H] = Add(%a: T[S,H], %k: T[H])
        %s = Add(%p: T[S,H], %b: T[S,H])
        %y = RMSNormalization(%s, %w: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[1,S,H])
        %y = RMSNormalization(%s, %w: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[S,H])
        %y = RMSNormalization(%s, %w: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
    )
    after = "%y = com.microsoft::SkipSimplifiedLayerNormalization(%a, %b, %w, %k?){epsilon = $e}"
    types = {"T": FLOATS}
    rtol = 1e-4


class LowerAddRmsNormalizationWithSum(Rule):
    """A sum and its root mean square norm are one ``SkipSimplifiedLayerNormalization`` with two results.

    The skip may be the same for each item of a batch.
    """

    stage = "lower"
    before = (
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[B,S,H])
        %y = RMSNormalization(%s, %w: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[S,H] = Add(%a: T[S,H], %k: T[H])
        %s = Add(%p: T[S,H], %b: T[S,H])
        %y = RMSNormalization(%s, %w: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[1,S,H])
        %y = RMSNormalization(%s, %w: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
        """
        optional %p: T[B,S,H] = Add(%a: T[B,S,H], %k: T[H])
        %s = Add(%p: T[B,S,H], %b: T[S,H])
        %y = RMSNormalization(%s, %w: T[H]){axis = -1, epsilon = $e, stash_type = $t}
        """,
    )
    after = "%y, _, _, %s = com.microsoft::SkipSimplifiedLayerNormalization(%a, %b, %w, %k?){epsilon = $e}"
    types = {"T": FLOATS}
    rtol = 1e-4


class LowerAddRmsNormalizationOfImages(Rule):
    """The root mean square norm of a sum of rank 4 is one ``SkipSimplifiedLayerNormalization`` of matrices."""

    stage = "lower"
    before = """
        optional %p: T[A,B,C,H] = Add(%a: T[A,B,C,H], %k: T[H])
        %s = Add(%p: T[A,B,C,H], %b: T[A,B,C,H])
        %y = RMSNormalization(%s, %w: T[H]){axis = -1, epsilon = $e, stash_type = $t}
    """
    after = """
        %a2 = Reshape(%a, [A*B*C,H])
        %b2 = Reshape(%b, [A*B*C,H])
        %y2 = com.microsoft::SkipSimplifiedLayerNormalization(%a2, %b2, %w, %k?){epsilon = $e}
        %y = Reshape(%y2, [A,B,C,H])
    """
    types = {"T": FLOATS}
    rtol = 1e-4


class LowerAddRmsNormalizationOfImagesWithSum(Rule):
    """A sum of rank 4 and its root mean square norm are one ``SkipSimplifiedLayerNormalization`` with two results."""

    stage = "lower"
    before = """
        optional %p: T[A,B,C,H] = Add(%a: T[A,B,C,H], %k: T[H])
        %s = Add(%p: T[A,B,C,H], %b: T[A,B,C,H])
        %y = RMSNormalization(%s, %w: T[H]){axis = -1, epsilon = $e, stash_type = $t}
    """
    after = """
        %a2 = Reshape(%a, [A*B*C,H])
        %b2 = Reshape(%b, [A*B*C,H])
        %y2, _, _, %s2 = com.microsoft::SkipSimplifiedLayerNormalization(%a2, %b2, %w, %k?){epsilon = $e}
        %s = Reshape(%s2, [A,B,C,H])
        %y = Reshape(%y2, [A,B,C,H])
    """
    types = {"T": FLOATS}
    rtol = 1e-4


class LowerSumBeforeLayerNormalization(Rule):
    """A sum of two tensors is ``Sum`` as well as ``Add``; before a layer norm, ``Sum`` is not fused on load.

    ONNX Runtime makes ``SkipLayerNormalization`` of an ``Add`` of equal shapes of rank 3 whose only reader is a layer
    norm, whatever that costs.  Source: ``core/optimizer/skip_layer_norm_fusion.cc``.
    """

    stage = "lower"
    before = """
        %s = Add(%a: T[B,S,H], %b: T[B,S,H])
        %y = LayerNormalization(%s, %w: T[H], %c: T[H]){axis = -1, epsilon = $e, stash_type = $t}
    """
    after = """
        %s2 = Sum(%a, %b)
        %y = LayerNormalization(%s2, %w, %c){axis = -1, epsilon = $e, stash_type = $t}
    """
    types = {"T": FLOATS}


class LowerRmsNormalization(Rule):
    """``RMSNormalization`` is ``SimplifiedLayerNormalization``, which runtimes know that know no opset 23."""

    stage = "lower"
    before = "%y = RMSNormalization(%x: T, %w: T){axis = $a, epsilon = $e, stash_type = $t}"
    after = "%y = SimplifiedLayerNormalization@1(%x, %w){axis = $a, epsilon = $e, stash_type = $t}"
    types = {"T": FLOATS}

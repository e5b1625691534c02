"""Define what is left of ``Attention`` without special features: two products and a softmax between them.

Heads that share keys are computed as more rows of the heads that they share: keys and values are not repeated.  A row
whose keys are all hidden attends to nothing and gives zeros, which costs a look at the mask (not at the scores); where
the mask cannot hide a row, not even that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler.ir.graph import Value
from compiler.rewrite import Match
from passes.definitions_attention import HEADS, USUAL, AttentionRule, extremes


class _Products(AttentionRule):
    """What the definitions by products share: the scale, and the element type of the softmax."""

    grouped = False
    """Whether several heads of the query share one of the key."""
    may_hide = False
    """Whether the mask may hide a whole row."""

    def guard(self, m: Match) -> str | None:
        """There is one rule for heads that share keys, and one for masks that may hide a whole row."""
        if self.grouped == (m.dim("H") == m.dim("G")):
            return f"{m.dim('H')} heads of queries have {m.dim('G')} heads of keys"
        if m.attr("scale") is not None and not m.attr("scale") > 0:
            return f"scale = {m.attr('scale')} is not positive"
        mask = m.get("n")
        if mask is not None and self.may_hide == _shows_something(mask):
            return f"%{mask.name} {'never hides a row' if self.may_hide else 'may hide a whole row'}"
        return super().guard(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """The scale, the type to compute the softmax in and that of the rest, and minus infinity."""
        scale, precision, dtype = m.attr("scale"), m.attr("precision"), m.dtype("T")
        if scale is None:
            scale = 1 / math.sqrt(m.size("D")) if m.size("D") else 1.0
        return {
            **extremes(m),
            "factor": np.asarray(scale, dtype.numpy),
            "single": precision if precision is not None else dtype.code,
            "given": dtype.code,
        }


def _shows_something(mask: Value) -> bool:
    """Whether no row of an additive mask consists of minus infinities only, as far as that can be told."""
    if mask.constant is not None:
        array = mask.array()
        return array is not None and array.size > 0 and not np.isneginf(np.max(array, axis=-1)).any()
    node = mask.node
    if node is None:
        return False
    if node.is_op("Where"):
        return all(v is not None and v.constant is not None and _is_finite(v) for v in node.inputs[1:3])
    if node.is_op("Expand", "Unsqueeze", "Reshape", "Identity", "Squeeze"):
        source = node.input(0)
        kept = node.is_op("Expand", "Identity") or _same_rows(source, mask)
        return kept and source is not None and _shows_something(source)
    return False


def _is_finite(value: Value) -> bool:
    array = value.array()
    return array is not None and bool(np.isfinite(array).all())


def _same_rows(source: Value | None, mask: Value) -> bool:
    """Whether the last dim of two values is the same."""
    return bool(source is not None and source.shape and mask.shape and source.shape[-1] == mask.shape[-1])


_SCORES = """
        %kt = Transpose(%k){perm = [0,1,3,2]}
        %qs = Mul(%q, const %factor)
        %s = MatMul(%qs, %kt)
"""
_GROUPED_SCORES = """
        %kt = Transpose(%k){perm = [0,1,3,2]}
        %qs = Mul(%q, const %factor)
        %qg = Reshape(%qs, [B,G,-1,D])
        %sg = MatMul(%qg, %kt)
"""
_SOFTMAX = """
        %c = Cast(%a){to = $single}
        %p = Softmax(%c)
        %w = Cast(%p){to = $given}
"""
_NOTHING = """
        %best = ReduceMax(%n, [-1])
        %nothing = Equal(%best, const %never)
"""
_PLAIN = f"%y = Attention({HEADS}){{scale = $scale, softmax_precision = $precision}}"
_WITH_MASK = f"Attention({HEADS}, %m: T[*M,S,N]){{scale = $scale, softmax_precision = $precision"
_MASKED = f"""
        optional %m = Expand(%n, %_)
        %y = {_WITH_MASK}}}
"""
_MASKED_AND_READ = f"""
        optional %m = Expand(%n, %_)
        %y, _, _, %w = {_WITH_MASK}, qk_matmul_output_mode = 3}}
"""


class DefineAttention(_Products):
    """Attention without a mask is ``softmax(scale q kᵀ) v``."""

    before = _PLAIN
    after = f"""{_SCORES}{_SOFTMAX.replace("%a", "%s")}
        %y = MatMul(%w, %v)
    """
    domain = {**USUAL, "H": "2", "G": "2"}


class DefineAttentionAndProbabilities(_Products):
    """Attention without a mask that gives its probabilities multiplies the values by them."""

    before = _PLAIN.replace("%y =", "%y, _, _, %w =").replace("}", ", qk_matmul_output_mode = 3}")
    after = f"""{_SCORES}{_SOFTMAX.replace("%a", "%s")}
        %y = MatMul(%w, %v)
    """
    domain = {**USUAL, "H": "2", "G": "2"}


class DefineGroupedAttention(_Products):
    """Attention of heads that share keys is attention of more rows to the heads that they share."""

    before = _PLAIN
    after = f"""{_GROUPED_SCORES}{_SOFTMAX.replace("%a", "%sg")}
        %r = MatMul(%w, %v)
        %y = Reshape(%r, [B,H,S,E])
    """
    grouped = True
    domain = {**USUAL, "H": "4", "G": "2"}


class DefineMaskedAttention(_Products):
    """Attention with a mask that shows each query some key is ``softmax(scale q kᵀ + mask) v``."""

    before = _MASKED
    after = f"""{_SCORES}
        %a = Add(%s, %n){_SOFTMAX}
        %y = MatMul(%w, %v)
    """
    shared = "%m"
    domain = {**USUAL, "H": "2", "G": "2", "n": "-3..3"}


class DefineMaskedAttentionAndProbabilities(_Products):
    """Attention with such a mask that gives its probabilities multiplies the values by them."""

    before = _MASKED_AND_READ
    after = f"""{_SCORES}
        %a = Add(%s, %n){_SOFTMAX}
        %y = MatMul(%w, %v)
    """
    shared = "%m"
    domain = {**USUAL, "H": "2", "G": "2", "n": "-3..3"}


class DefineGroupedMaskedAttention(_Products):
    """Attention with such a mask of heads that share keys adds it where heads are apart."""

    before = _MASKED
    after = f"""{_GROUPED_SCORES}
        %s = Reshape(%sg, [B,H,S,N])
        %a = Add(%s, %n){_SOFTMAX}
        %wg = Reshape(%w, [B,G,-1,N])
        %r = MatMul(%wg, %v)
        %y = Reshape(%r, [B,H,S,E])
    """
    grouped = True
    shared = "%m"
    domain = {**USUAL, "H": "4", "G": "2", "n": "-3..3"}


class DefineHidingAttention(_Products):
    """Attention gives zeros for a query from which the mask hides every key."""

    before = _MASKED
    after = f"""{_NOTHING}{_SCORES}
        %a = Add(%s, %n){_SOFTMAX}
        %r = MatMul(%w, %v)
        %y = Where(%nothing, const %zero, %r)
    """
    may_hide = True
    shared = "%m"
    domain = {**USUAL, "H": "2", "G": "2", "n": "-3..3"}


class DefineHidingAttentionAndProbabilities(_Products):
    """Attention gives zeros, and zero probabilities, for a query from which the mask hides every key."""

    before = _MASKED_AND_READ
    after = f"""{_NOTHING}{_SCORES}
        %a = Add(%s, %n){_SOFTMAX.replace("%w", "%o")}
        %w = Where(%nothing, const %zero, %o)
        %y = MatMul(%w, %v)
    """
    may_hide = True
    shared = "%m"
    domain = {**USUAL, "H": "2", "G": "2", "n": "-3..3"}


class DefineGroupedHidingAttention(_Products):
    """Attention of heads that share keys gives zeros for a query from which the mask hides every key."""

    before = _MASKED
    after = f"""{_NOTHING}{_GROUPED_SCORES}
        %s = Reshape(%sg, [B,H,S,N])
        %a = Add(%s, %n){_SOFTMAX}
        %wg = Reshape(%w, [B,G,-1,N])
        %t = MatMul(%wg, %v)
        %r = Reshape(%t, [B,H,S,E])
        %y = Where(%nothing, const %zero, %r)
    """
    grouped = True
    may_hide = True
    shared = "%m"
    domain = {**USUAL, "H": "4", "G": "2", "n": "-3..3"}

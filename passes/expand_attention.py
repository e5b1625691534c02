"""Write ``Attention`` in older operators, for targets that have no kernel of it.

What comes out is not worse than what exporters write: the scale is on the query, keys and values of groups of heads are
not repeated (the heads of a group are rows of one product), and a guard against rows that a mask hides altogether,
which are zero by definition and NaN after a ``Softmax``, stands only where the mask may do that.

Left to the runtime's own definition of the operator: soft caps, windows, lengths of caches, and three dims, none of
which the rules of this project make for such a target.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from compiler.ir.facts import scalar_constant
from compiler.ir.graph import Value
from compiler.rewrite import FLOATS, Match, Rule

_CACHED = """
    %pk = Concat(%ck, %k){axis = 2}
    %pv = Concat(%cv, %v){axis = 2}
    """
"""Text that puts the cache before keys and values."""

_SCORES = """
    %qs = Mul(%q, const %scale)
    %kt = Transpose({k}){{perm = [0,1,3,2]}}
    %s = MatMul(%qs, %kt)
    """
_SCORES_OF_GROUPS = """
    %qs = Mul(%q, const %scale)
    %qg = Reshape(%qs, const %rows)
    %kt = Transpose({k}){{perm = [0,1,3,2]}}
    %sg = MatMul(%qg, %kt)
    %s = Reshape(%sg, const %heads)
    """
_PLAIN = """
    optional %a = Add(%s, %m?)
    %p = Softmax(%a){axis = -1}
    """
_GUARDED = """
    %a = Add(%s, %m)
    %e = Softmax(%a){axis = -1}
    %n = IsNaN(%e)
    %p = Where(%n, 0.0, %e)
    """
_CAUSAL = """
    %a = Add(%s, const %mask)
    %p = Softmax(%a){axis = -1}
    """
_SUM = "%y = MatMul(%p, {v})"
_SUM_OF_GROUPS = """
    %pg = Reshape(%p, const %rows)
    %yg = MatMul(%pg, {v})
    %y = Reshape(%yg, const %heads)
    """

_ONE_EACH = "%q: T[B,H,S,D], %k: T[B,H,N,D], %v: T[B,H,N,E]"
_GROUPED = "%q: T[B,H,S,D], %k: T[B,G,N,D], %v: T[B,G,N,E]"


def _is_finite(mask: Value | None, depth: int = 8) -> bool:
    """True when no element of a mask can be infinite: a constant, or a choice among and sums of such."""
    if mask is None:
        return True
    if mask.constant is not None:
        number = scalar_constant(mask)
        array = np.asarray(number) if number is not None else mask.array()
        return array is not None and bool(np.all(np.isfinite(array)))
    node = mask.node
    if node is None or depth == 0:
        return False
    if node.is_op("Where"):
        return all(_is_finite(v, depth - 1) for v in node.inputs[1:])
    if node.is_op("Expand", "Unsqueeze", "Reshape", "Squeeze", "Slice", "Transpose", "Gather"):
        return _is_finite(node.input(0), depth - 1)
    return False


class _Expansion(Rule):
    """What the expansions have in common: the scale, and how heads of a group become rows."""

    stage = "expand"
    types = {"T": FLOATS}
    domain = {"m": "-3..3", "scale": "positive", "H": "4", "G": "2,1"}
    keys: ClassVar[str] = "k"
    """The name of all keys."""

    def guard(self, m: Match) -> str | None:
        """Refuse a mask that may hide a row altogether unless the guard is made, and groups where there are none."""
        guarded = any(s.op == "IsNaN" for s in self.replacement.statements)
        if guarded == _is_finite(m.get("m")):
            return "the mask is finite" if guarded else "the mask may hide a row altogether"
        mask, keys = m.get("m"), m[self.keys].shape
        if mask is not None and (not mask.shape or not keys or mask.shape[-1] != keys[2]):
            return f"the mask ({mask.type}) does not cover all keys ({m[self.keys].type})"
        if not m.binds_dim("G"):
            return None
        heads, groups = m.size("H"), m.size("G")
        return None if heads != groups and heads % groups == 0 else f"{heads} heads read {groups}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the scale in the type of the query, and the shapes of heads and of groups."""
        scale = m.attr("scale")
        if scale is None:
            scale = 1.0 / np.sqrt(m.size("D"))
        made: dict[str, Any] = {"scale": np.asarray(scale, m.dtype("T").numpy)}
        if not m.binds_dim("G"):
            return made
        length, share = m.dim("S"), m.size("H") // m.size("G")
        rows, heads = (length * share, length) if isinstance(length, int) else (-1, -1)
        return {**made, "rows": np.array([0, m.size("G"), rows, 0]), "heads": np.array([0, m.size("H"), heads, 0])}


class ExpandAttention(_Expansion):
    """Attention is ``softmax(scale * q kᵀ + mask) v``; one head of keys and values is read by all."""

    before = (
        f"%y = Attention({_ONE_EACH}, %m?: T){{scale = $scale}}",
        f"%y = Attention({_ONE_EACH.replace('T[B,H,N,D]', 'T[B,1,N,D]').replace('T[B,H,N,E]', 'T[B,1,N,E]')}, %m?: T)"
        "{scale = $scale}",
    )
    after = _SCORES.format(k="%k") + _PLAIN + _SUM.format(v="%v")


class ExpandAttentionGuarded(_Expansion):
    """Attention is ``softmax(scale * q kᵀ + mask) v``, and zero where the mask hides a row altogether."""

    before = f"%y = Attention({_ONE_EACH}, %m: T){{scale = $scale}}"
    after = _SCORES.format(k="%k") + _GUARDED + _SUM.format(v="%v")


class ExpandAttentionOfGroups(_Expansion):
    """Heads that share keys and values are rows of one product."""

    before = f"%y = Attention({_GROUPED}, %m?: T){{scale = $scale}}"
    after = _SCORES_OF_GROUPS.format(k="%k") + _PLAIN + _SUM_OF_GROUPS.format(v="%v")


class ExpandAttentionOfGroupsGuarded(_Expansion):
    """Heads that share keys and values are rows of one product; a row that is hidden altogether is zero."""

    before = f"%y = Attention({_GROUPED}, %m: T){{scale = $scale}}"
    after = _SCORES_OF_GROUPS.format(k="%k") + _GUARDED + _SUM_OF_GROUPS.format(v="%v")


class ExpandAttentionToCache(_Expansion):
    """Attention to a cache is attention to the cache and what is put behind it."""

    keys = "pk"
    before = f"%y, %pk, %pv = Attention({_ONE_EACH}, %m?: T, %ck: T[B,H,P,D], %cv: T[B,H,P,E]){{scale = $scale}}"
    after = _CACHED + _SCORES.format(k="%pk") + _PLAIN + _SUM.format(v="%pv")


class ExpandAttentionToCacheGuarded(_Expansion):
    """Attention to a cache, zero where the mask hides a row altogether."""

    keys = "pk"
    before = f"%y, %pk, %pv = Attention({_ONE_EACH}, %m: T, %ck: T[B,H,P,D], %cv: T[B,H,P,E]){{scale = $scale}}"
    after = _CACHED + _SCORES.format(k="%pk") + _GUARDED + _SUM.format(v="%pv")


class ExpandAttentionOfGroupsToCache(_Expansion):
    """Attention of groups of heads to a cache."""

    keys = "pk"
    before = f"%y, %pk, %pv = Attention({_GROUPED}, %m?: T, %ck: T[B,G,P,D], %cv: T[B,G,P,E]){{scale = $scale}}"
    after = _CACHED + _SCORES_OF_GROUPS.format(k="%pk") + _PLAIN + _SUM_OF_GROUPS.format(v="%pv")


class ExpandAttentionOfGroupsToCacheGuarded(_Expansion):
    """Attention of groups of heads to a cache, zero where the mask hides a row altogether."""

    keys = "pk"
    before = f"%y, %pk, %pv = Attention({_GROUPED}, %m: T, %ck: T[B,G,P,D], %cv: T[B,G,P,E]){{scale = $scale}}"
    after = _CACHED + _SCORES_OF_GROUPS.format(k="%pk") + _GUARDED + _SUM_OF_GROUPS.format(v="%pv")


class _CausalExpansion(_Expansion):
    """The frontier of causal attention is a mask: minus infinity above the diagonal."""

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the mask besides, of static lengths only."""
        hidden = np.triu(np.full((m.size("S"), m.size("N")), -np.inf), 1)
        return {**super().constants(m), "mask": hidden.astype(m.dtype("T").numpy)}


class ExpandCausalAttention(_CausalExpansion):
    """Causal attention adds minus infinity to the scores of later keys."""

    before = f"%y = Attention({_ONE_EACH}, _){{scale = $scale, is_causal = 1}}"
    after = _SCORES.format(k="%k") + _CAUSAL + _SUM.format(v="%v")


class ExpandCausalAttentionOfGroups(_CausalExpansion):
    """Causal attention of groups of heads adds minus infinity to the scores of later keys."""

    before = f"%y = Attention({_GROUPED}, _){{scale = $scale, is_causal = 1}}"
    after = _SCORES_OF_GROUPS.format(k="%k") + _CAUSAL + _SUM_OF_GROUPS.format(v="%v")

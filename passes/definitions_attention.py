"""Define ``Attention`` by products and a softmax, one feature at a time.

Rows of heads are split, a cache is joined, a causal mask is written out, and a boolean mask becomes an additive one;
what is left then is ``softmax(scale q kᵀ + mask) v``.  Each rule takes one feature away and leaves an ``Attention``
without it, so that a target whose kernel lacks one feature keeps its kernel for the rest.

What is left is defined in ``definitions_attention_products``.  What only few models have (soft caps, scores as a
result, lengths of caches) is left to the standard's definition.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import FLOATS, Match, Rule

_REST = "scale = $scale, softcap = $softcap, softmax_precision = $precision"
_HANDED_ON = f"{_REST}, is_causal = $causal"
HEADS = "%q: T[B,H,S,D], %k: T[B,G,N,D], %v: T[B,G,N,E]"
"""Operands of attention to heads apart."""
_CACHE = "%ck: T[B,G,P,D], %cv: T[B,G,P,E]"
USUAL = {
    "q": "-2..2",
    "k": "-2..2",
    "v": "-2..2",
    "ck": "-2..2",
    "cv": "-2..2",
    "scale": "0.1..2",
    "softcap": "1..3",
    "S": "2..5",
    "M": "[] [1] [H] [1,1] [B,1] [B,H]",
}
"""What operands of attention are like: finite."""


class AttentionRule(Rule):
    """What definitions of attention share: a mask does not enlarge the scores."""

    stage = "expand"
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """The mask is for one head or all, and for one row of the batch or all."""
        mask = m.get("m") or m.get("n")
        shape = (mask.shape if mask is not None else None) or ()
        wholes = dict(zip(("H", "B"), reversed(shape[:-2]), strict=False))
        wrong = [name for name, dim in wholes.items() if dim not in (1, m.dim(name))]
        return f"the mask is {mask.type}" if mask is not None and (wrong or len(shape) > _RANK) else None


_RANK = 4
"""Dims of the scores."""


def _forms(attributes: str, *masks: str, operands: str = HEADS) -> tuple[str, ...]:
    """Return the forms of attention: without a cache, with one, and with one that is not handed on.

    ``masks`` are those to match, with ``L`` for the number of keys in all.  They are whole: a shorter mask would hide
    the rest of the keys, and of what one row for all queries means kernels and standard say different things.
    """
    found = []
    for mask in masks or ("_",):
        alone, behind = mask.replace("L", "N"), mask.replace("L", "N+P")
        found.append(f"%y = Attention({operands}, {alone}){{{attributes}}}")
        found.append(f"%y, %pk, %pv = Attention({operands}, {behind}, {_CACHE}){{{attributes}}}")
        found.append(f"%y = Attention({operands}, {behind}, {_CACHE}){{{attributes}}}")
    return tuple(found)


class DefineAttentionOfRows(AttentionRule):
    """Attention to rows that hold their heads side by side is attention to heads apart."""

    before = _forms(
        f"{_HANDED_ON}, q_num_heads = H, kv_num_heads = G",
        "_",
        "%m: T[*M,S,L]",
        "%m: bool[*M,S,L]",
        operands="%q: T[B,S,V], %k: T[B,N,U], %v: T[B,N,W]",
    )
    after = f"""
        %q4 = Reshape(%q, [B,S,H,-1])
        %k4 = Reshape(%k, [B,N,G,-1])
        %v4 = Reshape(%v, [B,N,G,-1])
        %qt = Transpose(%q4){{perm = [0,2,1,3]}}
        %kt = Transpose(%k4){{perm = [0,2,1,3]}}
        %vt = Transpose(%v4){{perm = [0,2,1,3]}}
        %y4, %pk, %pv = Attention(%qt, %kt, %vt, %m?, %ck?, %cv?){{{_HANDED_ON}}}
        %yt = Transpose(%y4){{perm = [0,2,1,3]}}
        %y = Reshape(%yt, [B,S,-1])
    """
    domain = {**USUAL, "H": "2", "G": "2", "V": "4", "U": "4", "W": "4", "D": "2", "E": "2"}


class DefineAttentionToCache(AttentionRule):
    """Attention to a cache is attention to the cache and what is new, joined."""

    before = tuple(f for f in _forms(_REST, "_", "%m: T[*M,S,L]", "%m: bool[*M,S,L]") if "%ck" in f)
    after = f"""
        %pk = Concat(%ck, %k){{axis = 2}}
        %pv = Concat(%cv, %v){{axis = 2}}
        %y = Attention(%q, %pk, %pv, %m?){{{_REST}}}
    """
    domain = USUAL


class DefineAttentionThatGivesCache(AttentionRule):
    """Without a cache, what is new is the cache that attention gives."""

    before = tuple(
        f"%y, %pk, %pv = Attention({HEADS}, {mask}){{{_HANDED_ON}}}"
        for mask in ("_", "%m: T[*M,S,N]", "%m: bool[*M,S,N]")
    )
    after = f"""
        %y = Attention(%q, %k, %v, %m?){{{_HANDED_ON}}}
        %pk = Identity(%k)
        %pv = Identity(%v)
    """
    domain = USUAL


_VISIBLE = """
        %sn = Shape(%q){start = 2, end = 3}
        %kn = Shape(%k){start = 2, end = 3}
        %cn = Shape(%ck?){start = 2, end = 3}
        optional %tn = Add(%kn, %cn?)
        %s0 = Squeeze(%sn)
        %t0 = Squeeze(%tn)
        %new = Range(0, %s0, 1)
        optional %rows = Add(%new, %cn?)
        %columns = Range(0, %t0, 1)
        %column = Unsqueeze(%rows, [1])
        %row = Unsqueeze(%columns, [0])
        %visible = LessOrEqual(%row, %column)
"""
"""Key ``j`` is visible from query ``i`` when ``j <= i`` plus the length of the cache."""


class DefineCausalAttention(AttentionRule):
    """Causal attention hides the keys behind each query."""

    before = _forms(f"{_REST}, is_causal = 1")
    after = f"""{_VISIBLE}
        %y, %pk, %pv = Attention(%q, %k, %v, %visible, %ck?, %cv?){{{_REST}}}
    """
    domain = USUAL


class DefineCausalAttentionOfVisible(AttentionRule):
    """Causal attention with a mask of visible keys sees those that both let it see."""

    before = _forms(f"{_REST}, is_causal = 1", "%m: bool[*M,S,L]")
    after = f"""{_VISIBLE}
        %both = And(%m, %visible)
        %y, %pk, %pv = Attention(%q, %k, %v, %both, %ck?, %cv?){{{_REST}}}
    """
    domain = USUAL


class DefineCausalAttentionOfMask(AttentionRule):
    """Causal attention with an additive mask hides the keys behind each query besides."""

    before = _forms(f"{_REST}, is_causal = 1", "%m: T[*M,S,L]")
    after = f"""{_VISIBLE}
        %hidden = Where(%visible, const %zero, const %never)
        %both = Add(%m, %hidden)
        %y, %pk, %pv = Attention(%q, %k, %v, %both, %ck?, %cv?){{{_REST}}}
    """
    domain = {**USUAL, "m": "-3..3"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Zero and minus infinity."""
        return extremes(m)


class DefineAttentionToVisible(AttentionRule):
    """A mask of visible keys is minus infinity added where a key is not."""

    before = f"%y = Attention({HEADS}, %m: bool[*M,S,N]){{{_REST}}}"
    after = f"""
        %hidden = Where(%m, const %zero, const %never)
        %y = Attention(%q, %k, %v, %hidden){{{_REST}}}
    """
    domain = {**USUAL, "m": "mask"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Zero and minus infinity."""
        return extremes(m)


def extremes(m: Match) -> dict[str, Any]:
    """Return zero and minus infinity, of the element type of the operands."""
    dtype = m.dtype("T").numpy
    return {"zero": np.asarray(0, dtype), "never": np.asarray(-np.inf, dtype)}

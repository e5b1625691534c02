"""Move a ``Transpose`` of heads down to the attention that it is for, where it vanishes.

``Attention`` and ``RotaryEmbedding`` read heads side by side, as projections make them (``lower_attention``).  What
stands between the ``Transpose`` and them is moved above it: norms of single heads, and what takes queries, keys and
values apart.  Each move is exact, and moves as many bytes as before; it is made only where attention follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.facts import known_ints
from compiler.ir.graph import Value
from compiler.rewrite import FLOATS, NUMBERS, Match, Rule

_TAKES = frozenset({"Attention", "RotaryEmbedding", "RMSNormalization", "LayerNormalization", "Transpose", "Split"})
"""Operators that a transposed tensor of heads is on its way to."""


def _why_not_to_attention(*values: Value) -> str | None:
    """Return why moving the ``Transpose`` behind values does not pay, ``None`` when attention follows."""
    users = [user for value in values for user in value.users()]
    other = next((user.op for user in users if user.domain or user.op not in _TAKES), None)
    return None if other is None else f"{other} reads the result"


class NormBeforeTranspose(Rule):
    """The norm of each head is taken before heads are brought to the front."""

    before = """
        %t = Transpose(%x: T[B,S,N,H]){perm = [0,2,1,3]}
        %y = RMSNormalization(%t, %w){axis = -1, epsilon = $e, stash_type = $stash}
    """
    after = """
        %n = RMSNormalization(%x, %w){axis = -1, epsilon = $e, stash_type = $stash}
        %y = Transpose(%n){perm = [0,2,1,3]}
    """
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Refuse a scale of several axes, and what does not lead to attention."""
        if m["w"].rank != 1:
            return f"the scale is {m['w'].type}"
        return _why_not_to_attention(m["y"])


class LayerNormBeforeTranspose(Rule):
    """The layer norm of each head is taken before heads are brought to the front."""

    before = """
        %t = Transpose(%x: T[B,S,N,H]){perm = [0,2,1,3]}
        %y = LayerNormalization(%t, %w: T[H], %b?){axis = -1, epsilon = $e, stash_type = $stash}
    """
    after = """
        %n = LayerNormalization(%x, %w, %b?){axis = -1, epsilon = $e, stash_type = $stash}
        %y = Transpose(%n){perm = [0,2,1,3]}
    """
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Refuse a bias of several axes, and what does not lead to attention."""
        bias = m.get("b")
        if bias is not None and bias.rank != 1:
            return f"the bias is {bias.type}"
        return _why_not_to_attention(m["y"])


class SplitBeforeTranspose(Rule):
    """Queries, keys and values that share heads are taken apart before heads are brought to the front."""

    before = """
        %t = Transpose(%x: T[B,S,N,H]){perm = [0,2,1,3]}
        %q, %k, %v = Split(%t, %sizes?){axis = -1, num_outputs = $n}
    """
    after = """
        %q1, %k1, %v1 = Split(%x, %sizes?){axis = -1, num_outputs = $n}
        %q = Transpose(%q1){perm = [0,2,1,3]}
        %k = Transpose(%k1){perm = [0,2,1,3]}
        %v = Transpose(%v1){perm = [0,2,1,3]}
    """
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Refuse what does not lead to attention."""
        return _why_not_to_attention(m["q"], m["k"], m["v"])


class SliceBeforeTranspose(Rule):
    """Columns of heads are cut out before heads are brought to the front.

    Where others are cut from the same ``Transpose``, they are all moved, so that it vanishes.
    """

    before = """
        %t = Transpose(%x: T[B,S,N,H]){perm = [0,2,1,3]}
        %y = Slice(%t, %from, %to, [-1], %by?)
    """
    after = """
        %s = Slice(%x, %from, %to, [-1], %by?)
        %y = Transpose(%s){perm = [0,2,1,3]}
    """
    shared = "%t"
    types = {"T": FLOATS}

    def guard(self, m: Match) -> str | None:
        """Refuse when something else reads the transposed tensor, and what does not lead to attention."""
        other = next((user.op for user in m["t"].users() if not user.is_op("Slice")), None)
        if other is not None or m["t"].is_output:
            return f"{other or 'the caller'} reads the transposed tensor too"
        return _why_not_to_attention(m["y"])


class GatherBeforeTranspose(Rule):
    """One of several stacked tensors is picked before the whole is transposed.

    Where others are picked from the same ``Transpose``, they are all moved, so that it vanishes.
    """

    before = """
        %t = Transpose(%x: T[M,*S]){perm = $order}
        %y = Gather(%t, scalar %i: i64[]){axis = $axis}
    """
    after = """
        %g = Gather(%x, %i){axis = $from}
        %y = Transpose(%g){perm = $rest}
    """
    shared = "%t"
    types = {"T": NUMBERS}

    def guard(self, m: Match) -> str | None:
        """Refuse when something else reads the transposed tensor."""
        others = [user for user in m["t"].users() if not user.is_op("Gather") or known_ints(user.input(1)) is None]
        if others or m["t"].is_output:
            return f"{others[0].op if others else 'the caller'} reads the transposed tensor too"
        return None

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the axis that is picked from, and the order of the others."""
        order = list(m.attr("order"))
        axis = order.pop(m.attr("axis") % len(order))
        return {"from": axis, "rest": [a - (a > axis) for a in order]}


class GatherAlongAxis(Rule):
    """``GatherND`` from an axis that was brought to the front is ``Gather`` along that axis."""

    stage = "canonical"
    before = """
        %t = Transpose(%x: T){perm = $order}
        %y = GatherND(%t, const %i: i64[N,1]){batch_dims = 0}
    """
    after = """
        %g = Gather(%x, const %rows){axis = $from}
        %y = Transpose(%g){perm = $order}
    """
    types = {"T": NUMBERS}

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the axis that is picked from, and the indices without their last axis."""
        return {"from": m.attr("order")[0], "rows": np.reshape(m.array("i"), -1)}


class GatherOneSlice(Rule):
    """A ``Slice`` of one index whose axis is dropped is ``Gather`` with that index."""

    stage = "canonical"
    before = (
        """
        %s: T[1,*S] = Slice(%x: T[M,*S], const %i: i64[1], %_, [0], [1])
        %y: T[*S] = Squeeze(%s, [0])
        """,
        """
        %s: T[1,*S] = Slice(%x: T[M,*S], const %i: i64[1], %_, [0], [1])
        %y: T[*S] = Reshape(%s, %_){allowzero = $z}
        """,
    )
    after = "%y = Gather(%x, const %index){axis = 0}"
    types = {"T": NUMBERS}
    domain = {"M": "2..4", "i": "0..2"}

    def guard(self, m: Match) -> str | None:
        """Refuse a start outside of the axis, which a ``Slice`` would move inside."""
        first, size = int(m.scalar("i")), m.dim("M")
        inside = isinstance(size, int) and -size <= first < size
        return None if inside else f"the start {first} may lie outside of {size}"

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the index as a number without axes."""
        return {"index": np.asarray(int(m.scalar("i")))}


class ShapeBeforeTranspose(Rule):
    """A dim of a transposed tensor is a dim of the tensor."""

    stage = "canonical"
    before = """
        %t = Transpose(%x: T){perm = $order}
        %y: i64[1] = Shape(%t){start = $start, end = $end}
    """
    after = "%y = Shape(%x){start = $from, end = $to}"
    shared = "%t"
    types = {"T": NUMBERS}

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute which dim of the tensor it is."""
        axis = m.attr("order")[m.attr("start") % len(m.attr("order"))]
        return {"from": axis, "to": axis + 1}

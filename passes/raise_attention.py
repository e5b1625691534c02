"""Raise attention that is written out, ``Softmax(q k)·v``, to the standard operator ``Attention``, and absorb into it.

The raised form has four dims: query ``[B,H,S,D]``, key ``[B,G,N,D]``, value ``[B,G,N,E]`` with ``G`` equal to ``H`` or
one; ``scale`` is always written.  A mask is one that is added, of the query's element type, never a boolean one, and
its
last two dims are ``S`` and ``N``: the operator pads a mask of fewer columns, and ONNX Runtime broadcasts neither.

Decisions:

* A row that the mask hides altogether (minus infinity everywhere) is zero by the operator's definition.  Exporters that
  mean that write ``Where(IsNaN(p), 0, p)`` behind the ``Softmax``, and the two agree; without it such a row was NaN,
  and becomes zero.  For a NaN in query or key the guard gave zero and the operator gives NaN.
* What is added must not enlarge the scores.  That follows from the types of operands and result, but for the number of
  keys, see ``_keys_disagree``.
* A factor of the scores becomes ``scale``, which ONNX Runtime wants to be positive.  It is single precision, and so are
  the roots of it that are multiplied by: scores of f64 stay.
* One rule knows every order of the parts, since each part is one optional statement or one form; what exporters spell
  in more ways than that is brought into these forms by ``normal_attention``,
  ``normal_masks`` and ``normal_batches``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.ir.graph import Value
from compiler.rewrite import FLOATS, Match, Rule
from passes.attention_scores import HIDDEN
from passes.nearness import UP_TO_SINGLE


def _forms(query: str, key: str, value: str, result: str, mask: str = "%m") -> tuple[str, ...]:
    """Return the ways to write attention, for operands of these dims; ``%w`` are the probabilities."""
    scores = f"%s = MatMul(%q: T[{query}], %k: T[{key}])\n optional %t = Mul|Div(%s, scalar %c)\n"
    capped = scores + "%d = Mul|Div(%t, scalar %b)\n %h = Tanh(%d)\n %u = Mul(%h, scalar %e)\n"
    plain = "%w = Softmax(%a)\n"
    guarded = "%p = Softmax(%a)\n %n = IsNaN(%p)\n %w = Where(%n, 0.0, %p)\n"
    wide = "%x: f32 = Cast(%a){to = 1}\n %p = Softmax(%x)\n %w = Cast(%p){to = $to}\n"
    last = f"%y: T[{result}] = MatMul(%w, %v: T[{value}])"
    return tuple(
        f"{before} optional %a = Add({passed}, {mask})\n {softmax} {last}"
        for before, passed, softmax in (
            (scores, "%t", plain),
            (scores, "%t", guarded),
            (scores, "%t", wide),
            (capped, "%u", plain),
            (capped, "%u", wide),
        )
    )


_OPTIONS = "{scale = $scale, softcap = $softcap, softmax_precision = $precision}"
_WITH_PROBABILITIES = _OPTIONS.replace("}", ", qk_matmul_output_mode = 3}")


class _Attention(Rule):
    """What the rules that raise attention have in common."""

    stage = "raise"
    types = {"T": UP_TO_SINGLE}
    domain = {
        "c": "positive", "b": "positive", "e": "positive",
        "q": "-3..3", "k": "-3..3", "v": "-9..9", "m": "-9..9",
        "H": "2,3", "G": "1,2,3", "D": "1..5", "E": "1..5", "N": "1..5",
    }  # fmt: skip

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is not positive, and operands that broadcast against each other."""
        scale, cap = _scale(m)
        if not (0 < scale < np.inf and 0 <= cap < np.inf):
            return f"the factor of the scores is {scale:g}, the cap {cap:g}"
        if m.binds_dim("G") and m.dim("G") not in (1, m.dim("H")):
            return f"there are {m.dim('H')} heads of the query and {m.dim('G')} of the key"
        return "the mask is to be folded first" if _is_computed(m.get("m")) else _keys_disagree(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute ``scale``, and ``softcap`` and ``softmax_precision`` where they differ from their defaults."""
        scale, cap = _scale(m)
        wide = DType.F32.code if m.has("x") else None
        return {"scale": scale, "softcap": cap or None, "precision": wide}


def _is_computed(mask: Value | None) -> bool:
    """True for a mask made of constants alone, by rules of this stage: what it hides is known once it is folded."""
    node = mask.node if mask is not None else None
    if node is None or not node.is_op("Add", "Mul", "Neg"):
        return False
    return all(v is not None and (v.constant is not None or _is_computed(v)) for v in node.inputs)


def _scale(m: Match) -> tuple[float, float]:
    """Return the factor of the scores, and the cap ``e`` of ``e * tanh(f * scores)``, zero when there is none."""
    factor = _factor(m, "t", "c")
    if not m.has("u"):
        return factor, 0.0
    cap = float(m.scalar("e"))
    return factor * _factor(m, "d", "b") * cap, cap


def _factor(m: Match, result: str, constant: str) -> float:
    """Return what an optional ``Mul`` or ``Div`` multiplies by."""
    if not m.has(result):
        return 1.0
    number = float(m.scalar(constant))
    if m.node(result).op == "Mul":
        return number
    return 1.0 / number if number else np.inf


def _keys_disagree(m: Match) -> str | None:
    """Refuse scores that a mask could have more keys than ``k``: ``v`` has as many rows as what is added leaves.

    Without a mask the two agree, or the model fails.  With one they do when the types of key and value, or of scores
    before and after it, say so.
    """
    if not m.has("a") or m.dim("N") == m.dim("L"):
        return None
    before, after = m["s"].shape, m["a"].shape
    if before is not None and after is not None and before[-1] == after[-1]:
        return None
    return f"the key has {m.dim('N')} rows, the value {m.dim('L')}, and the mask may enlarge the scores"


def _only_read_here(m: Match) -> str | None:
    alone = len(m["w"].uses) == 1 and not m["w"].returned
    return "nothing else reads the probabilities" if alone else None


class RaiseAttention(_Attention):
    """Raise ``softmax(q kᵀ · scale + mask) v`` to ``Attention``, with its cap, its guard against NaN and its casts.

    The key arrives transposed; the ``Transpose`` made here cancels with the one that every exporter writes.
    Definition: ONNX operator ``Attention``, version 24.
    """

    before = _forms("B,H,S,D", "B,G,D,N", "B,G,L,E", "B,H,S,E")
    after = f"""
        %key = Transpose(%k) {{perm = [0, 1, 3, 2]}}
        %mask = Expand(%m?, [1,1,S,N])
        %y = Attention(%q, %key, %v, %mask?) {_OPTIONS}
    """


class RaiseAttentionProbabilities(_Attention):
    """Raise attention whose probabilities are read elsewhere too: they are the fourth result of ``Attention``."""

    before = _forms("B,H,S,D", "B,G,D,N", "B,G,L,E", "B,H,S,E")
    after = f"""
        %key = Transpose(%k) {{perm = [0, 1, 3, 2]}}
        %mask = Expand(%m?, [1,1,S,N])
        %y, _, _, %w = Attention(%q, %key, %v, %mask?) {_WITH_PROBABILITIES}
    """

    def guard(self, m: Match) -> str | None:
        """Refuse when nothing else reads the probabilities, as ``RaiseAttention`` does without them."""
        return _only_read_here(m) or super().guard(m)


class RaiseAttentionOfOneHead(_Attention):
    """Raise attention in three dims, one batched product for all heads or no heads at all, as attention of one head."""

    before = _forms("B,S,D", "B,D,N", "B,L,E", "B,S,E")
    after = f"""
        %query = Unsqueeze(%q, [1])
        %rows = Transpose(%k) {{perm = [0, 2, 1]}}
        %key = Unsqueeze(%rows, [1])
        %value = Unsqueeze(%v, [1])
        %three = Expand(%m?, [1,S,N])
        %mask = Unsqueeze(%three?, [1])
        %result = Attention(%query, %key, %value, %mask?) {_OPTIONS}
        %y = Squeeze(%result, [1])
    """


class RaiseAttentionProbabilitiesOfOneHead(_Attention):
    """Raise attention in three dims whose probabilities are read elsewhere too."""

    before = _forms("B,S,D", "B,D,N", "B,L,E", "B,S,E")
    after = f"""
        %query = Unsqueeze(%q, [1])
        %rows = Transpose(%k) {{perm = [0, 2, 1]}}
        %key = Unsqueeze(%rows, [1])
        %value = Unsqueeze(%v, [1])
        %three = Expand(%m?, [1,S,N])
        %mask = Unsqueeze(%three?, [1])
        %result, _, _, %weights = Attention(%query, %key, %value, %mask?) {_WITH_PROBABILITIES}
        %y = Squeeze(%result, [1])
        %w = Squeeze(%weights, [1])
    """

    def guard(self, m: Match) -> str | None:
        """Refuse when nothing else reads the probabilities, as ``RaiseAttentionOfOneHead`` does without them."""
        return _only_read_here(m) or super().guard(m)


class RaiseAttentionOfFiveDims(_Attention):
    """Raise attention whose batch has two dims, of blocks or windows, as attention whose batch is their product."""

    before = _forms("A,B,H,S,D", "A,B,G,D,N", "A,B,G,L,E", "A,B,H,S,E", "%m: T[P,Q,V,R,K]")
    after = f"""
        %query = Reshape(%q, [A*B,H,S,D])
        %columns = Reshape(%k, [A*B,G,D,N])
        %key = Transpose(%columns) {{perm = [0, 1, 3, 2]}}
        %value = Reshape(%v, [A*B,G,L,E])
        %five = Expand(%m?, [A,B,V,S,N])
        %mask = Reshape(%five?, [A*B,V,S,N])
        %result = Attention(%query, %key, %value, %mask?) {_OPTIONS}
        %y = Reshape(%result, [A,B,H,S,E])
    """
    domain = {**_Attention.domain, **dict.fromkeys("PQVRK", "1")}


# What belongs to attention -----------------------------------------------------------------------

_ALL = """{scale = $scale, softcap = $softcap, softmax_precision = $precision, is_causal = $causal,
    qk_matmul_output_mode = $mode}"""
_RESCALED = _ALL.replace("$scale", "$product")
_QUERY, _KEY, _VALUE = "%q: T[B,H,S,D]", "%k: T[B,G,N,D]", "%v: T[B,G,L,E]"
_DRAWN = {"scale": "positive", "softcap": "1..9", "H": "2,4", "G": "1,2"}
"""Test data: ONNX Runtime wants a positive scale, and the query's heads in groups of one size."""


def _attention(query: str = _QUERY, key: str = _KEY, mask: str = "%m: T[*M,S,N]", options: str = _ALL) -> str:
    """Return the statement that makes ``%y`` by attention of four dims."""
    return f"%y = Attention({query}, {key}, {_VALUE}, {mask}) {options}"


class AbsorbScaleOfQuery(Rule):
    """Absorb a factor of the query into the factor of the scores."""

    stage = "raise"
    before = "%x = Mul|Div(%q, scalar %c)\n" + _attention("%x: T[B,H,S,D]", mask="%m?")
    after = _attention("%q", mask="%m?", options=_RESCALED)
    types = {"T": UP_TO_SINGLE}
    domain = {"c": "positive", **_DRAWN}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is not positive, and a scale that the sizes imply."""
        return _cannot_scale(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the factor of the scores."""
        return {"product": m.attr("scale") * _factor(m, "x", "c")}


class AbsorbScaleOfKey(Rule):
    """Absorb a factor of the key into the factor of the scores."""

    stage = "raise"
    before = "%x = Mul|Div(%k, scalar %c)\n" + _attention(key="%x: T[B,G,N,D]", mask="%m?")
    after = _attention(key="%k", mask="%m?", options=_RESCALED)
    types = {"T": UP_TO_SINGLE}
    domain = {"c": "positive", **_DRAWN}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is not positive, and a scale that the sizes imply."""
        return _cannot_scale(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the factor of the scores."""
        return {"product": m.attr("scale") * _factor(m, "x", "c")}


class AbsorbScaleOfTransposedKey(Rule):
    """Absorb a factor that was applied to the key before it was transposed."""

    stage = "raise"
    before = """
        %x = Mul|Div(%k, scalar %c)
        %t = Transpose(%x: T[B,G,D,N]) {perm = [0, 1, 3, 2]}
    """ + _attention(key="%t: T[B,G,N,D]", mask="%m?")
    after = "%r = Transpose(%k) {perm = [0, 1, 3, 2]}\n" + _attention(key="%r", mask="%m?", options=_RESCALED)
    types = {"T": UP_TO_SINGLE}
    domain = {"c": "positive", **_DRAWN}

    def guard(self, m: Match) -> str | None:
        """Refuse a factor that is not positive, and a scale that the sizes imply."""
        return _cannot_scale(m)

    def constants(self, m: Match) -> dict[str, Any]:
        """Compute the factor of the scores."""
        return {"product": m.attr("scale") * _factor(m, "x", "c")}


def _cannot_scale(m: Match) -> str | None:
    if m.attr("scale") is None:
        return "the factor of the scores is left to the operator"
    product = m.attr("scale") * _factor(m, "x", "c")
    return None if 0 < product < np.inf else f"the factor of the scores would be {product:g}"


class DropMaskOfZeros(Rule):
    """Drop a mask that adds zero to every score."""

    stage = "raise"
    before = _attention(mask="const %m: T[*M,S,N]")
    after = f"%y = Attention(%q, %k, %v) {_ALL}"
    types = {"T": FLOATS}
    domain = {"m": "zeros", **_DRAWN}

    def guard(self, m: Match) -> str | None:
        """Refuse a mask that adds anything else."""
        return None if not m.array("m").any() else "the mask is not zero"


class DropZerosOfMask(Rule):
    """Drop zeros that are added to a mask: an exporter leaves them where a model has no bias."""

    stage = "raise"
    before = (
        "%z: T = ConstantOfShape(%n) {value = $number}\n %a: T[*A,S,N] = Add(%m: T[*M,S,N], %z)\n"
        + _attention(mask="%a"),
        "%a: T[*A,S,N] = Add(%m: T[*M,S,N], const %z)\n" + _attention(mask="%a"),
    )
    after = _attention(mask="%m")
    types = {"T": FLOATS}
    shared = "%z %a"
    domain = {"z": "zeros", **_DRAWN}

    def guard(self, m: Match) -> str | None:
        """Refuse anything but zeros."""
        if m.form:
            return None if not m.array("z").any() else "what is added is not zero"
        number = m.attr("number")
        return None if number is None or not number.array().any() else "what is added is not zero"


class AbsorbCausalMask(Rule):
    """Absorb a mask that hides from each query the keys that stand after it, and nothing else, into ``is_causal``.

    The first key is never hidden, so no row is hidden altogether, and how much is added to hide does not matter.
    """

    stage = "raise"
    before = _attention(mask="const %m: T[*M,S,N]", options=_ALL.replace("$causal", "0"))
    after = f"%y = Attention(%q, %k, %v) {_ALL.replace('$causal', '1')}"
    types = {"T": FLOATS}
    domain = {"m": "causal", **_DRAWN}

    def guard(self, m: Match) -> str | None:
        """Refuse a mask that shows a later key or hides an earlier one."""
        mask = m.array("m")
        shown = np.tril(np.ones(mask.shape[-2:], bool))
        wrong = int(np.sum(np.where(shown, mask != 0, ~(mask <= HIDDEN))))
        return f"the mask is not causal in {wrong} of {mask.size} places" if wrong or not mask.size else None

"""Absorb what surrounds the keys and values of ``Attention``: heads that are repeated for groups, and caches.

``Attention`` lets ``R`` heads of the query share one head of key and value: head ``h`` of the query reads head
``h // R``, which is what repeating each head ``R`` times in place means.  Exporters repeat them by ``Unsqueeze``,
``Expand`` and ``Reshape``.  With fewer heads, the keys and values are read where they lie.

A ``Concat`` with the cache along the keys is done by ``Attention`` itself, which returns the whole as its present keys
and values.  That needs both of them to be read elsewhere: ONNX Runtime wants both named when there is a past.
"""

from __future__ import annotations

from collections.abc import Iterator

from compiler.rewrite import FLOATS, Match, Rule

_ATTRIBUTES = "{scale = $scale, softcap = $softcap, softmax_precision = $precision, is_causal = $causal}"
"""Text of the attributes of ``Attention`` that rules hand on."""

_REPEATED = tuple(
    f"""
    %{{n}}u: T[{{before}},1,{{after}}] = {first}
    %{{n}}e: T[{{before}},R,{{after}}] = Expand|Tile(%{{n}}u, %_)
    %{{n}}r: T[{{wide}}] = Reshape(%{{n}}e, %_){{{{allowzero = $z{{n}}}}}}
    """
    for first in ("Unsqueeze(%{n}: T[{dims}], %_)", "Reshape(%{n}: T[{dims}], %_){{allowzero = $y{n}}}")
)
"""Ways to repeat each head in place: a new axis behind the heads is enlarged, and merged with them."""


def _repeated(dims: str, wide: str, before: str, after: str) -> Iterator[str]:
    """Yield the texts in which ``%kr`` and ``%vr`` are ``%k`` and ``%v`` with repeated heads.

    Dims ``N`` and ``W`` are the rows and columns of both, under two names each.
    """
    for text in _REPEATED:
        key = text.format(n="k", dims=dims, wide=wide, before=before, after=after)
        value = text.format(n="v", dims=dims, wide=wide, before=before, after=after)
        yield key.replace("W", "D") + value.replace("N", "M").replace("W", "E")


class AbsorbRepeatedHeads(Rule):
    """Let groups of heads share keys and values, rather than repeat these for each."""

    stage = "raise"
    before = tuple(
        f"{text}%y = Attention(%q: T[B,G*R,S,D], %kr, %vr, %m?){_ATTRIBUTES}"
        for text in _repeated("B,G,N,W", "B,G*R,N,W", "B,G", "N,W")
    )
    after = f"%y = Attention(%q, %k, %v, %m?){_ATTRIBUTES}"
    types = {"T": FLOATS}
    shared = "%ku %ke %kr %vu %ve %vr"
    domain = {"R": "2..3"}


class AbsorbRepeatedHeadsAfterPositions(Rule):
    """Let groups of heads share keys and values that are repeated while positions still stand before heads."""

    stage = "raise"
    before = tuple(
        f"""{text}
        %kt = Transpose(%kr){{perm = [0,2,1,3]}}
        %vt = Transpose(%vr){{perm = [0,2,1,3]}}
        %y = Attention(%q: T[B,G*R,S,D], %kt, %vt, %m?){_ATTRIBUTES}
        """
        for text in _repeated("B,N,G,W", "B,N,G*R,W", "B,N,G", "W")
    )
    after = f"""
        %kt2 = Transpose(%k){{perm = [0,2,1,3]}}
        %vt2 = Transpose(%v){{perm = [0,2,1,3]}}
        %y = Attention(%q, %kt2, %vt2, %m?){_ATTRIBUTES}
    """
    types = {"T": FLOATS}
    shared = "%ku %ke %kr %kt %vu %ve %vr %vt"
    domain = {"R": "2..3"}


class AbsorbExpandedHead(Rule):
    """Let all heads share the one key and value head that was enlarged to as many."""

    stage = "raise"
    before = f"""
        %kr: T[B,H,N,D] = Expand|Tile(%k: T[B,1,N,D], %_)
        %vr: T[B,H,M,E] = Expand|Tile(%v: T[B,1,M,E], %_)
        %y = Attention(%q: T[B,H,S,D], %kr, %vr, %m?){_ATTRIBUTES}
    """
    after = f"%y = Attention(%q, %k, %v, %m?){_ATTRIBUTES}"
    types = {"T": FLOATS}
    shared = "%kr %vr"


class AbsorbCache(Rule):
    """Let ``Attention`` put the cached keys and values before the new ones, and return them as the new cache.

    Not for a causal ``Attention``: its frontier begins behind the cache then, and at the first key before.  There are
    as many new keys as values; then both caches are of one length too, ``P`` and ``Q``, or attention does not run.
    """

    stage = "raise"
    before = """
        %pk = Concat(%ck: T[B,G,P,D], %k: T[B,G,N,D]){axis = -2}
        %pv = Concat(%cv: T[B,G,Q,E], %v: T[B,G,N,E]){axis = -2}
        %y = Attention(%q: T[B,H,S,D], %pk, %pv, %m?)
            {scale = $scale, softcap = $softcap, softmax_precision = $precision}
    """
    after = """
        %y, %pk, %pv = Attention(%q, %k, %v, %m?, %ck, %cv)
            {scale = $scale, softcap = $softcap, softmax_precision = $precision}
    """
    types = {"T": FLOATS}
    domain = {"scale": "0.1..2", "H": "2,4", "G": "2,1", "N": "1,2,3,5"}

    def guard(self, m: Match) -> str | None:
        """Refuse a cache that is not kept, and one to which nothing comes: attention takes no keys of length 0."""
        if m.dim("N") == 0:
            return f"%{m['k'].name} holds no new keys"
        for name in ("pk", "pv"):
            if not m[name].is_output and len(m[name].uses) < 2:
                return f"%{m[name].name} is not read besides: it is no cache"
        return None

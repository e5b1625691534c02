"""Define the group norms of ``com.microsoft`` by the standard's, with their layout, their activation and their sum."""

from __future__ import annotations

from typing import Any

from compiler.rewrite import FLOATS, Match, Rule

_CALL = "com.microsoft::GroupNorm(%x: T[N,A,B,C], %w: U, %b: U)"
_STATED = "epsilon = $epsilon, groups = $groups, activation = {}, channels_last = {}"
_NORM = "GroupNormalization(%t, %wt, %bt){epsilon = $e, num_groups = $groups}"
_PARAMETERS = """
        %wt = Cast(%w){to = $given}
        %bt = Cast(%b){to = $given}
"""


class _GroupNorm(Rule):
    """What the definitions share: parameters may be of another type than the data, which are computed with."""

    stage = "expand"
    types = {"T": FLOATS, "U": FLOATS}

    def constants(self, m: Match) -> dict[str, Any]:
        """The number under the root, and the type of the data."""
        epsilon = m.attr("epsilon")
        return {"e": 1e-5 if epsilon is None else epsilon, "given": m.dtype("T").code}


class DefineGroupNorm(_GroupNorm):
    """GroupNorm of channels that come last is a group norm between two transposes."""

    before = (
        f"%y = {_CALL}{{{_STATED.format(0, 1)}}}",
        f"%y = {_CALL}{{epsilon = $epsilon, groups = $groups, activation = 0}}",
    )
    after = f"""{_PARAMETERS}
        %t = Transpose(%x){{perm = [0,3,1,2]}}
        %n = {_NORM}
        %y = Transpose(%n){{perm = [0,2,3,1]}}
    """


class DefineGroupNormOfSilu(_GroupNorm):
    """GroupNorm with an activation is a group norm, and then ``Swish``."""

    before = (
        f"%y = {_CALL}{{{_STATED.format(1, 1)}}}",
        f"%y = {_CALL}{{epsilon = $epsilon, groups = $groups, activation = 1}}",
    )
    after = f"""{_PARAMETERS}
        %t = Transpose(%x){{perm = [0,3,1,2]}}
        %n = {_NORM}
        %a = Swish(%n)
        %y = Transpose(%a){{perm = [0,2,3,1]}}
    """


class DefineGroupNormOfChannelsFirst(_GroupNorm):
    """GroupNorm of channels that come first is a group norm."""

    before = f"%y = {_CALL}{{{_STATED.format(0, 0)}}}".replace("%x:", "%t:")
    after = f"{_PARAMETERS}%y = {_NORM}"


class DefineGroupNormOfChannelsFirstOfSilu(_GroupNorm):
    """GroupNorm of channels that come first, with an activation, is a group norm and then ``Swish``."""

    before = f"%y = {_CALL}{{{_STATED.format(1, 0)}}}".replace("%x:", "%t:")
    after = f"""{_PARAMETERS}
        %n = {_NORM}
        %y = Swish(%n)
    """


def _skip(activation: int) -> tuple[str, ...]:
    """Return SkipGroupNorm of channels that come last: a skip for each place or for all, with and without the sum."""
    stated = ("channels_last = 1, ", "")
    return tuple(
        f"""
        {outputs} = com.microsoft::SkipGroupNorm(%x: T[N,A,B,C], %w: U, %b: U, %r: T[N,{places},C], %c?: T[C]){{
            {last}epsilon = $epsilon, groups = $groups, activation = {activation}}}
        """
        for outputs in ("%y", "%y, %s")
        for places in ("A,B", "1,1")
        for last in stated
    )


_SUM = """
        %d = Add(%x, %r)
        optional %s = Add(%d, %c?)
        %t = Transpose(%s){perm = [0,3,1,2]}
"""


class DefineSkipGroupNorm(_GroupNorm):
    """SkipGroupNorm is the group norm of a sum, which it also gives."""

    before = _skip(0)
    after = f"""{_PARAMETERS}{_SUM}
        %n = {_NORM}
        %y = Transpose(%n){{perm = [0,2,3,1]}}
    """


class DefineSkipGroupNormOfSilu(_GroupNorm):
    """SkipGroupNorm with an activation is the group norm of a sum, which it also gives, and then ``Swish``."""

    before = _skip(1)
    after = f"""{_PARAMETERS}{_SUM}
        %n = {_NORM}
        %a = Swish(%n)
        %y = Transpose(%a){{perm = [0,2,3,1]}}
    """

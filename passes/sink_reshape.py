"""Move views of a residual stream below the norms, so that the sum and its norm meet.

A norm over the last axis treats rows alike, however they are arranged.  This is for the rules of ``lower_skip_norm``;
alone it gains nothing.
"""

from __future__ import annotations

from compiler.rewrite import FLOATS, Rule


class SinkReshapeBelowLayerNormalization(Rule):
    """A layer norm of the rows of a reshaped sum is the reshaped layer norm of the sum."""

    stage = "lower"
    before = """
        %s: T[*S,H] = Add(%a: T[*S,H], %b: T[*S,H])
        %r: T[*U,H] = Reshape(%s, %t){allowzero = $z}
        %y = LayerNormalization(%r, %w: T[H], %c?: T[H]){axis = -1, epsilon = $e, stash_type = $p}
    """
    after = """
        %n = LayerNormalization(%s, %w, %c?){axis = -1, epsilon = $e, stash_type = $p}
        %y = Reshape(%n, %t){allowzero = $z}
    """
    types = {"T": FLOATS}
    shared = "%s %r"


class SinkReshapeBelowRmsNormalization(Rule):
    """A root mean square norm of the rows of a reshaped sum is the reshaped norm of the sum."""

    stage = "lower"
    before = """
        %s: T[*S,H] = Add(%a: T[*S,H], %b: T[*S,H])
        %r: T[*U,H] = Reshape(%s, %t){allowzero = $z}
        %y = RMSNormalization(%r, %w: T[H]){axis = -1, epsilon = $e, stash_type = $p}
    """
    after = """
        %n = RMSNormalization(%s, %w){axis = -1, epsilon = $e, stash_type = $p}
        %y = Reshape(%n, %t){allowzero = $z}
    """
    types = {"T": FLOATS}
    shared = "%s %r"

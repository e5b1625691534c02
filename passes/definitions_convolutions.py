"""Define fused convolutions: first the activation is set apart, then what is added, and a plain ``Conv`` is left."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.rewrite import FLOATS, Match, Rule

_WINDOW = (
    "auto_pad = $auto, dilations = $dilations, group = $group, kernel_shape = $kernel, pads = $pads, strides = $strides"
)
_CONNECTED = {"C": "2", "G": "2", "group": "1..2"}
"""All channels are connected to all; the theorems hold for groups too."""
_PLAIN = f"com.microsoft::FusedConv(%x, %w, %b?, %z?){{{_WINDOW}}}"


def _conv(activation: str) -> str:
    """Return a FusedConv of an activation, with its parameters as ``$params``."""
    stated = f'activation = "{activation}", activation_params = $params, {_WINDOW}'
    return f"%y = com.microsoft::FusedConv(%x: T[N,C,*S], %w: T[M,G,*K], %b?: T[M], %z?: T){{{stated}}}"


class DefineConv(Rule):
    """FusedConv without an activation is a ``Conv``."""

    stage = "expand"
    before = f"%y = com.microsoft::FusedConv(%x: T[N,C,*S], %w: T[M,G,*K], %b?: T[M]){{{_WINDOW}}}"
    after = f"%y = Conv(%x, %w, %b?){{{_WINDOW}}}"
    types = {"T": FLOATS}
    domain = _CONNECTED


class DefineConvAndSum(Rule):
    """FusedConv adds its fourth operand to the convolution."""

    stage = "expand"
    before = f"%y = com.microsoft::FusedConv(%x: T[N,C,*S], %w: T[M,G,*K], %b?: T[M], %z: T){{{_WINDOW}}}"
    after = f"""
        %c = Conv(%x, %w, %b?){{{_WINDOW}}}
        %y = Add(%c, %z)
    """
    types = {"T": FLOATS}
    domain = _CONNECTED


class _ConvThen(Rule):
    """What the definitions of a convolution and an activation share: the activation comes last."""

    stage = "expand"
    types = {"T": FLOATS}
    domain = _CONNECTED
    parameters = 0
    """How many parameters the activation takes."""

    def guard(self, m: Match) -> str | None:
        """The parameters are as many as the activation takes."""
        given = m.attr("params") or ()
        return None if len(given) == self.parameters else f"the parameters are {given}"


class DefineConvOfRelu(_ConvThen):
    """FusedConv of a ``Relu`` is a convolution and then that."""

    before = _conv("Relu")
    after = f"""
        %c = {_PLAIN}
        %y = Relu(%c)
    """


class DefineConvOfSigmoid(_ConvThen):
    """FusedConv of a ``Sigmoid`` is a convolution and then that."""

    before = _conv("Sigmoid")
    after = f"""
        %c = {_PLAIN}
        %y = Sigmoid(%c)
    """


class DefineConvOfTanh(_ConvThen):
    """FusedConv of a ``Tanh`` is a convolution and then that."""

    before = _conv("Tanh")
    after = f"""
        %c = {_PLAIN}
        %y = Tanh(%c)
    """


class DefineConvOfLeakyRelu(_ConvThen):
    """FusedConv of a ``LeakyRelu`` is a convolution and then that."""

    before = _conv("LeakyRelu")
    after = f"""
        %c = {_PLAIN}
        %y = LeakyRelu(%c){{alpha = $slope}}
    """
    parameters = 1
    domain = {**_CONNECTED, "params": "[0.1]"}

    def constants(self, m: Match) -> dict[str, Any]:
        """The slope."""
        return {"slope": m.attr("params")[0]}


class DefineConvOfClip(_ConvThen):
    """FusedConv of a ``Clip`` is a convolution and then that."""

    before = _conv("Clip")
    after = f"""
        %c = {_PLAIN}
        %y = Clip(%c, const %low, const %high)
    """
    parameters = 2
    domain = {**_CONNECTED, "params": "[-0.5, 0.5]"}

    def constants(self, m: Match) -> dict[str, Any]:
        """The bounds."""
        low, high = (np.asarray(p, m.dtype("T").numpy) for p in m.attr("params"))
        return {"low": low, "high": high}


class DefineConvOfHardSigmoid(_ConvThen):
    """FusedConv of a ``HardSigmoid`` is a convolution and then that."""

    before = _conv("HardSigmoid")
    after = f"""
        %c = {_PLAIN}
        %y = HardSigmoid(%c){{alpha = $slope, beta = $offset}}
    """
    parameters = 2
    domain = {**_CONNECTED, "params": "[0.2, 0.5]"}

    def constants(self, m: Match) -> dict[str, Any]:
        """Slope and offset."""
        return {"slope": m.attr("params")[0], "offset": m.attr("params")[1]}


class DefineConvOfHardSwish(_ConvThen):
    """FusedConv of a ``HardSwish`` is a convolution times a hard sigmoid of it; kernels know no other parameters."""

    before = _conv("HardSwish")
    after = f"""
        %c = {_PLAIN}
        %s = HardSigmoid(%c){{alpha = 0.16666667, beta = 0.5}}
        %y = Mul(%c, %s)
    """
    parameters = 2
    domain = {**_CONNECTED, "params": "[0.16666667, 0.5]"}

    def guard(self, m: Match) -> str | None:
        """The parameters are those of ``HardSwish``."""
        usual = np.allclose(m.attr("params") or (), (1 / 6, 0.5)) if len(m.attr("params") or ()) == 2 else False
        return super().guard(m) or (None if usual else f"the parameters are {m.attr('params')}")

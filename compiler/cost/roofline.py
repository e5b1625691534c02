"""Estimate the time of a kind from the target's peak rates, for what was neither measured nor calibrated.

``launch + max(operations / peak, bytes / bandwidth) / efficiency``; nodes that are compiled together launch nothing.
Efficiencies are by family and are meant to order alternatives: library calls of one element at a time reach a few
percent of the peak, vectorised loops the bandwidth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.cost.kinds import Kind
from compiler.ir.schema import operator_names

if TYPE_CHECKING:
    from targets import Target

_EFFICIENT: dict[str, float] = {"MatMul": 0.7, "Conv": 0.5, "ConvTranspose": 0.35, "LSTM": 0.4, "GRU": 0.4}
"""Share of the peak that products reach."""

_SCALAR = operator_names("""
        Pow Log Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Softplus Softsign Elu Selu Celu Mish Mod Round
        IsNaN IsInf Einsum CumSum TopK NonZero GatherND ScatterND ScatterElements GridSample Resize
""")
"""Operators whose kernels work on one element at a time."""

_SCALAR_OPERATIONS = 40.0
"""Operations that such a kernel could have done for each element."""

_MOVEMENT = 0.35
"""Share of the memory bandwidth that kernels reach on tensors of usual sizes."""


def roofline(kind: Kind, target: Target, threads: int) -> float:
    """Return microseconds; what a device has no rate for it computes in a type that it has one for."""
    machine = target.machine
    launch = 0.0 if target.constraints.compiles else machine.launch.value * 1e6
    if kind.work <= 0:
        return launch
    op, dtype, *_ = kind.key.split(":")
    name = "i8" if dtype in ("u8", "i8") else dtype
    rates = [machine.flops.get(n) for n in (name, "f32", "f16")]  # type: ignore[call-overload]
    rate = next((r for r in rates if r is not None), None)
    peak = rate.total(threads) if rate is not None else 1e9
    efficiency = _EFFICIENT.get(op, 0.25)
    if op in _SCALAR:
        efficiency /= _SCALAR_OPERATIONS
    operations = kind.operations / (peak * efficiency)
    return launch + 1e6 * max(operations, kind.nbytes / (machine.bandwidth.value * _MOVEMENT))

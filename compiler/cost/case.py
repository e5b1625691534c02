"""A case: the small model by which calibration measures one operator, as a text of the IR.

A case is one statement with the types of what it reads. ``=f32[8,8]`` is a constant of drawn contents, ``i64[1] =
[2]`` a constant with these, anything else an input. Operators that the runtime replaces by their definition
(``Swish``) are measured as it runs them, optimizations included; everything else is measured as it is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

BLOCKED = "com.microsoft.nchwc::"
CONTRIB = "com.microsoft::"


@dataclass(frozen=True, slots=True)
class Case:
    """A model of one operator."""

    call: str
    """The right side of the statement: ``MatMul(%x, %w)``."""
    operands: dict[str, str] = field(default_factory=dict)
    """Name → type, ``=`` type, or type ``=`` contents."""
    optimized: bool = False
    """Whether the runtime's optimizations run, as they do on what it replaces by a definition."""
    results: int = 1
    """Number of results."""
    largest: int = 0
    """For operands of indices: their values are below it."""
    inside: bool = False
    """Whether it stands between two other nodes (``Abs``), since a view of an input, or as an output, is a copy."""

    def text(self, copies: int = 1) -> str:
        """Return the model as IR text: so many nodes like this, each with operands of its own."""
        inputs: list[str] = []
        constants: list[str] = []
        statements: list[str] = []
        outs: list[str] = []
        for k in range(copies):
            names = {}
            for name, kind in self.operands.items():
                if "= " in kind and k:
                    names[name] = f"{name}0"  # contents that are written out are shared
                    continue
                names[name] = f"{name}{k}"
                (constants if "=" in kind else inputs).append(f"%{name}{k}: {_constant(kind, k)}")
            made = [f"%y{k}_{i}" for i in range(self.results)]
            call = self.call
            for name, own in names.items():
                call = re.sub(rf"%{name}\b", f"%{own}", call)
            if self.inside:
                call = call.replace(f"%x{k}", f"%a{k}")
                statements += [f"%a{k} = Abs(%x{k})", f"{', '.join(made)} = {call}", f"%z{k} = Abs(%y{k}_0)"]
                outs.append(f"%z{k}")
            else:
                statements.append(f"{', '.join(made)} = {call}")
                outs += made
        header = "// ampc 1, ir 10, opset 24, com.microsoft 1, com.microsoft.nchwc 1\n"
        lines = [f"  const {c}\n" for c in constants] + [f"  {s}\n" for s in statements]
        returns = ", ".join(outs)
        return f"{header}graph @case({', '.join(inputs)}) -> ({returns}) {{\n{''.join(lines)}  return {returns}\n}}\n"


def _constant(kind: str, number: int) -> str:
    return f"{kind[1:]} = #{number:08d}" if kind.startswith("=") else kind

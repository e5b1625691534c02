"""The passes that apply rules, one for each stage; what the rules are is found, not listed.

Lowering chooses among rules: ``fused`` takes every legal one, larger forms first; ``cost`` those that are expected to
gain on the target (``compiler.rewrite.select``); ``standard`` those whose result is made of ``ai.onnx`` operators
only.
"""

from __future__ import annotations

from dataclasses import dataclass

from compiler.ir.graph import Graph
from compiler.rewrite.engine import Engine
from compiler.rewrite.select import lower_by_cost
from compiler.rewrite.transform import Context, Pass


@dataclass(frozen=True)
class Normalize(Pass):
    """Write what exporters spell in many ways in one, so that one rule per operator recognises it."""

    only: str = ""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Apply the rules of the stage ``canonical``."""
        return Engine(ctx.rules_of("canonical", only=self.only), ctx, trace=ctx.trace).run(graph)


@dataclass(frozen=True)
class Raise(Pass):
    """Recognise operators that are written out, and write the standard operator that was meant."""

    only: str = ""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Apply the rules of the stage ``raise``."""
        return Engine(ctx.rules_of("raise", only=self.only), ctx, trace=ctx.trace).run(graph)


@dataclass(frozen=True)
class Optimize(Pass):
    """Apply algebra that pays on every target to the raised graph."""

    only: str = ""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Apply the rules of the stage ``optimize``."""
        return Engine(ctx.rules_of("optimize", only=self.only), ctx, trace=ctx.trace).run(graph)


@dataclass(frozen=True)
class Lower(Pass):
    """Choose forms that the target runs fast: fused operators, or cheaper ones."""

    only: str = ""

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Apply the rules of the stage ``lower`` that the selection admits, outputs first."""
        rules = ctx.rules_of("lower", only=self.only)
        if ctx.by_cost:
            return lower_by_cost(rules, graph, ctx)
        rules = [r for r in rules if not ctx.why_not_selected(r)]
        return Engine(rules, ctx, backwards=True, trace=ctx.trace).run(graph)

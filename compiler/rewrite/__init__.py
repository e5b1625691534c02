"""Transformations: the contract of passes, and the engine that applies rules.

A rule's module imports from here: ``from compiler.rewrite import FLOATS, Match, Rule``.
"""

from compiler.rewrite.match import Match, Refusal
from compiler.rewrite.rule import FLOATS, INTEGERS, NUMBERS, STAGES, Rule
from compiler.rewrite.transform import Context, Pass

__all__ = ["FLOATS", "INTEGERS", "NUMBERS", "STAGES", "Context", "Match", "Pass", "Refusal", "Rule"]

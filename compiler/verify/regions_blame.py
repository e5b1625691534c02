"""Name the rule that made a wrong value, from what a region knows of the rewrites in it."""

from __future__ import annotations

from compiler.backend.fragment import NOW
from compiler.ir.graph import Node
from compiler.verify.regions import Region


def rule_at_fault(region: Region, place: int) -> str:
    """Return the rule that made the wrong value of a pair, empty when none can be named.

    It is the one that replaced the value; else the newest rule in the origin of its producer, or of the nearest
    producer before that.  Where several rules worked on one another's results, the newest is tried first: without it
    the others are checked on their own.
    """
    if place < len(region.rules) and region.rules[place]:
        return region.rules[place][0]
    maker = {o: n for n in region.after for o in n.outputs}
    todo = [maker.get(region.pairs[place][1])]
    seen: set[Node | None] = {None}
    for node in todo:  # grows meanwhile: breadth first
        if node is None or node in seen:
            continue
        seen.add(node)
        rule = next((name for name in node.loc.by if name in region.fired), "")
        if rule:
            return rule
        todo += [maker.get(v) for v in NOW.operands(node)]
    return ""

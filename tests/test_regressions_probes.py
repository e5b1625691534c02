"""Probes that once left a branch of the model unseen."""

from __future__ import annotations

import pytest

from compiler.errors import WorkerError
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.verify.probes import Probe, ProbePlan, settle


def _plan(name: str) -> ProbePlan:
    model = parse_model(
        f"// ampc 1, opset 20\ngraph @main(%{name}: bool[]) -> (%y: bool[]) {{\n"
        f"%y: bool[] = Not(%{name})\nreturn %y\n}}"
    )
    infer(model.graph)
    return ProbePlan(model)


class Greedy:
    """An original that needs too much memory when the flag is set."""

    def run(self, probe: Probe) -> list[object]:
        """Refuse a set flag."""
        if probe.feeds["c"]:
            raise WorkerError("refused", kind="memory", why="terabytes")
        return []


@pytest.mark.parametrize("name", ["a", "c", "cond", "flag", "use_cache_branch"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_first_two_probes_take_both_branches(name: str, seed: int) -> None:
    """A single boolean input is set in one of the first two probes and clear in the other."""
    first, second = _plan(name).candidates(seed=seed)[:2]
    assert bool(first.feeds[name]) != bool(second.feeds[name])


def test_a_branch_that_needs_too_much_memory_leaves_the_other_to_compare() -> None:
    """When one branch cannot be run here, the model is still probed where the other is taken."""
    found = settle(Greedy(), _plan("c").candidates(), count=1)
    assert [bool(p.feeds["c"]) for p in found.probes] == [False]

"""Every rule that there is, on drawn instances: what it rewrites computes the same before and after.

No rule needs a test of its own: this one knows them all, plugins' rules included.  A rule that is not rewritten at
least now and then, or whose instances no oracle runs, fails too: write types into its ``before``, and into ``domain``
what its guard asks for.  An operator that ONNX Runtime has no kernel of needs a definition in
``rule_harness_definitions``.
``--hypothesis-profile=large`` draws forty times as many.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from compiler import manager
from tests.rule_harness import BATCH, Harness, RuleFailure
from tests.rule_harness_batch import Tally
from tests.rule_harness_choices import LENGTH
from tests.rule_harness_report import why_too_few

RULES = {name: cls() for name, cls in manager.known_rules().items()}
"""Every rule by its name."""

LEAST = 4
"""Instances of each form that must be compared, or a twentieth of those drawn if that is more."""


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    """The oracles; their child process ends with the module."""
    harness = Harness()
    yield harness
    harness.runtime.close()


@pytest.mark.parametrize(("name", "form"), [(name, k) for name, rule in RULES.items() for k in range(len(rule.forms))])
def test_both_sides_of_a_rule_compute_the_same(name: str, form: int, harness: Harness) -> None:
    """Whatever its variables stand for, within the rule's ``domain``, each form of ``before`` equals ``after``."""
    rule, pattern = RULES[name], RULES[name].forms[form]
    profile = settings.default
    assert profile is not None
    examples = max(2, -(-profile.max_examples // len(rule.forms)))
    tally, failures = Tally(), list[RuleFailure]()

    @settings(max_examples=examples, phases=[Phase.generate])
    @given(st.binary(min_size=BATCH * LENGTH, max_size=BATCH * LENGTH))
    def sweep(data: bytes) -> None:
        if failures:
            return
        try:
            harness.sweep(rule, pattern, data, tally)
        except RuleFailure as failure:  # it is small already
            failures.append(failure)

    sweep()
    if failures:
        raise failures[0]
    if tally.checked < max(LEAST, examples * BATCH // 20):
        raise AssertionError(why_too_few(rule, pattern, tally))

"""``ampc rules``: every rule is listed, and explained by what its class says and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest

from compiler import manager
from compiler.rewrite import FLOATS, STAGES, Match, Rule
from compiler.ruling import STAGES as EXPLAINED
from compiler.ruling import describe_rule, pass_of
from tests.test_cli import ampc, process


class UseSwish(Rule):
    """Write ``x`` times its own sigmoid, which is how the function was first written down, as ``Swish``.

    One trip through memory instead of two.
    """

    stage = "lower"
    before = (
        """
        %s = Sigmoid(%x)
        %y: T[*S] = Mul(%x: T[*S], %s)
        """,
        "%y: T[*S] = Swish(%x: T[*S]){alpha = $a}",
    )
    after = "%y = Swish(%x)"
    types: Mapping[str, Any] = {"T": FLOATS}
    rtol = 1e-3
    domain: Mapping[str, str] = {"x": "positive"}
    shared = "%s"

    def guard(self, m: Match) -> str | None:
        """The factor ``alpha`` is one."""
        return None

    def worth(self, m: Match) -> str | None:
        """There are many numbers."""
        return None


class UseSwishToo(UseSwish):
    """The same."""


@pytest.fixture
def one_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be one rule, and one that inherits from it."""
    monkeypatch.setattr(manager, "known_rules", lambda: {"UseSwish": UseSwish, "UseSwishToo": UseSwishToo})


# The list ----------------------------------------------------------------------------------------


def test_every_rule_is_listed_in_80_columns() -> None:
    """The list has every rule that discovery finds, with its stage and a whole sentence."""
    text = ampc("rules").out
    assert max(map(len, text.splitlines())) <= 80
    record = ampc("rules", "--json").json()
    assert {entry["name"] for entry in record["rules"]} == set(manager.known_rules())
    assert all(entry["summary"].endswith((".", ":")) for entry in record["rules"])


def test_rules_stand_in_the_order_of_stages() -> None:
    """The list goes through the stages as a pipeline does, and says what each is for."""
    record = ampc("rules", "--json").json()
    stages = [entry["stage"] for entry in record["rules"]]
    assert stages == sorted(stages, key=STAGES.index)
    assert [*record["stages"]] == [*STAGES]


@pytest.mark.parametrize("stage", STAGES)
def test_one_stage_can_be_listed(stage: str) -> None:
    """``--stage`` leaves out what other stages do."""
    record = ampc("rules", "--stage", stage, "--json").json()
    assert {entry["name"] for entry in record["rules"]} == {
        name for name, cls in manager.known_rules().items() if cls.stage == stage
    }
    ampc("rules", "--stage", stage)


def test_every_stage_is_a_pass_of_the_default_pipeline() -> None:
    """The rules of each stage are run by a pass that the default pipeline has, in the order of the stages."""
    present = manager.pass_names(manager.parse_pipeline(manager.DEFAULT_PIPELINE))
    places = [present.index(pass_of(stage)) for stage in STAGES]
    assert places == sorted(places)
    assert tuple(EXPLAINED) == STAGES


# One rule ----------------------------------------------------------------------------------------


def test_a_rule_is_explained_by_its_class(one_rule: None) -> None:
    """Forms, result, types, conditions, numerics, test data and documentation come from the class, verbatim."""
    record = describe_rule("UseSwish")
    assert record["summary"] == (
        "Write ``x`` times its own sigmoid, which is how the function was first written down, as ``Swish``."
    )
    assert record["before"] == [
        "%s = Sigmoid(%x)\n%y: T[*S] = Mul(%x: T[*S], %s)",
        "%y: T[*S] = Swish(%x: T[*S]){alpha = $a}",
    ]
    assert record["after"] == "%y = Swish(%x)"
    assert record["types"] == {"T": ["bf16", "f16", "f32", "f64"]}
    for name in ("UseSwish", "UseSwishToo"):
        hooks = [describe_rule(name)[hook] for hook in ("guard", "worth", "constants")]
        assert hooks == ["The factor ``alpha`` is one.", "There are many numbers.", ""]
    assert (record["rtol"], record["domain"], record["shared"]) == (1e-3, {"x": "positive"}, ["s"])
    assert "One trip through memory" in record["documentation"]


def test_a_rule_is_shown_in_80_columns(one_rule: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is shown, with what was measured, in lines of at most 80 columns."""
    import targets.gains

    def gains(provider: str) -> dict[str, float]:
        return {"UseSwish": 1.5} if provider == "CPUExecutionProvider" else {}

    monkeypatch.setattr(targets.gains, "measured_gains", gains)
    text = ampc("rules", "UseSwish").out
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "before, form 1", "  %y: T[*S] = Mul(%x: T[*S], %s)", "before, form 2", "after", "T: bf16, f16, f32, f64",
        "may differ by 0.001", "x: positive", "The factor `alpha` is one.", "1.5 times faster on CPUExecutionProvider",
        "One trip through memory", "test_rules_command", "%s may have other users",
    ):  # fmt: skip
        assert words in text, words


def test_every_rule_can_be_shown() -> None:
    """No rule that there is breaks the page about it, and its forms are there as they were written."""
    for name, cls in manager.known_rules().items():
        record = describe_rule(name)
        assert len(record["before"]) == len({form.index for form in cls.forms})
        assert record["summary"], name
    widest = max(manager.known_rules().values(), key=lambda cls: len(str(cls.before)))
    assert max(map(len, ampc("rules", widest.name).out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("args", "what", "near"),
    [(["UseSwich"], "there is no rule 'UseSwich'", "UseSwish"), (["--stage", "rase"], "there is no stage", "raise")],
)
def test_wrong_names_are_the_users_mistake(one_rule: None, args: list[str], what: str, near: str) -> None:
    """A name that does not exist ends with exit code 2 and the nearest one, in words and in JSON."""
    done = ampc("rules", *args, code=2)
    assert what in done.err
    assert near in done.err
    assert near in ampc("rules", *args, "--json", code=2).json()["do"]


@pytest.mark.parametrize("words", ["ampc rules ", "ampc explain m.onnx --rule ", "ampc compile --disable "])
def test_the_shell_completes_rules(words: str) -> None:
    """Wherever a rule may be named, the shell completes its name."""
    name = next(iter(manager.known_rules()))
    given = {"_AMPC_COMPLETE": "bash_complete", "COMP_WORDS": words + name[:-1], "COMP_CWORD": str(words.count(" "))}
    assert f"plain,{name}" in process(env={**os.environ, **given}).stdout.split()

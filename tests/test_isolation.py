"""The child process that the other tests rely on: whatever happens in it is told, and the next call works."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.isolation import Child, ChildDied, Remote


@pytest.fixture
def child() -> Iterator[Child]:
    """A child whose process tree may keep 400 MiB."""
    child = Child(resident_limit=400 << 20)
    yield child
    child.close()


def fill_memory() -> None:
    """Take a gigabyte and hold it; runs in the child."""
    block = b"x" * (1 << 30)
    time.sleep(60)
    del block


def test_answers_and_exceptions_come_back(child: Child) -> None:
    """A value is returned; an exception is raised here, with its traceback, and the child lives on."""
    assert child.call("math:gcd", 12, 18) == 6
    with pytest.raises(Remote, match="TypeError"):
        child.call("math:gcd", "12")
    assert child.call("math:gcd", 4, 6) == 2


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("hang", ("time:sleep", 60)),
        ("crash", ("os:abort",)),
        ("crash", ("os:_exit", 0)),
        ("memory", ("tests.test_isolation:fill_memory",)),
    ],
)
def test_the_end_of_a_child_is_told(child: Child, kind: str, call: tuple[object, ...]) -> None:
    """A hang, a crash or too much memory is an exception of that kind, and the next call gets a new child."""
    with pytest.raises(ChildDied) as caught:
        child.call(*call, seconds=1.0 if kind == "hang" else 30.0)  # type: ignore[arg-type]  # a name comes first
    assert caught.value.kind == kind
    assert child.call("math:gcd", 12, 18) == 6

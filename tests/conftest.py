"""What all tests share: hypothesis profiles, options for the long runs, and a way to compile and compare.

CI and a plain ``pytest`` are repeatable: hypothesis draws the same examples each time and keeps no database.
``--hypothesis-profile=large`` draws many and new ones; ``--backend-suite=full`` runs every case of the ONNX
backend suite in every variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, settings

from tests.agreement import same_interface, same_outputs
from tests.hostile_case import default_feeds
from tests.isolation import Child

settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("large", settings.get_profile("ci"), derandomize=False, max_examples=1000)
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say how much of the ONNX backend suite runs, and that golden cases are written anew."""
    parser.addoption(
        "--backend-suite",
        choices=["sample", "full"],
        default="sample",
        help="sample: what fits into a few minutes (default); full: every case, in every variant",
    )
    parser.addoption("--bless", action="store_true", help="write anew what golden cases expect; read the difference")


@pytest.fixture(autouse=True)
def no_measurements(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let no test see what was measured on this machine or by another test, or add to it."""
    place = tmp_path_factory.getbasetemp() / "measured" / f"{abs(hash(request.node.nodeid))}.sqlite"
    monkeypatch.setattr("compiler.cost.database.default_path", lambda: place)


@pytest.fixture(scope="session")
def oracle() -> Iterator[Child]:
    """A child process that runs models on ONNX Runtime as they are; it may die without harm."""
    child = Child()
    yield child
    child.close()


Compiled = Callable[..., onnx.ModelProto]


@pytest.fixture
def compiled(oracle: Child) -> Compiled:
    """Compile a model, hold the result to its original, and return it.

    ``compiled(model, feeds, **options)``: the options go to ``compile_model``; inputs without a feed are
    drawn from their declared types.  Verification is off unless asked for: it is the passes that are tested.
    """

    def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> Any:
        return oracle.call("tests.hostile_runner:run", model.SerializeToString(), feeds)

    def compile_and_compare(
        model: onnx.ModelProto, feeds: dict[str, Any] | None = None, **options: Any
    ) -> onnx.ModelProto:
        from compiler import compile_model

        result = compile_model(model, **({"verify": False} | options)).model
        same_interface(model, result)
        given = default_feeds(model, feeds or {})
        same_outputs(run(model, given), run(result, given))
        return result

    return compile_and_compare

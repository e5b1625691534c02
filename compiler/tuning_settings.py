"""Which settings of the session to try: each a change that is kept only where it was measured to be faster.

Settings that change what is computed are not among them; what is kept is verified with the model, as it is deployed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from targets import Target

_BLOCKED = "optimization.disable_specified_optimizers"
"""The entry that keeps the runtime from putting convolutions into a blocked layout."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of settings to try."""

    title: str
    """What it is, for people."""
    session: Mapping[str, str | int | bool]
    """Fields of ``SessionOptions`` and config entries, as in a target's ``runtime.session``."""


def changes(target: Target, *, threads: int | None, cores: int, operators: Collection[str]) -> Iterator[Change]:
    """Yield what to try on a model, the likeliest to gain first.

    ``threads`` is the number that is asked for, ``None`` where it is open, ``cores`` how many physical cores there are,
    ``operators`` those that the model holds.
    """
    session = target.runtime.session
    if threads is None:
        for number in dict.fromkeys((1, cores // 2, cores)):
            if number >= 1 and session.get("intra_op_num_threads") != number:
                yield Change(f"{number} threads", {"intra_op_num_threads": number})
    if "Conv" in operators:
        yield Change("convolutions not in blocked layout", {_BLOCKED: "NchwcTransformer"})
        yield Change("no layout optimizations", {"graph_optimization_level": "ORT_ENABLE_EXTENDED"})
    if (threads or cores) > 1:
        yield Change("no spinning", {"session.intra_op.allow_spinning": "0"})
        yield Change("smaller blocks of work", {"session.dynamic_block_base": "4"})
        yield Change("branches in parallel", {"execution_mode": "ORT_PARALLEL", "inter_op_num_threads": 2})
    yield Change("no memory pattern", {"enable_mem_pattern": False})
    yield Change("no arena", {"enable_cpu_mem_arena": False})
    if session.get("session.set_denormal_as_zero", "0") != "1":
        yield Change("denormals are zero", {"session.set_denormal_as_zero": "1"})


def with_session(target: Target, session: Mapping[str, str | int | bool]) -> Target:
    """Return a target with other settings of the session over its own."""
    runtime = dataclasses.replace(target.runtime, session={**target.runtime.session, **session})
    return dataclasses.replace(target, runtime=runtime)
